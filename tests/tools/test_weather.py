"""`get_weather`: by its table, and over HTTP against a server on this machine."""

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from p2engine.errors import ConfigError
from p2engine.testing.doubles import ManualClock
from p2engine.tools.registry import Registry
from p2engine.tools.running import Runner
from p2engine.tools.weather import weather_tool
from tests.tools.tool_context import context

Answers = Callable[[web.Request], web.StreamResponse]


class Service:
    """A double of Open-Meteo over a real socket: it answers what it is told to, and keeps what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.places: Answers = lambda _: web.json_response({"results": [PARIS]})
        self.forecast: Answers = lambda _: web.json_response(NOW)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.path, dict(request.query)))
        return (self.places if request.path == "/v1/search" else self.forecast)(request)


PARIS = {"name": "Paris", "latitude": 48.85, "longitude": 2.35, "country": "France", "elevation": 42.0}
NOW = {"current": {"time": "2026-05-01T12:00", "temperature_2m": 12.5, "weather_code": 63}, "elevation": 38.0}


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    app = web.Application()
    app.router.add_get("/v1/{what}", service.answer)
    server = web.AppRunner(app)
    await server.setup()
    site = web.TCPSite(server, "127.0.0.1", 0)
    await site.start()
    service.url = "http://{}:{}".format(*server.addresses[0][:2])
    yield service
    await server.cleanup()


class Waits:
    """A double of `asyncio.sleep` that notes how long it was to take."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


async def ask(tool: Any, arguments: dict[str, Any], waits: Waits | None = None) -> tuple[str, Any]:
    """Status and content of one call; the content read, where it is JSON."""
    run = Runner(Registry([tool]), now=ManualClock().now, sleep=waits or Waits())
    outcome = await run("get_weather", arguments, context())
    is_json = outcome.content.startswith("{")
    return outcome.status, json.loads(outcome.content) if is_json else outcome.content


@pytest.mark.parametrize(
    ("location", "name", "celsius"),
    [
        ("Paris", "Paris", 22),
        ("tokyo", "Tokyo", 10),
        ("  SAN   francisco ", "San Francisco", 22),
        ("San Francisco, CA", "San Francisco", 22),
        ("newyork", "New York", 18),
        ("London", "London", 15),
        ("Oslo, Norway", "Oslo", 6),
    ],
)
async def test_the_table_knows_its_cities_however_they_are_written(location: str, name: str, celsius: int) -> None:
    """Case, spaces and the part after a comma do not matter; the report says that it is no live one."""
    status, report = await ask(weather_tool(), {"location": location})

    assert status == "ok"
    assert (report["location"], report["temperature"], report["unit"]) == (name, celsius, "celsius")
    assert report["source"] == "table (not live)"


@pytest.mark.parametrize("unit", ["fahrenheit", "F", "°F", "Fahrenheit"])
async def test_the_table_gives_fahrenheit(unit: str) -> None:
    """The unit is read as models write it."""
    assert (await ask(weather_tool(), {"location": "Tokyo", "unit": unit}))[1]["temperature"] == 50.0


async def test_an_unknown_city_is_an_error_that_lists_the_known() -> None:
    """The model reads which cities it may ask for."""
    status, report = await ask(weather_tool(), {"location": "Atlantis"})

    assert status == "error"
    assert "'Atlantis'" in report["error"]
    assert "London, New York, Oslo, Paris, San Francisco, Tokyo" in report["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "'location' is missing"),
        ({"location": ""}, "'location'"),
        ({"location": "x" * 121}, "'location'"),
        ({"location": "Paris", "unit": "kelvin"}, "'unit': input should be 'celsius' or 'fahrenheit'"),
        ({"city": "Paris"}, "'city' is no argument"),
    ],
)
async def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    """The model reads what to mend."""
    status, content = await ask(weather_tool(), arguments)

    assert status == "error"
    assert message in content


def test_the_contract_of_get_weather() -> None:
    """Name, arguments, default unit, repeat class and cache are what agents and configurations rely on."""
    spec = weather_tool().spec

    assert (spec.name, spec.repeat, spec.cache_ttl_s) == ("get_weather", "free", 300)
    assert list(spec.parameters["properties"]) == ["location", "unit"]
    assert spec.parameters["required"] == ["location"]
    assert spec.parameters["properties"]["unit"]["enum"] == ["celsius", "fahrenheit"]


def test_an_unknown_backend_is_refused() -> None:
    """A misspelt backend is named with those there are."""
    with pytest.raises(ConfigError, match="'openmeteo' is unknown; known: table, open-meteo"):
        weather_tool("openmeteo")


async def test_the_service_is_asked_for_the_place_and_then_the_weather(service: Service) -> None:
    """Place and unit go out as data; what comes back is reported with its source and time."""
    tool = weather_tool("open-meteo", geocoding=service.url, forecast=service.url)

    status, report = await ask(tool, {"location": "Paris & others?", "unit": "fahrenheit"})

    assert status == "ok"
    assert report == {
        "status": "success",
        "location": "Paris, France",
        "temperature": 12.5,
        "unit": "fahrenheit",
        "condition": "rain",
        "observed_at": "2026-05-01T12:00",
        "source": "open-meteo.com",
    }
    (search, place), (forecast, wanted) = service.asked
    assert (search, place["name"]) == ("/v1/search", "Paris & others?")
    assert (forecast, wanted["latitude"], wanted["longitude"]) == ("/v1/forecast", "48.85", "2.35")
    assert wanted["temperature_unit"] == "fahrenheit"


async def test_a_place_that_is_not_found_is_an_error(service: Service) -> None:
    """The service answers without results: the model is told, and no forecast is asked for."""
    service.places = lambda _: web.json_response({"generationtime_ms": 0.5})
    tool = weather_tool("open-meteo", geocoding=service.url, forecast=service.url)

    status, report = await ask(tool, {"location": "Atlantis"})

    assert (status, report["error"], len(service.asked)) == ("error", "no place is named 'Atlantis'", 1)


@pytest.mark.parametrize(
    ("answer", "message", "waited"),
    [
        (lambda: web.Response(status=503), "HTTP 503", [0.5, 1.0]),
        (lambda: web.Response(status=429, headers={"Retry-After": "4"}), "HTTP 429", [4, 4]),
        (lambda: web.Response(status=400), "HTTP 400", []),
        (lambda: web.Response(text="<html>"), "cannot be read", [0.5, 1.0]),
        (lambda: web.json_response({"results": [{"name": "x"}]}), "cannot be read", [0.5, 1.0]),
        (lambda: web.Response(text='"' + "x" * 300_000), "cannot be read", [0.5, 1.0]),
    ],
)
async def test_a_service_that_fails_is_an_error_in_bounded_time(
    service: Service, answer: Callable[[], web.StreamResponse], message: str, waited: list[float]
) -> None:
    """What may pass is tried again, twice; the model reads what happened."""
    service.places = lambda _: answer()
    waits = Waits()
    tool = weather_tool("open-meteo", geocoding=service.url, forecast=service.url)

    status, content = await ask(tool, {"location": "Paris"}, waits)

    assert status == "error"
    assert message in content
    assert waits.seconds == waited


async def test_a_service_that_is_not_there_is_an_error() -> None:
    """A refused connection is tried again and then told."""
    waits = Waits()
    tool = weather_tool("open-meteo", geocoding="http://127.0.0.1:1", forecast="http://127.0.0.1:1")

    status, content = await ask(tool, {"location": "Paris"}, waits)

    assert status == "error"
    assert "cannot be reached" in content
    assert waits.seconds == [0.5, 1.0]

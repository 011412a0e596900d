"""The tool `get_weather`: from a small table that says it is one, or from Open-Meteo over HTTP."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

import msgspec
from pydantic import BeforeValidator, Field

from p2engine.errors import ConfigError, ToolError
from p2engine.limits import NAME_BYTES_MAX
from p2engine.tools.function import FunctionTool, function_tool

if TYPE_CHECKING:
    import aiohttp

GEOCODING: Final = "https://geocoding-api.open-meteo.com"
FORECAST: Final = "https://api.open-meteo.com"
BACKENDS: Final = ("table", "open-meteo")

_CACHE_TTL_S: Final = 300.0
_REQUEST_TIMEOUT_S: Final = 10.0
_ANSWER_BYTES_MAX: Final = 256 * 1024  # of one answer of the service

T = TypeVar("T")
Report = dict[str, Any]
Source = Callable[[str, str], Awaitable[Report]]

_TABLE: Mapping[str, tuple[str, int, str]] = {
    "london": ("London", 15, "cloudy"),
    "newyork": ("New York", 18, "clear"),
    "oslo": ("Oslo", 6, "light rain"),
    "paris": ("Paris", 22, "sunny"),
    "sanfrancisco": ("San Francisco", 22, "sunny"),
    "tokyo": ("Tokyo", 10, "rain"),
}

# WMO code 4677, the groups that the service uses: the first number of each.
_CONDITIONS: Final = {
    0: "clear",
    1: "mostly clear",
    2: "partly cloudy",
    3: "overcast",
    45: "fog",
    51: "drizzle",
    61: "rain",
    71: "snow",
    80: "rain showers",
    85: "snow showers",
    95: "thunderstorm",
}


def _unit(value: object) -> object:
    """The units as models write them: `C`, `°F`, `Celsius`."""
    letter = str(value).strip().lstrip("°").lower()
    return {"c": "celsius", "f": "fahrenheit"}.get(letter, letter)


Location = Annotated[str, Field(min_length=1, max_length=NAME_BYTES_MAX, description="a city, such as Paris")]
Unit = Annotated[Literal["celsius", "fahrenheit"], BeforeValidator(_unit)]


def weather_tool(
    backend: str = "table", *, geocoding: str = GEOCODING, forecast: str = FORECAST
) -> FunctionTool[..., Any]:
    """`get_weather` by the backend `table` or `open-meteo`. Raises ConfigError for another.

    geocoding, forecast: where the service answers, without the path.
    """
    source: Source
    if backend == "table":
        source = table
    elif backend == "open-meteo":
        source = OpenMeteo(geocoding, forecast)
    else:
        raise ConfigError(f"weather backend {backend!r} is unknown; known: {', '.join(BACKENDS)}")

    @function_tool(side_effect_free=True, cache_ttl=_CACHE_TTL_S, timeout_s=3 * _REQUEST_TIMEOUT_S, retries=2)
    async def get_weather(location: Location, unit: Unit = "celsius") -> Report:
        """Get the current weather of a city."""
        return await source(location, unit)

    return get_weather


async def table(location: str, unit: str) -> Report:
    """The weather by a table that does not change."""
    found = _TABLE.get("".join(location.split(",")[0].split()).casefold())
    if found is None:
        known = ", ".join(sorted(name for name, _, _ in _TABLE.values()))
        return {
            "status": "error",
            "error": f"no weather for {location!r}; the table knows {known}",
            "source": "table (not live)",
        }
    name, celsius, condition = found
    temperature = celsius if unit == "celsius" else round(celsius * 9 / 5 + 32, 1)
    return {
        "status": "success",
        "location": name,
        "temperature": temperature,
        "unit": unit,
        "condition": condition,
        "source": "table (not live)",
    }


class _Place(msgspec.Struct):
    name: str
    latitude: float
    longitude: float
    country: str = ""


class _Places(msgspec.Struct):
    results: list[_Place] = []


class _Current(msgspec.Struct):
    temperature_2m: float
    weather_code: int = -1
    time: str = ""


class _Forecast(msgspec.Struct):
    current: _Current


class OpenMeteo:
    """The weather by the Open-Meteo service: the place of a name, then what it is like there now."""

    def __init__(self, geocoding: str, forecast: str) -> None:
        self._geocoding = geocoding.rstrip("/")
        self._forecast = forecast.rstrip("/")

    async def __call__(self, location: str, unit: str) -> Report:
        """The weather now. Raises ToolError when the service fails."""
        import aiohttp

        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_S)) as session:
            wanted = {"name": location, "count": "1", "language": "en", "format": "json"}
            places = await _ask(session, f"{self._geocoding}/v1/search", wanted, _Places)
            if not places.results:
                return {"status": "error", "error": f"no place is named {location!r}", "source": "open-meteo.com"}
            place = places.results[0]
            wanted = {
                "latitude": str(place.latitude),
                "longitude": str(place.longitude),
                "current": "temperature_2m,weather_code",
                "temperature_unit": unit,
            }
            now = (await _ask(session, f"{self._forecast}/v1/forecast", wanted, _Forecast)).current
        return {
            "status": "success",
            "location": f"{place.name}, {place.country}" if place.country else place.name,
            "temperature": now.temperature_2m,
            "unit": unit,
            "condition": _condition(now.weather_code),
            "observed_at": now.time,
            "source": "open-meteo.com",
        }


async def _ask(session: "aiohttp.ClientSession", url: str, wanted: Mapping[str, str], kind: type[T]) -> T:
    import aiohttp

    try:
        async with session.get(url, params=wanted) as answer:
            if answer.status != HTTPStatus.OK:
                raise _refusal(answer.status, answer.headers.get("Retry-After", ""))
            body = await answer.content.read(_ANSWER_BYTES_MAX)
            while not answer.content.at_eof() and len(body) < _ANSWER_BYTES_MAX:
                body += await answer.content.read(_ANSWER_BYTES_MAX - len(body))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ToolError(f"the weather service cannot be reached: {type(error).__name__}", retryable=True) from error
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise ToolError(f"the weather service answered what cannot be read: {error}", retryable=True) from error


def _refusal(status: int, retry_after: str) -> ToolError:
    return ToolError(
        f"the weather service answered HTTP {status}",
        retryable=status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS} or status >= 500,
        retry_after_s=float(retry_after) if retry_after.isdecimal() else None,
    )


def _condition(code: int) -> str:
    first = max((known for known in _CONDITIONS if known <= code), default=None)
    return "unknown" if first is None else _CONDITIONS[first]

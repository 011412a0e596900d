"""What every test starts from: an environment without settings or keys, and the tools that its marks ask for."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("p2engine.testing.contracts")

REQUIRE = "P2ENGINE_REQUIRE"  # the marks whose tests may not be skipped here: browser,redis,netns
SERVER = "P2ENGINE_TEST_REDIS"  # `redis`: tests start the redis-server on PATH, not the one of the wheel
SETTINGS_PREFIXES = (
    "ARTIFACT_",
    "DAML_",
    "DEDUP_",
    "LEDGER_",
    "LITELLM_",
    "LOG_",
    "OBS_",
    "OPENAI_",
    "P2ENGINE_",
    "REDIS_",
    "S3_",
    "WEATHER_",
    "WORKER_",
)
SETTINGS_ENDINGS = ("_API_KEY", "_API_BASE", "_API_TOKEN", "_AUTH_TOKEN")
SETTINGS_NAMES = ("CONFIG_FILE", "NO_COLOR", "FORCE_COLOR")

# A deadline would turn a busy machine into a failure.
_COMMON = settings(deadline=None, print_blob=True, derandomize=False, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", _COMMON, max_examples=100)
settings.register_profile("full", _COMMON, max_examples=2000)
settings.load_profile("quick")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--full`: the tests marked `full` too, and more examples for each property."""
    parser.addoption("--full", action="store_true", help="run the tests marked `full`, and more examples of the others")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Before any test module is read: no import and no wide fixture sees the settings of this machine either."""
    unknown = required() - set(TOOLS)
    if unknown:
        raise pytest.UsageError(f"{REQUIRE} names {', '.join(sorted(unknown))}; known: {', '.join(TOOLS)}")
    for name in [name for name in os.environ if is_setting(name)]:
        del os.environ[name]
    if config.getoption("--full"):
        settings.load_profile("full")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without `--full` the long tests are not even chosen."""
    if config.getoption("--full"):
        return
    long = [item for item in items if item.get_closest_marker("full")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("full")]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A mark whose tool is not here skips its test with the mend, or fails it where the tool is required."""
    for name in TOOLS:
        if item.get_closest_marker(name) and (mend := missing(name)) is not None:
            if name in required():
                pytest.fail(f"{mend} ({REQUIRE} names {name})", pytrace=False)
            pytest.skip(mend)


@pytest.fixture(autouse=True)
def clean_environment() -> Iterator[None]:
    """What a test does to the environment ends with the test."""
    before = dict(os.environ)
    yield
    for name in [name for name in os.environ if name not in before and name != "PYTEST_CURRENT_TEST"]:
        del os.environ[name]
    for name, value in before.items():
        if name != "PYTEST_CURRENT_TEST" and os.environ.get(name) != value:
            os.environ[name] = value


def is_setting(name: str) -> bool:
    """Whether an environment variable could change what the project does, or let it reach a real model."""
    if name in (REQUIRE, SERVER):
        return False
    return name in SETTINGS_NAMES or name.startswith(SETTINGS_PREFIXES) or name.endswith(SETTINGS_ENDINGS)


def required() -> set[str]:
    """The marks named in P2ENGINE_REQUIRE."""
    return {name.strip() for name in os.environ.get(REQUIRE, "").split(",") if name.strip()}


@cache
def missing(name: str) -> str | None:
    """Why the tests with this mark cannot run here, with what to install; None when they can."""
    programs, mend = TOOLS[name]
    if name == "netns" and (not sys.platform.startswith("linux") or os.geteuid() != 0):
        return "network namespaces need Linux and root"
    return None if any(shutil.which(program) for program in programs) else mend


TOOLS: dict[str, tuple[tuple[str, ...], str]] = {
    "browser": (("chromium", "chromium-browser", "google-chrome"), "no Chromium: apt-get install chromium"),
    "redis": (("redis-server", "valkey-server"), "no redis-server or valkey-server: apt-get install redis-server"),
    "netns": (("ip",), "no ip command: apt-get install iproute2"),
}

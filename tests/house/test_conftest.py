"""What tests/conftest.py promises every test, tried on tests of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = (Path(__file__).parents[1] / "conftest.py").read_text()
MARKED = '''
import os
import pytest

@pytest.mark.redis
def test_with_a_server():
    """Needs what is not there."""

@pytest.mark.full
def test_long():
    """Takes its time."""

def test_environment():
    """Sees no settings and no key."""
    assert [name for name in os.environ if name.startswith(("P2ENGINE_H", "OPENAI_", "MISTRAL_"))] == []
'''


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder of tests below the same conftest, on a machine with no tools at all."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(MARKED)
    pytester.makeini("[pytest]\nmarkers =\n    full\n    browser\n    redis\n    netns\n")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("P2ENGINE_REQUIRE", raising=False)
    return pytester


def test_a_missing_tool_skips_with_the_mend(inner: pytest.Pytester) -> None:
    """A test whose tool is not there is skipped with one line that says what to install."""
    done = inner.runpytest_subprocess("-rs", "-p", "no:randomly")
    done.assert_outcomes(passed=1, skipped=1, deselected=1)
    done.stdout.fnmatch_lines(["SKIPPED*: no redis-server or valkey-server: apt-get install redis-server"])


def test_a_required_tool_fails(inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the tool is required, the same test fails with the same line."""
    monkeypatch.setenv("P2ENGINE_REQUIRE", "browser,redis")
    done = inner.runpytest_subprocess("-p", "no:randomly")
    done.assert_outcomes(passed=1, errors=1, deselected=1)
    done.stdout.fnmatch_lines(["*apt-get install redis-server (P2ENGINE_REQUIRE names redis)"])


def test_an_unknown_requirement_is_refused(inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A requirement that names no tool is an error: it would require nothing."""
    monkeypatch.setenv("P2ENGINE_REQUIRE", "rediss")
    done = inner.runpytest_subprocess()
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*P2ENGINE_REQUIRE names rediss; known: browser, redis, netns"])


def test_long_tests_run_on_request(inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--full` runs what is marked so; the settings and keys of the caller reach no test, in workers neither."""
    for name in ("P2ENGINE_HOME", "OPENAI_API_KEY", "MISTRAL_API_KEY"):
        monkeypatch.setenv(name, "the caller's")
    done = inner.runpytest_subprocess("--full", "-n1", "-p", "no:randomly")
    done.assert_outcomes(passed=2, skipped=1)

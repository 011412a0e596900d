"""Personas: instructions from template files, filled in as data, read in a sandbox, and never outside their folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2engine.agents.personas import SHIPPED, Personas
from p2engine.domain.ids import AgentId
from p2engine.domain.messages import ToolSpec
from p2engine.errors import ConfigError
from p2engine.limits import CONFIG_FILE_BYTES_MAX

WEATHER = ToolSpec(name="get_weather", description="{{ 7 * 7 }} {% raw %} {# no #}")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for personas, and the working folder around it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "personas").mkdir()
    return tmp_path / "personas"


def render(folder: Path, text: str) -> str:
    """What a persona of this text says to agent `alpha`, which has one tool and one other agent to ask."""
    (folder / "one.j2").write_text(text)
    return Personas([folder]).get("one").render("alpha", [WEATHER], [AgentId("helper")])


def test_a_persona_is_filled_in(folder: Path) -> None:
    """Agent, tools and delegates are what a template sees; its first comment is not part of it."""
    text = (
        "{# tools: get_weather, delegate #}\nYou are {{ agent }}.\n{% for tool in tools %}\n- {{ tool.name }}\n"
        "{% endfor %}\nAsk {{ delegates | join(', ') }}.\n"
    )
    assert render(folder, text) == "You are alpha.\n- get_weather\nAsk helper."
    assert Personas([folder]).get("one").wants == ("get_weather", "delegate")


def test_failure_25_braces_in_what_is_filled_in_stay_text(folder: Path) -> None:
    """A tool's description that looks like a template is shown as it is written."""
    assert render(folder, "{% for tool in tools %}{{ tool.description }}{% endfor %}") == WEATHER.description


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ agent", ":1: template: unexpected end of template, expected 'end of print statement'."),
        ("a\n{% nonsense %}", ":2: template: Encountered unknown tag 'nonsense'."),
        ("a\nb {{ colour }}", ":2: template: 'colour' is undefined"),
        ("{{ agent.__class__.__mro__ }}", ":1: template: access to attribute '__class__' of 'str' object is unsafe."),
        ("{{ delegates.append('x') }}", ":1: template: access to attribute 'append' of 'list' object is unsafe."),
        ("\n{{ 1 / 0 }}", ":2: template: division by zero"),
        ("{% include '/etc/hostname' %}", ":1: template: no loader for this environment specified"),
        (
            "{% for i in range(99999) %}xxxxxxxxxxxx{% endfor %}",
            f":1: template: makes more than {CONFIG_FILE_BYTES_MAX} bytes",
        ),
        ("", ""),
    ],
)
def test_a_template_that_cannot_be_is_one_line(text: str, says: str, folder: Path) -> None:
    """Wrong syntax, unknown names, and what reaches out of the sandbox: one line with file and line."""
    if not says:
        assert render(folder, text) == ""
        return
    with pytest.raises(ConfigError) as raised:
        render(folder, text)
    assert str(raised.value) == f"personas/one.j2{says}"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a\0b", "", "x" * 10**7, "one/../one", "nobody"])
def test_failure_26_a_name_never_leaves_the_folder(name: str, folder: Path) -> None:
    """A name is a plain name of a file there, or no persona."""
    (folder.parent / "secret.j2").write_text("secret")
    (folder / "one.j2").write_text("one")
    with pytest.raises(ConfigError) as raised:
        Personas([folder]).get(name)
    assert raised.value.message.startswith("no persona ")
    assert len(raised.value.message) < 200


def test_a_projects_persona_comes_before_the_shipped_one(folder: Path) -> None:
    """The first folder that has a name wins; the others still add theirs."""
    (folder / "weather_expert.j2").write_text("ours")
    personas = Personas([folder, SHIPPED / "personas"])
    assert personas.get("weather_expert").render("alpha", [], []) == "ours"
    assert personas.names() == ["financial_expert", "weather_expert"]


def test_a_binary_or_huge_file_is_no_persona(folder: Path) -> None:
    """What is no small text file is said, like any other configuration file."""
    (folder / "binary.j2").write_bytes(b"\0\1")
    (folder / "huge.j2").write_bytes(b"x" * (CONFIG_FILE_BYTES_MAX + 1))
    (folder / "dir.j2").mkdir()
    for name, says in {"binary": "is a binary file", "huge": "is larger than", "dir": "is a folder"}.items():
        with pytest.raises(ConfigError, match=says):
            Personas([folder]).get(name)

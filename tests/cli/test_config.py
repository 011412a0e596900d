"""Showing and checking the configuration, and changing that of one conversation."""

from __future__ import annotations

import pytest

from p2engine.testing.server import OpenAIServer, echo
from tests.cli.project import AGENTS, Project, Run
from tests.cli.scenes import EVIL, PARIS, keeper, say

# show and check


def test_every_setting_is_shown_with_where_it_came_from(project: Project, here: Run) -> None:
    """Defaults, the file with its line, the environment; a key is set or not, and never shown."""
    project.configure(llm={"offline": "never"})
    done = project.run("config", "show", "--json", env={"OPENAI_API_KEY": "sk-secret-123456", "DEDUP_POLICY": "strict"})

    rows = {row["key"]: row for row in done.document["settings"]}
    assert rows["llm.offline"] == {"key": "llm.offline", "value": "never", "source": "config/config.json:1"}
    assert rows["dedup"]["value"] == "strict"
    assert "DEDUP_POLICY" in rows["dedup"]["source"]
    assert rows["store"]["source"] == "default"
    assert done.document["providers"] == [{"provider": "openai", "key": True, "api_base": None}]
    assert "sk-secret" not in done.out + done.err
    assert "llm.offline" in here("config", "show").out


def test_every_name_that_means_nothing_is_named(project: Project, here: Run) -> None:
    """Agents, tools, personas, types and names that are there twice: all of them, not only the first of each."""
    listed = """\
agents:
  - id: one
    tools: [get_wether, delegate, nosuch]
    delegates_to: [tow, three, nobody]
  - id: two
    behavior_template: weather_exprt
    delegates_to: [four, onee]
  - id: two
  - id: "bad name"
    temperature: hot
  - id: "worse/name"
  - id: four
    type: ruel
  - id: three
    type: rule
    rules: [{match: a, tool: x}, {match: b, delegate: one}]
"""
    project.write("config/agents.yml", listed)

    done = here("config", "check", "--json")

    said = "\n".join(f"{each['line']}: {each['message']}" for each in done.document["problems"])
    wanted = ["get_wether", "nosuch", "tow", "nobody", "weather_exprt", "onee", "'two' is there already", "bad name"]
    wanted += ["temperature", "worse/name", "ruel", "'x' is not among", "may not delegate to 'one'"]
    assert [name for name in wanted if name not in said] == []
    assert [line for line in said.splitlines() if "no agent 'three'" in line or "no agent 'four'" in line] == []
    assert len(said.splitlines()) == len(wanted)


def test_a_sound_project_has_no_problems(project: Project, here: Run) -> None:
    """What was looked at is named, exit 0."""
    keeper(project)
    project.configure(llm={"offline": "auto"})
    done = here("config", "check")
    assert done.status == 0
    assert done.out.splitlines()[-1] == "no problems; looked at config/config.json, tools/pay.py, config/agents.yml"


def test_failure_27_every_problem_is_named_with_its_file_and_line(project: Project, here: Run) -> None:
    """Two in config.json, two in agents.yml, a persona and a tool: all at once, one line each, exit 2."""
    project.write("config/config.json", '{\n  "mode": "test",\n  "lmm": {},\n  "blobs": "s3"\n}\n')
    project.write("config/agents.yml", AGENTS.replace("tools: [get_weather]", "tols: [x]\n    temperature: hot"))
    project.write("templates/personas/broken.j2", "fine\n{{ nobody }\n")
    project.write("tools/bad.py", "x = 1\ndef f(:\n")

    done = here("config", "check", "--json")

    assert done.status == 2
    problems = [(each["file"], each["line"], each["message"]) for each in done.document["problems"]]
    assert ("config/config.json", 2, "mode: expected development or production, not 'test'") in problems
    assert any(
        file == "config/config.json" and line == 3 and "'lmm' (did you mean llm?)" in text
        for file, line, text in problems
    )
    assert any("not available in this version: blobs: s3" in text for *_, text in problems)
    assert any(file == "config/agents.yml" and "'tols' (did you mean tools?)" in text for file, _, text in problems)
    assert any(file == "config/agents.yml" and "temperature" in text for file, _, text in problems)
    assert any(file == "templates/personas/broken.j2" and line == 2 for file, line, _ in problems)
    assert any(file == "tools/bad.py" and line == 2 for file, line, _ in problems)
    assert len(problems) == len(set(problems)) == 7


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config/config.json", b"", "is empty"),
        ("config/config.json", b"{", "not JSON"),
        ("config/config.json", b"\x00\x01", "is a binary file"),
        ("config/agents.yml", b"", "is empty"),
        ("config/agents.yml", b"agents: [", "not YAML"),
        ("config/agents.yml", b"agents:\n  - id: a\n  - id: a\n", "is there already"),
        ("config/agents.yml", b"agents:\n  - id: a\n    tools: [fly]\n", "no tool 'fly'"),
        ("config/agents.yml", b"agents:\n  - id: a\n    behavior_template: none\n", "no persona 'none'"),
        ("config/agents.yml", b"agents:\n  - id: a\n    type: human\n", "not available in this version: type: human"),
        ("config/agents.yml", b"agents:\n  - id: a\n    wallet: 7\n", "expected true, false or {initial: AMOUNT}"),
        (".env", b"OPENAI_API_KEY\n", "expected NAME=VALUE"),
    ],
)
def test_failure_27_a_broken_file_is_one_line(
    file: str, content: bytes, said: str, project: Project, here: Run
) -> None:
    """Whatever is wrong with a file is one line that names it, exit 2, and no traceback."""
    project.write(file, "").write_bytes(content)
    done = here("config", "check")
    assert done.status == 2
    line = next(line for line in done.out.splitlines() if said in line)
    assert file in line
    assert done.err == ""


def test_a_folder_where_a_file_should_be(project: Project, here: Run) -> None:
    """A directory in the place of a file is named as one."""
    (project.folder / "config/config.json").mkdir()
    done = here("config", "check")
    assert done.status == 2
    assert "config/config.json: is a folder, not a file" in done.out


def test_warnings_are_no_problems(project: Project, here: Run) -> None:
    """A persona that wants a tool its agent lacks is a warning that names both, exit 0."""
    project.write("config/agents.yml", "agents:\n  - id: a\n    behavior_template: weather_expert\n")
    done = here("config", "check", "--json")
    assert done.status == 0
    assert done.document["ok"] is True
    assert any("get_weather" in warning and "weather_expert" in warning for warning in done.document["warnings"])


def test_no_project_code_runs_none(project: Project, here: Run) -> None:
    """With --no-project-code a check imports nothing of tools/."""
    project.write("tools/loud.py", "from pathlib import Path\nPath('ran').write_text('')\n")
    assert here("config", "check", "--no-project-code").status == 0
    assert not (project.folder / "ran").exists()
    here("config", "check")
    assert (project.folder / "ran").exists()


def test_without_project_code_its_tools_are_withheld(project: Project, here: Run) -> None:
    """What an agent lists and nobody loads is no error then: its model does not get it, and is told of with why."""
    project.write("config/agents.yml", "agents:\n  - id: a\n    tools: [get_weather, pay]\n")
    project.write("tools/pay.py", "from p2engine import function_tool\n\n@function_tool\ndef pay() -> str: return ''\n")
    assert here("config", "check", "--no-project-code").status == 0
    (row,) = here("agent", "list", "--no-project-code", "--json").document
    assert (row["tools"], row["withheld"]) == (["get_weather"], {"pay": "the project's own tools are not loaded"})
    (row,) = here("agent", "list", "--json").document
    assert (row["tools"], row["withheld"]) == (["get_weather", "pay"], {})


# One conversation


def test_failure_30_overrides_take_effect_on_the_next_step(project: Project, here: Run) -> None:
    """set-behavior, set-tools and set-override change what the very next request says."""
    with OpenAIServer(echo) as server:
        project.configure(llm={"api_base": server.base_url})
        say(here, "demo", "one", agent="agent_alpha")
        here("config", "set-behavior", "demo", "weather_expert")
        here("config", "set-tools", "demo", "get_weather")
        here(
            "config",
            "set-override",
            "demo",
            "temperature=0.2",
            "top_p=0.5",
            "max_tokens=77",
            "model=openai/gpt-4o-mini",
        )
        say(here, "demo", "two", agent="agent_alpha")
        first, second = (request.body for request in server.requests)

    assert [tool["function"]["name"] for tool in first["tools"]] == ["get_weather", "delegate", "check_balance"]
    assert [tool["function"]["name"] for tool in second["tools"]] == ["get_weather"]
    assert "weather" in second["messages"][0]["content"]
    assert second["messages"][0] != first["messages"][0]
    assert (second["temperature"], second["top_p"], second["model"]) == (0.2, 0.5, "gpt-4o-mini")
    assert 77 in (second.get("max_tokens"), second.get("max_completion_tokens"))


def test_overrides_are_listed_with_their_entry(here: Run) -> None:
    """Which key, which value, locked or not, and the entry that set it."""
    say(here, "demo", PARIS, agent="agent_alpha")
    here("config", "set-override", "demo", "temperature=0.2")
    here("config", "set-tools", "demo", "get_weather, delegate", "--lock")

    rows = {row["key"]: row for row in here("config", "show-overrides", "demo", "--json").document}

    assert (rows["temperature"]["value"], rows["temperature"]["locked"], rows["temperature"]["index"]) == (
        0.2,
        False,
        9,
    )
    assert (rows["tools"]["value"], rows["tools"]["locked"], rows["tools"]["index"]) == (
        ["get_weather", "delegate"],
        True,
        10,
    )


def test_a_conversation_without_overrides_has_an_empty_list(here: Run) -> None:
    """Nothing overridden is no error."""
    say(here, "demo", PARIS, agent="agent_alpha")
    assert here("config", "show-overrides", "demo", "--json").document == []
    assert here("config", "show-overrides", "demo").err == "no overrides on demo\n"


def test_a_locked_key_needs_a_lock_to_change(here: Run) -> None:
    """Without --lock it is refused and stays; with it, it changes."""
    say(here, "demo", PARIS, agent="agent_alpha")
    here("config", "set-override", "demo", "temperature=0.2", "--lock")

    refused = here("config", "set-override", "demo", "temperature=0.9")
    kept = here("config", "show-overrides", "demo", "--json").document[0]["value"]
    changed = here("config", "set-override", "demo", "temperature=0.9", "--lock")

    assert (refused.status, kept, changed.status) == (2, 0.2, 0)
    assert "--lock" in refused.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("set-override", "demo", "temprature=1"), "did you mean temperature?"),
        (("set-override", "demo", "temperature"), "expected KEY=VALUE"),
        (("set-override", "demo", "temperature=hot"), "temperature"),
        (("set-override", "demo", "temperature=9"), "temperature"),
        (("set-override", "demo", "top_p=0.1", "top_p=0.2"), "given twice"),
        (("set-override", "demo", "=1"), "expected KEY=VALUE"),
        (("set-tools", "demo", "get_weather,fly"), "no tool 'fly'"),
        (("set-behavior", "demo", "pirate"), "no persona 'pirate'"),
        (("set-behavior", "nix", "weather_expert"), "no conversation 'nix'"),
        (("set-behavior", "demo", EVIL), "no persona"),
    ],
)
def test_a_wrong_override_changes_nothing(words: tuple[str, ...], said: str, here: Run) -> None:
    """An unknown key, value, tool or persona is refused, exit 2, and the stack does not grow."""
    say(here, "demo", PARIS, agent="agent_alpha")
    done = here("config", *words)
    assert done.status == 2
    assert said in done.err
    assert "\x1b" not in done.err
    assert here("conversation", "show", "demo", "--json").document["entries"] == 9


def test_a_persona_that_wants_more_tools_is_a_warning(here: Run) -> None:
    """The tools a persona speaks of are not added; both are named."""
    say(here, "demo", PARIS, agent="agent_alpha")
    here("config", "set-tools", "demo", "delegate")
    done = here("config", "set-behavior", "demo", "weather_expert")
    assert done.status == 0
    assert "persona weather_expert wants the tools get_weather" in done.err


def test_tools_are_listed_with_their_source_or_why_they_are_withheld(
    project: Project, here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the project, those built in, and the known ones that are kept from models."""
    monkeypatch.setenv("LEDGER_ENABLED", "false")
    keeper(project)
    rows = {row["name"]: row for row in here("config", "show-tools", "--json").document}

    assert rows["pay"]["repeat"] == "never"
    assert rows["pay"]["source"].endswith("tools/pay.py:6")
    assert rows["get_weather"]["repeat"] == "free"
    assert rows["get_weather"]["withheld"] is None
    assert rows["transfer_funds"]["source"] is None
    assert "ledger" in rows["transfer_funds"]["withheld"]
    assert "pay" in here("config", "show-tools").out

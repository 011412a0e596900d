"""A starter project: what is written, what is left alone, and that it works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2engine.agents.personas import SHIPPED
from p2engine.cli.starter import EXAMPLE_MESSAGE
from tests.cli.project import Project, Run
from tests.cli.scenes import PARIS

ROOT = Path(__file__).parents[2]
FILES = {
    ".env.example",
    ".gitignore",
    "config/agents.yml",
    "config/config.json",
    "templates/personas/financial_expert.j2",
    "templates/personas/weather_expert.j2",
    "tools/count_words.py",
}


def test_a_starter_project_is_sound_and_answers(project: Project, here: Run) -> None:
    """It passes its own check without a warning, loads its tool, and an agent answers."""
    done = here("init", "new project", "--json")
    folder = project.folder / "new project"

    assert (done.status, set(done.document["written"]), done.document["kept"]) == (0, FILES, [])
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == FILES
    checked = here("config", "check", "--project", str(folder), "--json").document
    assert (checked["problems"], checked["warnings"]) == ([], [])
    message = EXAMPLE_MESSAGE  # as `init` says in its last line
    called = here("chat", "with", "agent_alpha", "-m", message, "--project", str(folder))
    assert '→ count_words(text="one two three")' in called.err
    assert "words: 3" in called.out
    assert "22" in here("chat", "with", "agent_alpha", "-m", PARIS, "--project", str(folder)).out


def test_files_that_are_there_are_left_alone_and_named(project: Project, here: Run) -> None:
    """What somebody wrote stays as it is; the rest is added."""
    before = (project.folder / "config/agents.yml").read_text()

    done = here("init")

    assert (project.folder / "config/agents.yml").read_text() == before
    assert "kept   config/agents.yml (it was there already)" in done.out
    assert "wrote  config/config.json" in done.out
    assert here("init", "--json").document["written"] == []


def test_the_environment_example_is_the_repositorys() -> None:
    """What `init` writes as .env.example and what the repository ships are the same text."""
    from p2engine.cli.starter import env_example

    assert env_example() == (ROOT / ".env.example").read_text()


def test_the_shipped_configuration_says_what_the_defaults_say() -> None:
    """config.json of a starter project changes nothing: it shows the keys that people look for first."""
    from p2engine.configuration import Configuration

    written = json.loads((SHIPPED / "config.json").read_text())
    assert Configuration.model_validate(written).model_dump() == Configuration().model_dump()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--template", "rollout"), "not available in this version: init --template rollout"),
        (("--template", "payments"), "not available in this version: init --template payments"),
        (("--template", "nix"), "no template 'nix'"),
        (("config/agents.yml",), "is a file, not a folder"),
    ],
)
def test_what_cannot_be_written_is_refused(words: tuple[str, ...], said: str, project: Project, here: Run) -> None:
    """Templates of later versions by name, unknown ones, and a file in the way: exit 2, nothing written."""
    done = here("init", *words)
    assert done.status == 2
    assert said in done.err
    assert not (project.folder / ".gitignore").exists()

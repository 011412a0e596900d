"""What is generated or kept twice is what it should be: `.env.example`, the tables, the shipped configuration."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from p2engine.agents.personas import SHIPPED
from p2engine.settings import Settings
from tests.config.roster_parts import Project

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """The script that writes what is generated."""
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "scripts" / "generate_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_files_are_up_to_date(generator: ModuleType) -> None:
    """Nothing generated differs from what the code says now; `python scripts/generate_docs.py` mends it."""
    stale = [path.name for path, text in generator.generated() if path.read_text(encoding="utf-8") != text]
    assert stale == []


def test_every_table_stands_in_a_page(generator: ModuleType) -> None:
    """No table is generated for nobody, and `.env.example` is among what is generated."""
    pages = {path.name: path.read_text(encoding="utf-8") for path, _ in generator.generated()}
    asked = {name for text in pages.values() for name in re.findall(r"<!-- generated: ([\w-]+) -->", text)}
    assert asked == set(generator.BLOCKS)
    assert ".env.example" in pages


def test_the_example_environment_is_the_defaults(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is, `.env.example` changes nothing; with every line switched on it still loads, and says the defaults."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.json").write_text("{}")
    before = Settings.load()
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    (tmp_path / ".env").write_text(example)
    assert Settings.load() == before
    switched_on = re.sub(r"^# ([A-Z0-9_]+=)", r"\1", example, flags=re.MULTILINE)
    (tmp_path / ".env").write_text(switched_on)
    after = Settings.load()
    same: dict[str, object] = {"sources": {}, "api_bases": {}}
    assert after.model_copy(update=same) == before.model_copy(update=same)
    assert after.notes == []


@pytest.mark.parametrize(
    ("shipped", "own"),
    [
        ("agents.yml", "config/agents.yml"),
        ("config.json", "config/config.json"),
        ("personas/weather_expert.j2", "templates/personas/weather_expert.j2"),
        ("personas/financial_expert.j2", "templates/personas/financial_expert.j2"),
    ],
)
def test_what_ships_is_what_the_repository_has(shipped: str, own: str) -> None:
    """The repository is itself a project, and a new one starts with the same files."""
    assert (SHIPPED / shipped).read_text(encoding="utf-8") == (ROOT / own).read_text(encoding="utf-8")


def test_the_shipped_agents_are_those_that_are_promised(tmp_path: Path) -> None:
    """Five agents with their tools; the ledger's are withheld, and no persona lacks one."""
    roster = Project(tmp_path).roster()
    rows = {str(agent): roster.describe(agent) for agent in roster.agents()}
    assert list(rows) == ["agent_alpha", "agent_beta", "agent_helper", "treasurer", "child"]
    assert rows["agent_alpha"].tools == ("get_weather", "delegate")
    assert set(rows["agent_alpha"].withheld) == {
        "check_balance",
        "transfer_funds",
        "transaction_history",
        "reward_agent",
    }
    assert rows["agent_helper"].tools == ("get_weather",)
    assert set(rows["agent_helper"].withheld) == {"check_balance", "transaction_history"}
    assert {row.model for row in rows.values()} == {"openai/gpt-4o"}
    assert roster.notes == []


def test_the_repositorys_own_settings_load_in_silence() -> None:
    """The configuration in the repository is right and raises no note."""
    settings = Settings.load(project=ROOT, environ={})
    assert (settings.store, settings.dispatch, settings.llm.offline) == ("sqlite", "inline", "auto")
    assert settings.project == ROOT

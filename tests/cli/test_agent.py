"""The agents as the command line shows them."""

from __future__ import annotations

import pytest

from tests.cli.project import Project, Run
from tests.cli.scenes import keeper


def test_agents_are_listed_with_source_model_and_tools(here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the file; a withheld tool is named with its reason, and the stand-in is said."""
    monkeypatch.setenv("LEDGER_ENABLED", "false")
    rows = here("agent", "list", "--json").document

    assert [row["id"] for row in rows] == ["agent_alpha", "agent_helper"]
    alpha = rows[0]
    assert alpha["source"] == "config/agents.yml:2"
    assert (alpha["model"], alpha["offline"]) == ("openai/gpt-4o", True)
    assert alpha["tools"] == ["get_weather", "delegate"]
    assert "ledger" in alpha["withheld"]["check_balance"]
    printed = here("agent", "list").out
    assert "openai/gpt-4o (offline stand-in)" in printed
    assert "get_weather, delegate, check_balance*" in printed
    assert printed.splitlines()[-1] == "* withheld: the ledger is off (ledger.enabled)"


def test_an_agent_is_shown_whole(project: Project, here: Run) -> None:
    """Source, type, tools, whom it may ask, budget."""
    keeper(project)
    row = here("agent", "show", "keeper", "--json").document
    assert (row["type"], row["delegates"], row["problem"]) == ("rule", ["agent_helper"], None)
    assert row["model"] is None
    assert set(row["budget"]) >= {"steps", "tokens", "usd", "seconds"}
    printed = here("agent", "show", "keeper").out
    assert "config/agents.yml:" in printed
    assert "save_artifact, pay, delegate" in printed


def test_an_unknown_agent_is_answered_with_the_nearest(here: Run) -> None:
    """Exit 2, and what was probably meant."""
    done = here("agent", "show", "agent_alhpa")
    assert done.status == 2
    assert "did you mean agent_alpha?" in done.err


def test_a_project_without_a_file_has_the_shipped_agents(project: Project, here: Run) -> None:
    """Nothing in the folder: the five agents that come with the package."""
    (project.folder / "config/agents.yml").unlink()
    rows = here("agent", "list", "--json").document
    assert [row["id"] for row in rows] == ["agent_alpha", "agent_beta", "agent_helper", "treasurer", "child"]

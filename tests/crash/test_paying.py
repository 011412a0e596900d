"""A payment and its result are one fact by their id, wherever the process between ledger and log is killed."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from p2engine.cli.main import execute
from tests.cli.project import Project
from tests.crash.nursery import ROOT
from tests.crash.spender import PLACES, TASK

AGENTS = """\
agents:
  - {id: agent_alpha, llm_model: openai/gpt-4o, tools: [transfer_funds]}
  - {id: agent_beta, llm_model: openai/gpt-4o}
"""


@pytest.mark.parametrize("place", PLACES)
def test_a_payment_is_made_once_and_told_once(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed around it, the next process ends the turn: paid once, one result, one event, and the reason for it."""

    def told(*words: str) -> Any:
        capsys.readouterr()
        assert execute((*words, "--json")) == 0
        return json.loads(capsys.readouterr().out.split("\n{", 1)[0])

    project = Project(tmp_path)
    project.write("config/agents.yml", AGENTS)
    monkeypatch.chdir(project.folder)
    told("ledger", "init")
    words = (sys.executable, "-m", "tests.crash.spender", str(tmp_path), place)
    assert subprocess.run(words, cwd=ROOT, env=project.environment(), check=False).returncode == -signal.SIGKILL

    told("chat", "resume", "paying", "-m", "Show what you can do")
    balances = {row["agent"]: row["balance"] for row in told("ledger", "overview")}
    assert balances == {"agent_alpha": "75.0", "agent_beta": "125.0"}
    stack = told("conversation", "stack", "paying")
    results = [json.loads(entry["body"]["content"]) for entry in stack if entry["state"] == "ToolResult"]
    assert [result["balance"] for result in results] == ["75.0"]
    shown = told("artifact", "show", "paying", "--kind", "ledger")
    assert [event["kind"] for event in shown] == ["ledger.transfer"]
    assert told("artifact", "why", results[0]["id"])[-1]["summary"] == TASK
    assert told("ledger", "verify")["sound"]

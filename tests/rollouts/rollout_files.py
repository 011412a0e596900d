"""A folder with a rollout file in it, and a project as the reader sees one: who may be named."""

from __future__ import annotations

from pathlib import Path

from p2engine.domain.evaluation import Evaluation
from p2engine.errors import UsageError
from p2engine.rollouts.reading import Known, read_rollout
from p2engine.rollouts.spec import Spec

EVALUATORS = {"gpt4_judge", "contains", "equals", "regex", "numeric", "tool_called", "ledger_received", "balance"}
EVALUATORS |= {"json_schema", "tool_not_called", "no_error", "max_steps", "python"}
AGENTS = dict.fromkeys(("agent_alpha", "agent_beta", "agent_helper", "treasurer", "child"), "llm") | {"clerk": "rule"}
TOOLS = ("get_weather", "delegate", "check_balance", "transfer_funds", "transaction_history", "reward_agent")


def check_evaluator(evaluation: Evaluation) -> None:
    """Stands where the registry of evaluators stands."""
    if evaluation.evaluator not in EVALUATORS:
        raise UsageError(f"no evaluator {evaluation.evaluator!r}")
    if evaluation.version not in ("", "1"):
        raise UsageError(f"no version {evaluation.version!r} of {evaluation.evaluator}")


KNOWN = Known(
    agents=AGENTS,
    tools=TOOLS,
    check_evaluator=check_evaluator,
    models=(),
    personas=("weather_expert", "financial_expert"),
    rubrics=("joke_quality", "weather_quality"),
)


def read(folder: Path, text: str, known: Known = KNOWN) -> Spec:
    """The rollout of a file in `folder` with that text."""
    path = folder / "jokes.yml"
    path.write_text(text)
    return read_rollout(path, known)


def team(*lines: str, **more: str) -> str:
    """A rollout of one good team `t`, with lines of YAML added to it. more: keys of the file."""
    head = "".join(f"{key}: {value}\n" for key, value in more.items())
    given = {line.split(":")[0] for line in lines}
    good = {"initial_message": "Hello", "base": "{agent_id: agent_alpha}", "variants": "[{temperature: 0.3}]"}
    body = [f"{key}: {value}" for key, value in good.items() if key not in given]
    return f"{head}teams:\n  t:\n" + "".join(f"    {line}\n" for line in (*body, *lines))

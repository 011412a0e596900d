"""The rollout files of the repository: each reads, each compares what it says, and the stand-in can follow each."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2engine.agents.listing import read_listing
from p2engine.agents.patterns import compile_pattern
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId
from p2engine.evals.answers import answer_checks
from p2engine.evals.conduct import conduct_checks
from p2engine.models.offline_steps import plan as steps
from p2engine.rollouts.earlier import Result, told
from p2engine.rollouts.plan import plan
from p2engine.rollouts.reading import read_rollout
from p2engine.rollouts.spec import Spec
from p2engine.rollouts.templates import trial_evaluations, trial_message
from tests.rollouts.rollout_files import KNOWN

CONFIG = Path(__file__).parents[2] / "config"
SHIPPED = {
    "demo_rollout": 12,
    "example_rollout": 12,
    "rollout_joke": 24,
    "rollout_task_with_payment": 8,
    "rollout_competitive_payment": 9,
    "rollout_hierarchical_distribution": 6,
    "rollout_ledger_demo": 6,
}


def shipped(name: str) -> Spec:
    agents = {str(each): one.entry.type for each, one in read_listing(CONFIG / "agents.yml", {"llm"}).agents.items()}
    return read_rollout(CONFIG / f"{name}.yml", KNOWN._replace(agents=agents, check_evaluator=check))


def check(evaluation: Evaluation) -> None:
    """Raises UsageError where a check of the repository cannot check by these params; the judge is not asked."""
    checks = {each.id: each for each in (*answer_checks(compile_pattern, lambda _: str), *conduct_checks())}
    if evaluation.evaluator != "gpt4_judge":
        checks[evaluation.evaluator].check_params(evaluation.params)


def test_every_rollout_file_of_the_repository_is_known_here() -> None:
    """The files in config/ are those that the seeds name."""
    assert sorted(SHIPPED) == sorted(path.stem for path in CONFIG.glob("*rollout*.yml"))


@pytest.mark.parametrize(("name", "trials"), SHIPPED.items(), ids=SHIPPED)
def test_a_shipped_file_has_a_judge_checks_and_a_budget(name: str, trials: int) -> None:
    """Deterministic checks stand beside the judge, each arm is sampled more than once, and the money is bounded."""
    spec = shipped(name)
    assert len(plan(spec)) == trials
    assert spec.budget.usd is not None
    assert spec.teams[0].evaluations[0].evaluator == "gpt4_judge"
    assert spec.teams[0].trials_each() > 1
    for team in spec.teams:
        assert "no_error" in [each.evaluator for each in team.evaluations]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_stand_in_can_follow_every_message(name: str) -> None:
    """Offline, no trial of a shipped file asks for something that the stand-in does not understand."""
    winner = Result(variant="alpha", number=1, agent=AgentId("agent_alpha"), scores={"contains": 1.0})
    for teams in (told({"contenders": [winner]}), told({"contenders": []})):
        for trial in plan(shipped(name)):
            assert [step for step in steps(trial_message(trial, teams)) if step.kind in ("unclear", "who")] == []


@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_file_varies_two_things_at_once(name: str) -> None:
    """Between any two variants of a team, or along the steps of a full grid, one thing differs at a time."""
    for team in shipped(name).teams:
        seen = [{**each.changes, "agent": each.agent, "message": each.message} for each in team.variants]
        values = {key: {repr(each.get(key)) for each in seen} for key in {key for each in seen for key in each}}
        varied = {key: found for key, found in values.items() if len(found) > 1}
        size = 1
        for found in varied.values():
            size *= len(found)
        crossed = size == len(seen)  # every combination is there
        routed = set(varied) == {"agent", "message"}  # one order, asked directly or through another agent
        assert crossed or routed


def test_the_checks_of_a_task_are_filled_in() -> None:
    """A check sees what its own task expects."""
    team = shipped("rollout_joke").teams[0]
    values = [trial_evaluations(team, task)[1].params["value"] for task in team.tasks]
    assert values == ["ISS", "submarine", "lighthouse"]

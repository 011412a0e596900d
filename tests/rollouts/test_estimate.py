"""What a rollout will take: money by tokens and prices or by what it did cost, and what it can find."""

from __future__ import annotations

import pytest

from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId
from p2engine.domain.setup import Spent
from p2engine.rollouts import estimate
from p2engine.rollouts.estimate import Cost, Prompt, arm_estimate, detectable, whole
from p2engine.rollouts.plan import plan
from p2engine.rollouts.power import SCORE_SD, difference_sd, minimum_detectable_difference
from p2engine.rollouts.spec import Spec, Task, Team, Trial, Variant

DOLLARS = {"openai/dear": (0.01, 0.1), "openai/cheap": (0.001, 0.01)}
JUDGED = Evaluation(evaluator="gpt4_judge", params={"rubric": "Is it right?", "model": "openai/cheap"})
DEAR = Prompt(model="openai/dear", tokens=1000)


def price(model: str, tokens_in: int, tokens_out: int) -> float | None:
    """A thousandth of a price list: dollars by token in and out."""
    if model not in DOLLARS:
        return None
    asked, said = DOLLARS[model]
    return tokens_in * asked + tokens_out * said


def judge_of(evaluation: Evaluation) -> str | None:
    return evaluation.params.get("model")


def variant(name: str = "a", **changes: object) -> Variant:
    return Variant(id=name, agent=AgentId("agent"), message="Four bytes a token", changes=dict(changes))


def team(*variants: Variant, **more: object) -> Team:
    return Team(id="t", variants=variants or (variant(),), **more)  # type: ignore[arg-type]


def trials(of: Team) -> tuple[Trial, ...]:
    return plan(Spec(name="", teams=(of,)))


def estimated(of: Team, prompt: Prompt = DEAR, earlier: tuple[Spent, ...] = ()) -> estimate.ArmEstimate:
    return arm_estimate(of, of.variants[0], trials(of), prompt, judge_of, price, earlier)


def test_an_agent_without_tools_is_asked_once_a_trial() -> None:
    """Prompt and message go in, a reply comes out, by the price of its model, as often as there are trials."""
    found = estimated(team(repeats=3))
    one = 1000 + len("Four bytes a token") // 4
    assert (found.agents.tokens_in, found.agents.tokens_out, found.agents.unpriced) == (3 * one, 900, ())
    assert found.agents.usd == pytest.approx(3 * (one * 0.01 + 300 * 0.1))
    assert found.judges == Cost()
    assert found.measured == 0


def test_an_agent_with_tools_is_asked_again_with_all_that_came_before() -> None:
    """Three calls of a model, each longer than the last."""
    once = estimated(team()).agents
    thrice = estimated(team(), Prompt(model="openai/dear", tokens=1000, has_tools=True)).agents
    assert thrice.tokens_out == 3 * once.tokens_out
    assert thrice.tokens_in > 3 * once.tokens_in


def test_max_tokens_bounds_a_reply() -> None:
    """A reply is no longer than the variant lets it be."""
    short = Prompt(model="openai/dear", tokens=1000, max_tokens=10)
    assert estimated(team(), short).agents.tokens_out == 10


def test_judges_are_asked_as_often_as_they_sample() -> None:
    """By the judge's own model; a check costs nothing; a judge of every step is asked at more places."""
    checks = (Evaluation(evaluator="contains", params={"value": "x"}), JUDGED)
    once = estimated(team(evaluations=checks)).judges
    sampled = estimated(team(evaluations=(Evaluation(evaluator="j", params=JUDGED.params, repeats=5),))).judges
    steps = estimated(team(evaluations=(Evaluation(evaluator="j", params=JUDGED.params, when="step"),))).judges
    assert 0 < once.usd < estimated(team()).agents.usd
    assert sampled.usd == pytest.approx(5 * once.usd)
    assert steps.usd > once.usd


def test_what_the_same_arm_did_cost_is_believed() -> None:
    """The mean of earlier trials, judges included, times those that are to run."""
    earlier = (Spent(1, 100, 10, 0.5), Spent(1, 300, 30, 1.5))
    found = estimated(team(repeats=4, evaluations=(JUDGED,)), earlier=earlier)
    assert found.whole == Cost(tokens_in=800, tokens_out=80, usd=4.0)
    assert found.measured == 2


def test_a_model_without_a_price_is_named() -> None:
    """Its tokens count, its dollars are not known, and who it is is said."""
    local = estimated(team(), Prompt(model="ollama/llama", tokens=10)).agents
    assert (local.usd, local.unpriced, local.tokens_out) == (0.0, ("ollama/llama",), 300)
    both = whole([estimated(team()), estimated(team(), Prompt(model="ollama/llama"))])
    assert (both.unpriced, both.usd) == (("ollama/llama",), estimated(team()).agents.usd)


def test_a_budget_of_a_trial_bounds_it() -> None:
    """No trial costs more than it may."""
    assert estimated(team(variant(budget={"usd": 0.02}), repeats=2)).agents.usd == pytest.approx(0.04)


def test_agents_that_answer_by_rules_cost_nothing() -> None:
    """No model, no tokens."""
    assert estimated(team(), Prompt(model="")).whole == Cost()


def test_a_message_about_earlier_teams_is_measured_as_it_is_written() -> None:
    """What came of them is not known yet."""
    later = Variant(id="a", agent=AgentId("agent"), message="Pay {{ teams.first.leaders }} well")
    found = estimated(team(later))
    assert found.agents.tokens_in == 1000 + len(later.message) // 4


def test_the_messages_of_tasks_are_measured_filled_in() -> None:
    """The mean of a sample."""
    asks = Variant(id="a", agent=AgentId("agent"), message="{{ text }}")
    tasks = (Task(id="1", values={"text": "x" * 400}), Task(id="2", values={"text": "x" * 800}))
    assert estimated(team(asks, tasks=tasks)).agents.tokens_in == 2 * (1000 + 150)


def test_the_difference_that_a_plan_can_find() -> None:
    """By tasks and repeats of the plan, with the spread that is assumed of scores; more repeats are proposed."""
    tasks = tuple(Task(id=str(number)) for number in range(10))
    of = team(variant("a"), variant("b"), variant("c"), tasks=tasks)
    found = detectable(of, "score", 30, is_score=True)
    assert found is not None
    assert found.difference == minimum_detectable_difference(3, difference_sd(SCORE_SD), tasks=10, comparisons=2)
    assert found.repeats_needed is not None
    again = detectable(of, "score", 10 * found.repeats_needed, is_score=True)
    assert again is not None
    assert again.difference is not None
    assert again.difference <= 0.2


def test_too_few_trials_find_nothing_and_one_arm_compares_nothing() -> None:
    """One trial each: no difference of any size; a single variant: no line at all. A pass is harder than a score."""
    few = detectable(team(variant("a"), variant("b")), "score", 1, is_score=True)
    assert few is not None
    assert (few.difference, few.why) == (None, "too few trials to find a difference of any size")
    assert few.repeats_needed is not None
    assert detectable(team(), "score", 100, is_score=True) is None
    scores, passes = (detectable(team(variant("a"), variant("b")), "x", 50, is_score=each) for each in (True, False))
    assert scores is not None
    assert passes is not None
    assert scores.difference is not None
    assert passes.difference is not None
    assert passes.difference > scores.difference


def test_without_scipy_the_plan_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rollout runs all the same; what is missing stands in the line."""
    import sys

    monkeypatch.setitem(sys.modules, "scipy", None)
    found = detectable(team(variant("a"), variant("b")), "score", 50, is_score=True)
    assert found is not None
    assert found.difference is None
    assert found.why == "statistics need the package scipy (pip install 'p2engine[learn]')"

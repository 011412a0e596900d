"""What a rollout will take, about: trials, tokens and dollars, and the difference it can detect.

Pure: knows plans, prompts and earlier results. Prices are handed in. What it says of money is a guess until the same
arm has run: it says which.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

import msgspec

from p2engine.domain.evaluation import Evaluation
from p2engine.domain.messages import tokens_estimate
from p2engine.domain.setup import Spent
from p2engine.errors import SetupError, UsageError
from p2engine.rollouts.power import (
    PASS_SD,
    POWER,
    SCORE_SD,
    difference_sd,
    minimum_detectable_difference,
    repeats_needed,
)
from p2engine.rollouts.spec import Team, Trial, Variant
from p2engine.rollouts.templates import trial_evaluations, trial_message

CALLS_WITH_TOOLS = 3  # model calls of a trial whose agent has tools: it asks, asks again, answers
REPLY_TOKENS = 300  # of one model reply
RESULT_TOKENS = 150  # of one tool result
JUDGE_TOKENS = 700  # of what a judge is told beside the rubric and the record
VERDICT_TOKENS = 150  # of one verdict
SAMPLED = 20  # trials of an arm whose messages are measured
WORTH_FINDING = 0.2  # of a score: the difference for which more repeats are proposed

Price = Callable[[str, int, int], float | None]
"""Dollars for a call of a model, `provider/model`, by tokens in and out; None where it has no price."""
JudgeOf = Callable[[Evaluation], str | None]
"""The model that an evaluation asks; None for one that asks none."""


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """What the model of an arm is sent before anything was said. model: empty where none decides. tokens: of it."""

    model: str
    tokens: int = 0
    has_tools: bool = False
    max_tokens: int | None = None


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens and dollars. usd: of what has a price; unpriced: the models that have none."""

    tokens_in: int = 0
    tokens_out: int = 0
    usd: float = 0.0
    unpriced: tuple[str, ...] = ()

    def plus(self, other: "Cost") -> "Cost":
        return Cost(
            tokens_in=self.tokens_in + other.tokens_in,
            tokens_out=self.tokens_out + other.tokens_out,
            usd=self.usd + other.usd,
            unpriced=tuple(dict.fromkeys((*self.unpriced, *other.unpriced))),
        )

    def times(self, count: int) -> "Cost":
        return Cost(
            tokens_in=self.tokens_in * count,
            tokens_out=self.tokens_out * count,
            usd=self.usd * count,
            unpriced=self.unpriced if count else (),
        )


class ArmEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """What all trials of one arm will cost. measured: how many earlier trials it rests on; 0: it is a guess."""

    team: str
    variant: str
    trials: int
    agents: Cost
    judges: Cost
    measured: int = 0

    @property
    def whole(self) -> Cost:
        return self.agents.plus(self.judges)


class Detectable(msgspec.Struct, frozen=True, kw_only=True):
    """The smallest difference to the first variant that a team's comparison finds with a chance of 80 %.

    difference: None where it finds none of any size; then `why` says so. metric: whose difference. repeats_needed: for
    a difference of 0.2, where it is larger or none.
    """

    team: str
    metric: str
    difference: float | None
    repeats_needed: int | None = None
    why: str = ""


def arm_estimate(
    team: Team,
    variant: Variant,
    trials: Sequence[Trial],
    prompt: Prompt,
    judge_of: JudgeOf,
    price: Price,
    earlier: Sequence[Spent] = (),
) -> ArmEstimate:
    """What these trials of one arm will cost. earlier: what trials of the very same arm did cost, judges included."""
    count = len(trials)
    if earlier:
        return ArmEstimate(
            team=team.id,
            variant=variant.id,
            trials=count,
            agents=_measured(earlier, prompt.model).times(count),
            judges=Cost(),
            measured=len(earlier),
        )
    sample = trials[:SAMPLED]
    message = round(fmean(map(_message_tokens, sample))) if sample else 0
    agents = _of_agent(prompt, message, price)
    cap = variant.changes.get("budget", {}).get("usd")
    if cap is not None and agents.usd > cap:
        agents = msgspec.structs.replace(agents, usd=cap)
    judges = Cost()
    if sample:
        for evaluation in _evaluations(team, sample[0]):
            judges = judges.plus(_of_judge(evaluation, prompt, message, judge_of, price))
    return ArmEstimate(
        team=team.id, variant=variant.id, trials=count, agents=agents.times(count), judges=judges.times(count)
    )


def _measured(earlier: Sequence[Spent], model: str) -> Cost:
    """The mean trial of those that ran."""
    return Cost(
        tokens_in=round(fmean(each.tokens_in for each in earlier)),
        tokens_out=round(fmean(each.tokens_out for each in earlier)),
        usd=fmean(each.usd for each in earlier),
        unpriced=(model,) if any(each.unpriced for each in earlier) else (),
    )


def _message_tokens(trial: Trial) -> int:
    try:
        return tokens_estimate(trial_message(trial))
    except ValueError:  # it speaks of teams that have not run
        return tokens_estimate(trial.message)


def _evaluations(team: Team, trial: Trial) -> Iterable[Evaluation]:
    try:
        return trial_evaluations(team, trial.task)
    except ValueError:
        return team.evaluations


def _of_agent(prompt: Prompt, message: int, price: Price) -> Cost:
    if not prompt.model:
        return Cost()
    reply = min(REPLY_TOKENS, prompt.max_tokens or REPLY_TOKENS)
    calls = CALLS_WITH_TOOLS if prompt.has_tools else 1
    grown = sum(number * (reply + RESULT_TOKENS) for number in range(calls))  # every call is sent what came before
    return _cost(prompt.model, calls * (prompt.tokens + message) + grown, calls * reply, price)


def _of_judge(evaluation: Evaluation, prompt: Prompt, message: int, judge_of: JudgeOf, price: Price) -> Cost:
    model = judge_of(evaluation)
    if model is None:
        return Cost()
    calls = CALLS_WITH_TOOLS if prompt.has_tools else 1
    record = message + calls * REPLY_TOKENS + (calls - 1) * RESULT_TOKENS
    asked = JUDGE_TOKENS + tokens_estimate(str(evaluation.params.get("rubric", ""))) + record
    count = evaluation.repeats * (2 * calls if evaluation.when == "step" else 1)
    return _cost(model, asked, VERDICT_TOKENS, price).times(count)


def _cost(model: str, tokens_in: int, tokens_out: int, price: Price) -> Cost:
    usd = price(model, tokens_in, tokens_out)
    return Cost(tokens_in=tokens_in, tokens_out=tokens_out, usd=usd or 0.0, unpriced=(model,) if usd is None else ())


def detectable(team: Team, metric: str, trials_each: int, *, is_score: bool) -> Detectable | None:
    """What the comparison of a team's variants can find; None where there is nothing to compare.

    metric: what is compared. trials_each: of every variant. is_score: a judge's, not a check's.
    """
    comparisons = len(team.variants) - 1
    if comparisons < 1 or trials_each < 1:
        return None
    tasks = min(max(1, len(team.tasks)), trials_each)
    sd = difference_sd(SCORE_SD if is_score else PASS_SD)
    try:
        found = minimum_detectable_difference(trials_each // tasks, sd, tasks=tasks, comparisons=comparisons)
        more = None
        if found is None or found > WORTH_FINDING:
            more = repeats_needed(WORTH_FINDING, sd, tasks=tasks, comparisons=comparisons)
    except UsageError:
        raise
    except SetupError as error:  # without scipy nothing can be said, and the rollout runs all the same
        why = f"{error.message} ({error.hint})" if error.hint else error.message
        return Detectable(team=team.id, metric=metric, difference=None, why=why)
    why = "" if found is not None else "too few trials to find a difference of any size"
    return Detectable(team=team.id, metric=metric, difference=found, repeats_needed=more, why=why)


def powered() -> str:
    """With which chance, in words."""
    return f"{POWER:.0%} power"


def whole(arms: Iterable[ArmEstimate]) -> Cost:
    """The cost of all arms together."""
    total = Cost()
    for arm in arms:
        total = total.plus(arm.whole)
    return total


def by_arm(trials: Iterable[Trial]) -> Mapping[tuple[str, str], list[Trial]]:
    """Trials by team and variant, in their order."""
    found: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        found.setdefault((trial.team, trial.variant), []).append(trial)
    return found

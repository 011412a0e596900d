"""What came of a trial, as a row: values, and how they are read off the events of its conversation."""

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal, NamedTuple

import msgspec

from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId, EffectId, StackRef, ref_of, wait_key
from p2engine.domain.records import Event
from p2engine.domain.setup import Spent
from p2engine.domain.verdicts import Verdict
from p2engine.rollouts.spec import Trial

TrialStatus = Literal["done", "gave_up", "timeout", "budget", "cancelled", "error"]
"""How a trial ended. Only what is `done` has an answer; the others are rows with their reason in `detail`."""

_WORD = re.compile(r"[\w.-]{1,40}")  # what a check looks for, where that is short enough to be part of a name

TIMED_OUT = "the trial took longer than"  # how the reason of a cancelled turn begins that was a time-out
CHECKS = frozenset(
    {
        *("contains", "equals", "regex", "numeric", "json_schema", "tool_called", "tool_not_called"),
        *("no_error", "max_steps", "ledger_received", "balance"),
    }
)
"""The evaluators that give no number but their score."""

KINDS = (
    "model.reply",
    "state.assistant_message",
    "state.tool_result",
    "state.agent_result",
    "state.finished",
    "artifact.saved",
    "eval.verdict",
)
"""The events of a conversation that a row is made of."""


class TrialResult(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """One finished trial. conversation: its name. metrics: name -> number, None where a judge left it undecided.

    verdicts: evaluator -> how it came out, of those that had something to judge. spent: by the agents, delegates
    included; judged: by the judges, of steps as well; saved: what judges had cost elsewhere that were not asked again.
    steps: model replies and results. reward: the sum that tools
    gave, None where none did. received, sent: by the wallets of the agents that took part, as text; None where several
    trials share a book. duration_s: from its opening to its end. resumed: it was opened by a process that
    ended before it did, so that it may have waited for another. models: as the providers named them. offline: whether
    the stand-in answered. lost: what earlier attempts at it cost, which a cancellation of the rollout cut off; part of
    what the rollout has spent, and of no other number.
    """

    team: str
    variant: str
    number: int
    agent: AgentId
    conversation: str
    status: TrialStatus
    task: str = ""
    repeat: int = 1
    seed: int = 0
    detail: str = ""
    reply: str = ""
    metrics: dict[str, float | None] = {}
    verdicts: dict[str, str] = {}
    spent: Spent = Spent()
    judged: Spent = Spent()
    saved: Spent = Spent()
    steps: int = 0
    artifacts: int = 0
    reward: float | None = None
    received: str | None = None
    sent: str | None = None
    duration_s: float = 0.0
    resumed: bool = False
    models: tuple[str, ...] = ()
    offline: bool = False
    lost: Spent = Spent()

    @property
    def cost(self) -> Spent:
        """What it and its judges spent together."""
        return self.spent.plus(self.judged)

    @property
    def price(self) -> Spent:
        """What it costs where every judge is asked, which is no merit of whoever came first: to be compared by."""
        return self.cost.plus(self.saved)

    @property
    def key(self) -> str:
        """The key of its trial."""
        return f"{self.team}/{self.variant}/{self.number}"


def result_of(
    trial: Trial,
    agent: AgentId,
    conversation: str,
    root: StackRef,
    evaluations: Sequence[Evaluation],
    events: Sequence[Event],
    *,
    started_at: float,
) -> TrialResult:
    """The row of a trial whose conversation has ended.

    root: the stack that was told the message. evaluations: of the team, as they stand in the file, in their order.
    """
    end = next((each for each in reversed(events) if each.kind == "state.finished" and each.ref == root), None)
    replies = [each.body for each in events if each.kind == "model.reply"]
    rewards = [each.body["reward"] for each in events if each.kind == "state.tool_result"]
    given = [reward for reward in rewards if reward is not None]
    owed = verdicts_on(root, events)
    found = [_together(each, [one for one in owed if one.place == n]) for n, each in enumerate(evaluations)]
    names = metric_names(evaluations)
    return TrialResult(
        team=trial.team,
        variant=trial.variant,
        number=trial.number,
        agent=agent,
        conversation=conversation,
        status=_status(end),
        task=trial.task.id if trial.task else "",
        repeat=trial.repeat,
        seed=trial.seed,
        detail=str(end.body["detail"]) if end else "it has not ended",
        reply=_reply(root, events),
        metrics=_metrics(names, evaluations, found),
        verdicts={name: each.status for name, each in zip(names, found, strict=True) if each.status is not None},
        spent=_spent(replies),
        judged=_sum(verdict.spent for verdict in owed),
        saved=_sum(verdict.saved for verdict in owed),
        steps=sum(each.kind in ("model.reply", "state.tool_result", "state.agent_result") for each in events),
        artifacts=sum(each.kind == "artifact.saved" for each in events),
        reward=sum(given) if given else None,
        duration_s=round(max(0.0, (end.at if end else started_at) - started_at), 3),
        models=tuple(sorted({str(body["model"]) for body in replies})),
        offline=any(body["offline"] for body in replies),
    )


def metric_names(evaluations: Iterable[Evaluation]) -> list[str]:
    """What the score of each is called: its `metric`, `score` by a rubric, else the evaluator.

    Where several are called the same: with what or whom they look at, `tool_called(delegate)`, `balance(beta)`, else
    with a number, `score_2`.
    """
    evaluations = list(evaluations)
    plain = [_plain_name(each) for each in evaluations]
    names: list[str] = []
    for name, evaluation in zip(plain, evaluations, strict=True):
        value = evaluation.params.get("value", evaluation.params.get("agent"))
        if plain.count(name) > 1 and isinstance(value, str) and _WORD.fullmatch(value):
            name = f"{name}({value})"  # noqa: PLW2901 — the longer name in the place of the shorter one
        taken = sum(each == name or each.startswith(f"{name}_") for each in names)
        names.append(f"{name}_{taken + 1}" if name in names else name)
    return names


def _plain_name(evaluation: Evaluation) -> str:
    usual = "score" if "rubric" in evaluation.params else evaluation.evaluator
    return str(evaluation.params.get("metric") or usual)


def further_name(names: Sequence[str], evaluations: Sequence[Evaluation], place: int, metric: str) -> str:
    """What a further number of the evaluation at `place` is called. names: of all, by `metric_names`.

    With its evaluation, `funny.words`, where several may give numbers, or one is called so already: by what the file
    says, so that a name means the same in every trial.
    """
    is_alone = sum(each.evaluator not in CHECKS for each in evaluations) < 2
    return metric if is_alone and metric not in names else f"{names[place]}.{metric}"


def verdicts_on(root: StackRef, events: Iterable[Event]) -> list[Verdict]:
    """The verdicts that the root's turn owed, oldest entry first; not those of people or by hand."""
    owed = sorted(
        (wait_key(EffectId(each.id)), each.body)
        for each in events
        if each.kind == "eval.verdict" and ":" in each.id and ref_of(EffectId(each.id)) == root
    )
    return [msgspec.convert(body, Verdict) for _, body in owed]


class _Judgement(NamedTuple):
    """What one evaluation came to in one trial. status: None where nothing was reached that it judges."""

    status: str | None
    score: float | None
    metrics: Mapping[str, float]


def _together(evaluation: Evaluation, verdicts: Sequence[Verdict]) -> _Judgement:
    """Of an evaluation of the end, its verdict; of steps and milestones the means of those that were decided."""
    if not verdicts:
        return _Judgement("error" if evaluation.when == "finish" else None, None, {})
    statuses = [verdict.status for verdict in verdicts]
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    numbers: dict[str, list[float]] = {}
    for name, value in (each for verdict in verdicts for each in verdict.metrics.items()):
        numbers.setdefault(name, []).append(value)
    return _Judgement(
        next(each for each in ("scored", "undecided", "error") if each in statuses),
        fmean(scores) if scores else None,
        {name: fmean(values) for name, values in numbers.items()},
    )


def _status(end: Event | None) -> TrialStatus:
    match end and end.body["reason"]:
        case "answered":
            return "done"
        case "gave_up":
            return "gave_up"
        case "budget":
            return "budget"
        case "cancelled":
            assert end is not None
            return "timeout" if str(end.body["detail"]).startswith(TIMED_OUT) else "cancelled"
        case _:
            return "error"


def _reply(root: StackRef, events: Iterable[Event]) -> str:
    texts = [str(each.body["text"]) for each in events if each.kind == "state.assistant_message" and each.ref == root]
    return texts[-1] if texts else ""


def _metrics(
    names: Sequence[str], evaluations: Sequence[Evaluation], found: Sequence[_Judgement]
) -> dict[str, float | None]:
    """The score of each evaluation, then the further numbers."""
    metrics: dict[str, float | None] = {name: each.score for name, each in zip(names, found, strict=True)}
    for place, each in enumerate(found):
        metrics |= {further_name(names, evaluations, place, name): value for name, value in each.metrics.items()}
    return metrics


def _spent(replies: Iterable[Mapping[str, Any]]) -> Spent:
    return _sum(
        Spent(1, body["tokens_in"], body["tokens_out"], body["cost_usd"] or 0.0, int(body["cost_usd"] is None))
        for body in replies
    )


def _sum(parts: Iterable[Spent]) -> Spent:
    total = Spent()
    for part in parts:
        total = total.plus(part)
    return total

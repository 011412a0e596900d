"""What came of a trial, as a row: values, and how they are read off the events of its conversation."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

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


class TrialResult(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One finished trial. conversation: its name. metrics: name -> number, None where a judge left it undecided.

    verdicts: evaluator -> how it came out. spent: by the agents, delegates included; judged: by the judges. steps:
    model replies and results. reward: the sum that tools gave, None where none did. received, sent: of the agent's own
    wallet, as text; None where several trials share a book. duration_s: from the message to the end. models: as the
    providers named them. offline: whether the stand-in answered.
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
    steps: int = 0
    artifacts: int = 0
    reward: float | None = None
    received: str | None = None
    sent: str | None = None
    duration_s: float = 0.0
    models: tuple[str, ...] = ()
    offline: bool = False

    @property
    def cost(self) -> Spent:
        """What it and its judges spent together."""
        return self.spent.plus(self.judged)

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
    verdicts = dict(zip(metric_names(evaluations), verdicts_on(root, evaluations, events), strict=True))
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
        metrics=_metrics(verdicts),
        verdicts={name: verdict.status if verdict else "error" for name, verdict in verdicts.items()},
        spent=_spent(replies),
        judged=_sum(verdict.spent for verdict in verdicts.values() if verdict),
        steps=sum(each.kind in ("model.reply", "state.tool_result", "state.agent_result") for each in events),
        artifacts=sum(each.kind == "artifact.saved" for each in events),
        reward=sum(given) if given else None,
        duration_s=round(max(0.0, (end.at if end else started_at) - started_at), 3),
        models=tuple(sorted({str(body["model"]) for body in replies})),
        offline=any(body["offline"] for body in replies),
    )


def metric_names(evaluations: Iterable[Evaluation]) -> list[str]:
    """What the score of each is called: its `metric`, `score` by a rubric, else the evaluator.

    Where several are called the same: with what they look for, `tool_called(delegate)`, else with a number, `score_2`.
    """
    evaluations = list(evaluations)
    plain = [_plain_name(each) for each in evaluations]
    names: list[str] = []
    for name, evaluation in zip(plain, evaluations, strict=True):
        value = evaluation.params.get("value")
        if plain.count(name) > 1 and isinstance(value, str) and _WORD.fullmatch(value):
            name = f"{name}({value})"  # noqa: PLW2901 — the longer name in the place of the shorter one
        taken = sum(each == name or each.startswith(f"{name}_") for each in names)
        names.append(f"{name}_{taken + 1}" if name in names else name)
    return names


def _plain_name(evaluation: Evaluation) -> str:
    usual = "score" if "rubric" in evaluation.params else evaluation.evaluator
    return str(evaluation.params.get("metric") or usual)


def verdicts_on(root: StackRef, evaluations: Sequence[Evaluation], events: Iterable[Event]) -> list[Verdict | None]:
    """The verdicts on the end of the root's turn, in the order of the evaluations; None for one that is not there.

    Verdicts of steps are not among them, nor those of people or by hand.
    """
    owed = sorted(
        (wait_key(EffectId(each.id)), each.body)
        for each in events
        if each.kind == "eval.verdict" and _is_of(each, root)
    )
    last = owed[-1][0][0] if owed else 0
    found = [msgspec.convert(body, Verdict) for (seq, _), body in owed if seq == last]
    at_end = [evaluation.when == "finish" for evaluation in evaluations]
    bodies = iter(found)
    return [next(bodies, None) if is_at_end else None for is_at_end in at_end]


def _is_of(event: Event, root: StackRef) -> bool:
    return ":" in event.id and ref_of(EffectId(event.id)) == root


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


def _metrics(verdicts: Mapping[str, Verdict | None]) -> dict[str, float | None]:
    """The score of each evaluation, then the further numbers that verdicts hold, where no other has their name."""
    metrics: dict[str, float | None] = {name: verdict.score if verdict else None for name, verdict in verdicts.items()}
    for verdict in verdicts.values():
        for name, value in (verdict.metrics if verdict else {}).items():
            metrics.setdefault(name, value)
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

"""What an evaluator sees, and what it says of it: subjects and verdicts. Values only."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from p2engine.domain.ids import AgentId, ConversationId, StackRef
from p2engine.domain.setup import Spent
from p2engine.domain.states import Reason, Status


class Line(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One thing that was said or done, in order. name: the tool or agent of a call or result."""

    kind: Literal["user", "assistant", "call", "result", "ask"]
    text: str = ""
    name: str = ""
    arguments: dict[str, Any] = {}
    status: Status = "ok"
    reward: float | None = None


class Holding(msgspec.Struct, frozen=True):
    """What a wallet held, had received and had sent when the judged turn ended; amounts as text, like "12.5"."""

    balance: str
    received: str
    sent: str


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluator sees: one agent's stack up to the event that is judged. All of it is data, none of it orders.

    event: the id of what is judged: `ref:index`. answer: the last thing said to the user in the judged turn. reason,
    detail: how the turn ended; None while it goes on. spent: by the turn, delegates included. params: of the
    evaluation. holdings: by agent; empty where there is no ledger. repeat: which sample this is, from 0.
    """

    event: str
    conversation: ConversationId
    ref: StackRef
    agent: AgentId
    transcript: tuple[Line, ...]
    answer: str = ""
    reason: Reason | None = None
    detail: str = ""
    spent: Spent = Spent()
    params: Mapping[str, Any] = {}
    holdings: Mapping[str, Holding] = {}
    repeat: int = 0


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An evaluator's judgement of `subject` (an event id). score is in 0..1; None is undecided.

    metrics: further numbers by name. model, spent: of a judge that is a model. samples: the score of each repeat, where
    there were several. key: the hash of everything that was judged and how, so that the same is not judged twice.
    """

    evaluator: str
    version: str
    subject: str
    score: float | None = None
    label: str = ""
    status: Literal["scored", "undecided", "error"] = "scored"
    metrics: dict[str, float] = {}
    comment: str = ""
    model: str = ""
    spent: Spent = Spent()
    samples: tuple[float | None, ...] = ()
    key: str = ""

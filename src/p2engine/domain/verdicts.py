"""What an evaluator sees, and what it says of it: subjects and verdicts. Values only."""

from collections.abc import Mapping
from hashlib import blake2b
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


class Terms(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a judge that is a model was asked with, beside what it judged. Other terms: another measurement.

    model: as it was asked for. temperature: None: the provider's usual. prompt: a hash of the words around the rubric,
    or of the evaluator's file. rubric: its name in the library, else how it begins. text: all of it as filled in, up
    to a bound. digest: of the whole rubric.
    """

    model: str = ""
    temperature: float | None = None
    prompt: str = ""
    rubric: str = ""
    text: str = ""
    digest: str = ""

    @property
    def key(self) -> str:
        """Tells these terms from all others: six hex digits."""
        told = (self.model, self.temperature, self.prompt, self.digest)
        return blake2b(msgspec.json.encode(told), digest_size=3).hexdigest()

    @property
    def words(self) -> str:
        """For people, in a line."""
        warmth = "" if self.temperature is None else f"temperature {self.temperature:g}"
        return ", ".join(word for word in (self.rubric, self.model, warmth, f"#{self.key}") if word)


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An evaluator's judgement of `subject` (an event id). score is in 0..1; None is undecided.

    metrics: further numbers by name. model, terms, spent: of a judge that is a model. provider: who is paid for that,
    as agents.yml names it. samples, parts: the score of each, and each by itself, where there were several. first: the
    number of the first one. key: the hash of everything that was judged and how. source: the event on which the same
    was judged before, where nobody was asked again; saved: what asking had cost there. place: which of the setup's
    evaluations owed it; None: asked for by hand.
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
    provider: str = ""
    terms: Terms | None = None
    spent: Spent = Spent()
    samples: tuple[float | None, ...] = ()
    parts: "tuple[Verdict, ...]" = ()
    first: int = 0
    key: str = ""
    source: str = ""
    saved: Spent = Spent()
    place: int | None = None

    @property
    def taken(self) -> "Verdict":
        """This one as a part of another, of something equal, for which nobody is asked."""
        return msgspec.structs.replace(
            self, source=self.source or self.subject, spent=Spent(), saved=self.spent.plus(self.saved), place=None
        )

    def part(self, number: int) -> "Verdict | None":
        """The sample of that number; None where it is none of these, or came to nothing."""
        parts = self.parts or (self,)
        place = number - self.first
        found = parts[place] if 0 <= place < len(parts) else None
        return found if found is not None and found.status == "scored" else None

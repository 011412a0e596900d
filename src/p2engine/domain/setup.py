"""What an agent is while it acts: its model, tools, powers and budget, as recorded on its stack.

The machine judges permissions from this record, never from live configuration, so that a replay decides the same.
Knows nothing of files or of how a setup is put together.
"""

from typing import Literal

import msgspec

from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId, BlobRef

Repeat = Literal["free", "idempotent", "never"]
DedupPolicy = Literal["none", "penalty", "strict"]


class Budget(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """What may be spent. None is unbounded. steps: outcomes; tokens: in + out; usd: model cost; seconds: wall time."""

    steps: int | None = None
    tokens: int | None = None
    usd: float | None = None
    seconds: float | None = None


class Spent(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What was spent: outcomes, tokens, US dollars. unpriced: model calls whose price is not known."""

    steps: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float = 0.0
    unpriced: int = 0

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out

    @property
    def cost_usd(self) -> float | None:
        """The cost in US dollars; None where any part of it is not known."""
        return None if self.unpriced else round(self.usd, 9)

    def plus(self, other: "Spent") -> "Spent":
        return Spent(
            self.steps + other.steps,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
            self.usd + other.usd,
            self.unpriced + other.unpriced,
        )


class ToolGrant(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One tool an agent may use, and what the machine must know of it.

    repeat: what a second run means. `free`: nothing; `idempotent`: nothing, with the same key; `never`: unknown.
    """

    name: str
    repeat: Repeat = "never"
    approval: bool = False
    dedup_ttl_s: float | None = None
    milestone: bool = False


class RenderPolicy(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """How much of the stack a model is shown. `n`: messages for last_n, tokens for token_budget."""

    kind: Literal["full", "last_n", "token_budget"] = "full"
    n: int = 0


class Setup(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """An agent's recorded setup. `instructions` and `specs` name bodies in the blob store (see Bodies).

    seed: asked of models that can repeat themselves. book: of the ledger, where its wallet is; empty: the main one.
    evaluations: what judges its turns.
    """

    agent: AgentId
    type: str = "llm"
    model: str = ""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    persona: str = ""
    instructions: BlobRef | None = None  # the system prompt, UTF-8
    specs: BlobRef | None = None  # JSON: a list of ToolSpec, in the order of `tools`
    tools: tuple[ToolGrant, ...] = ()
    delegates: tuple[AgentId, ...] = ()
    render: RenderPolicy = RenderPolicy()
    budget: Budget = Budget()
    conversation_usd: float | None = None  # what the whole conversation may cost, over all its turns
    dedup: DedupPolicy = "none"
    book: str = ""
    evaluations: tuple[Evaluation, ...] = ()

    def grant(self, tool: str) -> ToolGrant | None:
        """The grant for `tool`, or None when this agent may not use it."""
        for grant in self.tools:
            if grant.name == tool:
                return grant
        return None

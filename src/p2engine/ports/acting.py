"""Who decides and what is called: models, agents, tools, and the context that they are given."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from p2engine.domain.decisions import Decision, ToolOutcome
from p2engine.domain.ids import AgentId, ConversationId, EffectId, StackRef
from p2engine.domain.messages import Fragment, ModelReply, ModelRequest, ToolSpec
from p2engine.domain.money import (
    Account,
    Amount,
    Receipt,
    Record,
)
from p2engine.domain.records import (
    Artifact,
)
from p2engine.domain.setup import Setup

OnText = Callable[[str], None]
"""Called with each piece of text as a model streams it."""


@runtime_checkable
class Model(Protocol):
    """One provider. Raises ModelError."""

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReply: ...


class AgentView(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent sees when it decides. The fragments are rendered; instructions and tools are resolved."""

    agent: AgentId
    conversation: ConversationId
    ref: StackRef
    effect: EffectId
    setup: Setup
    fragments: Sequence[Fragment]
    instructions: str = ""
    tools: tuple[ToolSpec, ...] = ()
    max_tokens: int | None = None
    on_text: OnText | None = None


class Agent(Protocol):
    """Given what it has lived through, what does it do next? Raises ModelError when it cannot say."""

    async def decide(self, view: AgentView) -> Decision: ...


class Roster(Protocol):
    """Who the agents are: live configuration, resolved into recorded setups."""

    def agents(self) -> Sequence[AgentId]: ...

    async def setup(self, agent: AgentId, changes: Mapping[str, Any], *, stand_in: bool = False) -> Setup:
        """The setup of `agent` under `changes` (override keys). Raises UsageError for an unknown agent or key.

        stand_in: an unknown agent is the tool-less default one instead (for `chat with ANYNAME`, and nothing else).
        """
        ...

    def agent(self, setup: Setup) -> Agent:
        """The agent that decides under this setup."""
        ...

    async def bodies(self, setup: Setup) -> tuple[str, tuple[ToolSpec, ...]]:
        """The instructions and tool specs that a recorded setup names."""
        ...


class Artifacts(Protocol):
    """The named bodies of one conversation, as one tool call sees them. What is saved is settled with its result."""

    async def save(self, name: str, content: str | bytes, *, media: str = "text/plain") -> Artifact: ...

    async def read(self, name: str) -> bytes:
        """The newest body of that name. Raises ToolError when there is none."""
        ...

    async def list(self, prefix: str = "") -> Sequence[Artifact]: ...


class Wallet(Protocol):
    """The money of one agent, as one tool call of it sees it. Nobody else's can be spent through it."""

    async def pay(self, payee: str, amount: Amount, reason: str = "") -> Receipt:
        """Pay another agent, once for this call however often it is repeated."""
        ...

    def again(self) -> "Wallet":
        """The same for another attempt of the same call: what that pays are the payments of the first attempt."""
        ...

    async def balance(self, agent: str | None = None) -> Account | None:
        """The wallet of an agent, this one unless named; None where there is none."""
        ...

    async def history(self, limit: int) -> Sequence[Record]:
        """The newest records of this agent's wallet, oldest first."""
        ...


class ToolContext(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls, on whose behalf, and under which key. Passed beside the arguments; never set from them.

    wallet: the calling agent's; None where there is no ledger.
    """

    conversation: ConversationId
    agent: AgentId
    branch: StackRef
    call_id: str
    idempotency_key: EffectId
    artifacts: Artifacts
    wallet: Wallet | None = None


class Tool(Protocol):
    """A function with a name. Arguments come validated as a JSON object; errors are ToolError."""

    @property
    def spec(self) -> ToolSpec: ...

    async def __call__(self, arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome: ...


class ToolRunner(Protocol):
    """Runs one tool call: validation, cache, time-out, retries. A failure is an outcome, never an exception."""

    def spec(self, name: str) -> ToolSpec | None:
        """What is told of the tool that is loaded here under that name; None where there is none."""
        ...

    async def __call__(self, name: str, arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome: ...


class Toolbox(Protocol):
    """The tools that are loaded here."""

    def get(self, name: str) -> Tool | None: ...

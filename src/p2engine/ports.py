"""Every door in the house: what P2Engine asks of the world, and nothing about how.

Each port has a contract suite in `p2engine.testing.contracts` that every driver of it passes.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from p2engine.domain.decisions import Decision, ToolOutcome
from p2engine.domain.ids import AgentId, BlobRef, ConversationId, EffectId, OwnerId, StackRef
from p2engine.domain.messages import Fragment, ModelReply, ModelRequest, ToolSpec
from p2engine.domain.money import (
    CREDIT,
    MAIN_BOOK,
    Account,
    AccountName,
    Amount,
    Audit,
    BookId,
    Checkpoint,
    Hold,
    Opening,
    Proof,
    Receipt,
    Record,
    RecordQuery,
    Transfer,
)
from p2engine.domain.records import (
    Artifact,
    Batch,
    Branch,
    Claimed,
    Conversation,
    Cursor,
    Event,
    Job,
    Placed,
    Query,
    Written,
)
from p2engine.domain.setup import Setup

OnText = Callable[[str], None]
"""Called with each piece of text as a model streams it."""


class Store(Protocol):
    """Remembers stacks and events. One write door."""

    async def load(self, ref: StackRef, *, since: int = 0) -> Sequence[Placed]:
        """The commits of a stack from entry `since` on, lineage included, oldest first. Unknown ref: UsageError."""
        ...

    async def write(self, batch: Batch) -> Written:
        """All or nothing. Raises HeadMoved, AlreadySettled, NameTaken, StoreBusy."""
        ...

    def follow(self, ref: StackRef, *, since: int) -> AsyncIterator[Sequence[Placed] | str]:
        """The commits of a stack from entry `since` on, as they come, whoever writes them, until the store closes.

        Between them, where the store can carry it, the text that is spoken there before its commit.
        """
        ...

    def speak(self, ref: StackRef, text: str) -> None:
        """Let those who follow the stack hear what no entry holds yet. May be lost."""
        ...

    async def events(self, query: Query) -> Sequence[Event]:
        """The events that match, oldest first. Raises Pruned for a cursor below what is kept."""
        ...

    async def newest(self) -> Cursor:
        """The place in the log after all that is written by now."""
        ...

    def tail(self, after: Cursor) -> AsyncIterator[Event]:
        """Every event after the cursor, without gaps, until the store closes. Raises Pruned as `events`."""
        ...

    async def aclose(self) -> None: ...


class Owing(Protocol):
    """The same driver seen as a list of what is owed, and by whom it is held."""

    async def claim(self, effect: EffectId, owner: OwnerId, *, since: int = 0) -> Claimed | None:
        """Take an owed effect that no living owner but `owner` holds; None when there is nothing to take.

        Raises NewerFormat, and leaves it to others, where it or its stack was written by a later version.
        """
        ...

    async def due(self, *, limit: int) -> Sequence[Job]:
        """Owed effects that no living process holds, oldest first; none that somebody was asked to do a moment ago."""
        ...

    async def backlog(self) -> tuple[int, float | None]:
        """How many effects no living process holds, and since when the oldest is owed (Unix s). Hands nothing out."""
        ...

    async def owed(self, ref: StackRef) -> Sequence[EffectId]:
        """What this stack still owes."""
        ...

    async def held(self, owner: OwnerId) -> Sequence[EffectId]:
        """What `owner` holds."""
        ...

    def drops(self) -> AsyncIterator[Sequence[EffectId]]:
        """Effects that somebody else holds and that are dropped, as it happens. May miss some; may end at once."""
        ...

    async def holders(self, ref: StackRef, *, besides: OwnerId | None = None) -> Sequence[str]:
        """Who lives and holds what this stack owes, in words: `process 4711 on HOST`."""
        ...


class Catalogue(Protocol):
    """The same driver seen as a directory: which conversations and branches there are."""

    async def conversations(self, *, prefix: str = "", limit: int = 1000) -> Sequence[Conversation]:
        """Conversations whose name or id starts with `prefix`, newest first; an exact name comes alone."""
        ...

    async def conversation(self, key: ConversationId) -> Conversation | None: ...

    async def branch(self, ref: StackRef) -> Branch | None: ...

    async def branches(self, conversation: ConversationId, *, delegates: bool = False) -> Sequence[Branch]:
        """The branches of a conversation, oldest first; those that delegations opened only when asked for."""
        ...

    async def head(self, ref: StackRef) -> int:
        """How many entries the stack has, lineage included."""
        ...

    async def cut(self, ref: StackRef, length: int) -> int:
        """The greatest length ≤ `length` at which nothing is open on this stack. O(1)."""
        ...


class Archive(Store, Owing, Catalogue, Protocol):
    """What a store driver implements, and what the engine holds."""


class Dispatcher(Protocol):
    """Gets jobs run, at least once, somewhere, soon. May lose, repeat and reorder them."""

    async def submit(self, *jobs: Job) -> None: ...

    async def aclose(self) -> None:
        """Stop taking jobs, let those that run end within the grace period, then cancel them."""
        ...


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

    def has(self, name: str) -> bool:
        """Whether the tool is loaded here."""
        ...

    async def __call__(self, name: str, arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome: ...


class BlobStore(Protocol):
    """Bodies by content hash."""

    async def put(self, body: bytes) -> BlobRef:
        """Store once; the same body again is the same ref. Raises UsageError above ARTIFACT_BYTES_MAX."""
        ...

    async def get(self, ref: BlobRef) -> bytes:
        """Raises StoreError when it is missing or its bytes do not match its name."""
        ...

    async def has(self, ref: BlobRef) -> bool: ...


class Limiter(Protocol):
    """Concurrency and rate per provider."""

    async def acquire(self, provider: str) -> None: ...

    def release(self, provider: str) -> None: ...

    def pause(self, provider: str, seconds: float) -> None:
        """The provider asked for a rest: hold new calls back for that long."""
        ...


class Ledger(Protocol):
    """Moves money between accounts, each order once by its id. A refusal is a receipt, never an exception.

    An order is done once, refused for good, or `unknown`: the ledger did not answer. An unknown one is resolved by
    asking for its receipt, or by giving the same order again; it is never done twice. Nothing here shares a
    transaction with the store. Raises StoreError where the ledger cannot be used at all.
    """

    async def open_wallets(self, *openings: Opening) -> Sequence[bool]:
        """Open wallets; which of them were new. One that is open stays as it is: nothing is topped up."""
        ...

    async def transfer(self, *transfers: Transfer) -> Sequence[Receipt]:
        """Do transfers, in this order, each for itself. A repeated id is answered as the first time.

        Refused, with the reason: an id that was another order's; no amount; to oneself; from or to an account that
        does not exist; beyond a limit; more than the payer has. Only a treasury and tallies may owe.
        """
        ...

    async def hold(self, hold: Hold) -> Receipt:
        """Set money aside: the payer has it no more, and nobody has it yet. Refused as a transfer is."""
        ...

    async def release(self, hold: str, *, by: AccountName, cause: str = "") -> Receipt:
        """Pay what is held to its payee. Refused: not by its authority, after its time, or given back already."""
        ...

    async def refund(self, hold: str, *, by: AccountName, cause: str = "") -> Receipt:
        """Give what is held back to its payer: by its authority or its payee, and after its time by anybody."""
        ...

    async def receipt(self, order: str) -> Receipt | None:
        """What became of an order; None where the ledger never heard of it."""
        ...

    async def account(self, name: AccountName, *, book: BookId = MAIN_BOOK, instrument: str = CREDIT) -> Account | None:
        """An account as it stands now."""
        ...

    async def accounts(self, *, book: BookId = MAIN_BOOK) -> Sequence[Account]:
        """All accounts of a book, by name."""
        ...

    async def records(self, query: RecordQuery) -> Sequence[Record]:
        """What was written down, oldest first."""
        ...

    async def aclose(self) -> None: ...


class Auditable(Protocol):
    """A ledger that can show that nobody has changed what it wrote."""

    async def verify(self) -> Audit:
        """Look through all of it. Findings name the first record that is not as it was written."""
        ...

    async def checkpoint(self) -> Checkpoint:
        """Sign what is written by now. Published, it holds the holder of the key to it."""
        ...

    async def proof(self, order: str) -> Proof:
        """That the record of this order stands in the ledger. Raises UsageError where there is none."""
        ...


class AuditableLedger(Ledger, Auditable, Protocol):
    """What a ledger driver implements, and what the engine holds."""


class EventSink(Protocol):
    """Watches. Can neither slow nor stop what it watches."""

    async def emit(self, event: Event) -> None: ...

    async def aclose(self) -> None: ...


class Clock(Protocol):
    def now(self) -> float:
        """Unix seconds."""
        ...


class Ids(Protocol):
    """A source of random names, so that a simulation can repeat itself."""

    def branch(self) -> StackRef: ...

    def conversation(self) -> ConversationId: ...

    def fact(self) -> str: ...


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


class Toolbox(Protocol):
    """The tools that are loaded here."""

    def get(self, name: str) -> Tool | None: ...

"""Small batches for the contract suites to write: conversations that open, grow, fork and delegate.

Refs are names padded to the length of real ones, so that a failing test can be read.
"""

from collections.abc import Sequence

from p2engine.domain.effects import AnyEffect, Think
from p2engine.domain.ids import AgentId, ConversationId, EffectId, OwnerId, StackRef, effect_id
from p2engine.domain.records import Batch, Branch, Commit, Conversation, Fact, StackWrite
from p2engine.domain.states import AnyState, AssistantMessage, Finished, Pending, UserMessage, Waiting

NOON = 1_700_000_000.0
NOBODY = OwnerId("nobody")  # an owner that never lived


def ref(name: str) -> StackRef:
    return StackRef(name.ljust(12, "-"))


def conversation(name: str, *, group: str | None = None, at: float = NOON) -> Conversation:
    """A conversation `name` of agent `alpha`, whose root stack is `ref(name)`."""
    return Conversation(
        id=ConversationId(f"c-{name}"),
        name=name,
        agent=AgentId("alpha"),
        current=ref(name),
        created_at=at,
        group=group,
    )


def branch(of: str, name: str, *, agent: str = "alpha", parent: str | None = None, at: int = 0) -> Branch:
    """The branch `ref(name)` in conversation `of`."""
    return Branch(
        ref=ref(name),
        conversation=ConversationId(f"c-{of}"),
        agent=AgentId(agent),
        name=name,
        parent=ref(parent) if parent else None,
        at=at,
        created_at=NOON,
    )


def asked(name: str, text: str = "hello", *, head: int = 0, at: float = NOON) -> StackWrite:
    """Two entries: a message, and the wait for a model's answer to it."""
    states = (UserMessage(text=text), Waiting(on=(Pending(0, "think"),)))
    return StackWrite(ref(name), head, Commit(at, "user", states, 1, safe_before=head))


def answered(name: str, text: str = "hi", *, head: int = 2, at: float = NOON) -> StackWrite:
    """Two entries: the answer, and the turn's end."""
    states = (AssistantMessage(text=text), Finished())
    commit = Commit(at, effect_id(ref(name), head - 1, 0), states, 1, safe=(2,), safe_before=head - 2)
    return StackWrite(ref(name), head, commit)


def grown(name: str, head: int, states: Sequence[AnyState]) -> StackWrite:
    return StackWrite(ref(name), head, Commit(NOON, "test", tuple(states), len(states)))


def thought(name: str, entry: int = 1, slot: int = 0) -> EffectId:
    """The effect that `asked` owes."""
    return effect_id(ref(name), entry, slot)


def opening(name: str = "demo", *, owner: OwnerId | None = None, at: float = NOON, group: str | None = None) -> Batch:
    """A conversation that opens with a message, and owes the answer."""
    return Batch(
        conversation=ConversationId(f"c-{name}"),
        opens=conversation(name, group=group, at=at),
        branches=(branch(name, name),),
        writes=(asked(name, at=at),),
        effects=(Think(id=thought(name)),),
        owner=owner,
    )


def answering(name: str = "demo", *, head: int = 2, at: float = NOON) -> Batch:
    """The answer to the message at `head - 2`, which settles its effect."""
    return Batch(
        conversation=ConversationId(f"c-{name}"),
        writes=(answered(name, head=head, at=at),),
        settles=(thought(name, head - 1),),
    )


def asking(name: str = "demo", text: str = "again", *, head: int, owner: OwnerId | None = None) -> Batch:
    """The next message, whose answer is owed."""
    return Batch(
        conversation=ConversationId(f"c-{name}"),
        writes=(asked(name, text, head=head),),
        effects=(Think(id=thought(name, head + 1)),),
        owner=owner,
    )


def owing(name: str, *effects: AnyEffect, owner: OwnerId | None = None) -> Batch:
    return Batch(conversation=ConversationId(f"c-{name}"), effects=effects, owner=owner)


def fact(name: str, kind: str = "test.noted", *, of: str | None = None, at: float = NOON, **body: object) -> Fact:
    """A fact of that id; `of`: the conversation and stack it is about."""
    return Fact(
        id=name,
        kind=kind,
        cause="test",
        at=at,
        conversation=ConversationId(f"c-{of}") if of else None,
        ref=ref(of) if of else None,
        body=dict(body),
    )


def noting(*facts: Fact, of: str = "demo") -> Batch:
    return Batch(conversation=ConversationId(f"c-{of}"), facts=facts)

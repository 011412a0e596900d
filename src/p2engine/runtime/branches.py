"""Time travel: fork, rewind, checkout. A fork is a parent and a number; nothing is copied and nothing is erased."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from p2engine.domain.draft import Step
from p2engine.domain.ids import MAIN, StackRef, is_beginning, ref_of, wait_key
from p2engine.domain.machine import end
from p2engine.domain.records import Batch, Branch, Conversation, Fact
from p2engine.domain.stack import Stack
from p2engine.domain.states import AnyState, Finished, Override, ToolCall, ToolResult, Waiting
from p2engine.errors import UsageError
from p2engine.limits import NAME_BYTES_MAX, REFERENCES_LISTED_MAX
from p2engine.runtime.turn import commit, hand_out, to_the_end
from p2engine.runtime.world import World

CUT_OFF = "cut off, outcome unknown"


class Forked(msgspec.Struct, frozen=True, kw_only=True):
    """A branch that was made. asked: the length wanted; at: the length it has, moved back where `asked` lay inside
    an open wait. left_behind: side effects after the cut that happened in the world and stay so."""

    branch: Branch
    asked: int
    at: int
    left_behind: tuple[str, ...] = ()


def checked_name(name: str, what: str) -> str:
    """`name`, if it can name a conversation or branch. Raises UsageError."""
    a_what = f"an {what}" if what[0] in "aeiou" else f"a {what}"
    if not name.strip():
        raise UsageError(f"{a_what} needs a name that is not empty")
    if not name.isprintable():
        raise UsageError(f"{a_what} name has no control characters: {name[:40]!r}")
    if len(name.encode()) > NAME_BYTES_MAX:
        raise UsageError(f"{a_what} name has at most {NAME_BYTES_MAX} bytes; this one has {len(name.encode())}")
    return name


async def length_at(world: World, ref: StackRef, index: int, name: str) -> int:
    """How many entries stay when 0…index do; a negative index counts from the end. Raises UsageError."""
    head = await world.store.head(ref)
    length = index + 1 if index >= 0 else head + index + 1
    if not 0 < length <= head:
        has = f"it has {head} entries, 0…{head - 1}" if head else "it has no entries yet"
        raise UsageError(f"no entry {index} in {name!r}: {has}")
    return length


async def fork(world: World, conversation: Conversation, source: Branch, length: int, name: str) -> Forked:
    """A new branch of the first `length` entries of `source`. Raises NameTaken."""
    branch = await _branch(world, conversation, source, length, name)
    fact = _forked(world, conversation, branch, "branch.forked", source, length)
    await world.store.write(Batch(conversation=conversation.id, branches=(branch,), facts=(fact,)))
    return Forked(branch=branch, asked=length, at=branch.at)


async def rewind(
    world: World, conversation: Conversation, source: Branch, length: int, name: str, *, keep_running: bool
) -> Forked:
    """A fork that people talk to from now on; what runs on `source` is cancelled unless keep_running.

    Raises NameTaken.
    """
    branch = await _branch(world, conversation, source, length, name)
    fact = _forked(world, conversation, branch, "branch.rewound", source, length)
    why = "" if keep_running else f"rewound to {branch.name}"
    await to_the_end(_leave(world, source.ref, branch.ref, why, fact, branch))
    left = await left_behind(world, source.ref, branch.at)
    return Forked(branch=branch, asked=length, at=branch.at, left_behind=left)


async def _branch(world: World, conversation: Conversation, source: Branch, length: int, name: str) -> Branch:
    return Branch(
        ref=world.ids.branch(),
        conversation=conversation.id,
        agent=source.agent,
        name=checked_name(name, "branch"),
        parent=source.ref,
        at=await world.store.cut(source.ref, length),
        created_at=world.clock.now(),
    )


def _forked(world: World, conversation: Conversation, branch: Branch, kind: str, source: Branch, length: int) -> Fact:
    body = {"name": branch.name, "from": source.name, "at": branch.at, "asked": length}
    return _fact(world, conversation, branch.ref, kind, body)


async def free_name(world: World, conversation: Conversation, source: Branch, index: int) -> str:
    """`main~10`, or `main~10.2` where that is taken."""
    taken = {branch.name for branch in await world.store.branches(conversation.id)}
    stem = f"{source.name}~{index}"
    number = 2
    name = stem
    while name in taken:
        name = f"{stem}.{number}"
        number += 1
    return name


async def checkout(
    world: World, conversation: Conversation, source: Branch, target: Branch, *, keep_running: bool
) -> None:
    """Make `target` the branch that people talk to; what runs on `source` is cancelled unless keep_running."""
    fact = _fact(world, conversation, target.ref, "branch.checked_out", {"name": target.name})
    why = "" if keep_running else f"left for {target.name}"
    await to_the_end(_leave(world, source.ref, target.ref, why, fact))


async def cancel(world: World, ref: StackRef, why: str) -> bool:
    """End the running turn of a stack, its children included. False where nothing ran."""
    if (await world.stacks.refresh(ref)).is_resting:
        return False
    return await to_the_end(_cancel(world, ref, why))


async def _cancel(world: World, ref: StackRef, why: str) -> bool:
    step = await commit(world, ref, lambda stack, at: end(stack, "cancelled", why, at), cause="user")
    await hand_out(world, step.effects)
    return bool(step.states)


async def _leave(
    world: World, source: StackRef, target: StackRef, why: str, fact: Fact, branch: Branch | None = None
) -> None:
    """Go from one branch to another and end what runs on the first, in one commit. why: empty to let it run."""

    def decide(stack: Stack, at: float) -> Step:
        if not why or stack.is_resting:
            return Step(stack, (), 0)
        return end(stack, "cancelled", why, at)

    await world.stacks.refresh(source)
    step = await commit(world, source, decide, cause="user", facts=(fact,), branch=branch, current=target)
    await hand_out(world, step.effects)


async def find(world: World, conversation: Conversation, name: str) -> Branch:
    """The branch of that name, or of that unique beginning of a name or ref. Raises UsageError."""
    checked_name(name, "branch")
    branches = await world.store.branches(conversation.id, delegates=True)
    for branch in branches:
        if name in (branch.name, branch.ref):
            return branch
    return named([branch for branch in branches if branch.delegate is None], name, conversation.name)


def named(branches: Sequence[Branch], name: str, conversation: str) -> Branch:
    """The one branch of that name, or of that unique beginning of a name or ref. Raises UsageError."""
    near = [branch for branch in branches if name in (branch.name, branch.ref)] or [
        each for each in branches if name and (each.name.startswith(name) or is_beginning(name, each.ref))
    ]
    if len(near) == 1:
        return near[0]
    listed = ", ".join(repr(branch.name) for branch in (near or branches)[:REFERENCES_LISTED_MAX])
    raise UsageError(f"{'ambiguous' if near else 'no'} branch {name!r} in {conversation!r}; there is {listed}")


async def left_behind(world: World, ref: StackRef, since: int) -> tuple[str, ...]:
    """Tool calls after `since` that may have changed the world, delegates' included; no rewind undoes them."""
    children: dict[tuple[StackRef, int], list[Branch]] = {}  # by the entry that waits for them
    for child in await world.store.branches((await world.stacks.branch(ref)).conversation, delegates=True):
        if child.delegate:
            children.setdefault((ref_of(child.delegate), wait_key(child.delegate)[0]), []).append(child)
    done: list[str] = []
    unread = [(ref, since)]
    while unread:
        ref, since = unread.pop()
        entries = [
            (placed.ref, index, state)
            for placed in await world.store.load(ref, since=since)
            for index, state in enumerate(placed.commit.states, placed.seq)
            if index >= since
        ]
        done += await _side_effects(world, ref, [state for _, _, state in entries])
        waits = [(on, index) for on, index, state in entries if isinstance(state, Waiting)]
        unread += [(child.ref, child.at) for wait in reversed(waits) for child in reversed(children.get(wait, ()))]
    return tuple(done)


async def _side_effects(world: World, ref: StackRef, states: Sequence[AnyState]) -> list[str]:
    """Of these states of a stack, the calls that may have changed the world."""
    sent = list(_sent(states))
    if not sent:
        return []
    granted = {grant.name: grant.repeat for grant in (await world.stacks.get(ref)).setup.tools}
    if any(call.tool not in granted for call, _ in sent):  # taken off the list since, or never on it
        setups = [s.setup for p in await world.store.load(ref) for s in p.commit.states if isinstance(s, Override)]
        granted = {grant.name: grant.repeat for setup in setups if setup for grant in setup.tools} | granted
    done: list[str] = []
    for call, outcome in sent:
        if granted.get(call.tool, "free") != "free":
            arguments = msgspec.json.encode(call.arguments).decode()
            done.append(f"{call.tool}({arguments[:200]}) → {outcome}")
    return done


def _sent(states: Sequence[AnyState]) -> Iterator[tuple[ToolCall, str]]:
    """Each tool call that was sent, with what became of it."""
    sent: dict[str, ToolCall] = {}
    for state in states:
        match state:
            case ToolCall():
                sent[state.call_id] = state
            case ToolResult():
                call = sent.pop(state.call_id, None)
                if call and state.status not in ("skipped", "denied"):
                    yield call, state.status
            case Finished():
                yield from ((call, CUT_OFF) for call in sent.values())
                sent = {}
            case _:
                pass
    yield from ((call, CUT_OFF) for call in sent.values())


def _fact(world: World, conversation: Conversation, ref: StackRef, kind: str, body: dict[str, Any]) -> Fact:
    return Fact(
        id=world.ids.fact(),
        kind=kind,
        cause="user",
        at=world.clock.now(),
        conversation=conversation.id,
        ref=ref,
        body=body,
    )


def main_branch(conversation: Conversation) -> Branch:
    """The first branch of a conversation."""
    return Branch(
        ref=conversation.current,
        conversation=conversation.id,
        agent=conversation.agent,
        name=MAIN,
        created_at=conversation.created_at,
    )

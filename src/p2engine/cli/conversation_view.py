"""Conversations, entries and events in words for people and as documents for programs.

Knows what a state means to a reader. Reads no store and prints nothing; text of others is returned as it is.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from p2engine.cli.output import iso, one_line
from p2engine.domain.ids import StackRef, ref_of, wait_key
from p2engine.domain.messages import Usage
from p2engine.domain.money import CREDIT
from p2engine.domain.records import Branch, Event, Placed, body_of
from p2engine.domain.setup import Spent
from p2engine.domain.stack import Stack
from p2engine.domain.states import (
    AgentCall,
    AgentResult,
    AnyState,
    AssistantMessage,
    Finished,
    Override,
    ToolCall,
    ToolResult,
    UserInputRequest,
    UserMessage,
    UserResponse,
    Waiting,
    name_of,
)

_PLACE = re.compile(r"([0-9a-f]{12}):([0-9]{1,15})(?:\.(?:[0-9]{1,9}|model))?")
STATE = "state."


class Entry(msgspec.Struct, frozen=True):
    """One entry of a stack. ref: the branch that wrote it. usage: of the model call whose answer begins here."""

    index: int
    at: float
    ref: StackRef
    state: AnyState
    cause: str
    usage: Usage | None

    @property
    def id(self) -> str:
        return f"{self.ref}:{self.index}"


def entries_of(commits: Iterable[Placed], *, since: int = 0) -> list[Entry]:
    """The entries of a stack from `since` on."""
    return [
        Entry(index, placed.commit.at, placed.ref, state, placed.commit.cause, None if number else placed.commit.usage)
        for placed in commits
        for number, state in enumerate(placed.commit.states)
        if (index := placed.seq + number) >= since
    ]


class Place(msgspec.Struct, frozen=True):
    """A position on the stack of a branch."""

    ref: StackRef
    index: int


def place_of(name: str) -> Place | None:
    """The position in an effect id, an entry's id or a model call's id; None for any other text."""
    found = _PLACE.fullmatch(name)
    return Place(StackRef(found[1]), int(found[2])) if found else None


# What a conversation is at


def status_of(stack: Stack, *, is_held: bool = True) -> str:
    """`empty`, `running`, `waiting` (for a person), `stopped` (owed, and nobody is at it), `finished`, or why it ended.

    is_held: whether a living process does what the stack owes. A stack cut by a fork in mid-turn is `stopped`.
    """
    match stack.ground:
        case None:
            return "empty"
        case Finished(reason="answered"):
            return "finished"
        case Finished(reason=reason):
            return reason
        case _ if any(pending.what in ("human", "approval") for pending in stack.open.values()):
            return "waiting"
        case _:
            return "running" if stack.open and is_held else "stopped"


def spent_in(replies: Iterable[Event]) -> Spent:
    """What these `model.reply` events cost together."""
    spent = Spent()
    for event in replies:
        spent = spent.plus(msgspec.convert(event.body, Usage).spent)
    return spent


def dollars(cost: float | None) -> str:
    """A cost in US dollars; `–` where it is not known."""
    return "–" if cost is None else f"${cost:.6f}".rstrip("0").rstrip(".")


def tokens_of(usage: Usage | None) -> int | None:
    """Tokens of one model call, in and out."""
    return usage.tokens_in + usage.tokens_out if usage else None


def when(at: float) -> str:
    """A recorded time for people: UTC, to the second."""
    return when_words(iso(at))


def when_words(at: str | None) -> str:
    """The same from a time as programs see it."""
    return at[:19].replace("T", " ") if at else "–"


# States and events in words


def words_of(state: AnyState) -> str:
    """One state in a line, without its name. May hold any character."""
    match state:
        case UserMessage():
            return state.text if state.sender == "user" else f"{state.sender}: {state.text}"
        case AssistantMessage() | UserResponse():
            return state.text
        case ToolCall():
            return f"{state.tool}({state.malformed or arguments_text(state.arguments)})"
        case ToolResult():
            return f"{state.tool} → {_status_words(state.status, state.duplicate)}: {state.content}"
        case AgentCall():
            return f"{state.agent} ← {state.message}"
        case AgentResult():
            return f"{state.agent} → {state.status}: {state.content}"
        case UserInputRequest():
            return state.question + (f" ({' / '.join(state.choices)})" if state.choices else "")
        case Waiting():
            return _waiting_words(state)
        case Finished():
            return f"{state.reason}: {state.detail}" if state.detail else state.reason
        case Override():
            return _override_words(state)


def arguments_text(arguments: Mapping[str, Any]) -> str:
    """`location="Paris", unit="celsius"`."""
    return ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())


def changes_text(changes: Mapping[str, Any]) -> str:
    """The same of an override, its lists as they are typed: `tools=get_weather,delegate`, `tools=none`."""
    return ", ".join(
        f"{name}={','.join(map(str, value)) or 'none'}" if isinstance(value, list) else arguments_text({name: value})
        for name, value in changes.items()
    )


def _status_words(status: str, duplicate: int) -> str:
    return f"{status}, repeat {duplicate}" if duplicate else status


def _waiting_words(state: Waiting) -> str:
    counts: dict[str, int] = {}
    for pending in state.on:
        counts[pending.what] = counts.get(pending.what, 0) + 1
    names = {"think": "the model", "human": "a person", "approval": "approval"}
    words = [names.get(what) or f"{number} {what}{'s' if number > 1 else ''}" for what, number in counts.items()]
    return "for " + ", ".join(words)


def awaited_words(stack: Stack) -> str:
    """What an agent waits for, by name: `its model`, `get_weather, agent_helper`."""
    names = {"think": "its model", "human": "a person", "approval": "approval"}
    calls = {call_id: call for call_id, (call, _) in stack.calls.items()}
    words = []
    for pending in stack.open.values():
        match calls.get(pending.call_id):
            case ToolCall(tool=tool):
                words.append(tool)
            case AgentCall(agent=agent):
                words.append(agent)
            case _:
                words.append(names.get(pending.what, pending.what))
    return ", ".join(words)


def _override_words(state: Override) -> str:
    if state.changes:
        locked = f" (locked: {', '.join(state.locks)})" if state.locks else ""
        return changes_text(state.changes) + locked
    setup = state.setup
    if setup is None:
        return f"nothing changed by {state.source or 'the engine'}"
    tools = ", ".join(grant.name for grant in setup.tools) or "no tools"
    persona = f", persona {setup.persona}" if setup.persona else ""
    return f"set up by {state.source or 'the engine'}: {setup.model or setup.type}{persona}, {tools}"


def state_of(event: Event) -> AnyState | None:
    """The state behind a `state.…` event; None for other events, and for one of a later version."""
    if not event.kind.startswith(STATE):
        return None
    try:
        found: AnyState = msgspec.convert({"k": event.kind.removeprefix(STATE), **event.body}, AnyState)
    except msgspec.ValidationError:
        return None
    return found


def summary_of(event: Event, width: int = 200) -> str:
    """One event in one short line that may be printed."""
    state = state_of(event)
    if state is not None:
        return one_line(words_of(state), width)
    body = event.body
    match event.kind:
        case "model.reply":
            return one_line(usage_words(msgspec.convert(body, Usage)), width)
        case "artifact.saved":
            return one_line(f"{body.get('name')} ({body.get('bytes')} bytes, {body.get('media', 'text/plain')})", width)
        case "eval.verdict":
            score = body.get("score")
            words = [str(body.get("evaluator")), "undecided" if score is None else f"{score:g}"]
            return one_line(" ".join([*words, str(body.get("label", "")), str(body.get("comment", ""))]), width)
        case "conversation.opened":
            return one_line(f"{body.get('name')} with {body.get('agent')}", width)
        case "branch.forked" | "branch.rewound":
            return one_line(f"{body.get('name')} from {body.get('from')}, {body.get('at')} entries kept", width)
        case "ledger.marked":
            return one_line(f"the ledger up to record {body.get('seq')}", width)
        case kind if kind.startswith("ledger."):
            return one_line(_paid_words(body), width)
        case "conversation.pruned" | "branch.pruned":
            return one_line(f"{body.get('name')}, {body.get('entries')} entries", width)
        case "branch.checked_out":
            return one_line(body.get("name"), width)
        case _:
            return one_line(json.dumps(body, ensure_ascii=False, default=str), width)


def _paid_words(body: Mapping[str, Any]) -> str:
    """What the ledger wrote, in a line."""
    said = body.get("why") or body.get("reason")
    line = f"{body.get('payer')} → {body.get('payee')} {body.get('amount')} {body.get('instrument', CREDIT)}"
    return f"{line}: {said}" if said else line


def usage_words(usage: Usage) -> str:
    """What one model call cost."""
    offline = ", offline stand-in" if usage.offline else ""
    spent = f"{usage.tokens_in} tokens in, {usage.tokens_out} out, {dollars(usage.cost_usd)}"
    return f"{usage.model}: {spent}, {usage.latency_s:.2f} s{offline}"


def size_of(event: Event) -> int:
    """How many bytes the body of an event has: of an artifact its content, of all others their JSON."""
    if event.kind == "artifact.saved":
        return int(event.body.get("bytes", 0))
    return len(msgspec.json.encode(event.body))


def event_row(event: Event) -> dict[str, Any]:
    """An event as `artifact show` lists it."""
    return {
        "ref": event.id,
        "at": iso(event.at),
        "kind": event.kind,
        "agent": event.agent,
        "branch": event.branch,
        "cause": event.cause,
        "bytes": size_of(event),
        "summary": summary_of(event),
    }


def event_line(event: Event) -> dict[str, Any]:
    """An event as a line of a stream or an export: everything it holds."""
    return {
        "cursor": str(event.cursor),
        "ref": event.id,
        "at": iso(event.at),
        "kind": event.kind,
        "conversation": event.conversation,
        "agent": event.agent,
        "branch": event.branch,
        "index": event.index,
        "cause": event.cause,
        "group": event.group,
        "body": event.body,
    }


def entry_row(entry: Entry, agent: str, branches: Mapping[StackRef, Branch]) -> dict[str, Any]:
    """An entry as `conversation stack` lists it."""
    writer = branches.get(entry.ref)
    return {
        "index": entry.index,
        "at": iso(entry.at),
        "agent": agent,
        "branch": writer.name if writer else entry.ref,
        "state": name_of(entry.state),
        "body": body_of(entry.state),
        "cause": entry.cause,
        "tokens": tokens_of(entry.usage),
    }


def cause_words(cause: str, own: Collection[StackRef], branches: Mapping[StackRef, Branch]) -> str:
    """A cause for people: `#4` on this stack (its own branches: `own`), `agent_helper #4` on another, else itself."""
    place = place_of(cause)
    if place is None:
        return cause
    other = branches.get(place.ref)
    who = "" if place.ref in own else f"{other.agent} " if other else f"{place.ref} "
    return f"{who}#{place.index}"


def point_words(at: int) -> str:
    """Where a branch begins whose parent has so many entries in common with it, by the INDEX of the last of them."""
    return f"after entry {at - 1}" if at else "before entry 0"


# Paths through the tree

Path = Mapping[StackRef, int]
"""How many entries of each branch lie on one path through the tree."""

WHOLE = 2**62  # of a branch of which all is on the path


def path_of(branch: Branch, branches: Mapping[StackRef, Branch], length: int = WHOLE) -> dict[StackRef, int]:
    """The path from the root of the tree to the `length`th entry of a branch."""
    path: dict[StackRef, int] = {}
    current: Branch | None = branch
    while current is not None:
        path[current.ref] = length
        length = min(length, current.at)
        current = branches.get(current.parent) if current.parent else None
    return path


def is_on(path: Path, event: Event, branches: Mapping[StackRef, Branch]) -> bool:
    """Whether an event happened on a path, delegations from it included."""
    if event.ref is None:
        return False
    place = Place(event.ref, event.index) if event.index is not None else place_of(event.id)
    if place is None:  # a fact: it stands where its cause does
        place = place_of(event.cause) or place_of(event.id.partition("=")[0]) or Place(event.ref, 0)
    return covers(path, place, branches)


def covers(path: Path, place: Place, branches: Mapping[StackRef, Branch]) -> bool:
    """Whether a place lies on a path: by itself, or under a delegation that was decided on it."""
    while place.ref not in path:
        branch = branches.get(place.ref)
        if branch is None or branch.delegate is None:
            return False
        place = Place(ref_of(branch.delegate), wait_key(branch.delegate)[0])
    return place.index < path[place.ref]

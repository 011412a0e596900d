"""What must be true of a turn of the cast, whatever died while it ran. Reads any store; changes nothing."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from p2engine.domain.records import Branch, Conversation, Event, Placed, Query
from p2engine.domain.states import AgentCall, AgentResult, AnyState, Finished, ToolCall, ToolResult, UserMessage
from p2engine.errors import StoreError
from p2engine.ports import Archive, BlobStore
from p2engine.runtime.artifacts import SAVED
from tests.crash.cast import RAN, REPEATS, TASK, answer

CALLS = {"boss": 5, "ann": 1, "bob": 1}  # that each agent of the turn makes


class Found(NamedTuple):
    """One conversation at rest. results: of tools, by the effect. gone: what its saved
    bodies lack, by the effect. answer: what its caller should have been told."""

    problems: list[str]
    results: Mapping[str, ToolResult]
    gone: Mapping[str, str]
    facts: Sequence[Event]
    answer: str

    @property
    def interrupted(self) -> int:
        """How many calls ended with their outcome unknown."""
        return sum(result.status == "interrupted" for result in self.results.values())


async def look_at(store: Archive, blobs: BlobStore, conversation: Conversation, task: str = TASK) -> Found:
    """Read one conversation whole."""
    stacks = {
        branch: [placed for placed in await store.load(branch.ref) if placed.ref == branch.ref]
        for branch in await store.branches(conversation.id, delegates=True)
    }
    problems = [f"{branch.agent} owes {effect} at rest" for branch in stacks for effect in await store.owed(branch.ref)]
    facts = await store.events(Query(conversation=conversation.id, kinds=(RAN, SAVED)))
    gone: dict[str, str] = {}
    for fact in facts:
        if fact.kind == SAVED:
            try:
                await blobs.get(fact.body["blob"])
            except StoreError as error:
                gone[fact.cause] = str(error)
    if Counter(branch.agent for branch in stacks) != Counter(CALLS.keys()):
        problems.append(f"stacks of {[branch.agent for branch in stacks]}")
    for branch, own in stacks.items():
        problems += [f"{branch.agent}: {problem}" for problem in _stack_problems(branch, own)]
    root = _states(stacks[next(branch for branch in stacks if branch.ref == conversation.current)])
    expected = answer("boss", [state.content for state in root if isinstance(state, ToolResult | AgentResult)])
    problems += _said_problems(root, task, expected)
    results = {placed.commit.cause: state for own in stacks.values() for placed in own for state in _results(placed)}
    return Found(problems, results, gone, facts, expected)


def _states(own: Iterable[Placed]) -> list[AnyState]:
    return [state for placed in own for state in placed.commit.states]


def _results(placed: Placed) -> Iterator[ToolResult]:
    return (state for state in placed.commit.states if isinstance(state, ToolResult))


def _stack_problems(branch: Branch, own: Sequence[Placed]) -> Iterator[str]:
    """It has finished, answered; each of its calls has one answer; each of its effects was settled once."""
    states = _states(own)
    if not isinstance(states[-1], Finished) or states[-1].reason != "answered":
        yield f"it stands on {states[-1]}"
    asked = Counter(state.call_id for state in states if isinstance(state, ToolCall | AgentCall))
    answered = Counter(state.call_id for state in states if isinstance(state, ToolResult | AgentResult))
    if asked != answered or asked.total() != CALLS[branch.agent] or len(asked) != asked.total():
        yield f"asked {dict(asked)}, answered {dict(answered)}"
    causes = Counter(placed.commit.cause for placed in own if ":" in placed.commit.cause)
    yield from (f"{cause} was settled {times} times" for cause, times in causes.items() if times > 1)


def _said_problems(root: Sequence[AnyState], task: str, expected: str) -> Iterator[str]:
    """The task was heard once, and the answer came from every result."""
    heard = [state.text for state in root if isinstance(state, UserMessage)]
    if heard != [task]:
        yield f"heard {heard}"
    said = getattr(root[-2], "text", "") if len(root) > 1 else ""
    if said != expected:
        yield f"said {said!r}, not {expected!r}"


def trace_problems(
    ran: Sequence[tuple[str, str]],
    results: Mapping[str, ToolResult],
    begun: set[str] | None,
    again: int | Mapping[str, int],
    lost: Collection[str] = (),
) -> Iterator[str]:
    """What really ran, against what the stacks say of it.

    begun: calls that had been marked as begun by processes that died; None where the living are taken for dead too.
    again: how often a call may have run after its first time, for all of them or for each.
    lost: what ran before the store went back to a time at which it had not.
    """
    runs = Counter(key for _, key in ran)
    for kind, key in set(ran):
        if kind != "think" and key not in results and key not in lost:
            yield f"{kind} {key} ran, and no stack knows"
        kills = again if isinstance(again, int) else again.get(key, 0)
        if runs[key] > 1 + kills:
            yield f"{kind} {key} ran {runs[key]} times with {kills} kills"
    for key, result in results.items():
        match REPEATS[result.tool], result.status:
            case "never", "interrupted":
                if runs[key] > 1:
                    yield f"{result.tool} {key} ran {runs[key]} times"
                if begun is not None and key not in begun:
                    yield f"{result.tool} {key} was queued, and is called interrupted"
                if "outcome unknown" not in result.content:
                    yield f"{result.tool} {key} does not say what is known: {result.content!r}"
            case "never", "ok":
                if runs[key] != 1 and key not in lost:
                    yield f"{result.tool} {key} is ok and ran {runs[key]} times"
                if begun is not None and key in begun:
                    yield f"{result.tool} {key} had begun when its process died, and was run again"
            case _, "ok":
                if not runs[key]:
                    yield f"{result.tool} {key} is ok and never ran"
            case _:
                yield f"{result.tool} {key} ended {result.status}: {result.content!r}"


def fact_problems(facts: Sequence[Event], results: Mapping[str, ToolResult]) -> Iterator[str]:
    """What the tools raised and saved stands in the log once where the result is `ok`, and not at all elsewhere."""
    seen = Counter((fact.kind, fact.cause) for fact in facts)
    for key, result in results.items():
        kinds = (RAN, SAVED) if result.tool == "book" else (RAN,)
        for kind in kinds:
            if seen.pop((kind, key), 0) != (result.status == "ok"):
                yield f"{result.tool} {key} is {result.status}, and {kind} is not told so once"
    yield from (f"{kind} of {key} comes from nowhere" for kind, key in seen)

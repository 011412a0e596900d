"""Judging: what an evaluator is shown of a stack, and how its verdict is written. Knows no evaluator."""

import logging
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from p2engine.domain.effects import AnyEffect, Judge
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import StackRef
from p2engine.domain.messages import Usage
from p2engine.domain.money import MAIN_BOOK, BookId
from p2engine.domain.records import Batch, Fact
from p2engine.domain.setup import Spent
from p2engine.domain.stack import Stack
from p2engine.domain.states import (
    AgentCall,
    AgentResult,
    AnyState,
    AssistantMessage,
    Finished,
    ToolCall,
    ToolResult,
    UserInputRequest,
    UserMessage,
    UserResponse,
)
from p2engine.domain.verdicts import Holding, Line, Subject, Verdict
from p2engine.errors import AlreadySettled, CorruptEntry, NewerFormat, StoreError, UsageError
from p2engine.ports import Judges
from p2engine.runtime.world import Kept, World

log = logging.getLogger("p2engine.runtime")

VERDICT = "eval.verdict"


async def judged(effect: Judge, world: World, why_not: str = "") -> Fact:
    """The verdict that is owed, as a fact to write. why_not: nobody can be asked, and it is an error for that."""
    subject = await subject_of(world, effect.ref, effect.key[0] + 1, effect.evaluation)
    if why_not or world.judges is None:
        verdict = _error(effect.evaluation, subject, why_not)
    else:
        look = world.judges.asks_model(effect.evaluation) and not effect.evaluation.again
        verdict, _ = await _verdict(world, world.judges, effect.evaluation, subject, look=look)
    return _fact(world, effect.id, subject, msgspec.structs.replace(verdict, place=effect.place))


async def judge_now(
    world: World, ref: StackRef, evaluation: Evaluation, *, again: bool = False
) -> tuple[Verdict, bool]:
    """Judge a stack as it stands, by hand; and whether the verdict was there already.

    The same evaluator is not asked the same again, unless `again`, wherever it stands: of samples, only for those that
    are missing. Raises UsageError where there is nothing to judge.
    """
    stack = await world.stacks.get(ref)
    subject = await subject_of(world, ref, stack.head, evaluation)
    if world.judges is None or not world.judges.has(evaluation):
        raise UsageError(f"no evaluator {evaluation.evaluator!r}", hint="p2engine eval list shows those there are")
    look = not (again or evaluation.again)
    verdict, known = await _verdict(world, world.judges, evaluation, subject, look=look)
    if known is not None and known.subject == subject.event:
        return known, True
    fact = _fact(world, world.ids.fact(), subject, verdict)
    await world.store.write(Batch(conversation=subject.conversation, facts=(fact,)))
    return verdict, known is not None


async def _verdict(
    world: World, judges: Judges, evaluation: Evaluation, subject: Subject, *, look: bool
) -> tuple[Verdict, Verdict | None]:
    """A verdict on a subject, and the one that it was taken from, where nobody was asked.

    look: whether what was decided of the same before is good enough.
    """
    key = judges.key(evaluation, subject)
    known = await _known(world, key) if look and key else None
    there = known.sampled if known is not None else 0
    if known is not None and there >= evaluation.repeats:
        source = known.source or known.subject
        return msgspec.structs.replace(known, subject=subject.event, source=source, spent=Spent(), place=None), known
    rest = msgspec.structs.replace(evaluation, repeats=evaluation.repeats - there)
    verdict = await judges(rest, msgspec.structs.replace(subject, repeat=evaluation.first + there))
    verdict = known.and_then(verdict) if known is not None else verdict
    return msgspec.structs.replace(verdict, subject=subject.event, key=key, source="", place=None), None


async def settle_verdict(effect: AnyEffect, world: World, facts: Sequence[Fact]) -> Sequence[AnyEffect]:
    """Write the verdict that was owed, once."""
    batch = Batch(conversation=facts[0].conversation, settles=(effect.id,), facts=tuple(facts))
    try:
        await world.store.write(batch)
    except AlreadySettled:
        pass
    except StoreError as error:
        world.doubt(error)
        world.kept[effect.id] = Kept(effect, None, facts)
        raise
    world.kept.pop(effect.id, None)
    return ()


async def subject_of(world: World, ref: StackRef, length: int, evaluation: Evaluation) -> Subject:
    """What stands on the first `length` entries of a stack, as evaluators see it. Raises UsageError for nothing."""
    branch = await world.stacks.branch(ref)
    stack = Stack(ref, branch.agent)
    lines: list[Line] = []
    event, answer = "", ""
    finished: Finished | None = None
    for place, state, at, usage in await _states(world, ref, length):
        if isinstance(state, UserMessage) and isinstance(stack.ground, Finished | None):  # a turn begins
            event, answer, finished = "", "", None
        stack.push(state, at=at, usage=usage)
        lines += _lines(state)
        if isinstance(state, AssistantMessage):
            event, answer = place, state.text
        elif isinstance(state, Finished):
            event, finished = event or place, state
        elif evaluation.when != "finish":
            event = place
    if not event:
        raise UsageError("there is no answer to judge yet")
    return Subject(
        event=event,
        conversation=branch.conversation,
        ref=ref,
        agent=branch.agent,
        transcript=tuple(lines),
        answer=answer,
        reason=finished.reason if finished else None,
        detail=finished.detail if finished else "",
        spent=stack.spent,
        params=evaluation.params,
        holdings=await _holdings(world, stack),
    )


async def _states(world: World, ref: StackRef, length: int) -> list[tuple[str, AnyState, float, Usage | None]]:
    """Each entry below `length`: its event id, itself, its time, and what was used for it."""
    found: list[tuple[str, AnyState, float, Usage | None]] = []
    for placed in await world.store.load(ref):
        commit = placed.commit
        for n, state in enumerate(commit.states[: max(0, length - placed.seq)]):
            found.append((f"{placed.ref}:{placed.seq + n}", state, commit.at, None if n else commit.usage))
    return found


def _lines(state: AnyState) -> Iterator[Line]:
    match state:
        case UserMessage():
            yield Line(kind="user", text=state.text)
        case AssistantMessage():
            yield Line(kind="assistant", text=state.text)
        case ToolCall():
            yield Line(kind="call", name=state.tool, arguments=state.arguments, text=state.malformed)
        case AgentCall():
            yield Line(kind="call", name="delegate", arguments={"agent_id": state.agent, "message": state.message})
        case ToolResult():
            yield Line(kind="result", name=state.tool, text=state.content, status=state.status, reward=state.reward)
        case AgentResult():
            yield Line(kind="result", name="delegate", text=state.content, status=state.status)
        case UserInputRequest():
            yield Line(kind="ask", text=state.question)
        case UserResponse():
            yield Line(kind="user", text=state.text)
        case _:
            return


async def _holdings(world: World, stack: Stack) -> Mapping[str, Holding]:
    if world.ledger is None:
        return {}
    try:
        accounts = await (await world.ledger()).accounts(book=BookId(stack.setup.book) or MAIN_BOOK)
    except StoreError as error:  # what does not look at money is judged all the same; the rest is undecided
        log.warning("judged without the ledger: %s", error)
        return {}
    return {
        one.name: Holding(str(one.balance), str(one.received), str(one.sent))
        for one in accounts
        if one.kind == "wallet"
    }


async def _known(world: World, key: str) -> Verdict | None:
    """None also for one that cannot be read, which is no reason not to judge."""
    try:
        event = await world.store.known(_name(key))
        return None if event is None else msgspec.convert(event.body, Verdict)
    except (CorruptEntry, NewerFormat, msgspec.ValidationError) as error:
        log.warning("a verdict that was given before cannot be read: %s", error)
        return None


def _name(key: str) -> str:
    """What a verdict of that key is known as."""
    return f"verdict:{key}"


def _error(evaluation: Evaluation, subject: Subject, why: str) -> Verdict:
    return Verdict(
        evaluator=evaluation.evaluator,
        version=evaluation.version,
        subject=subject.event,
        status="error",
        comment=why,
    )


def _fact(world: World, key: str, subject: Subject, verdict: Verdict) -> Fact:
    return Fact(
        id=key,
        kind=VERDICT,
        cause=verdict.subject,
        at=world.clock.now(),
        conversation=subject.conversation,
        ref=subject.ref,
        body=msgspec.to_builtins(verdict),
        known_as=_name(verdict.key) if verdict.key and verdict.is_decided else "",
    )

"""Judging: what an evaluator is shown of a stack, and how its verdict is written. Knows no evaluator."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from p2engine.domain.effects import AnyEffect, Judge
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import StackRef
from p2engine.domain.messages import Usage
from p2engine.domain.money import MAIN_BOOK, BookId
from p2engine.domain.records import Batch, Fact, Query
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
from p2engine.limits import QUERY_EVENTS_MAX
from p2engine.ports import Judges
from p2engine.runtime.world import Kept, World

log = logging.getLogger("p2engine.runtime")

VERDICT = "eval.verdict"


async def judged(effect: Judge, world: World, why_not: str = "") -> Fact:
    """The verdict that is owed, as a fact to write. why_not: nobody can be asked, and it is an error for that."""
    evaluation = effect.evaluation
    subject = await subject_of(world, effect.ref, effect.key[0] + 1, evaluation)
    if why_not or world.judges is None:
        verdict = _error(evaluation, subject, why_not)
    else:
        key = world.judges.key(evaluation, subject)
        look = world.judges.asks_model(evaluation) and not evaluation.again
        known = await _known(world, key, _numbers(evaluation)) if look else {}
        verdict = await _verdict(world.judges, evaluation, subject, key, known)
    return _fact(world, effect.id, subject, msgspec.structs.replace(verdict, place=effect.place))


async def judge_now(
    world: World, ref: StackRef, evaluation: Evaluation, *, again: bool = False
) -> tuple[Verdict, bool]:
    """Judge a stack as it stands, by hand; and whether the verdict was there already.

    The same evaluator is not asked the same again, unless `again`, wherever it stands: of samples, only for those that
    are missing. What was said here last counts before what was said elsewhere. Raises UsageError where there is nothing
    to judge.
    """
    stack = await world.stacks.get(ref)
    subject = await subject_of(world, ref, stack.head, evaluation)
    if world.judges is None or not world.judges.has(evaluation):
        raise UsageError(f"no evaluator {evaluation.evaluator!r}", hint="p2engine eval list shows those there are")
    key, numbers = world.judges.key(evaluation, subject), _numbers(evaluation)
    known: dict[int, Verdict] = {}
    if key and not (again or evaluation.again):
        here = [each for each in await _here(world, subject) if each.key == key]
        if (whole := next((each for each in here if all(map(each.part, numbers))), None)) is not None:
            return whole, True
        known = await _known(world, key, numbers)
        known |= {n: part.taken for each in reversed(here) for n in numbers if (part := each.part(n))}
    verdict = await _verdict(world.judges, evaluation, subject, key, known)
    fact = _fact(world, world.ids.fact(), subject, verdict)
    await world.store.write(Batch(conversation=subject.conversation, facts=(fact,)))
    return verdict, len(known) == len(numbers)


async def _verdict(
    judges: Judges, evaluation: Evaluation, subject: Subject, key: str, known: Mapping[int, Verdict]
) -> Verdict:
    verdict = await judges(evaluation, subject, known)
    return msgspec.structs.replace(verdict, subject=subject.event, first=evaluation.first, key=key, place=None)


def _numbers(evaluation: Evaluation) -> range:
    """Of the samples that it asks for."""
    return range(evaluation.first, evaluation.first + evaluation.repeats)


async def _known(world: World, key: str, numbers: Iterable[int]) -> dict[int, Verdict]:
    """What was decided of the same before, anywhere, by the number of the sample.

    One that cannot be read is no reason not to judge.
    """
    found = {}
    for number in numbers if key else ():
        try:
            event = await world.store.known(_name(key, number))
            part = None if event is None else msgspec.convert(event.body, Verdict).part(number)
        except (CorruptEntry, NewerFormat, msgspec.ValidationError) as error:
            log.warning("a verdict that was given before cannot be read: %s", error)
            continue
        if part is not None:
            found[number] = part.taken
    return found


async def _here(world: World, subject: Subject) -> list[Verdict]:
    """The verdicts on the same event, the newest first."""
    query = Query(conversation=subject.conversation, kinds=(VERDICT,), limit=QUERY_EVENTS_MAX, newest=True)
    events = reversed(await world.store.events(query))
    return [msgspec.convert(event.body, Verdict) for event in events if event.body.get("subject") == subject.event]


def _name(key: str, number: int) -> str:
    """What the verdict is known as that has this sample."""
    return f"verdict:{key}:{number}"


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
        holdings=await _holdings(world, stack) if _sees_wallets(world, stack, evaluation) else {},
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


def _sees_wallets(world: World, stack: Stack, evaluation: Evaluation) -> bool:
    """A model is told of wallets in a book of the conversation's own: in the main one everybody pays."""
    return bool(stack.setup.book) or world.judges is None or not world.judges.asks_model(evaluation)


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
        known_as=tuple(_names(verdict)) if verdict.key else (),
    )


def _names(verdict: Verdict) -> Iterator[str]:
    """Those of the samples that somebody was asked for here, and decided."""
    for number in range(verdict.first, verdict.first + max(1, len(verdict.parts))):
        part = verdict.part(number)
        if part is not None and not part.source:
            yield _name(verdict.key, number)

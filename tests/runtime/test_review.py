"""What stops a turn for good if nobody thinks of it: waits that are cut short, faults, and values no store can hold."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from p2engine.dispatch.inline import InlineDispatcher
from p2engine.domain.decisions import (
    AskUser,
    CallAgentAfter,
    Decision,
    Delegate,
    Finish,
    Move,
    Say,
    ToolOutcome,
    UseTool,
)
from p2engine.domain.ids import AgentId
from p2engine.domain.setup import Budget
from p2engine.domain.stack import Stack
from p2engine.domain.states import AssistantMessage, Finished, ToolResult
from p2engine.errors import IllegalTransition, StoreBusy, StoreError, ToolError, UsageError
from p2engine.limits import REPLY_BYTES_MAX
from p2engine.ports import AgentView, ToolContext
from p2engine.runtime import turn
from p2engine.runtime.bus import Bus
from p2engine.runtime.conversation import Conversation
from p2engine.runtime.engine import Engine
from p2engine.runtime.world import World
from p2engine.stores.sqlite import SqliteStore
from p2engine.testing.doubles import CountingIds, Decide, FixedRoster, FunctionTools, ManualClock, ToolBody
from p2engine.testing.memory import MemoryBlobs
from p2engine.testing.virtual_time import run as run_virtually

HALF = "\ud800"  # half a character: no UTF-8


def deep() -> list[Any]:
    """A list in a list in a list…, deeper than any encoder goes."""
    value: list[Any] = []
    for _ in range(1500):
        value = [value]
    return value


@asynccontextmanager
async def engine_of(
    agents: dict[str, Decide],
    tools: dict[str, ToolBody] | None = None,
    *,
    path: Path | None = None,
    repeat: Any = "never",
    **more: Any,
) -> AsyncIterator[Engine]:
    store = await SqliteStore.open(path or ":memory:", sync="FULL" if path else "NORMAL")
    world = World(
        store=store,
        blobs=MemoryBlobs(),
        roster=FixedRoster(agents, dict.fromkeys(tools or {}, repeat), **more),
        tools=FunctionTools(tools),
        clock=ManualClock(),
        ids=CountingIds(),
        owner=store.owner,
        bus=Bus(),
    )
    engine = Engine(world, lambda run, failed: InlineDispatcher(run, failed, grace_s=0.1))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.aclose()


async def hello(view: AgentView) -> str:
    return f"answer {users(view)}"


def users(view: AgentView) -> int:
    return sum(fragment.message.role == "user" for fragment in view.fragments)


async def refolded(conversation: Conversation, engine: Engine) -> Stack:
    """The stack as another process would read it."""
    stack = Stack(conversation.record.current, AgentId("boss"))
    return stack.place_all(await engine.world.store.load(conversation.record.current))


# Waits that are cut short


async def cut_while_writing(doing: Awaitable[Any], engine: Engine) -> None:
    """Cancel it when its commit is under way and not yet there."""
    task = asyncio.ensure_future(doing)
    writer = engine.world.store._writer  # type: ignore[attr-defined]
    while not writer._queue and not task.done():
        writer._was_alone = False  # so that it waits for company, and can be cut off meanwhile
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_say_cut_short_while_it_is_written_leaves_a_turn_that_runs(tmp_path: Path) -> None:
    """Whoever stops waiting in the middle of the commit stops waiting only: the turn is done, the next one works."""
    async with engine_of({"boss": hello}, path=tmp_path / "p.db") as engine:
        conversation = await engine.conversation("c", agent="boss")
        await cut_while_writing(conversation.say("one"), engine)

        async with asyncio.timeout(30):
            assert (await conversation.say("two")).text == "answer 2"
        assert not await engine.world.store.owed(conversation.record.current)


async def test_a_resume_cut_short_while_it_is_written_leaves_a_turn_that_runs(tmp_path: Path) -> None:
    """The same for a cut turn that is set going again."""
    async with engine_of({"boss": hello}, path=tmp_path / "p.db") as engine:
        conversation = await engine.conversation("c", agent="boss")
        await conversation.say("one")
        await conversation.rewind(1)
        await cut_while_writing(conversation.resume(), engine)

        async with asyncio.timeout(30):
            await conversation.resume()
            assert (await conversation.say("two")).text == "answer 2"


async def test_a_cancel_cut_short_while_it_is_written_reaches_the_children(tmp_path: Path) -> None:
    """The cancellation of a turn goes on to its delegates though nobody waits for it any more."""
    asked = asyncio.Event()

    async def boss(view: AgentView) -> Sequence[Move]:
        return [Delegate(AgentId("ann"), "work")]

    async def ann(view: AgentView) -> str:
        asked.set()
        await asyncio.Event().wait()
        return ""

    async with engine_of({"boss": boss, "ann": ann}, path=tmp_path / "p.db") as engine:
        conversation = await engine.conversation("c", agent="boss")
        saying = asyncio.ensure_future(conversation.say("go"))
        await asked.wait()
        await cut_while_writing(conversation.cancel(), engine)
        assert (await saying).finished == "cancelled"

        child = next(b for b in await conversation.branches(delegates=True) if b.delegate)
        async with asyncio.timeout(30):
            while not isinstance((await engine.world.stacks.refresh(child.ref)).ground, Finished):
                await asyncio.sleep(0)


def test_a_say_that_was_cut_short_leaves_no_waiter() -> None:
    """Who no longer waits is not kept in mind."""

    async def slow(view: AgentView) -> str:
        await asyncio.sleep(5)
        return "done"

    async def main() -> None:
        async with engine_of({"boss": slow}) as engine:
            conversation = await engine.conversation("c", agent="boss")
            task = asyncio.ensure_future(conversation.say("one"))
            await asyncio.sleep(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not engine.world.bus._waiters

    run_virtually(main())


def test_an_agent_that_awaits_something_cancelled_has_failed() -> None:
    """A CancelledError of the agent's own ends the turn as an error; it is not taken for the end of the engine."""

    async def boss(view: AgentView) -> str:
        if users(view) == 1:
            raise asyncio.CancelledError
        return "second"

    async def main() -> None:
        async with engine_of({"boss": boss}) as engine, asyncio.timeout(60):
            conversation = await engine.conversation("c", agent="boss")
            assert (await conversation.say("one")).finished == "error"
            assert (await conversation.say("two")).text == "second"

    run_virtually(main())


def test_a_cancelled_think_that_answers_all_the_same_leaves_its_task_as_it_was() -> None:
    """An agent that swallows the interruption: its late answer is an event, and nothing of the cancellation stays."""
    counts: list[int] = []

    async def boss(view: AgentView) -> str:
        task = asyncio.current_task()
        assert task is not None
        if users(view) == 1:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                asyncio.get_running_loop().call_later(1, lambda: counts.append(task.cancelling()))
                return "too late"
        return "second"

    async def main() -> None:
        async with engine_of({"boss": boss}) as engine, asyncio.timeout(60):
            conversation = await engine.conversation("c", agent="boss")
            saying = asyncio.ensure_future(conversation.say("one"))
            await asyncio.sleep(1)
            await conversation.cancel()
            assert (await saying).finished == "cancelled"
            assert (await conversation.say("two")).text == "second"
            await asyncio.sleep(5)
            assert counts == [0]

    run_virtually(main())


# Faults


def test_a_sender_with_a_colon_is_a_name() -> None:
    """`slack:bob` says who spoke; it is not read as an effect."""

    async def main() -> None:
        async with engine_of({"boss": hello}) as engine, asyncio.timeout(60):
            conversation = await engine.conversation("c", agent="boss")
            both = asyncio.gather(conversation.say("one", sender="slack:bob"), conversation.say("two", sender="a:b"))
            assert [reply.text for reply in await both] == ["answer 1", "answer 2"]

    run_virtually(main())


def test_an_outcome_is_not_lost_when_the_disk_refuses_it_once() -> None:
    """What a tool did is written when the disk is back: not done again, and not called unknown."""
    ran: list[str] = []

    async def pay(arguments: Any, ctx: ToolContext) -> str:
        ran.append(ctx.idempotency_key)
        return "paid"

    async def boss(view: AgentView) -> Sequence[Move] | str:
        last = view.fragments[-1].message
        return [UseTool("pay")] if last.role == "user" else f"so: {last.text}"

    async def main() -> None:
        async with engine_of({"boss": boss}, {"pay": pay}) as engine, asyncio.timeout(60):
            store: Any = engine.world.store
            real = store.write
            refused: list[int] = []

            async def write(batch: Any) -> Any:
                states = [state for stack in batch.writes for state in stack.commit.states]
                if any(isinstance(state, ToolResult) for state in states) and not refused:
                    refused.append(1)
                    raise StoreBusy("locked")
                return await real(batch)

            store.write = write
            conversation = await engine.conversation("c", agent="boss")
            with pytest.raises(StoreBusy):
                await conversation.say("one")
            await asyncio.sleep(10)
            stack = await refolded(conversation, engine)
            assert stack.reply == "so: paid"
            assert len(ran) == 1

    run_virtually(main())


def test_a_fault_of_ours_is_told_to_whoever_speaks_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever on a stack that a fault has stopped, be it in a child's stack."""

    async def boss(view: AgentView) -> Sequence[Move]:
        return [Delegate(AgentId("ann"), "work")]

    real = turn.row_of

    def row_of(stack: Any, step: Any, cause: Any) -> Any:
        if any(isinstance(state, AssistantMessage) for state in step.states):
            raise IllegalTransition("a fault of ours")
        return real(stack, step, cause)

    async def main() -> None:
        monkeypatch.setattr(turn, "row_of", row_of)
        async with engine_of({"boss": boss, "ann": hello}) as engine, asyncio.timeout(60):
            conversation = await engine.conversation("c", agent="boss")
            with pytest.raises(IllegalTransition):
                await conversation.say("one")
            with pytest.raises(IllegalTransition):
                await conversation.say("two")
            monkeypatch.setattr(turn, "row_of", real)
            assert await conversation.cancel()
            assert (await refolded(conversation, engine)).reply == ""

    run_virtually(main())


def test_a_message_that_the_budget_refuses_at_once_is_answered() -> None:
    """The turn may end in the very commit that begins it."""

    async def main() -> None:
        async with engine_of({"boss": hello}, budget=Budget(steps=0)) as engine, asyncio.timeout(60):
            conversation = await engine.conversation("c", agent="boss")
            reply = await conversation.say("one")
            assert (reply.finished, reply.detail) == ("budget", "0 steps in one turn")

    run_virtually(main())


def test_a_delegate_that_asks_a_person_is_told_that_nobody_hears_it() -> None:
    """Whoever speaks, speaks to the root: a question further down would keep the turn waiting for ever."""

    async def boss(view: AgentView) -> Sequence[Move] | str:
        last = view.fragments[-1].message
        return [Delegate(AgentId("ann"), "work")] if last.role == "user" else f"ann said: {last.text}"

    async def ann(view: AgentView) -> Sequence[Move] | str:
        last = view.fragments[-1].message
        return [AskUser("how?")] if last.role == "user" else f"told {last.text[:10]}"

    async def main() -> None:
        async with engine_of({"boss": boss, "ann": ann}) as engine, asyncio.timeout(60):
            conversation = await engine.conversation("c", agent="boss")
            assert (await conversation.say("one")).text == "ann said: told a delegate"

    run_virtually(main())


def test_an_agent_that_will_not_be_cancelled_does_not_keep_the_engine_open() -> None:
    """Closing takes two grace periods at most."""

    async def boss(view: AgentView) -> str:
        ended = asyncio.get_running_loop().time() + 1000
        while (left := ended - asyncio.get_running_loop().time()) > 0:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(left)
        return ""

    async def main() -> None:
        async with engine_of({"boss": boss}) as engine:
            conversation = await engine.conversation("c", agent="boss")
            saying = asyncio.ensure_future(conversation.say("one"))
            await asyncio.sleep(1)
            async with asyncio.timeout(10):
                await engine.aclose()
            with pytest.raises(StoreError):
                await saying

    run_virtually(main())


def test_a_rating_counts_turns_as_replies_do() -> None:
    """After a rewind to a message that was never answered here, too."""

    async def main() -> None:
        async with engine_of({"boss": hello}) as engine, asyncio.timeout(60):
            conversation = await engine.conversation("c", agent="boss")
            await conversation.say("one")
            await conversation.say("two")
            await conversation.rewind(5)
            reply = await conversation.say("other")
            rated = await conversation.rate(1.0, turn=reply.turn)
            assert rated == await conversation.rate(1.0)
            with pytest.raises(UsageError, match="turn 2"):
                await conversation.rate(1.0, turn=2)

    run_virtually(main())


# Two processes


@asynccontextmanager
async def two_engines(agents: dict[str, Decide], path: Path) -> AsyncIterator[tuple[Conversation, Conversation]]:
    """One conversation as two terminals on one file hold it."""
    async with engine_of(agents, path=path) as one, engine_of(agents, path=path) as other:
        yield await one.conversation("c", agent="boss"), await other.conversation("c")


async def asking(view: AgentView) -> Sequence[Move] | str:
    last = view.fragments[-1].message
    return [AskUser("which?")] if last.text == "ask" else f"so: {last.text}"


async def test_a_question_that_another_process_heard_is_answered_by_what_is_said_here(tmp_path: Path) -> None:
    """What this process has in memory is old: the message is an answer all the same."""
    async with two_engines({"boss": asking}, tmp_path / "p.db") as (one, other), asyncio.timeout(30):
        await other.say("hello")
        assert (await one.say("ask")).asks
        assert (await other.say("blue")).text == "so: blue"


async def test_of_two_answers_to_one_question_the_second_is_a_message(tmp_path: Path) -> None:
    """Nobody's words are refused because another was faster."""
    async with two_engines({"boss": asking}, tmp_path / "p.db") as (one, other), asyncio.timeout(30):
        assert (await one.say("ask")).asks
        await other.stack()
        replies = await asyncio.gather(one.say("blue"), other.say("red"))
        assert replies[-1].text.startswith("so: ")
        said = [f.message.text for f in (await one.stack()).fragments if f.message.role in ("user", "tool")]
        assert sorted(said) == ["ask", "blue", "red"]


async def test_a_stack_forgotten_while_somebody_waits_for_it_is_still_heard_of(tmp_path: Path) -> None:
    """The memory for stacks is bounded; the wait for an answer that another process gives is not lost with it."""
    goes_on = asyncio.Event()

    async def boss(view: AgentView) -> str:
        await goes_on.wait()
        return "done"

    async with two_engines({"boss": boss}, tmp_path / "p.db") as (one, other), asyncio.timeout(30):
        first = asyncio.ensure_future(one.say("one"))
        while not one._world.busy:
            await asyncio.sleep(0)
        second = asyncio.ensure_future(other.say("two"))
        while not other._world.bus._waiters:
            await asyncio.sleep(0)
        other._world.stacks._stacks.clear()
        goes_on.set()
        assert [reply.text for reply in await asyncio.gather(first, second)] == ["done", "done"]


# Values


def answers(first: Callable[[], Any]) -> Decide:
    async def boss(view: AgentView) -> Any:
        if users(view) > 1:
            return "second"
        return first() if view.fragments[-1].message.role == "user" else "first"

    return boss


ODD_ANSWERS: dict[str, Callable[[], Any]] = {
    "half a character": lambda: f"x{HALF}",
    "half a character in arguments": lambda: [UseTool("t", {"a": [HALF], HALF: 1})],
    "half a character in a tool's name": lambda: [UseTool(f"t{HALF}")],
    "half a character in a call id": lambda: [UseTool("t", {}, HALF)],
    "half a character in malformed arguments": lambda: [UseTool("t", malformed=HALF)],
    "half a character in a delegation": lambda: [Delegate(AgentId(f"a{HALF}"), HALF)],
    "half a character in a question": lambda: [AskUser(HALF)],
    "half a character in an end": lambda: [Finish("gave_up", HALF)],
    "an integer beyond 64 bits": lambda: [UseTool("t", {"a": 10**40})],
    "no number": lambda: [UseTool("t", {"a": math.nan})],
    "nested too deep": lambda: [UseTool("t", {"a": deep()})],
    "an object": lambda: [UseTool("t", {"a": object()})],
    "keys that are no text": lambda: [UseTool("t", {1: 2})],  # type: ignore[dict-item]
    "a text that is none": lambda: [Say(5)],  # type: ignore[arg-type]
    "a delegation to nobody": lambda: [Delegate(None, None)],  # type: ignore[arg-type]
    "an unknown reason": lambda: [Finish("nonsense")],  # type: ignore[arg-type]
    "no move": lambda: [5],
    "a decision of no moves": lambda: Decision(None),  # type: ignore[arg-type]
    "nothing": lambda: None,
    "no text": lambda: "",
    "NUL": lambda: "a\0b",
    "more than a reply may hold": lambda: "x" * (REPLY_BYTES_MAX + 1),
    "a tool's name with NUL": lambda: [UseTool("t\0 {}\n")],
}


@pytest.mark.parametrize("name", ODD_ANSWERS)
def test_whatever_an_agent_answers_the_turn_ends_and_the_next_works(name: str) -> None:
    """And what was written can be read again."""

    async def tool(arguments: Any, ctx: ToolContext) -> str:
        return "ok"

    async def main() -> None:
        async with engine_of({"boss": answers(ODD_ANSWERS[name])}, {"t": tool}) as engine, asyncio.timeout(60):
            conversation = await engine.conversation("c", agent="boss")
            first = await conversation.say("one")
            assert first.finished or first.asks
            if first.asks:
                await conversation.say("an answer")
            assert (await conversation.say("two")).text == "second"
            await refolded(conversation, engine)

    run_virtually(main())


ODD_RESULTS: dict[str, Callable[[], Any]] = {
    "half a character": lambda: ToolOutcome(content=HALF),
    "half a character in an event": lambda: ToolOutcome(events=(("tool.x", {"a": HALF}),)),
    "half a character in a post-effect": lambda: ToolOutcome(then=(CallAgentAfter(AgentId("ann"), HALF),)),
    "an object in an event": lambda: ToolOutcome(events=(("tool.x", {"a": object()}),)),
    "keys that are no text": lambda: ToolOutcome(events=(("tool.x", {1: 2}),)),  # type: ignore[dict-item]
    "an unknown status": lambda: ToolOutcome(status="odd"),  # type: ignore[arg-type]
    "a reward that is no number": lambda: ToolOutcome(reward="high"),  # type: ignore[arg-type]
    "nothing": lambda: None,
}


@pytest.mark.parametrize("name", ODD_RESULTS)
def test_whatever_a_tool_gives_back_the_turn_ends_and_the_next_works(name: str) -> None:
    """And what was written can be read again, the events too."""

    async def tool(arguments: Any, ctx: ToolContext) -> Any:
        return ODD_RESULTS[name]()

    async def main() -> None:
        agents = {"boss": answers(lambda: [UseTool("t")]), "ann": hello}
        async with engine_of(agents, {"t": tool}) as engine, asyncio.timeout(60):
            conversation = await engine.conversation("c", agent="boss")
            assert (await conversation.say("one")).finished == "answered"
            assert (await conversation.say("two")).text in ("second", "first")
            await refolded(conversation, engine)

    run_virtually(main())


def test_an_artifact_name_that_cannot_be_kept_is_the_tools_error() -> None:
    """It is refused when it is saved, not when the result is written."""
    told: list[str] = []

    async def tool(arguments: Any, ctx: ToolContext) -> str:
        with pytest.raises(ToolError) as refused:
            await ctx.artifacts.save(f"a{HALF}", "x")
        told.append(str(refused.value))
        return "ok"

    async def main() -> None:
        async with engine_of({"boss": answers(lambda: [UseTool("t")])}, {"t": tool}) as engine, asyncio.timeout(60):
            conversation = await engine.conversation("c", agent="boss")
            assert (await conversation.say("one")).finished == "answered"
            assert told

    run_virtually(main())


def test_a_provider_error_with_half_a_character_ends_the_turn(caplog: pytest.LogCaptureFixture) -> None:
    """The words of a failure are made plain too."""
    caplog.set_level(logging.CRITICAL, logger="p2engine.runtime")  # the traceback keeps them; reports cannot carry it

    async def boss(view: AgentView) -> str:
        raise ValueError(HALF)

    async def main() -> None:
        async with engine_of({"boss": boss}) as engine, asyncio.timeout(60):
            conversation = await engine.conversation("c", agent="boss")
            assert (await conversation.say("one")).finished == "error"
            assert (await conversation.say("two")).finished == "error"

    run_virtually(main())


def test_a_message_with_half_a_character_is_refused() -> None:
    """The one who speaks is told, and nothing was written."""

    async def main() -> None:
        async with engine_of({"boss": hello}) as engine, asyncio.timeout(60):
            conversation = await engine.conversation("c", agent="boss")
            with pytest.raises(UsageError):
                await conversation.say(f"x{HALF}")
            with pytest.raises(UsageError):
                await engine.conversation(f"x{HALF}", agent="boss")
            assert (await conversation.say("one")).text == "answer 1"

    run_virtually(main())

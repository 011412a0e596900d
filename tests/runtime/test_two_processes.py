"""Two engines on one file, as two terminals or two workers are: owners and heads decide, and nobody's work is lost."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest

from p2engine.domain.decisions import AskUser, Delegate, ToolOutcome, UseTool
from p2engine.domain.ids import AgentId, StackRef
from p2engine.domain.records import Placed
from p2engine.domain.states import AssistantMessage, Finished, ToolCall, ToolResult, UserMessage
from p2engine.errors import HeadMoved
from p2engine.ports import AgentView, ToolContext
from p2engine.runtime.engine import Engine
from tests.runtime.conftest import Gate, Queue, Script, Stage, Waiting, states_of, until

ANN = AgentId("ann")
CALLS = 32


async def last_words(view: AgentView) -> str:
    return f"you said {view.fragments[-1].message.text}"


def conflicts_of(engine: Engine) -> list[HeadMoved]:
    """The conflicts that this engine's store will report from now on."""
    found: list[HeadMoved] = []
    real = engine.world.store.write

    async def write(batch: Any) -> Any:
        try:
            return await real(batch)
        except HeadMoved as moved:
            found.append(moved)
            raise

    engine.world.store.write = write  # type: ignore[method-assign]
    return found


async def test_seam_05_outcomes_of_two_processes_on_one_stack_are_all_kept(on_file: Stage) -> None:
    """32 tools of one reply end at the same moment in two processes: each outcome is written once, none is redone."""
    ran: list[str] = []
    all_there = asyncio.Event()

    async def look(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        ran.append(ctx.idempotency_key)
        if len(ran) == CALLS:
            all_there.set()
        await all_there.wait()
        return f"seen {arguments['n']}"

    boss = Script([UseTool("look", {"n": n}) for n in range(CALLS)], "done")
    queue = Queue()
    engines = [
        on_file.engine({"boss": boss}, {"look": look}, dispatch=queue.join, is_local=False, store=store)
        for store in (on_file.store, await on_file.another_store())
    ]
    conflicts = [conflicts_of(engine) for engine in engines]
    conversation = await engines[0].conversation("demo", agent="boss")

    async with asyncio.timeout(60):
        assert (await conversation.say("go")).text == "done"

    results = [state.content for state in await states_of(conversation) if isinstance(state, ToolResult)]
    assert sorted(results) == sorted(f"seen {n}" for n in range(CALLS))
    assert len(ran) == len(set(ran)) == CALLS
    assert any(conflicts), "nothing was put to the test"
    assert await on_file.owed(conversation) == []


async def test_seam_05_one_process_has_no_conflicts_with_itself(stage: Stage) -> None:
    """A lock per stack puts the writes of one process in a row."""

    async def look(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        await asyncio.sleep(0)
        return "seen"

    boss = Script([UseTool("look", {"n": n}) for n in range(CALLS)], "done")
    engine = stage.engine({"boss": boss}, {"look": look})
    conflicts = conflicts_of(engine)
    await (await engine.conversation("demo", agent="boss")).say("go")
    assert conflicts == []


async def test_failure_05_a_message_to_a_turn_that_another_process_runs(on_file: Stage) -> None:
    """The second terminal's message is answered by the process that owns the turn; both hear their own answer."""
    gate = Gate()

    async def boss(view: AgentView) -> str:
        if len(view.fragments) == 1:
            await gate.pass_through()
        return await last_words(view)

    async def never(view: AgentView) -> str:
        raise AssertionError("the other process runs this turn")

    one = on_file.engine({"boss": boss})
    two = on_file.engine({"boss": never}, store=await on_file.another_store())
    here = await one.conversation("demo", agent="boss")
    first = asyncio.create_task(here.say("one"))
    await gate.reached.wait()
    second = asyncio.create_task((await two.conversation("demo")).say("two"))

    async def arrived() -> bool:
        return len([state for state in await states_of(here) if isinstance(state, UserMessage)]) == 2

    await until(arrived)
    gate.open.set()
    async with asyncio.timeout(30):
        replies = [await first, await second]
    assert [reply.text for reply in replies] == ["you said one", "you said two"]


async def test_a_question_asked_in_one_process_is_answered_in_another(on_file: Stage) -> None:
    """Whoever speaks next answers, also where that process has not heard of the question yet."""
    boss = Script("hello", [AskUser("which city?")], "sunny")
    one = on_file.engine({"boss": boss})
    two = on_file.engine({"boss": boss}, store=await on_file.another_store())
    here, there = await one.conversation("demo", agent="boss"), await two.conversation("demo")
    await here.say("hi")
    await there.stack()  # the second terminal has seen the first turn
    assert (await here.say("weather?")).asks

    async with asyncio.timeout(30):
        reply = await there.say("Paris")
    assert reply.text == "sunny"
    assert boss.seen[2][-1] == "Paris"


async def test_whoever_waits_sees_an_end_that_another_process_wrote(on_file: Stage) -> None:
    """A turn whose owner dies is taken over; the reply is read from the log, not from the process that asked."""
    one = on_file.engine({"boss": last_words}, dispatch=Waiting)
    two = on_file.engine({"boss": last_words}, store=await on_file.another_store())
    here = await one.conversation("demo", agent="boss")
    saying = asyncio.create_task(here.say("one"))

    async def asked() -> bool:
        return len(await on_file.owed(here)) == 1

    await until(asked)
    assert await two.sweeper.sweep() == 0  # its owner lives
    on_file.owners.drop(one.world.owner)
    assert await two.sweeper.sweep() == 1
    async with asyncio.timeout(30):
        assert (await saying).text == "you said one"


async def test_who_only_waits_asks_to_be_told_of_answers_alone(on_file: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever hears the text as it comes is told of everything; and both have the whole stack in the end."""
    asked: list[bool] = []
    follow = on_file.store.follow

    def noted(ref: StackRef, *, since: int, answers: bool = False) -> AsyncIterator[Sequence[Placed] | str]:
        asked.append(answers)
        return follow(ref, since=since, answers=answers)

    monkeypatch.setattr(on_file.store, "follow", noted)
    queue = Queue()
    client = on_file.engine({"boss": last_words}, dispatch=queue.join, is_local=False)
    on_file.engine({"boss": last_words}, dispatch=queue.join, is_local=False, store=await on_file.another_store())
    talk = await client.conversation("demo", agent="boss")
    async with asyncio.timeout(30):
        assert (await talk.say("one")).text == "you said one"
        assert (await talk.say("two", on_text=lambda _: None)).text == "you said two"
    assert asked == [True, False]
    assert (await client.world.stacks.get(talk.record.current)).head == len(await states_of(talk))


async def test_seam_20_a_forgotten_stack_still_tells_whoever_waits(on_file: Stage) -> None:
    """The cache may drop a stack at any time: what another process wrote meanwhile is not missed."""
    one = on_file.engine({"boss": last_words}, dispatch=Waiting)
    two = on_file.engine({"boss": last_words}, store=await on_file.another_store())
    here = await one.conversation("demo", agent="boss")
    saying = asyncio.create_task(here.say("one"))

    async def asked() -> bool:
        return len(await on_file.owed(here)) == 1

    await until(asked)
    one.world.stacks._stacks.clear()
    one.world.stacks._bytes = 0
    on_file.owners.drop(one.world.owner)
    await two.sweeper.sweep()
    async with asyncio.timeout(30):
        assert (await saying).text == "you said one"


async def test_seam_20_only_what_is_new_is_read(on_file: Stage) -> None:
    """A cached stack is a prefix: a process that knows it loads what came after, whatever the length."""
    one = on_file.engine({"boss": last_words})
    two = on_file.engine({"boss": last_words}, store=await on_file.another_store())
    here, there = await one.conversation("demo", agent="boss"), await two.conversation("demo")
    loads: list[int] = []
    real = two.world.store.load

    async def load(ref: Any, *, since: int = 0) -> Any:
        loads.append(since)
        return await real(ref, since=since)

    two.world.store.load = load  # type: ignore[method-assign]
    for number in range(5):
        await here.say(f"m{number}")
        assert (await there.stack()).head == (await here.stack()).head
    assert loads == [0, 5, 9, 13, 17]


async def test_two_who_answer_at_the_same_moment_both_go_on(on_file: Stage) -> None:
    """Two processes begin a turn on one stack at once: one is a turn, the other a message inside it."""
    one = on_file.engine({"boss": last_words})
    two = on_file.engine({"boss": last_words}, store=await on_file.another_store())
    here = await one.conversation("demo", agent="boss")
    there = await two.conversation("demo")
    for number in range(5):
        async with asyncio.timeout(30):
            replies = await asyncio.gather(here.say(f"a{number}"), there.say(f"b{number}"))
        assert {reply.text for reply in replies} >= {f"you said b{number}"} or {f"you said a{number}"}
    heard = [state.text for state in await states_of(here) if isinstance(state, UserMessage)]
    assert sorted(heard) == sorted([f"a{n}" for n in range(5)] + [f"b{n}" for n in range(5)])


async def test_failure_06_what_a_dead_process_had_not_begun_is_done(on_file: Stage) -> None:
    """Killed between the decision and the work: the next process does it, once."""
    ran: list[str] = []

    async def look(arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome:
        ran.append(ctx.idempotency_key)
        return ToolOutcome(content="seen")

    agents = {"boss": Script([UseTool("look"), Delegate(ANN, "go")], "done"), "ann": Script("yes")}
    one = on_file.engine(agents, {"look": look}, {"look": "never"}, dispatch=Waiting)
    here = await one.conversation("demo", agent="boss")
    saying = asyncio.create_task(here.say("go"))

    async def asked() -> bool:
        return len(await on_file.owed(here)) == 1

    await until(asked)
    dispatcher = one.world.dispatcher
    assert isinstance(dispatcher, Waiting)
    await dispatcher.do("think")
    await on_file.kill(one)
    saying.cancel()

    two = on_file.engine(agents, {"look": look}, {"look": "never"}, store=await on_file.another_store())
    assert await two.sweeper.sweep() == 2
    there = await two.conversation("demo")
    async with asyncio.timeout(30):
        reply = await there.resume()
    assert reply is None or reply.text == "done"
    states = await states_of(there)
    assert [type(state) for state in states[-2:]] == [AssistantMessage, Finished]
    assert [state.status for state in states if isinstance(state, ToolResult)] == ["ok"]
    assert len(ran) == 1
    assert sum(isinstance(state, ToolCall) for state in states) == 1
    assert await on_file.owed(there) == []

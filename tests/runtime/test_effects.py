"""What a dead, slow or badly equipped process means for each effect: done once, or said that nobody knows."""

import asyncio
import logging
import sqlite3
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from p2engine.domain.decisions import Delegate, UseTool
from p2engine.domain.ids import AgentId, EffectId
from p2engine.domain.records import Batch, Perform
from p2engine.domain.setup import Repeat
from p2engine.domain.states import AgentResult, ToolResult
from p2engine.errors import NotLoaded
from p2engine.limits import MISFITS_MAX, RELEASES_MAX, TRIES_MAX
from p2engine.ports import AgentView, ToolContext
from p2engine.runtime.conversation import Conversation
from p2engine.runtime.engine import Engine
from p2engine.runtime.handing_back import takes_the_same
from tests.runtime.conftest import Gate, Script, Stage, Waiting, states_of, until

ANN = AgentId("ann")


async def begun(engine: Engine, text: str = "go") -> tuple[Conversation, "asyncio.Task[Any]"]:
    """A turn under way in a process whose jobs wait to be told; its first job is there."""
    conversation = await engine.conversation("demo", agent="boss")
    saying = asyncio.create_task(conversation.say(text))

    async def asked() -> bool:
        return bool(jobs_of(engine).jobs)

    await until(asked)
    return conversation, saying


def jobs_of(engine: Engine) -> Waiting:
    dispatcher = engine.world.dispatcher
    assert isinstance(dispatcher, Waiting)
    return dispatcher


async def results(conversation: Conversation) -> list[ToolResult]:
    return [state for state in await states_of(conversation) if isinstance(state, ToolResult)]


async def finish(engine: Engine) -> None:
    """Do what is due, and all that follows, until nothing is."""
    dispatcher = engine.world.dispatcher
    while await engine.sweeper.sweep():
        if isinstance(dispatcher, Waiting):
            await dispatcher.do_all()


class Recording:
    """A tool double that keeps the key of every run, and can be held up."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.gate: Gate | None = None

    async def __call__(self, arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        self.keys.append(ctx.idempotency_key)
        if self.gate is not None:
            await self.gate.pass_through()
        return "done"


@pytest.mark.parametrize(
    ("repeat", "runs", "status"),
    [("free", 2, "ok"), ("idempotent", 2, "ok"), ("never", 1, "interrupted")],
)
async def test_seam_09_what_a_crash_in_the_middle_means(stage: Stage, repeat: Repeat, runs: int, status: str) -> None:
    """Begun and not settled when its process died: run again with the same key, or told as interrupted, by class."""
    act = Recording()
    act.gate = Gate()
    boss = Script([UseTool("act")], "so it is")
    one = stage.engine({"boss": boss}, {"act": act}, {"act": repeat})
    conversation = await one.conversation("demo", agent="boss")
    saying = asyncio.create_task(conversation.say("go"))
    await act.gate.reached.wait()
    await stage.kill(one)
    saying.cancel()

    act.gate = None
    two = stage.engine({"boss": boss}, {"act": act}, {"act": repeat}, dispatch=Waiting)
    await finish(two)

    (result,) = await results(await two.conversation("demo"))
    assert result.status == status
    assert len(act.keys) == runs
    assert len(set(act.keys)) == 1
    assert status == "ok" or "outcome unknown" in result.content
    assert await stage.owed(conversation) == []


async def test_seam_09_what_was_queued_and_never_begun_is_simply_run(stage: Stage) -> None:
    """A call that never repeats, waiting in the queue of a dead process, has not run: it is run now."""
    act = Recording()
    boss = Script([UseTool("act")], "so it is")
    one = stage.engine({"boss": boss}, {"act": act}, {"act": "never"}, dispatch=Waiting)
    conversation, saying = await begun(one)
    await jobs_of(one).do("think")
    await stage.kill(one)
    saying.cancel()

    two = stage.engine({"boss": boss}, {"act": act}, {"act": "never"}, dispatch=Waiting)
    await finish(two)
    assert [result.status for result in await results(await two.conversation("demo"))] == ["ok"]
    assert len(act.keys) == 1
    assert await stage.owed(conversation) == []


async def test_seam_09_what_the_living_hold_is_never_taken(stage: Stage) -> None:
    """However long it takes, an effect of a living process is not due, and claiming it gives nothing."""
    act = Recording()
    act.gate = Gate()
    boss = Script([UseTool("act")], "so it is")
    one = stage.engine({"boss": boss}, {"act": act}, {"act": "never"})
    two = stage.engine({"boss": boss}, {"act": act}, {"act": "never"}, dispatch=Waiting)
    conversation = await one.conversation("demo", agent="boss")
    saying = asyncio.create_task(conversation.say("go"))
    await act.gate.reached.wait()
    stage.clock.time += 10 * 365 * 86_400
    (effect,) = await stage.owed(conversation)

    assert await two.sweeper.sweep() == 0
    assert await two.run(Perform(effect)) == []
    act.gate.open.set()
    assert (await saying).text == "so it is"
    assert len(act.keys) == 1


@pytest.mark.parametrize("poisoned", ["tool", "model"])
async def test_an_effect_that_kills_its_process_is_given_up(stage: Stage, poisoned: str) -> None:
    """After TRIES_MAX take-overs it settles as an error that says so, and the turn ends."""
    tries = 0
    gate = Gate()

    async def deadly(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        nonlocal tries
        tries += 1
        await gate.pass_through()
        return "never"

    async def boss(view: AgentView) -> Any:
        nonlocal tries
        if poisoned == "model":
            tries += 1
            await gate.pass_through()
        last = view.fragments[-1].message
        return [UseTool("act")] if last.role == "user" else f"so: {last.text}"

    def process() -> Engine:
        return stage.engine({"boss": boss}, {"act": deadly}, {"act": "idempotent"})

    engine = process()
    conversation = await engine.conversation("demo", agent="boss")
    saying = asyncio.create_task(conversation.say("go"))
    await gate.reached.wait()
    saying.cancel()

    async def stalled_or_over() -> bool:
        return gate.reached.is_set() or not await stage.owed(conversation)

    while await stage.owed(conversation):
        gate.reached.clear()
        await stage.kill(engine)
        engine = process()
        await engine.sweeper.sweep()
        await until(stalled_or_over)

    assert tries == TRIES_MAX + 1  # born owned and run, then taken over so often
    words = f"given up: {TRIES_MAX + 1} processes died or stalled on it"
    stack = await engine.world.stacks.refresh(conversation.record.current)
    if poisoned == "tool":
        assert [(r.status, r.content) for r in await results(conversation)] == [("error", words)]
        assert stack.reply == f"so: {words}"
    else:
        assert getattr(stack.ground, "detail", "") == words


async def test_seam_29_a_tool_that_is_not_loaded_here_waits_for_who_has_it(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """On the agent's list, loaded in another process only: handed back, and that one runs it."""
    act = Recording()
    boss = Script([UseTool("act")], "so it is")
    one = stage.engine({"boss": boss}, {}, {"act": "idempotent"}, dispatch=Waiting)
    two = stage.engine({"boss": boss}, {"act": act}, {"act": "idempotent"}, dispatch=Waiting)
    conversation, saying = await begun(one)
    with caplog.at_level(logging.WARNING, "p2engine.runtime"):
        await jobs_of(one).do_all()
    assert "has tool 'act'" in caplog.text
    assert await results(conversation) == []

    assert await two.sweeper.sweep() == 1
    await jobs_of(two).do_all()
    async with asyncio.timeout(30):
        assert (await saying).text == "so it is"
    assert len(act.keys) == 1


async def test_seam_29_a_tool_that_nobody_has_fails_after_a_while(stage: Stage) -> None:
    """Handed back RELEASES_MAX times and still here: the model is told which tool is missing."""
    boss = Script([UseTool("act")], "a pity")
    engine = stage.engine({"boss": boss}, {}, {"act": "never"}, dispatch=Waiting)
    conversation, saying = await begun(engine)
    await jobs_of(engine).do_all()
    sweeps = 0
    while not await results(conversation):
        await engine.sweeper.sweep()
        await jobs_of(engine).do_all()
        sweeps += 1
    assert (await saying).text == "a pity"
    assert sweeps == RELEASES_MAX
    (result,) = await results(conversation)
    assert (result.status, result.content) == (
        "error",
        "tool 'act' is on the agent's list, but no process that runs here has it loaded",
    )
    assert engine.world.released == {}


class Lacking:
    """A roster double that cannot set up anybody: it lacks a tool that another process has."""

    def __init__(self, roster: Any) -> None:
        self._roster = roster

    async def setup(self, *_: Any, **__: Any) -> Any:
        raise NotLoaded("render")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._roster, name)


async def test_seam_29_a_child_is_opened_by_who_has_its_tools(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A process that cannot say what the child's model is told of a tool gives the call back, by the tool's name."""
    agents = {"boss": Script([Delegate(ANN, "one")], "so it is"), "ann": Script("yes")}
    client = stage.engine(agents, dispatch=Waiting)
    worker = stage.engine(agents, dispatch=Waiting, is_local=False)
    worker.world.roster = Lacking(worker.world.roster)
    conversation, saying = await begun(client)
    await jobs_of(client).do("think")
    (call,) = await stage.owed(conversation)
    await stage.store.write(Batch(conversation=conversation.record.id, releases=(call,), owner=client.world.owner))
    with caplog.at_level(logging.WARNING, "p2engine.runtime"):
        assert await worker.run(Perform(call)) == []
    assert "waits for a process that has tool 'render'" in caplog.text
    await client.sweeper.sweep()
    await jobs_of(client).do_all()
    async with asyncio.timeout(30):
        assert (await saying).text == "so it is"


NEWER = {"act": {"type": "object", "properties": {"extra": {"type": "string"}}, "required": ["extra"]}}


async def test_seam_29_a_call_waits_for_who_has_the_tool_that_its_model_was_told_of(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Among workers, one whose tool takes other arguments gives each call back, says so once for the tool, and runs
    nothing."""
    act, newer = Recording(), Recording()
    boss = Script([UseTool("act"), UseTool("act")], "so it is")
    granted: dict[str, Repeat] = {"act": "idempotent"}
    client = stage.engine({"boss": boss}, {}, granted, dispatch=Waiting)
    one = stage.engine({"boss": boss}, {"act": newer}, granted, dispatch=Waiting, is_local=False, takes=NEWER)
    two = stage.engine({"boss": boss}, {"act": act}, granted, dispatch=Waiting, is_local=False)
    conversation, saying = await begun(client)
    await jobs_of(client).do("think")
    calls = await stage.owed(conversation)
    assert len(calls) == 2
    await stage.store.write(Batch(conversation=conversation.record.id, releases=tuple(calls), owner=client.world.owner))
    with caplog.at_level(logging.WARNING, "p2engine.runtime"):
        for effect in calls:
            assert await one.run(Perform(effect)) == []
    (record,) = caplog.records
    assert record.getMessage() == (
        f"effect {calls[0]} waits for a process that has tool 'act' with other arguments than here, as its model was"
        " told; said once"
    )
    assert newer.keys == []
    for effect in calls:
        await two.run(Perform(effect))
    assert act.keys == calls
    await client.sweeper.sweep()
    await jobs_of(client).do_all()
    async with asyncio.timeout(30):
        assert (await saying).text == "so it is"


async def test_seam_29_a_call_of_a_tool_that_nobody_has_as_it_was_is_run_in_the_end(stage: Stage) -> None:
    """Handed back MISFITS_MAX times and still here: then as it is now, so that a turn does not wait for ever."""
    act = Recording()
    boss = Script([UseTool("act")], "so it is")
    granted: dict[str, Repeat] = {"act": "idempotent"}
    client = stage.engine({"boss": boss}, {}, granted, dispatch=Waiting)
    worker = stage.engine({"boss": boss}, {"act": act}, granted, dispatch=Waiting, is_local=False, takes=NEWER)
    conversation, saying = await begun(client)
    await jobs_of(client).do("think")
    (call,) = await stage.owed(conversation)
    await stage.store.write(Batch(conversation=conversation.record.id, releases=(call,), owner=client.world.owner))
    for _ in range(MISFITS_MAX):
        await worker.run(Perform(call))
        assert act.keys == []
    await worker.run(Perform(call))
    assert act.keys == [call]
    assert worker.world.released == {}
    await client.sweeper.sweep()
    await jobs_of(client).do_all()
    async with asyncio.timeout(30):
        assert (await saying).text == "so it is"


async def test_in_one_process_a_tool_that_was_edited_meanwhile_is_run_as_it_is(stage: Stage) -> None:
    """There is nobody else who could have it as it was."""
    act = Recording()
    boss = Script([UseTool("act")], "so it is")
    engine = stage.engine({"boss": boss}, {"act": act}, dispatch=Waiting, takes=NEWER)
    _, saying = await begun(engine)
    await jobs_of(engine).do_all()
    assert (await saying).text == "so it is"
    assert len(act.keys) == 1


@pytest.mark.parametrize(
    ("told", "loaded", "same"),
    [
        ({"properties": {"a": {"type": "string"}}}, {"properties": {"a": {"type": "string"}}}, True),
        ({"properties": {"a": {"description": "an a"}}}, {"properties": {"a": {"description": "the a"}}}, True),
        ({"properties": {"description": {}}}, {"properties": {}}, False),
        ({"$defs": {"title": {"title": "T"}}}, {"$defs": {"title": {}}}, True),
        ({"properties": {"a": {"type": "string"}}}, {"properties": {"a": {"type": "number"}}}, False),
        ({"anyOf": [{"title": "x"}, {"type": "null"}]}, {"anyOf": [{}, {"type": "null"}]}, True),
        ({"properties": {"a": {}}}, {"properties": {"a": {}}, "required": ["a"]}, False),
    ],
)
def test_prose_about_arguments_is_no_other_version(told: dict[str, Any], loaded: dict[str, Any], same: bool) -> None:
    """What may be given is compared, not what is said of it; an argument may be named like such a word."""
    assert takes_the_same(told, loaded) is same


async def test_a_job_that_is_told_twice_is_done_once(stage: Stage) -> None:
    """While it runs, after it is settled, and for an effect that never was."""
    act = Recording()
    act.gate = Gate()
    engine = stage.engine({"boss": Script([UseTool("act")], "so it is")}, {"act": act}, {"act": "free"})
    conversation = await engine.conversation("demo", agent="boss")
    saying = asyncio.create_task(conversation.say("go"))
    await act.gate.reached.wait()
    (effect,) = await stage.owed(conversation)
    assert await engine.run(Perform(effect)) == []
    act.gate.open.set()
    await saying
    assert await engine.run(Perform(effect)) == []
    assert await engine.run(Perform(EffectId("ghost:4.0"))) == []
    assert len(act.keys) == 1


async def test_seam_16_at_rest_nothing_is_owed(stage: Stage) -> None:
    """What is owed is only what is open: tools, delegates and their answers leave nothing behind."""
    boss = Script([UseTool("act"), Delegate(ANN, "one"), Delegate(ANN, "two")], "done")
    engine = stage.engine({"boss": boss, "ann": Script([UseTool("act")], "yes")}, {"act": Recording()})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("go")
    assert await stage.owed(conversation) == []
    assert await stage.store.due(limit=10) == []
    assert engine.world.born == {}
    assert engine.world.busy == set()
    assert engine.world.running == {}


async def test_seam_15_a_childs_answer_settles_both_stacks_in_one_commit(stage: Stage) -> None:
    """The caller's entry and the child's errand are one write: there is no moment between them."""
    engine = stage.engine({"boss": Script([Delegate(ANN, "go")], "done"), "ann": Script("yes")}, dispatch=Waiting)
    conversation, saying = await begun(engine)
    for kind in ("think", "call_agent", "think"):
        await jobs_of(engine).do(kind)
    owed = await stage.owed(conversation)
    assert len(owed) == 2  # the call, and the errand with its answer
    await jobs_of(engine).do("return")
    assert not set(owed) & set(await stage.owed(conversation))
    await jobs_of(engine).do_all()
    assert (await saying).text == "done"


async def test_seam_02_a_name_that_is_used_again_repeats_no_key(stage: Stage) -> None:
    """Two conversations with the same history: every effect has a key of its own."""
    act = Recording()
    for name in ("one", "two"):
        boss = Script([UseTool("act", {"amount": 5})], "done")
        engine = stage.engine({"boss": boss}, {"act": act}, {"act": "idempotent"})
        await (await engine.conversation(name, agent="boss")).say("pay")
    assert len(act.keys) == len(set(act.keys)) == 2


async def test_an_agent_that_is_gone_is_told_to_its_caller(stage: Stage) -> None:
    """Removed from the configuration between the decision and the opening: an error result, and the turn goes on."""
    boss = Script([Delegate(ANN, "go")], "without her then")
    engine = stage.engine({"boss": boss, "ann": Script("hi")}, dispatch=Waiting)
    conversation, saying = await begun(engine)
    await jobs_of(engine).do("think")
    engine.world.roster._setups.pop(ANN)  # type: ignore[attr-defined]
    await jobs_of(engine).do_all()
    assert (await saying).text == "without her then"
    (result,) = [state for state in await states_of(conversation) if isinstance(state, AgentResult)]
    assert (result.status, result.content) == ("error", "no agent 'ann'")
    assert await stage.owed(conversation) == []


async def test_tool_events_are_settled_with_the_result(stage: Stage) -> None:
    """Facts that a tool tells stand in the log beside its result, with the call as their cause."""
    from p2engine.domain.decisions import ToolOutcome

    async def act(arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome:
        return ToolOutcome(content="done", events=(("tool.progress", {"part": 1}), ("tool.progress", {"part": 2})))

    engine = stage.engine({"boss": Script([UseTool("act")], "done")}, {"act": act})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("go")
    events = await stage.events("tool.")
    assert [(event.body["part"], event.cause) for event in events] == [
        (1, f"{conversation.record.current}:4.0"),
        (2, f"{conversation.record.current}:4.0"),
    ]


async def test_seam_29_an_effect_of_a_later_version_is_never_settled(
    on_file: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that cannot read it leaves it owed, says so once, and goes on with the rest."""
    boss = Script([UseTool("act")], "so it is")
    engine = on_file.engine({"boss": boss}, {"act": Recording()}, dispatch=Waiting)
    conversation, saying = await begun(engine)
    await jobs_of(engine).do("think")
    (effect,) = await on_file.owed(conversation)
    with sqlite3.connect(on_file.path) as db:
        db.execute("UPDATE owed SET body = ? WHERE id = ?", (msgspec.msgpack.encode([99, {}]), effect))
    db.close()
    await on_file.kill(engine)
    saying.cancel()

    two = on_file.engine({"boss": boss}, {"act": Recording()}, dispatch=Waiting)
    with caplog.at_level(logging.WARNING, "p2engine.runtime"):
        for _ in range(3):
            assert await two.sweeper.sweep() == 1
            await jobs_of(two).do_all()
    assert await on_file.owed(conversation) == [effect]
    assert caplog.text.count("waits for a newer version") == 1


async def test_a_sweeper_takes_over_what_a_dead_process_held(stage: Stage) -> None:
    """Without anybody asking: started engines look again and again."""
    boss = Script("done")
    one = stage.engine({"boss": boss}, dispatch=Waiting)
    conversation, saying = await begun(one)
    await stage.kill(one)
    two = stage.engine({"boss": boss})
    two.sweeper.period_s = 0.001
    await two.start()

    async def over() -> bool:
        return await stage.owed(conversation) == []

    await until(over)
    async with asyncio.timeout(30):
        assert (await saying).text == "done"

"""Cancelling and leaving: it reaches everything below, loses no fact, and what it left behind is said."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from p2engine.domain.decisions import Delegate, Move, Say, UseTool
from p2engine.domain.ids import AgentId
from p2engine.domain.states import Finished
from p2engine.ports import AgentView, ToolContext
from p2engine.runtime.conversation import Conversation
from p2engine.runtime.engine import Engine
from tests.runtime.conftest import Gate, Script, Stage, Waiting, states_of, until

ANN, BOB = AgentId("ann"), AgentId("bob")


class Busy:
    """An agent double that thinks until it is let go, or interrupted. `ended` tells how it came out."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.ended = ""

    async def __call__(self, view: AgentView) -> str:
        try:
            await self.gate.pass_through()
        except asyncio.CancelledError:
            self.ended = "interrupted"
            raise
        self.ended = "answered"
        return "done"


async def at_rest(stage: Stage, conversation: Conversation) -> None:
    async def settled() -> bool:
        return await stage.owed(conversation) == []

    await until(settled)


async def grounds(engine: Engine, conversation: Conversation) -> list[str]:
    """How each stack of the conversation stands: the reason it finished for."""
    found = []
    for branch in await conversation.branches(delegates=True):
        ground = (await engine.world.stacks.refresh(branch.ref)).ground
        found.append(ground.reason if isinstance(ground, Finished) else type(ground).__name__)
    return found


async def test_seam_07_a_cancel_reaches_children_and_grandchildren(stage: Stage) -> None:
    """Everybody below stops thinking, every stack ends as cancelled, and nothing stays owed."""
    bob = Busy()
    ann = Script([Delegate(BOB, "go on")])
    engine = stage.engine({"boss": Script([Delegate(ANN, "go")]), "ann": ann, "bob": bob})
    conversation = await engine.conversation("demo", agent="boss")
    saying = asyncio.create_task(conversation.say("go"))
    await bob.gate.reached.wait()

    assert await conversation.cancel(why="changed my mind")

    reply = await saying
    assert (reply.finished, reply.detail) == ("cancelled", "changed my mind")
    await at_rest(stage, conversation)
    assert bob.ended == "interrupted"
    assert await grounds(engine, conversation) == ["cancelled"] * 3
    assert not await conversation.cancel()  # there is nothing left to stop


async def test_seam_07_a_child_that_was_not_opened_never_is(stage: Stage) -> None:
    """Cancelled between the decision and the opening: the opening is refused in its own transaction."""
    engine = stage.engine({"boss": Script([Delegate(ANN, "go")]), "ann": Script("hi")}, dispatch=Waiting)
    conversation = await engine.conversation("demo", agent="boss")
    saying = asyncio.create_task(conversation.say("go"))
    dispatcher = engine.world.dispatcher
    assert isinstance(dispatcher, Waiting)

    async def asked() -> bool:
        return bool(dispatcher.jobs)

    await until(asked)
    await dispatcher.do("think")
    (opening,) = dispatcher.jobs
    await conversation.cancel()
    dispatcher.jobs.append(opening)  # a queue may say it twice
    await dispatcher.do_all()

    assert (await saying).finished == "cancelled"
    assert await grounds(engine, conversation) == ["cancelled"]
    assert await stage.owed(conversation) == []


async def test_seam_07_a_child_that_is_being_opened_is_not(stage: Stage) -> None:
    """Cancelled while its setup is looked up: the write that would open it is refused."""
    gate = Gate()
    engine = stage.engine({"boss": Script([Delegate(ANN, "go")]), "ann": Script("hi")})
    roster: Any = engine.world.roster
    real = roster.setup

    async def setup(agent: str, changes: Any, *, stand_in: bool = False) -> Any:
        if agent == ANN:
            await gate.pass_through()
        return await real(agent, changes, stand_in=stand_in)

    roster.setup = setup
    conversation = await engine.conversation("demo", agent="boss")
    saying = asyncio.create_task(conversation.say("go"))
    await gate.reached.wait()
    await conversation.cancel()
    gate.open.set()
    assert (await saying).finished == "cancelled"

    async def idle() -> bool:
        return not engine.world.busy

    await until(idle)
    assert await stage.owed(conversation) == []
    assert len(await conversation.branches(delegates=True)) == 1


async def test_seam_07_what_was_queued_is_not_begun(stage: Stage) -> None:
    """A call that had not begun when its turn was cancelled never runs, of whatever class it is."""
    ran: list[str] = []

    async def act(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        ran.append(ctx.call_id)
        return "done"

    repeats: Any = {"look": "free", "book": "idempotent", "pay": "never"}
    boss = Script([UseTool(name) for name in repeats])
    engine = stage.engine({"boss": boss}, dict.fromkeys(repeats, act), repeats, dispatch=Waiting)
    conversation = await engine.conversation("demo", agent="boss")
    saying = asyncio.create_task(conversation.say("go"))
    dispatcher = engine.world.dispatcher
    assert isinstance(dispatcher, Waiting)

    async def asked() -> bool:
        return bool(dispatcher.jobs)

    await until(asked)
    await dispatcher.do("think")
    await conversation.cancel()
    await dispatcher.do_all()
    assert (await saying).finished == "cancelled"
    assert ran == []
    assert await stage.events("effect.") == []


async def test_seam_08_a_late_outcome_is_an_event_once(stage: Stage) -> None:
    """What a tool did after its turn was cancelled is no entry, but an event that names the effect."""
    gate = Gate()

    async def pay(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        await gate.pass_through()
        return "paid 5"

    engine = stage.engine({"boss": Script([UseTool("pay")], "after")}, {"pay": pay}, {"pay": "never"})
    conversation = await engine.conversation("demo", agent="boss")
    saying = asyncio.create_task(conversation.say("pay"))
    await gate.reached.wait()
    await conversation.cancel()
    assert (await saying).finished == "cancelled"
    assert await stage.events("effect.") == []
    gate.open.set()

    async def told() -> bool:
        return bool(await stage.events("effect."))

    await until(told)
    (event,) = await stage.events("effect.")
    assert event.kind == "effect.late"
    assert event.cause == event.body["effect"] == f"{conversation.record.current}:4.0"
    assert event.body["outcome"]["content"] == "paid 5"
    assert (await conversation.say("and?")).text == "after"
    texts = [fragment.message.text for fragment in (await conversation.stack()).fragments]
    assert "[no result: the turn ended first; outcome unknown]" in texts
    assert "paid 5" not in texts


async def test_seam_08_what_may_have_acted_is_let_finish(stage: Stage) -> None:
    """A tool that is free to repeat is interrupted; one that changes the world is not cut off in the middle."""
    gates = {"look": Gate(), "pay": Gate()}
    ended: list[str] = []

    def tool(name: str) -> Any:
        async def body(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
            try:
                await gates[name].pass_through()
            except asyncio.CancelledError:
                ended.append(f"{name} interrupted")
                raise
            ended.append(f"{name} done")
            return "done"

        return body

    boss = Script([UseTool("look"), UseTool("pay")])
    engine = stage.engine({"boss": boss}, {n: tool(n) for n in gates}, {"look": "free", "pay": "idempotent"})
    conversation = await engine.conversation("demo", agent="boss")
    saying = asyncio.create_task(conversation.say("go"))
    for gate in gates.values():
        await gate.reached.wait()
    await conversation.cancel()
    await saying
    gates["pay"].open.set()

    async def both() -> bool:
        return len(ended) == 2

    await until(both)
    assert sorted(ended) == ["look interrupted", "pay done"]


async def test_a_cancel_by_another_process_is_heeded(on_file: Stage) -> None:
    """The process that thinks learns of it when it is done: its answer is late, the turn stays cancelled."""
    boss = Busy()
    one = on_file.engine({"boss": boss})
    two = on_file.engine({"boss": boss}, store=await on_file.another_store())
    here = await one.conversation("demo", agent="boss")
    saying = asyncio.create_task(here.say("go"))
    await boss.gate.reached.wait()

    assert await (await two.conversation("demo")).cancel()
    async with asyncio.timeout(30):
        assert (await saying).finished == "cancelled"
    boss.gate.open.set()

    async def told() -> bool:
        return bool(await on_file.events("effect.late"))

    await until(told)
    assert isinstance((await states_of(here))[-1], Finished)


@pytest.mark.parametrize("keep_running", [False, True])
async def test_seam_07_rewinding_cancels_what_runs_there(stage: Stage, keep_running: bool) -> None:
    """A turn that is left behind stops, unless it is told to go on; then it ends on its own branch."""
    gate = Gate()

    async def boss(view: AgentView) -> str:
        if view.fragments[-1].message.text == "two":
            await gate.pass_through()
        return f"you said {view.fragments[-1].message.text}"

    engine = stage.engine({"boss": boss})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("one")
    saying = asyncio.create_task(conversation.say("two"))
    await gate.reached.wait()

    forked = await conversation.rewind(1, name="again", keep_running=keep_running)
    gate.open.set()
    reply = await saying

    assert (reply.finished, reply.branch) == ("answered" if keep_running else "cancelled", "main")
    assert (await conversation.branch()).name == "again"
    assert forked.at == 2
    assert (await conversation.say("three")).text == "you said three"
    assert await stage.owed(conversation) == []


async def test_seam_07_checking_out_cancels_what_runs_there(stage: Stage) -> None:
    """The same for going over to another branch; going to the branch one is on stops nothing."""
    boss = Busy()
    engine = stage.engine({"boss": boss})
    conversation = await engine.conversation("demo", agent="boss")
    saying = asyncio.create_task(conversation.say("one"))
    await boss.gate.reached.wait()
    await conversation.fork(1, "other")
    await conversation.checkout("main")
    assert not saying.done()
    await conversation.checkout("other")
    reply = await saying
    assert (reply.finished, reply.detail) == ("cancelled", "left for other")


async def test_seam_08_a_rewind_lists_what_cannot_be_undone(stage: Stage) -> None:
    """Calls that may have changed the world after the cut: the root's and its delegates', with what became of them."""

    async def act(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        return "done"

    async def boss(view: AgentView) -> Sequence[Move]:
        texts = [fragment.message.text for fragment in view.fragments]
        if texts[-1] == "act":
            return [UseTool("pay", {"to": "bob"}), UseTool("look"), Delegate(ANN, "book it")]
        return [Say("ok")]

    async def ann(view: AgentView) -> Sequence[Move]:
        return [UseTool("book", {"seat": 1})] if len(view.fragments) == 1 else [Say("booked")]

    repeats: Any = {"pay": "never", "book": "idempotent", "look": "free"}
    engine = stage.engine({"boss": boss, "ann": ann}, dict.fromkeys(repeats, act), repeats)
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("hello")
    await conversation.say("act")
    before = (await conversation.stack()).safe

    forked = await conversation.rewind(4)
    assert sorted(forked.left_behind) == ['book({"seat":1}) → ok', 'pay({"to":"bob"}) → ok']
    await conversation.checkout("main")
    assert (await conversation.rewind(before - 1)).left_behind == ()


async def test_seam_08_a_rewind_lists_what_still_runs(stage: Stage) -> None:
    """Cut off in the middle, nobody knows: it is listed as that."""
    gate = Gate()

    async def pay(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        await gate.pass_through()
        return "paid"

    engine = stage.engine({"boss": Script([UseTool("pay", {"to": "bob"})])}, {"pay": pay}, {"pay": "never"})
    conversation = await engine.conversation("demo", agent="boss")
    saying = asyncio.create_task(conversation.say("pay"))
    await gate.reached.wait()
    forked = await conversation.rewind(-1)
    assert (forked.asked, forked.at) == (5, 2)  # moved back to before the decision that opened the wait
    assert forked.left_behind == ('pay({"to":"bob"}) → cut off, outcome unknown',)
    gate.open.set()
    await saying


async def test_a_delegate_that_ends_while_its_caller_is_cancelled(stage: Stage) -> None:
    """Its answer has nobody to go to: the errand ends, nothing is written twice, nothing stays owed."""
    engine = stage.engine({"boss": Script([Delegate(ANN, "go")]), "ann": Script("done")}, dispatch=Waiting)
    conversation = await engine.conversation("demo", agent="boss")
    saying = asyncio.create_task(conversation.say("go"))
    dispatcher = engine.world.dispatcher
    assert isinstance(dispatcher, Waiting)

    async def asked() -> bool:
        return bool(dispatcher.jobs)

    await until(asked)
    for kind in ("think", "call_agent", "think"):
        await dispatcher.do(kind)
    await conversation.cancel()
    await dispatcher.do_all()
    assert (await saying).finished == "cancelled"
    assert await grounds(engine, conversation) == ["cancelled", "answered"]
    assert await stage.owed(conversation) == []

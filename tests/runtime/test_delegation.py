"""Delegation through the whole runtime: whose memory, whose configuration, whose money, and for how long."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from p2engine.domain.decisions import AskUser, Delegate, Move, Say, UseTool
from p2engine.domain.ids import AgentId, StackRef
from p2engine.domain.setup import Budget
from p2engine.domain.states import AgentCall, AgentResult, Finished, Override, UserMessage
from p2engine.ports import AgentView, ToolContext
from tests.runtime.conftest import Gate, Script, Stage, states_of

ANN, BOB = AgentId("ann"), AgentId("bob")
LONG = 1200


async def tell(view: AgentView) -> Sequence[Move]:
    """A boss double that hands everything it is told to ann, and says what she said."""
    last = view.fragments[-1].message
    return [Delegate(ANN, last.text)] if last.role == "user" else [Say(last.text)]


async def remember(view: AgentView) -> str:
    return ", ".join(fragment.message.text for fragment in view.fragments if fragment.message.role == "user")


async def test_failure_12_a_fork_before_a_delegation_does_not_see_it(stage: Stage) -> None:
    """Nothing that stands before the cut runs again, nothing after it is remembered, by nobody."""
    asked: list[str] = []

    async def ann(view: AgentView) -> str:
        asked.append(view.fragments[-1].message.text)
        return await remember(view)

    engine = stage.engine({"boss": tell, "ann": ann})
    conversation = await engine.conversation("demo", agent="boss")
    assert (await conversation.say("one")).text == "one"
    before = (await conversation.stack()).head
    assert (await conversation.say("two")).text == "one, two"

    await conversation.rewind(before - 1, name="again")
    assert (await conversation.say("three")).text == "one, three"
    await conversation.checkout("main")
    assert (await conversation.say("four")).text == "one, two, four"
    assert asked == ["one", "two", "three", "four"]


async def test_failure_12_a_fork_while_a_delegate_runs(stage: Stage) -> None:
    """The fork stands before the delegation and owes nothing; the delegation goes on where it was, and ends there."""
    gate = Gate()

    async def ann(view: AgentView) -> str:
        if view.fragments[-1].message.text == "two":
            await gate.pass_through()
        return await remember(view)

    engine = stage.engine({"boss": tell, "ann": ann})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("one")
    saying = asyncio.create_task(conversation.say("two"))
    await gate.reached.wait()

    forked = await conversation.fork(-1, "side")
    assert await stage.store.owed(forked.branch.ref) == []
    assert (await conversation.say("three", branch="side")).text == "one, three"
    assert not saying.done()
    gate.open.set()
    assert (await saying).text == "one, two"
    assert (await conversation.say("four", branch="side")).text == "one, three, four"


async def test_a_grandchild_remembers_by_its_callers_path(stage: Stage) -> None:
    """Each delegate has delegates of its own: a rewound root rewinds what they remember, two floors down."""

    async def ann(view: AgentView) -> Sequence[Move]:
        last = view.fragments[-1].message
        return [Delegate(BOB, f"{last.text}!")] if last.role == "user" else [Say(last.text)]

    engine = stage.engine({"boss": tell, "ann": ann, "bob": remember})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("one")
    before = (await conversation.stack()).head
    assert (await conversation.say("two")).text == "one!, two!"
    await conversation.rewind(before - 1)
    assert (await conversation.say("three")).text == "one!, three!"


async def test_a_delegates_memory_ends_where_it_returned(stage: Stage) -> None:
    """What people say to a delegate's branch afterwards is that branch's own: its caller's next call knows nothing."""
    engine = stage.engine({"boss": tell, "ann": remember})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("one")
    (child,) = [branch for branch in await conversation.branches(delegates=True) if branch.delegate]
    assert (await conversation.say("psst", branch=child.name)).text == "one, psst"
    assert (await conversation.say("two")).text == "one, two"
    assert await stage.owed(conversation) == []


async def test_failure_16_ping_pong_ends(stage: Stage) -> None:
    """Two agents who always pass the work on come to an end by themselves, each of them told why."""
    count = 0

    async def pass_on(view: AgentView) -> Sequence[Move]:
        nonlocal count
        last = view.fragments[-1].message
        if last.role == "tool":
            return [Say(last.text)]
        count += 1
        return [Delegate(BOB if view.agent == ANN else ANN, f"you do it ({count})")]

    engine = stage.engine({"boss": pass_on, "ann": pass_on, "bob": pass_on})
    conversation = await engine.conversation("demo", agent="boss")
    async with asyncio.timeout(60):
        reply = await conversation.say("do it")
    assert reply.finished == "answered"
    assert 5 <= count <= 10
    assert await stage.owed(conversation) == []


async def test_failure_16_a_circle_ends(stage: Stage) -> None:
    """The same question passed round in a circle is refused where it comes back."""

    async def pass_on(view: AgentView) -> Sequence[Move]:
        last = view.fragments[-1].message
        if last.role == "tool":
            return [Say(last.text)]
        return [Delegate(BOB if view.agent == ANN else ANN, "who knows?")]

    engine = stage.engine({"boss": pass_on, "ann": pass_on, "bob": pass_on})
    conversation = await engine.conversation("demo", agent="boss")
    assert (
        await conversation.say("who knows?")
    ).text == "ann was asked exactly this further up: the delegation goes in a circle"


async def test_seam_30_overrides_reach_delegates_at_their_opening(stage: Stage) -> None:
    """What is changed on the root's branch is inherited by those it opens later, each time; a fork has its own."""
    models: list[str] = []

    async def ann(view: AgentView) -> str:
        models.append(view.setup.model)
        return "yes"

    engine = stage.engine({"boss": tell, "ann": ann})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("one")
    await conversation.override({"model": "a"})
    before = (await conversation.stack()).head
    await conversation.say("two")
    await conversation.override({"model": "b"})
    await conversation.say("three")
    await conversation.rewind(before - 1)
    await conversation.say("four")
    assert models == ["scripted/function", "a", "b", "a"]


async def test_seam_30_power_is_not_inherited(stage: Stage) -> None:
    """A list of tools that is set on the root is the root's: its delegates keep their own."""
    tools: list[set[str]] = []

    async def ann(view: AgentView) -> str:
        tools.append({grant.name for grant in view.setup.tools})
        return "yes"

    async def act(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        return "done"

    engine = stage.engine({"boss": tell, "ann": ann}, {"act": act, "look": act})
    conversation = await engine.conversation("demo", agent="boss")
    setup = await conversation.override({"tools": ["look"]})
    await conversation.say("one")
    assert [grant.name for grant in setup.tools] == ["look"]
    assert tools == [{"act", "look"}]


async def test_seam_30_an_override_during_a_turn_holds_from_the_next_thought(stage: Stage) -> None:
    """The running call goes by what it was asked with; the machine judges the next by the new setup."""
    gate = Gate()
    models: list[str] = []

    async def boss(view: AgentView) -> Sequence[Move]:
        models.append(view.setup.model)
        if len(models) == 1:
            await gate.pass_through()
            return [UseTool("nope")]
        return [Say("done")]

    engine = stage.engine({"boss": boss})
    conversation = await engine.conversation("demo", agent="boss")
    saying = asyncio.create_task(conversation.say("go"))
    await gate.reached.wait()
    await conversation.override({"model": "new"})
    gate.open.set()
    await saying
    assert models == ["scripted/function", "new"]


async def test_seam_10_children_spend_within_their_callers_budget(stage: Stage) -> None:
    """Delegates who call tools without end, side by side: together they stay within what the turn had."""
    ran = 0

    async def act(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        nonlocal ran
        ran += 1
        return "done"

    boss = Script([Delegate(ANN, "one"), Delegate(BOB, "two"), Delegate(ANN, "three")], "enough")
    endless = Script([UseTool("act", {"n": n}) for n in range(5)])
    engine = stage.engine({"boss": boss, "ann": endless, "bob": endless}, {"act": act}, budget=Budget(steps=60))
    conversation = await engine.conversation("demo", agent="boss")
    reply = await conversation.say("go")
    results = [state for state in await states_of(conversation) if isinstance(state, AgentResult)]
    calls = [state for state in await states_of(conversation) if isinstance(state, AgentCall)]

    assert reply.text == "enough"
    assert all(result.status == "error" and "budget" in result.content for result in results)
    assert [result.spent.steps <= (call.grant.steps or 0) for result, call in zip(results, calls, strict=True)] == [
        True
    ] * 3
    assert (await conversation.stack()).spent.steps <= 60
    assert ran <= 60


async def test_seam_34_a_delegates_question_holds_up_nobody(stage: Stage) -> None:
    """Without an inbox a delegate has nobody to ask: it is told so at once, and the answer goes all the way up."""

    async def ann(view: AgentView) -> Sequence[Move]:
        last = view.fragments[-1].message
        return [Delegate(BOB, "find out")] if last.role == "user" else [Say(last.text)]

    bob = Script([AskUser("which one?")], "any of them")
    engine = stage.engine({"boss": tell, "ann": ann, "bob": bob})
    conversation = await engine.conversation("demo", agent="boss")
    async with asyncio.timeout(30):
        assert (await conversation.say("go")).text == "any of them"
    assert "a delegate cannot ask a person" in bob.seen[1][-1]
    assert await stage.owed(conversation) == []


async def test_seam_34_a_question_waits_for_ever_and_ends_with_its_turn(stage: Stage) -> None:
    """No time withdraws it; cancelling the turn does, and what is said then begins the next one."""
    boss = Script([AskUser("which one?")], "a new turn")
    engine = stage.engine({"boss": boss})
    conversation = await engine.conversation("demo", agent="boss")
    assert (await conversation.say("go")).asks
    stage.clock.time += 30 * 86_400
    await engine.sweeper.sweep()
    assert [pending.what for pending in (await conversation.stack()).open.values()] == ["human"]
    assert await conversation.cancel()
    assert await stage.owed(conversation) == []
    assert (await conversation.say("blue")).text == "a new turn"


async def test_seam_32_a_long_line_of_delegations_stays_flat(stage: Stage) -> None:
    """1,200 delegations to one agent, each remembering all before: what a call reads does not grow, warm; and a stack
    with 1,200 ancestors is folded cold without recursion."""
    read: list[int] = []
    real = stage.store.load

    async def load(ref: StackRef, *, since: int = 0) -> Any:
        commits = await real(ref, since=since)
        read.append(len(commits))
        return commits

    stage.store.load = load  # type: ignore[method-assign]

    async def ann(view: AgentView) -> str:
        return str(len(view.fragments))

    engine = stage.engine({"boss": tell, "ann": ann})
    conversation = await engine.conversation("demo", agent="boss")
    reads = []
    for number in range(LONG):
        read.clear()
        assert (await conversation.say(f"m{number}")).text == str(2 * number + 1)
        reads.append((len(read), sum(read)))
    assert max(reads[-100:]) == max(reads[1:101])

    branches = await conversation.branches(delegates=True)
    assert len(branches) == LONG + 1
    assert len(await conversation.branches()) == 1  # hidden unless asked for
    cold = stage.engine({"boss": tell, "ann": ann})
    stack = await cold.world.stacks.get(branches[-1].ref)
    assert len(stack.fragments) == 2 * LONG
    assert isinstance(stack.ground, Finished)
    assert (await (await cold.conversation("demo")).say("more")).text == str(2 * LONG + 1)


async def test_a_child_is_opened_by_one_commit(stage: Stage) -> None:
    """Its first row holds its setup and the message, with the call as its cause and its caller's words."""
    engine = stage.engine({"boss": Script([Delegate(ANN, "look it up")], "done"), "ann": Script("yes")})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("go")
    child = (await conversation.branches(delegates=True))[-1]
    first = (await stage.store.load(child.ref))[0]
    assert first.commit.cause == child.delegate
    override, message = first.commit.states[:2]
    assert isinstance(override, Override)
    assert isinstance(message, UserMessage)
    assert (override.source, message.text, message.sender) == ("delegation", "look it up", "boss")
    assert message.caller is not None
    assert message.caller.root == (conversation.record.current, 4)

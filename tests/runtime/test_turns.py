"""Turns through the whole runtime: who answers what, in which order, and what is left when a turn is over."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from p2engine.dispatch.inline import InlineDispatcher
from p2engine.domain.decisions import AskUser, Decision, Delegate, Finish, Say, ToolOutcome, UseTool
from p2engine.domain.ids import AgentId
from p2engine.domain.setup import Budget
from p2engine.domain.states import (
    AgentResult,
    AssistantMessage,
    Finished,
    Override,
    ToolCall,
    ToolResult,
    UserMessage,
    Waiting,
)
from p2engine.errors import ModelError, StoreError, UsageError
from p2engine.limits import MESSAGE_BYTES_MAX
from p2engine.ports import AgentView, ToolContext
from p2engine.testing.virtual_time import run as run_virtually
from tests.runtime.conftest import Gate, Script, Stage, states_of

ANN, BOB = AgentId("ann"), AgentId("bob")


async def last_words(view: AgentView) -> str:
    """An agent double that repeats the last thing it was shown."""
    return f"you said {view.fragments[-1].message.text}"


async def test_a_turn_is_one_commit_an_outcome(stage: Stage) -> None:
    """A question and its answer are two commits; the entries are the events, and nothing is owed afterwards."""
    engine = stage.engine({"boss": last_words})
    conversation = await engine.conversation("demo", agent="boss")

    reply = await conversation.say("hello")

    assert (reply.text, reply.finished, reply.turn, reply.branch) == ("you said hello", "answered", 1, "main")
    commits = await conversation.commits()
    assert [[type(state) for state in placed.commit.states] for placed in commits] == [
        [Override, UserMessage, Waiting],
        [AssistantMessage, Finished],
    ]
    assert [placed.commit.cause for placed in commits] == ["user", f"{conversation.record.current}:2.0"]
    assert await stage.owed(conversation) == []


async def test_failure_01_delegate_then_pay(stage: Stage) -> None:
    """The parent reasons over its delegate's answer and goes on to a tool; nothing is parroted."""
    paid: list[Mapping[str, Any]] = []

    async def pay(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        paid.append(arguments)
        return "paid"

    boss = Script(
        [Delegate(ANN, "what does it cost?")],
        [UseTool("pay", {"amount": 5})],
        "bought it",
    )
    engine = stage.engine({"boss": boss, "ann": Script("five")}, {"pay": pay}, {"pay": "never"})
    reply = await (await engine.conversation("demo", agent="boss")).say("buy it")

    assert (reply.text, reply.finished) == ("bought it", "answered")
    assert paid == [{"amount": 5}]
    assert boss.seen[1][-1] == "five"


async def test_failure_02_two_delegations_to_one_child(stage: Stage) -> None:
    """In parallel and in sequence, all are answered; the later one remembers what went before."""
    boss = Script([Delegate(ANN, "one"), Delegate(ANN, "two")], [Delegate(ANN, "three")], "done")

    async def ann(view: AgentView) -> str:
        return "heard " + ", ".join(f.message.text for f in view.fragments if f.message.role == "user")

    engine = stage.engine({"boss": boss, "ann": ann})
    reply = await (await engine.conversation("demo", agent="boss")).say("go")

    assert reply.text == "done"
    assert boss.seen[1][-2:] == ["heard one", "heard two"]
    assert boss.seen[2][-1] == "heard two, three"


async def test_failure_03_every_call_of_a_reply_is_kept(stage: Stage) -> None:
    """Text, two tools and two delegates in one reply: all run at once, and the model sees all of their results."""
    gate = Gate()
    running: set[str] = set()

    async def look(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        return await together(str(arguments["n"]))

    async def delegate(view: AgentView) -> str:
        return await together(str(view.agent))

    async def together(name: str) -> str:
        running.add(name)
        if len(running) == 4:
            gate.open.set()
        await gate.open.wait()
        return f"result of {name}"

    boss = Script(
        [Say("see"), UseTool("look", {"n": 1}), Delegate(ANN, "go"), UseTool("look", {"n": 2}), Delegate(BOB, "go")],
        "done",
    )
    engine = stage.engine({"boss": boss, "ann": delegate, "bob": delegate}, {"look": look})
    async with asyncio.timeout(30):
        await (await engine.conversation("demo", agent="boss")).say("go")

    assert running == {"1", "2", "ann", "bob"}
    shown = [fragment.message for fragment in boss.views[1].fragments]
    assert [(one.role, one.text) for one in shown[:2]] == [("user", "go"), ("assistant", "see")]
    assert {one.text for one in shown[2:]} == {f"result of {name}" for name in running}


@pytest.mark.parametrize(
    ("moves", "shown"),
    [
        ([UseTool("nope")], "no tool 'nope' for boss; its tools: look, slow"),
        ([UseTool("look", malformed="{oops")], "the arguments are not a JSON object: '{oops'; send an object"),
        ([UseTool("look")], "it broke"),
        ([UseTool("slow")], "look did not answer within 1 s"),
        ([Delegate(AgentId("ghost"), "hello")], "no agent 'ghost' to delegate to; boss may delegate to: nobody"),
    ],
)
async def test_failure_04_what_goes_wrong_is_read_by_the_model(stage: Stage, moves: Any, shown: str) -> None:
    """Unknown tool, malformed arguments, a failed or late tool, an unknown agent: the turn ends with something said."""

    async def broken(arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome:
        return ToolOutcome(status="error", content="it broke")

    async def slow(arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome:
        return ToolOutcome(status="timeout", content="look did not answer within 1 s")

    boss = Script(moves, "sorry", "fine")
    engine = stage.engine({"boss": boss}, {"look": broken, "slow": slow})
    conversation = await engine.conversation("demo", agent="boss")

    assert (await conversation.say("go")).text == "sorry"
    assert boss.seen[1][-1] == shown
    assert (await conversation.say("again")).text == "fine"


async def test_failure_04_a_model_that_is_down_ends_the_turn(stage: Stage) -> None:
    """The reply says why; the next message works, and the model sees both."""

    async def boss(view: AgentView) -> str:
        if len(view.fragments) == 1:
            raise ModelError("m: HTTP 500 after 5 attempts")
        return "back again"

    engine = stage.engine({"boss": boss})
    conversation = await engine.conversation("demo", agent="boss")

    reply = await conversation.say("one")
    assert (reply.text, reply.finished, reply.detail) == ("", "error", "m: HTTP 500 after 5 attempts")
    assert (await conversation.say("two")).text == "back again"


async def test_failure_05_a_message_while_the_model_thinks_is_answered_next(stage: Stage) -> None:
    """Both are answered, in order, each by a thought that saw it; the turn finishes after the second."""
    gate = Gate()

    async def boss(view: AgentView) -> str:
        if len(view.fragments) == 1:
            await gate.pass_through()
        return f"you said {view.fragments[-1].message.text}"

    engine = stage.engine({"boss": boss})
    conversation = await engine.conversation("demo", agent="boss")
    first = asyncio.create_task(conversation.say("one"))
    await gate.reached.wait()
    second = asyncio.create_task(conversation.say("two"))
    while not (await conversation.stack()).late:
        await asyncio.sleep(0)
    gate.open.set()

    replies = [await first, await second]
    assert [(reply.text, reply.finished) for reply in replies] == [("you said one", None), ("you said two", "answered")]
    assert sum(isinstance(state, Finished) for state in await states_of(conversation)) == 1


async def test_failure_05_a_message_while_a_tool_runs_loses_nothing(stage: Stage) -> None:
    """The tool's result stays beside its call, the message is read after it, and one answer serves both who wait."""
    gate = Gate()

    async def look(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        await gate.pass_through()
        return "seen"

    boss = Script([UseTool("look")], "answer to both")
    engine = stage.engine({"boss": boss}, {"look": look})
    conversation = await engine.conversation("demo", agent="boss")
    first = asyncio.create_task(conversation.say("one"))
    await gate.reached.wait()
    second = asyncio.create_task(conversation.say("two"))
    while not (await conversation.stack()).late:
        await asyncio.sleep(0)
    gate.open.set()

    assert [(await task).text for task in (first, second)] == ["answer to both"] * 2
    assert boss.seen[1] == ["one", "", "seen", "two"]


async def test_failure_05_two_users_at_once_are_both_answered(stage: Stage) -> None:
    """Ten messages at the same moment: each is kept once, in order, and everybody is answered."""
    engine = stage.engine({"boss": last_words})
    conversation = await engine.conversation("demo", agent="boss")

    async with asyncio.timeout(30):
        replies = await asyncio.gather(*(conversation.say(f"m{n}", sender=f"user{n}") for n in range(10)))

    heard = [state.text for state in await states_of(conversation) if isinstance(state, UserMessage)]
    assert heard == [f"m{n}" for n in range(10)]
    assert replies[0].text == "you said m0"
    assert {reply.text for reply in replies[1:]} == {"you said m9"}
    assert await stage.owed(conversation) == []


async def test_failure_07_many_conversations_on_two_workers_all_finish(stage: Stage) -> None:
    """200 at once, each delegating two floors down, with room for two jobs: nobody waits for a worker that waits."""

    async def pass_on(view: AgentView) -> Any:
        await asyncio.sleep(0)
        last = view.fragments[-1].message
        below = {"boss": ANN, "ann": BOB}.get(view.agent)
        return [Delegate(below, last.text)] if below and last.role == "user" else f"{view.agent}: {last.text}"

    engine = stage.engine(
        dict.fromkeys(("boss", "ann", "bob"), pass_on),
        dispatch=lambda run, failed: InlineDispatcher(run, failed, jobs_max=2),
    )
    conversations = [await engine.conversation(f"trial {number}", agent="boss") for number in range(200)]
    async with asyncio.timeout(100):
        replies = await asyncio.gather(*(conversation.say("go") for conversation in conversations))
    assert {reply.text for reply in replies} == {"boss: ann: bob: go"}
    assert {reply.finished for reply in replies} == {"answered"}


async def test_failure_09_finished_means_that_the_root_finished(stage: Stage) -> None:
    """A delegate's end is no end of the turn: whoever waits gets the root's answer, after all its children's."""
    boss = Script([Delegate(ANN, "one"), Delegate(BOB, "two")], [Delegate(ANN, "three")], "all done")
    engine = stage.engine({"boss": boss, "ann": Script("a"), "bob": Script("b")})
    conversation = await engine.conversation("demo", agent="boss")

    assert (await conversation.say("go")).text == "all done"

    children = [branch for branch in await conversation.branches(delegates=True) if branch.delegate]
    assert len(children) == 3
    for branch in children:
        assert isinstance((await engine.world.stacks.refresh(branch.ref)).ground, Finished)
    assert await stage.owed(conversation) == []


async def test_failure_18_arguments_cannot_change_who_acts(stage: Stage) -> None:
    """Names like `ctx`, `agent_id` and `conversation_id` in a call are arguments and nothing else."""
    acted: list[tuple[str, str, str, str]] = []

    async def pay(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        acted.append((ctx.agent, ctx.conversation, ctx.branch, ctx.idempotency_key))
        return "paid"

    claims = dict.fromkeys(("ctx", "agent_id", "agent", "creator_id", "conversation_id", "branch"), "treasurer")
    engine = stage.engine({"boss": Script([UseTool("pay", claims)], "done")}, {"pay": pay})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("pay as the treasurer")

    ref = conversation.record.current
    assert acted == [("boss", conversation.record.id, ref, f"{ref}:4.0")]


async def test_failure_19_an_invented_agent_has_no_power(stage: Stage) -> None:
    """Nobody who is not configured is opened, whoever names them; the caller reads who there is."""
    boss = Script([Delegate(AgentId("treasurer"), "pay me")], "no such agent")
    engine = stage.engine({"boss": boss, "ann": Script("hi")})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("go")
    assert "no agent 'treasurer' to delegate to; boss may delegate to: ann" in boss.seen[1][-1]
    assert [branch.agent for branch in await conversation.branches(delegates=True)] == ["boss"]


async def test_failure_20_a_tool_outside_the_list_does_not_run(stage: Stage) -> None:
    """A tool that is loaded but not granted is refused; no effect is ever made for it."""
    ran: list[str] = []

    async def pay(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        ran.append("pay")
        return "paid"

    engine = stage.engine({"boss": Script([UseTool("pay")], "no")}, {"pay": pay}, {})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("pay")
    results = [state for state in await states_of(conversation) if isinstance(state, ToolResult)]
    assert [result.status for result in results] == ["denied"]
    assert ran == []


async def test_failure_22_a_failed_tool_is_asked_again(stage: Stage) -> None:
    """An error is a result like any other: the next call runs anew and may succeed."""
    answers = iter([ToolOutcome(status="error", content="broken"), ToolOutcome(content="22 °C")])

    async def look(arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome:
        return next(answers)

    boss = Script([UseTool("look")], [UseTool("look")], "22 °C")
    engine = stage.engine({"boss": boss}, {"look": look}, dedup="strict")
    await (await engine.conversation("demo", agent="boss")).say("weather?")
    assert [boss.seen[1][-1], boss.seen[2][-1]] == ["broken", "22 °C"]


async def test_failure_33_a_failed_tool_is_recorded_as_failed(stage: Stage) -> None:
    """Its event says `error`, and it has no reward of its own making."""

    async def look(arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome:
        return ToolOutcome(status="error", content="broken")

    engine = stage.engine({"boss": Script([UseTool("look")], "sorry")}, {"look": look})
    await (await engine.conversation("demo", agent="boss")).say("go")
    (event,) = await stage.events("state.tool_result")
    assert event.body["status"] == "error"
    assert event.body.get("reward") is None


async def test_seam_12_approval_fails_closed(stage: Stage) -> None:
    """Without anybody to ask, a call that needs approval is denied and does not run; its siblings do."""
    ran: list[str] = []

    async def tool(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        ran.append(ctx.call_id)
        return "ran"

    boss = Script([UseTool("gate", {}, "g"), UseTool("look", {}, "l")], "done")
    engine = stage.engine({"boss": boss}, {"gate": tool, "look": tool}, approval=("gate",))
    conversation = await engine.conversation("demo", agent="boss")
    assert (await conversation.say("go")).text == "done"

    assert ran == ["l"]
    results = {s.call_id: s for s in await states_of(conversation) if isinstance(s, ToolResult)}
    assert (results["g"].status, results["l"].status) == ("denied", "ok")
    assert "approval" in results["g"].content


async def test_an_agent_may_ask_its_user(stage: Stage) -> None:
    """The reply is the question and says that it asks; what is said next is the answer, in the same turn."""
    boss = Script([Say("one moment"), AskUser("which city?")], "sunny in Paris")
    engine = stage.engine({"boss": boss})
    conversation = await engine.conversation("demo", agent="boss")

    question = await conversation.say("weather?")
    assert (question.text, question.asks, question.finished) == ("which city?", True, None)
    answer = await conversation.say("Paris")
    assert (answer.text, answer.asks, answer.finished, answer.turn) == ("sunny in Paris", False, "answered", 1)
    assert boss.seen[1][-1] == "Paris"
    assert await stage.owed(conversation) == []


async def test_a_question_may_be_followed_by_another(stage: Stage) -> None:
    """Asked twice, answered twice; the turn ends with the answer."""
    engine = stage.engine({"boss": Script([AskUser("where?")], [AskUser("when?")], "done")})
    conversation = await engine.conversation("demo", agent="boss")
    texts = [(await conversation.say(text)).text for text in ("go", "here", "now")]
    assert texts == ["where?", "when?", "done"]


async def test_two_answers_to_one_question_are_both_heard(stage: Stage) -> None:
    """The first is the answer; the second is a message of its own, answered in its turn."""
    boss = Script([AskUser("which?")], "thanks", "thanks again")
    engine = stage.engine({"boss": boss})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("go")

    async with asyncio.timeout(30):
        replies = await asyncio.gather(conversation.say("this one"), conversation.say("or that"))

    assert all(reply.text.startswith("thanks") for reply in replies)
    assert {"this one", "or that"} <= set((await conversation.stack()).fragments and boss.seen[-1])


async def test_a_turn_that_ends_early_says_why(stage: Stage) -> None:
    """An agent that gives up with a word, or without one."""
    engine = stage.engine({"boss": Script([Say("I tried"), Finish("gave_up", "too hard")], [Finish("gave_up", "no")])})
    conversation = await engine.conversation("demo", agent="boss")
    replies = [await conversation.say("go"), await conversation.say("try")]
    assert [(r.text, r.finished, r.detail) for r in replies] == [
        ("I tried", "gave_up", "too hard"),
        ("", "gave_up", "no"),
    ]


async def test_seam_33_a_budget_is_of_a_turn(stage: Stage) -> None:
    """A turn that used its budget up ends by its name; the next one has all of it again."""
    boss = Script([UseTool("look")], [UseTool("look")], "fine")
    engine = stage.engine({"boss": boss}, {"look": _seen}, budget=Budget(steps=3))
    conversation = await engine.conversation("demo", agent="boss")
    first = await conversation.say("go")
    assert (first.finished, first.detail) == ("budget", "3 steps in one turn")
    assert (await conversation.say("again")).finished == "answered"


async def test_text_is_streamed_to_whoever_listens(stage: Stage) -> None:
    """`on_text` hears the pieces as they come, its own turn's only, and no more once it has its answer."""

    async def boss(view: AgentView) -> str:
        for piece in ("so ", "it ", "is"):
            if view.on_text:
                view.on_text(piece)
        return "so it is"

    heard: list[str] = []
    engine = stage.engine({"boss": boss})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("go", on_text=heard.append)
    await conversation.say("again")
    assert heard == ["so ", "it ", "is"]


@pytest.mark.parametrize("text", ["", "  \n", "x" * (MESSAGE_BYTES_MAX + 1)])
async def test_a_message_that_is_none_is_refused(stage: Stage, text: str) -> None:
    """Empty, or larger than MESSAGE_BYTES_MAX: nothing is written."""
    engine = stage.engine({"boss": last_words})
    conversation = await engine.conversation("demo", agent="boss")
    with pytest.raises(UsageError):
        await conversation.say(text)
    assert await conversation.commits() == []


async def test_a_reply_says_what_its_turn_cost(stage: Stage) -> None:
    """Tokens and cost are the turn's, delegates included; the next turn counts anew."""
    engine = stage.engine({"boss": Script([Delegate(ANN, "go")], "done", "again"), "ann": Script("yes")})
    conversation = await engine.conversation("demo", agent="boss")
    first, second = await conversation.say("one"), await conversation.say("two")
    assert (first.tokens_in, first.tokens_out, first.cost_usd, first.model) == (30, 15, 0.0, "scripted/function")
    assert (second.tokens_in, second.tokens_out) == (10, 5)


async def test_a_price_that_is_not_known_is_none(stage: Stage) -> None:
    """A turn that used a model without a price does not cost nothing."""
    from p2engine.domain.messages import Usage

    engine = stage.engine({"boss": Script(Decision((Say("hi"),), Usage(model="m", tokens_in=3)))})
    reply = await (await engine.conversation("demo", agent="boss")).say("hello")
    assert reply.cost_usd is None


async def test_post_effects_reach_the_parent_as_notes(stage: Stage) -> None:
    """What a tool's result sets going is done by its agent, and read beside the result."""
    from p2engine.domain.decisions import CallAgentAfter

    async def look(arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome:
        return ToolOutcome(content="seen", then=(CallAgentAfter(ANN, "file what was seen"),))

    boss = Script([UseTool("look")], "done")
    engine = stage.engine({"boss": boss, "ann": Script("filed")}, {"look": look})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("go")
    assert boss.seen[1][-2:] == ["seen", "[ann] filed"]
    assert [s.status for s in await states_of(conversation) if isinstance(s, AgentResult)] == ["ok"]
    assert sum(isinstance(s, ToolCall) for s in await states_of(conversation)) == 1


async def _seen(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
    return "seen"


def test_closing_the_engine_tells_whoever_waits() -> None:
    """Nobody waits for ever on an engine that is closed: what was asked stays owed, and saying so is an error."""

    async def main() -> None:
        async def never(view: AgentView) -> str:
            await asyncio.Event().wait()
            return ""

        stage = await Stage.open()
        engine = stage.engine({"boss": never})
        saying = asyncio.create_task((await engine.conversation("demo", agent="boss")).say("go"))
        await asyncio.sleep(0)
        await engine.aclose()
        with pytest.raises(StoreError, match="closed"):
            await saying

    run_virtually(main())

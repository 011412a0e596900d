"""The machine, rule by rule: what it says next, what it refuses, and how a turn ends. No loop, no store."""

import pytest

from p2engine.domain import machine
from p2engine.domain.decisions import (
    Answer,
    AskUser,
    CallAgentAfter,
    Decision,
    Delegate,
    Failure,
    Finish,
    Move,
    Say,
    ToolOutcome,
    UseTool,
)
from p2engine.domain.effects import Ask, CallAgent, CallTool, Cancel, Return, Think
from p2engine.domain.ids import AgentId, StackRef, child_ref, effect_id
from p2engine.domain.machine import hear, settle
from p2engine.domain.messages import Usage
from p2engine.domain.setup import Budget
from p2engine.domain.stack import Stack, legal
from p2engine.domain.states import (
    STATES,
    SUCCESSORS,
    AgentCall,
    AgentResult,
    AssistantMessage,
    Finished,
    Override,
    Pending,
    ToolCall,
    ToolResult,
    UserInputRequest,
    UserMessage,
    UserResponse,
    Waiting,
)
from p2engine.errors import IllegalTransition
from p2engine.limits import (
    ARGUMENTS_BYTES_MAX,
    CALLS_PER_REPLY_MAX,
    DELEGATION_DEPTH_MAX,
    FAN_OUT_MAX,
    ROUNDS_MAX,
    TOOL_RESULT_BYTES_MAX,
)
from tests.domain.walking import NOON, ROOT, Walk, caller_of, setup_of, shown, texts

ANN, BOB = AgentId("ann"), AgentId("bob")


def begun(text: str = "hello", **changes: object) -> Walk:
    """A conversation whose root agent has been asked something."""
    walk = Walk(setup_of("boss", **changes))
    walk.say(text)
    return walk


# What a reply becomes


def test_failure_03_text_and_every_call_of_one_reply_are_kept() -> None:
    """Text beside calls, and any number of calls: the text stands first, all calls are waited for at once."""
    walk = begun()
    walk.decide(Say("let me see"), UseTool("look", {"n": 1}), Delegate(ANN, "help"), UseTool("look", {"n": 2}))

    assert [type(state) for state in walk.states(ROOT)[-5:]] == [
        AssistantMessage,
        ToolCall,
        AgentCall,
        ToolCall,
        Waiting,
    ]
    assert [type(effect) for effect in walk.due()] == [CallTool, CallAgent, CallTool]


def test_failure_03_a_reply_without_anything_ends_the_turn() -> None:
    """A model that answers nothing is an error that is said, and the next message works."""
    for moves in ((), (Say(""),)):
        walk = begun()
        walk.decide(*moves)
        assert walk.states(ROOT)[-1] == Finished(reason="error", detail="the agent answered nothing")
        assert [type(effect) for effect in walk.say("again").effects] == [Think]


def test_failure_01_the_parent_reasons_over_its_childs_answer() -> None:
    """Nothing is echoed for it: the answer is a result that the parent thinks about, and it may go on to a tool."""
    walk = begun()
    walk.decide(Delegate(ANN, "what does it cost?"))
    walk.think(child_ref(walk.open().id), Say("five"))
    walk.deliver_all()

    assert shown(walk)[-1] == ("tool", "five")
    walk.decide(UseTool("pay", {"n": 5}))
    assert [effect.tool for effect in walk.due() if isinstance(effect, CallTool)] == ["pay"]


@pytest.mark.parametrize(
    ("call", "status", "says"),
    [
        (UseTool("nope"), "denied", "no tool 'nope' for boss; its tools: look, book, pay, gate"),
        (UseTool("look", malformed="{oops"), "error", "not a JSON object"),
        (UseTool("look", {"n": "x" * ARGUMENTS_BYTES_MAX}), "error", f"larger than {ARGUMENTS_BYTES_MAX}"),
    ],
)
def test_failure_04_a_call_that_cannot_run_is_a_result(call: UseTool, status: str, says: str) -> None:
    """Unknown tool, malformed or too large arguments: the model reads why, and thinks again."""
    walk = begun()
    step = walk.decide(call)
    result = next(state for state in step.states if isinstance(state, ToolResult))
    assert (result.status, says in result.content) == (status, True)
    assert [type(effect) for effect in step.effects] == [Think]


def test_failure_04_a_failed_model_ends_the_turn_with_its_reason() -> None:
    """The turn is over with `error` and the reason; what the attempt cost is counted; the next message works."""
    walk = begun()
    step = walk.settle(walk.due()[0], Failure("HTTP 500", Usage(model="m", tokens_in=7)))
    assert step.states == (Finished(reason="error", detail="HTTP 500"),)
    assert step.outcomes == 1
    assert step.stack.spent.tokens_in == 7
    assert [type(effect) for effect in walk.say("again").effects] == [Think]


def test_failure_20_a_tool_outside_the_agents_list_does_not_run() -> None:
    """The recorded list decides: no effect is made for another tool, whatever the model names."""
    walk = begun(tools=())
    walk.decide(UseTool("pay", {"n": 1}))
    assert not any(isinstance(effect, CallTool) for effect in walk.effects.values())
    assert walk.states(ROOT)[-2] == ToolResult(
        call_id="call_3_0", tool="pay", status="denied", content="no tool 'pay' for boss; its tools: none"
    )


def test_seam_29_a_tool_off_the_list_is_refused_at_the_decision() -> None:
    """Off the recorded list means a result at once; on the list, whether it is loaded or not, means an effect."""
    walk = begun()
    step = walk.decide(UseTool("nope"), UseTool("look"))
    assert [effect.tool for effect in step.effects if isinstance(effect, CallTool)] == ["look"]


def test_failure_33_a_tool_that_failed_is_recorded_as_failed() -> None:
    """Its status is kept, and no policy gives it a reward that it did not have."""
    walk = begun(dedup="penalty")
    walk.decide(UseTool("look"), UseTool("look"))
    for effect in walk.due():
        walk.settle(effect, ToolOutcome(status="error", content="broken"))
    results = [state for state in walk.states(ROOT) if isinstance(state, ToolResult)]
    assert [(result.status, result.reward) for result in results] == [("error", None), ("error", None)]


def test_a_result_is_bounded() -> None:
    """More than TOOL_RESULT_BYTES_MAX of a tool or a delegate is cut, and says so."""
    walk = begun()
    walk.decide(UseTool("look"), Delegate(ANN, "go"))
    tool, _ = walk.due()
    walk.settle(tool, ToolOutcome(content="ü" * TOOL_RESULT_BYTES_MAX))
    walk.think(child_ref(walk.open().id), Say("x" * (TOOL_RESULT_BYTES_MAX + 1)))
    walk.deliver_all()
    results = [state.content for state in walk.states(ROOT) if isinstance(state, ToolResult | AgentResult)]
    assert ["[cut: " in content for content in results] == [True, True]
    assert all(len(content.encode()) < TOOL_RESULT_BYTES_MAX + 50 for content in results)


# Call ids


def test_call_ids_are_the_providers_or_derived_from_the_position() -> None:
    """A missing id is derived; one that is still waited for is not given twice; none is a hash of the arguments."""
    walk = begun()
    walk.decide(UseTool("look", call_id="x"), UseTool("look", call_id="x"), UseTool("look"))
    assert [state.call_id for state in walk.states(ROOT) if isinstance(state, ToolCall)] == [
        "x",
        "call_3_1",
        "call_3_2",
    ]


def test_a_derived_call_id_never_meets_one_that_was_given() -> None:
    """A provider that gives exactly the id that would be derived leaves every call with an id of its own."""
    walk = begun()
    walk.decide(UseTool("look", call_id="call_3_1"), UseTool("look"), UseTool("look", call_id="call_3_0"))
    assert len(walk.stacks[ROOT].calls) == 3


def test_a_post_effects_call_id_never_meets_one_that_was_given() -> None:
    """`x+0` is derived for what follows `x`, unless the model named another call so."""
    walk = begun()
    walk.decide(UseTool("look", {"n": 1}, "x"), UseTool("look", {"n": 2}, "x+0"))
    walk.settle(walk.due()[0], ToolOutcome(then=(CallAgentAfter(ANN, "note this"),)))
    assert set(walk.stacks[ROOT].calls) == {"x+0", "x+0_"}


# Waits and messages


def test_seam_01_no_wait_times_out_by_the_clock() -> None:
    """An outcome that is in hand is taken whatever the time; nothing compares a wait with the clock."""
    walk = begun()
    walk.decide(UseTool("look"))
    walk.at += 10 * 365 * 86_400
    walk.settle(walk.due()[0], ToolOutcome(content="at last"))
    assert shown(walk)[-1] == ("tool", "at last")
    assert not hasattr(Waiting(on=()), "deadline")


def test_seam_01_recorded_time_never_goes_back() -> None:
    """A commit's time is the clock's, or its predecessor's where the clock went back."""
    walk = begun()
    walk.at -= 3600
    step = walk.decide(Say("hi"))
    assert step.stack.at == NOON


def test_seam_02_effect_ids_name_the_branch_that_decided() -> None:
    """`uid:seq.slot`: the same history on two branches owes effects of different names; a replay owes the same."""
    ids = []
    for ref in ("one", "two", "one"):
        stack = Stack(StackRef(ref), AgentId("boss"))
        stack.push(Override(setup=setup_of("boss")), at=NOON)
        stack = hear(stack, [UserMessage(text="hello")], NOON).stack
        think = Think(id=effect_id(stack.ref, 2, 0))
        step = settle(stack, think, Decision((UseTool("pay"), UseTool("pay"))), NOON)
        ids.append([effect.id for effect in step.effects])
    assert ids == [["one:5.0", "one:5.1"], ["two:5.0", "two:5.1"], ["one:5.0", "one:5.1"]]


def test_seam_03_a_forked_stack_knows_its_inherited_waits() -> None:
    """Waits are keyed by (seq, slot), so that a fold on another branch closes those that its parent opened."""
    walk = begun()
    walk.decide(UseTool("look"))
    walk.settle(walk.due()[0], ToolOutcome())
    walk.decide(Say("done"))

    fork = Stack(StackRef("fork"), AgentId("boss"), base=len(walk.states(ROOT)))
    fork.place_all(walk.placed(ROOT))

    assert fork.open == {}
    assert fork.safe == len(walk.states(ROOT))
    assert [effect.id for effect in hear(fork, [UserMessage(text="go on")], NOON).effects] == [
        f"fork:{fork.head + 1}.0"
    ]


def test_seam_04_a_message_while_the_model_thinks_is_answered_next() -> None:
    """It is kept without touching the ground, rendered after that reply, and the turn does not finish before it."""
    walk = begun("first")
    walk.say("second")
    step = walk.decide(Say("to the first"))

    assert [type(state) for state in step.states] == [AssistantMessage, Waiting]
    assert shown(walk) == [("user", "first"), ("assistant", "to the first"), ("user", "second")]
    assert [type(state) for state in walk.decide(Say("to the second")).states] == [AssistantMessage, Finished]


def test_seam_04_an_agent_that_ends_its_turn_still_hears_who_spoke_meanwhile() -> None:
    """Said with an explicit end, an answer is an answer: the turn goes on with the message that came late."""
    walk = begun("first")
    walk.say("second")
    step = walk.decide(Say("to the first"), Finish("answered"))
    assert [type(state) for state in step.states] == [AssistantMessage, Waiting]
    assert walk.decide(Say("to the second"), Finish("answered", "that is all")).states[-1] == Finished(
        reason="answered", detail="that is all"
    )


@pytest.mark.parametrize(
    ("moves", "said"),
    [
        ((Finish("gave_up", "no rule"),), "[boss ended: gave_up: no rule]"),
        ((Say("well"), Finish("gave_up")), "well\n[boss ended: gave_up]"),
        ((Finish("answered", "nothing to add"),), "[boss ended: answered: nothing to add]"),
        ((Say("fine"), Finish("answered", "that is all")), "fine"),
    ],
)
def test_seam_04_no_end_of_the_agents_own_passes_over_who_spoke_meanwhile(moves: tuple[Move, ...], said: str) -> None:
    """Giving up on one message, or ending without a word, is kept as what was said; the unread one is answered next."""
    walk = begun("first")
    walk.say("second")
    step = walk.decide(*moves)

    assert step.states[0] == AssistantMessage(text=said)
    assert [type(state) for state in step.states[1:]] == [Waiting]
    assert shown(walk) == [("user", "first"), ("assistant", said), ("user", "second")]
    assert walk.decide(*moves).states[-1] == Finished(reason=moves[-1].reason, detail=moves[-1].detail)  # type: ignore[union-attr]


@pytest.mark.parametrize("asks", [AskUser("which?"), UseTool("look")])
def test_an_end_beside_a_call_or_a_question_is_none(asks: Move) -> None:
    """Whoever asks for something wants its answer: the turn goes on, also where somebody spoke meanwhile."""
    for said in ((), ("second",)):
        walk = begun()
        for text in said:
            walk.say(text)
        walk.decide(asks, Finish("gave_up", "enough"))
        assert isinstance(walk.stacks[ROOT].ground, Waiting)
        assert not [state for state in walk.states(ROOT) if isinstance(state, AssistantMessage)]


@pytest.mark.parametrize(
    "outcome",
    [
        Failure("the model is down"),
        Decision((Finish("error", "broken"),)),
        Decision((Say("well"), Finish("budget", "enough"))),
        Decision((Finish("cancelled"),)),
        Decision(()),
        None,
    ],
    ids=["a failed model", "error", "budget", "cancelled", "nothing", "from outside"],
)
def test_seam_04_a_turn_that_is_cut_short_keeps_what_was_not_read(outcome: Decision | Failure | None) -> None:
    """A turn that breaks, or is stopped, ends all the same; the next one shows the model what was not read."""
    walk = begun("first")
    walk.say("second")
    step = walk.settle(walk.due()[0], outcome) if outcome else walk.cancel()

    assert isinstance(step.states[-1], Finished)
    assert step.stack.late == ()
    assert walk.due() == []
    walk.say("third")
    assert [text for role, text in shown(walk) if role == "user"] == ["first", "second", "third"]
    assert [type(effect) for effect in walk.due()] == [Think]


def test_seam_04_a_spent_budget_keeps_what_was_not_read() -> None:
    """A reply that uses the budget up ends the turn, although somebody spoke meanwhile; the next turn shows it."""
    walk = begun("first", budget=Budget(steps=1))
    walk.say("second")
    step = walk.settle(walk.due()[0], Decision((Say("to the first"),), Usage(model="m")))
    assert step.states[-1] == Finished(reason="budget", detail="1 steps in one turn")
    walk.say("third")
    assert shown(walk) == [
        ("user", "first"),
        ("assistant", "to the first"),
        ("user", "second"),
        ("user", "third"),
    ]


def test_seam_04_messages_inside_a_wait_for_tools_come_after_its_results() -> None:
    """The results stay beside their calls; the messages follow, in order, before the next thought."""
    walk = begun("first")
    walk.decide(UseTool("look", {"n": 1}), UseTool("look", {"n": 2}))
    one, two = walk.due()
    walk.say("second")
    walk.settle(two, ToolOutcome(content="two"))
    walk.say("third")
    walk.settle(one, ToolOutcome(content="one"))

    assert shown(walk) == [
        ("user", "first"),
        ("assistant", ""),
        ("tool", "two"),
        ("tool", "one"),
        ("user", "second"),
        ("user", "third"),
    ]


def test_seam_04_a_message_on_a_cut_comes_after_those_that_were_late() -> None:
    """A branch cut between a late message and its answer renders the late one first, as it was said first."""
    walk = begun("first")
    walk.say("second")
    walk.decide(Say("to the first"))
    cut = walk.fold(ROOT, len(walk.states(ROOT)) - 1).fork(StackRef("cut"))

    step = hear(cut, [UserMessage(text="third")], walk.at)

    assert texts(step.stack)[-2:] == ["second", "third"]
    assert step.stack.late == ()


def test_a_message_after_the_end_begins_the_next_turn() -> None:
    """`Finished` is followed by a message alone; the turn count goes up and the reply is new."""
    walk = begun()
    walk.decide(Say("one"))
    walk.say("again")
    assert walk.stacks[ROOT].turn == 2
    assert walk.stacks[ROOT].reply == ""


# How a turn ends


def child_of(walk: Walk, message: str = "go") -> StackRef:
    walk.decide(Delegate(ANN, message))
    return child_ref(walk.open().id)


@pytest.mark.parametrize("reason", ["answered", "gave_up", "error", "budget", "cancelled"])
def test_seam_06_every_end_returns(reason: str) -> None:
    """Whatever ends a turn that somebody waits for, its Return is owed in the same commit, with what it was."""
    walk = begun()
    child = child_of(walk)
    think = next(effect for effect in walk.due() if isinstance(effect, Think))
    match reason:
        case "answered":
            step = walk.settle(think, Decision((Say("fine"),)))
        case "gave_up":
            step = walk.settle(think, Decision((Say("well"), Finish("gave_up", "too hard"))))
        case "error":
            step = walk.settle(think, Failure("down"))
        case "cancelled":
            step = walk.cancel(child)
        case _:
            walk.override(setup_of("boss", budget=Budget(steps=0)), child)
            step = walk.settle(think, Decision((UseTool("nope"),), Usage(model="m")))
    ending = step.states[-1]
    assert isinstance(ending, Finished)
    assert ending.reason == reason
    (back,) = (effect for effect in step.effects if isinstance(effect, Return))
    assert back.status == ("ok" if reason == "answered" else "error")
    assert back.child == (child, step.stack.head)

    walk.deliver_all()
    result = next(state for state in walk.states(ROOT) if isinstance(state, AgentResult))
    assert result.child == back.child
    assert reason == "answered" or reason in result.content
    assert walk.stacks[ROOT].open  # the parent thinks about it


def test_seam_06_a_finish_of_the_agent_is_an_outcome_with_its_reason() -> None:
    """What the agent said and how it ended both came back, so that a replay ends for the same reason."""
    walk = begun()
    step = walk.decide(Say("well"), Finish("gave_up", "too hard"))
    assert step.states == (AssistantMessage(text="well"), Finished(reason="gave_up", detail="too hard"))
    assert step.outcomes == 2


def test_seam_07_cancelling_settles_everything_open_in_one_step() -> None:
    """Tools, questions and delegates: nothing stays owed but a Cancel for each child."""
    walk = begun()
    walk.decide(UseTool("look"), UseTool("gate"), Delegate(ANN, "one"), Delegate(BOB, "two"))
    walk.open()
    step = walk.cancel()

    assert step.states == (Finished(reason="cancelled", detail="enough"),)
    assert step.outcomes == 1  # it came from outside
    children = {child_ref(effect.id) for effect in walk.effects.values() if isinstance(effect, CallAgent)}
    assert {effect.child for effect in step.effects if isinstance(effect, Cancel)} == children
    assert {type(effect) for effect in walk.owed.values() if effect.ref == ROOT} == {Cancel}


def test_seam_07_a_cancel_goes_down_to_the_grandchildren() -> None:
    """Each stack cancels those below it, and what is finished stays as it is."""
    walk = begun()
    child = child_of(walk)
    walk.think(child, Delegate(BOB, "deeper"))
    grandchild = child_ref(walk.open().id)
    walk.cancel()
    walk.deliver_all()
    for ref in (ROOT, child, grandchild):
        ground = walk.stacks[ref].ground
        assert isinstance(ground, Finished)
        assert ground.reason == "cancelled"
    assert walk.owed == {}


def test_stopping_what_does_not_run_changes_nothing() -> None:
    """An empty stack and a finished one have no turn to stop."""
    walk = Walk(setup_of("boss"))
    assert walk.cancel().states == ()
    walk.say("hello")
    walk.decide(Say("hi"))
    assert walk.cancel().states == ()


def test_an_open_call_that_may_have_acted_says_so_when_the_turn_ends() -> None:
    """The next thought reads of each cut call that it has no result; for one that never repeats, that nobody knows."""
    walk = begun()
    walk.decide(UseTool("pay", call_id="p"), UseTool("look", call_id="l"))
    walk.cancel()
    assert shown(walk)[-2:] == [
        ("tool", "[no result: the turn ended first; outcome unknown]"),
        ("tool", "[no result: the turn ended first]"),
    ]


def test_a_turn_has_a_bound_on_its_rounds() -> None:
    """An agent that never comes to an end is stopped after ROUNDS_MAX model calls, and the bound is named."""
    walk = begun()
    for _ in range(ROUNDS_MAX):
        walk.decide(UseTool("nope"))
    ending = walk.states(ROOT)[-1]
    assert ending == Finished(reason="budget", detail=f"{ROUNDS_MAX} model calls in one turn")


# Delegation


def test_seam_11_the_last_decided_call_is_remembered_whatever_came_first() -> None:
    """Two calls to one agent at once: its memory is the child of the second, though the first returned last."""
    walk = begun()
    walk.decide(Delegate(ANN, "one"), Delegate(ANN, "two"))
    first, second = (child_ref(walk.open().id), child_ref(walk.open().id))
    assert walk.lineage[first] == walk.lineage[second] is None
    walk.think(second, Say("two"))
    walk.think(first, Say("one"))
    for back in sorted(walk.due(), key=lambda effect: effect.ref != second):
        assert isinstance(back, Return)
        walk.deliver(back)

    assert walk.stacks[ROOT].children[ANN][1][0] == second
    walk.decide(Delegate(ANN, "three"))
    call = walk.open()
    assert call.base == (second, walk.stacks[second].head)
    assert texts(walk.stacks[child_ref(call.id)]) == ["two", "two", "three"]


def test_seam_11_a_result_without_a_child_forgets_nothing() -> None:
    """A delegation that could not be opened leaves what is known of that agent as it was."""
    walk = begun()
    child = child_of(walk)
    walk.think(child, Say("fine"))
    walk.deliver_all()
    walk.decide(Delegate(ANN, "again"))
    walk.settle(walk.due()[0], ToolOutcome(status="error", content="gone"))
    walk.decide(Delegate(ANN, "once more"))
    assert walk.open().base == (child, walk.stacks[child].head)


def test_failure_02_two_delegations_to_one_child_in_sequence() -> None:
    """The child remembers the first when it is asked the second, and both are answered."""
    walk = begun()
    for turn in ("one", "two"):
        child = child_of(walk, turn)
        walk.think(child, Say(f"did {turn}"))
        walk.deliver_all()
    assert texts(walk.stacks[child]) == ["one", "did one", "two", "did two"]


def test_failure_16_ping_pong_ends() -> None:
    """Two agents who pass each other the word, a new one each time, are stopped: by depth, or when nothing is left."""
    walk = begun()
    ref, depth = ROOT, 0
    while True:
        walk.think(ref, Delegate(ANN if depth % 2 else BOB, f"you do it, {depth}"))
        results = [state for state in walk.states(ref) if isinstance(state, AgentResult)]
        if results:
            break
        ref = child_ref(walk.open().id)
        depth += 1
    assert 5 <= depth <= DELEGATION_DEPTH_MAX
    assert results[0].status == "error"


@pytest.mark.parametrize("depth", [DELEGATION_DEPTH_MAX - 1, DELEGATION_DEPTH_MAX])
def test_failure_16_delegations_end_at_their_depth(depth: int) -> None:
    """Whoever stands DELEGATION_DEPTH_MAX below the root delegates no further, and reads why."""
    caller = caller_of(effect_id(ROOT, 5, 0), depth=depth)
    stack = Stack(StackRef("deep"), ANN)
    stack = hear(stack, [Override(setup=setup_of("ann")), UserMessage(text="go", caller=caller)], NOON).stack
    step = settle(stack, Think(id=effect_id(stack.ref, 2, 0)), Decision((Delegate(BOB, "you do it"),)), NOON)
    refused = [state.content for state in step.states if isinstance(state, AgentResult)]
    assert refused == ([f"delegations may not go deeper than {depth}"] if depth == DELEGATION_DEPTH_MAX else [])


def test_a_delegate_knows_how_deep_it_is_and_under_which_entry() -> None:
    """Each floor down is one deeper; the place on the root stack stays that of the first call."""
    walk = begun()
    child = child_of(walk)
    walk.think(child, Delegate(BOB, "deeper"))
    below = child_ref(walk.open().id)
    callers = [walk.stacks[ref].caller for ref in (child, below)]
    assert [(caller.depth, caller.root) for caller in callers if caller] == [(1, (ROOT, 4)), (2, (ROOT, 4))]


def test_failure_16_a_circle_is_refused() -> None:
    """The same agent asked the same thing further up is refused, and told so; another message is not."""
    walk = begun()
    child = child_of(walk, "solve it")
    walk.think(child, Delegate(BOB, "solve it"))
    below = child_ref(walk.open().id)
    step = walk.think(below, Delegate(ANN, "solve it"), Delegate(ANN, "a part of it"))
    results = [state for state in step.states if isinstance(state, AgentResult)]
    assert ["goes in a circle" in result.content for result in results] == [True]
    assert len([effect for effect in step.effects if isinstance(effect, CallAgent)]) == 1


def test_fan_out_is_bounded() -> None:
    """Of more than FAN_OUT_MAX delegations in one reply the rest are refused; of the calls, CALLS_PER_REPLY_MAX run."""
    walk = begun()
    step = walk.decide(*(Delegate(ANN, f"part {n}") for n in range(FAN_OUT_MAX + 2)))
    assert sum(isinstance(effect, CallAgent) for effect in step.effects) == FAN_OUT_MAX
    assert sum(isinstance(state, AgentResult) for state in step.states) == 2

    walk = begun()
    step = walk.decide(*(UseTool("look", {"n": n}) for n in range(CALLS_PER_REPLY_MAX + 3)))
    assert sum(isinstance(effect, CallTool) for effect in step.effects) == CALLS_PER_REPLY_MAX
    refused = [state.content for state in step.states if isinstance(state, ToolResult)]
    assert refused == [f"more than {CALLS_PER_REPLY_MAX} calls in one reply"] * 3


@pytest.mark.parametrize(
    ("agent", "message", "says"),
    [("ghost", "hello", "no agent 'ghost' to delegate to"), ("ann", "  ", "needs a message")],
)
def test_failure_19_an_invented_agent_is_refused(agent: str, message: str, says: str) -> None:
    """A name that is not on the list of delegates is a result that names those who are."""
    walk = begun()
    step = walk.decide(Delegate(AgentId(agent), message))
    (result,) = (state for state in step.states if isinstance(state, AgentResult))
    assert says in result.content
    assert [type(effect) for effect in step.effects] == [Think]


# Approval and questions


def test_seam_12_approval_is_asked_by_the_machine_beside_running_siblings() -> None:
    """A call that needs approval is a question in the same wait; approved it becomes a call, the siblings go on."""
    walk = begun()
    step = walk.decide(UseTool("gate", {"n": 1}, "g"), UseTool("look", {}, "l"))
    assert [type(effect) for effect in step.effects] == [Ask, CallTool]
    assert step.states[-1] == Waiting(on=(Pending(0, "approval", "g"), Pending(1, "tool", "l")))
    ask, look = step.effects

    step = walk.settle(ask, Answer("go ahead"))
    (gate,) = step.effects
    assert isinstance(gate, CallTool)
    assert step.states == (UserResponse(call_id="g", text="go ahead"), Waiting(on=(Pending(0, "tool", "g"),)))
    walk.settle(look, ToolOutcome(content="seen"))
    assert walk.stacks[ROOT].ground == ToolResult(call_id="l", tool="look", content="seen")  # one is still open
    assert [type(effect) for effect in walk.settle(gate, ToolOutcome(content="opened")).effects] == [Think]


def test_seam_12_a_refused_approval_is_a_result() -> None:
    """Denied means that it did not run; the model reads the reason, and asks again next time."""
    walk = begun()
    (ask,) = walk.decide(UseTool("gate", call_id="g")).effects
    step = walk.settle(ask, Answer("not today", approved=False))
    assert step.states[0] == ToolResult(call_id="g", tool="gate", status="denied", content="not today")
    (ask,) = walk.decide(UseTool("gate", call_id="g")).effects
    assert isinstance(ask, Ask)


def test_seam_12_an_approval_is_for_one_call() -> None:
    """The same call id in a later reply is another call: it is asked about again."""
    walk = begun()
    for _ in range(2):
        (ask,) = walk.decide(UseTool("gate", call_id="g")).effects
        assert isinstance(ask, Ask)
        (gate,) = walk.settle(ask, Answer("yes")).effects
        walk.settle(gate, ToolOutcome())


def test_a_question_is_answered_by_a_person() -> None:
    """The agent asks, the stack waits, the answer is what the model reads next."""
    walk = begun()
    (ask,) = walk.decide(Say("hm"), AskUser("which one?", ("a", "b"))).effects
    assert isinstance(ask, Ask)
    assert (ask.kind, ask.question, ask.choices) == ("input", "which one?", ("a", "b"))
    assert isinstance(walk.stacks[ROOT].ground, Waiting)
    step = walk.settle(ask, Answer("a"))
    assert [type(effect) for effect in step.effects] == [Think]
    assert shown(walk)[-1] == ("tool", "a")


def test_a_question_beside_calls_is_refused() -> None:
    """A person is asked alone: beside calls the question comes back as a result, and the calls run."""
    walk = begun()
    step = walk.decide(AskUser("which?"), UseTool("look"))
    assert not any(isinstance(state, UserInputRequest) for state in step.states)
    refused = next(state for state in step.states if isinstance(state, ToolResult))
    assert (refused.tool, refused.status) == ("ask_human", "error")
    assert [type(effect) for effect in step.effects] == [CallTool]


# Overrides and post-effects


def test_seam_30_an_override_may_stand_anywhere_and_changes_no_ground() -> None:
    """Before the first message, inside a wait, between results, after the end: what is legal next stays the same."""
    walk = begun()
    walk.override(setup_of("boss", model="n"))
    walk.decide(UseTool("look", {"n": 1}), UseTool("look", {"n": 2}))
    one, two = walk.due()
    walk.settle(one, ToolOutcome())
    walk.override(setup_of("boss", model="o"))
    walk.settle(two, ToolOutcome())
    assert walk.stacks[ROOT].thinking.model == "o"
    walk.override(setup_of("boss", model="p"))
    assert walk.stacks[ROOT].thinking.model == "o"  # a thought that was asked goes by the setup it was asked with
    walk.decide(Say("done"))
    walk.override(setup_of("boss", model="q"))
    assert isinstance(walk.stacks[ROOT].ground, Finished)
    assert walk.stacks[ROOT].overrides == {"model": "q"}


def test_seam_30_a_configuration_alone_wakes_nobody() -> None:
    """An override on a resting stack owes nothing."""
    walk = Walk(setup_of("boss"))
    assert walk.override(setup_of("boss", model="n")).effects == ()


def test_seam_31_a_post_effect_is_a_note() -> None:
    """Its call id is derived, no model asked for it, and its answer is a user-role note, never a tool message."""
    walk = begun()
    walk.decide(UseTool("look", call_id="x"))
    walk.settle(walk.due()[0], ToolOutcome(content="seen", then=(CallAgentAfter(ANN, "file it"),)))
    call = walk.open()
    assert call.call_id == "x+0"
    walk.think(child_ref(call.id), Say("filed"))
    walk.deliver_all()
    assert shown(walk)[-2:] == [("tool", "seen"), ("user", "[ann] filed")]
    assert [use.call_id for one in walk.stacks[ROOT].fragments for use in one.message.calls] == ["x"]


def test_seam_31_refused_post_effects_harm_nothing() -> None:
    """Several of them, to agents who may not be asked: each is answered on the spot and the turn goes on."""
    walk = begun()
    walk.decide(UseTool("look", call_id="x"))
    ghosts = tuple(CallAgentAfter(AgentId(name), "file it") for name in ("ghost", "ann", "spook"))
    step = walk.settle(walk.due()[0], ToolOutcome(then=ghosts))
    assert [type(state) for state in step.states] == [
        ToolResult,
        AgentCall,
        AgentCall,
        AgentCall,
        AgentResult,
        AgentResult,
        Waiting,
    ]
    assert [effect.agent for effect in step.effects if isinstance(effect, CallAgent)] == ["ann"]


def test_a_failed_tool_has_no_post_effects() -> None:
    """What should follow a success does not follow a failure."""
    walk = begun()
    walk.decide(UseTool("look"))
    step = walk.settle(walk.due()[0], ToolOutcome(status="error", then=(CallAgentAfter(ANN, "file it"),)))
    assert [type(effect) for effect in step.effects] == [Think]


# The table


def test_seam_17_a_step_says_how_much_of_it_came_back() -> None:
    """`outcomes` counts the states that are outcome; what the machine said follows them."""
    walk = begun()
    assert walk.steps[-1][1].outcomes == 2  # the agent's setup and the message; then the wait
    step = walk.decide(Say("hm"), UseTool("look"), UseTool("nope"))
    assert (step.outcomes, len(step.states)) == (4, 5)


@pytest.mark.parametrize("state", STATES)
def test_the_table_has_a_row_for_every_state(state: type) -> None:
    """Each state may follow something and be followed by something; an override follows everything."""
    assert state is Override or any(state in allowed for allowed in SUCCESSORS.values())
    assert state is Override or SUCCESSORS[state]


def test_what_the_table_does_not_allow_is_refused() -> None:
    """A fault of ours is a crash that names the states, the entry and the stack; nothing is changed."""
    stack = Stack(ROOT, AgentId("boss"))
    with pytest.raises(IllegalTransition, match=r"Waiting after \(start\) at entry 0 of 'root'"):
        stack.push(Waiting(on=()), at=NOON)
    assert not legal(None, Waiting(on=()))
    assert legal(None, Override())
    assert stack.head == 0


def test_an_outcome_of_another_kind_is_a_fault() -> None:
    """A tool's outcome cannot come back from a model call."""
    walk = begun()
    with pytest.raises(IllegalTransition, match="ToolOutcome cannot come back from Think"):
        machine.settle(walk.stacks[ROOT], walk.due()[0], ToolOutcome(), NOON)


def test_the_caller_of_a_forked_child_is_not_inherited() -> None:
    """A branch that people fork off a delegate's stack returns to nobody."""
    stack = Stack(StackRef("child"), ANN)
    message = UserMessage(text="go", caller=caller_of(effect_id(ROOT, 5, 0)), grant=Budget(steps=9))
    stack = hear(stack, [Override(setup=setup_of("ann")), message], NOON).stack
    fork = Stack(StackRef("fork"), ANN, base=2)
    for state in (Override(setup=setup_of("ann")), message):
        fork.push(state, at=NOON)
    assert stack.caller is not None
    assert (fork.caller, fork.granted) == (None, None)
    step = machine.wake(fork, NOON)
    assert not machine.end(step.stack, "cancelled", "", NOON).effects

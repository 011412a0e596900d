"""Random walks through the successor table: whatever comes back, in whatever order, the rules of the machine hold."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

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
from p2engine.domain.effects import AnyEffect, Ask, CallAgent, CallTool, Cancel, Return, Think
from p2engine.domain.ids import AgentId
from p2engine.domain.machine import Outcome
from p2engine.domain.messages import Usage
from p2engine.domain.setup import Budget, Setup
from p2engine.domain.stack import Stack
from p2engine.domain.states import AgentCall, AssistantMessage, Finished, Override, UserMessage
from tests.domain.walking import ROOT, Walk, answered_once, facts, safe_lengths, setup_of

TEXT = st.sampled_from(["", "a", "so it is", "ünïcode"])
CALL_ID = st.sampled_from(["", "", "x", "y", "x+0", "call_2_1", "call_5_0"])
TOOL = st.sampled_from(["look", "look", "book", "pay", "gate", "nope"])
ARGUMENTS = st.sampled_from([{}, {"n": 1}, {"n": 2}])
AGENT = st.sampled_from([AgentId("ann"), AgentId("bob"), AgentId("boss"), AgentId("ghost")])

MOVE: st.SearchStrategy[Move] = st.one_of(
    st.builds(Say, TEXT),
    st.builds(UseTool, TOOL, ARGUMENTS, CALL_ID, st.sampled_from(["", "", "", "{oops"])),
    st.builds(Delegate, AGENT, st.sampled_from(["do", "look", "say", " "]), CALL_ID),
    st.builds(AskUser, st.just("which?"), st.just(()), CALL_ID),
    st.builds(Finish, st.sampled_from(["answered", "gave_up", "error"]), TEXT),
)
USAGE = st.one_of(
    st.none(),
    st.builds(
        Usage,
        model=st.just("m"),
        tokens_in=st.integers(0, 50),
        tokens_out=st.integers(0, 50),
        cost_usd=st.sampled_from([None, 0.0, 0.01]),
    ),
)
DECISION = st.builds(Decision, st.lists(MOVE, max_size=6).map(tuple), USAGE)
TOOL_OUTCOME = st.builds(
    ToolOutcome,
    status=st.sampled_from(["ok", "ok", "error", "timeout", "interrupted"]),
    content=TEXT,
    reward=st.sampled_from([None, 1.0, -2.0]),
    then=st.lists(st.builds(CallAgentAfter, AGENT, TEXT), max_size=3).map(tuple),
)
OUTCOMES: dict[type[AnyEffect], st.SearchStrategy[Outcome]] = {
    Think: st.one_of(DECISION, DECISION, DECISION, st.builds(Failure, TEXT, USAGE)),
    CallTool: TOOL_OUTCOME,
    Ask: st.builds(Answer, TEXT, st.booleans()),
}
SETUP = st.builds(
    setup_of,
    st.just("boss"),
    model=st.sampled_from(["m", "n"]),
    dedup=st.sampled_from(["none", "penalty", "strict"]),
    budget=st.builds(
        Budget,
        steps=st.sampled_from([None, None, 3, 12]),
        tokens=st.sampled_from([None, None, 200]),
        usd=st.sampled_from([None, None, 0.05]),
        seconds=st.sampled_from([None, None, 60.0]),
    ),
)


def perform(walk: Walk, effect: AnyEffect, data: st.DataObject) -> None:
    """One effect that is owed is done, with an outcome that its kind may have."""
    match effect:
        case CallAgent():
            if data.draw(st.integers(0, 9)) == 0:
                walk.settle(effect, ToolOutcome(status="error", content="no such agent any more"))
            else:
                walk.open_child(effect)
        case Return():
            walk.deliver(effect)
        case Cancel():
            walk.end_child(effect)
        case _:
            walk.settle(effect, data.draw(OUTCOMES[type(effect)]))


def disturb(walk: Walk, data: st.DataObject) -> None:
    """Somebody speaks, configures, cancels, or wakes a stack for no reason."""
    ref = data.draw(st.sampled_from(sorted(walk.stacks)))
    match data.draw(st.sampled_from(["say", "say", "say", "override", "cancel", "wake"])):
        case "say":
            walk.say(data.draw(st.sampled_from(["hello", "and?"])), ref)
        case "override":
            walk.override(data.draw(SETUP), ref)
        case "cancel":
            walk.cancel(ref)
        case _:
            walk.wake(ref)


def stroll(data: st.DataObject, steps: int = 40) -> Walk:
    """A random life of a whole conversation."""
    walk = Walk(data.draw(SETUP))
    walk.say("begin")
    for _ in range(data.draw(st.integers(1, steps))):
        walk.at += data.draw(st.sampled_from([0.0, 1.0, 20.0, -5.0]))
        due = walk.due()
        if due and data.draw(st.integers(0, 5)):
            perform(walk, data.draw(st.sampled_from(due)), data)
        else:
            disturb(walk, data)
    return walk


def benign(effect: AnyEffect) -> Outcome:
    match effect:
        case Think():
            return Decision((Say("done"),))
        case CallTool():
            return ToolOutcome(content="ok")
        case _:
            return Answer("yes")


def come_to_rest(walk: Walk) -> None:
    """From here on everything comes back, and well."""
    for _ in range(1000):
        due = walk.due()
        if not due:
            return
        match effect := due[0]:
            case CallAgent():
                walk.open_child(effect)
            case Return():
                walk.deliver(effect)
            case Cancel():
                walk.end_child(effect)
            case _:
                walk.settle(effect, benign(effect))
    raise AssertionError(f"never comes to rest: {walk.due()}")


@given(st.data())
def test_every_walk_comes_to_rest(data: st.DataObject) -> None:
    """No outcome in any order is refused by the table; every stack waits or has ended; at rest nothing is owed."""
    walk = stroll(data)

    come_to_rest(walk)

    assert walk.owed == {}
    assert len(walk.settled) == len(set(walk.settled)), "an effect was settled twice"
    for ref, stack in walk.stacks.items():
        assert isinstance(stack.ground, Finished | None), f"{ref} stands on {stack.ground}"
        assert not stack.open
        assert not stack.calls


@given(st.data())
def test_every_call_is_answered_once_or_closed(data: st.DataObject) -> None:
    """Calls and answers pair up on every stack; what has no answer was closed by the end of its turn."""
    walk = stroll(data)
    for ref in walk.stacks:
        answered_once(walk.states(ref))


@given(st.data())
def test_a_fold_of_every_prefix_is_the_stack_that_was(data: st.DataObject) -> None:
    """Folding the first commits of a stack gives the facts that the machine had after writing them."""
    walk = stroll(data, steps=25)
    for ref, live in walk.lives.items():
        own = walk.commits[ref]
        base = walk.lineage[ref]
        lived = iter(live)
        for count in range(len(own) + 1):
            stack = Stack(ref, walk.stacks[ref].agent, base=base[1] if base else 0)
            inherited = [placed for placed in walk.placed(ref) if placed.ref != ref]
            stack.place_all([*inherited, *own[:count]])
            if count:
                assert facts(stack) in (next(lived), *live)


@given(st.data())
def test_seam_23_every_row_knows_where_it_may_be_cut(data: st.DataObject) -> None:
    """`safe` and `safe_before` of the rows, and the fold, say what a scan of all states says."""
    walk = stroll(data)
    for ref, stack in walk.stacks.items():
        scanned = safe_lengths(walk.states(ref))
        assert stack.safe == max(scanned, default=0)
        for placed in walk.commits[ref]:
            end = placed.seq + len(placed.commit.states)
            said = [placed.seq + offset for offset in placed.commit.safe]
            assert said == [length for length in scanned if placed.seq < length <= end]
            assert placed.commit.safe_before == max([0, *(length for length in scanned if length <= placed.seq)])


@given(st.data())
def test_every_safe_cut_can_be_gone_on_from(data: st.DataObject) -> None:
    """A branch that is cut where nothing is open waits for nothing, owes nothing, and goes on when spoken to."""
    walk = stroll(data, steps=20)
    for length in safe_lengths(walk.states(ROOT)):
        fork = walk.fold(ROOT, length).fork(ROOT)
        assert fork.is_resting
        woken = machine.wake(fork, walk.at)
        assert woken.stack.open or isinstance(woken.stack.ground, Finished | None)
        spoken = machine.hear(fork, [UserMessage(text="go on")], walk.at)
        assert isinstance(spoken.stack.ground, Finished) or [type(e) for e in spoken.effects] == [Think]
        texts = [one.message.text for one in spoken.stack.fragments if one.message.role == "user"]
        assert texts[-1] == "go on"


def again(before: Stack, step: machine.Step, at: float) -> machine.Step:
    """The same step from its recorded outcomes alone."""
    move = machine._Move(before, at)
    move.usage = step.usage
    back = step.states[: step.outcomes]
    for state in back:
        if isinstance(state, Finished):
            return move.finish(state.reason, state.detail, is_outcome=True)
        move.push(state)
    return move.step() if back and all(isinstance(state, Override) for state in back) else move.advance()


@given(st.data())
def test_seam_28_recorded_outcomes_fold_to_the_same_bytes(data: st.DataObject) -> None:
    """Fed what came back and the recorded time, the machine says the same states and effects again, byte for byte."""
    walk = stroll(data)
    for before, step, commit in walk.steps:
        replayed = again(before, step, commit.at)
        assert msgspec.msgpack.encode(replayed.states) == msgspec.msgpack.encode(step.states)
        assert replayed.outcomes == step.outcomes
        assert replayed.effects == step.effects
        assert replayed.drops == step.drops
        assert replayed.safe == step.safe


@given(st.data())
def test_seam_6_every_end_returns_to_whoever_waits(data: st.DataObject) -> None:
    """Each turn that a delegation opened ends with one Return to that call, whatever the reason."""
    walk = stroll(data)
    come_to_rest(walk)
    returned = [effect.to.effect for effect in walk.effects.values() if isinstance(effect, Return)]
    assert len(returned) == len(set(returned))
    opened = {
        placed.commit.cause
        for commits in walk.commits.values()
        for placed in commits
        if any(isinstance(state, UserMessage) and state.caller for state in placed.commit.states)
    }
    assert opened == set(returned)


@given(st.data())
def test_seam_4_a_turn_answers_every_message(data: st.DataObject) -> None:
    """A turn that ends `answered` has shown the model every message that reached it."""
    walk = stroll(data)
    for _, step, _ in walk.steps:
        last = step.states[-1] if step.states else None
        if isinstance(last, Finished) and last.reason == "answered" and isinstance(step.states[-2:][0], AssistantMessage):
            assert not step.stack.late
    for ref in walk.stacks:
        heard = [s.text for s in walk.states(ref) if isinstance(s, UserMessage)]
        notes = sum(isinstance(s, AgentCall) and s.note for s in walk.states(ref))
        shown = [f.message.text for f in walk.stacks[ref].fragments if f.message.role == "user"]
        waiting = [message.text for message in walk.stacks[ref].late]
        assert len(shown) + len(waiting) - len(heard) in range(notes + 1)



"""Random walks through the successor table: whatever comes back, in whatever order, the rules of the machine hold."""

import random
from collections.abc import Callable

import msgspec
from hypothesis import given
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
from p2engine.domain.draft import Draft, Step
from p2engine.domain.effects import AnyEffect, CallAgent, CallTool, Cancel, Return, Think
from p2engine.domain.ids import AgentId
from p2engine.domain.machine import Outcome
from p2engine.domain.messages import Usage
from p2engine.domain.setup import Budget, Setup
from p2engine.domain.stack import Stack
from p2engine.domain.states import AgentCall, Finished, Override, Status, UserMessage
from tests.domain.walking import ROOT, Tape, Walk, answered_once, facts, safe_lengths, setup_of

NUMBERS = st.integers(0, 1000)
LONG = st.integers(0, 2**32).map(lambda seed: [random.Random(seed + n).randrange(1000) for n in range(300)])
TAPE = st.one_of(st.lists(NUMBERS, max_size=60), st.lists(NUMBERS, min_size=60, max_size=200), LONG).map(Tape)
"""What happens, as numbers: one draw for a whole walk, and a failing one shrinks to few of them."""

TEXTS = ("a", "", "so it is", "ünïcode")
AGENTS = (AgentId("ann"), AgentId("bob"), AgentId("boss"), AgentId("ghost"))
CALL_IDS = ("", "", "", "x", "y", "x+0", "call_3_1", "call_5_0")
ARGUMENTS: tuple[dict[str, int], ...] = ({}, {"n": 1}, {"n": 2})
STATUSES: tuple[Status, ...] = ("ok", "ok", "error", "timeout", "interrupted")
MESSAGES = ("do", "look", "say", " ")


def move_of(tape: Tape) -> Move:
    match tape.below(9):
        case 0 | 1:
            return Say(tape.pick(TEXTS))
        case 2 | 3 | 4:
            tool = tape.pick(("look", "look", "book", "pay", "gate", "nope"))
            return UseTool(tool, tape.pick(ARGUMENTS), tape.pick(CALL_IDS), tape.pick(("", "", "", "{oops")))
        case 5 | 6:
            return Delegate(tape.pick(AGENTS), tape.pick(MESSAGES), tape.pick(CALL_IDS))
        case 7:
            return AskUser("which?", (), tape.pick(CALL_IDS))
        case _:
            return Finish(tape.pick(("answered", "gave_up", "error")), tape.pick(TEXTS))


def usage_of(tape: Tape) -> Usage | None:
    if tape.below(3) == 0:
        return None
    cost = tape.pick((0.0, 0.01, None))
    return Usage(model="m", tokens_in=tape.below(50), tokens_out=tape.below(50), cost_usd=cost)


def outcome_of(effect: AnyEffect, tape: Tape) -> Outcome:
    match effect:
        case Think():
            if tape.below(8) == 7:
                return Failure(tape.pick(TEXTS), usage_of(tape))
            return Decision(tuple(move_of(tape) for _ in range(tape.below(6))), usage_of(tape))
        case CallTool():
            then = tuple(CallAgentAfter(tape.pick(AGENTS), tape.pick(TEXTS)) for _ in range(tape.pick((0, 0, 1, 2))))
            status = tape.pick(STATUSES)
            return ToolOutcome(status=status, content=tape.pick(TEXTS), reward=tape.pick((None, 1.0, -2.0)), then=then)
        case _:
            return Answer(tape.pick(TEXTS), approved=tape.below(2) == 0)


def setup_at(tape: Tape) -> Setup:
    return setup_of(
        "boss",
        model=tape.pick(("m", "n")),
        dedup=tape.pick(("none", "penalty", "strict")),
        budget=Budget(
            steps=tape.pick((None, None, 3, 12, 40)),
            tokens=tape.pick((None, None, 200)),
            usd=tape.pick((None, None, 0.05)),
            seconds=tape.pick((None, None, 60.0)),
        ),
    )


def perform(walk: Walk, effect: AnyEffect, outcome: Callable[[AnyEffect], Outcome]) -> None:
    """One effect that is owed is done."""
    match effect:
        case CallAgent():
            walk.open_child(effect)
        case Return():
            walk.deliver(effect)
        case Cancel():
            walk.end_child(effect)
        case _:
            walk.settle(effect, outcome(effect))


def disturb(walk: Walk, tape: Tape) -> None:
    """Somebody speaks, configures, cancels, wakes a stack for no reason, or takes an agent away."""
    ref = tape.pick(sorted(walk.stacks))
    match tape.below(8):
        case 0 | 1 | 2:
            walk.say(tape.pick(("hello", "and?")), ref)
        case 3:
            walk.override(setup_at(tape), ref)
        case 4:
            walk.cancel(ref)
        case 5:
            walk.wake(ref)
        case _:
            for effect in walk.due():
                if isinstance(effect, CallAgent):
                    walk.settle(effect, ToolOutcome(status="error", content="no such agent any more"))
                    return


def stroll(tape: Tape) -> Walk:
    """A random life of a whole conversation, as long as the tape."""
    walk = Walk(setup_at(tape))
    walk.say("begin")
    while tape.left:
        walk.at += tape.pick((0.0, 1.0, 20.0, -5.0))
        due = walk.due()
        if due and tape.below(6):
            perform(walk, tape.pick(due), lambda effect: outcome_of(effect, tape))
        else:
            disturb(walk, tape)
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
        perform(walk, due[0], benign)
    raise AssertionError(f"never comes to rest: {walk.due()}")


@given(TAPE)
def test_every_walk_comes_to_rest(tape: Tape) -> None:
    """No outcome in any order is refused by the table; every stack waits or has ended; at rest nothing is owed."""
    walk = stroll(tape)

    come_to_rest(walk)

    assert walk.owed == {}
    assert len(walk.settled) == len(set(walk.settled)), "an effect was settled twice"
    for ref, stack in walk.stacks.items():
        assert isinstance(stack.ground, Finished | None), f"{ref} stands on {stack.ground}"
        assert not stack.open
        assert not stack.calls


@given(TAPE)
def test_every_call_is_answered_once_or_closed(tape: Tape) -> None:
    """Calls and answers pair up on every stack; what has no answer was closed by the end of its turn."""
    walk = stroll(tape)
    for ref in walk.stacks:
        answered_once(walk.states(ref))


@given(TAPE)
def test_a_fold_of_every_prefix_is_the_stack_that_was(tape: Tape) -> None:
    """Folding the first commits of a stack gives the facts that the machine had after writing them."""
    walk = stroll(tape)
    for ref, lives in walk.lives.items():
        own = walk.commits[ref]
        base = walk.lineage[ref]
        inherited = [placed for placed in walk.placed(ref) if placed.ref != ref]
        for count, lived in enumerate(lives, 1):
            stack = Stack(ref, walk.stacks[ref].agent, base=base[1] if base else 0)
            assert facts(stack.place_all([*inherited, *own[:count]])) == lived


@given(TAPE)
def test_seam_23_every_row_knows_where_it_may_be_cut(tape: Tape) -> None:
    """`safe` and `safe_before` of the rows, and the fold, say what a scan of all states says."""
    walk = stroll(tape)
    for ref, stack in walk.stacks.items():
        scanned = safe_lengths(walk.states(ref))
        assert stack.safe == max(scanned, default=0)
        for placed in walk.commits[ref]:
            end = placed.seq + len(placed.commit.states)
            said = [placed.seq + offset for offset in placed.commit.safe]
            assert said == [length for length in scanned if placed.seq < length <= end]
            assert placed.commit.safe_before == max([0, *(length for length in scanned if length <= placed.seq)])


@given(TAPE)
def test_every_safe_cut_can_be_gone_on_from(tape: Tape) -> None:
    """A branch that is cut where nothing is open waits for nothing, owes nothing, and goes on when spoken to."""
    walk = stroll(tape)
    for length in safe_lengths(walk.states(ROOT)):
        fork = walk.fold(ROOT, length).fork(ROOT)
        assert fork.is_resting
        woken = machine.wake(fork, walk.at)
        assert woken.stack.open or isinstance(woken.stack.ground, Finished | None)
        spoken = machine.hear(fork, [UserMessage(text="go on")], walk.at)
        assert isinstance(spoken.stack.ground, Finished) or [type(e) for e in spoken.effects] == [Think]
        texts = [one.message.text for one in spoken.stack.fragments if one.message.role == "user"]
        assert texts[-1] == "go on"


def again(before: Stack, step: Step, at: float) -> Step:
    """The same step from its recorded outcomes alone."""
    draft = Draft(before, at)
    draft.usage = step.usage
    back = step.states[: step.outcomes]
    for state in back:
        if isinstance(state, Finished):
            return draft.finish(state.reason, state.detail, is_outcome=True)
        draft.push(state)
    return draft.step() if back and all(isinstance(state, Override) for state in back) else draft.advance()


@given(TAPE)
def test_seam_28_recorded_outcomes_fold_to_the_same_bytes(tape: Tape) -> None:
    """Fed what came back and the recorded time, the machine says the same states and effects again, byte for byte."""
    walk = stroll(tape)
    for before, step, commit in walk.steps:
        replayed = again(before, step, commit.at)
        assert msgspec.msgpack.encode(replayed.states) == msgspec.msgpack.encode(step.states)
        assert replayed.outcomes == step.outcomes
        assert replayed.effects == step.effects
        assert replayed.drops == step.drops
        assert replayed.safe == step.safe


@given(TAPE)
def test_seam_06_every_end_returns_to_whoever_waits(tape: Tape) -> None:
    """Each turn that a delegation opened ends with one Return to that call, whatever the reason."""
    walk = stroll(tape)
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


@given(TAPE)
def test_seam_04_a_turn_answers_every_message(tape: Tape) -> None:
    """A turn that the agent ends itself has shown the model every message that reached it."""
    walk = stroll(tape)
    for before, step, _ in walk.steps:
        match step.states[-1:]:
            case (Finished(reason="answered" | "gave_up"),):
                assert not before.late
            case _:
                pass
    for ref in walk.stacks:
        heard = [s.text for s in walk.states(ref) if isinstance(s, UserMessage)]
        notes = sum(isinstance(s, AgentCall) and s.note for s in walk.states(ref))
        shown = [f.message.text for f in walk.stacks[ref].fragments if f.message.role == "user"]
        waiting = [message.text for message in walk.stacks[ref].late]
        assert len(shown) + len(waiting) - len(heard) in range(notes + 1)

"""Equal calls: what each policy makes of them, decided in slot order from the stack's own lineage."""

import pytest

from p2engine.domain.decisions import Answer, Say, ToolOutcome, UseTool
from p2engine.domain.effects import Ask, CallTool
from p2engine.domain.ids import StackRef
from p2engine.domain.machine import hear
from p2engine.domain.setup import DedupPolicy
from p2engine.domain.stack import call_digest
from p2engine.domain.states import Status, ToolResult, UserMessage
from tests.domain.walking import ROOT, Walk, setup_of


def begun(policy: DedupPolicy) -> Walk:
    walk = Walk(setup_of("boss", dedup=policy))
    walk.say("hello")
    return walk


def run(walk: Walk, *calls: UseTool, status: Status = "ok", reward: float | None = None) -> list[ToolResult]:
    """One reply with these calls; those that run come back so. Their results, in the order of the calls."""
    before = walk.stacks[ROOT].head
    walk.decide(*calls)
    for effect in walk.due():
        if isinstance(effect, CallTool):
            walk.settle(effect, ToolOutcome(status=status, content="done", reward=reward))
    found = [state for state in walk.states(ROOT)[before:] if isinstance(state, ToolResult)]
    return sorted(found, key=lambda result: result.call_id)


def ran(walk: Walk) -> int:
    return sum(isinstance(effect, CallTool) for effect in walk.effects.values())


PAY = UseTool("pay", {"to": "ann", "amount": 5})
SAME = UseTool("pay", {"amount": 5, "to": "ann"})  # the order of keys means nothing
BOOK = UseTool("book", {"seat": 1})  # its grant says dedup_ttl 30 s
LOOK = UseTool("look", {"n": 1})


def test_without_a_policy_every_call_runs() -> None:
    """`none`: equal calls run, nothing is recorded of them."""
    walk = begun("none")
    results = run(walk, PAY, SAME) + run(walk, PAY)
    assert [(result.status, result.duplicate) for result in results] == [("ok", 0)] * 3
    assert ran(walk) == 3


def test_penalty_runs_records_and_halves() -> None:
    """`penalty`: it runs, `duplicate` counts the equal ones before it, the reward is halved for each."""
    walk = begun("penalty")
    results = run(walk, PAY) + run(walk, SAME) + run(walk, PAY, reward=0.8)
    assert [(result.duplicate, result.reward) for result in results] == [(0, None), (1, 0.5), (2, 0.2)]
    assert ran(walk) == 3


def test_penalty_counts_by_slot_within_one_reply() -> None:
    """Of equal calls in one reply the first is the original, whichever comes back first."""
    walk = begun("penalty")
    assert [result.duplicate for result in run(walk, PAY, LOOK, SAME, PAY)] == [0, 0, 1, 2]


def test_strict_blocks_a_repeated_side_effect() -> None:
    """`strict`: an equal call later is `skipped`, no effect is made, and the model reads why."""
    walk = begun("strict")
    run(walk, PAY)
    (result,) = run(walk, SAME)
    assert (result.status, result.duplicate) == ("skipped", 1)
    assert "already" in result.content
    assert ran(walk) == 1


def test_seam_13_two_equal_calls_in_one_reply_do_not_both_pass() -> None:
    """Decided in slot order: the later one is skipped before anything ran."""
    walk = begun("strict")
    assert [result.status for result in run(walk, PAY, SAME)] == ["ok", "skipped"]
    assert ran(walk) == 1


def test_strict_leaves_what_has_no_side_effects_alone() -> None:
    """A tool that is free to repeat is repeated."""
    walk = begun("strict")
    assert [result.status for result in run(walk, LOOK, LOOK) + run(walk, LOOK)] == ["ok"] * 3


def test_another_argument_is_another_call() -> None:
    """Equal means the same tool and the same arguments."""
    walk = begun("strict")
    assert [result.status for result in run(walk, PAY, UseTool("pay", {"to": "bob", "amount": 5}))] == ["ok"] * 2


@pytest.mark.parametrize("status", ["error", "timeout", "interrupted", "denied"])
def test_seam_13_a_call_that_failed_does_not_count(status: Status) -> None:
    """What was not done may be tried again; once it was done, no more."""
    walk = begun("strict")
    run(walk, PAY, status=status)
    assert [result.status for result in run(walk, PAY)] == ["ok"]
    assert [result.status for result in run(walk, PAY)] == ["skipped"]


def test_a_call_that_was_cut_off_counts() -> None:
    """Nobody knows whether it was done when the turn was cancelled, so that it is not done again unasked."""
    walk = begun("strict")
    walk.decide(PAY)
    walk.cancel()
    walk.say("again")
    assert [result.status for result in run(walk, PAY)] == ["skipped"]


def test_dedup_looks_back_no_further_than_its_ttl() -> None:
    """Beyond `dedup_ttl` seconds an equal call is a new one, under both policies."""
    policies: tuple[DedupPolicy, ...] = ("strict", "penalty")
    for policy in policies:
        walk = begun(policy)
        run(walk, BOOK)
        walk.at += 31.0
        (result,) = run(walk, BOOK)
        assert (result.status, result.duplicate) == ("ok", 0)


def test_what_was_skipped_does_not_stretch_the_ttl() -> None:
    """Its time runs from the call that was done, not from those that were refused since."""
    walk = begun("strict")
    run(walk, BOOK)
    walk.at += 20.0
    assert [result.status for result in run(walk, BOOK)] == ["skipped"]
    walk.at += 11.0
    assert [result.status for result in run(walk, BOOK)] == ["ok"]


def test_what_failed_does_not_stretch_the_ttl() -> None:
    """Nor from one that failed."""
    walk = begun("penalty")
    run(walk, BOOK)
    walk.at += 20.0
    run(walk, BOOK, status="error")
    walk.at += 11.0
    assert [result.duplicate for result in run(walk, BOOK)] == [0]


def test_a_failed_repeat_leaves_what_was_done() -> None:
    """An equal call that fails takes only itself out of the count."""
    walk = begun("penalty")
    run(walk, PAY)
    assert [result.duplicate for result in run(walk, PAY, status="error")] == [1]
    assert [result.duplicate for result in run(walk, PAY)] == [1]


def test_an_approved_call_is_no_duplicate_of_itself() -> None:
    """However long a person took to approve it, and with an equal one waiting beside it."""
    walk = begun("penalty")
    walk.decide(UseTool("gate", {"n": 1}, "a"), UseTool("gate", {"n": 1}, "b"))
    first, second = walk.due()
    assert isinstance(first, Ask)
    walk.at += 3600.0
    for ask in (second, first):
        walk.settle(ask, Answer("yes"))
    calls = [effect for effect in walk.effects.values() if isinstance(effect, CallTool)]
    assert {call.call_id: call.duplicate for call in calls} == {"a": 0, "b": 1}


def test_dedup_follows_the_branch() -> None:
    """A fork before the call has not done it; one after it has."""
    walk = begun("strict")
    before = walk.stacks[ROOT].safe
    run(walk, PAY)
    walk.decide(Say("paid"))
    for length, count in ((before, 0), (walk.stacks[ROOT].head, 1)):
        fork = hear(walk.fold(ROOT, length).fork(StackRef("f")), [UserMessage(text="pay")], walk.at).stack
        assert len(fork.equal_calls(call_digest("pay", PAY.arguments))) == count

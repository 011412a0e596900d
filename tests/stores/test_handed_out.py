"""What lies on a queue is not submitted again at every sweep."""

from p2engine.domain.ids import EffectId, OwnerId
from p2engine.domain.records import Perform
from p2engine.stores.sqlite_owed import HandedOut
from p2engine.testing.doubles import ManualClock

A, B = Perform(EffectId("a:0.0"), "think"), Perform(EffectId("b:0.0"), "think")
DEAD = OwnerId("dead")


def test_without_queues_everything_is_due() -> None:
    """At every look."""
    handed_out = HandedOut(0.0, ManualClock().now)
    for _ in range(2):
        assert handed_out.due([(A, None), (B, DEAD)], 10) == [A, B]


def test_what_was_just_written_for_others_is_on_a_queue() -> None:
    """It is due once it was left there for too long, and then again after as long."""
    clock = ManualClock()
    handed_out = HandedOut(30.0, clock.now)
    assert handed_out.due([(A, None)], 10) == []
    clock.time += 29
    assert handed_out.due([(A, None), (B, None)], 10) == []
    clock.time += 1
    assert handed_out.due([(A, None), (B, None)], 10) == [A]
    assert handed_out.due([(A, None), (B, None)], 10) == []
    clock.time += 30
    assert handed_out.due([(A, None), (B, None)], 10) == [A, B]


def test_what_the_dead_held_is_due_at_once() -> None:
    """Each time somebody else has died with it; not twice for one death."""
    handed_out = HandedOut(30.0, ManualClock().now)
    assert handed_out.due([(A, DEAD)], 10) == [A]
    assert handed_out.due([(A, DEAD)], 10) == []
    assert handed_out.due([(A, OwnerId("another"))], 10) == [A]


def test_no_more_than_asked_for() -> None:
    """What does not fit is due at the next look."""
    handed_out = HandedOut(30.0, ManualClock().now)
    assert handed_out.due([(A, DEAD), (B, DEAD)], 1) == [A]
    assert handed_out.due([(A, DEAD), (B, DEAD)], 1) == [B]

"""Verdicts as values: the samples one is made of, and what is taken from another."""

from msgspec.structs import replace

from p2engine.domain.setup import Spent
from p2engine.domain.verdicts import Verdict

ONE = Verdict(evaluator="e", version="1", subject="s:1", score=0.5, first=4, spent=Spent(1, 2, 3, 0.5))


def test_a_sample_is_found_by_its_number() -> None:
    """A verdict of one is that sample itself; one that came to nothing is none."""
    lost = replace(ONE, status="error", score=None)
    several = replace(ONE, parts=(ONE, lost, replace(ONE, score=0.9)), samples=(0.5, None, 0.9))
    assert [ONE.part(number) for number in (3, 4, 5)] == [None, ONE, None]
    assert [several.part(number) for number in (3, 4, 5, 6, 7)] == [None, ONE, None, several.parts[2], None]
    assert lost.part(4) is None


def test_what_is_taken_costs_nothing_and_says_what_it_saved() -> None:
    """However often it is handed on, it names the event that somebody was asked about."""
    taken = replace(ONE.taken, subject="s:2")
    assert (taken.spent, taken.saved, taken.source, taken.score) == (Spent(), ONE.spent, "s:1", 0.5)
    again = taken.taken
    assert (again.spent, again.saved, again.source) == (Spent(), ONE.spent, "s:1")

"""Verdicts as values: what several samples of one are together."""

from p2engine.domain.setup import Spent
from p2engine.domain.verdicts import Verdict


def test_further_samples_are_one_verdict_with_those_there_were() -> None:
    """Means over all that decided, by how many did; a label where all say the same; the cost of the further ones."""
    few = Verdict(
        evaluator="e", version="1", subject="s", score=0.5, samples=(0.4, None, 0.6), metrics={"a": 0.5}, label="x"
    )
    more = Verdict(
        evaluator="e", version="1", subject="s", score=0.8, metrics={"a": 0.8, "b": 1.0}, spent=Spent(1, 2, 3, 0.5)
    )
    whole = few.and_then(more)
    assert (whole.samples, whole.score, whole.sampled) == ((0.4, None, 0.6, 0.8), 0.6, 4)
    assert (whole.metrics, whole.label, whole.spent.usd) == ({"a": 0.6, "b": 1.0}, "", 0.5)
    nothing = Verdict(evaluator="e", version="1", subject="s", status="error", comment="down")
    assert (nothing.and_then(nothing).score, nothing.and_then(more).score) == (None, 0.8)
    assert (nothing.and_then(more).status, nothing.and_then(more).samples) == ("scored", (None, 0.8))

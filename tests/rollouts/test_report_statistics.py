"""The statistics of whole reports, on rollouts of noisy oracles whose true means are known.

Each rate is of many simulated rollouts from fixed seeds, and must be what is promised within its own interval.
"""

from __future__ import annotations

import pytest

from p2engine.rollouts.false_alarms import false_alarms
from p2engine.rollouts.report import report_of
from p2engine.rollouts.stats import Interval, wilson_interval
from tests.rollouts.simulated import Draw, noisy, passes, rollout, row, trials

ROLLOUTS = 400
SPLIT_ROLLOUTS = 200
MEAN = 0.6


def rate(hits: int, n: int) -> Interval:
    found = wilson_interval(hits, n)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("tasks", "repeats", "task_sd", "draw", "method"),
    [
        pytest.param(0, 12, 0.0, noisy, "t", id="scores"),
        pytest.param(4, 4, 0.08, noisy, "cluster t", id="few tasks"),
        pytest.param(12, 3, 0.08, noisy, "cluster bootstrap", id="tasks"),
        pytest.param(0, 25, 0.0, passes, "wilson", id="passes"),
    ],
)
def test_intervals_cover_known_means(tasks: int, repeats: int, task_sd: float, draw: Draw, method: str) -> None:
    """In 95 % of 400 rollouts the interval of a variant has its true mean in it."""
    planned, covered = rollout(("base",), tasks=tasks, repeats=repeats), 0
    for seed in range(ROLLOUTS):
        rows = trials({"base": MEAN}, seed=seed, tasks=tasks, repeats=repeats, task_sd=task_sd, draw=draw)
        figure = report_of(planned, rows).teams[0].arms[0].metrics["score"]
        assert figure is not None
        assert figure.low is not None
        assert figure.high is not None
        assert figure.method == method
        covered += figure.low <= MEAN <= figure.high

    found = rate(covered, ROLLOUTS)

    assert found.low <= 0.95 <= found.high


@pytest.mark.parametrize(
    ("tasks", "repeats", "task_sd"),
    [pytest.param(0, 20, 0.0, id="one message"), pytest.param(12, 3, 0.08, id="tasks")],
)
def test_equal_variants_are_told_apart_at_the_promised_rate(tasks: int, repeats: int, task_sd: float) -> None:
    """Of 200 rollouts of two equal variants, 5 % name one of them better or worse."""
    planned, wrong = rollout(tasks=tasks, repeats=repeats), 0
    for seed in range(SPLIT_ROLLOUTS):
        rows = trials({"base": MEAN, "other": MEAN}, seed=seed, tasks=tasks, repeats=repeats, task_sd=task_sd)
        (found,) = report_of(planned, rows).compare(metric="score")
        wrong += found.said != "undecided"

    assert rate(wrong, SPLIT_ROLLOUTS).low <= 0.05 <= rate(wrong, SPLIT_ROLLOUTS).high


def test_four_equal_variants_are_no_easier_to_tell_apart() -> None:
    """Holm's correction keeps the chance of any false finding at 5 %, whatever the number of variants."""
    means = dict.fromkeys(("base", "one", "two", "three"), MEAN)
    planned, wrong = rollout(tuple(means), repeats=12), 0
    for seed in range(SPLIT_ROLLOUTS):
        rows = trials(means, seed=seed, repeats=12)
        found = report_of(planned, rows).compare(metric="score")
        wrong += any(each.said != "undecided" for each in found)

    assert rate(wrong, SPLIT_ROLLOUTS).low <= 0.05


def test_known_differences_are_found_with_their_sign() -> None:
    """A variant that is better by 0.15 is said to be better, one that is worse, worse, and nothing the other way."""
    planned = rollout(("base", "good", "bad"), repeats=20)
    said = []
    for seed in range(50):
        rows = trials({"base": 0.5, "good": 0.65, "bad": 0.35}, seed=seed, repeats=20)
        said.append({each.variant: each.said for each in report_of(planned, rows).compare(metric="score")})

    assert said == [{"good": "better", "bad": "worse"}] * 50


def test_a_rollout_is_checked_on_its_own_halves() -> None:
    """Halves of one variant are told apart at the promised rate; what was never repeated cannot be halved."""
    report = report_of(rollout(repeats=24), trials({"base": 0.5, "other": 0.6}, seed=1, repeats=24))
    once = report_of(rollout(tasks=3), [row("base", n, 0.5, task=f"t{n}") for n in (1, 2, 3)])

    checked = false_alarms(report, splits=300)
    (unchecked,) = false_alarms(once)

    assert [(each.variant, each.metric) for each in checked] == [("base", "score"), ("other", "score")]
    for each in checked:
        assert each.found is not None
        assert each.found.rate.low <= 0.05 <= each.found.rate.high
        assert (each.document["varies"], each.document["holds"]) == (True, True)
    assert (unchecked.found, unchecked.document["rate"]) == (None, None)


def test_equal_repeats_check_nothing() -> None:
    """Tasks may differ; where no repeat of any does, no split can, and no promise was kept."""
    rows = [row("base", n, (n % 3) / 4, task=f"t{n % 3}") for n in range(1, 25)]

    (found,) = false_alarms(report_of(rollout(("base",), tasks=3, repeats=8), rows))

    assert found.document["rejections"] == 0
    assert (found.document["varies"], found.document["holds"]) == (False, None)

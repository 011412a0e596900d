"""Experiments whose truth is known: how often intervals cover it, and how often tests reject it."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from p2engine.rollouts.comparison import mcnemar, paired_difference
from p2engine.rollouts.stats import Interval, cluster_interval, cluster_t_interval, mean_interval, wilson_interval

EXPERIMENTS = 400
NULLS = 200


def compatible(count: int, of: int, rate: float) -> bool:
    """Whether a count is one that a true rate would give: inside the exact binomial interval at 99 %."""
    interval = scipy_stats.binomtest(count, of).proportion_ci(0.99, method="exact")
    return bool(interval.low <= rate <= interval.high)


def covers(interval: Interval | None, truth: float) -> bool:
    """Whether an interval that is there holds the truth."""
    assert interval is not None
    return interval.low <= truth <= interval.high


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_of_a_mean_cover_it_at_their_level(level: float) -> None:
    """Noisy-oracle scores of one task, twelve repeats, uniform about 0.6."""
    drawn = np.random.default_rng(11).uniform(0.3, 0.9, (EXPERIMENTS, 12)).tolist()
    assert compatible(sum(covers(mean_interval(scores, level), 0.6) for scores in drawn), EXPERIMENTS, level)


@pytest.mark.parametrize("tasks", [5, 10, 25])
def test_intervals_over_tasks_cover_the_mean_of_all_tasks(tasks: int) -> None:
    """Tasks differ in difficulty, repeats share it: t of clusters for five tasks, the bootstrap for more."""
    chance = np.random.default_rng(tasks)
    clusters = [task for task in range(tasks) for _ in range(4)]
    covered = naive = 0
    for _ in range(EXPERIMENTS):
        difficulty = chance.beta(4, 2, tasks)  # of mean 2/3
        scores = (chance.binomial(10, np.repeat(difficulty, 4)) / 10).tolist()
        covered += covers(cluster_interval(scores, clusters, seed=chance, resamples=2_000), 2 / 3)
        naive += covers(mean_interval(scores), 2 / 3)
    assert compatible(covered, EXPERIMENTS, 0.95)
    assert not compatible(naive, EXPERIMENTS, 0.95), "tasks are no cluster in this experiment"


def test_cluster_robust_intervals_cover_with_unequal_clusters() -> None:
    """Some trials failed, so that tasks have one to six values."""
    chance = np.random.default_rng(12)
    clusters = np.repeat(np.arange(14), [1, 2, 3, 4, 5, 6, 6, 6, 6, 5, 4, 3, 2, 1])
    covered = 0
    for _ in range(EXPERIMENTS):
        scores = 0.5 + chance.normal(0, 0.1, 14)[clusters] + chance.normal(0, 0.1, len(clusters))
        covered += covers(cluster_t_interval(scores.tolist(), clusters.tolist()), 0.5)
    assert compatible(covered, EXPERIMENTS, 0.95)


def test_intervals_of_a_pass_rate_cover_it() -> None:
    """Forty trials that pass at 0.85, where an interval of mean ± 2 standard errors falls short."""
    passes = np.random.default_rng(13).binomial(40, 0.85, EXPERIMENTS).tolist()
    assert compatible(sum(covers(wilson_interval(count, 40), 0.85) for count in passes), EXPERIMENTS, 0.95)


def test_intervals_of_a_paired_difference_cover_it() -> None:
    """Arms share the task's difficulty, and differ by 0.1."""
    chance = np.random.default_rng(14)
    covered = 0
    for _ in range(EXPERIMENTS):
        difficulty = chance.uniform(0, 0.5, 15)
        ours, theirs = difficulty + chance.normal(0.4, 0.1, 15), difficulty + chance.normal(0.3, 0.1, 15)
        found = paired_difference(ours.tolist(), theirs.tolist(), seed=chance)
        assert found is not None
        covered += covers(found.interval, 0.1)
    assert compatible(covered, EXPERIMENTS, 0.95)


def test_intervals_of_a_difference_of_pass_rates_cover_it() -> None:
    """Thirty pairs, of which a fifth are won and a tenth lost."""
    chance = np.random.default_rng(15)
    covered = 0
    for _ in range(EXPERIMENTS):
        cells = chance.choice(4, size=30, p=[0.4, 0.2, 0.1, 0.3])
        found = mcnemar((cells < 2).tolist(), ((cells == 0) | (cells == 2)).tolist())
        assert found is not None
        covered += covers(found.interval, 0.1)
    assert compatible(covered, EXPERIMENTS, 0.95)


@pytest.mark.parametrize("pairs", [12, 30])
def test_equal_arms_are_told_apart_at_the_nominal_rate(pairs: int) -> None:
    """Counted and drawn flips: of two hundred experiments without a difference about one in twenty finds one."""
    drawn = np.random.default_rng(pairs).exponential(1, (NULLS, 2, pairs)).tolist()
    found = [paired_difference(ours, theirs, seed=1, resamples=999) for ours, theirs in drawn]
    assert compatible(sum(one is not None and one.p <= 0.05 for one in found), NULLS, 0.05)


def test_repeats_that_share_a_task_do_not_make_differences() -> None:
    """Which arm does better differs by task and cancels out: flipping tasks keeps the rate, flipping pairs does not."""
    chance = np.random.default_rng(16)
    tasks = [task for task in range(12) for _ in range(5)]
    by_task = by_pair = 0
    for _ in range(NULLS):
        gaps = (np.repeat(chance.normal(0, 0.2, 12), 5) + chance.normal(0, 0.1, 60)).tolist()
        clustered = paired_difference(gaps, [0.0] * 60, tasks, seed=chance)
        plain = paired_difference(gaps, [0.0] * 60, seed=chance, resamples=999)
        assert clustered is not None
        assert plain is not None
        by_task += clustered.p <= 0.05
        by_pair += plain.p <= 0.05
    assert compatible(by_task, NULLS, 0.05)
    assert not compatible(by_pair, NULLS, 0.05)

"""One number of many trials: its mean, and how far chance may have moved it.

Pure: knows values and the tasks they are from; never what they measure, or how a table looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import msgspec

from p2engine.errors import SetupError
from p2engine.rollouts.samples import LEVEL, are_passes, mean, need_scipy
from p2engine.rollouts.stats import (
    Interval,
    cluster_interval,
    cluster_t_interval,
    mean_interval,
    wilson_bounds,
    wilson_interval,
)

if TYPE_CHECKING:
    import numpy as np

RESAMPLES: Final = 2_000  # of tasks, for one interval: its ends move by a fiftieth of its width, and a table has many
BOOTSTRAP_TASKS_MAX: Final = 200  # beyond, the cluster-robust t interval is as good and costs nothing


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """The mean of a number over trials. low, high: its interval, None where there is none. n: trials it rests on.

    units: how many of them are independent. method: of the interval, empty where there is none.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    n: int
    units: int
    method: str = ""

    @property
    def document(self) -> dict[str, float | int | None]:
        """As programs see it."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "n": self.n}


class Chance:
    """What a report draws at random, from a seed, so that the same trials give the same report.

    is_counted: whether there are intervals and tests at all. why_not: what is missing for them, and its mend.
    """

    def __init__(self, seed: int, *, is_counted: bool = True) -> None:
        self.seed = seed
        self.why_not = ""
        self.is_counted = is_counted
        if is_counted:
            try:
                need_scipy()
            except SetupError as missing:
                self.is_counted, self.why_not = False, f"{missing.message}: {missing.hint}"

    def of(self, *names: str) -> np.random.Generator:
        """The chance of one number, by what it is called. Raises SetupError without numpy."""
        need_scipy()
        import numpy as np

        text = "\0".join((str(self.seed), *names))
        return np.random.default_rng(int.from_bytes(blake2b(text.encode(), digest_size=8).digest()))


def figure_of(
    values: Sequence[float],
    tasks: Sequence[str],
    chance: Chance,
    *names: str,
    is_score: bool = False,
    is_amount: bool = False,
) -> Figure | None:
    """The mean with its interval. tasks: of each value. names: what it is, for chance. is_score: it lies in 0 … 1.
    is_amount: it is money, time or a count, of which a 1 is no pass.

    Independent values: Wilson's for zeros and ones, else Student's t. Where some tasks have several values and there
    is more than one task, tasks are what is independent: whole tasks are resampled. None without values.
    """
    if not values:
        return None
    units = len(set(tasks))
    shared = 1 < units < len(tasks)
    is_passes = not is_amount and are_passes(values)
    interval: Interval | None = None
    if is_passes and not shared and (chance.is_counted or chance.why_not):  # needs no library
        interval = wilson_interval(int(sum(values)), len(values))
    elif chance.is_counted:
        interval = _interval(values, tasks, chance.of(*names), shared=shared)
        if is_passes and interval is not None and interval.low == interval.high:
            interval = _of_tasks(values, tasks)
    if interval is None:
        return Figure(mean=mean(values), n=len(values), units=units if shared else len(values))
    low, high = interval.low, interval.high
    if is_score and min(values) >= 0 and max(values) <= 1:
        low, high = max(0.0, low), min(1.0, high)
    return Figure(
        mean=interval.estimate, low=low, high=high, n=len(values), units=interval.units, method=interval.method
    )


def _interval(
    values: Sequence[float], tasks: Sequence[str], chance: np.random.Generator, *, shared: bool
) -> Interval | None:
    if not shared:
        return mean_interval(values)
    if len(set(tasks)) > BOOTSTRAP_TASKS_MAX:
        return cluster_t_interval(values, tasks)
    return cluster_interval(values, tasks, seed=chance, resamples=RESAMPLES)


def _of_tasks(values: Sequence[float], tasks: Sequence[str]) -> Interval:
    """For passes that leave tasks no spread: as if each task had been tried once, which never says too much."""
    units, rate = len(set(tasks)), mean(values)
    low, high = wilson_bounds(round(rate * units), units, LEVEL)
    return Interval(
        estimate=rate,
        low=min(low, rate),
        high=max(high, rate),
        level=LEVEL,
        n=len(values),
        units=units,
        method="wilson",
    )

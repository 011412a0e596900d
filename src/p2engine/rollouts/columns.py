"""The trials of one variant as columns: each of its numbers, of the trials that have it.

Pure: knows rows; counts nothing. A column is read once, however many figures and comparisons are made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, compress
from typing import Final, NamedTuple

from p2engine.domain.setup import Spent
from p2engine.rollouts.results import TrialResult


def _usd(*parts: Spent) -> float | None:
    """Together; None where any is not known."""
    total = 0.0
    for part in parts:
        if part.unpriced:
            return None
        total += part.usd
    return total


MEASURES: Final[dict[str, Callable[[TrialResult], float | None]]] = {
    "tokens": lambda row: row.spent.tokens + row.judged.tokens + row.saved.tokens,
    "cost_usd": lambda row: _usd(row.spent, row.judged, row.saved),
    "judge_cost_usd": lambda row: _usd(row.judged, row.saved),
    "duration_s": lambda row: None if row.resumed else row.duration_s,
    "steps": lambda row: row.steps,
    "artifacts": lambda row: row.artifacts,
    "reward": lambda row: row.reward,
    "received": lambda row: None if row.received is None else float(row.received),
    "sent": lambda row: None if row.sent is None else float(row.sent),
}
"""What every trial has beside its metrics; tokens and cost with delegates and judges, as
if all of them had been asked. None where it is not known."""


class Column(NamedTuple):
    """One number: its values, the task of each, and the number of the trial that each is of."""

    values: list[float]
    tasks: list[str]
    trials: list[int]


class Columns:
    """What the trials of one variant have, in their order. metrics: the names of what any of them was given.

    tasks, trials: the task and the number of each trial.
    """

    def __init__(self, rows: Sequence[TrialResult]) -> None:
        self.rows = rows
        self.metrics = tuple(dict.fromkeys(chain.from_iterable([row.metrics for row in rows])))
        names: dict[str, str] = {}
        self.tasks = [names.setdefault(row.task, row.task) for row in rows]  # equal names as one: looked up often
        self.trials = [row.number for row in rows]
        self._read: dict[tuple[str, bool], Column] = {}

    def metric(self, name: str) -> Column:
        """That of a metric."""
        if (name, False) not in self._read:
            self._read[name, False] = self._column([row.metrics.get(name) for row in self.rows])
        return self._read[name, False]

    def measure(self, name: str) -> Column:
        """That of one of MEASURES."""
        if (name, True) not in self._read:
            self._read[name, True] = self._column(list(map(MEASURES[name], self.rows)))
        return self._read[name, True]

    def _column(self, found: list[float | None]) -> Column:
        values = [value for value in found if value is not None]
        if len(values) == len(found):
            return Column(values, self.tasks, self.trials)
        there = [value is not None for value in found]
        return Column(values, list(compress(self.tasks, there)), list(compress(self.trials, there)))

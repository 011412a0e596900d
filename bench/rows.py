"""What a bench found: rows of figures, each with its target and with a limit of the machine from the same rounds.

Knows numbers and how they are put together; measures nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure. values: one a round. target: at most that, or at least that where `at_least`.

    limit: what the machine itself needs for the same, in the same unit and the same rounds (`limits`).
    summary: which of the rounds counts: the median, or the least where disturbance only ever adds.
    """

    bench: str
    what: str
    unit: str
    values: Sequence[float]
    target: float | None = None
    at_least: bool = False
    limit: str = ""
    limits: Sequence[float] = field(default=())
    summary: str = "median"

    @property
    def value(self) -> float:
        """The figure."""
        return min(self.values) if self.summary == "least" else median(self.values)

    @property
    def ratio(self) -> float | None:
        """This over the limit: the median over the rounds, in each of which both were measured."""
        pairs = [value / limit for value, limit in zip(self.values, self.limits, strict=False) if limit]
        return median(pairs) if pairs else None

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRow:
    """One figure of a peer. ours: the same of P2Engine with SQLite NORMAL, measured just before and after; or None."""

    work: str
    peer: str
    what: str
    unit: str
    value: float
    ours: float | None = None


def row_of(found: dict[str, Any]) -> Row:
    """A row as another process printed it."""
    return Row(**found)


def median(values: Iterable[float]) -> float:
    """The middle one; of an even number, the mean of both."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def shown(value: float) -> str:
    """A number with three digits that count, and commas from a thousand on."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"

"""The sign-flip test: whether sums of differences lean to one side more than chance would have them.

Pure: knows numbers, one a unit; never what they are differences of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from p2engine.rollouts.samples import at_least, between, generator, need_scipy

if TYPE_CHECKING:
    import numpy as np

EXACT_UNITS_MAX: Final = 18  # up to 2¹⁷ totals, a few milliseconds; beyond, signs are drawn
FLIPS: Final = 9_999  # sign flips drawn for one test: p down to 1/10,000
FLIPS_MIN: Final = 99
CELLS_MAX: Final = 2**20  # eights of signs drawn at once, so that memory stays flat
TIE: Final = 1e-12  # relative to the sum of sizes: totals closer than this are equal but for rounding


def sign_flip_p(sums: Sequence[float], *, seed: int | np.random.Generator, resamples: int = FLIPS) -> float:
    """The two-sided p-value of one or more sums of differences, one per unit that is independent of the others.

    Were there no difference, each sum would be as likely with the other sign; p is the share of all ways to flip signs
    whose total is as far from zero as the one seen (Fisher 1935, on Darwin's plants). All ways are counted for up to 18
    units; beyond, b of m = `resamples` drawn ones reach it, and p = (b + 1)/(m + 1), never zero (Phipson & Smyth 2010).
    Ours and not scipy's permutation_test, which gives the same and counts all ways hundreds of times more slowly.
    Raises SetupError without numpy.
    """
    at_least(resamples, FLIPS_MIN, "resamples")
    need_scipy()
    import numpy as np

    sizes = np.abs(np.array(sums, dtype=float))
    reached = abs(math.fsum(sums)) - TIE * float(sizes.sum())
    if len(sums) <= EXACT_UNITS_MAX:
        totals = sizes[:1]  # the first sign stays: the other half of all ways are mirror images
        for size in sizes[1:]:
            totals = np.concatenate((totals + size, totals - size))
        return float(np.mean(np.abs(totals) >= reached))
    # Signs are drawn eight at once: a byte picks one of 256 sums of eight sizes.
    eights = np.pad(sizes, (0, -len(sizes) % 8)).reshape(-1, 8)
    sums_of_eight = eights @ (1.0 - 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)).T
    chance, hits, batch = generator(seed), 0, max(1, CELLS_MAX // len(eights))
    for start in range(0, resamples, batch):
        drawn = chance.integers(256, size=(min(batch, resamples - start), len(eights)), dtype=np.uint8)
        totals = sums_of_eight[np.arange(len(eights)), drawn].sum(axis=1)
        hits += int(np.count_nonzero(np.abs(totals) >= reached))
    return (hits + 1) / (resamples + 1)


def smallest_p(units: int, resamples: int = FLIPS) -> float:
    """The smallest p-value the test can give with so many units; every p-value is a whole multiple of it."""
    at_least(units, 1, "units")
    return float(2.0 ** (1 - units)) if units <= EXACT_UNITS_MAX else 1 / (resamples + 1)


def attainable_level(units: int, alpha: float, resamples: int = FLIPS) -> float:
    """The share of true null hypotheses that rejecting at p ≤ alpha rejects at most; 0 where it never can.

    At most alpha, and less for few units, whose p-values come in coarse steps. Raises UsageError.
    """
    step = smallest_p(units, resamples)
    return math.floor(between(alpha, 0, 1, "alpha") / step * (1 + TIE)) * step

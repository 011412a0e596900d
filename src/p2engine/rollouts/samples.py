"""What may be counted with: finite numbers in equal lengths, grouped by cluster, and the libraries that count.

Pure. scipy and numpy are loaded when a function needs them, never by importing this module.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence, Sized
from typing import TYPE_CHECKING, Final

from p2engine.errors import SetupError, UsageError

if TYPE_CHECKING:
    import numpy as np

MAGNITUDE_MAX: Final = 1e100  # of one value: squares of anything larger leave the range of a float
ALPHA: Final = 0.05  # the share of true null hypotheses that may be rejected
PASSES: Final = frozenset((0, 1))
LEVEL: Final = 0.95  # the share of experiments whose interval covers the true value


def number(value: float, name: str) -> float:
    """The value as a float. Raises UsageError that names it unless it is a finite number."""
    try:
        fits = abs(value) <= MAGNITUDE_MAX  # false for nan as well
    except TypeError:
        fits = False
    if not fits:
        raise UsageError(f"{name} is {value!r}: expected a finite number")
    return float(value)


def finite(values: Sequence[float], name: str) -> list[float]:
    """The values as floats. Raises UsageError that names the first one which is no finite number."""
    # Mostly they are numbers in range, and may be a hundred thousand: one look at all costs a tenth of one at each.
    types = set(map(type, values))
    is_plain = bool(types) and types <= {float, int}
    if is_plain and min(values) >= -MAGNITUDE_MAX and max(values) <= MAGNITUDE_MAX and math.isfinite(sum(values)):
        return list(map(float, values)) if int in types else list(values)
    return [number(value, f"{name}[{index}]") for index, value in enumerate(values)]


def between(value: float, low: float, high: float, name: str) -> float:
    """The value. Raises UsageError unless it lies between low and high, both excluded."""
    if not low < value < high:
        raise UsageError(f"{name} is {value!r}: expected a number between {low:g} and {high:g}")
    return float(value)


def at_least(value: int, low: int, name: str) -> int:
    """The value. Raises UsageError when it is less than low."""
    if value < low:
        raise UsageError(f"{name} is {value!r}: expected at least {low}")
    return value


def are_passes(values: Iterable[float]) -> bool:
    """Whether each is 0 or 1."""
    return all(map(PASSES.__contains__, values))


def same_length(one: Sized, other: Sized, names: str) -> None:
    """Raises UsageError unless both have the same length. names: both, as a person reads them."""
    if len(one) != len(other):
        raise UsageError(f"{names} have {len(one)} and {len(other)} items: expected the same number")


def grouped(values: Sequence[float], clusters: Sequence[Hashable]) -> list[list[float]]:
    """The values of each cluster, clusters in the order in which they first appear. Raises UsageError."""
    same_length(values, clusters, "values and clusters")
    groups: defaultdict[Hashable, list[float]] = defaultdict(list)
    for value, cluster in zip(values, clusters, strict=True):
        groups[cluster].append(value)
    return list(groups.values())


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean of one or more values; never outside their range, which rounding could do."""
    return min(max(math.fsum(values) / len(values), min(values)), max(values))


def squares(values: Sequence[float]) -> float:
    """The sum of squared deviations from the mean; exactly zero when all values are equal."""
    middle = mean(values)
    return math.fsum((value - middle) ** 2 for value in values)


def sample_sd(values: Sequence[float]) -> float:
    """The standard deviation of two or more values, with n - 1 below (Gosset, as Student, 1908)."""
    return math.sqrt(squares(values) / (len(values) - 1))


def need_scipy() -> None:
    """Raises SetupError when scipy, and with it numpy, is not installed."""
    try:
        import numpy as np  # noqa: F401
        import scipy  # noqa: F401
    except ImportError as missing:
        raise SetupError("statistics need the package scipy", hint="pip install 'p2engine[learn]'") from missing


def t_quantile(probability: float, df: int) -> float:
    """The quantile of Student's t with df degrees of freedom. Raises SetupError without scipy."""
    need_scipy()
    from scipy import special  # a third of what importing scipy.stats costs

    return float(special.stdtrit(df, probability))


def generator(seed: int | np.random.Generator) -> np.random.Generator:
    """Where chance comes from: equal seeds give equal numbers; a generator is used as it is. Raises SetupError."""
    need_scipy()
    import numpy as np

    return np.random.default_rng(seed)

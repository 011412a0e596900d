"""Agreement of raters, against published and independent values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2engine.rollouts.agreement import cohen_kappa, krippendorff_alpha, quadratic_kappa

# Four observers, twelve units, values missing (Krippendorff 2011, example C)
RELIABILITY_DATA: list[list[int | None]] = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


def written_out(table: list[list[int]]) -> tuple[list[int], list[int]]:
    """The ratings of two raters from the table of their counts."""
    cells = [(row, column, count) for row, counts in enumerate(table) for column, count in enumerate(counts)]
    return (
        [row for row, _, count in cells for _ in range(count)],
        [column for _, column, count in cells for _ in range(count)],
    )


def test_krippendorff_s_reliability_data() -> None:
    """Published: alpha is 0.743 for labels and 0.849 for numbers."""
    assert krippendorff_alpha(RELIABILITY_DATA) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(RELIABILITY_DATA, "interval") == pytest.approx(0.849, abs=5e-4)


def test_alpha_is_that_of_another_package() -> None:
    """The package krippendorff 0.9 on scores with gaps; labels may be words."""
    scores: list[list[float | None]] = [
        [0.1, 0.5, 0.9, None, 0.3, 0.75],
        [0.2, 0.5, 0.8, 0.4, None, 0.7],
        [0.15, 0.45, 1.0, 0.35, 0.3, 0.8],
    ]
    assert krippendorff_alpha(scores, "interval") == pytest.approx(0.9601910828, abs=1e-9)
    words = [[value and f"label {value}" for value in row] for row in RELIABILITY_DATA]
    assert krippendorff_alpha(words) == krippendorff_alpha(RELIABILITY_DATA)


def test_where_alpha_is_not_defined() -> None:
    """Nothing rated twice, or everything rated alike: no agreement can be told from chance."""
    assert krippendorff_alpha([]) is None
    assert krippendorff_alpha([["a", "b"]]) is None
    assert krippendorff_alpha([["a", None], [None, "b"]]) is None
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]) is None
    assert krippendorff_alpha([[0.1] * 3] * 3, "interval") is None
    assert krippendorff_alpha([["a", "b"], ["a", "b"]]) == 1.0


def test_cohen_s_own_example() -> None:
    """Two psychiatrists on two hundred patients (Cohen 1960): kappa is 0.492."""
    assert cohen_kappa(*written_out([[88, 14, 18], [10, 40, 10], [2, 6, 12]])) == pytest.approx(0.492, abs=5e-4)


def test_kappa_of_a_textbook() -> None:
    """Fifty grant proposals, twenty accepted and fifteen refused by both: kappa is 0.4."""
    assert cohen_kappa(*written_out([[20, 5], [10, 15]])) == pytest.approx(0.4)
    assert cohen_kappa(["yes", "no"], ["yes", "no"]) == 1.0


def test_where_kappa_is_not_defined() -> None:
    """No items, or one label throughout; two raters with one label each, but different ones, agree by chance alone."""
    assert cohen_kappa([], []) is None
    assert cohen_kappa(["a"], ["a"]) is None
    assert cohen_kappa(["a", "a"], ["b", "b"]) == 0.0
    assert quadratic_kappa([], []) is None
    assert quadratic_kappa([0.5, 0.5], [0.5, 0.5]) is None


def test_quadratic_kappa_is_that_of_another_package() -> None:
    """scikit-learn 1.9, cohen_kappa_score with quadratic weights; and without weights on the same ratings."""
    one, other = [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 2, 2, 3, 3, 1], [1, 2, 3, 4, 4, 2, 2, 3, 5, 5, 1, 3, 3, 1, 1]
    assert quadratic_kappa(one, other) == pytest.approx(0.8280254777, abs=1e-9)
    assert cohen_kappa(one, other) == pytest.approx(0.4915254237, abs=1e-9)
    assert quadratic_kappa([value / 7 - 3 for value in one], [value / 7 - 3 for value in other]) == pytest.approx(
        0.8280254777, abs=1e-9
    )


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=40))
def test_two_raters_without_gaps_agree_by_either_measure(ratings: list[tuple[int, int]]) -> None:
    """Alpha is kappa but for the sizes of small samples: n (1 - alpha) = (n - 1/2) of Scott's pi; none exceeds 1."""
    one, other = [first for first, _ in ratings], [second for _, second in ratings]
    alpha = krippendorff_alpha([one, other])
    if alpha is None:
        return
    n, everything = len(one), one + other
    chance = sum((everything.count(label) / (2 * n)) ** 2 for label in set(everything))
    alike = sum(first == second for first, second in ratings) / n
    scott = (alike - chance) / (1 - chance)
    assert alpha == pytest.approx(scott + (1 - scott) / (2 * n))
    assert alpha <= 1
    assert krippendorff_alpha([other, one]) == pytest.approx(alpha)

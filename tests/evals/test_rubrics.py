"""Rubrics in every notation come to the same criteria; those that cannot be are refused in one line."""

from typing import Any

import pytest

from p2engine.errors import UsageError
from p2engine.evals.rubrics import library, metric_of, read_rubric
from tests.evals.subjects import JOKES, filled

SHARES = {"funny": 0.6, "creative_original": 0.3, "followed_instructions": 0.1}


def shares(rubric: Any, **values: Any) -> dict[str, float]:
    return {each.metric: round(each.weight, 9) for each in read_rubric(rubric, filled, values).criteria}


@pytest.mark.parametrize(
    "rubric",
    [
        JOKES,
        f"Evaluate humor quality:\n{JOKES}\n",
        "Evaluate humor quality: - Funny? (0.6) - Creative/original? (0.3) - Followed instructions? (0.1)",
        "Funny? (60%), Creative/original? (30 %) and Followed instructions? (10%)",
        f"```\n{JOKES}\n```",
        f"```markdown\n{JOKES}\n```",
        "* Funny? [0.6]\n* Creative/original? (weight: 0.3)\n* Followed instructions? (0.1)",
        "1. Funny?: 0.6\n2. Creative/original? - 0.3\n3. Followed instructions? — 0.1",
        "```yaml\nFunny?: 0.6\nCreative/original?: 0.3\nFollowed instructions?: 0.1\n```",
        "".join(f"- name: {name}?\n  weight: {n}\n" for name, n in (("Funny", 6), ("Creative/original", 3)))
        + "- name: Followed instructions?\n  weight: 1",
        ["Funny? (0.6)", "Creative/original? (0.3)", "Followed instructions? (0.1)"],
        [{"Funny?": 0.6}, {"name": "creative original", "weight": "30%"}, {"Followed instructions?": 0.1}],
        {"Funny?": 3, "Creative/original?": 1.5, "Followed instructions?": {"weight": 0.5, "text": "all of them"}},
    ],
)
def test_failure_31_weights_are_found_in_every_notation(rubric: Any) -> None:
    """List, single line, fence, YAML list and mapping, brackets, colons, percent; shares sum up to 1."""
    assert shares(rubric) == SHARES


@pytest.mark.parametrize(
    "rubric",
    [
        "Is it any good? Answer in (3) words.",
        "Be strict.",
        "- Funny\n- Original",
        "See the study (2024).",
        "- It is cold (-3)\n- Kind",
        "Outside: -3",
    ],
)
def test_free_text_is_a_rubric_without_criteria(rubric: str) -> None:
    """A number in brackets is not yet a weight."""
    read = read_rubric(rubric, filled)
    assert (read.text, read.criteria) == (rubric, ())


@pytest.mark.parametrize("name", sorted(library()))
def test_every_rubric_of_the_library_has_criteria(name: str) -> None:
    """Each is found by its name, is filled in, and its weights sum up to 1 as they are written."""
    read = read_rubric(name, filled)
    assert read.name == name
    assert "{" not in read.text
    assert len(read.criteria) >= 3
    assert sum(each.weight for each in read.criteria) == pytest.approx(1)
    assert len({each.metric for each in read.criteria}) == len(read.criteria)


def test_a_place_in_a_library_rubric_is_filled_from_the_params() -> None:
    """The usual words stand where nothing is given."""
    assert "a general audience" in read_rubric("joke_quality", filled).text
    assert "as children would" in read_rubric("joke_quality", filled, {"audience": "children"}).text


@pytest.mark.parametrize(
    ("rubric", "said"),
    [
        ("", "the rubric is empty"),
        ("```\n\n```", "the rubric is empty"),
        ([], "the rubric is empty"),
        (3, "a text, a list or a mapping, not 3"),
        ("jok_quality", "did you mean joke_quality?"),
        (["a (0.5)", "b"], "'b' has no weight"),
        ([{"name": "a", "weight": 2}, {"name": "b"}], "the criterion 'b' has no weight"),
        ([{"name": "a", "weight": 2}, {"name": "b", "text": "long"}], "the criterion 'b: long' has no weight"),
        ({"a": 1, "b": None}, "the criterion 'b' has no weight"),
        ({"a": 1, "b": {"text": "long"}}, "the criterion 'b' has no weight"),
        ("- Funny (-0.6)\n- B (0.2)", "a weight is a number such as 0.3, not '(-0.6)'"),
        ("- Funny (weight: −60%).\n- B (-0.2)", "not '(weight: −60%)'"),
        ("Funny (-0.6), B (0.2) and C (0.3)", "not '(-0.6)'"),
        ("Funny: -0.6\nB: 0.2", "not 'Funny: -0.6'"),
        ("- name: a\n  weight: -0.6\n- name: b\n  weight: 0.2", "not 'weight: -0.6'"),
        ({"a": -1}, "a weight is a number"),
        ({"text": -1}, "a weight is a number"),
        ({"a": float("nan")}, "a weight is a number"),
        ({"a": True}, "a weight is a number"),
        ({"a": 0, "b": 0}, "all 0"),
        ([{"weight": 1}], "needs a name"),
        ([[1]], "a criterion is a text"),
        ("x" * 60_000, "at most 50000 characters"),
        ([f"c{n} (1)" for n in range(50)], "at most 40 criteria"),
    ],
)
def test_what_is_no_rubric_is_refused(rubric: Any, said: str) -> None:
    """One line that says what is wrong."""
    with pytest.raises(UsageError) as caught:
        read_rubric(rubric, filled)
    assert said in str(caught.value)


def test_a_number_below_0_in_a_criterion_is_no_weight() -> None:
    """What has its weight behind it is the criterion's words; a criterion may be called as a field is."""
    assert shares("- It says that it is cold (-3 degrees) (0.5)\n- Kind - 3 (0.5)") == {
        "it_says_that_it_is_cold_3_degrees": 0.5,
        "kind": 0.5,
    }
    assert shares([{"name": 0.3}, {"text": "70%"}]) == {"name": 0.3, "text": 0.7}


def test_criteria_are_kept_under_short_names() -> None:
    """Letters of any language stay; the name of the whole is nobody's; of two alike the second is numbered."""
    assert metric_of("Creative/original?") == "creative_original"
    assert metric_of("Länge: wie lang") == "länge"
    assert metric_of("Score") == "score_criterion"
    assert list(shares("- Fun (0.5)\n- Fun? (0.5)")) == ["fun", "fun_2"]


@pytest.mark.parametrize(
    "text", ["(" + " " * 50_000 + "1)", "a\n" * 20_000, "- " * 20_000, "x:" * 20_000, "((" * 20_000]
)
def test_reading_takes_no_longer_than_the_text(text: str) -> None:
    """Texts made to make a pattern search for ever are read as well."""
    read_rubric(text[:50_000], filled)

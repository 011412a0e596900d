"""What a report says of trials: known numbers, what is missing, and that no more is concluded than they support."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from p2engine.domain.setup import Spent
from p2engine.errors import UsageError
from p2engine.rollouts.findings import NAMED_MAX, listed, number, signed
from p2engine.rollouts.report import Report, report_of
from p2engine.rollouts.results import TrialResult
from tests.rollouts.rollout_files import read, team
from tests.rollouts.simulated import CHECK, JUDGE, TEAM, noisy, rollout, row, trials


def about(value: float, abs: float = 1e-9) -> Any:  # noqa: A002 -- pytest's name for it
    """That number but for rounding."""
    return pytest.approx(value, abs=abs)


def scored(**arms: Sequence[float | None]) -> list[TrialResult]:
    """Trials of one message: each variant with these scores."""
    return [row(name, place + 1, score) for name, scores in arms.items() for place, score in enumerate(scores)]


def reported(rows: list[TrialResult], *variants: str, **settings: Any) -> Report:
    names = variants or tuple(dict.fromkeys(each.variant for each in rows))
    settings.setdefault("repeats", max((each.number for each in rows), default=1))
    return report_of(rollout(names, **settings), rows)


# Known numbers


def test_a_mean_has_students_interval() -> None:
    """0.5, 0.6, 0.7, 0.8: mean 0.65 ± 3.18245 · 0.129099 / 2, by hand from a table of t."""
    figure = reported(scored(base=[0.5, 0.6, 0.7, 0.8])).teams[0].arms[0].metrics["score"]

    assert figure is not None
    assert (figure.mean, figure.n, figure.method) == (about(0.65), 4, "t")
    assert (figure.low, figure.high) == (about(0.44457, abs=1e-5), about(0.85543, abs=1e-5))


def test_passes_have_wilsons_interval() -> None:
    """8 passes of 10: 0.4902 to 0.9433, as published for Wilson's interval."""
    figure = reported(scored(base=[1.0] * 8 + [0.0] * 2)).teams[0].arms[0].metrics["score"]

    assert figure is not None
    assert (figure.low, figure.high) == (about(0.4902, abs=1e-4), about(0.9433, abs=1e-4))


def test_repeats_of_tasks_are_not_independent() -> None:
    """Four tasks with the same answer every time are four values, however often they were asked."""
    scores = [0.2, 0.4, 0.6, 0.8]
    rows = [row("base", n + 1, scores[n % 4], task=f"t{n % 4}") for n in range(40)]

    figure = reported(rows, tasks=4).teams[0].arms[0].metrics["score"]

    assert figure is not None
    assert (figure.n, figure.units, figure.method) == (40, 4, "cluster t")
    assert figure.high is not None
    assert figure.high - figure.mean == about(3.18245 * 0.258199 / 2, abs=1e-4)


def test_passes_of_tasks_never_have_an_interval_without_width() -> None:
    """Three tasks passed four times each are not a rate of surely 1."""
    rows = [row("base", n + 1, 1.0, task=f"t{n % 3}") for n in range(12)]

    figure = reported(rows, tasks=3).teams[0].arms[0].metrics["score"]

    assert figure is not None
    assert (figure.low, figure.high) == (about(0.4385, abs=1e-4), 1.0)


def test_an_interval_of_a_score_stays_on_its_scale() -> None:
    """No score is above 1 or below 0, so no bound is either."""
    figure = reported(scored(base=[0.0, 0.2, 0.99])).teams[0].arms[0].metrics["score"]

    assert figure is not None
    assert (figure.low, figure.high) == (0.0, 1.0)


def test_a_difference_is_of_pairs() -> None:
    """Six pairs, all of them better by a little: p = 2/64 by counting all ways to flip their signs."""
    base = [0.1, 0.3, 0.5, 0.2, 0.4, 0.6]
    gaps = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]
    report = reported(scored(base=base, other=[one + gap for one, gap in zip(base, gaps, strict=True)]))

    (found,) = report.compare(metric="score")

    assert (found.variant, found.baseline, found.pairs, found.test) == ("other", "base", 6, "sign flips")
    assert found.difference == about(0.035)
    assert (found.p, found.p_adjusted) == (about(2 / 64), about(2 / 64))
    assert found.said == "better"
    assert "other (+0.035 [+0.015, +0.055], p = 0.031) is better than base" in report.teams[0].conclusion


def test_passes_are_compared_by_mcnemar() -> None:
    """Eight wins and one loss in 20 pairs: p = 2 (1 + 9) / 512 by the binomial distribution."""
    base = [0.0] * 8 + [1.0] + [1.0] * 11
    other = [1.0] * 8 + [0.0] + [1.0] * 11

    (found,) = reported(scored(base=base, other=other)).compare(metric="score")

    assert (found.test, found.wins, found.losses) == ("McNemar", 8, 1)
    assert found.p == about(20 / 512)


def test_money_time_and_counts_of_0_or_1_are_no_passes() -> None:
    """One second or one step is no pass: Student's interval and sign flips, whatever the values happen to be."""
    rows = [
        row(
            name,
            n,
            0.5,
            duration_s=float(n % 2),
            steps=n % 2,
            spent=Spent(1, 1, 1, float(n % 3 == 0), 0),
            judged=Spent(),
        )
        for name in ("base", "other")
        for n in range(1, 9)
    ]

    report = reported(rows)

    measures = report.teams[0].arms[0].measures
    assert [each.method for name in ("cost_usd", "duration_s", "steps") if (each := measures[name])] == ["t"] * 3
    assert {each.test for each in report.contrasts} == {"sign flips"}
    assert {(each.wins, each.losses) for each in report.contrasts} == {(None, None)}


def test_a_difference_of_scores_stays_within_what_is_possible() -> None:
    """No two scores differ by more than 1, so no bound of their difference does."""
    (found,) = reported(scored(base=[0.0, 0.9, 0.0], other=[1.0, 0.5, 0.99])).compare(metric="score")

    assert (found.low, found.high) == (-1.0, 1.0)


def test_many_variants_are_corrected_for() -> None:
    """A p that would do alone does not do beside two others: Holm asks three times as much of the smallest."""
    base = [0.1, 0.3, 0.5, 0.2, 0.4, 0.6]
    better = [each + 0.1 + place / 100 for place, each in enumerate(base)]
    same = [each + (0.1 if place % 2 else -0.1) for place, each in enumerate(base)]
    rows = scored(base=base, better=better, one=same, two=same)

    report = reported(rows)
    found = {each.variant: each for each in report.compare(metric="score")}

    assert found["better"].p == about(2 / 64)
    assert found["better"].p_adjusted == about(6 / 64)
    assert {each.said for each in found.values()} == {"undecided"}
    assert report.teams[0].conclusion.startswith("Undecided on score: no variant differs from base")


def test_few_tasks_are_told_of() -> None:
    """With two tasks the pairs are counted by themselves, and the finding is said to be about these tasks only."""
    rows = trials({"base": 0.5, "other": 0.8}, seed=1, tasks=2, repeats=6)

    report = reported(rows, tasks=2, repeats=6)
    (found,) = report.compare(metric="score")

    assert (found.unit, found.units) == ("trial", 12)
    assert "too few tasks to speak of others like them: what is found holds for these tasks" in report.teams[0].warnings


def test_another_baseline_may_be_named() -> None:
    """The same pairs from the other side: the difference turns round, and the family is still that of all variants."""
    rows = trials({"base": 0.5, "one": 0.55, "two": 0.7}, seed=1, repeats=8)
    report = reported(rows)

    (there,) = report.compare("two", "base", metric="score")
    (back,) = report.compare("base", f"{TEAM}/two", metric="score")

    assert back.difference == about(-there.difference)
    assert there.p_adjusted >= there.p
    assert [each.variant for each in report.compare(baseline="two", metric="score")] == ["base", "one"]
    assert report_of(report.rollout, rows, {TEAM: "two"}).teams[0].baseline == "two"


@pytest.mark.parametrize(("variant", "baseline"), [("nobody", None), (None, "nobody"), ("other", "team/nobody")])
def test_an_unknown_variant_is_refused(variant: str | None, baseline: str | None) -> None:
    """The variants there are are named."""
    report = reported(scored(base=[0.1, 0.2], other=[0.2, 0.3]))

    with pytest.raises(UsageError, match=r"no variant '.*nobody' .* team/base, team/other"):
        report.compare(variant, baseline)


# What is missing


def test_undecided_is_not_zero() -> None:
    """The mean is over what was scored; how many were not is said."""
    report = reported(scored(base=[0.8, None, 0.6, None], other=[0.7, 0.7, 0.6, 0.5]))
    arm = report.teams[0].arms[0]

    assert arm.metrics["score"] is not None
    assert arm.metrics["score"].mean == about(0.7)
    assert (arm.unjudged["score"].undecided, arm.unjudged["score"].of) == (2, 4)
    assert "base: score undecided in 2 of 4 trials; the mean is over the others" in report.teams[0].warnings


@pytest.mark.parametrize("offline", [False, True])
def test_labels_without_a_score_are_why_there_is_no_mean(offline: bool) -> None:
    """Decided and no number: said once for the team, also offline, and not of what is undecided."""
    label = {"verdicts": {"score": "scored"}}
    rows = [row("base", 1, None, **label), row("other", 1, None, **label), row("other", 2, None)]

    (team,) = report_of(rollout(offline=offline), rows).teams
    (some,) = report_of(rollout(offline=offline), [*rows, row("base", 2, 0.5)]).teams

    assert "score gave a label without a score in 2 of 3 trials; there is no mean" in team.warnings
    assert "score gave a label without a score in 2 of 4 trials; the mean is over the others" in some.warnings


def test_no_verdict_at_all_is_null() -> None:
    """Where nobody scored, there is nothing: no number, no comparison of it, and no winner."""
    report = reported(scored(base=[None, None], other=[None, None]))
    document = json.loads(json.dumps(report.to_dict()))

    assert document["arms"][0]["metrics"] == {"score": {"mean": None, "low": None, "high": None, "n": 0}}
    assert [each["metric"] for each in document["comparisons"]] == ["cost_usd", "tokens", "duration_s"]
    assert report.teams[0].conclusion == "Quality is not known: no trial was given a score by score."


def test_no_evaluator_is_said() -> None:
    """A rollout that asks nobody knows no quality, whatever it costs."""
    rows = [replace(each, metrics={}, verdicts={}) for each in scored(base=[None], other=[None])]

    report = reported(rows, evaluations=())

    assert report.teams[0].conclusion == "Quality is not known: no evaluator was asked."


def test_failed_trials_are_counted_by_reason() -> None:
    """A trial without an answer is a row with its reason, has no partner, and is no zero."""
    late = row("other", 1, status="timeout", detail="the trial took longer than 5 s", metrics={}, verdicts={})
    lost = row("other", 2, status="error", detail="no such model", metrics={}, verdicts={})
    report = reported([*scored(base=[0.5, 0.6, 0.7, 0.5]), late, lost, row("other", 3, 0.9), row("other", 4, 0.8)])
    team = report.teams[0]
    arm = team.arm("other")

    assert (arm.n, arm.answered, arm.errors) == (4, 2, 2)
    assert {(each.status, each.detail, each.n) for each in arm.failures} == {
        ("timeout", "the trial took longer than 5 s", 1),
        ("error", "no such model", 1),
    }
    assert "other: 2 of 4 trials have no answer (timeout 1, error 1)" in team.warnings
    assert "other: 2 trials have no partner in base to be compared with" in team.warnings


def test_what_was_cut_off_was_spent_all_the_same() -> None:
    """An attempt that a cancellation ended is in what the rollout cost, and in no trial's or variant's cost."""
    ended, lost = row("base", 1, 0.5), Spent(1, 4, 1, 0.125)
    report = reported([replace(ended, lost=lost)])

    assert (report.teams[0].whole.cost, report.spent) == (ended.cost, ended.cost.plus(lost))


def test_nothing_is_concluded_where_nothing_answered() -> None:
    """Checks give scores to trials without an answer; they are compared with nothing, and the reason is said."""
    late = {"status": "timeout", "detail": "it took longer\nthan 5 s."}
    lost = {"status": "error", "detail": "no such model"}
    rows = [
        row(name, n, None if n == 2 else n / 8, **(lost if n == 1 else late))
        for name in ("base", "other")
        for n in range(1, 5)
    ]

    report = reported(rows)
    team = report.teams[0]

    assert team.conclusion == (
        "Nothing is concluded: no trial has an answer (6 of 8: timeout, it took longer than 5 s)."
    )
    assert (report.contrasts, team.front, team.best, team.worst, report.advice) == ((), (), None, None, None)
    assert team.warnings == (
        "base: 4 of 4 trials have no answer (timeout 3, error 1)",
        "other: 4 of 4 trials have no answer (timeout 3, error 1)",
    )
    with pytest.raises(UsageError, match="no trial has an answer"):
        report.compare()


def test_an_unknown_cost_is_not_zero() -> None:
    """One model call without a known price makes the cost of its variant unknown, and that of the whole."""
    rows = scored(base=[0.5, 0.6], other=[0.5, 0.6])
    rows[0] = replace(rows[0], spent=Spent(1, 10, 10, 0.0, 1))
    report = reported(rows)
    first, second = report.to_dict()["arms"]

    assert (first["cost_usd"], first["spent"]["cost_usd"]) == (None, None)
    assert second["cost_usd"] == about(0.0015)
    assert (report.spent.cost_usd, report.teams[0].whole.measures["cost_usd"]) == (None, None)
    assert report.teams[0].front == ()


def test_who_asked_the_judge_first_is_no_dearer() -> None:
    """Variants are compared by what their verdicts cost wherever they were given; what was spent is what was paid."""
    spent, judged = Spent(1, 10, 0, 0.25), Spent(0, 4, 0, 0.5)
    rows = [
        row(name, n, 0.5, spent=spent, **{"judged": Spent(), "judged" if name == "base" else "saved": judged})
        for name in ("base", "other")
        for n in (1, 2, 3)
    ]
    report = reported(rows)
    first, second = (report.teams[0].arm(name).measures for name in ("base", "other"))

    for name in ("cost_usd", "tokens", "judge_cost_usd"):
        assert first[name] is not None
        assert first[name] == second[name]
    assert (report.spent.usd, report.spent.tokens) == (3 * 0.5 + 6 * 0.25, 3 * 4 + 6 * 10)


def test_cost_is_that_of_agents_and_judges() -> None:
    """Both are in the cost; the judges' part stands beside it."""
    arm = reported(scored(base=[0.5, 0.6])).to_dict()["arms"][0]

    assert (arm["tokens"], arm["cost_usd"]) == (175, about(0.0015))
    assert arm["spent"] == {
        "tokens": 350,
        "cost_usd": about(0.003),
        "judge_cost_usd": about(0.001),
    }


def test_nothing_has_ended_yet() -> None:
    """A report of a rollout that has just begun is a report."""
    report = reported([], "base", "other", repeats=3)

    assert (report.planned, len(report.rows)) == (6, 0)
    assert report.teams[0].conclusion == "Nothing is known yet: no trial has ended."


# What may be concluded


@pytest.mark.parametrize("scores", [(0.1, 0.9), (0.0, 1.0), (1.0, 0.0)])
def test_failure_39_no_winner_is_named_from_one_sample(scores: tuple[float, float]) -> None:
    """However far apart: neither a better nor a best one, and the command that would decide."""
    report = reported(scored(base=[scores[0]], other=[scores[1]]))
    team = report.teams[0]

    assert {each.said for each in report.contrasts} == {"undecided"}
    assert (
        team.conclusion == "Undecided on score: one trial of a variant says nothing of chance, so no winner is named."
    )
    assert (team.front, team.best, team.worst) == ((), None, None)
    assert any(warning.startswith("one scored trial of base and other") for warning in team.warnings)
    assert report.advice is not None
    assert report.advice.repeats > 1


def test_what_decides_is_said_with_its_price() -> None:
    """The advice has repeats, what they find, and what the whole rollout costs with them."""
    rows = trials({"base": 0.5, "other": 0.52}, seed=4, repeats=5)

    report = reported(rows)

    assert report.advice is not None
    assert report.advice.difference is not None
    assert report.advice.difference <= 0.06
    assert report.advice.cost_usd == about(0.0015 * 2 * report.advice.repeats)


def test_nothing_is_advised_where_all_is_decided() -> None:
    """A difference that is found needs no further money."""
    report = reported(trials({"base": 0.4, "other": 0.8}, seed=4, repeats=10))

    assert report.advice is None
    assert "is better than base" in report.teams[0].conclusion


def test_a_single_variant_is_compared_with_nothing() -> None:
    """There is its mean, and no more."""
    report = reported(trials({"base": 0.5}, seed=4, repeats=5))

    assert report.contrasts == ()
    assert "there is no other variant to compare it with" in report.teams[0].conclusion


def test_a_score_at_the_end_of_its_scale_is_warned_of() -> None:
    """All at 1: it cannot tell good from better."""
    report = reported(scored(base=[1.0] * 6, other=[1.0] * 6))

    assert (
        "score is at the ceiling for base and other: it cannot tell good from better there" in report.teams[0].warnings
    )


def test_a_cost_is_less_and_never_better() -> None:
    """What is no score has no good end."""
    rows = trials({"base": 0.5, "other": 0.5}, seed=2, repeats=8)
    rows = [replace(each, duration_s=1.0 + each.number / 10 - (each.variant == "other") / 2) for each in rows]

    (found,) = reported(rows).compare(metric="duration_s")

    assert (found.said, found.difference) == ("less", about(-0.5))


def test_the_front_has_what_nothing_beats() -> None:
    """Worse, dearer and slower is off it; cheaper and worse is on it."""
    spent = {"good": 0.002, "cheap": 0.001, "bad": 0.003}
    rows = trials({"good": 0.8, "cheap": 0.5, "bad": 0.3}, seed=1, repeats=5)
    rows = [replace(each, spent=Spent(1, 1, 1, spent[each.variant])) for each in rows]

    assert reported(rows).teams[0].front == ("good", "cheap")


def test_who_never_answered_is_not_on_the_front() -> None:
    """A check may pass without an answer, and what was cut off is cheap: that is no merit."""
    rows = trials({"good": 0.8, "dead": 0.9}, seed=1, repeats=5)
    rows = [
        replace(each, spent=Spent(1, 1, 1, 0.002))
        if each.variant == "good"
        else replace(each, status="budget", spent=Spent(1, 1, 1, 0.001))
        for each in rows
    ]

    assert reported(rows).teams[0].front == ("good",)


def test_the_best_and_the_worst_trial_are_named() -> None:
    """By the metric that conclusions are about."""
    team = reported(scored(base=[0.5, 0.1], other=[0.6, 0.9])).teams[0]

    assert team.best is not None
    assert team.worst is not None
    assert (team.best.conversation, team.worst.conversation) == (
        "jokes-1a2b3c/team/other/2",
        "jokes-1a2b3c/team/base/2",
    )


def test_what_differs_is_told_in_one_order(tmp_path: Path) -> None:
    """That of the keys, not of a set that Python orders anew in every process."""
    keys = ("agent_id", "model", "temperature", "top_p", "max_tokens", "tools", "behavior_template", "render_policy")
    values = ("agent_alpha", "openai/gpt-4o", 0.3, 0.5, 100, ["get_weather"], "weather_expert", "full")
    written = json.dumps(dict(zip(keys[::-1], values[::-1], strict=True)))

    spec = read(tmp_path, team(f"variants: [{written}]"))

    assert list(spec.teams[0].variants[0].changes) == [*keys[1:6], "behavior", "render_policy"]


def test_only_what_differs_is_told_of_the_configuration() -> None:
    """A key that all variants have alike is no difference; one that is left to the agent is none of theirs."""
    changes = {
        "base": {"temperature": 0.3, "top_p": 1},
        "other": {"temperature": 0.8, "top_p": 1},
        "plain": {"top_p": 1},
    }
    report = reported(scored(base=[0.5], other=[0.5], plain=[0.5]), changes=changes)

    assert {each.key: each.values for each in report.teams[0].differences} == {
        "temperature": {"base": 0.3, "other": 0.8, "plain": None}
    }


# Offline, and without scipy


def test_the_stand_in_is_not_compared() -> None:
    """Checks are shown; there is no interval, no test, no best trial, no advice, and comparing is refused."""
    metrics = {"score": None, "contains": 1.0}
    verdicts = {"score": "undecided", "contains": "scored"}
    rows = [
        replace(each, metrics=metrics, verdicts=verdicts, offline=True)
        for each in scored(base=[None] * 4, other=[None] * 4)
    ]
    report = reported(rows, evaluations=(JUDGE, CHECK), offline=True)
    document = report.to_dict()

    assert (document["offline"], document["comparisons"], document["advice"]) == (True, [], None)
    assert document["arms"][0]["metrics"] == {
        "score": {"mean": None, "low": None, "high": None, "n": 0},
        "contains": {"mean": 1.0, "low": None, "high": None, "n": 4},
    }
    assert all(each["low"] is None for arm in document["arms"] for each in arm["measures"].values())
    assert (report.teams[0].front, report.teams[0].best, report.teams[0].warnings) == ((), None, ())
    assert report.teams[0].conclusion.startswith("Nothing is concluded: the offline stand-in answered")
    with pytest.raises(UsageError, match="configurations are not compared"):
        report.compare()


WITHOUT_SCIPY = """
import sys
sys.modules["scipy"] = sys.modules["numpy"] = None
from tests.rollouts.simulated import rollout, row
from p2engine.rollouts.report import report_of
offline = sys.argv[1] == "offline"
rows = [row(name, n, float(n % 2), offline=offline) for name in ("base", "other") for n in range(1, 7)]
report = report_of(rollout(repeats=6, offline=offline), rows)
figure = report.teams[0].arms[0].metrics["score"]
print(report.no_statistics, figure.low is not None, len(report.contrasts), report.teams[0].conclusion, sep="|")
"""


@pytest.mark.parametrize("mode", ["offline", "real"])
def test_a_report_without_scipy(mode: str) -> None:
    """Offline it is not needed at all. Else there are means, and intervals of passes, and one line with the mend."""
    done = subprocess.run([sys.executable, "-c", WITHOUT_SCIPY, mode], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    missing, has_interval, contrasts, said = done.stdout.strip().split("|")

    assert contrasts == "0"
    if mode == "offline":
        assert (missing, has_interval) == ("", "False")
    else:
        assert (missing, has_interval) == ("statistics need the package scipy: pip install 'p2engine[learn]'", "True")
        assert said == "No winner is named: the tests need a package that is not installed."


# Documents


def test_the_document_has_what_is_promised() -> None:
    """Names and types of the contract of `rollout show --json`, from JSON."""
    document = json.loads(json.dumps(reported(trials({"base": 0.5, "other": 0.6}, seed=1, repeats=6)).to_dict()))

    assert {"id", "status", "offline", "seed", "spec_hash", "arms", "trials", "comparisons", "provenance"} <= set(
        document
    )
    for arm in document["arms"]:
        assert {"team", "variant", "n", "metrics", "tokens", "cost_usd", "duration_s", "errors"} <= set(arm)
        assert {"mean", "low", "high"} <= set(arm["metrics"]["score"])
        assert (arm["n"], arm["errors"], arm["duration_s"]) == (6, 0, 1.5)
    assert len(document["trials"]) == 12
    assert document["trials"][0]["conversation"] == "jokes-1a2b3c/team/base/1"
    assert document["provenance"]["models"] == ["gpt-4o-2024-08-06"]


def test_rows_are_flat_for_a_data_frame() -> None:
    """Every row has the same columns, in the same order, with its metrics and verdicts beside the rest."""
    rows = [*scored(base=[0.5, None]), row("base", 3, status="error", metrics={}, verdicts={})]
    found = reported(rows, evaluations=(JUDGE,)).to_dicts()

    assert len({tuple(each) for each in found}) == 1
    assert [each["metric.score"] for each in found] == [0.5, None, None]
    assert [each["verdict.score"] for each in found] == ["scored", "undecided", None]


def test_the_same_trials_give_the_same_report() -> None:
    """What is drawn at random is drawn from the rollout's seed; the order in which trials ended does not count."""
    rows = trials({"base": 0.5, "other": 0.55}, seed=1, tasks=12, repeats=3, task_sd=0.1, draw=noisy)

    one, other = (reported(each, "base", "other", tasks=12) for each in (rows, rows[::-1]))

    assert one.to_dict() == other.to_dict()


@pytest.mark.parametrize(
    ("value", "plain", "with_sign"),
    [
        (0.0, "0", "±0"),
        (0.5, "0.5", "+0.5"),
        (-0.0625, "-0.062", "−0.062"),
        (0.00012345, "0.00012", "+0.00012"),
        (1e-17, "0", "±0"),
    ],
)
def test_numbers_in_words(value: float, plain: str, with_sign: str) -> None:
    """Three decimals, two digits of what is smaller, and no sign of what rounding left."""
    assert (number(value), signed(value)) == (plain, with_sign)


def test_many_names_are_not_all_listed() -> None:
    """A sentence over a grid stays a sentence."""
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed([str(n) for n in range(NAMED_MAX + 4)]).endswith("and 4 more")

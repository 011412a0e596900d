"""What may be said of a team's trials in words: warnings, and the one sentence that its numbers support.

Pure: knows reports; computes nothing. A winner is named only where a test says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from p2engine.rollouts.arm_report import ArmReport
from p2engine.rollouts.contrasts import Contrast
from p2engine.rollouts.samples import ALPHA
from p2engine.rollouts.team_report import TeamReport

OFFLINE: Final = "offline stand-in: configurations are not compared"
NAMED_MAX: Final = 6  # variants in one sentence
TINY: Final = 0.001  # a p below it is said to be that
NOTHING: Final = 1e-9  # of a difference: what rounding leaves


def number(value: float) -> str:
    """A score or a difference, to three decimals; what is smaller, to two digits."""
    if abs(value) < NOTHING:
        return "0"
    if abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:.3f}".rstrip("0").rstrip(".") if abs(value) < 10 else f"{value:.6g}"


def signed(value: float) -> str:
    """The same with its sign."""
    sign = "±" if abs(value) < NOTHING else "+" if value > 0 else "−"
    return sign + number(abs(value))


def chance_words(p: float) -> str:
    """`p < 0.001`, `p = 0.034`."""
    return f"p < {TINY}" if p < TINY else f"p = {p:.3f}"


def span(low: float | None, high: float | None) -> str:
    """` [0.1, 0.3]`, or nothing where there is no interval."""
    return "" if low is None or high is None else f" [{number(low)}, {number(high)}]"


def difference_words(contrast: Contrast) -> str:
    """`+0.12 [+0.05, +0.19], p = 0.004`: with the corrected p."""
    between = ""
    if contrast.low is not None and contrast.high is not None:
        between = f" [{signed(contrast.low)}, {signed(contrast.high)}]"
    return f"{signed(contrast.difference)}{between}, {chance_words(contrast.p_adjusted)}"


def listed(names: Sequence[str]) -> str:
    """Some names in a sentence."""
    shown = list(names[:NAMED_MAX])
    if len(names) > NAMED_MAX:
        shown.append(f"{len(names) - NAMED_MAX} more")
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


# The sentence


def conclusion(team: TeamReport, *, offline: bool, is_counted: bool) -> str:
    """One sentence."""
    if not team.whole.n:
        return "Nothing is known yet: no trial has ended."
    if not team.whole.answered:
        return f"Nothing is concluded: no trial has an answer ({_why_none(team.whole)})."
    if offline:
        return "Nothing is concluded: the offline stand-in answered, which is no language model."
    if team.primary is None:
        return f"Quality is not known: {_nobody(team)}."
    single = [arm.variant for arm in team.arms if arm.scored(team.primary) == 1]
    if len(team.arms) == 1:
        return f"{_standing(team.arms[0], team.primary)}; there is no other variant to compare it with."
    if not is_counted:
        return "No winner is named: the tests need a package that is not installed."
    on_primary = [each for each in team.contrasts if each.metric == team.primary]
    decided = [each for each in on_primary if each.said != "undecided"]
    if decided:
        return _decided(team, decided, on_primary)
    if single and len(single) == sum(arm.scored(team.primary) > 0 for arm in team.arms):
        return f"Undecided on {team.primary}: one trial of a variant says nothing of chance, so no winner is named."
    if not on_primary:
        return f"Undecided on {team.primary}: no trial of {team.baseline} has a partner that was scored."
    return _undecided(team, on_primary)


def _why_none(whole: ArmReport) -> str:
    """`12 of 12: error, no such model`: the reason that most trials have."""
    most = max(whole.failures, key=lambda each: each.n)
    why = " ".join(most.detail.split()).rstrip(".")
    return f"{most.n} of {whole.n}: {most.status}{f', {why}' if why else ''}"


def _nobody(team: TeamReport) -> str:
    if not team.scores:
        return "no evaluator was asked"
    return f"no trial was given a score by {listed(team.scores)}"


def _standing(arm: ArmReport, metric: str) -> str:
    figure = arm.metrics[metric]
    if figure is None:
        return f"{arm.variant} has no {metric}"
    return f"{arm.variant} has {metric} {number(figure.mean)}{span(figure.low, figure.high)}"


def _decided(team: TeamReport, decided: Sequence[Contrast], tested: Sequence[Contrast]) -> str:
    def words(said: str, found: Iterable[Contrast]) -> str:
        each = [f"{one.variant} ({difference_words(one)})" for one in found]
        return f"{listed(each)} {'is' if len(each) == 1 else 'are'} {said} than {team.baseline}"

    better = sorted((each for each in decided if each.said == "better"), key=lambda one: -one.difference)
    worse = sorted((each for each in decided if each.said == "worse"), key=lambda one: one.difference)
    parts = [words(said, found) for said, found in (("better", better), ("worse", worse)) if found]
    left = [one.variant for one in tested if one.said == "undecided"]
    open_ = f"; {listed(left)} {'is' if len(left) == 1 else 'are'} undecided" if left else ""
    return f"On {team.primary}, {' and '.join(parts)}{open_}{_corrected(len(tested))}."


def _corrected(tested: int) -> str:
    return f" (p corrected for {tested} comparisons)" if tested > 1 else ""


def _undecided(team: TeamReport, tested: Sequence[Contrast]) -> str:
    widest = max(tested, key=lambda each: abs(each.difference))
    found = difference_words(widest)
    if len(tested) == 1:
        what = f"{widest.variant} does not differ"
    else:
        what, found = "no variant differs", f"the largest difference: {widest.variant} {found}"
    return (
        f"Undecided on {team.primary}: {what} from {team.baseline} by more than chance would do"
        f" ({found}){_corrected(len(tested))}."
    )


# Warnings


def warnings(team: TeamReport, *, offline: bool) -> Iterator[str]:
    """What a reader must know before believing a number; where nothing is compared, only what went wrong."""
    yield from _failed(team.arms)
    yield from _labelled(team.whole)
    if offline or not team.whole.answered:
        return
    yield from _unscored(team)
    yield from _single(team)
    yield from _saturated(team)
    yield from _still(team)
    yield from _few(team)


def _failed(arms: Iterable[ArmReport]) -> Iterator[str]:
    for arm in arms:
        if arm.errors:
            kinds: dict[str, int] = {}
            for each in arm.failures:
                kinds[each.status] = kinds.get(each.status, 0) + each.n
            words = ", ".join(f"{status} {n}" for status, n in kinds.items())
            yield f"{arm.variant}: {arm.errors} of {arm.n} trials have no answer ({words})"


def _labelled(whole: ArmReport) -> Iterator[str]:
    """Verdicts that decide and give no number."""
    for name, each in whole.unjudged.items():
        scored = whole.scored(name)
        labels = each.of - each.undecided - each.failed - scored
        if labels > 0:
            left = "the mean is over the others" if scored else "there is no mean"
            yield f"{name} gave a label without a score in {labels} of {each.of} trials; {left}"


def _unscored(team: TeamReport) -> Iterator[str]:
    for arm in team.arms:
        for name, each in arm.unjudged.items():
            words = [f"undecided in {each.undecided}"] if each.undecided else []
            words += [f"failed in {each.failed}"] if each.failed else []
            if words:
                left = "; the mean is over the others" if each.undecided + each.failed < each.of else ""
                yield f"{arm.variant}: {name} {' and '.join(words)} of {each.of} trials{left}"


def _single(team: TeamReport) -> Iterator[str]:
    alone = [arm.variant for arm in team.arms if team.primary and arm.scored(team.primary) == 1]
    if alone:
        yield f"one scored trial of {listed(alone)}: it has no spread to judge by, and no winner is named from it"


def _saturated(team: TeamReport) -> Iterator[str]:
    for name in team.scores:
        ends: dict[str, list[str]] = {}
        for arm in team.arms:
            if name in arm.saturated:
                ends.setdefault(arm.saturated[name], []).append(arm.variant)
        for end, variants in ends.items():
            if name == team.primary or len(variants) < len(team.arms):
                cannot = "good from better" if end == "ceiling" else "bad from worse"
                yield f"{name} is at the {end} for {listed(variants)}: it cannot tell {cannot} there"


def _still(team: TeamReport) -> Iterator[str]:
    """Scores without any spread, other than those at an end of the scale."""
    name = team.primary
    for arm in team.arms if name else ():
        figure = arm.metrics.get(name or "")
        if figure and figure.n > 1 and figure.low == figure.high == figure.mean and name not in arm.saturated:
            yield f"{arm.variant}: {name} was the same in all {figure.n} trials: that says how little was seen"


def _few(team: TeamReport) -> Iterator[str]:
    """Comparisons that could not find anything, or speak of their own tasks only, or have lost pairs."""
    compared = [each for each in team.contrasts if each.metric == team.primary]
    if not compared:
        return
    alpha = ALPHA / len(compared)
    if weak := [each for each in compared if each.p_least > alpha]:
        units = max(each.units for each in weak)
        pairs = "one pair" if units == 1 else f"{units} pairs"
        yield f"with {pairs} of trials no difference of any size could have been found"
    if any(each.unit == "trial" and each.icc is not None for each in compared):
        yield "too few tasks to speak of others like them: what is found holds for these tasks"
    for each in compared:
        if each.unmatched:
            trials = "one trial has" if each.unmatched == 1 else f"{each.unmatched} trials have"
            yield f"{each.variant}: {trials} no partner in {each.baseline} to be compared with"

"""What judges the trials of a team: `eval` and `checks` as Evaluations. Knows how they are written; judges nothing."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from p2engine.documents import Document, did_you_mean, subject
from p2engine.domain.evaluation import Evaluation
from p2engine.positions import Place, show
from p2engine.rollouts.entries import EvalEntry, evaluator_name

RUBRIC_NAME = re.compile(r"[A-Za-z0-9_-]+")
"""A rubric of one word is the name of one of the library; anything else is the rubric itself."""

JUDGE = "gpt4_judge"
ARGUMENT = "value"
"""The param of a check that is written as `{contains: x}`: what stands behind the colon."""

WALLET_CHECKS = frozenset({"ledger_received", "balance"})
CALL_CHECKS = frozenset({"tool_called", "tool_not_called"})

_FIELD = re.compile(r"[\w .-]{1,100}")
_PARAMS = ("rubric", "metric", "prompts", "model", "temperature", "expected")


class Judging(NamedTuple):
    """One evaluation and where it is written."""

    evaluation: Evaluation
    place: Place


def read_evaluations(document: Document, place: Place) -> Iterator[Judging]:
    """The evaluators of the team at `place`, then its checks, in their order. Raises ConfigError, NotAvailable."""
    team = document.at(place)
    several = team.get("eval")
    if isinstance(several, list):
        for index in range(len(several)):
            yield _judge(document, (*place, "eval", index))
    elif several is not None:
        yield _judge(document, (*place, "eval"))
    for index in range(len(team.get("checks", ()))):
        yield _check(document, (*place, "checks", index))


def _judge(document: Document, place: Place) -> Judging:
    entry = document.check(EvalEntry, place)
    evaluator, _, version = entry.evaluator_id.partition("@")
    if version and entry.judge_version and version != entry.judge_version:
        message = f"{subject(place)}evaluator_id asks for version {version}, judge_version for {entry.judge_version}"
        raise document.error(message, (*place, "judge_version"))
    named = {name: value for name in _PARAMS if (value := getattr(entry, name)) is not None}
    for name in entry.params:
        if name in EvalEntry.model_fields:
            raise document.error(f"{subject(place)}{name} stands beside params, not in it", (*place, "params", name))
    if evaluator == JUDGE and entry.rubric is None:
        raise document.error(f"{subject(place)}the key rubric is missing", place)
    evaluation = Evaluation(
        evaluator=evaluator,
        version=version or entry.judge_version or "",
        params={**named, **entry.params},
        when=entry.evaluate,
        repeats=entry.repeats,
        again=entry.again,
        timeout_s=entry.timeout_sec,
    )
    return Judging(evaluation, place)


def check_rubric(document: Document, judging: Judging, library: Mapping[str, object] | Any) -> None:
    """A rubric of one word must be in the library. Raises ConfigError."""
    rubric = judging.evaluation.params.get("rubric")
    if isinstance(rubric, str) and RUBRIC_NAME.fullmatch(rubric) and rubric not in library:
        here = (*judging.place, "rubric")
        raise document.error(f"{subject(here)}no rubric {show(rubric)}{did_you_mean(rubric, library)}", here)


def _check(document: Document, place: Place) -> Judging:
    """`no_error`, `{contains: x}`, `{numeric: {…}}`, `{equals: {expected: FIELD}}`."""
    written = document.at(place)
    if isinstance(written, str):
        written = {written: None}
    if not isinstance(written, dict) or len(written) != 1:
        message = f"{subject(place)}expected one check, such as {{contains: Paris}}, not {show(written)}"
        raise document.error(message, place)
    (name, argument) = next(iter(written.items()))
    try:
        evaluator, _, version = evaluator_name(name).partition("@")
    except ValueError as error:
        raise document.error(f"{subject(place)}{error}", place) from None
    return Judging(
        Evaluation(evaluator=evaluator, version=version, params=_arguments(document, place, argument)), place
    )


def _arguments(document: Document, place: Place, argument: Any) -> dict[str, Any]:
    if argument is None:
        return {}
    if not isinstance(argument, dict):
        return {ARGUMENT: argument}
    field = argument.get("expected")
    if isinstance(field, str) and "{" not in field:
        if not _FIELD.fullmatch(field):
            raise document.error(f"{subject(place)}expected: no field {show(field)}", place)
        return {
            **{key: each for key, each in argument.items() if key != "expected"},
            ARGUMENT: f"{{{{ expected['{field}'] }}}}",
        }
    return dict(argument)

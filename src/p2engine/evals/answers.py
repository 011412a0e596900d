"""Checks of what an agent answered: contains, equals, regex, json_schema, numeric. Knows texts; asks no model."""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from p2engine.domain.verdicts import Subject
from p2engine.errors import ConfigError, UsageError
from p2engine.evals.check import Check, Decide, Outcome, flag, quote, text_of, texts_of, value_of
from p2engine.evals.parsing import json_in
from p2engine.positions import show

MATCH_CHARS_MAX: Final = 10_000  # of an answer that a pattern is tried on

Compile = Callable[[str], re.Pattern[str]]
"""Compiles a regular expression that cannot take for ever. Raises ValueError."""
Validator = Callable[[Mapping[str, Any]], Callable[..., Any]]
"""Makes of a JSON schema what checks a value (`strict` without coercions). Raises ConfigError."""

_NUMBER: Final = re.compile(r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][-+]?\d{1,3})?(?![\w])")


def answer_checks(compile_pattern: Compile, validator: Validator) -> list[Check]:
    """The checks of this module."""
    return [
        Check("contains", "The answer contains a text, or all of several.", _contains, frozenset({"case", "any"})),
        Check("equals", "The answer is the value: a text, a number, or JSON.", _equals, frozenset({"case"})),
        Check("regex", "The answer matches a regular expression somewhere.", _regex(compile_pattern)),
        Check("json_schema", "The answer is JSON that a schema describes.", _schema(validator), frozenset({"*"})),
        Check(
            "numeric",
            "A number in the answer, the last one, is the value within a tolerance.",
            _numeric,
            frozenset({"tolerance", "relative", "which"}),
        ),
    ]


def _contains(params: Mapping[str, Any]) -> Decide:
    wanted = texts_of(value_of(params))
    case, any_of = flag(params, "case", usual=False), flag(params, "any", usual=False)

    def decide(subject: Subject) -> Outcome:
        answer = subject.answer if case else subject.answer.casefold()
        there = [each for each in wanted if (each if case else each.casefold()) in answer]
        missing = [each for each in wanted if each not in there]
        if there and (any_of or not missing):
            return Outcome(True, f"contains {', '.join(map(quote, there))}")
        return Outcome(False, f"{', '.join(map(quote, missing))} not in {quote(subject.answer)}")

    return decide


def _equals(params: Mapping[str, Any]) -> Decide:
    wanted, case = value_of(params), flag(params, "case", usual=True)

    def decide(subject: Subject) -> Outcome:
        same = _is_same(subject.answer, wanted, case)
        return Outcome(same, f"is {show(wanted)}" if same else f"{quote(subject.answer)} is not {show(wanted)}")

    return decide


def _is_same(answer: str, wanted: Any, case: bool) -> bool:
    if isinstance(wanted, str):
        mine, theirs = " ".join(answer.split()), " ".join(wanted.split())
        return mine == theirs if case else mine.casefold() == theirs.casefold()
    try:
        given = json.loads(answer) if _is_number(wanted) else json_in(answer)
    except (ValueError, RecursionError):
        return False
    return type(given) is type(wanted) and bool(given == wanted) if isinstance(wanted, bool) else bool(given == wanted)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _regex(compile_pattern: Compile) -> Callable[[Mapping[str, Any]], Decide]:
    def read(params: Mapping[str, Any]) -> Decide:
        written = text_of(value_of(params), "the pattern")
        try:
            pattern = compile_pattern(written)
        except ValueError as error:
            raise UsageError(f"{quote(written)}: {error}") from None

        def decide(subject: Subject) -> Outcome:
            found = pattern.search(subject.answer[:MATCH_CHARS_MAX])
            if found is not None:
                return Outcome(True, f"{quote(found[0])} matches")
            return Outcome(False, f"{quote(written)} matches nothing in {quote(subject.answer)}")

        return decide

    return read


def _schema(validator: Validator) -> Callable[[Mapping[str, Any]], Decide]:
    def read(params: Mapping[str, Any]) -> Decide:
        schema = next((params[name] for name in ("value", "schema", "expected") if name in params), dict(params))
        if not isinstance(schema, Mapping) or not schema:
            raise UsageError(f"expected a JSON schema, not {show(schema)}")
        try:
            check = validator(schema)
        except ConfigError as error:
            raise UsageError(error.message, hint=error.hint) from None

        def decide(subject: Subject) -> Outcome:
            try:
                value = json_in(subject.answer)
            except ValueError as error:
                return Outcome(False, f"{error}: {quote(subject.answer)}")
            try:
                check(value, strict=True)
            except ValueError as error:
                return Outcome(False, _complaint(error))
            return Outcome(True, "is as the schema says")

        return decide

    return read


def _complaint(error: ValueError) -> str:
    """What is wrong with a value, by pydantic."""
    errors = getattr(error, "errors", None)
    first: dict[str, Any] = errors(include_url=False, include_context=False)[0] if errors else {}
    where = ".".join(str(part) for part in first.get("loc", ())) or "the value"
    words = str(first.get("msg") or error)
    return f"{where}: {words[:1].lower()}{words[1:]}"


def _numeric(params: Mapping[str, Any]) -> Decide:
    wanted = _float(value_of(params), "the value")
    tolerance = _float(params.get("tolerance", 0), "tolerance")
    relative = _float(params.get("relative", 0), "relative")
    which = params.get("which", "last")
    if tolerance < 0 or relative < 0:
        raise UsageError("tolerance and relative are not negative")
    if which not in ("first", "last", "any"):
        raise UsageError(f"which is first, last or any, not {show(which)}")
    room = max(tolerance, relative * abs(wanted), 1e-9 * abs(wanted))

    def decide(subject: Subject) -> Outcome:
        numbers = numbers_in(subject.answer)
        if not numbers:
            return Outcome(False, f"there is no number in {quote(subject.answer)}")
        tried = numbers if which == "any" else numbers[:1] if which == "first" else numbers[-1:]
        near = min(tried, key=lambda each: abs(each - wanted))
        words = f"{near:.10g}" if near == wanted else f"{near:.10g}, {abs(near - wanted):.3g} from {wanted:.10g}"
        return Outcome(abs(near - wanted) <= room, words)

    return decide


def numbers_in(text: str) -> list[float]:
    """The numbers in a text, in order: `1,234.5`, `-3`, `2e3`. Those that belong to a word are none."""
    found = (match[0].replace(",", "").replace("−", "-") for match in _NUMBER.finditer(text))
    numbers = [float(each) for each in found if any(map(str.isdigit, each)) and _is_plain(each)]
    return [each for each in numbers if math.isfinite(each)]


def _is_plain(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _float(value: object, what: str) -> float:
    if isinstance(value, str) and _is_plain(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{what} is a number, not {show(value)}")
    return float(value)

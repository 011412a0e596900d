"""A deterministic check: what it takes, and how it decides. Knows params and outcomes; no check by name."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from p2engine.documents import did_you_mean
from p2engine.domain.verdicts import Subject
from p2engine.errors import UsageError
from p2engine.positions import show

VALUE: Final = "value"  # what stands behind the colon of `{contains: x}`; `expected` is the same
_COMMON: Final = frozenset({VALUE, "expected", "metric"})
_QUOTED_CHARS: Final = 120  # of an answer, in a reason


class Outcome(NamedTuple):
    """What a check came to. passed: None where nothing can be said."""

    passed: bool | None
    why: str


Decide = Callable[[Subject], Outcome]
Read = Callable[[Mapping[str, Any]], Decide]
"""Reads params, and gives what decides by them. Raises UsageError."""


class Check:
    """An evaluator without a model: 1.0 or 0.0, and the reason. takes: its params beside `value`."""

    def __init__(self, id: str, summary: str, read: Read, takes: frozenset[str] = frozenset()) -> None:  # noqa: A002
        self.id = id
        self.summary = summary
        self.takes = takes
        self._read = read

    def check_params(self, params: Mapping[str, Any]) -> None:
        """Raises UsageError for what it cannot check. A text with a template's braces in it is left for later."""
        known = self.takes | _COMMON
        for name in params:
            if name not in known and not self.is_open:
                raise UsageError(f"{self.id} takes no {show(name)}{did_you_mean(str(name), known - {'metric'})}")
        if not _is_template(params):
            self._reading(params)

    @property
    def is_open(self) -> bool:
        """Whether it takes params of any name."""
        return "*" in self.takes

    async def evaluate(self, subject: Subject) -> dict[str, Any]:
        """Decide. Raises UsageError for wrong params."""
        passed, why = self._reading(subject.params)(subject)
        if passed is None:
            return {"score": None, "comment": why}
        return {"score": float(passed), "label": "pass" if passed else "fail", "comment": why}

    def _reading(self, params: Mapping[str, Any]) -> Decide:
        try:
            return self._read({name: each for name, each in params.items() if name != "metric"})
        except UsageError as error:
            raise UsageError(f"{self.id}: {error.message}", hint=error.hint) from None


def value_of(params: Mapping[str, Any]) -> Any:
    """What a check compares with. Raises UsageError where it is missing."""
    for name in (VALUE, "expected"):
        if params.get(name) is not None:
            return params[name]
    raise UsageError("the value to compare with is missing")


def text_of(value: object, what: str = "the value") -> str:
    """A text, or a number as text. Raises UsageError."""
    if isinstance(value, str) and not value.strip():
        raise UsageError(f"{what} is empty")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{what} is a text, not {show(value)}")
    return str(value)


def texts_of(value: object) -> list[str]:
    """One text, or several. Raises UsageError."""
    values = value if isinstance(value, list | tuple) else [value]
    if not values:
        raise UsageError("the value is an empty list")
    return [text_of(each) for each in values]


def flag(params: Mapping[str, Any], name: str, usual: bool) -> bool:
    """Raises UsageError for what is neither true nor false."""
    found = params.get(name, usual)
    if not isinstance(found, bool):
        raise UsageError(f"{name} is true or false, not {show(found)}")
    return found


def count(params: Mapping[str, Any], name: str, usual: int | None = None) -> int | None:
    """A whole number of at least 0. Raises UsageError."""
    found = params.get(name, usual)
    if found is not None and (isinstance(found, bool) or not isinstance(found, int) or found < 0):
        raise UsageError(f"{name} is a whole number, not {show(found)}")
    return found


def quote(text: str) -> str:
    """A text inside a reason, on one line."""
    line = " ".join(text.split())
    return repr(line if len(line) <= _QUOTED_CHARS else line[: _QUOTED_CHARS - 1] + "…")


def _is_template(value: object) -> bool:
    match value:
        case str():
            return "{{" in value or "{%" in value
        case Mapping():
            return any(map(_is_template, value.values()))
        case list() | tuple():
            return any(map(_is_template, value))
        case _:
            return False

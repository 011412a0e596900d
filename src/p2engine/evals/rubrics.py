"""Rubrics: what a judge is told to look for, as free text or as weighted criteria. Knows their notations; asks nobody.

The library is the folder of Jinja files beside this module. What may be filled in comes from an evaluation's params,
never from what is judged.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from p2engine.documents import did_you_mean, parse_yaml
from p2engine.errors import ConfigError, UsageError
from p2engine.positions import show

FOLDER: Final = Path(__file__).parent / "rubrics"
RUBRIC_CHARS_MAX: Final = 50_000
CRITERIA_MAX: Final = 40
METRIC_CHARS_MAX: Final = 60
SCORE: Final = "score"  # the metric that the whole is; no criterion may be called so

NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
"""A rubric of one word is the name of one of the library; anything else is the rubric itself."""

Fill = Callable[[str, Mapping[str, Any]], str]
"""Fills a template's text with values. Raises ValueError where that cannot be."""


class Criterion(NamedTuple):
    """One thing to look for. metric: what its score is kept as. weight: its share of the whole; all sum up to 1."""

    metric: str
    text: str
    weight: float


class Rubric(NamedTuple):
    """What a judge is told. criteria: empty where the whole is scored at once. name: in the library, else empty."""

    text: str
    criteria: tuple[Criterion, ...] = ()
    name: str = ""


@cache
def library() -> Mapping[str, str]:
    """The rubrics that ship, as templates by name."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.j2"))}


def read_rubric(given: object, fill: Fill, values: Mapping[str, Any] | None = None) -> Rubric:
    """A rubric as it is written: a text, a list, a mapping, or the name of one of the library.

    values: for the library's places to fill in. Raises UsageError that says what is wrong.
    """
    if isinstance(given, Mapping | list | tuple):
        return _checked(_structured(given))
    if not isinstance(given, str):
        raise UsageError(f"a rubric is a text, a list or a mapping, not {show(given)}")
    text = _unfenced(given.strip())
    if not text:
        raise UsageError("the rubric is empty")
    if len(text) > RUBRIC_CHARS_MAX:
        raise UsageError(f"a rubric has at most {RUBRIC_CHARS_MAX} characters; this one has {len(text)}")
    if not NAME.fullmatch(text):
        return _checked(_written(text))
    if text not in library():
        raise UsageError(f"no rubric {show(text)}{did_you_mean(text, library())}")
    try:
        filled = fill(library()[text], dict(values or {}))
    except ValueError as error:
        raise UsageError(f"rubric {text}: {error}") from None
    return _checked(_written(filled))._replace(name=text)


def metric_of(text: str) -> str:
    """What a criterion's score is kept as: `Creative/original?` is `creative_original`."""
    head = re.split(r"[:–—]\s|\s-\s", text, maxsplit=1)[0]
    words = re.findall(r"\w+", head.casefold()) or re.findall(r"\w+", text.casefold())
    name = "_".join(words)[:METRIC_CHARS_MAX].strip("_") or "criterion"
    return f"{name}_criterion" if name == SCORE else name


Parts = list[tuple[str, float]]


def _checked(rubric: Rubric) -> Rubric:
    """The weights as shares. Raises UsageError for weights that are none."""
    if len(rubric.criteria) > CRITERIA_MAX:
        raise UsageError(f"a rubric has at most {CRITERIA_MAX} criteria; this one has {len(rubric.criteria)}")
    total = sum(each.weight for each in rubric.criteria)
    if rubric.criteria and not total > 0:
        raise UsageError("the weights of a rubric are all 0")
    taken: set[str] = set()
    criteria = []
    for each in rubric.criteria:
        name, number = each.metric, 2
        while name in taken:
            name, number = f"{each.metric}_{number}", number + 1
        taken.add(name)
        criteria.append(Criterion(name, each.text, each.weight / total))
    return rubric._replace(criteria=tuple(criteria))


def _criteria(parts: Parts) -> tuple[Criterion, ...]:
    return tuple(Criterion(metric_of(text), text, weight) for text, weight in parts)


# Texts

_FENCED: Final = re.compile(r"(`{3,}|~{3,})[\w+-]*[ \t]*\n(.*?)\n?[ \t]*\1", re.DOTALL)
_BULLET: Final = re.compile(r"\s*(?:[-*+•–]|\d{1,3}[.)])\s+")
_NUMBER: Final = r"(\d{1,3}(?:[.,]\d{1,6})?|[.,]\d{1,6}) {0,3}(%?)"
_WEIGHT: Final = re.compile(
    rf"[(\[] {{0,3}}(?:weight(?:ed)?|w)? {{0,3}}[:=]? {{0,3}}{_NUMBER} {{0,3}}(?:weight|points?|pts?)? {{0,3}}[)\]]",
    re.IGNORECASE,
)
_AFTER: Final = re.compile(rf"(.*\S)\s*(?:[:=→]|\s[-–—])\s*(?:weight\s*[:=]?\s*)?{_NUMBER}\s*[.,;]?\s*", re.IGNORECASE)
_BELOW: Final = re.compile(  # a weight below 0, where its criterion ends
    rf"[(\[] {{0,3}}(?:weight(?:ed)?|w)? {{0,3}}[:=]? {{0,3}}[-−]{_NUMBER} {{0,3}}(?:weight|points?|pts?)? {{0,3}}[)\]]"
    r"(?=\s{0,3}(?:[-.,;:]|and\b|$))",
    re.IGNORECASE | re.MULTILINE,
)
_AFTER_BELOW: Final = re.compile(rf".*\S\s*[:=→]\s*(?:weight\s*[:=]?\s*)?[-−]{_NUMBER}\s*[.,;]?\s*", re.IGNORECASE)


def _unfenced(text: str) -> str:
    """What stands in the fence, where the whole text is one."""
    fenced = _FENCED.fullmatch(text)
    return fenced[2].strip() if fenced else text


def _written(text: str) -> Rubric:
    """The criteria in a text: weights in brackets anywhere, `name: weight` on lines, or YAML; else the text itself.

    Raises UsageError for a weight below 0.
    """
    parts = list(_bracketed(text))
    is_list = any(_BULLET.match(line) for line in text.splitlines())
    below = [found[0] for found in _BELOW.finditer(text)]
    if len(parts) >= 2 or (is_list and (parts or len(below) >= 2)):
        if below:
            raise _no_weight(below[0])
        return Rubric(text, _criteria(parts))
    if (structure := _as_yaml(text)) is not None:
        return structure
    lines = [_BULLET.sub("", line, count=1).strip() for line in text.splitlines() if line.strip()]
    below = [line for line in lines if _AFTER_BELOW.fullmatch(line)]
    above = [found for line in lines if not _AFTER_BELOW.fullmatch(line) and (found := _AFTER.fullmatch(line))]
    if below and len(below) + len(above) >= 2:
        raise _no_weight(below[0])
    parts = [(found[1], _number(found[2], found[3])) for found in above]
    return Rubric(text, _criteria(parts) if len(parts) >= 2 else ())


def _bracketed(text: str) -> Iterator[tuple[str, float]]:
    """What stands before each weight in brackets: since the one before it, or since its line began."""
    end = 0
    for found in _WEIGHT.finditer(text):
        said = text[end : found.start()].rsplit("\n", 1)[-1]
        if not said.strip() and end < found.start():  # the weight stands on a line of its own
            said = text[end : found.start()].strip().rsplit("\n", 1)[-1]
        is_bullet = _BULLET.match(said)
        said = _BULLET.sub("", said, count=1) if is_bullet else re.sub(r"^\s*(?:[,;.&+-]|and\b)*\s*", "", said)
        if not is_bullet and end == 0 and (heading := re.match(r".*?:\s+(?:[-*•]\s+)?(?=\S)", said)):
            said = said[heading.end() :]
        weight = _number(found[1], found[2])
        end = found.end()
        if said.strip(" :-–—*_\t") and weight <= 100:
            yield said.strip(" :-–—*_\t"), weight


def _number(text: str, percent: str) -> float:
    value = float(text.replace(",", "."))
    return value / 100 if percent else value


def _as_yaml(text: str) -> Rubric | None:
    """A YAML list or mapping with weights in it; None where the text is none."""
    if not re.search(r"^[ \t]*(?:- +)?[\w\"'][^\n]*:[ \t]*(?:\S.*)?$", text, re.MULTILINE):
        return None
    try:
        value = parse_yaml(text, "rubric").value
        return _structured(value) if isinstance(value, Mapping | list) and _has_weights(value) else None
    except (ConfigError, UsageError):
        return None


def _has_weights(value: object) -> bool:
    match value:
        case Mapping():
            return all(_is_number(each) or (isinstance(each, Mapping) and "weight" in each) for each in value.values())
        case list():
            named = [each for each in value if isinstance(each, Mapping) and ("weight" in each or _has_weights(each))]
            return bool(value) and len(named) == len(value)
        case _:
            return False


# Lists and mappings

_NAMES: Final = ("name", "id", "criterion", "metric")
_TEXTS: Final = ("text", "description", "question")
_WORDS: Final = (*_NAMES, *_TEXTS)


def _structured(given: Mapping[Any, Any] | Sequence[Any]) -> Rubric:
    parts: Parts = []
    plain: list[str] = []
    items = [{name: each} for name, each in given.items()] if isinstance(given, Mapping) else list(given)
    if not items:
        raise UsageError("the rubric is empty")
    for item in items:
        match item:
            case str() if item.strip():
                found = list(_bracketed(item))
                parts += found[:1]
                plain += [] if found else [item.strip()]
            case Mapping() if "weight" in item:
                parts.append((_text(item), _weight(item["weight"])))
            case Mapping() if any(isinstance(item.get(key), str) and not _is_number(item[key]) for key in _WORDS):
                raise _unweighted(_text(item))
            case Mapping() if len(item) == 1:
                ((name, value),) = item.items()
                if value is None or (isinstance(value, Mapping) and "weight" not in value):
                    raise _unweighted(name)
                if isinstance(value, Mapping):
                    parts.append((_text({"name": name, **value}), _weight(value["weight"])))
                else:
                    parts.append((str(name).strip(), _weight(value)))
            case _:
                raise UsageError(f"a criterion is a text, or a name with its weight, not {show(item)}")
    if parts and plain:
        raise _unweighted(plain[0])
    if not parts:
        return Rubric("\n".join(f"- {text}" for text in plain))
    return Rubric("\n".join(f"- {text} ({weight:g})" for text, weight in parts), _criteria(parts))


def _text(item: Mapping[Any, Any]) -> str:
    name = next((str(item[key]).strip() for key in _NAMES if item.get(key)), "")
    more = next((str(item[key]).strip() for key in _TEXTS if item.get(key)), "")
    if not name and not more:
        raise UsageError(f"a criterion needs a name: {show(dict(item))}")
    return f"{name}: {more}" if name and more else name or more


def _weight(value: object) -> float:
    if isinstance(value, str) and (found := re.fullmatch(_NUMBER, value.strip())):
        return _number(found[1], found[2])
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise _no_weight(value)
    return float(value)


def _unweighted(criterion: object) -> UsageError:
    return UsageError(f"the criterion {show(criterion)} has no weight")


def _no_weight(value: object) -> UsageError:
    return UsageError(f"a weight is a number such as 0.3, not {show(value)}")


def _is_number(value: object) -> bool:
    try:
        _weight(value)
    except UsageError:
        return False
    return True

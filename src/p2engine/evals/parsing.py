"""What a judge wrote, read: the one JSON object in it, and the numbers there. Knows text; no judge and no rubric.

Judges answer in prose, in a fence, with text around, twice, on another scale. Whatever leaves a doubt is said to be
unreadable, in words that the judge can be told; no number is made up for it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

ANSWER_CHARS_MAX: Final = 100_000  # of an answer that is looked through
OBJECTS_MAX: Final = 200  # places in an answer where an object is tried
COMMENT_CHARS_MAX: Final = 4000

_SCORE: Final = "score"
_COMMENTS: Final = ("comment", "comments", "reason", "reasoning", "rationale", "explanation", "justification")
_NUMBERS: Final = ("criteria", "metrics", "scores")


class Unreadable(ValueError):
    """An answer that is no verdict; the message says why, to whoever is asked again."""


class Judgement(NamedTuple):
    """What an answer says. score: None where the judge would not decide. has_score: whether the key is there at all.

    numbers: what else it scored, by the names it gave; not yet checked.
    """

    score: float | None
    has_score: bool
    numbers: Mapping[str, Any]
    comment: str


class _Object(NamedTuple):
    value: dict[str, Any]
    source: str


def judgement(text: str, judged: str = "") -> Judgement:
    """The verdict in an answer. judged: the text that was judged, which an answer may quote. Raises Unreadable.

    Of several objects those with `score` or `criteria` count. Two of them that say the same are one; two that differ
    are none, since the other may have been quoted from what was judged. So may be an object that stands there word for
    word, unless it is the whole answer; and one that stands inside something broken.
    """
    found: list[Judgement] = []
    for value, source in _objects(text, broken=False):
        folded = {str(key).strip().casefold(): each for key, each in value.items()}
        if _SCORE in folded or any(isinstance(folded.get(name), dict | list) for name in _NUMBERS):
            if source in judged and _bare(text) != source:
                raise Unreadable("the JSON object in it stands in the transcript as well; answer with yours alone")
            read = _read(folded)
            if not any(_says_the_same(read, other) for other in found):
                found.append(read)
    if not found:
        raise Unreadable('there is no JSON object with a "score" in it')
    if len(found) > 1:
        raise Unreadable("there are several JSON objects that differ, and only one can be the verdict")
    return found[0]


def fraction(value: object, name: str = _SCORE) -> float:
    """A score as a number in 0..1. Raises Unreadable for everything else; nothing is scaled or guessed."""
    if isinstance(value, str):
        written = value
        try:
            value = float(written.strip())
        except ValueError:
            raise Unreadable(f"{name} is the text {written[:40]!r}, not a number from 0 to 1") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unreadable(f"{name} is {_kind(value)}, not a number from 0 to 1")
    if not 0 <= value <= 1:  # NaN neither
        raise Unreadable(f"{name} is {str(value)[:40]}, not a number from 0 to 1")
    return float(value)


def objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text, outermost ones, in order; what only looks like one is passed over."""
    return (found.value for found in _objects(text, broken=True))


def json_in(text: str) -> Any:
    """The JSON value that a text is, or that stands in its only fence, or its only object. Raises ValueError."""
    text = text.strip()
    fenced = _FENCE.findall(text)
    for candidate in (text, *(fenced if len(fenced) == 1 else ())):
        try:
            return json.loads(candidate)
        except (ValueError, RecursionError):
            continue
    found = list(objects(text))
    if len(found) == 1:
        return found[0]
    raise ValueError("there is no JSON in it" if not found else f"there are {len(found)} JSON objects in it")


def _objects(text: str, *, broken: bool) -> Iterator[_Object]:
    """broken: pass over what begins as an object and is none. Else raises Unreadable for it."""
    text, at = text[:ANSWER_CHARS_MAX], 0
    for _ in range(OBJECTS_MAX):
        start = text.find("{", at)
        if start < 0:
            return
        try:
            value, at = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            if not broken and _BEGINS.match(text, start):
                raise Unreadable(f"the JSON object in it is broken: {error}") from None
            at = start + 1
            continue
        yield _Object(value, text[start:at])


def _bare(text: str) -> str:
    """An answer without the fence around it."""
    fenced = _FENCE.fullmatch(text.strip())
    return (fenced[1] if fenced else text).strip()


def _read(value: Mapping[str, Any]) -> Judgement:
    numbers: dict[str, Any] = {}
    for name in _NUMBERS:
        numbers |= _named(value.get(name))
    known = {_SCORE, *_NUMBERS, *_COMMENTS}
    numbers |= {k: v for k, v in value.items() if k not in known and isinstance(v, int | float) and v is not True}
    score = value.get(_SCORE)
    comment = next((value[name] for name in _COMMENTS if isinstance(value.get(name), str)), "")
    return Judgement(
        None if score is None else fraction(score), _SCORE in value, numbers, comment.strip()[:COMMENT_CHARS_MAX]
    )


def _named(given: object) -> dict[str, Any]:
    """`{"funny": 0.5}`, `{"funny": {"score": 0.5}}` or `[{"name": "funny", "score": 0.5}]` as name -> value."""
    if isinstance(given, Mapping):
        return {str(name): each.get(_SCORE) if isinstance(each, Mapping) else each for name, each in given.items()}
    named: dict[str, Any] = {}
    for each in given if isinstance(given, list) else ():
        if isinstance(each, Mapping):
            name = next((each[key] for key in ("name", "id", "criterion") if key in each), None)
            if name is not None:
                named[str(name)] = each.get(_SCORE)
    return named


def _says_the_same(one: Judgement, other: Judgement) -> bool:
    return (one.score, one.has_score, dict(one.numbers)) == (other.score, other.has_score, dict(other.numbers))


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list() | tuple():
            return "a list"
        case Mapping():
            return "an object"
        case _:
            return f"of type {type(value).__name__}"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand once. Raises ValueError: which of two values is meant, nobody can say."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key stands twice")
    return value


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_once)
_BEGINS: Final = re.compile(r"\{\s*\"")
_FENCE: Final = re.compile(r"```[\w+-]*[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL)

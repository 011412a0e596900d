"""What an evaluator handed back, as a verdict of plain values. Knows values; runs nothing.

Evaluators are code of others: a wrong type, a NaN or a score of 7 is refused here, and never becomes a number.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from p2engine.domain.setup import Spent
from p2engine.domain.verdicts import Subject, Verdict
from p2engine.evals.parsing import COMMENT_CHARS_MAX

LABEL_CHARS_MAX: Final = 200
METRICS_MAX: Final = 200
METRIC_CHARS_MAX: Final = 120

Result = Verdict | float | bool | Mapping[str, Any] | None
"""What an evaluator may give: a score in 0..1, whether it passed, None for undecided, or more in a mapping
(`score`, `label`, `comment`, `metrics`; any other number is a metric)."""

_WORDS: Final = {"score", "label", "comment", "metrics", "status"}


class Unfit(ValueError):
    """A result that is no verdict; the message says why."""


def shaped(result: object, evaluator: str, version: str, subject: Subject) -> Verdict:
    """A result as a verdict of this evaluator on this subject. Raises Unfit."""
    given = _given(result)
    score = None if given.get("score") is None else number(given["score"], "the score", bounded=True)
    label = given.get("label") or ""
    comment = given.get("comment") or ""
    if not isinstance(label, str) or not isinstance(comment, str):
        raise Unfit("label and comment are texts")
    status: Any = given.get("status") or ("scored" if score is not None or label else "undecided")
    if status not in ("scored", "undecided", "error"):
        raise Unfit(f"status is scored, undecided or error, not {status!r}")
    return Verdict(
        evaluator=evaluator,
        version=version,
        subject=subject.event,
        score=score if status == "scored" else None,
        label=plain(label, LABEL_CHARS_MAX),
        status=status,
        metrics=_metrics(given),
        comment=plain(comment, COMMENT_CHARS_MAX),
        model=plain(str(given.get("model") or ""), LABEL_CHARS_MAX),
        provider=plain(str(given.get("provider") or ""), LABEL_CHARS_MAX),
        spent=given["spent"] if isinstance(given.get("spent"), Spent) else Spent(),
    )


def number(value: object, what: str, *, bounded: bool = False) -> float:
    """A finite number; in 0..1 where bounded. Raises Unfit."""
    if isinstance(value, str | bytes):
        raise Unfit(f"{what} is the text {value[:40]!r}, not a number")
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise Unfit(f"{what} is of type {type(value).__name__}, not a number") from None
    if not math.isfinite(found):
        raise Unfit(f"{what} is {found}, not a number")
    if bounded and not 0 <= found <= 1:
        raise Unfit(f"{what} is {found:.6g}, not from 0 to 1")
    return found


def plain(text: str, most: int) -> str:
    """`text` as UTF-8 can hold it, and no longer than that."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= most else text[: most - 1] + "…"


def _given(result: object) -> Mapping[str, Any]:
    match result:
        case None:
            return {}
        case Verdict():
            return {name: getattr(result, name) for name in Verdict.__struct_fields__ if name not in _OWN}
        case bool():
            return {"score": float(result), "label": "pass" if result else "fail"}
        case Mapping():
            return result
        case str() | bytes():
            raise Unfit(f"it returned the text {result[:40]!r}, not a verdict; for a label return {{'label': …}}")
        case _:
            return {"score": number(result, "what it returned")}


_OWN: Final = {
    "evaluator",
    "version",
    "subject",
    "samples",
    "terms",
    "parts",
    "first",
    "key",
    "source",
    "saved",
    "place",
}


def _metrics(given: Mapping[str, Any]) -> dict[str, float]:
    told = given.get("metrics") or {}
    if not isinstance(told, Mapping):
        raise Unfit(f"metrics are a mapping of names to numbers, not of type {type(told).__name__}")
    others = {name: value for name, value in given.items() if name not in _WORDS | {"model", "provider", "spent"}}
    metrics = {
        plain(str(name), METRIC_CHARS_MAX): number(value, f"the metric {str(name)[:40]!r}")
        for name, value in {**others, **told}.items()
        if value is not None
    }
    if len(metrics) > METRICS_MAX:
        raise Unfit(f"it has {len(metrics)} metrics, more than {METRICS_MAX}")
    return metrics


def apart(subject: Subject, repeat: int) -> Subject:
    """The subject of one sample, shared with nobody: whatever an evaluator does to it, it does to its own copy."""
    packed = msgspec.msgpack.encode(msgspec.structs.replace(subject, repeat=repeat))
    return msgspec.msgpack.decode(packed, type=Subject)

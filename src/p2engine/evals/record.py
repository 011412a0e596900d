"""What was said and done, quoted for a judge: lines of JSON in a fence that nothing inside can close or forge.

Each line is one JSON object, so that no text of others ever begins a line, and whatever could pass for the fence or
for a model's own marks is written as an escape that reads as the same character. The fence carries a mark that is a
hash of all that stands in it: nobody could have known it when they wrote.
"""

import json
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec

from p2engine.domain.verdicts import Line, Subject

RECORD_CHARS_MAX: Final = 240_000  # of all lines; beyond that the middle is left out
LINE_CHARS_MAX: Final = 60_000  # of one text; beyond that its end is left out

_ESCAPED: Final = {ord(c): f"\\u{ord(c):04x}" for c in "<>\x7f\u2028\u2029\ufeff"} | {
    code: f"\\u{code:04x}" for code in range(0x80, 0xA0)
}


class Record(NamedTuple):
    """A quoted transcript. mark: of its fence."""

    text: str
    mark: str


def record(subject: Subject, **more: Any) -> Record:
    """The transcript of a subject, fenced. more: further lines at its end, by their key."""
    lines = [_json(_shown(line, number, subject)) for number, line in enumerate(subject.transcript, 1)]
    _judged(lines, subject)
    tail = [_json(each) for each in _ending(subject)] + [_json({key: value}) for key, value in more.items()]
    return fenced([*_cut(lines), *tail])


def fenced(lines: list[str]) -> Record:
    """Lines that were written by `quoted`, in a fence of their own."""
    body = "\n".join(lines)
    mark = blake2b(body.encode(), digest_size=8).hexdigest()
    return Record(f"<<<RECORD {mark}\n{body}\nRECORD>>> {mark}", mark)


def quoted(**values: Any) -> str:
    """Values of others as one line of a record."""
    return _json(values)


def _shown(line: Line, number: int, subject: Subject) -> dict[str, Any]:
    text = {"text": _short(line.text)} if line.text else {}
    match line.kind:
        case "assistant" | "ask":
            shown = {"n": number, "from": f"agent {subject.agent}", **text}
            return {**shown, "asks": True} if line.kind == "ask" else shown
        case "call":
            return {"n": number, "from": f"agent {subject.agent}", "calls": line.name, "with": line.arguments, **text}
        case "result":
            return {"n": number, "from": line.name, "status": line.status, **text}
        case _:
            return {"n": number, "from": "user", **text}


def _judged(lines: list[str], subject: Subject) -> None:
    """Mark the answer that is judged."""
    for place in reversed(range(len(lines))):
        line = subject.transcript[place]
        if subject.answer and line.kind == "assistant" and line.text == subject.answer:
            lines[place] = _json({**_shown(line, place + 1, subject), "judged": True})
            return


def _ending(subject: Subject) -> Iterator[Mapping[str, Any]]:
    if not subject.answer:
        yield {"answer": None}
    if subject.reason is not None:
        yield {"ended": subject.reason, **({"because": subject.detail} if subject.detail else {})}
    if subject.holdings:
        yield {"wallets": {name: msgspec.to_builtins(one) for name, one in sorted(subject.holdings.items())}}


def _cut(lines: list[str]) -> list[str]:
    """The lines, without the middle ones where they are too long together."""
    if sum(map(len, lines)) <= RECORD_CHARS_MAX:
        return lines
    first = _fitting(lines, RECORD_CHARS_MAX // 4)
    last = _fitting(lines[:first:-1], RECORD_CHARS_MAX - RECORD_CHARS_MAX // 4)
    left_out = len(lines) - first - last
    return [
        *lines[:first],
        _json({"left_out": f"{left_out} lines: the record is too long"}),
        *lines[len(lines) - last :],
    ]


def _fitting(lines: list[str], room: int) -> int:
    """How many lines from the first on fit."""
    for number, line in enumerate(lines):
        room -= len(line)
        if room < 0:
            return number
    return len(lines)


def _short(text: str) -> str:
    if len(text) <= LINE_CHARS_MAX:
        return text
    return f"{text[:LINE_CHARS_MAX]} … [{len(text) - LINE_CHARS_MAX} characters left out]"


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, default=str).translate(_ESCAPED)

"""Labels of people for conversations, read from a file. Knows the file; what the numbers say of a judge is not its.

One row a conversation: `conversation`, and `score` (0..1) or `label`; `turn` where it is not about the last one. CSV
with a head line, or JSON lines.
"""

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from p2engine.documents import did_you_mean, read_text, shown
from p2engine.errors import ConfigError
from p2engine.positions import show

ROWS_MAX: Final = 10_000
KEYS: Final = ("conversation", "score", "label")

LABELS: Final[Mapping[str, float]] = {
    "good": 1.0, "pass": 1.0, "yes": 1.0, "true": 1.0, "correct": 1.0, "1": 1.0,
    "bad": 0.0, "fail": 0.0, "no": 0.0, "false": 0.0, "incorrect": 0.0, "0": 0.0,
}  # fmt: skip
"""Labels that say as much as a score."""


_NUMBER: Final = re.compile(r"[-+]?(?:\d+[.,]?\d*|[.,]\d+)\s*%?")


class Labelled(NamedTuple):
    """What a person said of one conversation. score: the label's, where only that is given. line: in the file."""

    conversation: str
    score: float
    label: str
    line: int


def read_labels(path: Path) -> list[Labelled]:
    """The rows of a file. Raises ConfigError, with file and line, for what is no such file."""
    text, file = read_text(path), shown(path)
    rows = _json_rows(text, file) if path.suffix in (".jsonl", ".ndjson") else _csv_rows(text, file)
    found = [_labelled(row, line, file) for line, row in rows]
    if not found:
        raise ConfigError("has no rows", file=file)
    if len(found) > ROWS_MAX:
        raise ConfigError(f"has {len(found)} rows, more than {ROWS_MAX}", file=file)
    seen: dict[str, int] = {}
    for each in found:
        if each.conversation in seen:
            words = f"{show(each.conversation)} is labelled twice, first on line {seen[each.conversation]}"
            raise ConfigError(words, file=file, line=each.line)
        seen[each.conversation] = each.line
    return found


def _csv_rows(text: str, file: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        names = [str(name).strip().casefold() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        if "conversation" not in names:
            near = did_you_mean("conversation", names)
            raise ConfigError(f"the column conversation is missing{near}", file=file, line=1)
        for row in reader:
            if None in row:
                raise ConfigError("has more fields than the head line", file=file, line=reader.line_num)
            yield reader.line_num, row
    except csv.Error as error:
        raise ConfigError(f"no CSV: {error}", file=file, line=reader.line_num) from None


def _json_rows(text: str, file: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, written in enumerate(text.splitlines(), 1):
        if not written.strip():
            continue
        try:
            row = msgspec.json.decode(written)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"no JSON: {error}", file=file, line=line) from None
        if not isinstance(row, dict):
            raise ConfigError(f"expected an object, not {show(row)}", file=file, line=line)
        yield line, row


def _labelled(row: Mapping[str, Any], line: int, file: str) -> Labelled:
    def said(name: str) -> str:
        value = row.get(name)
        return "" if value is None else str(value).strip()

    if not said("conversation"):
        raise ConfigError("the conversation is missing", file=file, line=line)
    if said("score"):
        return Labelled(said("conversation"), _score(said("score"), line, file), said("label"), line)
    if said("label"):
        return Labelled(said("conversation"), _score_of(said("label"), line, file), said("label"), line)
    raise ConfigError("a row needs a score or a label", file=file, line=line)


def _score_of(label: str, line: int, file: str) -> float:
    score = LABELS.get(label.casefold())
    if score is None and _NUMBER.fullmatch(label):
        raise ConfigError(f"the label {show(label)} is a number; write numbers under score", file=file, line=line)
    if score is None:
        raise ConfigError(f"no label {show(label)}{did_you_mean(label, LABELS)}", file=file, line=line)
    return score


def _score(text: str, line: int, file: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 1:
        raise ConfigError(f"a score is a number from 0 to 1, not {show(text)}", file=file, line=line)
    return score

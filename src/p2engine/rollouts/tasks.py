"""The data set of a team: written out, or a JSONL or CSV file beside the rollout file. Knows rows; no agents."""

import csv
import json
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import StringIO
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from p2engine.documents import Document, did_you_mean, shown, subject
from p2engine.errors import ConfigError
from p2engine.limits import NAME_BYTES_MAX, TASKS_BYTES_MAX, TRIALS_MAX
from p2engine.positions import Place, show
from p2engine.rollouts.entries import TasksEntry
from p2engine.rollouts.spec import Task
from p2engine.rollouts.templates import RESERVED

DEPTH_MAX = 32  # of values inside one another in a row
_EXPECTED = "expected"


class Columns(NamedTuple):
    """Which keys of a row are no values of the task. None: `id` and `expected`, where they are there."""

    id: str | None = None
    expected: Sequence[str] | None = None


def read_tasks(document: Document, place: Place, folder: Path) -> tuple[Task, ...]:
    """The tasks at `place`: a list, the name of a file in `folder`, or a file with its columns. Raises ConfigError."""
    written = document.at(place)
    match written:
        case None:
            return ()
        case list():
            return _inline(document, place)
        case str():
            entry = TasksEntry(file=written) if written else None
        case dict():
            entry = document.check(TasksEntry, place)
        case _:
            entry = None
    if entry is None:
        message = f"{subject(place)}expected a list of tasks, a file or {{file: …}}, not {show(written)}"
        raise document.error(message, place)
    try:
        return _from_file(folder / entry.file, Columns(entry.id, entry.expected))
    except ConfigError as error:
        if error.line:  # of the data set itself
            raise
        raise document.error(f"{subject(place)}{error}", place) from None


def _inline(document: Document, place: Place) -> tuple[Task, ...]:
    rows = [((*place, index), row) for index, row in enumerate(document.at(place))]
    if not rows:
        raise document.error(f"{subject(place)}there are no tasks in the list", place)

    def wrong(here: Place, message: str) -> ConfigError:
        return document.error(f"{subject(here)}{message}", here)

    return _tasks(iter(rows), Columns(), wrong)


def _from_file(path: Path, columns: Columns) -> tuple[Task, ...]:
    """Raises ConfigError: without a line where the file as a whole is wrong."""
    if not path.name.isprintable():
        raise ConfigError(f"a file's name has no control characters; this is {show(path.name)}")
    read = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv}.get(path.suffix.lower())
    file = shown(path)
    if read is None:
        raise ConfigError(f"a data set is a .jsonl or .csv file, not {show(path.name)}")
    text = _text(path, file)

    def wrong(line: int, message: str) -> ConfigError:
        return ConfigError(message, file=file, line=line)

    tasks = _tasks(read(text, wrong), columns, wrong)
    if not tasks:
        raise ConfigError(f"{file} has no tasks")
    return tasks


def _text(path: Path, file: str) -> str:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(f"{file} is {'a folder, not a file' if stat.S_ISDIR(mode) else 'not a file'}")
        with path.open("rb") as stream:
            body = stream.read(TASKS_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ConfigError(f"no such file: {file}") from None
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        raise ConfigError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(body) > TASKS_BYTES_MAX:
        raise ConfigError(f"{file} is larger than {TASKS_BYTES_MAX} bytes")
    if 0 in body:
        raise ConfigError(f"{file} is a binary file, not text")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", file=file, line=body.count(b"\n", 0, error.start) + 1) from None


# Rows

Wrong = Callable[[int, str], ConfigError]


def _jsonl(text: str, wrong: Wrong) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line, object_pairs_hook=_once, parse_constant=_no_number)
            except RecursionError:
                raise wrong(number, "is nested too deeply") from None
            except json.JSONDecodeError as error:
                raise wrong(number, f"not JSON: {error.msg[0].lower()}{error.msg[1:]}") from None
            except ValueError as error:
                raise wrong(number, str(error).split(":")[0]) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {show(next(name for name in names if names.count(name) > 1))} stands twice")
    return row


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _csv(text: str, wrong: Wrong) -> Iterator[tuple[int, Any]]:
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    names: list[str] = []
    line = 1  # where the row begins: a cell may have several lines
    try:
        for row in reader:
            if not any(row):
                pass
            elif not names:
                names = [name.strip() for name in row]
                if "" in names or len(set(names)) < len(names):
                    raise wrong(line, "the first line names the columns, each once and none of them empty")
            elif len(row) != len(names):
                raise wrong(line, f"expected {len(names)} columns, not {len(row)}")
            else:
                yield line, dict(zip(names, row, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise wrong(line, f"not CSV: {error}") from None


# Tasks


def _tasks(
    rows: Iterator[tuple[Any, Any]], columns: Columns, wrong: Callable[[Any, str], ConfigError]
) -> tuple[Task, ...]:
    tasks: dict[str, Task] = {}
    for place, row in rows:
        try:
            task = _task(row, f"t{len(tasks) + 1}", columns)
        except ValueError as error:
            raise wrong(place, str(error)) from None
        if task.id in tasks:
            raise wrong(place, f"task {show(task.id)} is there already")
        if len(tasks) == TRIALS_MAX:
            raise wrong(place, f"more than {TRIALS_MAX} tasks")
        tasks[task.id] = task
    return tuple(tasks.values())


def _task(row: Any, number: str, columns: Columns) -> Task:
    if not isinstance(row, Mapping):
        raise ValueError(f"a task is a mapping, not {show(row)}")  # noqa: TRY004 — one kind for whoever adds the place
    if found := not_plain(row):
        raise ValueError(subject(found[0]) + found[1])
    values = dict(row)
    for name in (*([columns.id] if columns.id else ()), *(columns.expected or ())):
        if name not in values:
            raise ValueError(f"there is no column {show(name)}{did_you_mean(name, map(str, values))}")
    id_ = _id(values.pop(columns.id or "id", number))
    expected = _expected(values, columns.expected)
    for name in RESERVED:
        if name in values:
            raise ValueError(f"no value of a task may be called {name}")
    return Task(id=id_, values=values, expected=expected)


def _id(value: Any) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not text.strip() or not text.isprintable() or len(text.encode()) > NAME_BYTES_MAX:
        raise ValueError(
            f"a task's id is a number or a printable text of at most {NAME_BYTES_MAX} bytes; this is {show(value)}"
        )
    return text


def _expected(values: dict[str, Any], names: Sequence[str] | None) -> Any:
    """Taken out of `values`: one column as it is, several by their names, `expected.NAME` by NAME."""
    if names:
        found = {name: values.pop(name) for name in names}
        return found if len(found) > 1 else found[names[0]]
    parts = {name: name.removeprefix(f"{_EXPECTED}.") for name in values if name.startswith(f"{_EXPECTED}.")}
    if parts and _EXPECTED in values:
        raise ValueError(f"{_EXPECTED} stands beside {show(next(iter(parts)))}: one or the other")
    if parts:
        return {short: values.pop(name) for name, short in parts.items()}
    return values.pop(_EXPECTED, None)


def not_plain(value: Any, place: Place = ()) -> tuple[Place, str] | None:
    """Where and why a value is no plain JSON: dates, bytes, NaN, integers beyond 64 bits, keys that are no text, …."""
    match value:
        case list() | dict() if len(place) > DEPTH_MAX:
            return place, "is nested too deeply"
        case list():
            parts = ((each, (*place, index)) for index, each in enumerate(value))
            return next((found for each, here in parts if (found := not_plain(each, here))), None)
        case dict():
            for key, each in value.items():
                if not isinstance(key, str) or not _encodes(key):
                    return place, f"a key must be text, not {show(key)}"
                if found := not_plain(each, (*place, key)):
                    return found
            return None
    fine = (
        value is None
        or (isinstance(value, str) and _encodes(value))
        or (isinstance(value, int) and -(2**63) <= value < 2**63)
        or (isinstance(value, float) and isfinite(value))
    )
    return None if fine else (place, f"{show(value)} is neither text nor a plain number; put it in quotes")


def _encodes(text: str) -> bool:
    """Half a surrogate pair is no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

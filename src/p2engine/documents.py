"""Strict reading of the files people write: YAML and JSON into plain data that remembers its lines.

Knows files, positions and how to say in one line what is wrong. Knows no key of any file: a pydantic model says which
there are, and `later` on that model which of them this version does not have yet.
"""

import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from p2engine.errors import ConfigError, NotAvailable, SetupError
from p2engine.limits import CONFIG_FILE_BYTES_MAX
from p2engine.positions import Place, json_value, show, yaml_value

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

PATH_CHARS_MAX = 300  # of a path in a message

M = TypeVar("M", bound="BaseModel")


class Document(NamedTuple):
    """A file as plain data. `file` is its name as messages show it; `lines` holds the 1-based line of each value."""

    file: str
    value: Any
    lines: Mapping[Place, int]

    def line(self, place: Place) -> int:
        """The line of the value at `place`, or of the nearest one around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def at(self, place: Place) -> Any:
        """The value at `place`, which must exist."""
        value = self.value
        for step in place:
            value = value[step]
        return value

    def error(self, message: str, place: Place = (), *, hint: str = "") -> ConfigError:
        """A ConfigError that says where in this file."""
        return ConfigError(message, hint=hint, file=self.file, line=self.line(place))

    def check(self, model: type[M], place: Place = ()) -> M:
        """The part at `place` as `model`. Raises ConfigError or NotAvailable for the first wrong line."""
        from pydantic import ValidationError

        value = self.at(place)
        if not isinstance(value, dict):
            raise self.error(f"{subject(place)}expected a mapping, not {show(value)}", place)
        try:
            return model.model_validate(value)
        except ValidationError as error:
            raise self.wrong(model, error, place) from None

    def wrong(self, model: type["BaseModel"], error: "ValidationError", place: Place = ()) -> SetupError:
        """What the reader must change first in this file, as an error with file and line."""
        found = list(faults(model, error))
        # A key is often missing because it was misspelt: the misspelt one is the better news.
        fault = min(found, key=lambda each: (each.missing, self.line(place + each.place)))
        line = self.line(place + fault.place)
        if fault.later:
            return NotAvailable(fault.later, hint=f"{self.file}:{line}: take it out")
        return ConfigError(subject(place + fault.subject) + fault.text, file=self.file, line=line)


def read_yaml(path: Path) -> Document:
    """A YAML file. Raises ConfigError (missing, empty, a directory, binary, too large, not YAML, …)."""
    return parse_yaml(read_text(path), shown(path))


def read_json(path: Path) -> Document:
    """A JSON file. Raises ConfigError (missing, empty, a directory, binary, too large, not JSON, …)."""
    return parse_json(read_text(path), shown(path))


def parse_yaml(text: str, file: str) -> Document:
    """YAML 1.2 of one document, safe types only. Raises ConfigError."""
    return Document(file, *yaml_value(_filled(text, file), file))


def parse_json(text: str, file: str) -> Document:
    """One JSON value; a key twice is an error. Raises ConfigError."""
    return Document(file, *json_value(_filled(text, file), file))


def _filled(text: str, file: str) -> str:
    if not text.strip():
        raise ConfigError("is empty", file=file)
    return text


def read_text(path: Path) -> str:
    """A small UTF-8 text file. Raises ConfigError when it is none."""
    file = shown(path)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError("is a folder, not a file" if stat.S_ISDIR(mode) else "is not a file", file=file)
        with path.open("rb") as stream:
            body = stream.read(CONFIG_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise ConfigError("no such file", file=file) from None
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot be read: {reason}", file=file) from None
    if len(body) > CONFIG_FILE_BYTES_MAX:
        raise ConfigError(f"is larger than {CONFIG_FILE_BYTES_MAX} bytes", file=file)
    if 0 in body:
        raise ConfigError("is a binary file, not text", file=file, line=body.count(b"\n", 0, body.index(0)) + 1)
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", file=file, line=body.count(b"\n", 0, error.start) + 1) from None
    return text


def shown(path: Path) -> str:
    """A path as messages show it: from the working folder where it lies below that, else in full."""
    try:
        text = str(path.resolve().relative_to(Path.cwd()))
    except (OSError, RuntimeError, ValueError):  # a loop of links, NUL, or simply elsewhere
        text = str(path)
    text = text if len(text) <= PATH_CHARS_MAX else f"…{text[-PATH_CHARS_MAX:]}"
    return text if text.isprintable() else repr(text)


def subject(place: Place) -> str:
    """`agents[0].temperature: `, or nothing for the whole document."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else "." + (step if step.isprintable() else show(step))
    return f"{text.removeprefix('.')}: " if text else ""


def nearest(name: str, known: Iterable[str], closeness: float = 0.6) -> str | None:
    """The known name that `name` was probably meant to be, if one is near. closeness: 0 any, 1 the same."""
    from difflib import get_close_matches

    form, by_form = _form(name[:100]), {_form(each): each for each in known}
    found = get_close_matches(form, by_form, 1, closeness)
    begun = [each for each in by_form if form and each.startswith(form)]
    found = found or (begun if len(begun) == 1 else [])
    return by_form[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean X?)`, or the known names where none is near. For the end of a message."""
    names = sorted(known)
    near = nearest(name, names)
    if near:
        return f" (did you mean {near}?)"
    return f" (known: {', '.join(names)})" if 0 < len(names) <= 24 else ""


def _form(name: str) -> str:
    return name.casefold().replace("-", "_")


class Fault(NamedTuple):
    """One thing wrong with a value: where it stands, whom to name, what to say; `later` is what is not built yet."""

    place: Place
    subject: Place
    problem: str
    got: str = ""
    near: str = ""
    later: str = ""
    missing: bool = False

    @property
    def text(self) -> str:
        return self.problem + self.got + self.near


def faults(model: type["BaseModel"], error: "ValidationError") -> Iterator[Fault]:
    """What pydantic found wrong, in our words."""
    for found in error.errors(include_url=False):
        place: Place = tuple(found["loc"])
        owner, annotation, metadata = _field(model, place)
        kind, value = found["type"], found.get("input")
        later = _later(owner, place, value)
        if later:
            yield Fault(place, place, "", later=later)
        elif kind == "extra_forbidden":
            near = did_you_mean(str(place[-1]), owner.model_fields if owner else ())
            yield Fault(place, place[:-1], f"unknown key {show(place[-1])}", near=near)
        elif kind == "invalid_key":
            yield Fault(place, place[:-1], "a key must be text", f", not {show(value)}")
        elif kind == "missing":
            yield Fault(place, place[:-1], f"the key {place[-1]} is missing", missing=True)
        elif kind == "value_error":
            yield Fault(place, place, str(found["ctx"]["error"]))
        else:
            meant = nearest(value, choices(annotation)) if isinstance(value, str) else None
            hint = f" (did you mean {meant}?)" if meant else ""
            yield Fault(place, place, f"expected {expected(annotation, metadata)}", f", not {show(value)}", hint)


def expected(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What may stand there, in words: `a whole number of at least 1`, `none, penalty or strict`, …"""
    annotation, inner = _bare(annotation)
    metadata = [each for one in (*metadata, *inner) for each in getattr(one, "metadata", [one])]
    if named := [each for each in metadata if isinstance(each, Named)]:
        return named[0].words
    if words := choices(annotation):
        return " or ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)
    if get_origin(annotation) in (list, tuple):
        return f"a list ({expected(get_args(annotation)[0])} each)"
    return _WORDS.get(annotation, "a mapping") + _range(metadata)


_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Decimal: "a number",
    str: "text",
    Any: "anything",
}


class Named(NamedTuple):
    """Metadata of an annotated type: how to say what may stand there."""

    words: str


def choices(annotation: Any) -> list[str]:
    """The values of a Literal as they are written in a file; none for every other type."""
    annotation, _ = _bare(annotation)
    return [str(each).lower() for each in get_args(annotation)] if get_origin(annotation) is Literal else []


def _range(metadata: Sequence[Any]) -> str:
    bounds = {name: getattr(each, name) for each in metadata for name in ("ge", "gt", "le") if hasattr(each, name)}
    if "ge" in bounds and "le" in bounds:
        return f" from {bounds['ge']} to {bounds['le']}"
    return f" of at least {bounds['ge']}" if "ge" in bounds else f" above {bounds['gt']}" if "gt" in bounds else ""


def _bare(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """`X` and its metadata out of `Annotated[X, …] | None`."""
    members = [each for each in get_args(annotation) if each is not NoneType]
    if get_origin(annotation) in (Union, UnionType) and len(members) == 1:
        return _bare(members[0])
    if get_origin(annotation) is Annotated:
        bare, metadata = _bare(members[0])
        return bare, (*metadata, *annotation.__metadata__)
    return annotation, ()


def _field(model: type["BaseModel"], place: Place) -> tuple[type["BaseModel"] | None, Any, Sequence[Any]]:
    """The model that owns the last key of `place`, and what may stand there."""
    owner: type[BaseModel] | None = None
    annotation: Any = model
    metadata: Sequence[Any] = ()
    for step in place:
        bare, _ = _bare(annotation)
        owner = bare if hasattr(bare, "model_fields") else None
        if owner is None:
            annotation, metadata = (get_args(bare) or (Any,))[-1], ()
        else:
            field = owner.model_fields.get(str(step))
            annotation, metadata = (field.annotation, field.metadata) if field else (Any, ())
    return owner, annotation, metadata


def _later(owner: type["BaseModel"] | None, place: Place, value: object) -> str:
    """The name of what is not built yet, where that is what stands there. `later`: key -> values; no values: any."""
    later: Mapping[str, tuple[object, ...]] = getattr(owner, "later", {})
    values = later.get(str(place[-1])) if place else None
    if values is None or (values and value not in values):
        return ""
    name = subject(place).removesuffix(": ")
    return f"{name}: {str(value).lower()}" if values else name

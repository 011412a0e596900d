"""A model that says what a script tells it to: for tests, examples and benchmarks. Never leaves the process."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from p2engine.domain.messages import ModelReply, ModelRequest, ToolUse, Usage, tokens_estimate
from p2engine.errors import ConfigError, ModelError
from p2engine.limits import CONFIG_FILE_BYTES_MAX
from p2engine.ports import OnText

Line = str | ModelReply | Sequence[ToolUse] | BaseException
"""One reply: text, calls, a whole reply with its usage, or an error to raise."""

Script = Sequence[Line] | Callable[[ModelRequest], Line] | str | Path
"""Replies in order, a function that makes them, or a file of them (a str is a path)."""


class ScriptedModel:
    """A Model whose replies are written beforehand. `requests` holds what it was asked, in order.

    A file is JSON lines (`.jsonl`: a reply a line) or YAML (`.yml`, `.yaml`, `.json`: a list of replies). A reply is
    a text, or a mapping with `text`, `calls` (each `name`, `arguments`, `call_id`), or `error` with `retryable`,
    `retry_after_s` and `status`. Raises ConfigError for a file that cannot be read, and ModelError when more is asked
    than the script holds. Usage is an estimate that is the same every time.
    """

    def __init__(self, script: Script) -> None:
        self.requests: list[ModelRequest] = []
        self._line: Callable[[ModelRequest], Line | _Written]
        if isinstance(script, str | Path):
            self._line = _one_after_another(read_script(Path(script)))
        elif callable(script):
            self._line = script
        else:
            self._line = _one_after_another(script)
        self._tokens = _Tokens()

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReply:
        """The next reply of the script. Raises what the script says, and ModelError at its end."""
        self.requests.append(request)
        line = self._line(request)
        meant = line.meant() if isinstance(line, _Written) else line
        if isinstance(meant, BaseException):
            raise meant
        reply = meant if isinstance(meant, ModelReply) else self._counted(request, meant)
        if on_text is not None and reply.text:
            on_text(reply.text)
        return reply

    def _counted(self, request: ModelRequest, line: "str | Sequence[ToolUse] | _Reply") -> ModelReply:
        if isinstance(line, _Reply):
            text, calls = line.text, line.calls
        else:
            text, calls = (line, ()) if isinstance(line, str) else ("", tuple(line))
        said = text + "".join(call.name + str(call.arguments) for call in calls)
        usage = Usage(
            model=f"scripted/{request.model.rpartition('/')[2]}",
            tokens_in=self._tokens.of(request),
            tokens_out=tokens_estimate(said),
            offline=True,
        )
        return ModelReply(text=text, calls=calls, usage=usage)


class _Reply(msgspec.Struct, frozen=True):
    text: str
    calls: tuple[ToolUse, ...]


class _Call(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    arguments: dict[str, Any] = {}
    call_id: str = ""


class _Written(msgspec.Struct, forbid_unknown_fields=True):
    """A reply as a file has it."""

    text: str = ""
    calls: list[_Call] = []
    error: str = ""
    retryable: bool = False
    retry_after_s: float | None = None
    status: int | None = None

    def meant(self) -> "_Reply | ModelError":
        if self.error:
            return ModelError(
                self.error, retryable=self.retryable, retry_after_s=self.retry_after_s, status=self.status
            )
        return _Reply(self.text, tuple(ToolUse(call.call_id, call.name, call.arguments) for call in self.calls))


def _one_after_another(lines: "Sequence[Line | _Written]") -> "Callable[[ModelRequest], Line | _Written]":
    left = iter(lines)

    def line(_: ModelRequest) -> "Line | _Written":
        following = next(left, None)
        return ModelError(f"the script of {len(lines)} replies is exhausted") if following is None else following

    return line


class _Tokens:
    """Counts the tokens of a prompt. A prompt that goes on from an earlier one costs only what is new."""

    def __init__(self) -> None:
        self._sizes: dict[bytes, int] = {}  # bytes up to and including the fragment of this digest

    def of(self, request: ModelRequest) -> int:
        fragments = request.fragments
        size = 0
        for fragment in reversed(fragments):
            known = self._sizes.get(fragment.digest)
            if known is not None:
                size += known
                break
            size += len(fragment.wire)
        if fragments:
            self._sizes[fragments[-1].digest] = size
        return max(1, (size + len(request.instructions.encode())) // 4)


def read_script(path: Path) -> "list[str | _Written]":
    """The replies in a file. Raises ConfigError, with file and line."""
    return [_line(path, number, row) for number, row in read_rows(path)]


def read_rows(path: Path) -> list[tuple[int, Any]]:
    """What a script file lists, each with its line (1-based). Raises ConfigError, with file and line."""
    try:
        body = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the script cannot be read: {error.strerror}", file=str(path)) from error
    if len(body) > CONFIG_FILE_BYTES_MAX:
        raise ConfigError(f"the script is larger than {CONFIG_FILE_BYTES_MAX} bytes", file=str(path))
    rows = _json_lines(path, body) if path.suffix == ".jsonl" else _yaml_list(path, body)
    return [(number, _plain(row)) for number, row in rows]


def _json_lines(path: Path, body: bytes) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(body.splitlines(), start=1):
        if line.strip():
            try:
                yield number, msgspec.json.decode(line)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"no JSON: {error}", file=str(path), line=number) from error


def _yaml_list(path: Path, body: bytes) -> Iterator[tuple[int, Any]]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        found = YAML(typ="rt").load(body)
    except (YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or error
        raise ConfigError(f"no YAML: {what}", file=str(path), line=mark.line + 1 if mark else None) from error
    if not isinstance(found, list):
        raise ConfigError("a script is a list of replies", file=str(path), line=1)
    for index, row in enumerate(found):
        yield found.lc.item(index)[0] + 1, row  # type: ignore[attr-defined]


def _line(path: Path, number: int, row: Any) -> "str | _Written":
    if isinstance(row, str):
        return row
    try:
        return msgspec.convert(row, _Written)
    except msgspec.ValidationError as error:
        raise ConfigError(f"no reply: {error}", file=str(path), line=number) from error


def _plain(value: Any) -> Any:
    """The same as plain dicts and lists: a YAML mapping remembers its comments."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, str) else value

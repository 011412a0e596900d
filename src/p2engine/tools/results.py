"""What a function returned, as text for a model. Knows values and their bounds; runs nothing."""

import json
import math
from decimal import Decimal
from pathlib import PurePath
from typing import Any

import msgspec
from pydantic import BaseModel

from p2engine.domain.decisions import ToolOutcome
from p2engine.errors import EffectError, P2EngineError, StoreBusy, StoreError, ToolError
from p2engine.limits import TOOL_RESULT_BYTES_MAX

_BYTES = (bytes, bytearray, memoryview)
_FAILED = {"error", "failed"}
_MARKER_BYTES = 96  # room for the words that say how much was cut
_ERROR_CHARS = 500  # of an error that was not written for a model


def shape(result: Any) -> ToolOutcome:
    """Text stays as it is, anything else becomes JSON; an object whose `status` says so is a failure.

    Raises ToolError for what JSON cannot show: bytes, functions, open files.
    """
    if isinstance(result, str):
        return ToolOutcome(content=result)
    value, text = as_json(result)
    if not isinstance(value, dict):
        return ToolOutcome(content=text)
    return ToolOutcome(status="error" if has_failed(value) else "ok", content=text, reward=_reward(value.get("reward")))


def has_failed(value: Any) -> bool:
    """Whether a result reports its own failure: an object with `status` `error` or `failed`."""
    status = value.get("status") if isinstance(value, dict) else None
    return isinstance(status, str) and status.lower() in _FAILED


def as_json(value: Any) -> tuple[Any, str]:
    """A value as plain lists, objects and scalars, and as JSON text. Raises ToolError where there is no such form."""
    try:
        plain = msgspec.to_builtins(value, builtin_types=_BYTES, str_keys=True, enc_hook=_open_up)
        return plain, json.dumps(plain, ensure_ascii=False, default=_refuse)
    except (TypeError, ValueError, RecursionError) as error:
        raise ToolError(f"its result cannot be shown as JSON: {error}") from error


def bounded(text: str) -> str:
    """The text if it is no longer than a model may be shown, else its beginning and how many bytes were cut."""
    if len(text) <= TOOL_RESULT_BYTES_MAX and text.isascii():
        return text
    # A lone surrogate is no UTF-8: left in, it could never be written to the log.
    body = text.encode("utf-8", "replace")
    if len(body) <= TOOL_RESULT_BYTES_MAX:
        return body.decode()
    head = body[: TOOL_RESULT_BYTES_MAX - _MARKER_BYTES].decode("utf-8", "ignore")
    return f"{head}\n[cut here: {len(body) - len(head.encode())} of {len(body)} bytes left out]"


def describe(error: BaseException) -> str:
    """An error for a model: whole where it was written for one, else its type and first line."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, EffectError):
        return str(error)
    if isinstance(error, StoreError):  # it names files and servers, which are for whoever runs this
        what = "is busy: try again later" if isinstance(error, StoreBusy) else "cannot be used now; the log says why"
        return f"the store or the ledger {what}"
    if isinstance(error, P2EngineError):
        return f"{error}; {error.hint}" if error.hint else str(error)
    line = next(iter(str(error).splitlines()), "")
    if len(line) > _ERROR_CHARS:
        line = line[:_ERROR_CHARS] + " …"
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _reward(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _open_up(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, PurePath):
        return str(value)
    return _refuse(value)


def _refuse(value: Any) -> Any:
    mend = "save bytes as an artifact" if isinstance(value, _BYTES) else "return text, numbers, lists and objects"
    raise TypeError(f"{type(value).__name__} has no JSON form ({mend})")

"""What agents and tools hand back, made plain before the machine reads it: what could not be kept never gets that far.

They are code of others: a wrong type, an integer beyond 64 bits or half a character would else stop the turn for good,
or write a row that nobody can read again. Knows values; runs nothing.
"""

from typing import Any

import msgspec

from p2engine.domain.decisions import AskUser, Decision, Delegate, Failure, Finish, Say, ToolOutcome, UseTool
from p2engine.domain.messages import Usage
from p2engine.limits import REPLY_BYTES_MAX

TOOL_EVENTS = "tool."  # how the kinds of a tool's own events begin: what the ledger or a stack tells, no tool can tell

_MOVES = frozenset({Say, UseTool, Delegate, AskUser, Finish})
_UNFIT = (TypeError, ValueError, OverflowError, RecursionError, msgspec.ValidationError)
_pack = msgspec.msgpack.Encoder().encode


def plain_decision(answer: object) -> Decision | Failure:
    """The answer of an agent as plain values; a Failure that says why where it has no such form."""
    if isinstance(answer, Failure):
        return Failure(plain_text(str(answer.detail)), _usage(answer.usage))
    if not isinstance(answer, Decision):
        return Failure(f"the agent answered {type(answer).__name__}, not a Decision")
    try:
        plain = _plain(answer, REPLY_BYTES_MAX)
        moves = tuple(msgspec.convert(a, _kind(b)) for a, b in zip(plain["moves"], answer.moves, strict=True))
        return Decision(moves, None if plain["usage"] is None else msgspec.convert(plain["usage"], Usage))
    except _UNFIT as error:
        return Failure(plain_text(f"the agent's answer cannot be kept: {error}"), _usage(answer.usage))


def plain_result(outcome: object) -> ToolOutcome:
    """What a tool came to as plain values; an error that says why where it has no such form."""
    try:
        return _own(msgspec.convert(_plain(outcome), ToolOutcome))
    except _UNFIT as error:
        why = plain_text(f"the tool has run, but its result cannot be kept: {error}")
        return ToolOutcome(status="error", content=why)


def plain_text(text: str) -> str:
    """`text` with half characters (lone surrogates), which UTF-8 cannot hold, as question marks."""
    return text.encode("utf-8", "replace").decode()


def _own(outcome: ToolOutcome) -> ToolOutcome:
    """`outcome`, if its events are a tool's own. Raises ValueError."""
    for kind, _ in outcome.events:
        if not kind.startswith(TOOL_EVENTS):
            raise ValueError(f"its event {kind!r} must begin with {TOOL_EVENTS!r}")
    return outcome


def _usage(usage: object) -> Usage | None:
    try:
        return msgspec.convert(_plain(usage), Usage | None)
    except _UNFIT:
        return None


def _kind(move: object) -> type[Any]:
    if type(move) not in _MOVES:
        raise TypeError(f"{type(move).__name__} is no move of an agent")
    return type(move)


def _plain(value: object, bytes_max: int | None = None) -> Any:
    """Lists, objects and scalars that JSON and msgpack can both hold."""
    plain = msgspec.to_builtins(value, str_keys=True)
    try:
        packed = _pack(plain)
    except UnicodeEncodeError:
        plain = _mended(plain)
        packed = _pack(plain)
    if bytes_max is not None and len(packed) > bytes_max:
        raise ValueError(f"it has {len(packed)} bytes, more than {bytes_max}")
    return plain


def _mended(plain: Any) -> Any:
    match plain:
        case str():
            return plain_text(plain)
        case dict():
            return {plain_text(key): _mended(value) for key, value in plain.items()}
        case list() | tuple():
            return [_mended(value) for value in plain]
        case _:
            return plain

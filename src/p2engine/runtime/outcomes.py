"""What agents and tools hand back, made plain before the machine reads it: what could not be kept never gets that far.

They are code of others: a wrong type, an integer beyond 64 bits or half a character would else stop the turn for good,
or write a row that nobody can read again. Knows values; runs nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from p2engine.domain.decisions import AskUser, Decision, Delegate, Failure, Finish, Move, Say, ToolOutcome, UseTool
from p2engine.domain.messages import Usage
from p2engine.limits import REPLY_BYTES_MAX

T = TypeVar("T")

TOOL_EVENTS = "tool."  # how the kinds of a tool's own events begin: what the ledger or a stack tells, no tool can tell

_MOVES = frozenset({Say, UseTool, Delegate, AskUser, Finish})
_SCALARS = frozenset({str, int, float, bool, type(None)})
_TEXT = frozenset({str})
_UNFIT = (TypeError, ValueError, OverflowError, RecursionError, msgspec.ValidationError)
_pack = msgspec.msgpack.Encoder().encode
_unpack: Mapping[type[Any], Callable[[bytes], Any]] = {
    kind: msgspec.msgpack.Decoder(kind).decode for kind in (*_MOVES, Usage, ToolOutcome)
}


def plain_decision(answer: object) -> Decision | Failure:
    """The answer of an agent as plain values; a Failure that says why where it has no such form."""
    if isinstance(answer, Failure):
        return Failure(plain_text(str(answer.detail)), _usage(answer.usage))
    if not isinstance(answer, Decision):
        return Failure(f"the agent answered {type(answer).__name__}, not a Decision")
    try:
        return Decision(_moves(answer.moves), None if answer.usage is None else _plain(answer.usage, Usage)[0])
    except _UNFIT as error:
        return Failure(plain_text(f"the agent's answer cannot be kept: {error}"), _usage(answer.usage))


def plain_result(outcome: object) -> ToolOutcome:
    """What a tool came to as plain values; an error that says why where it has no such form."""
    try:
        return _own(_plain(outcome, ToolOutcome)[0])
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


def _moves(given: object) -> tuple[Move, ...]:
    if not isinstance(given, tuple | list):
        raise TypeError(f"its moves are {type(given).__name__}, not a tuple")
    moves: list[Move] = []
    left = REPLY_BYTES_MAX
    for one in given:
        move, bytes_n = _plain(one, _kind(one))
        moves.append(move)
        left -= bytes_n
    if left < 0:
        raise ValueError(f"it has {REPLY_BYTES_MAX - left} bytes, more than {REPLY_BYTES_MAX}")
    return tuple(moves)


def _kind(move: object) -> type[Any]:
    if type(move) not in _MOVES:
        raise TypeError(f"{type(move).__name__} is no move of an agent")
    return type(move)


def _usage(usage: object) -> Usage | None:
    try:
        return None if usage is None else _plain(usage, Usage)[0]
    except _UNFIT:
        return None


def _plain(value: object, kind: type[T]) -> tuple[T, int]:
    """What `value` is once it was written and read as `kind`, so that it shares nothing with its giver; and its bytes.

    Lists, objects and scalars that JSON and msgpack can both hold. Raises one of _UNFIT where there is no such form.
    """
    plain = value if _is_closed(value) else msgspec.to_builtins(value, str_keys=True)
    try:
        packed = _pack(plain)
    except UnicodeEncodeError:
        packed = _pack(_mended(msgspec.to_builtins(plain, str_keys=True)))
    return _unpack[kind](packed), len(packed)


def _is_closed(value: object) -> bool:
    """Whether every part of it is of a kind that reading it back checks, as are all but arguments and events."""
    if type(value) is UseTool:
        given = value.arguments
        return (
            type(given) is dict
            and _TEXT.issuperset(map(type, given))
            and _SCALARS.issuperset(map(type, given.values()))
        )
    return type(value) is not ToolOutcome or not value.events


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

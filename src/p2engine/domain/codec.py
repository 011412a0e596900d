"""Bytes <-> commits, effects and facts: msgpack, framed as `[version, body]`, with upcasts for older versions.

The frame keeps the version readable whatever becomes of the body. Knows nothing of where the bytes are kept.
"""

from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from p2engine.domain.effects import AnyEffect
from p2engine.domain.records import Commit, Fact
from p2engine.errors import CorruptEntry, NewerFormat, UsageError

CODEC = 1  # raise when a body changes in a way that a default cannot cover, and add an upcast from the version before

T = TypeVar("T")
Raise = Callable[[Any], Any]
"""Takes the plain values (lists, dicts, numbers, text) of one version and returns those of the next."""


def _same(body: Any) -> Any:
    return body


class Upcast(NamedTuple):
    """How bodies of one version become those of the next. A commit is a list, an effect and a fact are dicts."""

    commit: Raise = _same
    effect: Raise = _same
    fact: Raise = _same


UPCASTS: Mapping[int, Upcast] = {}
"""By the version that was written; from each, to the one after it."""


class _Frame(msgspec.Struct, Generic[T], frozen=True, array_like=True):
    version: int
    body: T


_encode = msgspec.msgpack.Encoder().encode
_decode_plain = msgspec.msgpack.Decoder(_Frame[Any]).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Format(Generic[T]):
    """One kind of body: its type, its decoder, and which of an Upcast's functions is its own."""

    def __init__(self, kind: Any, upcast: Callable[[Upcast], Raise]) -> None:
        self._kind = kind
        self._upcast = upcast
        self._decode = msgspec.msgpack.Decoder(_Frame[kind]).decode

    def decode(self, raw: bytes, where: object, codec: int, upcasts: Mapping[int, Upcast]) -> T:
        try:
            frame = self._decode(raw)
            if frame.version == codec:
                body: T = frame.body
                return body
        except _UNREADABLE as error:
            return self._decode_other(raw, where, codec, upcasts, error)
        return self._decode_other(raw, where, codec, upcasts, None)

    def _decode_other(
        self, raw: bytes, where: object, codec: int, upcasts: Mapping[int, Upcast], error: Exception | None
    ) -> T:
        """A body of another version, or one that is none: `error` says why."""
        try:
            frame = _decode_plain(raw)
        except _UNREADABLE as wrong:
            raise _corrupt(where, wrong) from wrong
        version, plain = frame.version, frame.body
        if version > codec:
            raise NewerFormat(
                f"{where} was written by a later version of P2Engine (format {version}; this one reads up to {codec})",
                hint="update P2Engine",
            )
        if version == codec:
            raise _corrupt(where, error) from error
        if any(older not in upcasts for older in range(version, codec)):
            raise _corrupt(where, f"nothing leads from format {version} to {codec}")
        try:
            for older in range(version, codec):
                plain = self._upcast(upcasts[older])(plain)
            body: T = msgspec.convert(plain, self._kind)
        except (msgspec.ValidationError, LookupError, TypeError, ValueError, AttributeError) as wrong:
            raise _corrupt(where, wrong) from wrong
        return body


_COMMITS: _Format[Commit] = _Format(Commit, lambda upcast: upcast.commit)
_EFFECTS: _Format[AnyEffect] = _Format(AnyEffect, lambda upcast: upcast.effect)
_FACTS: _Format[Fact] = _Format(Fact, lambda upcast: upcast.fact)


def encode(body: Commit | Fact | AnyEffect) -> bytes:
    """One body in its frame. Raises UsageError for what msgpack cannot hold.

    That is: integers beyond 64 bits, text with lone surrogates, values that nest too deep or are no plain data.
    """
    try:
        return _encode(_Frame(CODEC, body))
    except (OverflowError, UnicodeEncodeError, RecursionError, TypeError) as error:
        raise UsageError(f"this cannot be stored: {error}") from error


def decode_commit(raw: bytes, where: object, *, codec: int = CODEC, upcasts: Mapping[int, Upcast] = UPCASTS) -> Commit:
    """Raises NewerFormat and CorruptEntry; their messages begin with `where`."""
    return _COMMITS.decode(raw, where, codec, upcasts)


def decode_effect(
    raw: bytes, where: object, *, codec: int = CODEC, upcasts: Mapping[int, Upcast] = UPCASTS
) -> AnyEffect:
    """Raises NewerFormat and CorruptEntry; their messages begin with `where`."""
    return _EFFECTS.decode(raw, where, codec, upcasts)


def decode_fact(raw: bytes, where: object, *, codec: int = CODEC, upcasts: Mapping[int, Upcast] = UPCASTS) -> Fact:
    """Raises NewerFormat and CorruptEntry; their messages begin with `where`."""
    return _FACTS.decode(raw, where, codec, upcasts)


def _corrupt(where: object, why: object) -> CorruptEntry:
    return CorruptEntry(f"{where} cannot be read: {why}", hint="run `p2engine doctor`, and restore a copy of the store")

"""What an order does to a ledger, before it is written: records are appended to the chain, and accounts follow them.

Knows links and sums; judges nothing and writes nothing. Everything is read through it, so that an order sees those
before it. What stands already is shown by a driver's `Rows`, and what is new is the driver's to write.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, Protocol

import msgspec

from p2engine.domain.chain import START, link
from p2engine.domain.money import AccountName, BookId, Kind, Record, RecordType, kind_of_account
from p2engine.errors import StoreError
from p2engine.ledgers.keys import Keys

_RECORD = msgspec.json.Decoder(Record)
_ENCODE = msgspec.json.Encoder().encode


def read_record(seq: int, body: bytes) -> Record:
    """Raises StoreError for bytes that are no record."""
    try:
        return _RECORD.decode(body)
    except (ValueError, TypeError):
        raise StoreError(f"record {seq} of the ledger cannot be read", hint="run `p2engine ledger verify`") from None


class AccountKey(NamedTuple):
    """What tells an account from all others."""

    book: BookId
    name: AccountName
    instrument: str


account_key = lru_cache(1024)(AccountKey)  # the same few all the time, and a look costs less than to make one


class ScopeKey(NamedTuple):
    """What tells from all others that which limits are counted by."""

    book: BookId
    name: str
    instrument: str


@dataclass(slots=True)
class Row:
    """An account while it is being written. place: where a driver keeps it; 0: nowhere yet. moved: to be written.

    newest: its newest record, where a driver keeps that with it.
    """

    key: AccountKey
    balance: int = 0
    received: int = 0
    sent: int = 0
    transfers: int = 0
    owner: str = ""
    place: int = 0
    newest: int = 0
    moved: bool = False

    @property
    def name(self) -> AccountName:
        return self.key.name

    @property
    def kind(self) -> Kind:
        """By its name: what is kept beside it could have been changed."""
        return kind_of_account(self.key.name)


@dataclass(slots=True)
class Scope:
    """What all that share a limit came to."""

    spent: int = 0
    count: int = 0
    moved: bool = False


@dataclass(slots=True)
class Needs:
    """What orders look at: the accounts, orders, holds and scopes that a driver may read beforehand, all at once."""

    accounts: set[AccountKey] = field(default_factory=set)
    orders: set[str] = field(default_factory=set)
    holds: set[str] = field(default_factory=set)
    scopes: set[ScopeKey] = field(default_factory=set)


class Rows(Protocol):
    """What stands in the ledger at the head that a writing begins from."""

    def account(self, key: AccountKey) -> Row | None: ...

    def record(self, order: str) -> Record | None:
        """Raises StoreError for one that cannot be read."""
        ...

    def ended(self, hold: str) -> str | None:
        """The order that ended a hold; None while it stands."""
        ...

    def scope(self, key: ScopeKey) -> Scope: ...


class Top(NamedTuple):
    """The newest record: its number, link and time."""

    seq: int = 0
    link: bytes = START
    at: float = 0.0


class Line(NamedTuple):
    """A record as it is to be written, and the accounts it is found by."""

    record: Record
    body: bytes
    link: bytes
    seal: bytes
    payer: Row | None
    payee: Row | None


class Writing:
    """Takes what is to be written. A driver writes it all or nothing, and only where `top` is the top still."""

    def __init__(self, rows: Rows, top: Top, keys: Keys, now: float, salt: Callable[[], str]) -> None:
        self._stand = rows
        self._keys = keys
        self._salt = salt
        self.top = top
        self.seq = top.seq
        self.link = top.link
        self.at = max(now, top.at)  # a clock that goes back does not take the ledger with it
        self.lines: list[Line] = []
        self.moved: list[Row] = []  # the accounts that are other than they stood
        self.holds: list[Record] = []
        self.ends: dict[str, str] = {}
        self._rows: dict[AccountKey, Row | None] = {}
        self._scopes: dict[ScopeKey, Scope] = {}
        self._records: dict[str, Record] = {}

    # Reading

    def row(self, book: BookId, name: AccountName, instrument: str) -> Row | None:
        key = account_key(book, name, instrument)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = self._stand.account(key)
        return row

    def record(self, order: str) -> Record | None:
        """What was written for an order. Raises StoreError for one that cannot be read."""
        return self._records.get(order) or self._stand.record(order)

    def ended(self, hold: str) -> str | None:
        """The order that ended a hold; None while it stands."""
        return self.ends.get(hold) or (None if hold in self._records else self._stand.ended(hold))

    def scope(self, book: BookId, name: str, instrument: str) -> Scope:
        key = ScopeKey(book, name, instrument)
        if key not in self._scopes:
            self._scopes[key] = self._stand.scope(key)
        return self._scopes[key]

    # Writing

    def make_row(self, book: BookId, name: AccountName, instrument: str, owner: str = "") -> Row:
        """A new account, with nothing in it. It is written once something moves there."""
        key = AccountKey(book, name, instrument)
        row = self._rows[key] = Row(key, owner=owner)
        return row

    def append(self, record: Record, units: int, payer: Row | None, payee: Row | None) -> Record:
        """Put a record at the end, and move `units` if it moves any. Its seq, salt, time and `left` are given here."""
        seq, left, moves = self.seq + 1, "", record.moves
        if moves:
            assert payer is not None
            left = str(payer.balance - units)
        whole = msgspec.structs.replace(record, seq=seq, salt=self._salt(), at=self.at, left=left)
        body = _ENCODE(whole)  # before anything moves: what cannot be written changes nothing
        self.seq, self.link = seq, link(self.link, body)
        if moves:
            assert payer is not None
            assert payee is not None
            self._move(record.type, units, payer, payee)
            for name in record.scopes:
                scope = self.scope(record.book, name, record.instrument)
                scope.spent += units
                scope.count += 1
                scope.moved = True
        self.lines.append(Line(whole, body, self.link, self._keys.seal(self.link), payer, payee))
        self._records[whole.id] = whole
        if whole.type == "hold":
            self.holds.append(whole)
        elif whole.hold:
            self.ends[whole.hold] = whole.id
        return whole

    def _move(self, kind: RecordType, units: int, payer: Row, payee: Row) -> None:
        payer.balance -= units
        payee.balance += units
        if kind == "transfer":
            payer.sent += units
            payer.transfers += 1
            payee.received += units
            payee.transfers += 1
        for row in (payer, payee):
            if not row.moved:
                row.moved = True
                self.moved.append(row)

    @property
    def counted(self) -> list[tuple[ScopeKey, Scope]]:
        """The scopes that are other than they stood."""
        return [(key, scope) for key, scope in self._scopes.items() if scope.moved]

"""How a ledger lies in Redis: the names of its keys, its head, and the rows that orders look at. Writes nothing.

`PREFIX:ledger:` and then: `meta` schema and public key · `head` the newest record and the tree over all, sealed ·
`records` a stream, each record at its number · `ids` order -> number · `book:BOOK` accounts · `books` their names ·
`of:BOOK NAME` a stream of the numbers of an account's records · `scopes` · `holds` · `checkpoints` a stream.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from p2engine.domain.chain import Peaks
from p2engine.domain.money import AccountName, BookId, Checkpoint, Record
from p2engine.errors import StoreError
from p2engine.ledgers.keys import Keys
from p2engine.ledgers.writing import AccountKey, Needs, Row, Scope, ScopeKey, Top, read_record

HINT: Final = "run `p2engine ledger verify`, and restore the data that belongs here"
NUL: Final = b"\0"


def text(words: str) -> bytes:
    """As it stands in keys and fields. What cannot be written is found nowhere, and breaks nothing."""
    return words.encode("utf-8", "surrogatepass")


def _words(text: bytes) -> str:
    """What `text` wrote; of what somebody else put there, as much as can be read."""
    try:
        return text.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return text.decode(errors="replace")


class Names:
    """The keys of one ledger. No book, account or instrument has a NUL in its name."""

    def __init__(self, prefix: str) -> None:
        self.base = f"{prefix}:ledger"

    def key(self, kind: str) -> str:
        return f"{self.base}:{kind}"

    def book(self, book: str) -> bytes:
        return text(f"{self.base}:book:{book}")

    def of(self, book: str, name: str) -> bytes:
        return text(f"{self.base}:of:{book}\0{name}")


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The newest record, and the peaks of the tree over all. raw: as it lies in Redis; empty where none does."""

    top: Top = Top()
    peaks: bytes = b""
    raw: bytes = b""

    @property
    def tree(self) -> Peaks:
        return Peaks.from_bytes(self.top.seq, self.peaks)


def read_head(raw: bytes | None, keys: Keys | None) -> Head:
    """Raises StoreError for one that the key did not seal: nothing is built on what somebody else put there."""
    if not raw:
        return Head()
    try:
        body, seal = msgspec.msgpack.decode(raw, type=tuple[bytes, bytes])
        seq, link, at, peaks = msgspec.msgpack.decode(body, type=tuple[int, bytes, float, bytes])
    except (ValueError, TypeError):
        raise StoreError("the head of the ledger cannot be read", hint=HINT) from None
    if keys is not None and keys.seal(body) != seal:
        raise StoreError("the head of the ledger was not written by the holder of its key", hint=HINT)
    return Head(Top(seq, link, at), peaks, raw)


def make_head(top: Top, peaks: Peaks, keys: Keys) -> Head:
    packed = bytes(peaks)
    body = msgspec.msgpack.encode((*top, packed))  # longer than a link, so no seal of one is ever that of the other
    return Head(top, packed, msgspec.msgpack.encode((body, keys.seal(body))))


def field_of(key: AccountKey) -> bytes:
    return text(f"{key.name}\0{key.instrument}")


def key_of(book: str, name: bytes) -> AccountKey:
    """Of the account in a field of a book."""
    words, _, instrument = _words(name).rpartition("\0")
    return AccountKey(BookId(book), AccountName(words), instrument)


def write_row(row: Row) -> bytes:
    return text(f"{row.balance} {row.received} {row.sent} {row.transfers} {row.owner}")


def read_row(key: AccountKey, value: bytes) -> Row:
    """Raises StoreError."""
    try:
        balance, received, sent, transfers, owner = value.decode().split(" ", 4)
        return Row(key, int(balance), int(received), int(sent), int(transfers), owner, place=1)
    except (ValueError, TypeError):
        raise StoreError(f"the account {key.name} of the ledger was changed", hint=HINT) from None


def scope_field(key: ScopeKey) -> bytes:
    return text("\0".join(key))


def scope_key(name: bytes) -> ScopeKey:
    book, _, rest = _words(name).partition("\0")
    scope, _, instrument = rest.rpartition("\0")
    return ScopeKey(BookId(book), scope, instrument)


def write_scope(scope: Scope) -> bytes:
    return f"{scope.spent} {scope.count}".encode()


def read_scope(key: ScopeKey, value: bytes) -> Scope:
    """Raises StoreError."""
    try:
        spent, count = map(int, value.split())
    except ValueError:
        raise StoreError(f"what the ledger keeps of {key.name} was changed", hint=HINT) from None
    return Scope(spent, count)


def number(entry: bytes) -> int:
    """Of an entry of a stream, whose ids are `NUMBER-0`."""
    return int(entry.partition(b"-")[0])


def read_checkpoint(entry: bytes, fields: Mapping[bytes, bytes], public: str) -> Checkpoint:
    """Whatever stands there: one that was changed is not signed."""
    root, at, signature = (fields.get(name, b"").decode(errors="replace") for name in (b"root", b"at", b"signature"))
    try:
        moment = float(at)
    except ValueError:
        moment = 0.0
    return Checkpoint(ledger=public, count=number(entry), root=root, at=moment, signature=signature)


def _seq(order: str, found: bytes) -> int:
    if not found.isdigit():
        raise StoreError(f"where the record of {order!r} is was changed in the ledger", hint=HINT)
    return int(found)


class Unread(Exception):
    """An order looks at what was not read."""

    def __init__(self, needs: Needs) -> None:
        super().__init__()
        self.needs = needs


@dataclass(slots=True)
class Fetched:
    """Implements `writing.Rows` from what was read beforehand. Each look makes a row of its own."""

    accounts: dict[AccountKey, bytes | None] = field(default_factory=dict)
    orders: dict[str, tuple[int, bytes] | None] = field(default_factory=dict)
    holds: dict[str, bytes | None] = field(default_factory=dict)
    scopes: dict[ScopeKey, bytes | None] = field(default_factory=dict)

    def account(self, key: AccountKey) -> Row | None:
        if key not in self.accounts:
            raise Unread(Needs(accounts={key}))
        value = self.accounts[key]
        return None if value is None else read_row(key, value)

    def record(self, order: str) -> Record | None:
        if order not in self.orders:
            raise Unread(Needs(orders={order}))
        found = self.orders[order]
        if found is None:
            return None
        record = read_record(*found)
        if record.id != order:
            raise StoreError(f"record {found[0]} of the ledger is not the one of {order!r}", hint=HINT)
        return record

    def ended(self, hold: str) -> str | None:
        if hold not in self.holds:
            raise Unread(Needs(holds={hold}))
        value = self.holds[hold]
        return value.decode() if value else None

    def scope(self, key: ScopeKey) -> Scope:
        if key not in self.scopes:
            raise Unread(Needs(scopes={key}))
        value = self.scopes[key]
        return Scope() if value is None else read_scope(key, value)


class Look:
    """Reads rows, all that are asked for in one round trip, and in one more the records of orders that are known."""

    def __init__(self, client: Any, names: Names) -> None:
        self._client = client
        self._names = names

    async def head(self, needs: Needs, into: Fetched) -> bytes | None:
        """The head as it lies there, read before the rows: they are of that head, or of a later one."""
        names, pipeline = self._names, self._client.pipeline(transaction=False)
        books: dict[BookId, list[AccountKey]] = {}
        for key in needs.accounts:
            books.setdefault(key.book, []).append(key)
        numbers: dict[str, bytes | None] = {}
        orders, holds, scopes = list(needs.orders), list(needs.holds), list(needs.scopes)
        wanted: list[tuple[Any, list[bytes], dict[Any, bytes | None], list[Any]]] = [
            *((names.book(book), [field_of(key) for key in keys], into.accounts, keys) for book, keys in books.items()),
            (names.key("ids"), [text(order) for order in orders], numbers, orders),
            (names.key("holds"), [text(hold) for hold in holds], into.holds, holds),
            (names.key("scopes"), [scope_field(key) for key in scopes], into.scopes, scopes),
        ]
        wanted = [each for each in wanted if each[1]]
        pipeline.get(names.key("head"))
        for place, fields, _, _ in wanted:
            pipeline.hmget(place, fields)
        head, *answers = await pipeline.execute()
        for (_, _, found, words), values in zip(wanted, answers, strict=True):
            found.update(zip(words, values, strict=True))
        await self._records(numbers, into)
        raw: bytes | None = head
        return raw

    async def _records(self, numbers: Mapping[str, bytes | None], into: Fetched) -> None:
        known = {order: _seq(order, found) for order, found in numbers.items() if found is not None}
        into.orders.update(dict.fromkeys(numbers))
        into.orders.update(zip(known, await self.bodies(known.values()), strict=True))

    async def bodies(self, seqs: Iterable[int]) -> list[tuple[int, bytes]]:
        """Records by their numbers. Raises StoreError for one that is not there."""
        pipeline, records, asked = self._client.pipeline(transaction=False), self._names.key("records"), list(seqs)
        if not asked:
            return []
        for seq in asked:
            pipeline.xrange(records, f"{seq}-0", f"{seq}-0")
        found = []
        for seq, entries in zip(asked, await pipeline.execute(), strict=True):
            if not entries or b"body" not in entries[0][1]:
                raise StoreError(f"record {seq} of the ledger is missing", hint=HINT)
            found.append((seq, entries[0][1][b"body"]))
        return found

"""What a ledger in Redis tells: accounts and records. Knows keys; writes nothing."""

from typing import Any, Final

from p2engine.domain.money import Account, AccountName, Amount, BookId, Checkpoint, Record, RecordQuery
from p2engine.ledgers.redis_rows import (
    Fetched,
    Look,
    Names,
    field_of,
    key_of,
    number,
    read_checkpoint,
    read_row,
    text,
)
from p2engine.ledgers.writing import AccountKey, Needs, Row, read_record
from p2engine.limits import RECORDS_MAX
from p2engine.stores.redis_server import RedisServer

PAGE_RECORDS: Final = 500


class Books:
    """The accounts and records under one prefix."""

    def __init__(self, client: Any, names: Names) -> None:
        self._client = client
        self._names = names
        self._look = Look(client, names)

    async def record(self, order: str) -> Record | None:
        fetched = Fetched()
        await self._look.head(Needs(orders={order}), fetched)
        return fetched.record(order)

    async def account(self, book: BookId, name: AccountName, instrument: str) -> Account | None:
        key = AccountKey(book, name, instrument)
        value = await self._client.hget(self._names.book(book), field_of(key))
        return None if value is None else _account(read_row(key, value))

    async def accounts(self, book: BookId) -> list[Account]:
        found = await self._client.hgetall(self._names.book(book))
        rows = [read_row(key_of(book, name), value) for name, value in found.items()]
        return [_account(row) for row in sorted(rows, key=lambda row: row.key)]

    async def newest_checkpoint(self, public: str) -> Checkpoint | None:
        found = await self._client.xrevrange(self._names.key("checkpoints"), count=1)
        entry, fields = found[0] if found else (b"", {})
        return read_checkpoint(entry, fields, public) if found else None

    async def records(self, query: RecordQuery) -> list[Record]:
        """The records that match, oldest first."""
        limit = max(0, min(query.limit, RECORDS_MAX))
        found: dict[int, Record] = {}
        for key in await self._places(query):
            found |= await self._search(key, query, limit)
        ordered = [found[seq] for seq in sorted(found)]
        return ordered[max(0, len(ordered) - limit) :] if query.newest else ordered[:limit]

    async def _places(self, query: RecordQuery) -> list[bytes]:
        """The streams in which they lie: those of an account in each book, or that of all."""
        if query.account is None:
            return [text(self._names.key("records"))]
        if query.book is not None:
            return [self._names.of(query.book, query.account)]
        books = await self._client.smembers(self._names.key("books"))
        return [self._names.of(book.decode(errors="replace"), query.account) for book in books]

    async def _search(self, key: bytes, query: RecordQuery, limit: int) -> dict[int, Record]:
        """The first of them in one stream, from its newer or its older end."""
        found: dict[int, Record] = {}
        first, last = f"{query.after + 1}-0", "+"
        while len(found) < limit:
            if query.newest:
                page = await self._client.xrevrange(key, last, first, count=PAGE_RECORDS)
            else:
                page = await self._client.xrange(key, first, last, count=PAGE_RECORDS)
            for record in await self._read(page):
                if len(found) < limit and _matches(record, query):
                    found[record.seq] = record
            if len(page) < PAGE_RECORDS:
                break
            end = number(page[-1][0])
            first, last = (first, f"{end - 1}-0") if query.newest else (f"{end + 1}-0", last)
        return found

    async def _read(self, page: list[Any]) -> list[Record]:
        """The records of entries that hold them, or only their numbers."""
        if page and b"body" not in page[0][1]:
            bodies = await self._look.bodies(number(entry) for entry, _ in page)
        else:
            bodies = [(number(entry), fields.get(b"body", b"")) for entry, fields in page]
        return [read_record(*body) for body in bodies]


class PatientBooks:
    """The same, asked again while the server is away. Implements `keyless.Books`; the server is for others to close."""

    def __init__(self, server: RedisServer, names: Names) -> None:
        self._server = server
        self._books = Books(server.client, names)

    async def record(self, order: str) -> Record | None:
        return await self._server.patiently(lambda: self._books.record(order))

    async def account(self, book: BookId, name: AccountName, instrument: str) -> Account | None:
        return await self._server.patiently(lambda: self._books.account(book, name, instrument))

    async def accounts(self, book: BookId) -> list[Account]:
        return await self._server.patiently(lambda: self._books.accounts(book))

    async def records(self, query: RecordQuery) -> list[Record]:
        return await self._server.patiently(lambda: self._books.records(query))

    async def aclose(self) -> None:
        """Nothing is held."""


def _matches(record: Record, query: RecordQuery) -> bool:
    """An account's stream holds nothing but numbers, so what they stand for is looked at here."""
    return (
        (query.book is None or record.book == query.book)
        and (query.account is None or query.account in (record.payer, record.payee) or _holds(record, query.account))
        and (not query.types or record.type in query.types)
        and (query.since is None or record.at >= query.since)
    )


def _holds(record: Record, account: AccountName) -> bool:
    return record.type == "hold" and account == f"escrow:{record.instrument}"


def _account(row: Row) -> Account:
    book, name, instrument = row.key
    return Account(
        name=name,
        book=book,
        kind=row.kind,
        balance=Amount(row.balance, instrument),
        received=Amount(row.received, instrument),
        sent=Amount(row.sent, instrument),
        transfers=row.transfers,
        owner=row.owner,
    )

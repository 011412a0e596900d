"""A ledger whose key is not here: it tells what stands in it, and refuses whatever would be written or signed.

Knows what there is to read by `Books`, the same for every driver; nothing of files or servers.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn, Protocol

from p2engine.domain.money import (
    CREDIT,
    MAIN_BOOK,
    Account,
    AccountName,
    Audit,
    BookId,
    Checkpoint,
    Hold,
    Opening,
    Proof,
    Receipt,
    Record,
    RecordQuery,
    Transfer,
)
from p2engine.ledgers.keys import KeyMissing


class Books(Protocol):
    """What a ledger holds, to be read. Raises StoreError."""

    async def record(self, order: str) -> Record | None: ...

    async def account(self, book: BookId, name: AccountName, instrument: str) -> Account | None: ...

    async def accounts(self, book: BookId) -> Sequence[Account]: ...

    async def records(self, query: RecordQuery) -> Sequence[Record]: ...

    async def aclose(self) -> None: ...


class KeylessLedger:
    """Implements `ports.AuditableLedger` as far as that takes no key; else raises KeyMissing.

    public: the public key that the ledger names. missing: what whoever would write is told.
    """

    def __init__(self, books: Books, public: str, missing: KeyMissing, verify: Callable[[], Awaitable[Audit]]) -> None:
        self._books = books
        self._public = public
        self._missing = missing
        self._verify = verify

    @property
    def public_key(self) -> str:
        """In hexadecimal, as the ledger names it."""
        return self._public

    async def open_wallets(self, *openings: Opening) -> Sequence[bool]:
        return self._refuse() if openings else []

    async def transfer(self, *transfers: Transfer) -> Sequence[Receipt]:
        return self._refuse() if transfers else []

    async def hold(self, hold: Hold) -> Receipt:
        self._refuse()

    async def release(self, hold: str, *, by: AccountName, cause: str = "") -> Receipt:
        self._refuse()

    async def refund(self, hold: str, *, by: AccountName, cause: str = "") -> Receipt:
        self._refuse()

    async def receipt(self, order: str) -> Receipt | None:
        record = await self._books.record(order)
        return None if record is None else record.receipt

    async def account(self, name: AccountName, *, book: BookId = MAIN_BOOK, instrument: str = CREDIT) -> Account | None:
        return await self._books.account(book, name, instrument)

    async def accounts(self, *, book: BookId = MAIN_BOOK) -> Sequence[Account]:
        return await self._books.accounts(book)

    async def records(self, query: RecordQuery) -> Sequence[Record]:
        return await self._books.records(query)

    async def verify(self) -> Audit:
        return await self._verify()

    async def checkpoint(self) -> Checkpoint:
        self._refuse()

    async def proof(self, order: str) -> Proof:
        self._refuse()

    async def aclose(self) -> None:
        await self._books.aclose()

    def _refuse(self) -> NoReturn:
        raise KeyMissing(self._missing.message, hint=self._missing.hint)

"""Money: the ledger, and how it is looked through."""

from collections.abc import Sequence
from typing import Protocol

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


class Ledger(Protocol):
    """Moves money between accounts, each order once by its id. A refusal is a receipt, never an exception.

    An order is done once, refused for good, or `unknown`: the ledger did not answer. An unknown one is resolved by
    asking for its receipt, or by giving the same order again; it is never done twice. Nothing here shares a
    transaction with the store. Raises StoreError where the ledger cannot be used at all.
    """

    async def open_wallets(self, *openings: Opening) -> Sequence[bool]:
        """Open wallets; which of them were new. One that is open stays as it is: nothing is topped up."""
        ...

    async def transfer(self, *transfers: Transfer) -> Sequence[Receipt]:
        """Do transfers, in this order, each for itself. A repeated id is answered as the first time.

        Refused, with the reason: an id that was another order's; no amount; to oneself; from or to an account that
        does not exist; beyond a limit; more than the payer has. Only a treasury and tallies may owe. A treasury gives
        and takes its own instrument only, and a tally of spending pays that of a provider in USD, and nothing else.
        """
        ...

    async def hold(self, hold: Hold) -> Receipt:
        """Set money aside: the payer has it no more, and nobody has it yet. Refused as a transfer is."""
        ...

    async def release(self, hold: str, *, by: AccountName, cause: str = "") -> Receipt:
        """Pay what is held to its payee. Refused: not by its authority, after its time, or given back already."""
        ...

    async def refund(self, hold: str, *, by: AccountName, cause: str = "") -> Receipt:
        """Give what is held back to its payer: by its authority or its payee, and after its time by anybody."""
        ...

    async def receipt(self, order: str) -> Receipt | None:
        """What became of an order; None where the ledger never heard of it."""
        ...

    async def account(self, name: AccountName, *, book: BookId = MAIN_BOOK, instrument: str = CREDIT) -> Account | None:
        """An account as it stands now."""
        ...

    async def accounts(self, *, book: BookId = MAIN_BOOK) -> Sequence[Account]:
        """All accounts of a book, by name."""
        ...

    async def records(self, query: RecordQuery) -> Sequence[Record]:
        """What was written down, oldest first."""
        ...

    async def aclose(self) -> None: ...


class Auditable(Protocol):
    """A ledger that can show that nobody has changed what it wrote."""

    @property
    def public_key(self) -> str:
        """What its checkpoints and proofs are checked by, in hexadecimal: the name of the ledger."""
        ...

    async def verify(self) -> Audit:
        """Look through all of it. Findings name the first record that is not as it was written."""
        ...

    async def checkpoint(self) -> Checkpoint:
        """Sign what is written by now. Published, it holds the holder of the key to it."""
        ...

    async def proof(self, order: str) -> Proof:
        """That the record of this order stands in the ledger. Raises UsageError where there is none."""
        ...


class AuditableLedger(Ledger, Auditable, Protocol):
    """What a ledger driver implements, and what the engine holds."""

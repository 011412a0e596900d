"""Money and who holds it: amounts, transfers, receipts, holds, accounts, and what a ledger writes down.

Values only. An amount is a whole number of its smallest unit, so that adding and sharing never round.
"""

import re
from decimal import Decimal
from typing import Literal, NewType, Self

import msgspec

from p2engine.errors import UsageError

AccountName = NewType("AccountName", str)  # of a wallet: its agent's name; of any other: `KIND:NAME`
BookId = NewType("BookId", str)

MAIN_BOOK = BookId("main")
CREDIT = "CREDIT"  # what agents earn and spend
USD = "USD"  # what model calls really cost

PLACES = 10  # digits after the point, as on a Canton ledger
UNIT = 10**PLACES
DIGITS_MAX = 38  # all digits of an amount or a balance, as on a Canton ledger
UNITS_MAX = 10**DIGITS_MAX - 1
FLOAT_DIGITS_MAX = 15  # significant decimal digits that a float always gives back as they were written

_PLAIN = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?", re.ASCII)


class Amount(msgspec.Struct, frozen=True):
    """So many units of 10⁻¹⁰ of an instrument. Negative only as the balance of an account that may owe."""

    units: int
    instrument: str = CREDIT

    @classmethod
    def parse(cls, value: object, instrument: str = CREDIT, *, zero: bool = False) -> Self:
        """An amount as a person or a model writes it: 12, "12.50", 0.1. Raises UsageError that says what is wrong.

        Exact or refused: no exponents in text, no more than 10 places, no float that may not be what was written.
        zero: whether nothing is an amount here.
        """
        text = _written(value)
        match = _PLAIN.fullmatch(text)
        if match is None:
            raise UsageError(f"expected an amount such as 12.5, not {_short(text)}")
        sign, whole, part = match[1], match[2].lstrip("0") or "0", match[3] or ""
        if len(part) > PLACES:
            raise UsageError(f"an amount has at most {PLACES} digits after the point, not {_short(text)}")
        if len(whole) > DIGITS_MAX - PLACES:
            raise UsageError(f"an amount has at most {DIGITS_MAX - PLACES} digits before the point")
        units = int(whole) * UNIT + int(part.ljust(PLACES, "0"))
        if sign:
            raise UsageError(f"an amount is not negative: {_short(text)}")
        if not units and not zero:
            raise UsageError("an amount is more than zero")
        return cls(units, instrument)

    @classmethod
    def read(cls, text: str, instrument: str = CREDIT) -> Self:
        """An amount as `str` writes it, negative ones too. Raises UsageError."""
        match = _PLAIN.fullmatch(text)
        if match is None or len(match[3] or "") > PLACES:
            raise UsageError(f"expected an amount, not {_short(text)}")
        units = int(match[2]) * UNIT + int((match[3] or "").ljust(PLACES, "0"))
        return cls(-units if match[1] else units, instrument)

    @property
    def value(self) -> Decimal:
        """As a Decimal, exactly."""
        sign, digits = int(self.units < 0), tuple(map(int, str(abs(self.units))))
        return Decimal((sign, digits, -PLACES))

    @property
    def shown(self) -> str:
        """With its instrument: `12.5 CREDIT`."""
        return f"{self} {self.instrument}"

    def shares(self, count: int) -> tuple[Self, ...]:
        """As many equal shares, which sum up to it exactly: the first ones get a unit more where it does not divide."""
        if count < 1 or self.units < 0:
            raise UsageError("shares are of an amount, and at least one")
        each, left = divmod(self.units, count)
        return tuple(type(self)(each + (place < left), self.instrument) for place in range(count))

    def __str__(self) -> str:
        whole, part = divmod(abs(self.units), UNIT)
        digits = f"{part:0{PLACES}d}".rstrip("0") or "0"
        return f"{'-' if self.units < 0 else ''}{whole}.{digits}"

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.units + self._like(other), self.instrument)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.units - self._like(other), self.instrument)

    def __lt__(self, other: "Amount") -> bool:
        return self.units < self._like(other)

    def __le__(self, other: "Amount") -> bool:
        return self.units <= self._like(other)

    def _like(self, other: "Amount") -> int:
        if self.instrument != other.instrument:
            raise UsageError(f"{self.instrument} and {other.instrument} cannot be counted together")
        return other.units


def _written(value: object) -> str:
    """A number as text, without an exponent. Raises UsageError where it may not be the number that was meant."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise UsageError(f"expected an amount such as 12.5, not {_short(value)}")
    if isinstance(value, int):
        if abs(value) > UNITS_MAX:  # before it becomes text, which takes long for a very long one
            raise UsageError(f"an amount has at most {DIGITS_MAX - PLACES} digits before the point")
        return str(value)
    number = Decimal(repr(value)) if isinstance(value, float) else value
    if not number.is_finite():
        raise UsageError(f"expected an amount such as 12.5, not {_short(value)}")
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or abs(exponent) > DIGITS_MAX:
        raise UsageError(f"an amount has at most {PLACES} digits after the point, not {_short(value)}")
    text = f"{number:f}"
    if isinstance(value, float):
        text = text.removesuffix(".0")
        if len(text.lstrip("-0.").replace(".", "")) > FLOAT_DIGITS_MAX:
            raise UsageError(f"write {_short(value)} as text: a number with so many digits may have lost some")
    return text


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


TREASURY = "treasury:"
"""How the names of accounts begin that money comes from: one for each instrument, `treasury:CREDIT`."""
ESCROW = "escrow:"
SPEND = "spend:"
PROVIDER = "provider:"

Kind = Literal["wallet", "treasury", "escrow", "tally"]
"""What an account is. Only a treasury and a tally may owe; a tally counts what is really spent outside."""

_KINDS: dict[str, Kind] = {TREASURY: "treasury", ESCROW: "escrow", SPEND: "tally", PROVIDER: "tally"}


def kind_of_account(name: str) -> Kind:
    """What an account of that name is. Raises UsageError for a name that is none."""
    if ":" not in name:
        return "wallet"
    head, colon, tail = name.partition(":")
    kind = _KINDS.get(head + colon)
    if kind is None or not tail:
        raise UsageError(f"{_short(name)} is no account")
    return kind


def treasury(instrument: str = CREDIT) -> AccountName:
    """The account that issues an instrument: what it owes is what there is."""
    return AccountName(TREASURY + instrument)


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """What all transfers that name `scope` may come to, this one included; None: any. says: the limit in words."""

    scope: str
    says: str
    amount: Amount | None = None
    count: int | None = None


class Caps(msgspec.Struct, frozen=True, kw_only=True):
    """What agents may pay by themselves; None: no cap. per_minute: how many payments."""

    per_transfer: Amount | None = None
    per_turn: Amount | None = None
    per_day: Amount | None = None
    per_agent: Amount | None = None
    per_minute: int | None = None


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """Pay `amount` from one account to another, once by `id`. limits: judged and counted with it, all or nothing.

    cause: the event that it follows from, or who asked. wallets: refuse any payee that is no wallet. What makes two
    transfers the same is all but cause, limits and wallets.
    """

    id: str
    payer: AccountName
    payee: AccountName
    amount: Amount
    reason: str = ""
    cause: str = ""
    book: BookId = MAIN_BOOK
    limits: tuple[Limit, ...] = ()
    wallets: bool = False


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Set `amount` aside for `payee`, until `authority` releases it, or it is given back. until: Unix seconds."""

    id: str
    payer: AccountName
    payee: AccountName
    amount: Amount
    authority: AccountName
    until: float | None = None
    reason: str = ""
    cause: str = ""
    book: BookId = MAIN_BOOK
    limits: tuple[Limit, ...] = ()


Status = Literal["paid", "held", "refused", "unknown"]
Refusal = Literal["id", "amount", "self", "account", "limit", "funds", "hold", "reason"]


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a transfer or hold. A refusal says why; `left` is what the payer has after it.

    unknown: the ledger was asked and has not answered: ask for the receipt of `id` later, or ask for the same again.
    """

    id: str
    status: Status
    at: float
    amount: Amount
    payer: AccountName
    payee: AccountName
    left: Amount | None = None
    refusal: Refusal | None = None
    why: str = ""

    @property
    def is_paid(self) -> bool:
        return self.status == "paid"


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """Open a wallet with what the treasury gives it at first. owner: who answers for it."""

    name: AccountName
    initial: Amount
    owner: str = "operator"
    cause: str = "operator"
    book: BookId = MAIN_BOOK


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """An account as it stands. received, sent, transfers: by transfers; what it was opened with is in none of them."""

    name: AccountName
    book: BookId
    kind: Kind
    balance: Amount
    received: Amount
    sent: Amount
    transfers: int
    owner: str = ""


RecordType = Literal["open", "transfer", "refusal", "hold", "release", "refund"]


class Record(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A line of the ledger. seq counts all of them, from 1. amount: in decimal digits, as `Amount` writes it.

    hold: the hold that a release or refund ends. The salt and what stands after it are what a proof does not show.
    salt: so that nobody can guess that from its hash. left: the units that the payer has then; records of the first
    form have it as `amount`. scopes: the limits it counts for.
    """

    seq: int
    id: str
    type: RecordType
    book: BookId
    at: float
    payer: AccountName
    payee: AccountName
    amount: str
    instrument: str = CREDIT
    reason: str = ""
    refusal: Refusal | None = None
    why: str = ""
    owner: str = ""
    hold: str = ""
    authority: AccountName = AccountName("")
    until: float | None = None
    salt: str
    cause: str = ""
    left: str = ""
    scopes: tuple[str, ...] = ()

    @property
    def moves(self) -> bool:
        """Whether money changed hands."""
        return self.type != "refusal"

    @property
    def status(self) -> Status:
        return "refused" if self.type == "refusal" else "held" if self.type == "hold" else "paid"

    @property
    def money(self) -> Amount:
        return Amount.read(self.amount, self.instrument)

    @property
    def payer_left(self) -> Amount | None:
        """What the payer has after it, where it moved anything."""
        if not self.left:
            return None
        in_units = "." not in self.left
        return Amount(int(self.left), self.instrument) if in_units else Amount.read(self.left, self.instrument)

    @property
    def receipt(self) -> Receipt:
        """What whoever asked for it was told."""
        return Receipt(
            id=self.id,
            status=self.status,
            at=self.at,
            amount=self.money,
            payer=self.payer,
            payee=self.payee,
            left=self.payer_left,
            refusal=self.refusal,
            why=self.why,
        )


class RecordQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which records; the newest `limit` of them, oldest first. account: that paid or was paid. after: a seq."""

    book: BookId | None = MAIN_BOOK
    account: AccountName | None = None
    types: tuple[RecordType, ...] = ()
    since: float | None = None
    after: int = 0
    limit: int = 100
    newest: bool = True


What = Literal["changed", "missing", "moved", "forged", "cut", "replaced", "balance", "checkpoint", "unreadable"]


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as it was written. seq: the first record concerned, where it is one."""

    what: What
    text: str
    seq: int | None = None


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The holder of the key says: these are the first `count` records. root: of their Merkle tree, in hexadecimal."""

    ledger: str
    count: int
    root: str
    at: float
    signature: str


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What looking through all of a ledger found. sealed: whether the seals were checked too, which takes the key.

    noted: whether the newest record that was written is known from elsewhere, so that a cut tail or an older copy is
    told; where nothing was written yet, there is nothing to know.
    """

    records: int
    accounts: int
    findings: tuple[Finding, ...] = ()
    checkpoint: Checkpoint | None = None
    sealed: bool = True
    noted: bool = True

    @property
    def is_sound(self) -> bool:
        return not self.findings


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """That a record stands in a ledger, for somebody who has the public key and nothing else of it.

    body: what the record shows, byte by byte. hidden: the hash of the rest, "" where it shows all. before: the link it
    continues. path: the hashes up to the root. All in hexadecimal.
    """

    body: str
    hidden: str = ""
    before: str
    index: int
    path: tuple[str, ...]
    checkpoint: Checkpoint

"""What a ledger says to an order: done, or refused and why. Every refusal that has an id is written down.

Judges against what `Writing` shows, so an order in a batch sees those before it. The same for every driver.
"""

import math
from typing import NamedTuple, assert_never

import msgspec

from p2engine.domain.money import (
    ESCROW,
    MAIN_BOOK,
    PROVIDER,
    SPEND,
    UNITS_MAX,
    USD,
    AccountName,
    Amount,
    BookId,
    Hold,
    Limit,
    Opening,
    Receipt,
    Record,
    RecordType,
    Refusal,
    Transfer,
    kind_of_account,
    treasury,
)
from p2engine.errors import UsageError
from p2engine.ledgers.writing import AccountKey, Needs, Row, ScopeKey, Writing
from p2engine.limits import NAME_BYTES_MAX, REASON_BYTES_MAX


class Ending(NamedTuple):
    """Pay a hold to its payee, or give it back to its payer."""

    hold: str
    by: AccountName
    cause: str
    pays: bool


Order = Opening | Transfer | Hold | Ending
Answer = Receipt | bool
"""A receipt; of an opening, whether the wallet is new."""


def judge(order: Order, writing: Writing) -> Answer:
    """Do an order, or refuse it. Raises StoreError where what stands cannot be read."""
    match order:
        case Transfer():
            return transfer(order, writing)
        case Hold():
            return hold(order, writing)
        case Ending():
            return end_hold(order, writing)
        case Opening():
            return open_wallet(order, writing)
        case unreachable:
            assert_never(unreachable)


def note_needs(order: Order, needs: Needs) -> None:
    """Add what judging an order looks at, as far as the order tells."""
    match order:
        case Transfer() | Hold():
            book, instrument = order.book, order.amount.instrument
            names = [order.payer, order.payee]
            if isinstance(order, Hold):
                names.append(AccountName(ESCROW + instrument))
            needs.orders.add(order.id)
            needs.scopes.update(ScopeKey(book, limit.scope, instrument) for limit in order.limits)
        case Opening():
            book, instrument = order.book, order.initial.instrument
            names = [order.name, treasury(instrument)]
            needs.orders.add(_opening_id(order))
        case Ending():
            needs.holds.add(order.hold)
            needs.orders.update((order.hold, _ending_id(order.hold, pays=True), _ending_id(order.hold, pays=False)))
            return
        case unreachable:
            assert_never(unreachable)
    needs.accounts.update(AccountKey(book, name, instrument) for name in names)


class No(Exception):
    """The order is refused."""

    def __init__(self, refusal: Refusal, why: str) -> None:
        super().__init__(why)
        self.refusal = refusal
        self.why = why


def check_opening(opening: Opening) -> None:
    """Raises UsageError for a wallet that cannot be opened."""
    if ":" in opening.name or not _is_name(opening.name):
        raise UsageError(f"{opening.name!r} cannot be the name of a wallet")
    if not 0 <= opening.initial.units <= UNITS_MAX:
        raise UsageError("a wallet is opened with nothing or more")
    if not _is_name(opening.book) or not _is_name(opening.initial.instrument):
        raise UsageError(f"a wallet is of a book and an instrument, of at most {NAME_BYTES_MAX} bytes each")
    if not _fits(opening.owner, NAME_BYTES_MAX) or not _fits(opening.cause, REASON_BYTES_MAX):
        raise UsageError(f"the owner and the cause of a wallet are text of at most {NAME_BYTES_MAX} bytes")


def open_wallet(opening: Opening, writing: Writing) -> bool:
    """Whether it is new. The treasury gives what it is opened with."""
    book, instrument = opening.book, opening.initial.instrument
    if writing.row(book, opening.name, instrument) is not None:
        return False
    order = _opening_id(opening)
    if writing.record(order) is not None:
        raise UsageError(f"{order!r} is another order's id already, so the wallet cannot be opened")
    payee = writing.make_row(book, opening.name, instrument, opening.owner)
    payer = _own(writing, book, treasury(instrument), instrument)
    record = _record("open", order, book, payer.name, payee.name, opening.initial, cause=opening.cause)
    writing.append(msgspec.structs.replace(record, owner=opening.owner), opening.initial.units, payer, payee)
    return True


def _opening_id(opening: Opening) -> str:
    return f"open:{opening.book}:{opening.name}:{opening.initial.instrument}"


def transfer(order: Transfer, writing: Writing) -> Receipt:
    known = _known(writing, order, "transfer")
    if known is not None:
        return known
    try:
        payer, payee = _parties(order, writing)
        record = _of(order, "transfer", order.payer, order.payee)
        return _receipt(writing.append(record, order.amount.units, payer, payee), order.amount, payer)
    except No as no:
        return _refuse(order, no, writing)


def hold(order: Hold, writing: Writing) -> Receipt:
    known = _known(writing, order, "hold")
    if known is not None:
        return known
    try:
        payer, _ = _parties(order, writing)
        instrument = order.amount.instrument
        escrow = _own(writing, order.book, AccountName(ESCROW + instrument), instrument)
        record = _of(order, "hold", order.payer, order.payee)
        record = msgspec.structs.replace(record, authority=order.authority, until=order.until)
        return writing.append(record, order.amount.units, payer, escrow).receipt
    except No as no:
        return _refuse(order, no, writing)


def end_hold(order: Ending, writing: Writing) -> Receipt:
    """Release or refund a hold. Ended the same way before: the receipt of that."""
    held, by, cause, pays = order
    record = writing.record(held) if _is_name(held) else None
    if record is None or record.type != "hold":
        nobody = AccountName("")
        return _refusal(held, Amount(0), nobody, nobody, No("hold", f"no hold {held!r}"), writing.at)
    escrow_name = AccountName(ESCROW + record.instrument)
    payee_name = record.payee if pays else record.payer
    done = _ending_id(held, pays=pays)
    no: No | None
    if writing.ended(held) is not None:
        before = writing.record(done)
        if before is not None and before.hold == held:
            return before.receipt
        no = No("hold", "it was given back already" if pays else "it was paid already")
    elif writing.record(done) is not None:
        no = No("id", f"{done!r} is another order's id already")
    elif not _fits(cause, REASON_BYTES_MAX):
        no = No("reason", f"a cause is text of at most {REASON_BYTES_MAX} bytes")
    else:
        is_over = record.until is not None and writing.at >= record.until
        no = _without_right(record, by, is_over=is_over, pays=pays)
    if no is not None:
        return _refusal(held, record.money, escrow_name, payee_name, no, writing.at)
    escrow, payee = (_own(writing, record.book, name, record.instrument) for name in (escrow_name, payee_name))
    kind: RecordType = "release" if pays else "refund"
    ended = _record(kind, done, record.book, escrow_name, payee_name, record.money, record.reason, cause)
    ended = msgspec.structs.replace(ended, hold=held, authority=by)
    return writing.append(ended, record.money.units, escrow, payee).receipt


def _ending_id(held: str, *, pays: bool) -> str:
    return f"{held}/{'release' if pays else 'refund'}"


def _without_right(record: Record, by: AccountName, *, is_over: bool, pays: bool) -> No | None:
    if pays and by != record.authority:
        return No("hold", f"{by or 'nobody'} may not release it: {record.authority} may")
    if pays and is_over:
        return No("hold", "its time is over: it can only be given back")
    if not pays and not is_over and by not in (record.authority, record.payee):
        return No("hold", f"{by or 'nobody'} may not give it back before its time is over")
    if not _is_name(by):
        return No("hold", "somebody gives it back")
    return None


def _known(writing: Writing, order: Transfer | Hold, kind: RecordType) -> Receipt | None:
    """What was answered to this id before; a refusal for an id that was another order's, or is none."""
    if not _is_name(order.id):
        no = No("id", f"an order has an id, of at most {NAME_BYTES_MAX} bytes")
        return _refusal(order.id, order.amount, order.payer, order.payee, no, writing.at)
    if not (order.book == MAIN_BOOK or _is_name(order.book)) or not _is_name(order.amount.instrument):
        no = No("account", f"a book and an instrument have names, of at most {NAME_BYTES_MAX} bytes each")
        return _refusal(order.id, order.amount, order.payer, order.payee, no, writing.at)
    record = writing.record(order.id)
    if record is None:
        return None
    said = (record.payer, record.payee, record.money, record.reason, record.book)
    same = said == (order.payer, order.payee, order.amount, order.reason, order.book)
    if isinstance(order, Hold):
        same = same and (record.authority, record.until) == (order.authority, order.until)
    if same and record.type in (kind, "refusal"):
        return record.receipt
    no = No("id", f"{order.id!r} is another order's id already")
    return _refusal(order.id, order.amount, order.payer, order.payee, no, writing.at)


def _parties(order: Transfer | Hold, writing: Writing) -> tuple[Row, Row]:
    """Who pays and who is paid. Raises No."""
    amount, book = order.amount, order.book
    if amount.units <= 0:
        raise No("amount", "an amount is more than zero")
    if amount.units > UNITS_MAX:
        raise No("amount", "no amount has so many digits")
    if order.payer == order.payee:
        raise No("self", "payer and payee are the same")
    if isinstance(order, Hold):
        _check_hold(order, writing)
    payer = _party(writing, book, order.payer, amount.instrument)
    if isinstance(order, Transfer) and order.wallets and ":" in order.payee:
        raise No("account", f"{order.payee!r} is no agent: an agent pays agents")
    payee = _party(writing, book, order.payee, amount.instrument)
    if ":" in order.payer or ":" in order.payee:
        _check_kinds(payer, payee, amount.instrument)
    for limit in order.limits:
        _within(limit, order, writing)
    if payer.balance < amount.units and payer.kind not in ("treasury", "tally"):
        raise No("funds", f"{payer.name} has {Amount(payer.balance, amount.instrument).shown}, not {amount.shown}")
    if payee.balance + amount.units > UNITS_MAX:
        raise No("amount", "no balance has so many digits")
    return payer, payee


def _check_kinds(payer: Row, payee: Row, instrument: str) -> None:
    """A treasury moves its own instrument; a tally only counts what is really spent, so no money comes out of it."""
    for row in (payer, payee):
        if row.kind == "treasury" and row.name != treasury(instrument):
            raise No("account", f"{row.name} neither gives nor takes {instrument}: {treasury(instrument)} does")
    is_spend = payer.name.startswith(SPEND) and payee.name.startswith(PROVIDER) and instrument == USD
    if "tally" in (payer.kind, payee.kind) and not is_spend:
        raise No("account", f"{SPEND} and {PROVIDER} only count what is really spent, in {USD}, from one to the other")


def _check_hold(order: Hold, writing: Writing) -> None:
    if not _is_name(order.authority):
        raise No("hold", "a hold says who may release it")
    if order.until is not None and not writing.at < order.until < math.inf:
        raise No("hold", "a hold ends later than it begins")


def _party(writing: Writing, book: BookId, name: AccountName, instrument: str) -> Row:
    try:
        kind = kind_of_account(name)
    except UsageError as error:
        raise No("account", str(error)) from None
    if kind == "escrow":
        raise No("account", "what is held is paid by releasing it")
    is_name = _is_name(name) if kind == "wallet" else _is_name(name.partition(":")[2])
    row = writing.row(book, name, instrument) if is_name else None
    if row is not None:
        return row
    if kind == "wallet" or not is_name:
        what = "has no wallet" if kind == "wallet" else "is no account: its name is longer or other than an agent's"
        raise No("account", f"{name!r} {what}" if name else "nobody is named")
    return writing.make_row(book, name, instrument)


def _own(writing: Writing, book: BookId, name: AccountName, instrument: str) -> Row:
    return writing.row(book, name, instrument) or writing.make_row(book, name, instrument)


def _within(limit: Limit, order: Transfer | Hold, writing: Writing) -> None:
    if not limit.scope.isprintable() or not _fits(limit.scope, REASON_BYTES_MAX):
        raise No("limit", "a limit has no name to be counted by")
    counted = writing.scope(order.book, limit.scope, order.amount.instrument)
    if limit.amount is not None and counted.spent + order.amount.units > limit.amount.units:
        raise No("limit", f"{limit.says}; {Amount(counted.spent)} of it is spent" if counted.spent else limit.says)
    if limit.count is not None and counted.count >= limit.count:
        raise No("limit", limit.says)


def _of(order: Transfer | Hold, kind: RecordType, payer: AccountName, payee: AccountName) -> Record:
    _check_words(order)
    scopes = tuple(dict.fromkeys(limit.scope for limit in order.limits)) if order.limits else ()
    return _record(kind, order.id, order.book, payer, payee, order.amount, order.reason, order.cause, scopes)


def _record(
    kind: RecordType,
    order: str,
    book: BookId,
    payer: AccountName,
    payee: AccountName,
    amount: Amount,
    reason: str = "",
    cause: str = "",
    scopes: tuple[str, ...] = (),
) -> Record:
    return Record(
        seq=0,
        salt="",
        at=0.0,
        id=order,
        type=kind,
        book=book,
        payer=payer,
        payee=payee,
        amount=str(amount),
        instrument=amount.instrument,
        reason=reason,
        cause=cause,
        scopes=scopes,
    )


def _check_words(order: Transfer | Hold) -> None:
    if not _fits(order.reason, REASON_BYTES_MAX) or not _fits(order.cause, REASON_BYTES_MAX):
        raise No("reason", f"a reason and a cause are text of at most {REASON_BYTES_MAX} bytes each")


def _refuse(order: Transfer | Hold, no: No, writing: Writing) -> Receipt:
    """Write the refusal down, so that the same order is never anything else."""
    words = [order.payer, order.payee, order.cause, order.reason, no.why]
    if isinstance(order, Hold):
        words.append(order.authority)
    if not all(_fits(word, REASON_BYTES_MAX) for word in words):
        return _refusal(order.id, order.amount, order.payer, order.payee, no, writing.at)
    record = _record("refusal", order.id, order.book, order.payer, order.payee, order.amount, order.reason, order.cause)
    record = msgspec.structs.replace(record, refusal=no.refusal, why=no.why)
    if isinstance(order, Hold):
        record = msgspec.structs.replace(record, authority=order.authority, until=order.until)
    payer, payee = (_seen(writing, order, name) for name in (order.payer, order.payee))
    return writing.append(record, 0, payer, payee).receipt


def _seen(writing: Writing, order: Transfer | Hold, name: AccountName) -> Row | None:
    return writing.row(order.book, name, order.amount.instrument)


def _receipt(record: Record, amount: Amount, payer: Row) -> Receipt:
    """`record.receipt`, without reading its words again."""
    return Receipt(
        id=record.id,
        status="paid",
        at=record.at,
        amount=amount,
        payer=record.payer,
        payee=record.payee,
        left=Amount(payer.balance, record.instrument),
    )


def _refusal(order: str, amount: Amount, payer: AccountName, payee: AccountName, no: No, at: float) -> Receipt:
    return Receipt(
        id=order,
        status="refused",
        at=at,
        amount=amount,
        payer=payer,
        payee=payee,
        refusal=no.refusal,
        why=no.why,
    )


def _is_name(text: str) -> bool:
    if not text.isprintable():  # as a surrogate is not, so what is can be encoded
        return False
    return 0 < (len(text) if text.isascii() else len(text.encode())) <= NAME_BYTES_MAX


def _fits(text: str, bytes_max: int) -> bool:
    if text.isascii():
        return len(text) <= bytes_max
    try:
        return len(text.encode()) <= bytes_max
    except UnicodeEncodeError:
        return False

"""What the embedded ledger says to an order: done, or refused and why. Every refusal that has an id is written down.

Judges against what `Writing` shows, so an order in a batch sees those before it.
"""

import msgspec

from p2engine.domain.money import (
    ESCROW,
    UNITS_MAX,
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
from p2engine.ledgers.writing import Row, Writing
from p2engine.limits import NAME_BYTES_MAX, REASON_BYTES_MAX


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


def open_wallet(opening: Opening, writing: Writing) -> bool:
    """Whether it is new. The treasury gives what it is opened with."""
    book, instrument = opening.book, opening.initial.instrument
    if writing.row(book, opening.name, instrument) is not None:
        return False
    payee = writing.make_row(book, opening.name, instrument, opening.owner)
    payer = _own(writing, book, treasury(instrument), instrument)
    record = _record(
        "open",
        f"open:{book}:{opening.name}:{instrument}",
        book,
        payer.name,
        payee.name,
        opening.initial,
        cause=opening.cause,
    )
    writing.append(msgspec.structs.replace(record, owner=opening.owner), payer, payee)
    return True


def transfer(order: Transfer, writing: Writing) -> Receipt:
    known = _known(writing, order, "transfer")
    if known is not None:
        return known
    try:
        payer, payee = _parties(order, writing)
        record = _of(order, "transfer", order.payer, order.payee)
        return writing.append(record, payer, payee).receipt
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
        return writing.append(record, payer, escrow).receipt
    except No as no:
        return _refuse(order, no, writing)


def end_hold(held: str, by: AccountName, cause: str, writing: Writing, *, pays: bool) -> Receipt:
    """Release or refund a hold. Ended the same way before: the receipt of that."""
    record = writing.record(held)
    if record is None or record.type != "hold":
        amount, nobody = Amount(0), AccountName("")
        why = f"no hold {held!r}"
        return _refusal(held, amount, nobody, nobody, No("hold", why), writing.at)
    escrow_name = AccountName(ESCROW + record.instrument)
    payee_name = record.payee if pays else record.payer
    ended = writing.ended(held)
    if ended is not None:
        before = writing.record(ended)
        assert before is not None
        if (before.type == "release") == pays:
            return before.receipt
        no = No("hold", "it was given back already" if pays else "it was paid already")
        return _refusal(held, record.money, escrow_name, payee_name, no, writing.at)
    is_over = record.until is not None and writing.at >= record.until
    no_right = _without_right(record, by, is_over=is_over, pays=pays)
    if no_right is not None:
        return _refusal(held, record.money, escrow_name, payee_name, no_right, writing.at)
    escrow = writing.row(record.book, escrow_name, record.instrument)
    payee = writing.row(record.book, payee_name, record.instrument)
    assert escrow is not None
    assert payee is not None
    kind: RecordType = "release" if pays else "refund"
    done = _record(kind, f"{held}/{kind}", record.book, escrow_name, payee_name, record.money, record.reason, cause)
    return writing.append(msgspec.structs.replace(done, hold=held, authority=by), escrow, payee).receipt


def _without_right(record: Record, by: AccountName, *, is_over: bool, pays: bool) -> No | None:
    if pays and by != record.authority:
        return No("hold", f"{by or 'nobody'} may not release it: {record.authority} may")
    if pays and is_over:
        return No("hold", "its time is over: it can only be given back")
    if not pays and not is_over and by not in (record.authority, record.payee):
        return No("hold", f"{by or 'nobody'} may not give it back before its time is over")
    return None


def _known(writing: Writing, order: Transfer | Hold, kind: RecordType) -> Receipt | None:
    """What was answered to this id before; a refusal for an id that was another order's, or is none."""
    if not _is_name(order.id):
        no = No("id", f"an order has an id, of at most {NAME_BYTES_MAX} bytes")
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
    if isinstance(order, Hold) and order.until is not None and order.until <= writing.at:
        raise No("hold", "a hold ends later than it begins")
    payer, payee = (_party(writing, book, name, amount.instrument) for name in (order.payer, order.payee))
    for limit in order.limits:
        _within(limit, order, writing)
    if payer.kind not in ("treasury", "tally") and payer.balance < amount.units:
        raise No("funds", f"{payer.name} has {Amount(payer.balance, amount.instrument).shown}, not {amount.shown}")
    if payee.balance + amount.units > UNITS_MAX:
        raise No("amount", "no balance has so many digits")
    return payer, payee


def _party(writing: Writing, book: BookId, name: AccountName, instrument: str) -> Row:
    try:
        kind = kind_of_account(name)
    except UsageError as error:
        raise No("account", str(error)) from None
    if kind == "escrow":
        raise No("account", "what is held is paid by releasing it")
    row = writing.row(book, name, instrument)
    if row is not None:
        return row
    if kind == "wallet" or not _is_name(name):
        raise No("account", f"{name!r} has no wallet" if name else "nobody is named")
    return writing.make_row(book, name, instrument)


def _own(writing: Writing, book: BookId, name: AccountName, instrument: str) -> Row:
    return writing.row(book, name, instrument) or writing.make_row(book, name, instrument)


def _within(limit: Limit, order: Transfer | Hold, writing: Writing) -> None:
    counted = writing.scope(order.book, limit.scope, order.amount.instrument)
    if limit.amount is not None and counted.spent + order.amount.units > limit.amount.units:
        raise No("limit", f"{limit.says}; {Amount(counted.spent)} of it is spent")
    if limit.count is not None and counted.count >= limit.count:
        raise No("limit", limit.says)


def _of(order: Transfer | Hold, kind: RecordType, payer: AccountName, payee: AccountName) -> Record:
    _check_words(order)
    record = _record(kind, order.id, order.book, payer, payee, order.amount, order.reason, order.cause)
    return msgspec.structs.replace(record, scopes=tuple(limit.scope for limit in order.limits))


def _record(
    kind: RecordType,
    order: str,
    book: BookId,
    payer: AccountName,
    payee: AccountName,
    amount: Amount,
    reason: str = "",
    cause: str = "",
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
    )


def _check_words(order: Transfer | Hold) -> None:
    if not _fits(order.reason, REASON_BYTES_MAX):
        raise No("reason", f"a reason is text of at most {REASON_BYTES_MAX} bytes")


def _refuse(order: Transfer | Hold, no: No, writing: Writing) -> Receipt:
    """Write the refusal down, so that the same order is never anything else."""
    words = (order.payer, order.payee, order.cause, order.amount.instrument, no.why)
    if not all(_fits(word, REASON_BYTES_MAX) for word in words) or not _fits(order.reason, REASON_BYTES_MAX):
        return _refusal(order.id, order.amount, order.payer, order.payee, no, writing.at)
    record = _record("refusal", order.id, order.book, order.payer, order.payee, order.amount, order.reason, order.cause)
    record = msgspec.structs.replace(record, refusal=no.refusal, why=no.why)
    if isinstance(order, Hold):
        record = msgspec.structs.replace(record, authority=order.authority, until=order.until)
    payer, payee = (_seen(writing, order, name) for name in (order.payer, order.payee))
    return writing.append(record, payer, payee).receipt


def _seen(writing: Writing, order: Transfer | Hold, name: AccountName) -> Row | None:
    return writing.row(order.book, name, order.amount.instrument)


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
    return bool(text) and text.isprintable() and _fits(text, NAME_BYTES_MAX)


def _fits(text: str, bytes_max: int) -> bool:
    try:
        return len(text.encode()) <= bytes_max
    except UnicodeEncodeError:
        return False

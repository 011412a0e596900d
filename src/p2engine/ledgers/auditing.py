"""Looking through all of a ledger: links, seals, head, checkpoints, and whether what is kept follows from the records.

Judges what a driver reads, for all drivers alike; knows neither files nor servers.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from p2engine.domain.chain import START, Peaks, link, link_shown, parted, path_of, root_by
from p2engine.domain.money import (
    ESCROW,
    AccountName,
    Amount,
    Audit,
    BookId,
    Checkpoint,
    Finding,
    Proof,
    Record,
    RecordType,
    What,
    kind_of_account,
)
from p2engine.errors import UsageError
from p2engine.ledgers.keys import Head, Keys, is_signed
from p2engine.ledgers.writing import AccountKey, ScopeKey
from p2engine.limits import LEDGER_CHECKPOINT_RECORDS

FINDINGS_MAX = 20  # beyond, one more of the same kind tells nobody anything


class Told(msgspec.Struct, gc=False):
    """What an audit reads of a record: as much as moves money, and what it is found by."""

    seq: int
    id: str
    type: RecordType
    book: BookId
    at: float
    payer: AccountName
    payee: AccountName
    amount: str
    instrument: str = "CREDIT"
    owner: str = ""
    hold: str = ""
    left: str = ""
    scopes: tuple[str, ...] = ()


_DECODE_TOLD = msgspec.json.Decoder(Told).decode
_DECODE = msgspec.json.Decoder(Record).decode
_units = lru_cache(4096)(lambda text: Amount.read(text).units)
_NO_SALT = b',"salt":""}'  # for what a proof does not show

Line = tuple[Any, ...]
"""The number, body, link and seal of a record as they are kept, and whatever a driver finds it by."""

Plain = tuple[BookId, AccountName, str]
"""An AccountKey's words. It finds what is kept by one, and is quicker to make."""

PlaceOf = Callable[[Plain], Any]
"""By what a driver keeps an account."""

Check = Callable[[Told, Any, Any, Line], bool]
"""Whether a record is found by what it says: itself, the places of who pays and who is paid, and its line."""


class Sums(msgspec.Struct, gc=False):
    """What the records of an account come to, in units, and by what it is kept."""

    place: Any
    balance: int = 0
    received: int = 0
    sent: int = 0
    transfers: int = 0


class Stop(Exception):
    """Nothing after this can be judged."""


class Walk:
    """What the records say, one after the other, and where they stop saying it.

    keys: without them neither seals nor signatures are looked at. head: the newest record that is known from elsewhere;
    damage: why it is not, where there is something that cannot be read. trees: those that are kept with checkpoints.
    """

    def __init__(
        self,
        keys: Keys | None,
        head: Head | None,
        damage: str,
        checkpoints: Mapping[int, Checkpoint],
        trees: Mapping[int, object] | None = None,
    ) -> None:
        self.head = head
        self.findings: list[Finding] = []
        self.count = 0
        self.link = START
        self.peaks = Peaks()
        self.accounts: dict[Plain, Sums] = {}
        self.owners: dict[Plain, str] = {}
        self.scopes: dict[ScopeKey, list[int]] = {}
        self.holds: dict[str, str] = {}
        self._told: set[Plain] = set()  # the accounts of which the first wrong balance was found
        self._keys = keys
        self._is_noted = keys is None or head is not None or bool(damage)  # a damaged one is a finding
        self._checkpoints = checkpoints
        self._trees = trees or {}
        self._published: Checkpoint | None = None
        self._counts = {*checkpoints}  # where there is a checkpoint to look at
        if damage:
            self.found("unreadable", damage)

    def found(self, what: What, text: str, seq: int | None = None) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(what, text, seq))

    def hold_to(self, published: Checkpoint, public: str) -> None:
        """Look as well whether these are the records of a checkpoint that others kept. public: of the ledger, if known.

        Called before any record is looked at.
        """
        self._published = published
        self._counts.add(published.count)
        if published.ledger != (public or published.ledger):
            self.found("checkpoint", "the published checkpoint is of another ledger: another key is named in it")
        elif not is_signed(published, published.ledger):
            self.found("checkpoint", "the published checkpoint is not signed by the key of the ledger")

    def over(self, lines: Iterable[Line], place_of: PlaceOf, check: Check) -> None:
        """Go on over the next records. Raises Stop."""
        counts, head_seq = self._counts, self.head.seq if self.head else 0
        seal = self._keys.seal if self._keys else None
        add, follow = self.peaks.add, self._follow
        before, count = self.link, self.count
        for line in lines:
            # One short way for a record that is as it was; `_explain` says what is wrong with any other.
            seq, body, kept, sealed = line[:4]
            if seq != count + 1 or type(body) is not bytes:
                self._explain(count + 1, seq, before, body)
            made = link(before, body)
            if made != kept or (seal is not None and seal(made) != sealed):
                self._explain(count + 1, seq, before, body, kept)
            follow(seq, body, line, place_of, check)
            add(made)
            self.link = before = made
            self.count = count = seq
            if seq == head_seq:
                self._meet(made)
            if seq in counts:
                self._check(seq)

    def end(self) -> None:
        """There are no more records."""
        count, head = self.count, self.head
        if head is not None and count < head.seq:
            what: What = "replaced" if not count else "cut"
            text = f"records {count + 1} to {head.seq} were written and are gone: the tail was cut, or all of it"
            self.found(what, f"{text} replaced by an older copy", count + 1)
        due = head.seq // LEDGER_CHECKPOINT_RECORDS * LEDGER_CHECKPOINT_RECORDS if head is not None else 0
        if max([0, *self._checkpoints]) < due:  # so the limit may be raised, and never lowered
            text = f"the checkpoint that was signed at record {due} or soon after is gone, and so is any later one"
            self.found("checkpoint", f"{text}: `p2engine ledger checkpoint` signs what is there now", due)
        if min(self._checkpoints, default=1) < 1:
            self.found("checkpoint", "a checkpoint of no records was put there: none is ever signed")
        beyond = max(self._counts, default=0)
        if beyond > count:
            self.found("cut", f"records {count + 1} to {beyond} are gone: a checkpoint knows them", count + 1)

    def compare(
        self,
        accounts: Iterable[tuple[AccountKey, str, list[str]]],
        scopes: Mapping[ScopeKey, list[str]],
        holds: Mapping[str, str],
    ) -> None:
        """Whether what is kept is what the records come to.

        accounts: key, owner, and balance, received, sent (units), transfers. scopes: spent (units), count. holds: what
        ended each, "" for nothing. All numbers as text.
        """
        left = dict(self.accounts)
        for key, owner, kept in accounts:
            expected = left.pop(key, None)
            if expected is None:
                self.found("balance", f"the account {key.name} ({key.instrument}, book {key.book}) was never opened")
            elif kept != [*map(str, (expected.balance, expected.received, expected.sent, expected.transfers))]:
                text = f"{key.name} is kept with {kept} (units: balance, received, sent; transfers), but its records"
                self.found("balance", f"{text} come to {Amount(expected.balance, key.instrument).shown}")
            elif owner != self.owners.get(key, ""):
                self.found("balance", f"{key.name} is kept as owned by another than it was opened for")
        for book, name, instrument in left:
            self.found("balance", f"the account {name} ({instrument}, book {book}) is gone")
        for scope in sorted(scopes.keys() | self.scopes.keys()):
            if scopes.get(scope) != [*map(str, self.scopes.get(scope, ()))]:
                self.found("balance", f"what is kept as spent for {scope.name} is not what its records come to")
        if holds != self.holds:
            self.found("balance", "what is kept of the holds is not what the records say")
        for unit in {instrument for _, _, instrument in self.accounts}:
            if sum(sums.balance for (_, _, instrument), sums in self.accounts.items() if instrument == unit):
                self.found("balance", f"the balances in {unit} do not cancel out")

    def audit(self) -> Audit:
        """What it came to."""
        newest = max(self._checkpoints, default=0)
        return Audit(
            records=self.count,
            accounts=len(self.accounts),
            findings=tuple(self.findings),
            checkpoint=self._checkpoints[newest] if newest else None,
            sealed=self._keys is not None,
            noted=self._is_noted or not self.count,
        )

    def _explain(self, expected: int, seq: int, before: bytes, body: object, kept: object = None) -> None:
        """Say what is wrong with the first record that is not as it was written. Raises Stop."""
        if seq != expected:
            self.found("missing", f"record {expected} is missing: after {expected - 1} comes {seq}", expected)
            raise Stop
        record = _told(body)
        if record is None:
            self.found("changed", f"record {seq} cannot be read: it was changed", seq)
        elif record.seq != seq:
            text = f"record {seq} says that it is record {record.seq}: records were swapped, inserted or moved"
            self.found("moved", text, seq)
        elif not isinstance(body, bytes) or link(before, body) != kept:
            self.found("changed", f"record {seq} ({record.id}) is not as it was written", seq)
        else:
            text = f"record {seq} ({record.id}) was not written by the holder of the key: changed or inserted"
            self.found("forged", text, seq)
        raise Stop

    def _follow(self, seq: int, body: bytes, line: Line, place_of: PlaceOf, check: Check) -> None:
        """Move what the record moves, and see whether it is found by what it says."""
        try:  # as `_told`, which is a call more
            record = _DECODE_TOLD(body)
            units = _units(record.amount)
        except (ValueError, TypeError, UsageError):
            record = None
        if record is None or record.seq != seq:  # linked by somebody who can, where there is no key to tell
            self.found("changed", f"record {seq} cannot be read, or says that it is another: it was changed", seq)
            raise Stop
        kind, book, instrument = record.type, record.book, record.instrument
        payee = record.payee if kind != "hold" else AccountName(ESCROW + instrument)
        giver, taker = (book, record.payer, instrument), (book, payee, instrument)
        if kind == "refusal":
            gives, takes = place_of(giver), place_of(taker)
        else:
            accounts = self.accounts
            giving, taking = accounts.get(giver), accounts.get(taker)
            if giving is None:
                giving = accounts[giver] = Sums(place_of(giver))
            if taking is None:
                taking = accounts[taker] = Sums(place_of(taker))
            self._move(record, kind, units, giving, taking)
            gives, takes = giving.place, taking.place
        if not check(record, gives, takes, line):
            self.found("changed", f"record {seq} ({record.id}) is found under other words than it holds", seq)

    def _move(self, record: Told, kind: RecordType, units: int, giving: Sums, taking: Sums) -> None:
        has = giving.balance = giving.balance - units
        taking.balance += units
        if record.left != str(has) or (has < 0 and not _may_owe(record.payer)):
            self._doubt(record, has)
        if kind == "transfer":
            giving.sent += units
            taking.received += units
            giving.transfers += 1
            taking.transfers += 1
        elif kind == "open":
            self.owners[record.book, record.payee, record.instrument] = record.owner
        elif kind == "hold":
            self.holds[record.id] = ""
        else:
            self.holds[record.hold] = record.id
        for scope in record.scopes:
            counted = self.scopes.setdefault(ScopeKey(record.book, scope, record.instrument), [0, 0])
            counted[0] += units
            counted[1] += 1

    def _doubt(self, record: Told, has: int) -> None:
        """Say of the first record of a payer that it was not paid out of what there was by the records before it."""
        left, giver = _left(record.left), (record.book, record.payer, record.instrument)
        owes = has < 0 and not _may_owe(record.payer)
        if giver in self._told or (left == has and not owes):
            return
        self._told.add(giver)
        which, comes_to = f"record {record.seq} ({record.id})", Amount(has, record.instrument).shown
        if owes:
            self.found("balance", f"{which} took more than there was: {record.payer} has {comes_to} by it", record.seq)
        if left != has:
            says = "nothing" if left is None else Amount(left, record.instrument).shown
            text = f"{which} says that {record.payer} had {says} left, and the records come to {comes_to}"
            self.found("balance", f"{text}: what is kept as the balance was changed when it was paid", record.seq)

    def _meet(self, made: bytes) -> None:
        assert self.head is not None
        if made != self.head.link:
            text = f"record {self.count} is another than was written: the ledger was replaced"
            self.found("replaced", text, self.count)

    def _check(self, count: int) -> None:
        kept, published = self._checkpoints.get(count), self._published
        root, tree = self.peaks.root.hex(), bytes(self.peaks)
        if kept is not None and kept.root != root:
            self.found("checkpoint", f"the first {count} records are not those of their checkpoint", count)
        elif kept is not None and self._keys is not None and not is_signed(kept, self._keys.public):
            self.found("checkpoint", f"the checkpoint of {count} records is not signed by the key", count)
        elif self._trees.get(count, tree) != tree:
            self.found("checkpoint", f"the tree that is kept with the checkpoint of {count} records was changed", count)
        if published is not None and published.count == count and published.root != root:
            self.found("checkpoint", f"the first {count} records are not those of the published checkpoint", count)


def _left(text: str) -> int | None:
    """Units, as records say what is left; those of the first form as an amount. None for neither."""
    try:
        return int(text) if "." not in text else Amount.read(text).units
    except (ValueError, UsageError):
        return None


@lru_cache(1024)
def _may_owe(name: str) -> bool:
    try:
        return kind_of_account(name) in ("treasury", "tally")
    except UsageError:
        return False


def _told(body: object) -> Told | None:
    """None for what is no record."""
    try:
        record = _DECODE_TOLD(body)  # type: ignore[arg-type]
        _units(record.amount)
    except (ValueError, TypeError, UsageError):
        return None
    return record


def make_proof(seq: int, body: bytes, leaves: list[bytes], checkpoint: Checkpoint) -> Proof:
    """The way from record `seq` to a checkpoint. leaves: the links of all records that it covers."""
    shown, hidden = parted(body)
    return Proof(
        body=shown.hex(),
        hidden=hidden.hex(),
        before=(leaves[seq - 2] if seq > 1 else START).hex(),
        index=seq - 1,
        path=tuple(one.hex() for one in path_of(leaves, seq - 1)),
        checkpoint=checkpoint,
    )


def check_proof(proof: Proof, public: str) -> Record:
    """The record that is proved, as far as it is shown, for a holder of the public key (hexadecimal).

    Raises UsageError for no proof.
    """
    try:
        shown, hidden, before = (bytes.fromhex(one) for one in (proof.body, proof.hidden, proof.before))
        path = [bytes.fromhex(one) for one in proof.path]
        record = _DECODE(shown + _NO_SALT if hidden else shown)
    except (ValueError, TypeError):
        raise UsageError("this is no proof: it cannot be read") from None
    if len(hidden) not in (0, len(START)):  # or else the end of what is shown could be passed off as hidden
        raise UsageError("this is no proof: what it hides is no hash")
    root = root_by(path, link_shown(before, shown, hidden), proof.index, proof.checkpoint.count)
    if root is None or root.hex() != proof.checkpoint.root or record.seq != proof.index + 1:
        raise UsageError("this is no proof: the record does not lead to the checkpoint")
    if not is_signed(proof.checkpoint, public):
        raise UsageError("this is no proof: the checkpoint is not signed by that key")
    return record

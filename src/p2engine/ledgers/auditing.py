"""Looking through all of a ledger: links, seals, head, checkpoints, and whether what is kept follows from the records.

Judges what a driver reads, for all drivers alike; knows neither files nor servers.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any

import msgspec

from p2engine.domain.chain import START, Peaks, link, path_of, root_by
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
)
from p2engine.errors import UsageError
from p2engine.ledgers.keys import Head, Keys, is_signed
from p2engine.ledgers.writing import AccountKey, ScopeKey

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
    scopes: tuple[str, ...] = ()


_DECODE_TOLD = msgspec.json.Decoder(Told).decode
_DECODE = msgspec.json.Decoder(Record).decode
_units = lru_cache(4096)(lambda text: Amount.read(text).units)

Line = tuple[Any, ...]
"""The number, body, link and seal of a record as they are kept, and whatever a driver finds it by."""

Check = Callable[[Told, AccountKey, AccountKey, list[Any]], bool]
"""Whether a record is found by what it says: itself, whose money it moves, to whom, and what it is found by."""


class Stop(Exception):
    """Nothing after this can be judged."""


class Walk:
    """What the records say, one after the other, and where they stop saying it.

    keys: without them neither seals nor signatures are looked at. head: the newest record that is known from elsewhere.
    """

    def __init__(self, keys: Keys | None, head: Head | None, checkpoints: Mapping[int, Checkpoint]) -> None:
        self.findings: list[Finding] = []
        self.count = 0
        self.link = START
        self.peaks = Peaks()
        self.balances: dict[AccountKey, list[int]] = {}
        self.owners: dict[AccountKey, str] = {}
        self.scopes: dict[ScopeKey, list[int]] = {}
        self.holds: dict[str, str] = {}
        self._keys = keys
        self._head = head
        self._checkpoints = checkpoints
        self._published: Checkpoint | None = None
        self._counts = {*checkpoints}  # where there is a checkpoint to look at

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

    def over(self, lines: Iterable[Line], check: Check) -> None:
        """Go on over the next records. Raises Stop."""
        counts, head_seq = self._counts, self._head.seq if self._head else 0
        seal = self._keys.seal if self._keys else None
        add, follow = self.peaks.add, self._follow
        before, count = self.link, self.count
        for seq, body, kept, sealed, *found_by in lines:
            # One short way for a record that is as it was; `_explain` says what is wrong with any other.
            if seq != count + 1 or type(body) is not bytes:
                self._explain(count + 1, seq, before, body)
            made = sha256(b"\0" + before + body).digest()  # `chain.link`, without the call
            if made != kept or (seal is not None and seal(made) != sealed):
                self._explain(count + 1, seq, before, body, kept)
            follow(seq, body, found_by, check)
            add(made)
            self.link = before = made
            self.count = count = seq
            if seq == head_seq:
                self._meet(made)
            if seq in counts:
                self._check(seq)

    def end(self) -> None:
        """There are no more records."""
        count, head = self.count, self._head
        if head is not None and count < head.seq:
            what: What = "replaced" if not count else "cut"
            text = f"records {count + 1} to {head.seq} were written and are gone: the tail was cut, or all of it"
            self.found(what, f"{text} replaced by an older copy", count + 1)
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
        left = dict(self.balances)
        for key, owner, kept in accounts:
            expected = left.pop(key, None)
            if expected is None:
                self.found("balance", f"the account {key.name} ({key.instrument}, book {key.book}) was never opened")
            elif kept != [*map(str, expected)]:
                text = f"{key.name} is kept with {kept} (units: balance, received, sent; transfers), but its records"
                self.found("balance", f"{text} come to {Amount(expected[0], key.instrument).shown}")
            elif owner != self.owners.get(key, ""):
                self.found("balance", f"{key.name} is kept as owned by another than it was opened for")
        for key in left:
            self.found("balance", f"the account {key.name} ({key.instrument}, book {key.book}) is gone")
        for scope in sorted(scopes.keys() | self.scopes.keys()):
            if scopes.get(scope) != [*map(str, self.scopes.get(scope, ()))]:
                self.found("balance", f"what is kept as spent for {scope.name} is not what its records come to")
        if holds != self.holds:
            self.found("balance", "what is kept of the holds is not what the records say")
        for instrument in {key.instrument for key in self.balances}:
            if sum(sums[0] for key, sums in self.balances.items() if key.instrument == instrument):
                self.found("balance", f"the balances in {instrument} do not cancel out")

    def audit(self) -> Audit:
        """What it came to."""
        newest = max(self._checkpoints, default=0)
        return Audit(
            records=self.count,
            accounts=len(self.balances),
            findings=tuple(self.findings),
            checkpoint=self._checkpoints[newest] if newest else None,
            sealed=self._keys is not None,
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

    def _follow(self, seq: int, body: bytes, found_by: list[Any], check: Check) -> None:
        """Move what the record moves, and see whether it is found by what it says."""
        record = _told(body)
        if record is None or record.seq != seq:  # linked by somebody who can, where there is no key to tell
            self.found("changed", f"record {seq} cannot be read, or says that it is another: it was changed", seq)
            raise Stop
        book, instrument = record.book, record.instrument
        giver = AccountKey(book, record.payer, instrument)
        payee = record.payee if record.type != "hold" else AccountName(ESCROW + instrument)
        taker = AccountKey(book, payee, instrument)
        if record.type != "refusal":
            self._move(record, giver, taker)
        if not check(record, giver, taker, found_by):
            self.found("changed", f"record {seq} ({record.id}) is found under other words than it holds", seq)

    def _move(self, record: Told, giver: AccountKey, taker: AccountKey) -> None:
        units, balances, kind = _units(record.amount), self.balances, record.type
        giving, taking = balances.get(giver), balances.get(taker)
        if giving is None:
            giving = balances[giver] = [0, 0, 0, 0]
        if taking is None:
            taking = balances[taker] = [0, 0, 0, 0]
        giving[0] -= units
        taking[0] += units
        if kind == "transfer":
            giving[2] += units
            taking[1] += units
            giving[3] += 1
            taking[3] += 1
        elif kind == "open":
            self.owners[taker] = record.owner
        elif kind == "hold":
            self.holds[record.id] = ""
        else:
            self.holds[record.hold] = record.id
        for scope in record.scopes:
            counted = self.scopes.setdefault(ScopeKey(record.book, scope, record.instrument), [0, 0])
            counted[0] += units
            counted[1] += 1

    def _meet(self, made: bytes) -> None:
        assert self._head is not None
        if made != self._head.link:
            text = f"record {self.count} is another than was written: the ledger was replaced"
            self.found("replaced", text, self.count)

    def _check(self, count: int) -> None:
        kept, published, root = self._checkpoints.get(count), self._published, self.peaks.root.hex()
        if kept is not None and kept.root != root:
            self.found("checkpoint", f"the first {count} records are not those of their checkpoint", count)
        elif kept is not None and self._keys is not None and not is_signed(kept, self._keys.public):
            self.found("checkpoint", f"the checkpoint of {count} records is not signed by the key", count)
        if published is not None and published.count == count and published.root != root:
            self.found("checkpoint", f"the first {count} records are not those of the published checkpoint", count)


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
    return Proof(
        body=body.hex(),
        before=(leaves[seq - 2] if seq > 1 else START).hex(),
        index=seq - 1,
        path=tuple(one.hex() for one in path_of(leaves, seq - 1)),
        checkpoint=checkpoint,
    )


def check_proof(proof: Proof, public: str) -> Record:
    """The record that is proved, for a holder of the public key (hexadecimal). Raises UsageError for no proof."""
    try:
        body, before = bytes.fromhex(proof.body), bytes.fromhex(proof.before)
        path = [bytes.fromhex(one) for one in proof.path]
        record = _DECODE(body)
    except (ValueError, TypeError):
        raise UsageError("this is no proof: it cannot be read") from None
    root = root_by(path, link(before, body), proof.index, proof.checkpoint.count)
    if root is None or root.hex() != proof.checkpoint.root or record.seq != proof.index + 1:
        raise UsageError("this is no proof: the record does not lead to the checkpoint")
    if not is_signed(proof.checkpoint, public):
        raise UsageError("this is no proof: the checkpoint is not signed by that key")
    return record

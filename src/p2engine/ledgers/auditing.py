"""Looking through all of an embedded ledger: links, seals, head, checkpoints, and whether the balances follow.

Opens the file for itself, to read only, so that a ledger that is too damaged to be used can still be looked at.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from p2engine.domain.chain import START, Peaks, link, path_of, root_by
from p2engine.domain.money import ESCROW, Amount, Audit, Checkpoint, Finding, Proof, Record, What
from p2engine.errors import StoreError, UsageError
from p2engine.ledgers.keys import Head, Keys, is_signed
from p2engine.stores.sqlite_file import connect_reader, store_error

FINDINGS_MAX = 20  # beyond, one more of the same kind tells nobody anything

_DECODE = msgspec.json.Decoder(Record).decode
_units = lru_cache(4096)(lambda text: Amount.read(text).units)


class _Stop(Exception):
    """Nothing after this can be judged."""


class _Walk:
    """What the records say, one after the other, and where they stop saying it."""

    def __init__(self, keys: Keys | None, head: Head | None, checkpoints: dict[int, tuple[Any, ...]]) -> None:
        self.findings: list[Finding] = []
        self.count = 0
        self.peaks = Peaks()
        self.balances: dict[tuple[str, str, str], list[int]] = {}
        self.scopes: dict[tuple[str, str, str], list[int]] = {}
        self.holds: dict[str, str | None] = {}
        self._keys = keys
        self._seal = keys.seal if keys else None
        self._head = head
        self._checkpoints = checkpoints
        self._public = keys.public if keys else ""
        self._aids: dict[int, tuple[str, str, str]] = {}

    def found(self, what: What, text: str, seq: int | None = None) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(what, text, seq))

    def over(self, db: sqlite3.Connection) -> None:
        self._aids = {
            aid: (book, name, instrument)
            for aid, book, name, instrument in db.execute("SELECT aid, book, name, instrument FROM account")
        }
        seal, checkpoints, head = self._seal, self._checkpoints, self._head
        before, count, add = START, 0, self.peaks.add
        sql = "SELECT seq, body, link, seal, id, type, at, payer, payee FROM record ORDER BY seq"
        for seq, body, kept, sealed, *found_by in db.execute(sql):
            # One short way for a record that is as it was; `_explain` says what is wrong with any other.
            if seq != count + 1 or type(body) is not bytes:
                self._explain(count + 1, seq, before, body)
            made = link(before, body)
            if made != kept or (seal is not None and seal(made) != sealed):
                self._explain(count + 1, seq, before, body, kept)
            self._follow(seq, body, found_by)
            before, count = made, seq
            self.count = count
            add(made)
            if head is not None and seq == head.seq and made != head.link:
                self.found("replaced", f"record {seq} is another than was written: the file was replaced", seq)
            if seq in checkpoints:
                self._check(seq)
        if head is not None and count < head.seq:
            what: What = "replaced" if not count else "cut"
            text = f"records {count + 1} to {head.seq} were written and are gone: the tail was cut, or the"
            self.found(what, f"{text} file replaced by an older copy", count + 1)

    def _explain(self, expected: int, seq: int, before: bytes, body: object, kept: object = None) -> None:
        """Say what is wrong with the first record that is not as it was written. Raises _Stop."""
        if seq != expected:
            self.found("missing", f"record {expected} is missing: after {expected - 1} comes {seq}", expected)
            raise _Stop
        record = _record(body)
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
        raise _Stop

    def _follow(self, seq: int, body: bytes, found_by: list[Any]) -> None:
        """Move what the record moves, and see whether it is found by what it says."""
        order, kind, at, payer, payee = found_by
        record = _record(body)
        if record is None or record.seq != seq:  # linked by somebody who can, where there is no key to tell
            self.found("changed", f"record {seq} cannot be read, or says that it is another: it was changed", seq)
            raise _Stop
        giver, taker = self._move(record)
        aids = self._aids
        strays = record.moves and (aids.get(payer) != giver or aids.get(payee) != taker)
        if strays or order != record.id or kind != record.type or at != record.at:
            self.found("changed", f"record {seq} ({record.id}) is found under other words than it holds", seq)

    def _move(self, record: Record) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
        book, instrument = record.book, record.instrument
        payee = ESCROW + instrument if record.type == "hold" else record.payee
        parties = (book, record.payer, instrument), (book, payee, instrument)
        if record.type == "refusal":
            return parties
        units = _units(record.amount)
        giving = self.balances.setdefault(parties[0], [0, 0, 0, 0])
        taking = self.balances.setdefault(parties[1], [0, 0, 0, 0])
        giving[0] -= units
        taking[0] += units
        for scope in record.scopes:
            counted = self.scopes.setdefault((book, scope, instrument), [0, 0])
            counted[0] += units
            counted[1] += 1
        if record.type == "hold":
            self.holds[record.id] = None
        elif record.hold:
            self.holds[record.hold] = record.id
        if record.type == "transfer":
            giving[2] += units
            taking[1] += units
            giving[3] += 1
            taking[3] += 1
        return parties

    def _check(self, count: int) -> None:
        checkpoint = _checkpoint(self._checkpoints[count], self._public)
        if checkpoint.root != self.peaks.root.hex():
            self.found("checkpoint", f"the first {count} records are not those of their checkpoint", count)
        elif self._keys is not None and not is_signed(checkpoint, self._public):
            self.found("checkpoint", f"the checkpoint of {count} records is not signed by the key", count)


def _record(body: object) -> Record | None:
    """None for what is no record."""
    try:
        record = _DECODE(body)  # type: ignore[arg-type]
        _units(record.amount)
    except (ValueError, TypeError, UsageError):
        return None
    return record


def verify(path: Path, folder: Path) -> Audit:
    """Look through the ledger file `path`, with the key and head in `folder`. Raises StoreError where it cannot."""
    keys = Keys.found(folder)
    head = keys.read_head() if keys else None
    if not path.exists():
        if head is None:
            return Audit(records=0, accounts=0, sealed=keys is not None)
        text = f"the ledger file is gone: it had {head.seq} records"
        return Audit(records=0, accounts=0, findings=(Finding("replaced", text, 1),))
    try:
        with closing(connect_reader(str(path))) as db:
            db.execute("BEGIN")  # one look, whoever writes meanwhile
            return _verify(db, keys, head)
    except sqlite3.Error as error:
        failed = store_error(error, str(path))
        return Audit(records=0, accounts=0, findings=(Finding("unreadable", str(failed)),), sealed=keys is not None)


def _verify(db: sqlite3.Connection, keys: Keys | None, head: Head | None) -> Audit:
    (ledger,) = db.execute("SELECT value FROM meta WHERE name = 'ledger'").fetchone() or ("",)
    columns = "SELECT count, root, at, signature FROM checkpoint ORDER BY count"
    checkpoints = {row[0]: row for row in db.execute(columns)}
    walk = _Walk(keys, head, checkpoints)
    if keys is not None and ledger not in ("", keys.public):
        walk.found("replaced", "the file is of another ledger: it was written with another key")
    whole = True
    try:
        walk.over(db)
    except _Stop:
        whole = False
    beyond = [count for count in checkpoints if count > walk.count]
    if whole and beyond:
        text = f"records {walk.count + 1} to {beyond[-1]} are gone: a checkpoint knows them"
        walk.found("cut", text, walk.count + 1)
    if whole:
        _balances(db, walk)
    newest = checkpoints[max(checkpoints)] if checkpoints else None
    return Audit(
        records=walk.count,
        accounts=len(walk.balances),
        findings=tuple(walk.findings),
        checkpoint=_checkpoint(newest, ledger) if newest else None,
        sealed=keys is not None,
    )


def _balances(db: sqlite3.Connection, walk: _Walk) -> None:
    """Whether what is kept of the accounts is what the records come to."""
    left = dict(walk.balances)
    for book, name, instrument, *kept in db.execute(
        "SELECT book, name, instrument, balance, received, sent, transfers FROM account"
    ):
        expected = left.pop((book, name, instrument), [0, 0, 0, 0])
        if list(map(str, kept)) != list(map(str, expected)):
            text = f"{name} is kept with {kept} (units: balance, received, sent; transfers), but its records come to"
            walk.found("balance", f"{text} {Amount(expected[0], instrument).shown}")
    for book, name, instrument in left:
        walk.found("balance", f"the account {name} ({instrument}, book {book}) is gone")
    scopes = {
        (book, name, instrument): [spent, str(count)]
        for book, name, instrument, spent, count in db.execute("SELECT book, name, instrument, spent, count FROM scope")
    }
    for key in sorted(
        {key for key in {**scopes, **walk.scopes} if scopes.get(key) != [*map(str, walk.scopes.get(key, ()))]}
    ):
        walk.found("balance", f"what is kept as spent for {key[1]} is not what its records come to")
    if dict(db.execute("SELECT id, ended_by FROM hold").fetchall()) != walk.holds:
        walk.found("balance", "what is kept of the holds is not what the records say")
    for instrument in {key[2] for key in walk.balances}:
        if sum(kept[0] for key, kept in walk.balances.items() if key[2] == instrument):
            walk.found("balance", f"the balances in {instrument} do not cancel out")


def _checkpoint(row: tuple[Any, ...], public: str) -> Checkpoint:
    count, root, at, signature = row
    return Checkpoint(ledger=public, count=count, root=root.hex(), at=at, signature=signature)


def newest_checkpoint(db: sqlite3.Connection, public: str) -> Checkpoint | None:
    row = db.execute("SELECT count, root, at, signature FROM checkpoint ORDER BY count DESC LIMIT 1").fetchone()
    return row and _checkpoint(row, public)


def prove(db: sqlite3.Connection, order: str, public: str) -> Proof:
    """The way from a record to the newest checkpoint, which must be after it. Raises UsageError."""
    row = db.execute("SELECT seq, body FROM record WHERE id = ?", (order,)).fetchone()
    if row is None:
        raise UsageError(f"no order {order!r} stands in the ledger")
    seq, body = row
    newest = newest_checkpoint(db, public)
    if newest is None or newest.count < seq:
        raise StoreError(f"no checkpoint covers record {seq} yet")
    leaves = [START, *_leaves(db, newest.count)]
    return Proof(
        body=body.hex(),
        before=leaves[seq - 1].hex(),
        index=seq - 1,
        path=tuple(one.hex() for one in path_of(leaves[1:], seq - 1)),
        checkpoint=newest,
    )


def _leaves(db: sqlite3.Connection, count: int) -> Iterator[bytes]:
    for (leaf,) in db.execute("SELECT link FROM record WHERE seq <= ? ORDER BY seq", (count,)):
        yield leaf


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

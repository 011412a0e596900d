"""Keeps the log and the ledger in step: what models cost is booked, and what the ledger wrote becomes events.

At least once, and the same thing twice is once: a transfer by its id, an event by its. Knows both only by their ports;
the one writer of `ledger.*` events.
"""

import asyncio
import logging
import math
import re
from contextlib import suppress
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final, NamedTuple

import msgspec

from p2engine.domain.ids import ConversationId, EffectId, StackRef, ref_of
from p2engine.domain.money import (
    PROVIDER,
    SPEND,
    UNIT,
    USD,
    AccountName,
    Amount,
    Record,
    RecordQuery,
    RecordType,
    Transfer,
)
from p2engine.domain.records import Batch, Cursor, Event, Fact, Query
from p2engine.errors import Pruned, StoreError
from p2engine.limits import BOOKED_AT_ONCE, MARK_RECORDS, MARK_ROWS, SHUTDOWN_GRACE_S
from p2engine.ports import AuditableLedger
from p2engine.runtime.judging import VERDICT
from p2engine.runtime.world import World

log = logging.getLogger("p2engine.runtime")

MARKED = "ledger.marked"
"""An event of its own: how far log and ledger are in step, so that nobody reads all of either to know it."""

JUDGE = "judge/"
"""How the tally of an evaluator begins, after `spend:`. No agent's name has a slash."""

COSTS: Final = ("model.reply", VERDICT)
"""The events that tell what was spent."""

KINDS: Final[dict[RecordType, str]] = {
    "transfer": "ledger.transfer",
    "refusal": "ledger.refused",
    "open": "ledger.opened",
    "hold": "ledger.held",
    "release": "ledger.released",
    "refund": "ledger.refunded",
}
"""The kind of the event of a record."""

_UNTOLD = frozenset({"salt", "type", "at", "cause", "scopes"})  # said elsewhere, or nobody's to know
_EFFECT = re.compile(r"[0-9a-f]{12}:[0-9]{1,15}\.[0-9]{1,9}")


class Mark(NamedTuple):
    """What the log holds of the ledger of that name, and up to where in the log costs are booked."""

    ledger: str = ""
    seq: int = 0
    cursor: Cursor = Cursor()


class Bookkeeper:
    """One process's; any number may run at once. Does nothing where the ledger is off.

    books: whether this process books what models cost, judges too; one that only pays tells what it paid.
    """

    def __init__(self, world: World) -> None:
        self.books = False
        self._world = world
        self._lock = asyncio.Lock()
        self._kept: Mark | None = None  # the newest mark in the log
        self._at = Mark()
        self._is_recognised = False
        self._behind = False  # this process has had the ledger write what is no event yet
        self._task: asyncio.Task[None] | None = None

    def nudge(self) -> None:
        """This process has just had the ledger write something: let the log have it soon."""
        self._behind = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._soon())

    async def sweep(self) -> None:
        """Everything, whoever did it; a ledger that there is not yet is made only for a cost."""
        await self._guarded(books=self.books, tells=self._behind or self._world.has_ledger())

    async def catch_up(self) -> None:
        """Book what models cost by now, and let the log have all that the ledger wrote by now. Raises StoreError."""
        await self._go(books=True, tells=True)

    async def book(self, conversation: ConversationId) -> None:
        """Book what models cost in one conversation; what is booked is not written again. Raises StoreError."""
        after, is_last = Cursor(), self._world.ledger is None
        while not is_last:
            query = Query(kinds=COSTS, conversation=conversation, after=after, limit=BOOKED_AT_ONCE)
            events = await self._world.store.events(query)
            costs = [cost for event in events if (cost := cost_of(event)) is not None]
            if costs:
                await self._pay(costs)
            is_last = len(events) < BOOKED_AT_ONCE
            after = after if is_last else events[-1].cursor

    async def aclose(self) -> None:
        """Finish what this process is behind with, within the grace period."""
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=SHUTDOWN_GRACE_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_GRACE_S):
                await self._guarded(books=self.books, tells=self._behind)

    async def _soon(self) -> None:
        while self._behind and await self._guarded(books=False, tells=True):
            pass

    async def _guarded(self, *, books: bool, tells: bool) -> bool:
        """Whether it went well. What a broken ledger or store leaves undone is done by a later sweep."""
        try:
            await self._go(books=books, tells=tells)
        except StoreError as error:
            complaint = f"log and ledger are not in step: {error}"
            if complaint not in self._world.told:
                self._world.told.add(complaint)
                log.warning("%s", complaint)
            return False
        return True

    async def _go(self, *, books: bool, tells: bool) -> None:
        if self._world.ledger is None or not (books or tells):
            return
        async with self._lock:
            if self._kept is None:
                self._at = self._kept = await self._newest_mark()
            if books:
                await self._book()
            if tells:
                await self._tell()
            await self._remember(self._kept)

    # From where

    async def _newest_mark(self) -> Mark:
        found = await self._world.store.events(Query(kinds=(MARKED,), newest=True, limit=1))
        if not found:
            return Mark()
        body = found[0].body
        return Mark(body["ledger"], body["seq"], Cursor(*body["cursor"]))

    async def _remember(self, kept: Mark) -> None:
        """Write a mark once enough has passed since the last, so that whoever begins next begins near the end."""
        at = self._at
        if abs(at.seq - kept.seq) < MARK_RECORDS and at.cursor.row - kept.cursor.row < MARK_ROWS:
            return
        mark = Fact(
            id=f"{MARKED}:{at.ledger}:{at.seq}:{at.cursor}",
            kind=MARKED,
            cause="engine",
            at=self._world.clock.now(),
            body={"ledger": at.ledger, "seq": at.seq, "cursor": list(at.cursor)},
        )
        await self._world.store.write(Batch(conversation=None, facts=(mark,)))
        self._kept = at

    # What models cost

    async def _book(self) -> None:
        """Book the costs that the log tells since the last time."""
        store = self._world.store
        newest = await store.newest()
        while self._at.cursor < newest:
            # Costs are booked before they are pruned: what is gone is none that is missing.
            query = Query(kinds=COSTS, after=self._at.cursor, before=newest, limit=BOOKED_AT_ONCE, whole=False)
            try:
                events = await store.events(query)
            except Pruned:  # the server lost it: what it was is told anew, or never
                self._at = self._at._replace(cursor=Cursor())
                continue
            costs = [cost for event in events if (cost := cost_of(event)) is not None]
            if costs:
                await self._pay(costs)
            is_last = len(events) < BOOKED_AT_ONCE
            self._at = self._at._replace(cursor=newest if is_last else events[-1].cursor)

    async def _pay(self, costs: list[Transfer]) -> None:
        for receipt in await (await self._ledger()).transfer(*costs):
            if receipt.status == "unknown":
                raise StoreError(f"the ledger has not answered to {receipt.id}")
            if not receipt.is_paid:
                log.warning("the cost of %s is not booked: %s", receipt.id, receipt.why)

    # What the ledger wrote

    async def _tell(self) -> None:
        """Write an event for each record after the last that has one."""
        self._behind = False
        try:
            ledger = await self._ledger()
            await self._recognise(ledger)
            while True:
                query = RecordQuery(book=None, after=self._at.seq, limit=BOOKED_AT_ONCE, newest=False)
                records = await ledger.records(query)
                facts = tuple(fact_of(record, self._at.ledger) for record in records if _is_told(record))
                if facts:
                    await self._world.store.write(Batch(conversation=None, facts=facts))
                if records:
                    self._at = self._at._replace(seq=records[-1].seq)
                if len(records) < BOOKED_AT_ONCE:
                    return
        except BaseException:
            self._behind = True
            raise

    async def _recognise(self, ledger: AuditableLedger) -> None:
        """Begin anew with a ledger that is another than the mark speaks of, or shorter."""
        name, seq = ledger.public_key[:8], self._at.seq
        if name != self._at.ledger:
            self._at = Mark(name, 0, self._at.cursor)
        elif seq and not self._is_recognised:
            there = await ledger.records(RecordQuery(book=None, after=seq - 1, limit=1, newest=False))
            self._at = self._at._replace(seq=seq if there else 0)
        self._is_recognised = True

    async def _ledger(self) -> AuditableLedger:
        assert self._world.ledger is not None
        return await self._world.ledger()


def cost_of(event: Event) -> Transfer | None:
    """What a model call or a verdict cost, as a transfer from a tally to its provider's; None where nothing is known.

    The tally is the agent's, or that of the evaluator: `spend:judge/EVALUATOR`.
    """
    said = event.body
    if event.kind == VERDICT:
        spent = said.get("spent") or {}
        who, by, cost = JUDGE + said["evaluator"], event.id, spent.get("usd")
    else:
        spent = said
        who, by, cost = event.agent, event.cause, None if said.get("offline") else said.get("cost_usd")
    if not cost or not math.isfinite(cost) or who is None:
        return None
    units = int((Decimal(repr(float(cost))) * UNIT).to_integral_value(ROUND_HALF_EVEN))
    if units <= 0:
        return None
    return Transfer(
        id=f"{SPEND}{by}",
        payer=AccountName(SPEND + who),
        payee=AccountName(PROVIDER + (said.get("provider") or "unknown")),
        amount=Amount(units, USD),
        reason=f"{said.get('model')}: {spent.get('tokens_in', 0)} tokens in, {spent.get('tokens_out', 0)} out",
        cause=by,
    )


def fact_of(record: Record, ledger: str) -> Fact:
    """The event of a record. ledger: what tells its ids from those of another ledger beside the same log."""
    whole: dict[str, Any] = {"instrument": record.instrument, **msgspec.to_builtins(record)}
    if record.left:
        whole["left"] = str(record.payer_left)
    return Fact(
        id=f"{record.id}@{ledger}",
        kind=KINDS[record.type],
        cause=record.cause or record.authority or "operator",
        at=record.at,
        ref=_stack_of(record.cause),
        body={name: value for name, value in whole.items() if name not in _UNTOLD},
    )


def _stack_of(cause: str) -> StackRef | None:
    return ref_of(EffectId(cause)) if _EFFECT.fullmatch(cause) else None


def _is_told(record: Record) -> bool:
    """All but real spending, which came from the log and is there as `model.reply` or verdict."""
    return not record.payer.startswith(SPEND)

"""The one door by which this process writes to a ledger in Redis: orders are judged here, and appended by one script.

What orders look at is read first, then they are judged as everywhere else, and the script refuses what comes of it
where the ledger's head is another by then; so they are read and judged again. Those that come while others are under
way go together. An answer that is lost is found by looking whether the records are there.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import uniform
from typing import Any, Final, NamedTuple, get_args

import msgspec

from p2engine.domain.money import Receipt
from p2engine.errors import P2EngineError, Rewound, StoreBusy, StoreError, UsageError
from p2engine.ledgers.keys import Head as Noted
from p2engine.ledgers.keys import Keys
from p2engine.ledgers.orders import Answer, Order, judge, note_needs
from p2engine.ledgers.redis_rows import (
    HINT,
    Fetched,
    Head,
    Look,
    Names,
    Unread,
    field_of,
    make_head,
    number,
    read_head,
    scope_field,
    text,
    write_row,
    write_scope,
)
from p2engine.ledgers.redis_scripts import scripts
from p2engine.ledgers.writing import Line, Needs, Top, Writing
from p2engine.limits import BUSY_WAIT_S, LEDGER_CHECKPOINT_RECORDS
from p2engine.stores.redis_errors import Failure
from p2engine.stores.redis_server import RETRY_FIRST_S, RETRY_MAX_S, RedisServer, passing

TOGETHER_MAX: Final = 1000  # orders in one script: the server does nothing else meanwhile
READS_MAX: Final = 8  # an order looks at what another row tells it to, and no further
PAUSE_FIRST_S: Final = 0.001  # before a head that others keep moving is read again
PAUSE_MAX_S: Final = 0.05

FAILURES: Final[tuple[Any, ...]] = get_args(Failure)  # what the client raises; its own errors stay with the stores

Word = str | bytes | int


class _Draft(NamedTuple):
    """What comes of orders at a head; nothing of it is written yet."""

    head: Head
    writing: Writing
    answers: "list[Answer | Exception]"


@dataclass(slots=True)
class _Call:
    """Orders that were given together, and what was answered to the first of them."""

    orders: Sequence[Order]
    done: "asyncio.Future[list[Answer]]"
    answers: list[Answer] = field(default_factory=list)

    def take(self, answer: Answer | Exception) -> None:
        if self.done.done():  # whoever asked has gone
            return
        if isinstance(answer, Exception):
            self.done.set_exception(answer)
        else:
            self.answers.append(answer)
            if len(self.answers) == len(self.orders):
                self.done.set_result(self.answers)


def _salt() -> str:
    return os.urandom(12).hex()


class RedisWriter:
    """Does orders in the order in which they come. noted: the newest record that this machine knows of."""

    def __init__(
        self,
        server: RedisServer,
        names: Names,
        keys: Keys,
        noted: Noted | None,
        *,
        now: Callable[[], float],
        busy_wait_s: float = BUSY_WAIT_S,
    ) -> None:
        self._server = server
        self._client: Any = server.client
        self._names = names
        self._keys = keys
        self._now = now
        self._busy_wait_s = busy_wait_s
        self._seen = noted or Noted(0, Top().link)
        self._look = Look(server.client, names)
        self._append = scripts(server.client)["append"]
        self._queue: deque[tuple[_Call, Order]] = deque()
        self._draining: asyncio.Task[None] | None = None
        self._together = TOGETHER_MAX

    async def do(self, orders: Sequence[Order]) -> list[Answer]:
        """What became of each. Raises StoreError, StoreBusy. When the wait is cancelled, they may be done or not."""
        loop = asyncio.get_running_loop()
        call = _Call(orders, loop.create_future())
        if not orders:
            return []
        self._queue.extend((call, order) for order in orders)
        if self._draining is None:
            self._draining = loop.create_task(self._drain())
        return await call.done

    async def sign(self) -> None:
        """Write a checkpoint of all that is there, unless there is one. Raises StoreError, StoreBusy."""
        deadline = time.monotonic() + self._busy_wait_s
        checkpoints = self._names.key("checkpoints")
        while True:
            head = self._recognise(await self._server.patiently(lambda: self._client.get(self._names.key("head"))))
            newest = await self._server.patiently(lambda: self._client.xrevrange(checkpoints, count=1))
            if head.top.seq <= (number(newest[0][0]) if newest else 0):
                return
            new = ("0", "0", "0", *self._checkpoint(head, self._now()))
            if await self._server.patiently(partial(self._send, head, head, new)):
                return
            if time.monotonic() > deadline:
                raise self._contended()

    async def aclose(self) -> None:
        """Do what waits."""
        if self._draining is not None:
            await asyncio.wait([self._draining])

    # Together

    async def _drain(self) -> None:
        group: list[tuple[_Call, Order]] = []
        try:
            while self._queue:
                group = self._take()
                if not group:
                    continue
                try:
                    answers = await self._settle([order for _, order in group])
                except StoreError as error:
                    answers = [error] * len(group)
                for (call, _), answer in zip(group, answers, strict=False):
                    call.take(answer)
                self._queue.extendleft(reversed(group[len(answers) :]))
        except BaseException as fault:  # a fault of ours: nobody may wait for ever because of it
            for call, _ in (*group, *self._queue):
                call.take(fault if isinstance(fault, Exception) else StoreError("the ledger was closed"))
            self._queue.clear()
            raise
        finally:
            self._draining = None

    def _take(self) -> list[tuple[_Call, Order]]:
        """The next orders whose callers still wait, or that were given with one that has been done."""
        group: list[tuple[_Call, Order]] = []
        while self._queue and len(group) < self._together:
            call, order = self._queue.popleft()
            if not call.done.done():
                group.append((call, order))
        return group

    async def _settle(self, orders: list[Order]) -> "list[Answer | Exception]":
        """What became of the first of them, of all where nobody else writes. Raises StoreError."""
        maybe: list[_Draft] = []  # sent, and not answered
        deadline, pause_s, refused = time.monotonic() + self._busy_wait_s, RETRY_FIRST_S, 0
        while True:
            sent = False
            try:
                for draft in maybe:
                    if await self._is_written(draft):
                        return self._written(draft)
                draft = await self._judged(orders)
                if not draft.writing.lines:
                    return draft.answers
                maybe.append(draft)
                sent = True
                if await self._write(draft):
                    return self._written(draft)
                maybe.pop()
            except FAILURES as error:
                if sent and not passing(error):  # it was answered, and nothing was written
                    maybe.pop()
                if not passing(error) or time.monotonic() + pause_s > deadline:
                    if maybe:
                        return [_unknown(answer, maybe[0]) for answer in maybe[0].answers]
                    raise self._server.error(error) from error
                await asyncio.sleep(pause_s)
                pause_s = min(RETRY_MAX_S, 2 * pause_s)
                continue
            # Fewer are read and judged sooner, so that whoever brings many is not always too late.
            self._together = max(1, len(orders) // 2)
            orders, refused = orders[: self._together], refused + 1
            if time.monotonic() > deadline:
                raise self._contended()
            await asyncio.sleep(uniform(0, min(PAUSE_MAX_S, PAUSE_FIRST_S * 2**refused)) if refused > 1 else 0)  # noqa: S311

    async def _judged(self, orders: Sequence[Order]) -> _Draft:
        """Raises what the client raises, and StoreError for a head that nothing may be built on."""
        needs, fetched = Needs(), Fetched()
        for order in orders:
            note_needs(order, needs)
        head = self._recognise(await self._look.head(needs, fetched))
        for _ in range(READS_MAX):
            writing = Writing(fetched, head.top, self._keys, self._now(), _salt)
            missing: list[Needs] = []
            answers = [_answer(order, writing, missing) for order in orders]
            if not missing:
                return _Draft(head, writing, answers)
            await self._look.head(_all(missing), fetched)
        raise StoreError("an order of the ledger looks at more than it may")

    def _recognise(self, raw: bytes | None) -> Head:
        """The head. Raises StoreError for one that nothing may be built on."""
        head = read_head(raw, self._keys)
        seq, link, _ = head.top
        if seq < self._seen.seq or (seq == self._seen.seq and link != self._seen.link):
            hint = f"restore its data; or, to accept the loss, take {self._keys.head_file} away on each machine"
            text = f"the ledger in {self._server.address} went back in time: it had {self._seen.seq} records and has"
            raise Rewound(f"{text} {seq}, or others", hint=hint)
        return head

    def _written(self, draft: _Draft) -> "list[Answer | Exception]":
        writing = draft.writing
        if writing.seq > self._seen.seq:
            self._seen = Noted(writing.seq, writing.link)
            self._keys.write_head(self._seen)
        self._together = min(TOGETHER_MAX, 2 * max(self._together, len(draft.answers)))
        return draft.answers

    def _contended(self) -> StoreBusy:
        return StoreBusy(f"others keep writing to the ledger in {self._server.address}", hint="try again")

    # To and fro

    async def _write(self, draft: _Draft) -> bool:
        """Whether it is written; else the head was another. Raises what the client raises: it may be written then."""
        head, writing = draft.head, draft.writing
        tree = head.tree
        for line in writing.lines:
            tree.add(line.link)
        after = make_head(Top(writing.seq, writing.link, writing.at), tree, self._keys)
        new = [*_lines(self._names, writing.lines), *_fields(self._names, writing), *_books(writing)]
        is_due = writing.seq // LEDGER_CHECKPOINT_RECORDS > head.top.seq // LEDGER_CHECKPOINT_RECORDS
        return await self._send(head, after, [*new, *(self._checkpoint(after, writing.at) if is_due else ("0",))])

    async def _send(self, head: Head, after: Head, new: Sequence[Word]) -> bool:
        answer = await self._append(keys=[self._names.base], args=[head.raw, after.raw, *new])
        if answer == b"beyond":
            what = f"there are records after the newest one ({head.top.seq}) that the ledger knows of"
            raise StoreError(f"{self._server.address}: {what}", hint=HINT)
        return bool(answer == b"ok")

    async def _is_written(self, draft: _Draft) -> bool:
        """Whether its last record is there: a script is done wholly or not at all."""
        line = draft.writing.lines[-1]
        seq = f"{line.record.seq}-0"
        found = await self._client.xrange(self._names.key("records"), seq, seq)
        return bool(found) and found[0][1].get(b"link") == line.link

    def _checkpoint(self, head: Head, at: float) -> tuple[str, ...]:
        signed = self._keys.sign(head.top.seq, head.tree.root, at)
        return "1", str(signed.count), signed.root, repr(signed.at), signed.signature


def _answer(order: Order, writing: Writing, missing: list[Needs]) -> Answer | Exception:
    try:
        return judge(order, writing)
    except Unread as unread:
        missing.append(unread.needs)
    except P2EngineError as error:
        return error
    except (ValueError, OverflowError) as error:
        return UsageError(f"this cannot be stored: {error}")
    return False  # of no account: all are judged again with what is missing


def _all(several: Sequence[Needs]) -> Needs:
    together = Needs()
    for needs in several:
        together.accounts |= needs.accounts
        together.orders |= needs.orders
        together.holds |= needs.holds
        together.scopes |= needs.scopes
    return together


def _lines(names: Names, lines: Sequence[Line]) -> Iterator[Word]:
    yield len(lines)
    for record, body, link, seal, *rows in lines:
        found_by = {names.of(row.key.book, row.key.name) for row in rows if row and (row.place or row.moved)}
        words: tuple[Word, ...] = (record.seq, text(record.id), body, link, seal, len(found_by))
        yield from (*words, *found_by)


def _fields(names: Names, writing: Writing) -> Iterator[Word]:
    scopes, holds = text(names.key("scopes")), text(names.key("holds"))
    fields = [(names.book(row.key.book), field_of(row.key), write_row(row)) for row in writing.moved]
    fields += [(scopes, scope_field(key), write_scope(scope)) for key, scope in writing.counted]
    fields += [(holds, text(record.id), b"") for record in writing.holds]
    fields += [(holds, text(hold), text(order)) for hold, order in writing.ends.items()]
    yield len(fields)
    for row in fields:
        yield from row


def _books(writing: Writing) -> Iterator[Word]:
    books = {row.key.book for row in writing.moved if not row.place}
    yield len(books)
    yield from map(text, books)


def _unknown(answer: Answer | Exception, draft: _Draft) -> Answer | Exception:
    """What can be said of an order whose record may be written or not."""
    if isinstance(answer, bool):
        return StoreBusy("the ledger has not answered: whether the wallet is open is unknown", hint="try again")
    if isinstance(answer, Receipt) and answer.id in {line.record.id for line in draft.writing.lines}:
        return msgspec.structs.replace(answer, status="unknown", left=None, refusal=None, why="the ledger is away")
    return answer

"""Reads all of a ledger in Redis for an audit or a proof, in pages. Judges nothing.

Opens nothing of the ledger, so that one which is too damaged to be used can still be looked at.
"""

import asyncio
import math
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from p2engine.domain.money import Audit, Checkpoint, Finding, Proof
from p2engine.errors import StoreBusy, StoreError, UsageError
from p2engine.ledgers.auditing import Plain, Stop, Told, Walk, make_proof
from p2engine.ledgers.keys import IN_REDIS, PUBLIC_MEND, Keys
from p2engine.ledgers.redis_rows import (
    HINT,
    Fetched,
    Look,
    Names,
    key_of,
    number,
    read_checkpoint,
    read_head,
    scope_key,
    text,
)
from p2engine.ledgers.redis_scripts import scripts
from p2engine.ledgers.writing import AccountKey, Needs, Top
from p2engine.stores.redis_server import RedisServer

PAGE_RECORDS: Final = 1000

_Seen = tuple[Told, Plain, Plain, Any]


async def verify(server: RedisServer, folder: Path, published: Checkpoint | None = None) -> Audit:
    """Look through the ledger under the server's prefix, with the key and head in `folder`.

    published: a checkpoint that was kept elsewhere, which its records must be those of. Raises StoreBusy where the
    server is away.
    """
    keys = await asyncio.to_thread(Keys.found, folder, head=IN_REDIS)
    try:
        return await _Looking(server, keys).audit(published)
    except StoreBusy:
        raise
    except StoreError as error:
        finding = Finding("unreadable", str(error))
        return Audit(records=0, accounts=0, findings=(finding,), sealed=keys is not None)


class _Looking:
    """One audit."""

    def __init__(self, server: RedisServer, keys: Keys | None) -> None:
        self._server = server
        self._client: Any = server.client
        self._names = Names(server.address.prefix)
        self._scripts = scripts(server.client)
        self._keys = keys
        self._opened: set[Plain] = set()

    async def audit(self, published: Checkpoint | None) -> Audit:
        noted, damage = self._keys.look_at_head() if self._keys else (None, "")
        schema, public = await self._ask(self._client.hmget, self._names.key("meta"), "schema", "ledger")
        doubt = self._keys.doubt_public() if self._keys and public != self._keys.public.encode() else ""
        name = self._keys.public if self._keys else (public or b"").decode(errors="replace")
        walk = Walk(self._keys, noted, damage, await self._checkpoints(name))
        if schema is not None and not schema.isdigit():
            walk.found("changed", "the schema that the ledger names is none: it was changed")
        if doubt:
            walk.found("changed", f"{doubt}; {PUBLIC_MEND}")
        if published is not None:
            walk.hold_to(published, name)
        if public is None and noted is not None:
            walk.found("replaced", f"the ledger is gone: it had {noted.seq} records", 1)
            return walk.audit()
        if self._keys is not None and public not in (None, self._keys.public.encode()):
            walk.found("replaced", "this is another ledger: it was written with another key")
        with suppress(Stop):
            await self._records(walk)
            await self._rest(walk)
        return walk.audit()

    async def _checkpoints(self, public: str) -> dict[int, Checkpoint]:
        found = await self._ask(self._client.xrange, self._names.key("checkpoints"))
        return {number(entry): read_checkpoint(entry, fields, public) for entry, fields in found}

    async def _records(self, walk: Walk, until: float = math.inf) -> None:
        """Go on over the records, as far as there are any. Raises Stop."""
        asked, page = walk.count, await self._page(walk.count, until)
        while page:
            lines = [(number(page[at]), *page[at + 1 : at + 4]) for at in range(0, len(page), 4)]
            asked += len(lines)
            following = asyncio.ensure_future(self._page(asked, until))  # comes while this one is looked through
            told: list[_Seen] = []

            def note(*record: Any, to: list[Any] = told) -> bool:
                to.append(record)
                return True

            try:
                await asyncio.to_thread(walk.over, lines, lambda account: account, note)
            finally:
                page = await following
                await self._found(walk, told)

    async def _page(self, count: int, until: float) -> list[bytes]:
        """The records after the first `count`."""
        left = int(min(PAGE_RECORDS, until - count))
        page: list[bytes] = await self._script("page", count + 1, left) if left > 0 else []
        return page

    async def _found(self, walk: Walk, told: list[_Seen]) -> None:
        """Whether records are found by their ids, and by whose money they move."""
        if not told:
            return
        by_account: dict[bytes, list[int]] = {}
        for record, giver, taker, _ in told:
            if record.type != "refusal":
                self._opened |= {giver, taker}
            for key in {giver[:2]: giver, taker[:2]: taker}.values():
                if key in self._opened:
                    by_account.setdefault(self._names.of(*key[:2]), []).append(record.seq)
        ids = [text(record.id) for record, *_ in told]
        seqs = await self._ask(self._client.hmget, self._names.key("ids"), ids)
        lost = {record.seq for (record, *_), seq in zip(told, seqs, strict=True) if seq != b"%d" % record.seq}
        first, last = told[0][0].seq, told[-1][0].seq
        answers = await self._script("found", first, last, *by_account)
        for kept, expected in zip(answers, by_account.values(), strict=True):
            if kept != b" ".join(b"%d-0" % seq for seq in expected):
                lost |= {*expected} - {number(one) for one in kept.split()}
        for record, *_ in told:
            if record.seq in lost:
                what = f"record {record.seq} ({record.id}) is not found by its id, or by whose money it moves"
                walk.found("changed", what, record.seq)

    async def _rest(self, walk: Walk) -> None:
        """What is kept beside the records, at a moment up to which all of them are known. Raises Stop."""
        raw, books, scopes, holds, ids = await self._script("kept")
        top = _top(walk, raw, self._keys)
        await self._records(walk, top.seq)  # that were written since the last look
        walk.end()
        if top.seq > walk.count:
            what = f"records {walk.count + 1} to {top.seq} were written and are gone: the tail was cut"
            walk.found("cut", what, walk.count + 1)
        elif top != (walk.count, walk.link, top.at):
            walk.found("changed", f"the newest record is {walk.count}, and the ledger's head says otherwise")
        walk.compare(
            [account for book, fields in books for account in _accounts(book.decode(errors="replace"), fields)],
            {scope_key(name): value.decode(errors="replace").split() for name, value in _pairs(scopes)},
            {held.decode(errors="replace"): ended.decode(errors="replace") for held, ended in _pairs(holds)},
        )
        if ids != walk.count:
            walk.found("balance", f"{ids} ids are kept, of {walk.count} records")

    async def _script(self, name: str, *arguments: object) -> Any:
        return await self._ask(self._scripts[name], keys=[self._names.base], args=arguments)

    async def _ask(self, call: Any, *arguments: Any, **named: Any) -> Any:
        return await self._server.patiently(partial(call, *arguments, **named))


def _top(walk: Walk, raw: bytes, keys: Keys | None) -> Top:
    try:
        return read_head(raw, keys).top
    except StoreError as error:
        walk.found("forged", str(error))
        return Top(walk.count, walk.link)


def _accounts(book: str, fields: list[bytes]) -> Iterator[tuple[AccountKey, str, list[str]]]:
    for name, value in _pairs(fields):
        *kept, owner = (value.decode(errors="replace").split(" ", 4) + [""] * 4)[:5]
        yield key_of(book, name), owner, kept


def _pairs(flat: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)


async def prove(server: RedisServer, order: str, newest: Checkpoint) -> Proof:
    """The way from a record to a checkpoint, which must be after it. Raises UsageError, and what the client raises."""
    names, client = Names(server.address.prefix), server.client
    look, links, fetched = Look(client, names), scripts(client)["links"], Fetched()
    await look.head(Needs(orders={order}), fetched)
    found = fetched.orders[order]
    if found is None:
        raise UsageError(f"no order {order!r} stands in the ledger")
    seq, body = found
    if newest.count < seq:
        raise StoreError(f"no checkpoint covers record {seq} yet")
    leaves: list[bytes] = []
    while len(leaves) < newest.count:
        page = await links(keys=[names.base], args=[len(leaves) + 1, min(PAGE_RECORDS, newest.count - len(leaves))])
        if not page:
            raise StoreError(f"record {len(leaves) + 1} of the ledger is missing", hint=HINT)
        leaves += page
    return make_proof(seq, body, leaves, newest)

"""Takes conversations, or branches of them, out of a Redis store: out of sight in one script, then out of the log.

The second half is done a piece at a time, so that no script runs long; a later call goes on where one was cut off.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn

import msgspec

from p2engine.domain.codec import encode
from p2engine.domain.ids import ConversationId, EffectId
from p2engine.domain.records import Pruning, Weight
from p2engine.errors import ConflictError, StoreError, UsageError
from p2engine.stores.redis_scripts import Scripts
from p2engine.stores.redis_server import RedisServer
from p2engine.stores.rows import owing, unlike

DRAINED_AT_ONCE: Final = 500  # rows that one script removes from the log
ASKED_AT_ONCE: Final = 500  # branches in one round trip

_json = msgspec.json.Encoder().encode


class Pruner:
    """What fills one server up, under its prefix."""

    def __init__(self, server: RedisServer, scripts: Scripts) -> None:
        self._server = server
        self._client: Any = server.client  # its types allow text, which this one never returns
        self._prefix = server.address.prefix
        self._scripts = scripts

    async def weigh(self, conversation: ConversationId) -> Weight:
        """Raises UsageError for a conversation that there is not."""
        return await self._patiently(lambda: self._weigh(conversation))

    async def _weigh(self, conversation: ConversationId) -> Weight:
        prefix, log = self._prefix, f"{self._prefix}:log:{conversation}"
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.exists(f"{prefix}:conversation:{conversation}")
            pipe.lrange(f"{prefix}:branches:{conversation}", 0, -1)
            pipe.xlen(log)
            pipe.xrevrange(log, count=1)
            pipe.memory_usage(log)
            there, refs, rows, newest, taken = await pipe.execute()
        if not there:
            raise UsageError(f"there is no conversation {conversation!r}")
        owed: list[EffectId] = []
        entries, size = 0, taken or 0
        for first in range(0, len(refs), ASKED_AT_ONCE):
            async with self._client.pipeline(transaction=False) as pipe:
                for ref in refs[first : first + ASKED_AT_ONCE]:
                    pipe.zrange(f"{prefix}:owed:{ref.decode()}", 0, -1)
                    pipe.memory_usage(f"{prefix}:stack:{ref.decode()}")
                    pipe.hmget(f"{prefix}:branch:{ref.decode()}", "at", "head")
                answers = await pipe.execute()
            owed += [EffectId(effect.decode()) for effects in answers[::3] for effect in effects]
            size += sum(taken or 0 for taken in answers[1::3])
            entries += sum(int(head or 0) - int(at or 0) for at, head in answers[2::3])
        row = int(newest[0][0].partition(b"-")[0]) if newest else 0
        return Weight(len(refs), entries, rows, size, row, tuple(owed))

    async def prune(self, pruning: Pruning) -> None:
        """Raises UsageError, ConflictError and StoreError. What is out of sight when it is cut off stays so."""
        fact, known = pruning.fact, self._scripts.known
        plan: dict[str, Any] = {
            "conversation": pruning.conversation,
            "row": str(pruning.row),
            "branches": pruning.branches,
            "rows": [str(row) for row in pruning.rows],
            "fact": {"id": fact.id, "kind": fact.kind},
            **known._asdict(),
        }
        if pruning.keeps is not None:
            plan["keeps"] = dict(pruning.keeps)
        answer = await self._scripts("prune", _json(plan), encode(fact))
        if answer[0] != b"ok":
            _refuse(pruning, answer)
        self._scripts.saw(int(answer[1]), known.wrote)
        await self.drain()

    async def drain(self) -> None:
        """Remove from the log what was pruned, also by somebody who did not come to it."""
        while int((await self._scripts("drain", DRAINED_AT_ONCE))[1]):
            pass

    async def _patiently(self, call: Callable[[], Awaitable[Weight]]) -> Weight:
        return await self._server.patiently(call)


def _refuse(pruning: Pruning, answer: list[Any]) -> NoReturn:
    """Raise what a refusal of the script means."""
    why, *more = [part.decode() if isinstance(part, bytes) else part for part in answer]
    match why, more:
        case "no conversation", _:
            raise UsageError(f"there is no conversation {pruning.conversation!r}")
        case "owed", effects:
            raise owing(pruning.conversation, [EffectId(effect) for effect in effects])
        case "moved", _:
            raise unlike(pruning.conversation)
        case "current", [ref]:
            raise ConflictError(f"branch {ref} is the current one, and stays")
        case "rooted", [ref, parent, at]:
            raise ConflictError(f"branch {ref} stands on {at} entries of {parent}, which stay")
        case _:
            raise StoreError(f"the pruning script answered {answer!r}")

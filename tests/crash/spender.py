"""A process whose agent pays, and that may be killed by its own hand at one place on the way. A program.

python -m tests.crash.spender PROJECT PLACE
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from p2engine.domain.money import Receipt, Transfer
from p2engine.domain.records import Batch, Written
from p2engine.ports import AuditableLedger
from p2engine.wiring import Engine

Place = Literal["before the payment", "before the result", "before the event", "after the result"]
PLACES: tuple[Place, ...] = get_args(Place)
TASK = "Transfer 25 to agent_beta for helping"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly:
    """The ledger as it is, around whose payment the process dies."""

    def __init__(self, ledger: AuditableLedger, place: str) -> None:
        self._ledger = ledger
        self._place = place
        self.has_paid = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def transfer(self, *transfers: Transfer) -> Sequence[Receipt]:
        if self._place == "before the payment":
            die()
        receipts = await self._ledger.transfer(*transfers)
        self.has_paid = True
        if self._place == "before the result":
            die()
        return receipts


def strike(engine: Engine, place: str) -> None:
    """Have this process die there."""
    world = engine.world
    door, write = world.ledger, world.store.write
    assert door is not None
    opened: list[Deadly] = []

    async def deadly_door() -> Any:
        if not opened:
            opened.append(Deadly(await door(), place))
        return opened[0]

    async def deadly_write(batch: Batch) -> Written:
        has_paid = bool(opened) and opened[0].has_paid
        if has_paid and place == "before the event" and batch.conversation is None:
            die()
        written: Written = await write(batch)
        if has_paid and place == "after the result" and batch.settles:
            die()
        return written

    world.ledger = deadly_door
    _exchange(world.store, deadly_write)


def _exchange(store: Any, write: Callable[[Batch], Awaitable[Written]]) -> None:
    store.write = write


async def main(project: Path, place: str) -> None:
    async with Engine.open(project) as engine:
        strike(engine, place)
        await (await engine.conversation("paying", agent="agent_alpha")).say(TASK)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))

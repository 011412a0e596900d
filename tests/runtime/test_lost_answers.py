"""Writes that were done and whose answer was lost: the process finds what it owns, and nothing is done twice."""

import asyncio
import random
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest

from p2engine.domain.records import Batch, Written
from p2engine.errors import StoreBusy
from p2engine.limits import SWEEP_PERIOD_S
from p2engine.ports import ToolContext
from p2engine.testing.virtual_time import run as run_virtually
from tests.runtime.conftest import Stage
from tests.runtime.test_store_failures import PATIENCE_S, REPEATS, Failing, act, answered, says, wait


class Forgetful(Failing):
    """A store double that does some writes and then says that it did not. `loses` is asked about each batch."""

    loses: Any = staticmethod(lambda batch: False)

    async def write(self, batch: Batch) -> Written:
        written = await super().write(batch)
        if self.loses(batch):
            self.refused += 1
            raise StoreBusy("the connection was lost")
        return written


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_failure_35_an_answer_that_is_lost_loses_no_turn(first: int) -> None:
    """Tools of every class, delegates side by side, a cancelled turn: a third of all answers never come."""

    async def main(seed: int) -> None:
        chance = random.Random(seed)
        stage = await Stage.open()
        store = Forgetful(stage.store)
        ran: list[str] = []

        async def tool(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
            ran.append(ctx.idempotency_key)
            return "done"

        agents = dict.fromkeys(("boss", "ann", "bob"), act)
        engine = stage.engine(agents, dict.fromkeys(REPEATS, tool), REPEATS, store=store)
        await engine.start()
        conversation = await engine.conversation("demo", agent="boss")
        store.loses = lambda batch: chance.random() < 0.33
        for number in range(2):
            await says(conversation, f"m{number}")
            if chance.random() < 0.3:
                with suppress(StoreBusy):
                    await conversation.cancel()
            await answered(engine, conversation)
        store.loses = lambda batch: False
        async with asyncio.timeout(PATIENCE_S):
            while await stage.owed(conversation) or engine.world.kept:
                await wait(SWEEP_PERIOD_S)
        assert store.refused
        assert len(ran) == len(set(ran)), f"seed {seed}: done twice"
        await stage.aclose()

    for seed in range(first, first + 20):
        run_virtually(main(seed))

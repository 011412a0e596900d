"""A store that fails for a while: what was done is kept and written when it is back, and nothing is done twice."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytest

from p2engine.domain.decisions import Decision, Delegate, Move, Say, UseTool
from p2engine.domain.ids import AgentId
from p2engine.domain.messages import Usage
from p2engine.domain.records import Batch, Written
from p2engine.domain.setup import Repeat
from p2engine.domain.states import AssistantMessage, Finished, ToolResult
from p2engine.errors import StoreBusy, StoreError
from p2engine.limits import SWEEP_PERIOD_S
from p2engine.ports import AgentView, ToolContext
from p2engine.runtime.conversation import Conversation
from p2engine.runtime.engine import Engine
from p2engine.stores.sqlite import SqliteStore
from p2engine.testing.virtual_time import run as run_virtually
from tests.runtime.conftest import Gate, Script, Stage, states_of

ANN, BOB = AgentId("ann"), AgentId("bob")
PATIENCE_S = 600.0  # virtual


class Failing:
    """A store double: SQLite behind a disk that refuses some writes, or a network that loses some answers to them.

    refuses, loses: asked about each batch, before and after it is written.
    """

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.refuses: Any = lambda batch: None
        self.loses: Any = lambda batch: None
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, batch: Batch) -> Written:
        error = self.refuses(batch)
        if error is not None:
            self.refused += 1
            raise error
        written = await self._store.write(batch)
        error = self.loses(batch)
        if error is not None:
            self.refused += 1
            raise error
        return written


async def wait(seconds: float) -> None:
    """So much virtual time."""
    later = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, later.set)
    await later.wait()


async def answered(engine: Engine, conversation: Conversation) -> None:
    """Whoever resumes is told of failures, and of the end once the store is back."""
    async with asyncio.timeout(PATIENCE_S):
        while not isinstance((await conversation.stack()).ground, Finished):
            await wait(SWEEP_PERIOD_S)


def writes(kind: type, times: int, error: StoreError) -> Any:
    """Refuse so many batches that put such a state on a stack."""
    left = times

    def refuses(batch: Batch) -> StoreError | None:
        nonlocal left
        if left and any(isinstance(state, kind) for write in batch.writes for state in write.commit.states):
            left -= 1
            return error
        return None

    return refuses


@pytest.mark.parametrize("times", [1, 5])
@pytest.mark.parametrize("error", [StoreBusy("locked"), StoreError("on a full disk")], ids=["busy", "full"])
def test_failure_35_an_outcome_outlives_a_store_that_fails(times: int, error: StoreError) -> None:
    """A tool has run and a model was paid while the disk was gone: both are written later, neither is asked again."""

    async def main() -> None:
        ran: list[str] = []

        async def pay(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
            ran.append(ctx.idempotency_key)
            return "paid"

        for kind in (ToolResult, AssistantMessage):
            stage = await Stage.open()
            store = Failing(stage.store)
            store.refuses = writes(kind, times, error)
            paid = Usage(model="m", tokens_in=1, cost_usd=0.1)
            boss = Script(Decision((UseTool("pay"),), paid), Decision((Say("done"),), paid))
            engine = stage.engine({"boss": boss}, {"pay": pay}, {"pay": "never"}, store=store)
            await engine.start()
            conversation = await engine.conversation("demo", agent="boss")
            with pytest.raises(type(error), match=error.message):  # whoever waits is told
                await conversation.say("pay")
            await answered(engine, conversation)

            assert store.refused == times
            assert len(ran) == 1
            assert len(boss.views) == 2
            assert (await conversation.stack()).reply == "done"
            assert (await conversation.stack()).spent.usd == pytest.approx(0.2)
            results = [state.status for state in await states_of(conversation) if isinstance(state, ToolResult)]
            assert results == ["ok"]
            assert await stage.owed(conversation) == []
            assert engine.world.kept == {}
            assert (await conversation.say("again")).finished == "answered"
            ran.clear()
            await stage.aclose()

    run_virtually(main())


def test_failure_35_a_message_that_was_not_written_is_said_again() -> None:
    """The disk refused the message itself: its sender is told, nothing stands, and the next try works."""

    async def main() -> None:
        stage = await Stage.open()
        store = Failing(stage.store)
        engine = stage.engine({"boss": Script("hello")}, store=store)
        conversation = await engine.conversation("demo", agent="boss")
        store.refuses = lambda batch: StoreError("on a full disk") if batch.writes else None
        with pytest.raises(StoreError, match="full disk"):
            await conversation.say("one")
        assert await conversation.commits() == []
        store.refuses = lambda batch: None
        assert (await conversation.say("one")).text == "hello"
        assert (await conversation.stack()).turn == 1
        await stage.aclose()

    run_virtually(main())


def test_a_start_that_was_not_written_is_no_start() -> None:
    """A call that never repeats runs only once the store knows that it begins; before that it is simply tried again."""

    async def main() -> None:
        stage = await Stage.open()
        store = Failing(stage.store)
        ran: list[str] = []

        async def pay(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
            ran.append(ctx.idempotency_key)
            return "paid"

        left = 3

        def refuses(batch: Batch) -> StoreError | None:
            nonlocal left
            left -= bool(batch.starts)
            return StoreBusy("locked") if batch.starts and left >= 0 else None

        store.refuses = refuses
        boss = Script([UseTool("pay")], "done")
        engine = stage.engine({"boss": boss}, {"pay": pay}, {"pay": "never"}, store=store)
        await engine.start()
        conversation = await engine.conversation("demo", agent="boss")
        with pytest.raises(StoreBusy):
            await conversation.say("pay")
        assert ran == []
        await answered(engine, conversation)
        assert len(ran) == 1
        assert [s.status for s in await states_of(conversation) if isinstance(s, ToolResult)] == ["ok"]
        await stage.aclose()

    run_virtually(main())


def test_a_sweep_that_fails_is_tried_again() -> None:
    """The sweeper outlives a store that is gone, and forgets none of the jobs that failed."""

    async def main() -> None:
        stage = await Stage.open()
        store = Failing(stage.store)
        gone = True

        async def due(*, limit: int) -> Any:
            if gone:
                raise StoreBusy("gone")
            return await stage.store.due(limit=limit)

        store.due = due  # type: ignore[attr-defined]
        store.refuses = writes(AssistantMessage, 1, StoreBusy("gone"))
        engine = stage.engine({"boss": Script("hello")}, store=store)
        await engine.start()
        conversation = await engine.conversation("demo", agent="boss")
        with pytest.raises(StoreBusy):
            await conversation.say("one")
        await wait(10 * SWEEP_PERIOD_S)
        assert not isinstance((await conversation.stack()).ground, Finished)
        gone = False
        await answered(engine, conversation)
        assert (await conversation.stack()).reply == "hello"
        await stage.aclose()

    run_virtually(main())


def test_seam_08_a_late_outcome_outlives_a_store_that_fails() -> None:
    """The event that tells of it is written when the store is back."""

    async def main() -> None:
        stage = await Stage.open()
        store = Failing(stage.store)
        gate = Gate()

        async def pay(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
            await gate.pass_through()
            return "paid"

        engine = stage.engine({"boss": Script([UseTool("pay")])}, {"pay": pay}, {"pay": "never"}, store=store)
        await engine.start()
        conversation = await engine.conversation("demo", agent="boss")
        saying = asyncio.create_task(conversation.say("pay"))
        await gate.reached.wait()
        await conversation.cancel()
        await saying
        left = 2

        def refuses(batch: Batch) -> StoreError | None:
            nonlocal left
            left -= bool(batch.facts)
            return StoreBusy("locked") if batch.facts and left >= 0 else None

        store.refuses = refuses
        gate.open.set()
        async with asyncio.timeout(PATIENCE_S):
            while not await stage.events("effect.late"):
                await wait(SWEEP_PERIOD_S)
        assert store.refused == 2
        assert engine.world.kept == {}
        await stage.aclose()

    run_virtually(main())


async def act(view: AgentView) -> Sequence[Move]:
    """An agent double: tools and delegates at once for the boss, one tool for the others, then an answer."""
    if view.fragments[-1].message.role != "user":
        return [Say("done")]
    return [UseTool("book")] if view.agent != "boss" else [UseTool("look"), UseTool("pay"), *HELP]


HELP = (Delegate(ANN, "go"), Delegate(BOB, "go"))
REPEATS: Mapping[str, Repeat] = {"look": "free", "book": "idempotent", "pay": "never"}


async def says(conversation: Conversation, text: str) -> None:
    """Until it stands: what happens after that is not the speaker's business."""
    turn = (await conversation.stack()).turn
    while (await conversation.stack()).turn == turn:
        with suppress(StoreBusy):
            await conversation.say(text)


@pytest.mark.parametrize("first", range(0, 60, 20))
@pytest.mark.parametrize("how", ["refuses", "loses"])
def test_failure_35_whatever_write_fails_the_turn_ends_and_nothing_is_done_twice(how: str, first: int) -> None:
    """Tools of every class, delegates side by side, a cancelled turn: a third of all writes refused, or done and never
    answered, at random.
    """

    async def main(seed: int) -> None:
        chance = random.Random(seed)
        stage = await Stage.open()
        store = Failing(stage.store)
        ran: list[str] = []

        async def tool(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
            ran.append(ctx.idempotency_key)
            return "done"

        agents = dict.fromkeys(("boss", "ann", "bob"), act)
        engine = stage.engine(agents, dict.fromkeys(REPEATS, tool), REPEATS, store=store)
        await engine.start()
        conversation = await engine.conversation("demo", agent="boss")
        setattr(store, how, lambda batch: StoreBusy("locked") if chance.random() < 0.33 else None)
        for number in range(2):
            await says(conversation, f"m{number}")
            if chance.random() < 0.3:
                with suppress(StoreBusy):
                    await conversation.cancel()
            await answered(engine, conversation)
        setattr(store, how, lambda batch: None)
        async with asyncio.timeout(PATIENCE_S):
            while await stage.owed(conversation) or engine.world.kept:
                await wait(SWEEP_PERIOD_S)
        assert store.refused
        assert len(ran) == len(set(ran)), f"seed {seed}: done twice"
        await stage.aclose()

    for seed in range(first, first + 20):
        run_virtually(main(seed))

"""Sinks watch: they get every event from the engine's start to its end, and none of them is in the way of anybody."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from p2engine.domain.records import Cursor, Event
from p2engine.errors import StoreBusy
from p2engine.limits import SHUTDOWN_GRACE_S
from p2engine.ports import AgentView
from p2engine.testing.virtual_time import run as run_virtually
from tests.runtime.conftest import Stage


class Collecting:
    """A sink double that keeps what it gets; `on_emit` may delay or refuse it."""

    def __init__(self, on_emit: Callable[[Event], Any] | None = None) -> None:
        self.ids: list[str] = []
        self.ended = asyncio.Event()  # the end of a turn has come
        self.closed = 0
        self._on_emit = on_emit

    async def emit(self, event: Event) -> None:
        if self._on_emit:
            await self._on_emit(event)
        self.ids.append(event.id)
        if event.kind == "state.finished":
            self.ended.set()

    async def aclose(self) -> None:
        self.closed += 1


async def hello(view: AgentView) -> str:
    return "hello"


async def ids(stage: Stage) -> list[str]:
    return [event.id for event in await stage.events()]


def test_closing_loses_nothing() -> None:
    """What is in the log when the engine closes has reached every sink that keeps up, in order."""

    async def main() -> None:
        stage = await Stage.open()
        sinks = [Collecting(), Collecting()]
        engine = stage.engine({"boss": hello}, sinks=sinks)
        await engine.start()
        conversation = await engine.conversation("demo", agent="boss")
        for number in range(5):
            await conversation.say(f"m{number}")
        logged = await ids(stage)
        await engine.aclose()
        assert [sink.ids for sink in sinks] == [logged, logged]
        assert [sink.closed for sink in sinks] == [1, 1]

    run_virtually(main())


def test_a_sink_gets_what_happens_from_its_start_on() -> None:
    """Not what was in the log before; and closing where nothing happened since waits for nothing."""

    async def main() -> None:
        stage = await Stage.open()
        conversation = await stage.engine({"boss": hello}).conversation("demo", agent="boss")
        await conversation.say("before")
        before = len(await ids(stage))
        quiet, talking = Collecting(), Collecting()

        engine = stage.engine({"boss": hello}, sinks=[quiet])
        await engine.start()
        await asyncio.sleep(0)
        began = asyncio.get_running_loop().time()
        await engine._fanout.aclose()
        assert asyncio.get_running_loop().time() == began
        assert quiet.ids == []

        engine = stage.engine({"boss": hello}, sinks=[talking])
        await engine.start()
        await (await engine.conversation("demo")).say("after")
        logged = await ids(stage)
        await engine.aclose()
        assert talking.ids == logged[before:]
        await stage.aclose()

    run_virtually(main())


def test_a_sink_that_fails_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """What it refused is counted under its name; the others get everything, and so does it afterwards."""

    class Picky(Collecting):
        async def emit(self, event: Event) -> None:
            if event.kind == "state.waiting":
                raise RuntimeError("not this one")
            await super().emit(event)

        async def aclose(self) -> None:
            raise RuntimeError("nor this")

    async def main() -> None:
        stage = await Stage.open()
        sinks = [Picky(), Collecting()]
        engine = stage.engine({"boss": hello}, sinks=sinks)
        await engine.start()
        reply = await (await engine.conversation("demo", agent="boss")).say("go")
        logged = await ids(stage)
        await engine.aclose()
        assert reply.text == "hello"
        assert sinks[1].ids == logged
        assert len(sinks[0].ids) == len(logged) - 1
        assert engine.dropped == {"Picky": 1}
        assert sinks[1].closed == 1
        assert "sink Picky failed at its end" in caplog.text

    with caplog.at_level(logging.WARNING, "p2engine.sinks"):
        run_virtually(main())


def test_a_sink_that_hangs_holds_up_nobody() -> None:
    """Neither the conversation nor another sink; the engine closes after the grace period."""

    async def never(event: Event) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        stage = await Stage.open()
        sinks = [Collecting(never), Collecting()]
        engine = stage.engine({"boss": hello}, sinks=sinks)
        await engine.start()
        conversation = await engine.conversation("demo", agent="boss")
        for number in range(3):
            assert (await conversation.say(f"m{number}")).text == "hello"
        logged = await ids(stage)
        began = asyncio.get_running_loop().time()
        await engine.aclose()
        assert sinks[0].ids == []
        assert sinks[1].ids == logged
        assert asyncio.get_running_loop().time() - began == pytest.approx(SHUTDOWN_GRACE_S)

    run_virtually(main())


def test_a_slow_sink_gets_everything_in_time() -> None:
    """One that lags is given the grace period at the end."""

    async def slow(event: Event) -> None:
        later = asyncio.Event()
        asyncio.get_running_loop().call_later(SHUTDOWN_GRACE_S / 100, later.set)
        await later.wait()

    async def main() -> None:
        stage = await Stage.open()
        sink = Collecting(slow)
        engine = stage.engine({"boss": hello}, sinks=[sink])
        await engine.start()
        await (await engine.conversation("demo", agent="boss")).say("go")
        logged = await ids(stage)
        await engine.aclose()
        assert sink.ids == logged

    run_virtually(main())


def test_failure_17_a_sink_goes_on_without_gaps_after_the_store_failed() -> None:
    """A read that fails for a while is tried again from the event where it stopped."""

    async def main() -> None:
        stage = await Stage.open()
        sink = Collecting()
        engine = stage.engine({"boss": hello}, sinks=[sink])
        real = stage.store.tail
        failures = 0

        async def failing(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
            nonlocal failures
            async for event in events:
                if failures < 3 and event.kind == "state.finished":
                    failures += 1
                    raise StoreBusy("locked")
                yield event

        def tail(after: Cursor, *, whole: bool = True) -> AsyncIterator[Event]:
            return failing(real(after, whole=whole))

        stage.store.tail = tail  # type: ignore[method-assign]
        await engine.start()
        await (await engine.conversation("demo", agent="boss")).say("go")
        logged = await ids(stage)
        async with asyncio.timeout(60):
            await sink.ended.wait()
        await engine.aclose()
        assert failures == 3
        assert sink.ids == logged

    run_virtually(main())

"""The Celery dispatcher keeps the dispatcher's contract, with a real broker and Celery's worker at its other end."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator

import pytest
from celery.worker import WorkController
from celery.worker import state as celery_state

from p2engine.dispatch.celery import PERFORM, QUEUES, TICKS, Broker, CeleryDispatcher, celery_app
from p2engine.dispatch.inline import InlineDispatcher
from p2engine.domain.ids import EffectId
from p2engine.domain.records import Job, Perform
from p2engine.testing.contracts.dispatcher import Dispatch, DispatcherContract, OnError, Run
from tests.servers import ValkeyServer

JOIN_S = 8.0
POLL_S = 0.05  # a worker that is told to stop looks up this often


class Distributed:
    """Both ends in one process: what is submitted goes to the broker, and from there to a worker that does it here."""

    def __init__(
        self,
        broker: Broker,
        run: Run,
        on_error: OnError,
        at_once: int,
    ) -> None:
        app = celery_app(broker, QUEUES)
        app.conf.broker_transport_options["polling_interval"] = POLL_S
        here = self._here = InlineDispatcher(run, on_error, jobs_max=at_once, grace_s=0.005)
        loop = asyncio.get_running_loop()

        def perform(effect: str, kind: str) -> None:
            job = Perform(EffectId(effect), kind)
            asyncio.run_coroutine_threadsafe(here.do(job), loop).result()

        app.task(name=PERFORM, shared=False)(perform)
        app.set_default()  # where the threads of a worker look for the task
        self._dispatcher = CeleryDispatcher(app, lambda _: TICKS, broker)
        self._worker = WorkController(
            app=app, concurrency=64, queues=[TICKS], without_gossip=True, without_mingle=True, without_heartbeat=True
        )
        self._thread = threading.Thread(target=self._worker.start, daemon=True)
        self._thread.start()

    async def submit(self, *jobs: Job) -> None:
        await self._dispatcher.submit(*jobs)

    async def aclose(self) -> None:
        await self._here.aclose()
        await self._dispatcher.aclose()
        celery_state.should_stop = 0
        await asyncio.to_thread(self._thread.join, JOIN_S)
        assert not self._thread.is_alive()


class TestCelery(DispatcherContract):
    @pytest.fixture
    def dispatch(self, server: ValkeyServer) -> Iterator[Dispatch]:
        def make(run: Run, on_error: OnError) -> Distributed:
            broker = Broker(url=server.url, shown=server.url, prefix=uuid.uuid4().hex)
            return Distributed(broker, run, on_error, self.AT_ONCE)

        yield make
        celery_state.should_stop = None

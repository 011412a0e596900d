"""The door for Celery: `celery -A p2engine.worker worker`, and what `p2engine worker` runs.

One engine on one asyncio loop, in a thread of its own; Celery's thread hands it messages, which are held until the loop
has done what they say. Knows Celery's signals and steps, and how a process ends: what runs may end, what does not is
handed back.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from functools import cache
from types import FrameType
from typing import Any, Final

import click
from celery import Celery, bootsteps, signals
from celery.exceptions import SecurityWarning
from celery.utils.text import str_to_list
from celery.worker import state as celery_state
from click.core import ParameterSource

from p2engine.cli.logs import logged
from p2engine.cli.output import safe
from p2engine.dispatch.celery import (
    BLOCKING_CONCURRENCY,
    CONCURRENCY,
    PERFORM,
    TICKS,
    WAKE,
    WORKER,
    celery_app,
    client_name,
    queues_of,
)
from p2engine.dispatch.celery_pool import pool_of
from p2engine.domain.ids import EffectId, StackRef
from p2engine.domain.records import Job, Perform, Wake
from p2engine.errors import ConfigError, P2EngineError, SetupError, UsageError
from p2engine.limits import SHUTDOWN_GRACE_S
from p2engine.probes import serving
from p2engine.settings import Settings
from p2engine.wiring import Engine, Part, broker_of

log = logging.getLogger("p2engine.worker")

STATUS: Final = {signal.SIGTERM: 143, signal.SIGINT: 130}
"""The exit status of a worker that was asked to end."""

YOUNG_MAX: Final = 20_000  # objects made before Python looks for cycles among them


class Node:
    """An engine on a loop in a thread of its own, for the other threads of its process."""

    def __init__(self, opened: Callable[[], AbstractAsyncContextManager[Engine]]) -> None:
        self._opened = opened
        self._engine: Future[Engine] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._lock = threading.Lock()  # of the loop's end
        self._thread = threading.Thread(target=self._run, name="p2engine-loop", daemon=True)

    def start(self) -> Engine:
        """Open the engine. Raises what opening it raises."""
        self._thread.start()
        return self._engine.result()

    def do(self, job: Job) -> "Future[bool]":
        """Have a job done, with what follows from it; from any thread. False, or cancelled: this process does no more.

        What closing cuts off, the engine hands to others itself.
        """
        with self._lock:
            if self._loop is not None:
                return asyncio.run_coroutine_threadsafe(self._do(job), self._loop)
        nothing: Future[bool] = Future()
        nothing.set_result(False)
        return nothing

    async def _do(self, job: Job) -> bool:
        await self._engine.result().inline.do(job)
        return True

    def end(self) -> None:
        """Begin to close, and return at once. Twice is once; may be called from a signal handler."""
        loop, ending = self._loop, self._ending
        if loop is not None and ending is not None:
            with suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(ending.set)

    def close(self) -> None:
        """Close the engine: what runs may end within the grace period, and the rest is handed back."""
        self.end()
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self._live())

    async def _live(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with self._opened() as engine:
                self._engine.set_result(engine)
                await self._ending.wait()
        except BaseException as error:
            if self._engine.done():
                log.exception("closing failed")
                raise
            self._engine.set_exception(error)
        finally:
            with self._lock:
                self._loop = None
            await asyncio.sleep(0)  # what was handed in before begins, so that the end of the loop cancels it


class Worker:
    """One worker process of a project, and its Celery application.

    sweeps: it looks for what nobody does. feeds: it hands events to the sinks. health: the port of its probes.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        sweeps: bool = True,
        feeds: bool = False,
        health: int | None = None,
        project_code: bool = True,
        debug: bool = False,
    ) -> None:
        """Raises UsageError where the settings have no workers."""
        if settings.dispatch != "celery":
            hint = "set dispatch to celery in config/config.json, or P2ENGINE_DISPATCH=celery"
            raise UsageError(f"dispatch is {settings.dispatch}: there is nothing for a worker to do", hint=hint)
        self.settings = without_stand_in(settings)
        self._sweeps, self._feeds, self._health = sweeps, feeds, health
        self._project_code, self._debug = project_code, debug
        self._client_name = client_name(WORKER, broker_of(settings))
        self._node: Node | None = None
        self._begun: Future[bool] | None = None  # by the task that was called last
        self._logs = ExitStack()
        self._is_ready = False
        self._is_ending = False
        self.app = self._application()

    def run(self, queues: tuple[str, ...] = (), concurrency: int | None = None) -> int:
        """Work until a signal comes. Returns the exit status. Raises P2EngineError for what keeps it from starting."""
        known = self._known(queues)
        self.open(frozenset(queues or known))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SecurityWarning)  # root and pickle: no message holds a pickle here
                worker = self.app.Worker(
                    queues=list(queues or known),
                    concurrency=concurrency or CONCURRENCY,
                    hostname=f"p2engine-{os.getpid()}@{socket.gethostname()}",
                    quiet=True,
                    loglevel="WARNING",
                )
            worker.start()
        finally:
            self.close()
        return int(worker.exitcode or 0)

    def _known(self, queues: Iterable[str]) -> tuple[str, ...]:
        """All queues that there are. Raises UsageError where one of these is not among them."""
        known = queues_of(self.settings.celery.queues)
        if wrong := [name for name in queues if name not in known]:
            raise UsageError(f"no queue {wrong[0]!r}", hint=f"there are {', '.join(known)}")
        return known

    def open(self, consumes: frozenset[str]) -> None:
        """Open the log and the engine for these queues. Raises P2EngineError."""
        self._logs.enter_context(logged(self.settings, debug=self._debug, libraries=("celery", "kombu")))
        part = Part(consumes=consumes, sweeps=self._sweeps, feeds=self._feeds)
        self._node = Node(lambda: self._engine(part))
        try:
            engine = self._node.start()
        except BaseException:
            self._logs.close()
            raise
        spare_the_collector()
        for note in (*engine.notes, *unanswered(engine)):
            log.warning("%s", note)
        log.info("worker of %s", ", ".join(sorted(consumes)))

    def close(self) -> None:
        """Let what runs end within the grace period, hand back the rest. Twice is once."""
        if self._node is not None:
            self._node.close()
            log.info("worker has ended; nothing is held here any more")
            self._logs.close()
            self._node = None

    @asynccontextmanager
    async def _engine(self, part: Part) -> AsyncIterator[Engine]:
        async with serving(
            self.settings,
            part,
            project_code=self._project_code,
            health=self._health,
            consumes=lambda: self._is_ready,
        ) as engine:
            yield engine

    # Celery

    def _application(self) -> Celery:
        broker = broker_of(self.settings)
        app = celery_app(broker, queues_of(self.settings.celery.queues), client_name=self._client_name)

        def perform(effect: str, kind: str = "") -> None:
            self._begun = self._do(Perform(EffectId(effect), kind))

        def wake(ref: str) -> None:
            self._begun = self._do(Wake(StackRef(ref)))

        self._pool = app.conf.worker_pool = pool_of(self._taken)
        app.task(name=PERFORM, shared=False)(perform)
        app.task(name=WAKE, shared=False)(wake)
        app.steps["worker"].add(_handing_back(self))
        app.steps["consumer"].add(_letting_go(self._client_name))
        signals.celeryd_init.connect(self._on_options, weak=False)
        signals.worker_init.connect(self._on_init, weak=False)
        signals.worker_ready.connect(self._on_ready, weak=False)
        signals.worker_shutdown.connect(self._on_shutdown, weak=False)
        signals.setup_logging.connect(_leave_logging, weak=False)
        return app

    def _do(self, job: Job) -> "Future[bool]":
        """A message came. What this process does not get done goes back to its queue."""
        assert self._node is not None
        return self._node.do(job)

    def _taken(self) -> "Future[bool] | None":
        begun, self._begun = self._begun, None
        return begun

    def end(self) -> None:
        """No new work; what runs has the grace period to end."""
        self._is_ready = False
        if self._node is not None:
            self._node.end()

    def _on_options(self, instance: Any, options: dict[str, Any], **_: Any) -> None:
        """Celery was given its options, and has read none: of a queue that there is not it would make a traceback."""
        if instance.app is not self.app:
            return
        try:
            self._known(str_to_list(options.get("queues")) or ())
        except UsageError as error:
            leave(error)

    def _on_init(self, sender: Any, **_: Any) -> None:
        """Celery knows its options, and has not begun. What is raised here other than SystemExit, Celery swallows."""
        if sender.app is not self.app:
            return
        sender.options.update(without_gossip=True, without_mingle=True, without_heartbeat=True)
        consumes = frozenset(self.app.amqp.queues.consume_from)
        if TICKS not in consumes and sender.concurrency == CONCURRENCY:
            sender.concurrency = BLOCKING_CONCURRENCY
        try:
            if sender.pool_cls is not self._pool or _asked_for_a_pool():
                raise UsageError("workers have a pool of their own, which is set already", hint="leave -P away")
            if self._node is None:
                self.open(consumes)
        except (P2EngineError, OSError) as error:
            leave(error)

    def _on_ready(self, sender: Any, **_: Any) -> None:
        """Messages are taken, for the first time or again."""
        if sender.app is not self.app or self._is_ending:
            return
        self._is_ready = True
        for number in STATUS:
            signal.signal(number, self._on_signal)
        log.info("ready")

    def _on_shutdown(self, sender: Any, **_: Any) -> None:
        """Celery has ended, whoever started it."""
        if sender.app is self.app:
            self.close()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        """Asked to end: Celery stops taking messages, and the engine closes. Asked twice: at once."""
        if self._is_ending:
            os._exit(STATUS[signal.Signals(number)])
        self._is_ending = True
        celery_state.should_stop = STATUS[signal.Signals(number)]
        self.end()
        log.info("worker ends: what runs has %g s", SHUTDOWN_GRACE_S)


def _handing_back(worker: Worker) -> type[bootsteps.StartStopStep]:
    """Ends before Celery waits for what it handed over, which is for the engine to end."""

    class HandingBack(bootsteps.StartStopStep):  # type: ignore[misc]
        requires = ("celery.worker.components:Pool",)

        def stop(self, _: Any) -> None:
            worker.end()

    return HandingBack


def _letting_go(name: str) -> type[bootsteps.StartStopStep]:
    """Celery ends after the BRPOP under way does; this has the broker end it, so that it takes no message with it."""

    class LettingGo(bootsteps.StartStopStep):  # type: ignore[misc]
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def stop(self, consumer: Any) -> None:
            if consumer.connection is None or not celery_state.should_stop:
                return
            channel = consumer.connection.default_channel
            with suppress(*consumer.connection_errors, *consumer.channel_errors), channel.conn_or_acquire() as client:
                for each in client.client_list():
                    if each["name"] == name and each["cmd"] == "brpop":
                        client.client_unblock(each["id"])

    return LettingGo


def _asked_for_a_pool() -> bool:
    """Whether Celery's command line named one: `prefork` it takes for its default, and so for ours."""
    context = click.get_current_context(silent=True)
    return context is not None and context.get_parameter_source("pool") is ParameterSource.COMMANDLINE


def _leave_logging(**_: Any) -> None:
    """That somebody listens to the signal keeps Celery from setting up a log of its own."""


def spare_the_collector() -> None:
    """What is loaded by now lasts as long as the process, and a step leaves no cycles: there is little to look for."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX)


def without_stand_in(settings: Settings) -> Settings:
    """For workers the offline stand-in answers nothing unless it was asked for."""
    if "llm.offline" in settings.sources:
        return settings
    llm = settings.llm.model_copy(update={"offline": "never"})
    return settings.model_copy(update={"llm": llm, "sources": {**settings.sources, "llm.offline": "worker"}})


def unanswered(engine: Engine) -> list[str]:
    """Models of the project's agents that nobody here can answer for, each with the mend."""
    said: dict[str, None] = {}
    for agent in engine.roster.agents():
        try:
            model = engine.roster.describe(agent).model
            if model:
                engine.models.resolve(model)
        except ConfigError as error:
            mend = f": {error.hint}" if error.hint else ""
            said[f"{error.message}{mend}, or P2ENGINE_OFFLINE=auto for the offline stand-in"] = None
        except SetupError:  # told by the check of the configuration
            continue
    return list(said)


def leave(error: P2EngineError | OSError) -> None:
    """End a process that cannot start, with a line. Raises SystemExit."""
    hint = getattr(error, "hint", "")
    sys.stderr.write(safe(f"error: {error}") + "\n" + (safe(f"  {hint}") + "\n" if hint else ""))
    raise SystemExit(2 if isinstance(error, SetupError) else 1)


@cache
def _this() -> Worker:
    """The worker of the project that this process stands in."""
    try:
        settings = Settings.load()
        return Worker(settings.model_copy(update={"logging": settings.logging.model_copy(update={"console": True})}))
    except P2EngineError as error:
        leave(error)
        raise


def __getattr__(name: str) -> Celery:
    """`app`: what Celery looks for. Made when it is looked for, since it depends on the project."""
    if name != "app":
        raise AttributeError(name)
    return _this().app

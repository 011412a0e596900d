"""Jobs as messages on queues, through Celery and a Redis broker. Knows Celery and what a job is; runs nothing.

A message says which job, never what is in it: the store remembers what is owed, so a message may be lost, doubled or
late. Nothing here waits for the broker on anybody's event loop.
"""

import asyncio
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, NamedTuple, TypeVar

from celery import Celery
from kombu import Connection, Exchange, Queue
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from p2engine.domain.records import Job, Perform, Wake
from p2engine.limits import SHUTDOWN_GRACE_S

log = logging.getLogger("p2engine.dispatch")

KEYS: Final = "celery"  # what all keys of the broker begin with, below the prefix of the project
WORKER: Final = "worker"  # what workers call themselves at the broker
TICKS: Final = "ticks"
TOOLS: Final = "tools"
EVALS: Final = "evals"
QUEUES: Final = (TICKS, TOOLS, EVALS, "rollouts")
"""What every project has. Tools may be pinned to others."""

PERFORM: Final = "p2engine.perform"
WAKE: Final = "p2engine.wake"
CALL_TOOL: Final = "call_tool."  # how the kind of a tool call begins
JUDGE: Final = "judge."  # and that of a verdict that is owed

CONCURRENCY: Final = 512  # messages one process holds at a time
BLOCKING_CONCURRENCY: Final = 32  # the same for a process that takes no ticks: more would wait for a thread of a tool
POLL_S: Final = 5  # how long one BRPOP waits: an idle worker sends one in that time
SOCKET_TIMEOUT_S: Final = 15.0  # for one answer of the broker; must be longer than POLL_S
CONNECT_TIMEOUT_S: Final = 5.0
BATCH_MAX: Final = 200  # messages in one round trip
PAUSE_S: Final = 1.0  # how long nothing is sent after the broker could not be reached

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where messages go. url: with everything that it takes to speak to it; never shown. shown: the same for people."""

    url: str = field(repr=False)
    shown: str
    prefix: str = "p2engine"


class Routes:
    """Which queue a job belongs to. pins: tool -> queue. on_loop: whether a tool is loaded here and never blocks."""

    def __init__(self, pins: Mapping[str, str], on_loop: Callable[[str], bool]) -> None:
        self._pins = dict(pins)
        self._on_loop = on_loop

    def queue_of(self, kind: str) -> str:
        """The queue for what `domain.effects.kind_of` says. A tool that may block a loop is for workers of `tools`."""
        if kind.startswith(JUDGE):
            return EVALS
        if not kind.startswith(CALL_TOOL):
            return TICKS
        tool = kind.removeprefix(CALL_TOOL)
        return self._pins.get(tool) or (TICKS if self._on_loop(tool) else TOOLS)


def queues_of(pins: Mapping[str, str]) -> tuple[str, ...]:
    """Every queue of a project that pins these tools."""
    return tuple(dict.fromkeys((*QUEUES, *pins.values())))


def kinds_of(queues: Iterable[str]) -> dict[str, str]:
    """The keys that a broker has for these queues, below the prefix of the project, and their types in Redis."""
    found: dict[str, str] = {}
    for name in queues:
        bound = f"{KEYS}:_kombu.binding"
        found |= {f"{KEYS}:{name}": "list", f"{bound}.{name}": "set", f"{bound}_permanent.{name}": "set"}
    return found


def client_name(role: str, broker: Broker) -> str:
    """What the broker is to call the connections of one process, so that people and `doctor` know whose they are."""
    return f"{broker.prefix}:{role}:{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def celery_app(broker: Broker, queues: Iterable[str], *, client_name: str | None = None) -> Celery:
    """A Celery application with every setting it needs here; its tasks are whoever runs it's to add.

    client_name: what the broker calls this process's connections.
    """
    transport: dict[str, Any] = {
        "global_keyprefix": f"{broker.prefix}:{KEYS}:",
        "ack_emulation": False,  # a message that is lost with its worker is found by a sweep; see decision 18
        "polling_interval": POLL_S,
        "priority_steps": [0],
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_keepalive": True,
    }
    if client_name is not None:
        transport["client_name"] = client_name
    app = Celery("p2engine", set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        broker_connection_max_retries=None,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_transport_options=transport,
        broker_url=broker.url,
        result_backend=None,
        task_acks_late=True,
        task_create_missing_queues=False,
        task_default_queue=TICKS,
        task_ignore_result=True,
        task_publish_retry=False,
        task_queues=[Queue(name, Exchange(""), routing_key=name) for name in queues],
        task_reject_on_worker_lost=True,
        task_serializer="json",
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_concurrency=CONCURRENCY,
        worker_detect_quorum_queues=False,
        worker_disable_rate_limits=True,
        worker_enable_prefetch_count_reduction=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_pool="threads",
        worker_prefetch_multiplier=1,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
    )
    return app


class _Question(Generic[T]):
    """Something to read from the broker, and where the answer goes."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[T] = self._loop.create_future()

    def ask(self, reached: Callable[[Callable[[], T]], T]) -> None:
        """From the thread that owns the connection."""
        try:
            answer = reached(self._read)
        except OSError as error:
            self._tell(self.answer.set_exception, error)
        else:
            self._tell(self.answer.set_result, answer)

    def _tell(self, settle: Callable[[Any], None], value: object) -> None:
        with suppress(RuntimeError):  # the loop may be gone
            self._loop.call_soon_threadsafe(lambda: None if self.answer.done() else settle(value))


_Order = Job | _Question[Any] | None
"""What the thread does next; None: end."""


class CeleryDispatcher:
    """Publishes jobs, from a thread of its own. What cannot be published is dropped: the sweeper submits it again."""

    def __init__(
        self, app: Celery, queue_of: Callable[[str], str], broker: Broker, *, grace_s: float = SHUTDOWN_GRACE_S
    ) -> None:
        self._queue_of = queue_of
        self._shown = broker.shown
        self._prefix = broker.prefix
        self._grace_s = grace_s
        self._wire = _Wire(app)
        self._orders: SimpleQueue[_Order] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended: asyncio.Event | None = None
        self._closed = False
        self._is_away = False
        self._away_until = 0.0

    async def submit(self, *jobs: Job) -> None:
        if self._closed or not jobs:
            return
        self._start()
        for job in jobs:
            self._orders.put(job)

    async def depths(self) -> dict[str, int]:
        """How many messages wait in each queue. Raises OSError where the broker cannot be reached."""
        return await self._ask(self._wire.depths)

    async def lack_of_room(self) -> str:
        """What its server's memory is filled with, where there is no room for more; else empty. Raises OSError."""
        return await self._ask(self._wire.lack_of_room)

    async def workers(self) -> list[str]:
        """The workers of this project that are connected: `process 4711 on HOST`. Raises OSError as `depths` does."""
        return await self._ask(lambda: self._wire.clients(f"{self._prefix}:{WORKER}:"))

    async def _ask(self, read: Callable[[], T]) -> T:
        if self._closed:
            raise ConnectionError("closed")
        self._start()
        question = _Question(read)
        self._orders.put(question)
        return await question.answer

    async def aclose(self) -> None:
        """Send what was submitted, within the grace period."""
        if self._closed:
            return
        self._closed = True
        if self._ended is None:
            return
        self._orders.put(None)
        try:
            async with asyncio.timeout(self._grace_s):
                await self._ended.wait()
        except TimeoutError:
            log.warning("messages for the broker %s were left; a sweep finds what they were for", self._shown)

    # The thread

    def _start(self) -> None:
        if self._thread is not None:
            return
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        self._ended = ended

        def work() -> None:
            try:
                while self._do(self._taken()):
                    pass
            finally:
                self._wire.hang_up()
                with suppress(RuntimeError):  # the loop may be gone
                    loop.call_soon_threadsafe(ended.set)

        self._thread = threading.Thread(target=work, name="p2engine-publish", daemon=True)
        self._thread.start()

    def _taken(self) -> list[_Order]:
        """What is there to do: at least one order, and those that wait behind it."""
        orders = [self._orders.get()]
        with suppress(Empty):
            while len(orders) < BATCH_MAX:
                orders.append(self._orders.get_nowait())
        return orders

    def _do(self, orders: list[_Order]) -> bool:
        """Whether there may be more."""
        jobs = [order for order in orders if isinstance(order, Wake | Perform)]
        if jobs:
            self._publish(jobs)
        for order in orders:
            if isinstance(order, _Question):
                order.ask(self._wire.reached)
        return None not in orders

    def _publish(self, jobs: list[Job]) -> None:
        if time.monotonic() < self._away_until:
            return
        messages = [self._message(job) for job in jobs]
        try:
            self._wire.reached(lambda: self._wire.send(messages))
        except OSError as error:
            self._away_until = time.monotonic() + PAUSE_S
            if not self._is_away:
                self._is_away = True
                log.warning("the broker %s is away; a sweep submits again what is owed: %s", self._shown, error)
            return
        if self._is_away:
            self._is_away = False
            log.warning("the broker %s is back", self._shown)

    def _message(self, job: Job) -> "_Message":
        if isinstance(job, Wake):
            return _Message(WAKE, (job.ref,), TICKS)
        return _Message(PERFORM, (job.effect, job.kind), self._queue_of(job.kind))


class _Message(NamedTuple):
    task: str
    args: tuple[str, ...]
    queue: str


class _Wire:
    """One connection to the broker, for one thread: made when it is needed, and anew after it was cut."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._connection: Connection | None = None
        self._channel: Any = None
        self._batch: Any = None

    def reached(self, doing: Callable[[], T]) -> T:
        """What `doing` gives; done once more where the connection had been cut meanwhile. Raises OSError."""
        is_old = self._connection is not None
        try:
            self._connect()
            return doing()
        except (KombuError, RedisError, OSError) as error:
            self.hang_up()
            if not is_old:
                raise ConnectionError(str(error)) from error
        return self.reached(doing)

    def send(self, messages: Iterable[_Message]) -> None:
        """In one round trip. Written out, since `Celery.send_task` takes four times as long for what nobody reads."""
        for message in messages:
            key = str(uuid.uuid4())
            headers = {
                "lang": "py",
                "task": message.task,
                "id": key,
                "root_id": key,
                "parent_id": None,
                "group": None,
                "eta": None,
                "expires": None,
                "retries": 0,
                "timelimit": [None, None],
                "ignore_result": True,
                "argsrepr": repr(message.args),
                "kwargsrepr": "{}",
            }
            body = self._channel.prepare_message(
                json.dumps([message.args, {}, {}]),
                content_type="application/json",
                content_encoding="utf-8",
                headers=headers,
                properties={"correlation_id": key, "delivery_mode": 2},
            )
            self._batch.publish(body, exchange="", routing_key=message.queue)
        self._batch.flush()

    def depths(self) -> dict[str, int]:
        """How many messages wait in each queue."""
        return {name: int(self._channel.client.llen(name)) for name in self._app.amqp.queues}

    def lack_of_room(self) -> str:
        """`is full: 12.0 of 12.0 MB used`, or nothing."""
        info = self._channel.client.info("memory")
        used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
        return f"is full: {used / 1e6:.1f} of {most / 1e6:.1f} MB used" if 0 < most <= used else ""

    def clients(self, begins: str) -> list[str]:
        """Who is connected under a name that begins so, in words, each process once."""
        names = {client["name"] for client in self._channel.client.client_list()}
        found = [name.removeprefix(begins).split(":") for name in names if name.startswith(begins)]
        return sorted(f"process {pid} on {host}" for host, pid, _ in found)

    def hang_up(self) -> None:
        connection, self._connection, self._channel, self._batch = self._connection, None, None, None
        if connection is not None:
            connection.close()

    def _connect(self) -> None:
        if self._connection is None:
            self._connection = self._app.connection_for_write()
            self._connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, interval_max=0)
            self._channel = self._connection.channel()
            self._batch = self._channel.create_publish_batch(BATCH_MAX)

"""What each process of a distributed project does in the tests: a worker, a sweeper, a client. Runs in a fork.

They are the product's own, wired by it, on a real Redis and with Celery's own worker. Doubled are the agents; the
tools are real ones that leave a line in a file. Each tells the test every place it comes to, and may be told to die
or to stop there. Leases and sweeps are shorter than in the field, so that a death costs a second.
"""

import asyncio
import ctypes
import json
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

import p2engine.wiring.engine
from p2engine import worker
from p2engine.errors import P2EngineError
from p2engine.settings import Settings
from p2engine.stores.redis import RedisStore
from p2engine.testing.doubles import CountingIds, FixedRoster
from p2engine.wiring import Engine, Part
from tests.crash.cast import REPEATS, agents_of
from tests.crash.play import payer, players, simple, tools_of

OPENING: Final = "in opening the store"
PLACES: Final = (
    OPENING,
    "when a message came",
    "before a claim",
    "after a take-over",
    "before a write",
    "after a write",
    "before messages are sent",
    "after messages were sent",
    "in a tool, before its effect",
    "in a tool, after its effect",
    "in a model call",
    "before a message is done",
    "before a sweep looks",
    "when a sweep found work",
    "after a sweep",
)
"""Where a process may die. A message is done when its worker is about to acknowledge it."""

CLONE_NEWNET: Final = 0x40000000


class Timing(msgspec.Struct, frozen=True):
    """How long things take that limits.py has at 15, 30, 5 and 5 seconds. A lease must outlast a busy machine."""

    lease_s: float = 2.0
    handed_out_s: float = 0.5
    released_s: float = 0.2
    sweep_s: float = 0.2


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is born to. key: how it names itself to the test, on the socket `told`.

    death: where it kills itself. stops: where it waits for a word. netns: the network namespace it lives in.
    queues: that a worker takes, all unless said. sweeps: whether it looks for what dead processes left.
    names: the conversations that a client speaks in, each to `agent`, and what it says, one after the other.
    seed: of a play, whose ids are then counted. slow_s: that a tool takes after its effect. doubles: how often each
    message is sent, each time `late_s` later.
    """

    key: str
    role: str
    told: str
    home: str
    port: int
    prefix: str
    host: str = "127.0.0.1"
    death: tuple[str, int] | None = None
    stops: tuple[tuple[str, int], ...] = ()
    queues: tuple[str, ...] = ()
    sweeps: bool = True
    names: tuple[str, ...] = ("demo",)
    agent: str = "boss"
    tasks: tuple[str, ...] = ()
    seed: str = ""
    netns: str = ""
    timing: Timing = Timing()
    slow_s: float = 0.0
    doubles: int = 1
    late_s: float = 0.0


class Teller:
    """The line to the test: it says what is so, and waits where it is told to."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(orders.told)
        self._answers = self._line.makefile()
        self._reached: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.tell(hello=orders.key)

    def tell(self, **word: Any) -> None:
        self._line.sendall(json.dumps(word).encode() + b"\n")

    def reach(self, place: str) -> None:
        """From any thread. A place where this process is to die is its last."""
        with self._lock:
            self._reached[place] += 1
            here = (place, self._reached[place])
            self.tell(at=place)
            if here == self._orders.death:
                os.kill(os.getpid(), signal.SIGKILL)
            if here in self._orders.stops:
                self.tell(stops=here)
                self._answers.readline()


def live(orders: Orders) -> None:
    """One life, to its end."""
    if orders.netns:
        _move(orders.netns)
    teller = Teller(orders)
    _hurry(orders.timing, teller.reach)
    try:
        match orders.role:
            case "worker":
                _Worker(orders, teller).run(orders.queues)
            case "sweeper":
                asyncio.run(_sweep(orders, teller))
            case _:
                asyncio.run(_speak(orders, teller))
    except P2EngineError as error:
        teller.tell(failed=f"{type(error).__name__}: {error}")
        raise


def _move(netns: str) -> None:
    """Into a network namespace: os.setns is of Python 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/run/netns", netns).open() as place:
        if libc.setns(place.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def _hurry(timing: Timing, reach: Callable[[str], None]) -> None:
    """Shorten what takes long, and watch the opening. Of this process, which is nobody else's."""
    open_store = RedisStore.open

    async def opened(server: Any) -> RedisStore:
        reach(OPENING)
        store = await open_store(
            server, lease_s=timing.lease_s, handed_out_s=timing.handed_out_s, released_s=timing.released_s
        )
        reach(OPENING)
        return store

    RedisStore.open = opened  # type: ignore[method-assign, assignment]
    p2engine.wiring.engine.SWEEP_PERIOD_SHARED_S = timing.sweep_s  # type: ignore[attr-defined]


def settings_of(orders: Orders) -> Settings:
    return Settings.load(
        home=orders.home,
        environ={},
        store="redis",
        dispatch="celery",
        celery={"queues": {"book": "desk"}},
        redis={"host": orders.host, "port": orders.port, "prefix": orders.prefix, "durability": "warn"},
    )


# The roles


class _Worker(worker.Worker):
    """The product's, with the cast of the turn on its stage."""

    def __init__(self, orders: Orders, teller: Teller) -> None:
        super().__init__(settings_of(orders), sweeps=orders.sweeps, project_code=False)
        self._orders, self._teller = orders, teller

    @asynccontextmanager
    async def _engine(self, part: Part) -> AsyncIterator[Engine]:
        async with super()._engine(part) as engine:
            dress(engine, self._orders, self._teller.reach)
            self._teller.tell(owner=engine.world.owner)
            yield engine

    def _do(self, job: Any) -> Any:
        self._teller.reach("when a message came")
        doing = super()._do(job)
        doing.add_done_callback(lambda _: self._teller.reach("before a message is done"))
        return doing


async def _sweep(orders: Orders, teller: Teller) -> None:
    async with Engine.open(settings=settings_of(orders), part=Part(sweeps=True), project_code=False) as engine:
        dress(engine, orders, teller.reach)
        teller.tell(owner=engine.world.owner)
        await asyncio.Event().wait()


async def _speak(orders: Orders, teller: Teller) -> None:
    """In each conversation: go on with its turn, or say the task where nothing was said yet."""

    async def speak(engine: Engine, name: str) -> None:
        try:
            conversation = await engine.conversation(name, agent=orders.agent)
            reply = await conversation.resume()
            for task in orders.tasks[(await conversation.stack()).turn :]:
                reply = await conversation.say(task)
            teller.tell(name=name, said=reply.text if reply else None)
        except P2EngineError as error:
            teller.tell(name=name, error=f"{type(error).__name__}: {error}")

    async with Engine.open(settings=settings_of(orders), project_code=False) as engine:
        dress(engine, orders, teller.reach)
        teller.tell(owner=engine.world.owner)
        await asyncio.gather(*(speak(engine, name) for name in orders.names))
        teller.tell(over=True)
        await asyncio.Event().wait()


# The stage


def dress(engine: Engine, orders: Orders, reach: Callable[[str], None]) -> None:
    """Put the cast into an engine that nothing was asked of yet, and watch what it does."""
    home, world = Path(orders.home), engine.world
    tools = tools_of(home, reach, orders.slow_s)
    for tool in tools:
        engine.registry.add(tool)
    agents = {**agents_of(home, reach), "simple": simple(reach), "payer": payer()}
    takes = {tool.spec.name: tool.spec.parameters for tool in tools}
    world.roster = FixedRoster({**agents, **players(orders.seed)}, REPEATS, takes=takes)
    if orders.seed:
        world.ids = CountingIds()
    world.store = _Watched(world.store, reach)
    if engine.elsewhere is None:
        return
    wire = engine.elsewhere._wire
    send = wire.send

    def sent(messages: Any) -> None:
        reach("before messages are sent")
        send(messages)
        reach("after messages were sent")

    wire.send = sent  # type: ignore[method-assign]
    if orders.doubles > 1:
        _double(engine, orders)


def _double(engine: Engine, orders: Orders) -> None:
    """Every message is sent again, late."""
    dispatcher, loop = engine.world.dispatcher, asyncio.get_running_loop()
    submit = dispatcher.submit

    def again(jobs: Sequence[Any]) -> None:
        sending = loop.create_task(submit(*jobs))
        late.add(sending)
        sending.add_done_callback(late.discard)

    async def doubled(*jobs: Any) -> None:
        await submit(*jobs)
        for number in range(1, orders.doubles):
            loop.call_later(number * orders.late_s, again, jobs)

    late: set[asyncio.Task[None]] = set()
    dispatcher.submit = doubled  # type: ignore[method-assign]


class _Watched:
    """A store that says what is asked of it."""

    def __init__(self, store: Any, reach: Callable[[str], None]) -> None:
        self._store, self._reach = store, reach

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, batch: Any) -> Any:
        self._reach("before a write")
        written = await self._store.write(batch)
        self._reach("after a write")
        return written

    async def claim(self, *args: Any, **options: Any) -> Any:
        self._reach("before a claim")
        claimed = await self._store.claim(*args, **options)
        if claimed is not None:
            self._reach("after a take-over")
        return claimed

    async def due(self, *, limit: int) -> Any:
        self._reach("before a sweep looks")
        found = await self._store.due(limit=limit)
        self._reach("when a sweep found work" if found else "after a sweep")
        return found

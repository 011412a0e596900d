"""What `doctor` finds out about the servers that a distributed project works with. Shows nothing.

Each of them is looked at in one function, which gives its findings in order. Brokers, workers and queues belong here.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Final

from p2engine.cli.health import Finding, Status
from p2engine.errors import P2EngineError, StoreError
from p2engine.settings import Settings
from p2engine.stores.redis_checks import Found, Info
from p2engine.stores.redis_keys import recognise
from p2engine.stores.redis_server import RedisServer
from p2engine.wiring import Engine, asking_of, reach

SKEW_LOW_S: Final = 5.0  # between this host's clock and the server's: worth a warning
SLOW_MS: Final = 10.0  # for one answer: a turn asks about ten times
OVERDUE_S: Final = 60.0  # that something is owed and nobody is at it: worth a warning
MEMORY_LOW: Final = 0.8  # of maxmemory in use: worth a warning


async def redis_findings(settings: Settings) -> Sequence[Finding]:
    """Whether the Redis answers and how soon, keeps what it acknowledges, has room, and has the same time.

    And the store in it, where that cannot be read; under `dispatch: celery` `dispatch_findings` tells of it.
    """
    try:
        server = await RedisServer.open(settings.redis_address, durability="warn")
    except P2EngineError as error:
        return [Finding("redis", "fail", error.message, error.hint)]
    try:
        return [found async for found in _looked_over(server, settings)]
    except P2EngineError as error:
        return [Finding("redis", "fail", error.message, error.hint)]
    finally:
        await server.aclose()


def blobs_finding(settings: Settings) -> Finding:
    """Whether every host sees the large bodies."""
    if settings.blobs == "redis":
        return Finding("blobs", "ok", "in the Redis")
    if settings.blobs_shared:
        return Finding("blobs", "ok", f"{settings.layout.blobs}, said to be the same folder on every host")
    return Finding(
        "blobs",
        "fail",
        f"{settings.layout.blobs} is a folder of this host: others that share the Redis do not see it",
        "blobs: redis; or blobs_shared: true, where it is a folder that all hosts share",
    )


async def _looked_over(server: RedisServer, settings: Settings) -> AsyncIterator[Finding]:
    yield Finding("redis", "ok", f"{server.address}: {server.found.version}")
    yield _durability(server.found, settings)
    yield _memory(server.info)
    ahead_s = await server.sync()
    yield _latency(server.answer_s * 1000)
    yield _clock(ahead_s)
    if settings.store == "redis" and settings.dispatch == "inline":
        try:
            await server.patiently(lambda: recognise(server), wait_s=0)
        except StoreError as error:
            yield Finding("store", "fail", error.message, error.hint)


def _durability(found: Found, settings: Settings) -> Finding:
    """Whether it can lose what it acknowledged. Where a project will not start for that, it is a failure."""
    if found.unsafe:
        status: Status = "fail" if settings.redis.durability == "refuse" else "warn"
        faults = ", ".join(fault.what for fault in found.unsafe)
        mend = "; ".join(fault.mend for fault in found.unsafe)
        return Finding("redis.durability", status, f"it can lose what it acknowledged: {faults}", mend)
    if found.notes:
        return Finding("redis.durability", "warn", "; ".join(found.notes), "ask whoever runs it")
    return Finding("redis.durability", "ok", "appendonly yes, appendfsync always, maxmemory-policy noeviction")


def _memory(info: Info) -> Finding:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not most:
        return Finding("redis.memory", "ok", f"{used / 1e6:.1f} MB used, no maxmemory")
    detail = f"{used / 1e6:.1f} of {most / 1e6:.1f} MB used"
    if used <= MEMORY_LOW * most:
        return Finding("redis.memory", "ok", detail)
    status: Status = "warn" if used < most else "fail"
    return Finding("redis.memory", status, detail, "raise its maxmemory, or prune old conversations")


def _latency(answer_ms: float) -> Finding:
    status: Status = "warn" if answer_ms > SLOW_MS else "ok"
    mend = "" if status == "ok" else "run the workers nearer to it"
    return Finding("redis.latency", status, f"an answer takes {answer_ms:.1f} ms", mend)


def _clock(ahead_s: float) -> Finding:
    """How far the clocks are apart. The server's is the one that counts, so a wrong one here only confuses readers."""
    if abs(ahead_s) <= SKEW_LOW_S:
        return Finding("redis.clock", "ok", f"this host's clock is within {SKEW_LOW_S:g} s of the server's")
    way = "ahead of" if ahead_s > 0 else "behind"
    detail = f"this host's clock is {abs(ahead_s):.0f} s {way} the server's, which counts: only logs here are misdated"
    return Finding("redis.clock", "warn", detail, "set one of the two by NTP")


async def dispatch_findings(settings: Settings, *, is_reachable: bool) -> Sequence[Finding]:
    """Whether workers are there, what waits for them on the queues, and how long anything has been owed.

    is_reachable: whether the Redis answers; without, each of them is said to be unknown.
    """
    if not is_reachable:
        return [_unknown(check, "the Redis cannot be used") for check in ("workers", "queues", "owed")]
    dispatcher = asking_of(settings)
    try:
        found = [_workers(await dispatcher.workers()), await _queues(settings, dispatcher.depths)]
    except OSError as error:
        found = [_unknown(check, str(error)) for check in ("workers", "queues")]
    finally:
        await dispatcher.aclose()
    return [*found, *await _owed(settings)]


def _unknown(check: str, why: str) -> Finding:
    return Finding(check, "fail", f"not known: {why}")


def _workers(there: Sequence[str]) -> Finding:
    if there:
        return Finding("workers", "ok", f"{len(there)}: {', '.join(there)}")
    return Finding("workers", "warn", "none is there: nothing that is said is answered", "p2engine worker")


async def _queues(settings: Settings, depths: Callable[[], Awaitable[Mapping[str, int]]]) -> Finding:
    try:
        await reach(settings)
    except StoreError as error:
        return Finding("queues", "fail", error.message, error.hint)
    waiting = [f"{name} {depth}" for name, depth in (await depths()).items() if depth]
    return Finding("queues", "ok", ", ".join(waiting) or "empty")


async def _owed(settings: Settings) -> Sequence[Finding]:
    """What no process is at; and the store, where it cannot be opened."""
    try:
        async with Engine.open(settings=settings, work=False, project_code=False) as engine:
            count, since = await engine.world.store.backlog()
            age_s = 0.0 if since is None else engine.world.clock.now() - since
    except StoreError as error:
        unknown = _unknown("owed", "the store cannot be opened")
        if settings.store != "redis":  # a store of this host is looked over by itself
            return [unknown]
        return [Finding("store", "fail", error.message, error.hint), unknown]
    except P2EngineError as error:
        return [_unknown("owed", error.message)]
    status: Status = "warn" if age_s > OVERDUE_S else "ok"
    oldest = f", the oldest for {age_s:.0f} s" if since is not None else ""
    mend = "start more workers, or look into their logs for what they lack" if status == "warn" else ""
    return [Finding("owed", status, f"{count} held by no process{oldest}", mend)]

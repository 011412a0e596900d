"""How many model calls may be under way, and how many may start: per provider, for all processes on one Redis.

Knows the keys of limits, and nothing of models or of what else is in that Redis.
"""

import asyncio
import logging
import uuid
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final

from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from p2engine.limits import LEASE_RENEWALS, LEASE_S
from p2engine.ports import Limiter
from p2engine.stores.redis_server import RedisServer

log = logging.getLogger("p2engine.stores")

MINUTE_S: Final = 60.0
AGAIN_S: Final = 1.0  # before a server that cannot be asked is asked again, and between looks when nobody calls

# One process says how many turns it holds (absolutely: a call that is made twice, or whose answer is lost, changes
# nothing), and asks for one more, or for none. Processes that wait are served in the order in which they came; one
# that has said nothing for a lease is dead: it holds nothing and waits for nothing.
# Answers {granted 0|1, milliseconds until it may be worth asking again; -1: when somebody gives a turn back}.
ASK: Final = """
local base, channel = KEYS[1], KEYS[2]
local me, held, wants = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local slots, rate, window, lease = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local alive, holds, waits, starts = base .. ':alive', base .. ':held', base .. ':waiting', base .. ':starts'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

for _, dead in ipairs(redis.call('ZRANGE', alive, '-inf', now, 'BYSCORE')) do
  redis.call('HDEL', holds, dead)
  redis.call('ZREM', waits, dead)
  redis.call('ZREM', alive, dead)
end
local gave = held < tonumber(redis.call('HGET', holds, me) or 0)
if held > 0 then redis.call('HSET', holds, me, held) else redis.call('HDEL', holds, me) end

local answer = {0, 0}
if wants then
  local ahead = redis.call('ZRANK', waits, me) or redis.call('ZCARD', waits)
  local wait = math.max(0, redis.call('PTTL', base .. ':pause'))
  if rate > 0 then
    local start = redis.call('LINDEX', starts, -math.max(1, rate - ahead))
    if start then wait = math.max(wait, start + window - now) end
  end
  local taken = 0
  for _, count in ipairs(redis.call('HVALS', holds)) do taken = taken + count end
  if slots > 0 and taken + ahead >= slots then wait = -1 end
  answer[2] = wait
  if wait == 0 then
    answer[1] = 1
    if slots > 0 then
      held = held + 1
      redis.call('HSET', holds, me, held)
    end
    if rate > 0 then
      redis.call('RPUSH', starts, now)
      redis.call('LTRIM', starts, -rate, -1)
      redis.call('PEXPIRE', starts, window)
    end
    redis.call('ZREM', waits, me)
  else
    redis.call('ZADD', waits, 'NX', now, me)
  end
else
  redis.call('ZREM', waits, me)
end
if held > 0 or redis.call('ZRANK', waits, me) then
  redis.call('ZADD', alive, now + lease, me)
else
  redis.call('ZREM', alive, me)
end
if (gave or not wants) and redis.call('ZCARD', waits) > 0 then redis.call('PUBLISH', channel, ARGV[8]) end
return answer
"""


class RedisLimiter:
    """A Limiter whose rates, turns and pauses are one for every process on a Redis. Time is the server's.

    local: the limiter of this process, which every call passes first; it is not told of rates. at_once and
    per_minute: by provider, calls of all processes that run at once, and that start within a minute of minute_s
    seconds; of a provider with neither, acquiring asks nobody. Processes are served in the order in which they came.
    A pause reaches the others at once; one that was asked for before this process first heard of the provider is
    learnt a moment later. While the server is away, whoever would have to ask it waits.
    """

    def __init__(
        self,
        server: RedisServer,
        local: Limiter,
        *,
        at_once: Mapping[str, int] | None = None,
        per_minute: Mapping[str, int] | None = None,
        minute_s: float = MINUTE_S,
    ) -> None:
        self._server = server
        self._client = server.client
        self._base = f"{server.address.prefix}:limit:"
        self._channel = f"{server.address.prefix}:limits"
        self._local = local
        self._at_once = dict(at_once or {})
        self._per_minute = dict(per_minute or {})
        self._minute_s = minute_s
        self._ask = self._client.register_script(ASK)
        self._me = uuid.uuid4().hex[:12]
        self._lanes: dict[str, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Task[None] | None = None

    async def acquire(self, provider: str) -> None:
        """Wait for a turn. Each one that was had is given back with `release`."""
        lane = self._lane(provider)
        await self._local.acquire(provider)
        if not lane.shared:
            return
        try:
            async with lane.queue:
                await self._granted(lane)
        except BaseException:
            self._local.release(provider)
            self._tell(lane)
            raise

    def release(self, provider: str) -> None:
        """Give a turn back."""
        lane = self._lane(provider)
        self._local.release(provider)
        if lane.at_once:
            lane.held -= 1
            self._tell(lane)

    def pause(self, provider: str, seconds: float) -> None:
        """Hold back the provider's new calls, of every process, for `seconds` from now. The longest pause counts."""
        self._lane(provider)
        self._local.pause(provider, seconds)
        self._start(self._spread(provider, max(1, int(seconds * 1000))))

    async def aclose(self) -> None:
        """Give back what is held, and stop listening."""
        ending = [task for task in (self._listening, *(lane.renewing for lane in self._lanes.values())) if task]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, *self._tasks, return_exceptions=True)

    def _lane(self, provider: str) -> "_Lane":
        lane = self._lanes.get(provider)
        if lane is None:
            at_once, per_minute = self._at_once.get(provider, 0), self._per_minute.get(provider, 0)
            lane = self._lanes[provider] = _Lane(provider, at_once, per_minute)
            self._start(self._look(provider))
        if self._listening is None:
            self._listening = asyncio.get_running_loop().create_task(self._listen())
        return lane

    async def _granted(self, lane: "_Lane") -> None:
        """Ask until there is a turn."""
        lane.waits = True
        away = False
        try:
            while True:
                lane.news.clear()
                try:
                    granted, wait_ms = await self._say(lane, wants=True)
                    away = False
                except (RedisError, OSError) as error:
                    granted, wait_ms = 0, -1
                    if not away:
                        log.warning(
                            "calls of %s wait for the Redis that keeps their limits: %s",
                            lane.provider,
                            self._server.error(error),
                        )
                    away = True
                if granted:
                    return
                wait_s = AGAIN_S if wait_ms < 0 else min(wait_ms / 1000, LEASE_S / LEASE_RENEWALS)
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await lane.news.wait()
        finally:
            lane.waits = False

    async def _say(self, lane: "_Lane", *, wants: bool) -> tuple[int, int]:
        """What this process holds of a lane, and whether it wants one more. Said in order, so that the last is so."""
        async with lane.line:
            granted, wait_ms = await self._ask(
                keys=[self._base + lane.provider, self._channel],
                args=[
                    self._me,
                    lane.held,
                    int(wants),
                    lane.at_once,
                    lane.per_minute,
                    int(self._minute_s * 1000),
                    int(LEASE_S * 1000),
                    _message(lane.provider, 0),
                ],
            )
            if granted and lane.at_once:
                lane.held += 1
                if lane.renewing is None:
                    lane.renewing = self._start(self._renew(lane))
            return granted, wait_ms

    def _tell(self, lane: "_Lane") -> None:
        """Say in a moment what is held now, unless a call that is under way says so."""
        if not lane.tells:
            lane.tells = True
            self._start(self._told(lane))

    async def _told(self, lane: "_Lane") -> None:
        lane.tells = False
        if not lane.waits:  # else the one that waits says it, and keeps its place
            with suppress(RedisError, OSError):  # what is lost here is said again with the next renewal
                await self._say(lane, wants=False)
        else:
            lane.news.set()

    async def _renew(self, lane: "_Lane") -> None:
        """While turns are held, say so often enough not to be taken for dead."""
        try:
            while lane.held:
                await asyncio.sleep(LEASE_S / LEASE_RENEWALS)
                self._tell(lane)
        finally:
            lane.renewing = None

    async def _spread(self, provider: str, pause_ms: int) -> None:
        key = f"{self._base}{provider}:pause"
        try:
            async with self._client.pipeline(transaction=True) as all_of_it:
                all_of_it.set(key, 1, px=pause_ms, nx=True)
                all_of_it.pexpire(key, pause_ms, gt=True)
                all_of_it.publish(self._channel, _message(provider, pause_ms))
                await all_of_it.execute()
        except (RedisError, OSError) as error:
            log.warning("other processes do not hear of the pause of %s: %s", provider, self._server.error(error))

    async def _look(self, provider: str) -> None:
        """Take in a pause that others have asked for."""
        with suppress(RedisError, OSError):
            left_ms = await self._client.pttl(f"{self._base}{provider}:pause")
            if left_ms > 0:
                self._local.pause(provider, left_ms / 1000)

    async def _listen(self) -> None:
        """Hear of pauses and of turns that were given back, for ever; after a gap, look for what was missed."""
        while True:
            pubsub = self._client.pubsub()
            with suppress(RedisError, OSError):
                await self._hear(pubsub)
            with suppress(RedisError, OSError):
                await pubsub.aclose()  # type: ignore[no-untyped-call]
            await asyncio.sleep(AGAIN_S)

    async def _hear(self, pubsub: PubSub) -> None:
        await pubsub.subscribe(self._channel)
        async for message in pubsub.listen():
            if message["type"] == "subscribe":
                for provider in self._lanes:
                    self._start(self._look(provider))
                continue
            provider, _, pause_ms = message["data"].decode().rpartition(" ")
            lane = self._lanes.get(provider)
            if lane is not None and int(pause_ms):
                self._local.pause(provider, int(pause_ms) / 1000)
            elif lane is not None:
                lane.news.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Lane:
    """One provider as this process sees it. held: turns of the shared ones. waits: one of its calls asks for more."""

    def __init__(self, provider: str, at_once: int, per_minute: int) -> None:
        self.provider = provider
        self.at_once = at_once
        self.per_minute = per_minute
        self.held = 0
        self.waits = False
        self.tells = False
        self.news = asyncio.Event()
        self.queue = asyncio.Lock()  # of calls that want a turn
        self.line = asyncio.Lock()  # of what is said to the server
        self.renewing: asyncio.Task[None] | None = None

    @property
    def shared(self) -> bool:
        return bool(self.at_once or self.per_minute)


def _message(provider: str, pause_ms: int) -> str:
    """What the others hear: a pause of so long, or with 0 that a turn was given back."""
    return f"{provider} {pause_ms}"

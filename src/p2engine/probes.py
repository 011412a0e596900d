"""What monitors may ask a running process: is it alive, is it ready, and what has it done? Loopback only, no token.

Probes know an open engine and HTTP; they ask only, and change nothing. `serving` opens the engine of a process that
has them: what it needs and cannot reach yet is waited for, and is no error.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from p2engine.domain.records import Commit
from p2engine.domain.states import Finished
from p2engine.errors import StoreBusy, StoreError, UsageError
from p2engine.limits import PROBE_TIMEOUT_S, RETRY_WAIT_INITIAL_S
from p2engine.settings import Settings
from p2engine.wiring import Engine, Part

if TYPE_CHECKING:
    from aiohttp import web

HOST: Final = "127.0.0.1"
TEXT: Final = "text/plain; version=0.0.4"
PAUSE_MAX_S: Final = 5.0  # between two tries to reach what is away

log = logging.getLogger("p2engine.probes")

Sample = tuple[str, Mapping[str, str], float]


class Meter:
    """Counts what one process has written to the log. `wrote` is told of every commit."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.turns: Counter[str] = Counter()
        self.tokens_in = 0
        self.tokens_out = 0
        self.cost_usd = 0.0

    def wrote(self, commit: Commit) -> None:
        for state in commit.states[: commit.outcomes]:
            self.outcomes[str(state.__struct_config__.tag), str(getattr(state, "status", "ok"))] += 1
        for state in commit.states:
            if isinstance(state, Finished):
                self.turns[state.reason] += 1
        if commit.usage is not None:
            self.tokens_in += commit.usage.tokens_in
            self.tokens_out += commit.usage.tokens_out
            self.cost_usd += commit.usage.cost_usd or 0.0

    def samples(self) -> Iterator[Sample]:
        for (state, status), number in sorted(self.outcomes.items()):
            yield "outcomes_total", {"state": state, "status": status}, number
        for reason, number in sorted(self.turns.items()):
            yield "turns_total", {"reason": reason}, number
        yield "tokens_total", {"direction": "in"}, self.tokens_in
        yield "tokens_total", {"direction": "out"}, self.tokens_out
        yield "cost_usd_total", {}, self.cost_usd


HELP: Final[Mapping[str, tuple[str, str]]] = {
    "outcomes_total": ("counter", "Outcomes that this process has written, by the state that holds them."),
    "turns_total": ("counter", "Turns that ended in this process, by reason."),
    "tokens_total": ("counter", "Tokens of model calls of this process."),
    "cost_usd_total": ("counter", "Cost of model calls of this process, where a price is known."),
    "jobs_in_flight": ("gauge", "Chains of effects that this process runs now."),
    "queue_depth": ("gauge", "Messages that wait in a queue of the broker."),
    "effects_due": ("gauge", "Owed effects that no living process holds."),
    "effects_due_oldest_age_seconds": ("gauge", "How long the oldest of them has waited."),
}


def exposition(samples: Iterable[Sample]) -> str:
    """Samples as Prometheus reads them, each kind with its help."""
    lines: list[str] = []
    said: set[str] = set()
    for name, labels, value in samples:
        if name not in said:
            said.add(name)
            kind, words = HELP[name]
            lines += [f"# HELP p2engine_{name} {words}", f"# TYPE p2engine_{name} {kind}"]
        inside = ",".join(f'{label}="{_quoted(text)}"' for label, text in labels.items())
        lines.append(f"p2engine_{name}{{{inside}}} {value:g}" if inside else f"p2engine_{name} {value:g}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Probes:
    """The answers of one process. consumes: whether it takes messages by now, where it should.

    waits_for: what its engine cannot be opened without.
    """

    def __init__(self, consumes: Callable[[], bool] = lambda: True) -> None:
        self._engine: Engine | None = None
        self._consumes = consumes
        self._meter = Meter()
        self.waits_for = "not open yet"

    def attend(self, engine: Engine) -> None:
        """From now on answer for this engine."""
        self._engine = engine
        engine.world.wrote = self._meter.wrote

    async def livez(self, _: "web.Request") -> "web.Response":
        """The loop answers."""
        return _answer("ok\n")

    async def readyz(self, _: "web.Request") -> "web.Response":
        """The project is loaded, the store and the broker answer, and messages are taken."""
        lacks = [f"{what}: {why}" async for what, why in self._lacks()]
        return _answer("\n".join(lacks) + "\n", 503) if lacks else _answer("ok\n")

    async def metrics(self, _: "web.Request") -> "web.Response":
        return _answer(exposition([*self._meter.samples(), *(await self._gauges())]))

    async def _lacks(self) -> AsyncIterator[tuple[str, str]]:
        if not self._consumes():
            yield "worker", "takes no messages"
        if self._engine is None:
            yield "store", self.waits_for
            return
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self._engine.world.store.newest()
        except (StoreError, TimeoutError) as error:
            yield "store", str(error) or "gives no answer"
        try:
            if full := await self._lack_of_room(self._engine):
                yield "broker", full
        except OSError as error:
            yield "broker", str(error) or "gives no answer"

    @staticmethod
    async def _depths(engine: Engine) -> Mapping[str, int]:
        if engine.elsewhere is None:
            return {}
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            return await engine.elsewhere.depths()

    @staticmethod
    async def _lack_of_room(engine: Engine) -> str:
        if engine.elsewhere is None:
            return ""
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            return await engine.elsewhere.lack_of_room()

    async def _gauges(self) -> list[Sample]:
        engine = self._engine
        if engine is None:
            return []
        found: list[Sample] = [("jobs_in_flight", {}, engine.inline.running)]
        world = engine.world
        with suppress(StoreError):  # what cannot be measured is left out; readyz says why
            number, since = await world.store.backlog()
            found.append(("effects_due", {}, number))
            age_s = 0.0 if since is None else max(0.0, world.clock.now() - since)
            found.append(("effects_due_oldest_age_seconds", {}, age_s))
        with suppress(OSError):
            found += [("queue_depth", {"queue": name}, number) for name, number in (await self._depths(engine)).items()]
        return found


def _answer(text: str, status: int = 200) -> "web.Response":
    from aiohttp import web

    return web.Response(text=text, status=status, headers={"Content-Type": TEXT})


@asynccontextmanager
async def served(
    port: int | None, engine: Engine | None, consumes: Callable[[], bool] = lambda: True
) -> AsyncIterator[Probes | None]:
    """While inside, answer at `/livez`, `/readyz` and `/metrics` on loopback; None: at no port.

    engine: None where it is still to come. Raises UsageError for a port in use.
    """
    if port is None:
        yield None
        return
    from aiohttp import web

    probes = Probes(consumes)
    if engine is not None:
        probes.attend(engine)
    app = web.Application()
    app.add_routes([web.get(f"/{name}", getattr(probes, name)) for name in ("livez", "readyz", "metrics")])
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, HOST, port).start()
        except OSError as error:
            raise UsageError(f"--health {port}: {error.strerror or error}", hint="choose another port") from error
        yield probes
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serving(
    settings: Settings,
    part: Part,
    *,
    project_code: bool = True,
    health: int | None = None,
    consumes: Callable[[], bool] = lambda: True,
) -> AsyncIterator[Engine]:
    """As `Engine.open`, for a process that serves a project: with probes at the port `health`, from the beginning.

    consumes: as for probes. Waits for a store or broker that is away.
    Raises ConfigError, UsageError, and StoreError for what waiting does not mend.
    """
    async with served(health, None, consumes) as probes, AsyncExitStack() as closing:
        pause_s, told = RETRY_WAIT_INITIAL_S, ""
        while True:
            opening = Engine.open(settings=settings, part=part, project_code=project_code)
            try:
                engine = await closing.enter_async_context(opening)
                break
            except StoreBusy as error:
                told = _tell(error, told, probes)
            await asyncio.sleep(pause_s)
            pause_s = min(PAUSE_MAX_S, 2 * pause_s)
        if probes is not None:
            probes.attend(engine)
        yield engine


def _tell(error: StoreBusy, told: str, probes: Probes | None) -> str:
    """Say what is waited for, once for each reason. Returns what was said."""
    if probes is not None:
        probes.waits_for = str(error)
    if str(error) != told:
        log.warning("waits: %s (%s)", error, error.hint)
    return str(error)

"""Which part of the work a process does, and how the rest reaches others."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from p2engine.domain.effects import AnyEffect, CallTool, Judge, kind_of
from p2engine.evals.registry import Registry as Evaluators
from p2engine.settings import Settings
from p2engine.tools.registry import Registry

if TYPE_CHECKING:
    from p2engine.dispatch.celery import Broker, CeleryDispatcher, Routes
    from p2engine.stores.redis_server import RedisServer
    from p2engine.wiring.engine import Engine


class Part(NamedTuple):
    """What one process does for its project. consumes: the queues whose effects it runs, None: all effects.

    sweeps: finds what nobody does. feeds: hands events to the sinks, which one process of a project should.
    """

    consumes: frozenset[str] | None = frozenset()
    sweeps: bool = False
    feeds: bool = False


ALL = Part(consumes=None, sweeps=True, feeds=True)


def broker_of(settings: Settings) -> "Broker":
    """Where the messages of this project go."""
    from p2engine.dispatch.celery import Broker

    address = settings.redis_address
    return Broker(url=address.url(), shown=str(address), prefix=address.prefix)


def routes_of(settings: Settings, registry: Registry) -> "Routes":
    from p2engine.dispatch.celery import Routes

    return Routes(settings.celery.queues, registry.on_loop)


def elsewhere_of(settings: Settings, routes: "Routes") -> "CeleryDispatcher":
    from p2engine.dispatch.celery import CeleryDispatcher, celery_app, queues_of

    broker = broker_of(settings)
    return CeleryDispatcher(celery_app(broker, queues_of(settings.celery.queues)), routes.queue_of, broker)


def asking_of(settings: Settings) -> "CeleryDispatcher":
    """A door to the broker for who only asks it about workers and queues."""
    return elsewhere_of(settings, routes_of(settings, Registry()))


def keeps_of(
    routes: "Routes", consumes: frozenset[str], registry: Registry, evaluators: Evaluators
) -> Callable[[AnyEffect], bool]:
    """Which effects this process does itself: those of its queues, unless what they need is not loaded here."""

    def keeps(effect: AnyEffect) -> bool:
        if isinstance(effect, CallTool) and registry.get(effect.tool) is None:
            return False
        if isinstance(effect, Judge):
            evaluation = effect.evaluation
            if evaluators.get(evaluation.evaluator, evaluation.version) is None:
                return False
        return routes.queue_of(kind_of(effect)) in consumes

    return keeps


class Left:
    """What an engine that closes could not do any more: others are asked to, once it holds nothing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.engine: Engine | None = None

    async def hand_back(self) -> None:
        engine = self.engine
        if engine is None or engine.elsewhere is None or not engine.inline.left:
            return
        dispatcher = elsewhere_of(self._settings, routes_of(self._settings, engine.registry))
        await dispatcher.submit(*engine.inline.left)
        await dispatcher.aclose()


async def reach(settings: Settings, known: "RedisServer | None" = None) -> None:
    """Raises StoreError where the broker that these settings need cannot be used, or has keys of somebody else.

    known: the server that the store is in, where it is in one: the broker's as well.
    """
    if settings.dispatch == "inline":
        return
    from p2engine.dispatch.celery import kinds_of, queues_of
    from p2engine.limits import BUSY_WAIT_S
    from p2engine.stores.redis_keys import check_kinds
    from p2engine.stores.redis_server import RedisServer

    kinds = kinds_of(queues_of(settings.celery.queues))
    server = known or RedisServer(settings.redis_address)
    try:
        wait_s = 0.0 if known is None else BUSY_WAIT_S  # one that was there a moment ago may be back in another
        await server.patiently(lambda: check_kinds(server, kinds), wait_s=wait_s)
    finally:
        if server is not known:
            await server.aclose()

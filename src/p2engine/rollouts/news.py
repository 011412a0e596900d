"""What is written to the log while a rollout runs, as far as it is waited for: verdicts, and that it shall end."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from p2engine.domain.ids import ConversationId
from p2engine.domain.records import Event
from p2engine.rollouts import journal
from p2engine.runtime.judging import VERDICT
from p2engine.runtime.world import World


class News:
    """Whoever waits for something is woken when it is written, by whichever process. See `following`."""

    def __init__(self) -> None:
        self._waiting: dict[ConversationId, asyncio.Event] = {}
        self._cancelled: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def take(self, event: Event) -> None:
        if event.kind == journal.CANCELLED:
            self._cancelled[str(event.body["rollout"])].set()
        elif event.kind == VERDICT and event.conversation in self._waiting:
            self._waiting[event.conversation].set()

    async def cancelled(self, rollout: str) -> None:
        """Returns when that rollout is cancelled."""
        await self._cancelled[rollout].wait()

    @contextmanager
    def verdicts(self, conversation: ConversationId) -> Iterator[asyncio.Event]:
        """While inside, an event that is set whenever a verdict on this conversation is written."""
        try:
            yield self._waiting.setdefault(conversation, asyncio.Event())
        finally:
            self._waiting.pop(conversation, None)


@asynccontextmanager
async def following(world: World) -> AsyncIterator[News]:
    """The news from now on, while inside."""
    news = News()
    events = world.store.tail(await world.store.newest(), whole=False)

    async def follow() -> None:
        async for event in events:
            news.take(event)

    task = asyncio.ensure_future(follow())
    try:
        yield news
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

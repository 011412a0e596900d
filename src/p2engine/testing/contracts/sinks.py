"""What every EventSink does: it takes whatever happens, and can be closed at any time."""

import asyncio
from collections.abc import Callable, Sequence

from p2engine.domain.ids import AgentId, ConversationId, StackRef
from p2engine.domain.records import Cursor, Event
from p2engine.ports import EventSink

PATIENCE_S = 30.0
MANY = 200


def event(number: int, **more: object) -> Event:
    """The entry of that number."""
    plain = Event(
        cursor=Cursor(number, 0),
        id=f"ref:{number}",
        kind="state.user_message",
        cause="user",
        at=1_700_000_000.0 + number,
        conversation=ConversationId("c-demo"),
        agent=AgentId("alpha"),
        branch="main",
        ref=StackRef("ref"),
        index=number,
        body={"text": f"message {number}"},
    )
    return Event(**({name: getattr(plain, name) for name in Event.__struct_fields__} | more))


class EventSinkContract:
    """A subclass gives the fixtures `sink`, and `received`: the ids of the events that the sink has shown to whoever
    reads it, oldest first. It is called after the sink was closed."""

    async def test_what_is_emitted_is_shown(self, sink: EventSink, received: Callable[[], Sequence[str]]) -> None:
        """Each event once, in the order in which it came."""
        for number in range(MANY):
            await sink.emit(event(number))
        await sink.aclose()
        assert list(received()) == [f"ref:{number}" for number in range(MANY)]

    async def test_every_kind_of_event_is_taken(self, sink: EventSink, received: Callable[[], Sequence[str]]) -> None:
        """Facts without a conversation, empty and nested bodies, text of any kind: none of them is refused."""
        bare = Event(cursor=Cursor(1), id="fact-1", kind="config.changed", cause="user", at=0.0)
        odd = [
            event(2, body={}),
            event(3, body={"nested": {"list": [1, 2.5, None, True], "text": "ünï\n\x1b[31m🎉 {{ 7*7 }} [bold]"}}),
            event(4, body={"text": "x" * 1_000_000}),
            event(5, group="trial-1"),
        ]
        for one in (bare, *odd):
            await sink.emit(one)
        await sink.aclose()
        assert list(received()) == ["fact-1", "ref:2", "ref:3", "ref:4", "ref:5"]

    async def test_a_sink_may_be_closed_unused_and_twice(self, sink: EventSink) -> None:
        """Closing needs nothing to have come before, and does no harm a second time."""
        await sink.aclose()
        await sink.aclose()

    async def test_a_sink_holds_up_nobody(self, sink: EventSink) -> None:
        """While it takes events, the loop runs on."""
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.ensure_future(tick())
        async with asyncio.timeout(PATIENCE_S):
            for number in range(MANY):
                await sink.emit(event(number))
                await asyncio.sleep(0)
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
        assert ticks >= MANY
        await sink.aclose()

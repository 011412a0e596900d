"""What every Store does as a log: one order, every event once, queries that match, tails without gaps."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from msgspec.structs import replace

from p2engine.domain.messages import Usage
from p2engine.domain.records import Batch, Commit, Cursor, Event, Query, StackWrite, body_of
from p2engine.domain.states import ToolResult, UserMessage
from p2engine.errors import UsageError
from p2engine.limits import TAIL_ROWS_MAX
from p2engine.ports import Archive
from p2engine.testing.histories import (
    NOON,
    answering,
    asking,
    branch,
    conversation,
    fact,
    grown,
    noting,
    opening,
    ref,
    thought,
)

DEMO = conversation("demo").id


async def _ids(store: Archive, **query: object) -> list[str]:
    return [event.id for event in await store.events(msgspec.convert(query, Query))]


async def _take(tail: AsyncIterator[Event], count: int) -> list[Event]:
    return [await anext(tail) for _ in range(count)]


class EventsContract:
    """A subclass gives the fixture `store`, empty."""

    async def test_an_entry_is_its_event(self, store: Archive) -> None:
        """Each state of a commit is an event that says where it stands, why it is there and what it holds."""
        row = (await store.write(opening(group="g1"))).row
        said, waits = await store.events(Query())
        assert said == Event(
            cursor=Cursor(row, 0),
            id=f"{ref('demo')}:0",
            kind="state.user_message",
            cause="user",
            at=NOON,
            conversation=DEMO,
            agent=conversation("demo").agent,
            branch="demo",
            ref=ref("demo"),
            index=0,
            group="g1",
            body={"text": "hello", "sender": "user", "caller": None, "grant": None},
        )
        assert (waits.cursor, waits.kind, waits.index) == (Cursor(row, 1), "state.waiting", 1)

    async def test_what_a_model_cost_is_an_event_after_the_entries(self, store: Archive) -> None:
        """A commit with a usage has one more event, which tells it."""
        await store.write(opening())
        usage = Usage(model="m-1", tokens_in=7, cost_usd=0.5)
        commit = Commit(NOON, thought("demo"), (UserMessage(text="x"),), 1, usage)
        row = (await store.write(Batch(conversation=DEMO, writes=(StackWrite(ref("demo"), 2, commit),)))).row
        event = (await store.events(Query(newest=True, limit=1)))[0]
        assert (event.cursor, event.kind, event.cause) == (Cursor(row, 1), "model.reply", thought("demo"))
        assert event.body == body_of(usage)
        assert (event.body["model"], event.body["tokens_in"], event.body["tokens_out"]) == ("m-1", 7, 0)
        assert [one.id for one in await store.events(Query(kinds=("model.reply",)))] == [event.id]
        assert [one.id for one in await store.events(Query(kinds=("model.",)))] == [event.id]
        assert event.id not in [other.id for other in await store.events(Query(kinds=("state.",)))]

    async def test_a_fact_is_found_by_the_names_that_it_took(self, store: Archive) -> None:
        """Wherever it stands and whatever came since; one that was taken before stays with who has it."""
        await store.write(opening())
        await store.write(opening("other"))
        assert await store.known("judged:x") is None
        await store.write(
            noting(replace(fact("f1", of="other", score=1), known_as=("judged:x", "judged:y")), of="other")
        )
        await store.write(noting(replace(fact("f2", of="demo", score=2), known_as=("judged:x", "judged:z"))))
        await store.write(noting(replace(fact("f3", score=3), known_as=("judged:alone",)), fact("f4", of="demo")))
        found = await store.known("judged:x")
        assert found == await store.known("judged:y")
        assert found == (await store.events(Query(conversation=conversation("other").id, kinds=("test.",))))[0]
        assert (found.id, found.body) == ("f1", {"score": 1})
        later, alone = await store.known("judged:z"), await store.known("judged:alone")
        assert later is not None
        assert alone is not None
        assert (later.id, alone.id, alone.conversation) == ("f2", "f3", None)
        assert await store.known("judged:") is None

    async def test_a_fact_that_is_dropped_is_known_as_nothing(self, store: Archive) -> None:
        """A second fact of one id is not written, whatever it would be known as."""
        await store.write(noting(replace(fact("f1", n=1), known_as=("one",))))
        await store.write(noting(replace(fact("f1", n=2), known_as=("two",))))
        first = await store.known("one")
        assert first is not None
        assert (first.body, await store.known("two")) == ({"n": 1}, None)

    async def test_a_fact_is_an_event(self, store: Archive) -> None:
        """A fact tells its own id, kind and body, and the stack it is about; one about nothing tells just that."""
        await store.write(opening())
        await store.write(noting(fact("f1", "eval.done", of="demo", score=1), fact("f2", "config.changed")))
        about, alone = await store.events(Query(kinds=("eval.", "config.changed")))
        assert (about.id, about.kind, about.body, about.index) == ("f1", "eval.done", {"score": 1}, None)
        assert (about.conversation, about.agent, about.branch, about.ref) == (DEMO, "alpha", "demo", ref("demo"))
        assert (alone.id, alone.conversation, alone.agent, alone.ref) == ("f2", None, None, None)

    async def test_facts_need_no_conversation(self, store: Archive) -> None:
        """A batch of no conversation has facts alone, each once; one about a stack is of that stack's conversation."""
        await store.write(opening())
        about = msgspec.structs.replace(fact("f1", "ledger.transfer", of="demo"), conversation=None)
        strange = msgspec.structs.replace(fact("f2", "ledger.opened", of="demo"), conversation=None, ref=ref("ghost"))
        alone = Batch(conversation=None, facts=(about, strange, fact("f3", "ledger.opened")))
        assert (await store.write(alone)).row > 0
        assert (await store.write(alone)).row == 0
        first, *others = await store.events(Query(kinds=("ledger.",)))
        assert (first.conversation, first.agent, first.ref) == (DEMO, "alpha", ref("demo"))
        assert [(event.id, event.conversation, event.ref) for event in others] == [
            ("f2", None, None),
            ("f3", None, None),
        ]
        assert await _ids(store, conversation=DEMO, kinds=["ledger."]) == ["f1"]
        with pytest.raises(UsageError, match="facts alone"):
            await store.write(Batch(conversation=None, writes=(grown("demo", 2, [UserMessage(text="x")]),)))

    async def test_queries_choose(self, store: Archive) -> None:
        """Conversation, stack, agent, kind, time and place each choose; together they choose what all of them do."""
        await store.write(opening("demo"))
        await store.write(opening("more", at=NOON + 50))
        side = branch("demo", "side", agent="beta")
        await store.write(
            Batch(conversation=DEMO, branches=(side,), writes=(grown("side", 0, [ToolResult(call_id="c", tool="t")]),))
        )
        await store.write(noting(fact("f1", "eval.done", of="demo"), fact("f2", "eval.late", of="more", at=NOON + 99)))
        demo, more, beta = ([f"{ref(name)}:{n}" for n in range(2)] for name in ("demo", "more", "side"))
        assert await _ids(store) == [*demo, *more, beta[0], "f1", "f2"]
        assert await _ids(store, conversation="c-demo") == [*demo, beta[0], "f1"]
        assert await _ids(store, ref=ref("demo")) == [*demo, "f1"]
        assert await _ids(store, ref=ref("side"), conversation="c-demo") == [beta[0]]
        assert await _ids(store, ref=ref("side"), conversation="c-more") == []
        assert await _ids(store, agent="beta") == [beta[0]]
        assert await _ids(store, kinds=["state.user_message"]) == [demo[0], more[0]]
        assert await _ids(store, kinds=["state.user_message", "eval."]) == [demo[0], more[0], "f1", "f2"]
        assert await _ids(store, kinds=["state."], agent="alpha", conversation="c-more") == more
        assert await _ids(store, kinds=["eval."], conversation="c-more") == ["f2"]
        assert await _ids(store, kinds=["eval.done", "eval.late"], agent="alpha", newest=True, limit=1) == ["f2"]
        assert await _ids(store, kinds=["eval"]) == []
        assert await _ids(store, kinds=["eval.don"]) == []
        assert await _ids(store, since=NOON + 50) == [*more, "f2"]
        assert await _ids(store, conversation="c-ghost") == []
        assert await _ids(store, ref="ghost") == []

    async def test_cursors_bound_a_query(self, store: Archive) -> None:
        """`after` and `before` leave out the event they name, even in the middle of a commit."""
        await store.write(opening())
        await store.write(answering())
        all_of_them = await store.events(Query())
        middle = [event.cursor for event in all_of_them][1:3]
        after = await store.events(Query(after=middle[0]))
        before = await store.events(Query(before=middle[1]))
        between = await store.events(Query(after=all_of_them[0].cursor, before=all_of_them[3].cursor))
        assert (after, before, between) == (all_of_them[2:], all_of_them[:2], all_of_them[1:3])

    async def test_the_newest_come_oldest_first(self, store: Archive) -> None:
        """A limited query gives the first that match, or with `newest` the last; both in the order of the log."""
        await store.write(opening())
        await store.write(answering())
        ids = await _ids(store)
        assert len(ids) == 4
        assert await _ids(store, limit=3) == ids[:3]
        assert await _ids(store, limit=3, newest=True) == ids[-3:]
        assert await _ids(store, limit=0) == []

    async def test_a_query_finds_what_is_rare(self, store: Archive) -> None:
        """What matches is found among more rows than one read takes, from either end."""
        await store.write(opening())
        await store.write(noting(fact("first", "rare.one", of="demo")))
        head, rows = 2, TAIL_ROWS_MAX + 20
        for number in range(rows):
            state = ToolResult(call_id="c", tool="t") if number == rows // 2 else UserMessage(text="x")
            await store.write(Batch(conversation=DEMO, writes=(grown("demo", head + number, [state]),)))
        middle = f"{ref('demo')}:{head + rows // 2}"
        for newest in (False, True):
            assert await _ids(store, kinds=["rare.", "state.tool_result"], newest=newest) == ["first", middle]
            assert await _ids(store, kinds=["rare."], conversation="c-demo", newest=newest) == ["first"]

    async def test_failure_17_a_tail_goes_on_without_a_gap(self, store: Archive) -> None:
        """A follower that stops anywhere and comes back with its cursor sees every event once and in order."""
        await store.write(opening())
        for number in range(2, 12, 4):
            await store.write(answering(head=number))
            await store.write(asking(head=number + 2))
        expected = [event.id for event in await store.events(Query())]
        seen: list[Event] = []
        for stop in (1, 3, 2, len(expected)):  # also in the middle of a commit
            tail = store.tail(seen[-1].cursor if seen else Cursor())
            seen += await _take(tail, min(stop, len(expected) - len(seen)))
            await tail.aclose()  # type: ignore[attr-defined]
        assert [event.id for event in seen] == expected

    async def test_seam_24_a_tail_reads_a_long_log_in_short_reads(self, store: Archive) -> None:
        """More rows than one read takes are all seen, in order."""
        await store.write(opening())
        for number in range(TAIL_ROWS_MAX + 10):
            await store.write(noting(fact(f"f{number}")))
        events = await _take(store.tail(Cursor()), TAIL_ROWS_MAX + 12)
        assert [event.id for event in events[2:]] == [f"f{number}" for number in range(TAIL_ROWS_MAX + 10)]

    async def test_a_tail_from_the_newest_gives_what_comes(self, store: Archive) -> None:
        """The newest place is after all that is written, wherever a reading of the log ends."""
        await store.write(opening())
        assert await store.events(Query(after=await store.newest())) == []
        tail = store.tail(await store.newest())
        await store.write(answering())
        assert [event.index for event in await _take(tail, 2)] == [2, 3]

    async def test_a_tail_wakes(self, store: Archive) -> None:
        """A waiting follower gets what is written, and each of several gets all of it."""
        await store.write(opening())
        newest = await store.newest()
        tails = [asyncio.ensure_future(_take(store.tail(newest), 2)) for _ in range(3)]
        await asyncio.sleep(0)
        await store.write(answering())
        for events in await asyncio.gather(*tails):
            assert [event.index for event in events] == [2, 3]

    async def test_a_tail_ends_with_its_store(self, store: Archive) -> None:
        """Closing the store ends a waiting follower."""
        await store.write(opening())

        async def follow() -> list[str]:
            return [event.id async for event in store.tail(Cursor())]

        following = asyncio.ensure_future(follow())
        await asyncio.sleep(0)
        await store.aclose()
        assert await following == [f"{ref('demo')}:0", f"{ref('demo')}:1"]

    @pytest.mark.parametrize("count", [1, 30])
    async def test_a_tail_misses_nothing_written_meanwhile(self, store: Archive, count: int) -> None:
        """A follower that reads while others write sees every event once, in the order of the log."""
        names = [f"n{number}" for number in range(count)]

        async def write(name: str) -> None:
            await store.write(opening(name))
            for head in range(2, 10, 4):
                await store.write(answering(name, head=head))
                await store.write(asking(name, head=head + 2))

        following = asyncio.ensure_future(_take(store.tail(Cursor()), 10 * count))
        await asyncio.gather(*map(write, names))
        seen = await following
        assert [event.id for event in seen] == await _ids(store, limit=1000)
        assert [event.cursor for event in seen] == sorted(event.cursor for event in seen)

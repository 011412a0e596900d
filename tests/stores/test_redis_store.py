"""What the shared store does when servers stop, answers are lost, leases lapse and other versions write."""

import asyncio
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import ResponseError

from p2engine.domain import codec
from p2engine.domain.effects import CallTool
from p2engine.domain.ids import EffectId
from p2engine.domain.messages import Usage
from p2engine.domain.records import Batch, Cursor, Perform, Query, StackWrite, Written
from p2engine.domain.states import AssistantMessage, Finished
from p2engine.errors import HeadMoved, NewerFormat, Pruned, Rewound, StoreError, UsageError
from p2engine.stores import redis, redis_events, redis_scripts
from p2engine.stores.redis import RedisStore
from p2engine.stores.redis_server import Call
from p2engine.testing.histories import (
    NOBODY,
    answering,
    asking,
    conversation,
    fact,
    grown,
    noting,
    opening,
    owing,
    ref,
    thought,
)
from tests.servers import ValkeyServer
from tests.stores.conftest import Open


@pytest.fixture(scope="module", params=[None, pytest.param("redis-server", marks=pytest.mark.redis)])
def shared(request: pytest.FixtureRequest) -> Iterator[ValkeyServer]:
    """The server that all tests use, and Redis proper."""
    with ValkeyServer("--save", "", "--appendonly", "no", program=request.param) as server:
        yield server


def losing_an_answer(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call of a script is done, and the connection is lost before its answer comes."""
    once = store._scripts.once
    lost = False

    async def lose(name: str, *arguments: Any) -> Any:
        nonlocal lost
        answer = await once(name, *arguments)
        if not lost:
            lost = True
            raise Lost("reset by peer")
        return answer

    monkeypatch.setattr(store._scripts, "once", lose)


@pytest.mark.parametrize("before", [(), (opening(),), (opening(), noting(fact("f1", of="demo")))], ids=len)
async def test_failure_35_a_write_whose_answer_is_lost_is_done_once(
    shared: ValkeyServer, opened: Open, monkeypatch: pytest.MonkeyPatch, before: tuple[Batch, ...]
) -> None:
    """It is sent again, found written, and told so: no conflict, no second row."""
    store = await opened(shared)
    for batch in before:
        await store.write(batch)
    losing_an_answer(store, monkeypatch)
    after: Batch = [opening(), answering(), noting(fact("f2", of="demo"))][len(before)]
    written = await store.write(after)
    assert written.row in (0, (await store.newest()).row)
    await store.write([answering(), asking(head=4), answering()][len(before)])
    ids = [event.id for event in await store.events(Query())]
    assert len(ids) == len(set(ids))


async def test_failure_35_a_store_outlives_its_server(own: ValkeyServer, opened: Open) -> None:
    """A server that is killed and comes back with its file: who waits goes on, and nothing acknowledged is missing."""
    store = await opened(own)
    await store.write(opening())
    tail = store.tail(Cursor())
    assert [(await anext(tail)).index for _ in range(2)] == [0, 1]
    own.stop()
    writing = asyncio.ensure_future(store.write(answering()))
    following = asyncio.ensure_future(anext(tail))
    await asyncio.sleep(0)
    await asyncio.to_thread(own.start, own.port)
    await writing
    assert (await following).index == 2
    assert await store.head(ref("demo")) == 4


async def test_seam_18_a_server_that_went_back_in_time_is_told_of(
    own: ValkeyServer, opened: Open, tmp_path: Path
) -> None:
    """Its rows get numbers that were never given, what rests on lost ones is refused, and old cursors are told so."""
    store = await opened(own)
    await store.write(opening())
    own.stop()
    shutil.copytree(own.folder, tmp_path / "past")
    await asyncio.to_thread(own.start, own.port)
    await store.write(answering())
    await store.write(asking(head=4))
    late = await store.newest()
    own.stop()
    shutil.rmtree(own.folder)
    shutil.copytree(tmp_path / "past", own.folder)
    await asyncio.to_thread(own.start, own.port)

    with pytest.raises(Rewound, match="went back in time: writes up to row 3"):
        await store.due(limit=10)
    assert await store.head(ref("demo")) == 2
    written = await store.write(answering())
    assert written.row > late.row
    with pytest.raises(Pruned, match="the server lost its rows after 1"):
        await store.events(Query(after=late))
    with pytest.raises(Pruned, match="the server lost its rows"):
        await anext(store.tail(late))
    assert [event.index for event in await store.events(Query(after=Cursor(1, 5)))] == [2, 3]

    other = await opened(own)
    assert (await other.write(asking(head=4))).row == written.row + 1


async def test_seam_05_a_conflict_brings_what_is_missing(shared: ValkeyServer, opened: Open) -> None:
    """Who wrote on too short a stack gets the commits it lacks with the refusal."""
    store = await opened(shared)
    await store.write(opening())
    await store.write(answering())
    await store.write(asking(head=4))
    with pytest.raises(HeadMoved) as moved:
        await store.write(asking("demo", head=2))
    assert moved.value.missing is not None
    assert [placed.seq for placed in moved.value.missing] == [2, 4]
    assert list(moved.value.missing) == list(await store.load(ref("demo"), since=2))


async def test_seam_09_a_lease_that_lapses_is_a_death(shared: ValkeyServer, opened: Open) -> None:
    """What a process held that has not renewed its lease is due; if it lives after all, it may still settle it."""
    gone = await opened(shared, lease_s=0.05)
    await gone._lease.end()
    await gone.write(opening(owner=gone.owner))
    store = await opened(shared, handed_out_s=0)
    while not (due := await store.due(limit=10)):
        await asyncio.sleep(0)
    assert due == [Perform(thought("demo"), "think")]
    await gone.write(answering())
    assert await store.due(limit=10) == []


async def test_a_store_that_closes_hands_back_what_it_held(shared: ValkeyServer, opened: Open) -> None:
    """At once, and that is no try that failed: nobody waits for the lease to lapse."""
    store = await opened(shared)
    gone = await opened(shared)
    await gone.write(opening(owner=gone.owner))
    assert await store.due(limit=10) == []
    await gone.aclose()
    assert await store.due(limit=10) == [Perform(thought("demo"), "think")]


async def test_what_was_handed_out_is_not_due_for_a_while(shared: ValkeyServer, opened: Open) -> None:
    """Neither what was just written for others to do, nor what a sweep has just handed out."""
    store = await opened(shared)
    await store.write(opening(owner=None))
    assert await store.due(limit=10) == []
    soon = await opened(shared, handed_out_s=0)
    await soon.write(owing("demo", CallTool(id=thought("demo", 5), call_id="c", tool="pay")))
    assert await store.due(limit=10) == [Perform(thought("demo", 5), "call_tool.pay")]
    assert await store.due(limit=10) == []


async def test_the_backlog_is_what_no_living_process_holds(shared: ValkeyServer, opened: Open) -> None:
    """Counted with the age of the oldest, and nothing of it is handed out for that."""
    store = await opened(shared)
    assert await store.backlog() == (0, None)
    before = store.server.now()
    await store.write(opening("free"))
    await store.write(opening("dead", owner=NOBODY))
    await store.write(opening("held", owner=store.owner))
    count, since = await store.backlog()
    assert count == 2
    assert since is not None
    assert before - 1 < since <= store.server.now() + 1
    soon = await opened(shared, handed_out_s=0)
    assert Perform(thought("dead"), "think") in await soon.due(limit=10)


async def test_seam_29_an_effect_of_a_later_version_is_left_to_others(
    shared: ValkeyServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that cannot read it says so by name and lets go of it."""
    store = await opened(shared, released_s=0)
    with monkeypatch.context() as patched:
        patched.setattr(codec, "CODEC", codec.CODEC + 1)
        await store.write(opening())
    with pytest.raises(NewerFormat, match=thought("demo")):
        await store.claim(thought("demo"), store.owner)
    assert await store.held(store.owner) == []
    newer = await opened(shared)
    with monkeypatch.context() as patched:
        patched.setattr(codec, "CODEC", codec.CODEC + 1)
        assert await store.due(limit=10) == [Perform(thought("demo"), "think")]
    assert newer.owner != store.owner


async def test_data_of_a_later_version_is_refused(shared: ValkeyServer, opened: Open, prefix: str) -> None:
    """Another version's keys are left alone."""
    store = await opened(shared)
    await store.server.client.hset(f"{prefix}:meta", "schema", "99")
    with pytest.raises(NewerFormat, match=r"schema '99'; this version knows 1"):
        await opened(shared)


async def test_a_foreign_key_in_the_way_is_named(shared: ValkeyServer, opened: Open, prefix: str) -> None:
    """A prefix under which somebody else keeps something is refused, and nothing of it is touched."""
    store = await opened(shared)
    await store.server.client.delete(f"{prefix}:meta")
    await store.server.client.set(f"{prefix}:meta", "mine")
    with pytest.raises(StoreError, match="is not ours"):
        await opened(shared)
    assert await store.server.client.get(f"{prefix}:meta") == b"mine"


async def test_failure_35_a_full_server_refuses_whole_batches(own: ValkeyServer, opened: Open) -> None:
    """Nothing of what a full server refuses is written, and what frees it lets it go on."""
    store = await opened(own)
    await store.write(opening())
    await store.server.client.config_set("maxmemory", "1")
    with pytest.raises(StoreError, match="is full"):
        await store.write(answering())
    await store.server.client.config_set("maxmemory", "0")
    assert await store.head(ref("demo")) == 2
    assert list(await store.owed(ref("demo"))) == [thought("demo")]
    await store.write(answering())


async def test_who_follows_a_stack_hears_what_is_spoken_there(shared: ValkeyServer, opened: Open) -> None:
    """Whoever writes to it is told that somebody listens; what is said comes before the answer that it became."""
    store, other = await opened(shared), await opened(shared)
    assert not (await store.write(opening())).followed
    news = other.follow(ref("demo"), since=0)
    assert [placed.seq for placed in await anext(news)] == [0]
    claimed = await store.claim(thought("demo"), store.owner)
    assert claimed is not None
    assert claimed.followed
    store.speak(ref("demo"), "h")
    store.speak(ref("demo"), "i")
    assert (await store.write(answering())).followed
    assert await anext(news) == "hi"
    assert [placed.seq for placed in await anext(news)] == [2]


async def test_who_waits_for_an_answer_is_woken_by_answers_alone(
    shared: ValkeyServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What leads to an answer is not sent to him, nor is anything spoken for his sake."""
    monkeypatch.setattr(redis, "FOLLOW_FIRST_LOOK_S", 60.0)  # else he may look for himself meanwhile
    store, other = await opened(shared), await opened(shared)
    channel = f"{store.server.address.prefix}:answers:{ref('demo')}"
    hearing = asyncio.ensure_future(anext(other.follow(ref("demo"), since=0, answers=True)))
    while await store.server.client.pubsub_numsub(channel) != [(channel.encode(), 1)]:
        await asyncio.sleep(0)
    await store.write(opening())
    assert not (await store.write(answering())).followed
    heard = await hearing
    assert [placed.seq for placed in heard if not isinstance(placed, str)] == [2]


async def test_failure_35_who_follows_a_stack_outlives_the_server(own: ValkeyServer, opened: Open) -> None:
    """What was written while the connection was away, and what comes after, is all heard of."""
    store, other = await opened(own), await opened(own)
    await store.write(opening())
    news = other.follow(ref("demo"), since=0)
    assert [placed.seq for placed in await anext(news)] == [0]
    following = asyncio.ensure_future(anext(news))
    await asyncio.sleep(0)
    own.stop()
    await asyncio.to_thread(own.start, own.port)
    await store.write(answering())
    assert [placed.seq for placed in await following] == [2]
    await store.write(asking(head=4))
    assert [placed.seq for placed in await anext(news)] == [4]


async def test_a_great_stack_is_loaded_whole(shared: ValkeyServer, opened: Open) -> None:
    """Thousands of entries, from any entry on."""
    store = await opened(shared)
    await store.write(opening())
    for head in range(2, 400, 4):
        await store.write(answering(head=head))
        await store.write(asking(head=head + 2))
    assert [placed.seq for placed in await store.load(ref("demo"))] == list(range(0, 402, 2))
    assert [placed.seq for placed in await store.load(ref("demo"), since=301)] == list(range(300, 402, 2))
    assert EffectId(thought("demo", 401)) in await store.owed(ref("demo"))
    assert conversation("demo").current == ref("demo")


async def test_of_commits_that_cost_nothing_no_body_is_read_for_what_models_cost(
    shared: ValkeyServer, opened: Open
) -> None:
    """The log says which ones did; of those that an earlier version wrote it does not, and all are read."""
    store = await opened(shared)
    await store.write(opening())
    paid = replace(grown("demo", 2, [AssistantMessage(text="hi")]).commit, usage=Usage(model="m", tokens_in=1))
    await store.write(Batch(conversation=conversation("demo").id, writes=(StackWrite(ref("demo"), 2, paid),)))
    await store.write(
        Batch(conversation=conversation("demo").id, writes=(grown("demo", 3, [Finished(reason="answered")]),))
    )
    costs = Query(kinds=("model.reply",))
    sizes = watch_groups(store)
    found = await store.events(costs)
    assert sizes == [1]
    assert [event.id for event in found] == [f"{ref('demo')}:2.model"]

    client, log = store.server.client, f"{store.server.address.prefix}:log"
    rows = await client.xrange(log)
    await client.delete(log)
    for number, fields in rows:
        await client.xadd(log, {name: value for name, value in fields.items() if name != b"usage"}, id=number)
    assert await store.events(costs) == found
    assert sizes == [1, 3]


# Calls that go together


async def test_of_writes_that_go_together_each_stands_for_itself(shared: ValkeyServer, opened: Open) -> None:
    """One round trip for all of them: one that is refused takes no other with it, and says what it missed."""
    store = await opened(shared)
    for name in ("a", "b", "c"):
        await store.write(opening(name))
    await store.write(answering("b"))
    sizes = watch_groups(store)
    first = asyncio.ensure_future(store.load(ref("a")))
    await asyncio.sleep(0)  # it is on its way; what comes now waits for it
    together = (store.write(answering("a")), store.write(asking("b", head=2)), store.write(answering("c")))
    outcomes: Sequence[Any] = await asyncio.gather(*together, store.load(ref("nobody")), return_exceptions=True)
    await first
    assert max(sizes) == 4
    assert [type(outcome) for outcome in outcomes] == [Written, HeadMoved, Written, UsageError]
    assert [placed.seq for placed in outcomes[1].missing] == [2]
    assert [len(await store.load(ref(name))) for name in ("a", "b", "c")] == [2, 2, 2]


async def test_no_more_calls_go_together_than_the_server_should_do_at_once(
    shared: ValkeyServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is more waits for the next round trip, in its order."""
    store = await opened(shared)
    for number in range(7):
        await store.write(opening(f"w{number}"))
    monkeypatch.setattr(redis_scripts, "CALLS_TOGETHER_MAX", 3)
    sizes = watch_groups(store)
    rows = [
        (await written).row for written in [asyncio.ensure_future(store.write(answering(f"w{n}"))) for n in range(7)]
    ]
    assert sizes == [3, 3, 1]
    assert rows == sorted(rows)


async def test_a_refused_command_is_an_answer_among_others(shared: ValkeyServer, opened: Open) -> None:
    """Those beside it are done; the connection goes on."""
    server = (await opened(shared)).server
    answers = await server.together([("SET", "k", b"1"), ("LPUSH", "k", 1), ("GET", "k"), ("CONFIG", "GET", "nothing")])
    assert [type(answer) for answer in answers] == [bytes, ResponseError, bytes, list]
    assert await server.together([]) == []


def watch_groups(store: RedisStore) -> list[int]:
    """How many calls go together, each time that some do."""
    server, sizes = store.server, []
    together = server.together

    async def watched(calls: Sequence[Call]) -> list[Any]:
        sizes.append(len(calls))
        return await together(calls)

    server.together = watched  # type: ignore[method-assign]
    return sizes


async def test_what_a_reader_of_the_log_remembers_is_bounded(
    shared: ValkeyServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads the log for ever does not remember every branch that there ever was."""
    monkeypatch.setattr(redis_events, "BRANCHES_KNOWN_MAX", 2)
    store = await opened(shared)
    for number in range(6):
        await store.write(opening(f"k{number}"))
    for number in range(6):
        events = await store.events(Query(conversation=conversation(f"k{number}").id))
        assert {event.ref for event in events} == {ref(f"k{number}")}
    assert len(store._log._branches) <= 3
    assert len(store._log._groups) <= 3
    assert len({event.ref for event in await store.events(Query())}) == 6

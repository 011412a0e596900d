"""What every Retention does: what is pruned is gone wholly, and everything else is as it was."""

import asyncio

import pytest
from msgspec.structs import replace

from p2engine.domain.ids import ConversationId, StackRef
from p2engine.domain.records import NO_END, Batch, Cursor, Placed, Pruning, Query, Weight
from p2engine.domain.states import UserMessage
from p2engine.errors import ConflictError, P2EngineError, Pruned, UsageError
from p2engine.limits import TAIL_ROWS_MAX
from p2engine.ports import Archive
from p2engine.testing.histories import (
    answered,
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
KIND = "conversation.pruned"


async def pruning(store: Archive, name: str = "demo", fact_id: str = "", **more: object) -> Pruning:
    """Taking that conversation away as it is now. more: the other fields of a Pruning."""
    weight = await store.weigh(conversation(name).id)
    plan = Pruning(
        conversation=conversation(name).id,
        fact=fact(fact_id or f"p-{name}", KIND, was=name),
        row=weight.row,
        branches=weight.branches,
    )
    return replace(plan, **more)


async def _rest(store: Archive, name: str = "demo", turns: int = 1) -> None:
    """A conversation of so many turns that owes nothing."""
    await store.write(opening(name))
    for turn in range(turns):
        await store.write(answering(name, head=4 * turn + 2))
        if turn + 1 < turns:
            await store.write(asking(name, head=4 * turn + 4))


async def _forked(store: Archive, name: str, parent: str, at: int, *texts: str) -> None:
    """A branch of `demo` with entries of its own."""
    write = grown(name, at, [UserMessage(text=text) for text in texts])
    made = branch("demo", name, parent=parent, at=at)
    await store.write(Batch(conversation=DEMO, branches=(made,), writes=(write,) if texts else ()))


async def _ids(store: Archive, **query: object) -> list[str]:
    return [event.id for event in await store.events(Query(**query))]  # type: ignore[arg-type]


async def _stack(store: Archive, name: str) -> list[Placed]:
    return list(await store.load(ref(name)))


class RetentionContract:
    """A subclass gives the fixture `store`, empty."""

    async def test_what_is_kept_is_weighed(self, store: Archive) -> None:
        """Branches, rows, bytes, the newest row and what is owed, of one conversation."""
        await store.write(opening("other"))
        row = (await store.write(opening())).row
        first = await store.weigh(DEMO)
        assert first._replace(bytes=0) == Weight(1, 2, 1, 0, row, (thought("demo"),))
        await store.write(replace(answering(), writes=(answered("demo", "x" * 50_000),)))
        row = (await store.write(noting(fact("noted", of="demo")))).row
        second = await store.weigh(DEMO)
        assert (second.entries, second.rows, second.row, second.owed) == (4, 3, row, ())
        assert second.bytes > first.bytes + 40_000
        with pytest.raises(UsageError, match="no conversation 'c-ghost'"):
            await store.weigh(ConversationId("c-ghost"))

    async def test_what_is_pruned_is_gone(self, store: Archive) -> None:
        """Nobody finds the conversation, its branches, entries or events; the log says that it was pruned."""
        await _rest(store)
        await _rest(store, "other")
        await store.write(noting(fact("noted", of="demo")))
        stays = await _stack(store, "other")
        await store.prune(await pruning(store))
        assert [found.name for found in await store.conversations()] == ["other"]
        assert await store.conversations(prefix="demo") == []
        assert await store.conversations(prefix="c-de") == []
        assert await store.conversations(grouped=False) == [conversation("other")]
        assert await store.conversation(DEMO) is None
        assert await store.branch(ref("demo")) is None
        assert await store.branches(DEMO, delegates=True) == []
        for look in (store.load, store.head):
            with pytest.raises(UsageError, match="no stack"):
                await look(ref("demo"))
        assert await _ids(store, conversation=DEMO) == await _ids(store, ref=ref("demo")) == []
        assert await _ids(store) == [*(f"{ref('other')}:{n}" for n in range(4)), "p-demo"]
        (said,) = await store.events(Query(kinds=(KIND,)))
        assert (said.conversation, said.ref, said.body) == (None, None, {"was": "demo"})
        assert await _stack(store, "other") == stays
        assert await store.due(limit=9) == []

    async def test_what_a_pruned_fact_was_known_as_is_free(self, store: Archive) -> None:
        """Nothing is found by it, until another fact has the name."""
        await _rest(store)
        await _rest(store, "other")
        await store.write(noting(replace(fact("one", of="other"), known_as=("theirs",)), of="other"))
        await store.write(noting(replace(fact("two", of="demo"), known_as=("mine", "theirs"))))
        assert await store.known("mine") is not None
        await store.prune(await pruning(store))
        assert await store.known("mine") is None
        stays = await store.known("theirs")
        assert stays is not None
        assert stays.id == "one"
        await store.write(noting(replace(fact("four", of="other"), known_as=("mine",)), of="other"))
        found = await store.known("mine")
        assert found is not None
        assert found.id == "four"

    async def test_seam_25_what_is_owed_is_not_pruned(self, store: Archive) -> None:
        """A conversation that owes something is refused with the names of what it owes, and stays as it was."""
        await store.write(opening())
        before = await _ids(store)
        with pytest.raises(UsageError, match=f"owes {thought('demo')}"):
            await store.prune(await pruning(store))
        assert await _ids(store) == before
        assert len(await store.due(limit=9)) == 1
        await store.write(answering())
        await store.prune(await pruning(store))
        assert await store.conversations() == []

    async def test_what_moved_meanwhile_is_not_pruned(self, store: Archive) -> None:
        """A fact, a turn or a branch since it was looked at: refused, and nothing is lost."""
        await _rest(store)
        changes = (
            noting(fact("noted", of="demo")),
            Batch(conversation=DEMO, writes=(grown("demo", 4, [UserMessage(text="wait")]),)),
            Batch(conversation=DEMO, branches=(branch("demo", "side", parent="demo", at=2),)),
        )
        for change in changes:
            plan = await pruning(store)
            await store.write(change)
            before = await _ids(store)
            with pytest.raises(ConflictError, match="has moved"):
                await store.prune(plan)
            assert await _ids(store) == before

    async def test_asked_twice_it_is_done_once(self, store: Archive) -> None:
        """The same pruning again is done already; another one finds no conversation."""
        await _rest(store)
        plan = await pruning(store)
        await store.prune(plan)
        before = await _ids(store)
        await store.prune(plan)
        assert await _ids(store) == before == ["p-demo"]
        with pytest.raises(UsageError, match="no conversation"):
            await store.prune(replace(plan, fact=fact("again", KIND)))

    async def test_a_name_may_be_used_again(self, store: Archive) -> None:
        """After it was pruned; and what was remembered of the old one is not taken for the new one."""
        await _rest(store, turns=2)
        await store.prune(await pruning(store))
        with pytest.raises(UsageError, match="no stack"):
            await store.write(asking(head=8))
        await store.write(opening())
        with pytest.raises(ConflictError):
            await store.write(asking(head=8))
        await store.write(answering())
        assert [placed.seq for placed in await _stack(store, "demo")] == [0, 2]
        assert [found.name for found in await store.conversations(prefix="demo")] == ["demo"]

    async def test_seam_25_a_write_and_a_pruning_at_once_exclude_each_other(self, store: Archive) -> None:
        """One of them wins: the message stands in a conversation that is there, or there is neither."""
        for number in range(6):
            name = f"n{number}"
            await _rest(store, name)
            plan, message = await pruning(store, name), asking(name, head=4)
            doing = [store.prune(plan), store.write(message)]
            done = await asyncio.gather(*(doing if number % 2 else doing[::-1]), return_exceptions=True)
            assert sum(isinstance(each, P2EngineError) for each in done) == 1
            if await store.conversation(plan.conversation) is None:
                assert await store.owed(ref(name)) == []
            else:
                assert [placed.seq for placed in await _stack(store, name)] == [0, 2, 4]

    async def test_seam_24_who_has_not_read_what_was_pruned_is_told(self, store: Archive) -> None:
        """A cursor before it is an error that names the horizon; one after it, and the very beginning, are not."""
        await _rest(store, "old")
        first, second = (event.cursor for event in (await store.events(Query()))[1:3])
        await _rest(store, "other")
        after = await store.newest()
        await store.prune(await pruning(store, "old"))
        for cursor in (first, Cursor(first.row, 0)):
            with pytest.raises(Pruned, match=f"up to row {second.row} were pruned"):
                await anext(store.tail(cursor))
            with pytest.raises(Pruned, match=f"up to row {second.row} were pruned"):
                await store.events(Query(after=cursor))
        rest = [*(f"{ref('other')}:{n}" for n in range(4)), "p-old"]
        for kept in (Cursor(), second):
            tail = store.tail(kept)
            assert [(await anext(tail)).id for _ in rest] == await _ids(store, after=kept) == rest
        assert (await anext(store.tail(after))).id == "p-old"
        assert await store.newest() > after

    async def test_who_takes_what_is_kept_is_not_told(self, store: Archive) -> None:
        """With whole=False, and for a query of one conversation or stack, what is left is enough."""
        await _rest(store, "old")
        await _rest(store, "other")
        cursor = (await store.events(Query()))[0].cursor
        await store.prune(await pruning(store, "old"))
        of_other = [f"{ref('other')}:{n}" for n in range(4)]
        assert await _ids(store, after=cursor, whole=False) == [*of_other, "p-old"]
        assert await _ids(store, after=cursor, conversation=conversation("other").id) == of_other
        assert await _ids(store, after=cursor, ref=ref("other")) == of_other
        tail = store.tail(cursor, whole=False)
        assert [(await anext(tail)).id for _ in range(5)] == [*of_other, "p-old"]

    async def test_who_begins_at_the_beginning_gets_what_is_kept(self, store: Archive) -> None:
        """However long the log is: a tail of all there is does not stop where something was pruned."""
        await _rest(store, "other")
        facts = [fact(f"f{number}", of="other") for number in range(TAIL_ROWS_MAX + 20)]
        await store.write(noting(*facts, of="other"))
        await _rest(store)
        await store.prune(await pruning(store))
        tail = store.tail(Cursor())
        seen = [(await anext(tail)).id for _ in range(TAIL_ROWS_MAX + 25)]
        assert seen == await _ids(store, limit=1000)

    async def test_who_follows_at_the_end_misses_nothing(self, store: Archive) -> None:
        """A tail that has read what is pruned goes on with what comes."""
        await _rest(store)
        tail = store.tail(Cursor())
        for _ in range(4):
            await anext(tail)
        await store.prune(await pruning(store))
        await store.write(opening("next"))
        assert [(await anext(tail)).id for _ in range(2)] == ["p-demo", f"{ref('next')}:0"]

    async def test_seam_14_what_the_ledger_says_stays(self, store: Archive) -> None:
        """Events of payments outlive their conversation, belong to none, and are still written only once."""
        await _rest(store)
        paid = fact("t1@ledger", "ledger.transfer", of="demo", amount="5")
        await store.write(noting(paid, fact("noted", of="demo")))
        await store.prune(await pruning(store))
        (event,) = await store.events(Query(kinds=("ledger.",)))
        assert (event.id, event.body, event.conversation, event.ref) == ("t1@ledger", {"amount": "5"}, None, None)
        assert (await store.write(Batch(conversation=None, facts=(paid,)))).row == 0
        assert await _ids(store) == ["t1@ledger", "p-demo"]

    # Branches

    async def test_seam_25_what_survives_keeps_what_it_stands_on(self, store: Archive) -> None:
        """Below the highest fork point everything stays; the rest of the trunk and what nobody stands on goes."""
        await _rest(store, turns=3)  # 0..12
        await _forked(store, "low", "demo", 4, "a", "b")
        await _forked(store, "high", "demo", 8, "c")
        await _forked(store, "leaf", "low", 5, "d")
        await store.write(noting(fact("of-low", of="low"), fact("of-demo", of="demo"), fact("of-high", of="high")))
        await store.write(Batch(conversation=DEMO, current=ref("high")))
        lineage, row = await _stack(store, "high"), (await store.weigh(DEMO)).row
        keeps = {ref("demo"): 8, ref("high"): NO_END}
        await store.prune(await pruning(store, keeps=keeps, fact=fact("p", KIND, of="demo")))
        assert [found.ref for found in await store.branches(DEMO)] == [ref("demo"), ref("high")]
        assert await _stack(store, "high") == lineage
        assert await store.head(ref("demo")) == 8
        assert [placed.seq for placed in await _stack(store, "demo")] == [0, 2, 4, 6]
        assert await store.branch(ref("low")) is None
        entries = [f"{ref('demo')}:{n}" for n in range(8)] + [f"{ref('high')}:8"]
        assert await _ids(store) == await _ids(store, conversation=DEMO) == [*entries, "of-demo", "of-high", "p"]
        assert (await store.events(Query(kinds=(KIND,))))[0].cursor.row > row
        await _forked(store, "low", "demo", 4, "again")
        assert await store.head(ref("low")) == 5

    async def test_a_trunk_that_was_cut_grows_again(self, store: Archive) -> None:
        """From where it ends now; who remembers it longer is refused."""
        await _rest(store, turns=3)
        await _forked(store, "side", "demo", 4)
        await store.write(Batch(conversation=DEMO, current=ref("side")))
        await store.prune(await pruning(store, keeps={ref("demo"): 4, ref("side"): NO_END}))
        with pytest.raises(ConflictError):
            await store.write(asking(head=12))
        await store.write(asking(head=4))
        await store.write(answering(head=6))
        assert [placed.seq for placed in await _stack(store, "demo")] == [0, 2, 4, 6]
        assert await store.cut(ref("demo"), 8) == 8
        await _forked(store, "new", "demo", 8, "x")
        assert await store.head(ref("new")) == 9

    async def test_facts_can_go_with_what_they_were_about(self, store: Archive) -> None:
        """By the row they stand in; a row of entries never goes so."""
        await _rest(store)
        await store.write(noting(fact("stays", of="demo")))
        row = (await store.write(noting(fact("goes", of="demo")))).row
        entries = (await store.events(Query(limit=1)))[0].cursor.row
        keeps = {ref("demo"): NO_END}
        await store.prune(await pruning(store, keeps=keeps, rows=(entries, row), fact=fact("p", KIND, of="demo")))
        assert await _ids(store) == [*(f"{ref('demo')}:{n}" for n in range(4)), "stays", "p"]

    @pytest.mark.parametrize("keeps", [{"side": NO_END}, {"demo": 2, "side": NO_END}, {"demo": NO_END}])
    async def test_seam_25_what_others_stand_on_cannot_go(self, store: Archive, keeps: dict[str, int]) -> None:
        """A parent, an entry below a fork, and the current branch: each is refused, and everything stays."""
        await _rest(store)
        await _forked(store, "side", "demo", 4, "x")
        await store.write(Batch(conversation=DEMO, current=ref("side")))
        before = await _ids(store)
        kept = {StackRef(ref(name)): length for name, length in keeps.items()}
        with pytest.raises(ConflictError, match="stay"):
            await store.prune(await pruning(store, keeps=kept))
        assert await _ids(store) == before
        assert len(await store.branches(DEMO)) == 2

    async def test_a_long_conversation_goes_whole(self, store: Archive) -> None:
        """However many rows and branches it has, nothing of it is left, and others lose nothing."""
        await _rest(store, turns=400)
        for number in range(300):
            await _forked(store, f"b{number}", "demo", 4, "x")
        await store.write(noting(*(fact(f"f{number}", of="demo") for number in range(700))))
        await _rest(store, "other")
        await store.prune(await pruning(store))
        assert await _ids(store) == [*(f"{ref('other')}:{n}" for n in range(4)), "p-demo"]
        assert (await store.write(noting(fact("f1", of="other"), of="other"))).row > 0

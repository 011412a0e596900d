"""What every Store does with a batch: all of it, once, or nothing."""

import asyncio

import pytest
from msgspec.structs import replace

from p2engine.domain.effects import Think
from p2engine.domain.records import Batch, Query
from p2engine.domain.states import AssistantMessage, UserMessage
from p2engine.errors import AlreadySettled, HeadMoved, NameTaken, StoreError, UsageError
from p2engine.ports import Archive
from p2engine.testing.histories import (
    NOBODY,
    answered,
    answering,
    asking,
    branch,
    conversation,
    fact,
    grown,
    noting,
    opening,
    owing,
    ref,
    thought,
)


async def _all(store: Archive) -> int:
    return len(await store.events(Query(limit=10_000)))


class WritingContract:
    """A subclass gives the fixture `store`, empty."""

    async def test_what_is_written_is_loaded(self, store: Archive) -> None:
        """Commits come back as they were written, at the place where they stand."""
        await store.write(opening())
        await store.write(answering())
        first, second = await store.load(ref("demo"))
        assert (first.ref, first.seq, first.commit) == (ref("demo"), 0, opening().writes[0].commit)
        assert (second.ref, second.seq, second.commit) == (ref("demo"), 2, answering().writes[0].commit)
        assert await store.head(ref("demo")) == 4

    async def test_load_gives_what_is_new(self, store: Archive) -> None:
        """Whoever knows the first entries is given the rest, and nothing when there is none."""
        await store.write(opening())
        await store.write(answering())
        assert [placed.seq for placed in await store.load(ref("demo"), since=2)] == [2]
        assert await store.load(ref("demo"), since=4) == []

    async def test_an_unknown_stack_is_an_error(self, store: Archive) -> None:
        """A ref that was never opened can be neither loaded nor measured nor written."""
        for read in (store.load, store.head):
            with pytest.raises(UsageError, match="ghost"):
                await read(ref("ghost"))
        await store.write(opening())
        with pytest.raises(UsageError, match="ghost"):
            await store.write(Batch(conversation=conversation("demo").id, writes=(answered("ghost", head=0),)))

    @pytest.mark.parametrize("head", [0, 1, 3, 100])
    async def test_another_head_is_refused(self, store: Archive, head: int) -> None:
        """A write that stands on another length, lower or higher, is HeadMoved, and nothing of its batch remains."""
        await store.write(opening())
        before = await _all(store)
        batch = Batch(
            conversation=conversation("demo").id,
            writes=(answered("demo", head=head),),
            settles=(thought("demo"),),
            effects=(Think(id=thought("demo", 9)),),
            facts=(fact("noted"),),
        )
        with pytest.raises(HeadMoved):
            await store.write(batch)
        assert await _all(store) == before
        assert await store.owed(ref("demo")) == [thought("demo")]

    async def test_seam_15_a_batch_grows_several_stacks_or_none(self, store: Archive) -> None:
        """Two stacks grow in one batch; when one of them has moved, neither does."""
        await store.write(opening())
        await store.write(Batch(conversation=conversation("demo").id, branches=(branch("demo", "side"),)))
        both = (answered("demo"), grown("side", 0, [UserMessage(text="x")]))
        await store.write(Batch(conversation=conversation("demo").id, writes=both))
        assert (await store.head(ref("demo")), await store.head(ref("side"))) == (4, 1)
        stale = (answered("demo", head=4), grown("side", 0, [UserMessage(text="y")]))
        with pytest.raises(HeadMoved):
            await store.write(Batch(conversation=conversation("demo").id, writes=stale))
        assert (await store.head(ref("demo")), await store.head(ref("side"))) == (4, 1)

    async def test_one_of_many_racing_writes_wins(self, store: Archive) -> None:
        """Of writes that all stand on one length, one lands; the others are told, and leave nothing."""
        await store.write(opening())
        racing = [
            Batch(conversation=conversation("demo").id, writes=(grown("demo", 2, [AssistantMessage(text=str(n))]),))
            for n in range(40)
        ]
        done = await asyncio.gather(*map(store.write, racing), return_exceptions=True)
        assert sum(isinstance(one, HeadMoved) for one in done) == 39
        assert await store.head(ref("demo")) == 3

    async def test_seam_15_a_conflict_does_not_spoil_its_neighbours(self, store: Archive) -> None:
        """Among writes at the same moment the refused ones are refused alone, and each learns its own outcome."""
        for number in range(60):
            await store.write(opening(f"n{number}"))
        batches = [answering(f"n{number}", head=2 if number % 3 else 0) for number in range(60)]
        batches = [Batch(conversation=batch.conversation, writes=batch.writes) for batch in batches]
        done = await asyncio.gather(*map(store.write, batches), return_exceptions=True)
        for number, one in enumerate(done):
            assert isinstance(one, HeadMoved) == (number % 3 == 0)
            assert await store.head(ref(f"n{number}")) == (4 if number % 3 else 2)

    async def test_writes_at_one_moment_see_each_other_in_order(self, store: Archive) -> None:
        """What is written later in the same moment stands on what was written earlier."""
        await asyncio.gather(
            store.write(opening()),
            store.write(answering()),
            store.write(asking(head=4)),
            store.write(answering(head=6)),
        )
        assert [placed.seq for placed in await store.load(ref("demo"))] == [0, 2, 4, 6]
        assert await store.owed(ref("demo")) == []

    async def test_an_effect_is_settled_once(self, store: Archive) -> None:
        """The second outcome of an effect is refused, and nothing of it is written."""
        await store.write(opening())
        await store.write(answering())
        again = Batch(
            conversation=conversation("demo").id, writes=(answered("demo", head=4),), settles=(thought("demo"),)
        )
        with pytest.raises(AlreadySettled) as refused:
            await store.write(again)
        assert refused.value.effect == thought("demo")
        assert await store.head(ref("demo")) == 4

    async def test_all_of_several_settlements_or_none(self, store: Archive) -> None:
        """A batch that settles an open effect and a settled one settles neither."""
        await store.write(opening())
        with pytest.raises(AlreadySettled):
            await store.write(
                Batch(conversation=conversation("demo").id, settles=(thought("demo"), thought("demo", 7)))
            )
        assert await store.owed(ref("demo")) == [thought("demo")]

    async def test_settled_is_said_before_moved(self, store: Archive) -> None:
        """A late outcome learns that it is late even when its stack has moved as well."""
        await store.write(opening())
        await store.write(answering())
        with pytest.raises(AlreadySettled):
            await store.write(answering())

    async def test_needs_must_be_owed_and_stay_so(self, store: Archive) -> None:
        """What a batch needs is checked and left as it is."""
        await store.write(opening())
        await store.write(noting(fact("one")))
        await store.write(Batch(conversation=conversation("demo").id, needs=(thought("demo"),), facts=(fact("two"),)))
        assert await store.owed(ref("demo")) == [thought("demo")]
        await store.write(answering())
        with pytest.raises(AlreadySettled):
            await store.write(
                Batch(conversation=conversation("demo").id, needs=(thought("demo"),), facts=(fact("three"),))
            )
        assert [event.id for event in await store.events(Query(kinds=("test.",)))] == ["one", "two"]

    async def test_drops_forget_what_is_open(self, store: Archive) -> None:
        """A dropped effect is owed no more; dropping what is settled or unknown is no conflict."""
        await store.write(opening())
        drops = (thought("demo"), thought("demo", 7))
        await store.write(Batch(conversation=conversation("demo").id, drops=drops))
        await store.write(Batch(conversation=conversation("demo").id, drops=drops))
        assert await store.owed(ref("demo")) == []

    async def test_a_fact_is_written_once(self, store: Archive) -> None:
        """A second fact of an id is dropped without a word, in the same batch or later."""
        await store.write(opening())
        made = await store.write(noting(fact("one", n=1), fact("one", n=2), fact("two")))
        again = await store.write(noting(fact("one", n=3)))
        events = await store.events(Query(kinds=("test.noted",)))
        assert [(event.id, event.body) for event in events] == [("one", {"n": 1}), ("two", {})]
        assert made.row == events[-1].cursor.row
        assert again.row == 0

    async def test_written_names_the_last_row(self, store: Archive) -> None:
        """The row that a write returns is where its last event stands."""
        written = await store.write(opening())
        assert {event.cursor.row for event in await store.events(Query())} == {written.row}
        assert (await store.write(owing("demo", Think(id=thought("demo", 5))))).row == 0

    async def test_a_taken_name_is_refused(self, store: Archive) -> None:
        """A second conversation of a name or an id is NameTaken and leaves nothing behind."""
        await store.write(opening())
        before = await _all(store)
        same_name, same_id = replace(conversation("other"), name="demo"), replace(conversation("other"), id="c-demo")
        for opens in (same_name, same_id):
            child = replace(branch("other", "other"), conversation=opens.id)
            with pytest.raises(NameTaken, match=opens.name):
                await store.write(Batch(conversation=opens.id, opens=opens, branches=(child,)))
        assert await _all(store) == before
        assert await store.branch(ref("other")) is None

    async def test_a_branch_name_is_one_agents(self, store: Archive) -> None:
        """A branch name is taken for one agent of one conversation, and for nobody else."""
        await store.write(opening())
        await store.write(opening("other"))
        twin = replace(branch("demo", "demo"), ref=ref("twin"))
        with pytest.raises(NameTaken, match="demo"):
            await store.write(Batch(conversation=twin.conversation, branches=(twin,)))
        of_another = replace(branch("demo", "demo", agent="beta"), ref=ref("beta"))
        await store.write(Batch(conversation=of_another.conversation, branches=(of_another,)))
        elsewhere = replace(branch("other", "demo"), ref=ref("elsewhere"))
        await store.write(Batch(conversation=elsewhere.conversation, branches=(elsewhere,)))

    async def test_a_branch_stands_on_what_is_there(self, store: Archive) -> None:
        """A branch of an unknown parent, or of more entries than the parent has, is refused."""
        await store.write(opening())
        for wrong in (branch("demo", "x", parent="ghost", at=1), branch("demo", "x", parent="demo", at=3)):
            with pytest.raises(UsageError):
                await store.write(Batch(conversation=wrong.conversation, branches=(wrong,)))
        assert await store.branch(ref("x")) is None

    async def test_nothing_is_written_to_no_conversation(self, store: Archive) -> None:
        """A branch in a conversation that was never opened is refused."""
        lost = branch("ghost", "x")
        with pytest.raises(UsageError, match="c-ghost"):
            await store.write(Batch(conversation=lost.conversation, branches=(lost,)))

    async def test_a_batch_is_of_one_conversation(self, store: Archive) -> None:
        """A branch of another conversation, a checkout of one, and a commit of nothing are refused."""
        await store.write(opening())
        await store.write(opening("other"))
        wrong = (
            Batch(conversation=conversation("demo").id, branches=(branch("other", "x"),)),
            Batch(conversation=conversation("demo").id, current=ref("other")),
            Batch(conversation=conversation("demo").id, current=ref("ghost")),
            Batch(conversation=conversation("demo").id, writes=(grown("demo", 2, []),)),
        )
        for batch in wrong:
            with pytest.raises(UsageError):
                await store.write(batch)

    @pytest.mark.parametrize("value", [2**64, -(2**63) - 1, "\ud800", {"deep": object()}])
    async def test_what_cannot_be_stored_is_refused(self, store: Archive, value: object) -> None:
        """A value that no log can hold is refused by name before anything is written."""
        await store.write(opening())
        with pytest.raises(UsageError, match="cannot be stored"):
            await store.write(noting(fact("fine"), fact("wrong", value=value)))
        assert await store.events(Query(kinds=("test.",))) == []

    async def test_a_delegation_opens_its_child_once(self, store: Archive) -> None:
        """Opening a child a second time is HeadMoved, changes nothing, and leaves the call owed."""
        await store.write(opening())
        child = replace(branch("demo", "child", agent="beta"), delegate=thought("demo"))
        opens = Batch(
            conversation=child.conversation,
            branches=(child,),
            writes=(grown("child", 0, [UserMessage(text="do")]),),
            needs=(thought("demo"),),
        )
        await store.write(opens)
        before = await _all(store)
        with pytest.raises(HeadMoved):
            await store.write(opens)
        assert await _all(store) == before
        assert await store.owed(ref("demo")) == [thought("demo")]

    async def test_seam_07_a_cancelled_call_opens_no_child(self, store: Archive) -> None:
        """A child whose call is owed no more is not opened: the branch does not come to be."""
        await store.write(opening())
        await store.write(Batch(conversation=conversation("demo").id, drops=(thought("demo"),)))
        child = replace(branch("demo", "child", agent="beta"), delegate=thought("demo"))
        with pytest.raises(AlreadySettled):
            await store.write(Batch(conversation=child.conversation, branches=(child,), needs=(thought("demo"),)))
        assert await store.branch(ref("child")) is None

    async def test_checkout_moves_the_current_branch(self, store: Archive) -> None:
        """A batch can make another branch the one people talk to."""
        await store.write(opening())
        side = branch("demo", "side", parent="demo", at=2)
        await store.write(Batch(conversation=side.conversation, branches=(side,), current=side.ref))
        found = await store.conversation(side.conversation)
        assert found is not None
        assert found.current == side.ref

    async def test_a_closed_store_says_so(self, store: Archive) -> None:
        """After closing, which may be done twice, every door answers with a StoreError."""
        await store.write(opening())
        await store.aclose()
        await store.aclose()
        with pytest.raises(StoreError, match="closed"):
            await store.write(answering())
        with pytest.raises(StoreError, match="closed"):
            await store.load(ref("demo"))
        with pytest.raises(StoreError, match="closed"):
            await store.claim(thought("demo"), NOBODY)

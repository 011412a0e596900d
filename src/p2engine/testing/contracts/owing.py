"""What every Store does with effects that are owed: who holds them, who may take them, what is due."""

import asyncio

import pytest

from p2engine.domain.effects import CallTool, Think
from p2engine.domain.ids import OwnerId
from p2engine.domain.records import Batch, Perform
from p2engine.errors import AlreadySettled
from p2engine.ports import Archive
from p2engine.testing.histories import NOBODY, answering, asking, conversation, opening, owing, ref, thought

DEMO = conversation("demo").id


def _pay(slot: int = 0) -> CallTool:
    return CallTool(id=thought("demo", 5, slot), call_id=f"call_{slot}", tool="pay", arguments={"amount": slot})


class OwingContract:
    """A subclass gives the fixtures `store`, empty, and `owner` and `other`, two owners who live."""

    async def test_seam_09_what_the_living_hold_is_not_due(self, store: Archive, owner: OwnerId) -> None:
        """An effect born owned is nobody else's as long as its owner lives."""
        await store.write(opening(owner=owner))
        assert await store.due(limit=10) == []

    async def test_seam_09_what_the_dead_held_is_due_at_once(self, store: Archive, other: OwnerId) -> None:
        """An effect whose owner lives no more is due, and whoever lives takes it over."""
        await store.write(opening(owner=NOBODY))
        assert await store.due(limit=10) == [Perform(thought("demo"), "think")]
        claimed = await store.claim(thought("demo"), other)
        assert claimed is not None
        assert claimed.tries == 1
        assert await store.due(limit=10) == []

    async def test_an_unowned_effect_is_anybodys(self, store: Archive, owner: OwnerId, other: OwnerId) -> None:
        """What nobody holds is due; the first to claim it has it, with its body, and the second gets nothing."""
        await store.write(opening())
        await store.write(owing("demo", _pay(7)))
        assert await store.due(limit=10) == [Perform(thought("demo"), "think"), Perform(_pay(7).id, "call_tool.pay")]
        claimed = await store.claim(_pay(7).id, owner)
        assert claimed is not None
        assert (claimed.effect, claimed.tries, claimed.started) == (_pay(7), 1, False)
        assert await store.claim(_pay(7).id, other) is None

    async def test_one_of_many_racing_claims_wins(self, store: Archive, owner: OwnerId, other: OwnerId) -> None:
        """Claims at the same moment give the effect to one owner."""
        await store.write(opening())
        claims = [store.claim(thought("demo"), who) for who in (owner, other)]
        assert sorted(one is None for one in await asyncio.gather(*claims)) == [False, True]

    async def test_claiming_ones_own_is_no_take_over(self, store: Archive, owner: OwnerId) -> None:
        """The holder is given its effect again, and that is not counted as a try."""
        await store.write(opening(owner=owner))
        for _ in range(3):
            claimed = await store.claim(thought("demo"), owner)
            assert claimed is not None
            assert (claimed.effect, claimed.tries) == (Think(id=thought("demo")), 0)

    async def test_seam_19_a_claim_brings_what_is_new(self, store: Archive, owner: OwnerId) -> None:
        """Along with the effect come the commits since the length that the claimer knows."""
        await store.write(opening())
        await store.write(answering())
        await store.write(asking(head=4))
        claimed = await store.claim(thought("demo", 5), owner, since=2)
        assert claimed is not None
        assert [placed.seq for placed in claimed.commits] == [2, 4]

    async def test_what_is_settled_cannot_be_claimed(self, store: Archive, owner: OwnerId) -> None:
        """A settled effect, and one that never was, give nothing."""
        await store.write(opening())
        await store.write(answering())
        assert await store.claim(thought("demo"), owner) is None
        assert await store.claim(thought("ghost"), owner) is None

    async def test_due_is_oldest_first_and_bounded(self, store: Archive, owner: OwnerId) -> None:
        """What is longest owed comes first, in any number of stacks, and never more than asked for."""
        names = ["zz", "mm", "aa", "qq"]
        for name in names:
            await store.write(opening(name))
        await store.write(opening("held", owner=owner))
        assert [job.effect for job in await store.due(limit=3) if isinstance(job, Perform)] == [
            thought(name) for name in names[:3]
        ]
        assert len(await store.due(limit=10)) == 4

    async def test_owed_is_of_one_stack(self, store: Archive) -> None:
        """A stack owes its own effects, in the order in which they came to be owed, and no other's."""
        await store.write(opening("demo"))
        await store.write(opening("demo-2"))
        await store.write(owing("demo", _pay(11), _pay(2)))
        assert await store.owed(ref("demo-2")) == [thought("demo-2")]
        assert (await store.owed(ref("demo")))[0] == thought("demo")
        assert set(await store.owed(ref("demo"))) == {thought("demo"), _pay(2).id, _pay(11).id}
        assert await store.owed(ref("ghost")) == []

    async def test_seam_09_started_is_remembered(self, store: Archive, other: OwnerId) -> None:
        """Whoever takes over an effect that had begun to run is told so."""
        await store.write(opening())
        await store.write(owing("demo", _pay(0), _pay(1), owner=NOBODY))
        await store.write(Batch(conversation=DEMO, starts=(_pay(0).id,), owner=NOBODY))
        begun, waiting = await store.claim(_pay(0).id, other), await store.claim(_pay(1).id, other)
        assert begun is not None
        assert waiting is not None
        assert (begun.started, waiting.started) == (True, False)

    async def test_an_effect_may_be_born_started(self, store: Archive, other: OwnerId) -> None:
        """A batch can owe an effect and begin it at once."""
        await store.write(opening())
        await store.write(Batch(conversation=DEMO, effects=(_pay(),), starts=(_pay().id,), owner=NOBODY))
        claimed = await store.claim(_pay().id, other)
        assert claimed is not None
        assert claimed.started

    async def test_what_is_settled_cannot_start(self, store: Archive, owner: OwnerId) -> None:
        """Starting an effect that has its outcome is refused: it must not run."""
        await store.write(opening(owner=owner))
        await store.write(answering())
        with pytest.raises(AlreadySettled):
            await store.write(Batch(conversation=DEMO, starts=(thought("demo"),), owner=owner))

    async def test_what_another_took_over_cannot_start(self, store: Archive, owner: OwnerId, other: OwnerId) -> None:
        """Starting an effect that another owner holds by now is refused: only one of them runs it."""
        await store.write(opening())
        await store.write(owing("demo", _pay()))
        assert await store.claim(_pay().id, other) is not None
        with pytest.raises(AlreadySettled):
            await store.write(Batch(conversation=DEMO, starts=(_pay().id,), owner=owner))
        claimed = await store.claim(_pay().id, other)
        assert claimed is not None
        assert not claimed.started

    async def test_seam_29_an_effect_can_be_handed_back(self, store: Archive, owner: OwnerId, other: OwnerId) -> None:
        """What its holder releases is anybody's again, and neither the hand-over nor the next claim is a death."""
        await store.write(opening())
        effect = thought("demo")
        assert await store.claim(effect, owner) is not None
        await store.write(Batch(conversation=DEMO, releases=(effect,), owner=other))
        assert await store.claim(effect, other) is None, "only its holder can release it"
        await store.write(Batch(conversation=DEMO, releases=(effect,), owner=owner))
        assert await store.due(limit=10) == [Perform(effect, "think")]
        claimed = await store.claim(effect, other)
        assert claimed is not None
        assert claimed.tries == 1

    async def test_an_owner_may_leave_some_of_what_it_writes(
        self, store: Archive, owner: OwnerId, other: OwnerId
    ) -> None:
        """Of the effects of one batch its owner holds those that it does not leave to whoever claims them."""
        await store.write(opening())
        await store.write(answering())
        mine, left = _pay(0), _pay(1)
        await store.write(Batch(conversation=DEMO, effects=(mine, left), leaves=(left.id,), owner=owner))
        assert await store.due(limit=10) == [Perform(left.id, "call_tool.pay")]
        assert await store.claim(mine.id, other) is None
        assert await store.claim(left.id, other) is not None

    async def test_held_is_what_an_owner_has(self, store: Archive, owner: OwnerId, other: OwnerId) -> None:
        """Born owned or claimed, and not settled since."""
        await store.write(opening("demo", owner=owner))
        await store.write(opening("demo-2"))
        await store.claim(thought("demo-2"), owner)
        assert set(await store.held(owner)) == {thought("demo"), thought("demo-2")}
        await store.write(answering("demo"))
        assert list(await store.held(owner)) == [thought("demo-2")]
        assert list(await store.held(other)) == []

    async def test_holders_are_the_living_who_hold_what_a_stack_owes(
        self, store: Archive, owner: OwnerId, other: OwnerId
    ) -> None:
        """In words; none for a stack that owes nothing, nor for the dead, nor for the one who asks."""
        await store.write(opening("demo", owner=owner))
        await store.write(opening("dead", owner=NOBODY))
        await store.write(opening("free"))
        assert len(await store.holders(ref("demo"), besides=other)) == 1
        assert list(await store.holders(ref("demo"), besides=owner)) == []
        assert list(await store.holders(ref("dead"))) == []
        assert list(await store.holders(ref("free"))) == []

    async def test_who_lives_is_told(self, store: Archive, owner: OwnerId) -> None:
        """Also of owners that hold nothing; of one that never was it is told that it does not live."""
        assert await store.lives(owner)
        assert not await store.lives(NOBODY)

    async def test_the_backlog_is_what_no_living_owner_holds(self, store: Archive, owner: OwnerId) -> None:
        """Counted, with the time of the oldest; looking changes nothing."""
        assert await store.backlog() == (0, None)
        await store.write(opening("free"))
        await store.write(opening("dead", owner=NOBODY))
        await store.write(opening("held", owner=owner))
        count, since = await store.backlog()
        assert count == 2
        assert since is not None
        assert (await store.backlog())[0] == 2
        assert len(await store.due(limit=10)) == 2

"""What every Store does with branches: a fork copies nothing and sees exactly what stood below it."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from msgspec.structs import replace

from p2engine.domain.messages import Usage
from p2engine.domain.records import Batch, Branch, Commit, Placed, StackWrite
from p2engine.domain.states import AssistantMessage, UserMessage
from p2engine.errors import UsageError
from p2engine.ports import Archive
from p2engine.testing.histories import answering, asking, branch, conversation, grown, opening, ref

DEMO = conversation("demo").id
USAGE = Usage(model="m", tokens_in=1)


def _texts(placed: Sequence[Placed]) -> list[str]:
    return [getattr(state, "text", "") for one in placed for state in one.commit.states]


async def _fork(store: Archive, name: str, parent: str, at: int) -> Branch:
    made = branch("demo", name, parent=parent, at=at)
    await store.write(Batch(conversation=DEMO, branches=(made,)))
    return made


async def _grow(store: Archive, name: str, head: int, *texts: str, **more: object) -> None:
    commit = Commit(1.0, "test", tuple(UserMessage(text=text) for text in texts), len(texts))
    commit = replace(commit, **more)
    await store.write(Batch(conversation=DEMO, writes=(StackWrite(ref(name), head, commit),)))


async def _next(news: AsyncIterator[Sequence[Placed] | str]) -> Sequence[Placed]:
    """The next commits, past what is spoken."""
    commits = await anext(news)
    while isinstance(commits, str):
        commits = await anext(news)
    return commits


class LineageContract:
    """A subclass gives the fixture `store`, empty."""

    async def test_a_fork_sees_what_stood_below_it(self, store: Archive) -> None:
        """A branch is the first entries of its parent, then its own; neither sees what the other adds later."""
        await store.write(opening())
        await store.write(answering())
        await _fork(store, "side", "demo", 2)
        await _grow(store, "side", 2, "mine")
        await _grow(store, "demo", 4, "theirs")
        assert [(placed.ref, placed.seq) for placed in await store.load(ref("side"))] == [
            (ref("demo"), 0),
            (ref("side"), 2),
        ]
        assert _texts(await store.load(ref("side"))) == ["hello", "", "mine"]
        assert _texts(await store.load(ref("demo"))) == ["hello", "", "hi", "", "theirs"]
        assert await store.head(ref("side")) == 3

    async def test_a_fork_at_nothing_is_empty(self, store: Archive) -> None:
        """A branch at 0 has no entries, whatever its parent has."""
        await store.write(opening())
        await _fork(store, "side", "demo", 0)
        assert await store.load(ref("side")) == []
        assert await store.head(ref("side")) == 0
        await _grow(store, "side", 0, "first")
        assert _texts(await store.load(ref("side"))) == ["first"]

    async def test_a_commit_may_be_cut_in_two(self, store: Archive) -> None:
        """Of a commit that a fork cuts, only the states below the cut are seen, with what it cost."""
        await store.write(opening())
        cut = {"usage": USAGE, "outcomes": 3, "safe": (1, 4), "safe_before": 1}
        await _grow(store, "demo", 2, "a", "b", "c", "d", **cut)
        await _fork(store, "side", "demo", 4)
        await _grow(store, "side", 4, "mine")
        assert _texts(await store.load(ref("side"))) == ["hello", "", "a", "b", "mine"]
        seen = (await store.load(ref("side")))[1].commit
        assert (seen.outcomes, seen.usage, seen.safe, seen.safe_before) == (2, USAGE, (1,), 1)

    async def test_a_fork_of_a_fork_may_lie_below_it(self, store: Archive) -> None:
        """A branch whose cut lies below its parent's own entries is made of its grandparent's."""
        await store.write(opening())
        await store.write(answering())
        await _fork(store, "side", "demo", 4)
        await _grow(store, "side", 4, "mine")
        await _fork(store, "low", "side", 2)
        await _fork(store, "high", "side", 5)
        assert _texts(await store.load(ref("low"))) == ["hello", ""]
        assert _texts(await store.load(ref("high"))) == ["hello", "", "hi", "", "mine"]
        assert await store.head(ref("low")) == 2

    async def test_load_since_crosses_branches(self, store: Archive) -> None:
        """What is new is given from whichever branches it stands on."""
        await store.write(opening())
        await store.write(answering())
        await _fork(store, "side", "demo", 4)
        await _grow(store, "side", 4, "five")
        await _fork(store, "leaf", "side", 5)
        await _grow(store, "leaf", 5, "six")
        for since, seqs in ((0, [0, 2, 4, 5]), (2, [2, 4, 5]), (4, [4, 5]), (5, [5]), (6, [])):
            assert [placed.seq for placed in await store.load(ref("leaf"), since=since)] == seqs

    async def test_load_since_the_middle_of_a_commit_gives_it_whole(self, store: Archive) -> None:
        """A length inside a commit is no boundary: the commit around it comes whole."""
        await store.write(opening())
        await store.write(answering())
        assert [placed.seq for placed in await store.load(ref("demo"), since=3)] == [2]

    async def test_seam_03_effects_belong_to_the_branch_that_owes_them(self, store: Archive) -> None:
        """A fork owes nothing until it is woken, even when its parent does."""
        await store.write(opening())
        await _fork(store, "side", "demo", 2)
        assert await store.owed(ref("side")) == []

    async def test_seam_23_a_cut_is_the_last_place_where_nothing_is_open(self, store: Archive) -> None:
        """A length inside an open wait moves back to before it; one past the end, to the end's."""
        await store.write(opening())  # 0..2, open
        await store.write(answering())  # 2..4, nothing open at 4
        await store.write(asking(head=4))  # 4..6, open
        lengths = {-1: 0, 0: 0, 1: 0, 2: 0, 3: 0, 4: 4, 5: 4, 6: 4, 99: 4}
        assert {length: await store.cut(ref("demo"), length) for length in lengths} == lengths

    async def test_seam_23_a_cut_is_found_below_a_fork(self, store: Archive) -> None:
        """A fork is cut on its own entries, and below them on its parent's."""
        await store.write(opening())
        await store.write(answering())
        await store.write(asking(head=4))
        await _fork(store, "side", "demo", 4)
        await _grow(store, "side", 4, "a", "b", safe=(1,), safe_before=4)
        await _fork(store, "leaf", "side", 5)
        lengths = {3: 0, 4: 4, 5: 5, 6: 5}
        assert {length: await store.cut(ref("side"), length) for length in lengths} == lengths
        assert await store.cut(ref("leaf"), 9) == 5
        assert await store.cut(ref("leaf"), 4) == 4

    async def test_a_cut_of_an_unknown_stack_is_an_error(self, store: Archive) -> None:
        """There is no length at which a stack that is not there could be cut."""
        with pytest.raises(UsageError, match="ghost"):
            await store.cut(ref("ghost"), 1)

    async def test_seam_32_a_lineage_may_be_long(self, store: Archive) -> None:
        """A stack through 1,500 forks loads, measures and cuts like any other."""
        await store.write(opening())
        await store.write(Batch(conversation=DEMO, writes=(grown("demo", 2, [AssistantMessage(text="0")]),)))
        parent = "demo"
        for level in range(1, 1501):
            made = branch("demo", f"b{level}", parent=parent, at=level + 2)
            state = UserMessage(text=str(level))
            write = StackWrite(made.ref, level + 2, Commit(1.0, "test", (state,), 1, safe=(1,)))
            await store.write(Batch(conversation=DEMO, branches=(made,), writes=(write,)))
            parent = f"b{level}"
        assert _texts(await store.load(ref(parent)))[2:] == [str(level) for level in range(1501)]
        assert await store.head(ref(parent)) == 1503
        assert await store.cut(ref(parent), 10) == 10
        assert [placed.seq for placed in await store.load(ref(parent), since=1501)] == [1501, 1502]

    async def test_a_stack_can_be_followed(self, store: Archive) -> None:
        """Whoever follows a stack is given its commits from that entry on, those of its parents included, each once."""
        await store.write(opening())
        await store.write(answering())
        await _fork(store, "side", "demo", 4)
        commits = store.follow(ref("side"), since=2)
        assert [placed.seq for placed in await _next(commits)] == [2]
        writing = asyncio.ensure_future(_grow(store, "side", 4, "mine"))
        assert _texts(await _next(commits)) == ["mine"]
        await writing
        await _grow(store, "demo", 4, "theirs")
        await _grow(store, "side", 5, "more")
        store.speak(ref("side"), "hm")  # may be heard, and changes nothing
        assert _texts(await _next(commits)) == ["more"]
        await store.aclose()
        assert [news async for news in commits if not isinstance(news, str)] == []

    async def test_who_waits_for_an_answer_may_follow_answers_alone(self, store: Archive) -> None:
        """Whoever asks for answers is given each commit that may be one, in order; what stands between may be left out.

        Where something was left out, the commit stands where it belongs all the same.
        """
        await store.write(opening())
        news = store.follow(ref("demo"), since=2, answers=True)
        answers: list[Placed] = []
        for writes in ([answering()], [asking(head=4), answering(head=6)]):
            hearing = asyncio.ensure_future(_answers(news))
            await asyncio.sleep(0)
            for batch in writes:
                await store.write(batch)
            answers += await hearing
        assert [placed.seq for placed in answers] == [2, 6]


async def _answers(news: AsyncIterator[Sequence[Placed] | str]) -> Sequence[Placed]:
    """The next commits that may answer, past all else."""
    while True:
        if found := [placed for placed in await _next(news) if placed.commit.may_answer]:
            return found

"""Stacks that rest, where there is no room for all of them: put away, had in hand again, and in the end forgotten."""

from collections.abc import Mapping, Sequence
from typing import Any

from p2engine.domain.decisions import UseTool
from p2engine.domain.ids import StackRef
from p2engine.domain.records import Placed
from p2engine.ports import AgentView, ToolContext
from p2engine.runtime.conversation import Conversation
from p2engine.runtime.stacks import Stacks
from tests.runtime.conftest import Script, Stage

LITTLE = 10_000  # bytes: room for one small stack, and for one that is put away


async def look(_arguments: Mapping[str, Any], _ctx: ToolContext) -> str:
    return "seen"


async def echo(view: AgentView) -> str:
    return f"heard: {view.fragments[-1].message.text[:20]}"


class Counting:
    """Stacks over a real store, and what was read for them."""

    def __init__(self, stage: Stage, *, bytes_max: int) -> None:
        self.loads: list[StackRef] = []
        self.stacks = Stacks(stage.store, seen=lambda ref, commits: None, bytes_max=bytes_max)
        load = stage.store.load

        async def counted(ref: StackRef, *, since: int = 0) -> Sequence[Placed]:
            self.loads.append(ref)
            return await load(ref, since=since)

        stage.store.load = counted  # type: ignore[method-assign]


async def talks(stage: Stage, number: int) -> list[Conversation]:
    """Conversations with a turn each that called a tool."""
    replies = [step for _ in range(number) for step in ([UseTool("look", {"n": 1})], "done")]
    engine = stage.engine({"boss": Script(*replies)}, {"look": look})
    found = [await engine.conversation(f"c{each}", agent="boss") for each in range(number)]
    for each, talk in enumerate(found):
        assert (await talk.say(f"question {each}")).text == "done"
    return found


async def test_a_stack_that_was_put_away_is_had_without_reading_the_store(stage: Stage) -> None:
    """It is what it was, and goes on as if it had stayed in hand."""
    first, second = [talk.record.current for talk in await talks(stage, 2)]
    whole = await Stacks(stage.store, seen=lambda ref, commits: None).get(first)
    counting = Counting(stage, bytes_max=LITTLE)
    stacks = counting.stacks
    await stacks.get(first)
    await stacks.get(second)  # for which the first makes room
    assert stacks._away.keys() == {first}
    counting.loads.clear()

    again = await stacks.get(first)

    assert counting.loads == []
    assert again.fragments == whole.fragments
    assert (again.head, again.ground, again.total, again.setup) == (whole.head, whole.ground, whole.total, whole.setup)
    assert not stacks._away.keys() & {first}


async def test_what_is_said_to_a_stack_that_was_put_away_stands_behind_all_before(stage: Stage) -> None:
    """The agent is shown the whole conversation; and who holds the version that was put away keeps it as it was."""
    engine = stage.engine({"boss": echo})
    engine.world.stacks = Stacks(stage.store, seen=engine.world.bus.offer, bytes_max=LITTLE)
    spoken = [await engine.conversation(f"c{each}", agent="boss") for each in range(3)]
    held = await spoken[0].stack()
    for turn in range(3):
        for talk in spoken:
            assert (await talk.say(f"turn {turn}")).text == f"heard: turn {turn}"
    cold = Stacks(stage.store, seen=lambda ref, commits: None)
    for talk in spoken:
        ref = talk.record.current
        assert (await engine.world.stacks.get(ref)).fragments == (await cold.get(ref)).fragments
    assert held.fragments == []


async def test_what_is_put_away_has_a_bound(stage: Stage) -> None:
    """The longest unused goes first, and is read from the store when it is asked for."""
    refs = [talk.record.current for talk in await talks(stage, 3)]
    counting = Counting(stage, bytes_max=LITTLE)
    for ref in refs:
        await counting.stacks.get(ref)
    counting.loads.clear()
    assert counting.stacks.peek(refs[0]) is None
    await counting.stacks.get(refs[0])
    assert counting.loads == [refs[0]]


async def test_a_large_stack_is_forgotten_at_once(stage: Stage) -> None:
    """Packing it would take long, however small it became."""
    engine = stage.engine({"boss": echo})
    large, small = [await engine.conversation(name, agent="boss") for name in ("large", "small")]
    await large.say("x" * 100_000)
    await small.say("hello")
    stacks = Stacks(stage.store, seen=lambda ref, commits: None, bytes_max=LITTLE)
    await stacks.get(large.record.current)
    await stacks.get(small.record.current)
    assert stacks.peek(large.record.current) is None


async def test_what_is_gone_is_put_away_no_more(stage: Stage) -> None:
    """Stacks that were pruned leave no bytes behind, nor does a store that lost what it had."""
    refs = [talk.record.current for talk in await talks(stage, 3)]
    for gone in (lambda stacks: stacks.forget(refs), Stacks.clear):
        stacks = Stacks(stage.store, seen=lambda ref, commits: None, bytes_max=LITTLE)
        for ref in refs:
            await stacks.get(ref)
        assert stacks._away
        gone(stacks)
        assert not stacks._away
        assert [stacks.peek(ref) for ref in refs] == [None, None, None]
        assert (stacks._bytes, stacks._away_bytes) == (0, 0)

"""What a conversation takes on disk and in memory: in proportion to what was said, and to nothing else."""

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from p2engine.domain.decisions import Move, Say, UseTool
from p2engine.errors import CorruptEntry
from p2engine.ports import AgentView, ToolContext
from tests.runtime.conftest import Gate, Script, Stage

KB = 1024
MB = 1024 * KB


def size(stage: Stage) -> int:
    """Bytes of the file, once all of it is in the file."""
    with sqlite3.connect(stage.path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        (page,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    return int(pages * page)


async def test_failure_13_storage_grows_with_what_is_said(on_file: Stage) -> None:
    """400 turns of two messages of 1 KB stay under 4 MB, and the second half takes no more than the first."""
    engine = on_file.engine({"boss": Script("a" * KB)})
    conversation = await engine.conversation("demo", agent="boss")
    sizes = [size(on_file)]
    for _ in range(2):
        for _ in range(200):
            await conversation.say("q" * KB)
        sizes.append(size(on_file))
    assert sizes[2] < 4 * MB
    assert sizes[2] - sizes[1] < 1.05 * (sizes[1] - sizes[0])


async def test_failure_15_a_model_call_does_not_store_its_prompt(on_file: Stage) -> None:
    """100 calls over a history of 200,000 tokens: what was sent is derived from the log, not stored again."""

    async def look(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        return "seen"

    async def boss(view: AgentView) -> Sequence[Move]:
        calls = sum(fragment.message.role == "tool" for fragment in view.fragments)
        return [Say("done")] if calls % 25 == 24 or len(view.fragments) < 4 else [UseTool("look", {"n": calls})]

    engine = on_file.engine({"boss": boss}, {"look": look})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("x" * 800 * KB)
    before = size(on_file)
    calls = 0
    while calls < 100:
        head = (await conversation.stack()).head
        await conversation.say("go on")
        calls += sum(event.kind == "model.reply" for event in await on_file.events("model.reply")) - calls
        assert (await conversation.stack()).head > head
    assert sum(len(one.wire) for one in (await conversation.stack()).fragments) > 800_000
    assert size(on_file) - before < 200 * KB


async def test_a_fork_takes_next_to_nothing(on_file: Stage) -> None:
    """100 forks of a long conversation copy none of it."""
    engine = on_file.engine({"boss": Script("a" * KB)})
    conversation = await engine.conversation("demo", agent="boss")
    for _ in range(100):
        await conversation.say("q" * KB)
    before = size(on_file)
    for number in range(100):
        await conversation.fork(-1 - number, f"b{number}")
    assert size(on_file) - before < 100 * KB


async def test_the_cache_is_bounded(stage: Stage) -> None:
    """Stacks are kept up to a size, and half as much of those that are put away; locks and branches go with them."""
    engine = stage.engine({"boss": Script("a" * KB)})
    stacks = engine.world.stacks
    stacks._bytes_max = 40 * KB
    for number in range(30):
        conversation = await engine.conversation(f"c{number}", agent="boss")
        await conversation.say("q" * KB)
    assert stacks._bytes <= 40 * KB
    assert stacks._away_bytes <= 20 * KB
    assert len(stacks._stacks) == len(stacks._locks) < 14
    in_hand = stacks._stacks.keys() - stacks._away.keys()
    assert stacks._bytes == sum(stacks._stacks[ref].bytes_n + 4096 for ref in in_hand)
    assert stacks._away_bytes == sum(len(messages) + 4096 for messages in stacks._away.values())
    assert conversation.record.current in stacks._stacks


async def test_what_is_at_work_is_forgotten_last(stage: Stage) -> None:
    """A stack whose turn runs is kept while resting ones go; above a greater bound it goes too."""
    gate = Gate()

    async def slow(view: AgentView) -> str:
        await gate.pass_through()
        return f"heard {len(view.fragments)}"

    engine = stage.engine({"slow": slow, "boss": Script("a" * KB)})
    stacks = engine.world.stacks
    stacks._bytes_max = 20 * KB
    running = await engine.conversation("running", agent="slow")
    turn = asyncio.ensure_future(running.say("q"))
    await gate.reached.wait()

    async def others(beginning: str) -> None:
        for number in range(10):
            await (await engine.conversation(f"{beginning}{number}", agent="boss")).say("q" * KB)

    await others("a")
    assert running.record.current in stacks._stacks
    assert stacks._bytes <= 20 * KB
    stacks._at_work_max = 10 * KB
    await others("b")
    assert running.record.current not in stacks._stacks
    gate.open.set()
    assert (await turn).text == "heard 1"


async def test_failure_14_an_entry_that_cannot_be_read_is_named(on_file: Stage) -> None:
    """One damaged row: whoever needs that stack is told which entry it is; other conversations go on."""
    engine = on_file.engine({"boss": Script("hello")})
    for name in ("demo", "other"):
        conversation = await engine.conversation(name, agent="boss")
        await conversation.say("one")
        await conversation.say("two")
    ref = (await engine.conversation("demo")).record.current
    with sqlite3.connect(on_file.path) as db:
        row = "bid = (SELECT bid FROM branch WHERE ref = ?) AND seq = 5"
        db.execute(f"UPDATE log SET body = x'00' WHERE {row}", (ref,))
    db.close()

    cold = on_file.engine({"boss": Script("hello")})
    with pytest.raises(CorruptEntry, match=f"entry 5 of branch {ref}"):
        await (await cold.conversation("demo")).say("three")
    assert (await (await cold.conversation("other")).say("three")).text == "hello"

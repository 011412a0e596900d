"""A store whose stack is shorter than what a process remembers of it: that is noticed, and nobody tries for ever."""

import asyncio
from pathlib import Path

import pytest

from p2engine.errors import HeadMoved, Rewound
from p2engine.testing.doubles import Decide
from tests.crash.cast import agents_of, open_engine

PATIENCE_S = 10.0


async def test_a_stack_that_lost_entries_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused for standing on entries that the store has not, a commit fails, and all that is remembered is dropped."""
    agents: dict[str, Decide] = agents_of(tmp_path, lambda _: None)
    engine = await open_engine(tmp_path, agents, {}, {})
    try:
        conversation = await engine.conversation("demo", agent="ann")
        ref = (await conversation.branch()).ref
        await engine.world.stacks.get(ref)

        async def refuse(_: object) -> None:
            await asyncio.sleep(0)
            raise HeadMoved(f"stack {ref} is shorter", missing=[])

        monkeypatch.setattr(engine.world.store, "write", refuse)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(Rewound, match="lost"):
                await conversation.say("anything")
        assert engine.world.stacks.peek(ref) is None
        assert engine.world.doubts
    finally:
        monkeypatch.undo()
        await engine.aclose()

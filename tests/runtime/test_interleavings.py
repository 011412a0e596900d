"""People at two terminals do whatever they like while turns run: whatever falls together, the rules hold at rest."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from p2engine.domain.decisions import (
    CallAgentAfter,
    Delegate,
    Finish,
    Move,
    Say,
    ToolOutcome,
    UseTool,
)
from p2engine.domain.ids import AgentId
from p2engine.domain.setup import Repeat
from p2engine.domain.states import Finished, UserMessage
from p2engine.errors import ModelError, NameTaken, UsageError
from p2engine.ports import AgentView, ToolContext
from p2engine.runtime.conversation import Conversation
from p2engine.runtime.engine import Engine
from p2engine.testing.virtual_time import run as run_virtually
from tests.domain.walking import answered_once
from tests.runtime.conftest import Stage

SEEDS = 60
DEEDS = 25
REPEATS: Mapping[str, Repeat] = {"look": "free", "book": "idempotent", "pay": "never"}


class Day:
    """One seeded run: agents that call and delegate, people who speak, stop, fork, rewind, go over and configure."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.ran: Counter[str] = Counter()
        self.said: list[asyncio.Task[Any]] = []
        self.spoken = 0

    async def pause(self) -> None:
        """Something takes a while; so do others meanwhile."""
        later = asyncio.Event()
        asyncio.get_running_loop().call_later(self.chance.random(), later.set)
        await later.wait()

    async def agent(self, view: AgentView) -> Sequence[Move]:
        await self.pause()
        if self.chance.random() < 0.05:
            raise ModelError("the model is down")
        rounds = sum(fragment.message.role == "assistant" for fragment in view.fragments)
        if rounds % 3 == 2 or self.chance.random() < 0.3:
            return [Say("done") if self.chance.random() < 0.7 else Finish("gave_up", "no")]
        moves: list[Move] = [Say("hm")]
        for number in range(self.chance.randrange(1, 4)):
            if self.chance.random() < 0.4:
                name = self.chance.choice(["ann", "bob", "ghost"])
                moves.append(Delegate(AgentId(name), f"part {number} {self.chance.random()}"))
            else:
                moves.append(UseTool(self.chance.choice([*REPEATS, "gate", "nope"]), {"n": self.chance.randrange(3)}))
        return moves

    async def tool(self, arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome:
        self.ran[ctx.idempotency_key] += 1
        await self.pause()
        if self.chance.random() < 0.2:
            return ToolOutcome(status="error", content="broken")
        after = CallAgentAfter(AgentId("ann"), f"file it {self.chance.random()}")
        return ToolOutcome(content="fine", then=(after,) if self.chance.random() < 0.2 else ())

    async def engine(self, stage: Stage, store: Any) -> Engine:
        tools = dict.fromkeys((*REPEATS, "gate"), self.tool)
        agents = dict.fromkeys(("boss", "ann", "bob"), self.agent)
        engine = stage.engine(
            agents, tools, {**REPEATS, "gate": "never"}, dedup="strict", approval=("gate",), store=store
        )
        await engine.start()
        return engine

    async def live(self, stage: Stage) -> None:
        engines = [await self.engine(stage, store) for store in (stage.store, await stage.another_store())]
        here = await engines[0].conversation("demo", agent="boss")
        there = await engines[1].conversation("demo")
        for _ in range(DEEDS):
            await self.do(self.chance.choice([here, here, there]))
            if self.chance.random() < 0.6:
                await self.pause()
        await self.rest(stage, here)
        await self.check(engines[0], here)
        await self.check(stage.engine({"boss": self.agent}), here)  # folded anew

    async def do(self, conversation: Conversation) -> None:
        """Something that people do; refused where it cannot be done just now."""
        loop = asyncio.get_running_loop()
        try:
            match self.chance.randrange(10):
                case 0 | 1 | 2 | 3:
                    self.spoken += 1
                    self.said.append(loop.create_task(conversation.say(f"m{self.spoken}")))
                case 4:
                    self.said.append(loop.create_task(conversation.resume()))
                case 5:
                    await conversation.cancel()
                case 6:
                    await conversation.override({"temperature": self.chance.random()})
                case 7:
                    await conversation.fork(-1 - self.chance.randrange(4), f"b{self.chance.random()}")
                case 8:
                    keep = self.chance.random() < 0.5
                    await conversation.rewind(-1 - self.chance.randrange(6), keep_running=keep)
                case _:
                    names = [branch.name for branch in await conversation.branches()]
                    await conversation.checkout(self.chance.choice(names), keep_running=self.chance.random() < 0.5)
        except (UsageError, NameTaken):
            pass

    async def rest(self, stage: Stage, conversation: Conversation) -> None:
        async with asyncio.timeout(3600):
            await asyncio.gather(*self.said)
            while await stage.owed(conversation):
                await self.pause()
        await self.pause()  # what is late has been told

    async def check(self, engine: Engine, conversation: Conversation) -> None:
        heard: set[str] = set()
        for branch in await conversation.branches(delegates=True):
            commits = await engine.world.store.load(branch.ref)
            stack = await engine.world.stacks.refresh(branch.ref)
            states = [state for placed in commits for state in placed.commit.states]
            answered_once(states)
            causes = Counter(placed.commit.cause for placed in commits if placed.ref == branch.ref)
            assert [cause for cause, times in causes.items() if ":" in cause and times > 1] == []
            assert not stack.open
            assert not stack.calls
            if branch.delegate:
                assert isinstance(stack.ground, Finished)
            heard |= {state.text for state in states if isinstance(state, UserMessage)}
        assert {f"m{number}" for number in range(1, self.spoken + 1)} <= heard
        assert max(self.ran.values(), default=1) == 1


@pytest.mark.parametrize("first", range(0, SEEDS, 15))
def test_whatever_people_do_at_once_the_rules_hold(first: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every message is kept, everybody is answered, each call is answered once or closed, each effect is settled once,
    nothing is done twice and nothing stays owed."""

    async def main(seed: int) -> None:
        stage = await Stage.open(tmp_path_factory.mktemp("day") / "p2.db")
        try:
            await Day(seed).live(stage)
        finally:
            await stage.aclose()

    for seed in range(first, first + 15):
        try:
            run_virtually(main(seed))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise

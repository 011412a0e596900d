"""Forks, rewinds, checkouts and delegations in any order: every agent's view is what a naive model says it is."""

import asyncio
import json
import random
from collections.abc import Sequence
from itertools import count

from hypothesis import example, given
from hypothesis import strategies as st

from p2engine.domain.decisions import Delegate, Move, Say
from p2engine.domain.ids import AgentId
from p2engine.domain.records import Job
from p2engine.domain.stack import Stack
from p2engine.ports import AgentView
from p2engine.runtime.conversation import Reply
from p2engine.runtime.engine import Engine
from tests.domain.walking import Tape
from tests.runtime.conftest import Stage, Waiting
from tests.runtime.naive import Branch, Mind, Plan, Said, answer, message, plain

AGENTS = ("boss", "ann", "bob")
DEPTH_MAX = 2  # of plans inside plans


async def agent(view: AgentView) -> Sequence[Move]:
    """Does the rounds of the last plan it was told, one after the other; then it answers by all it remembers."""
    heard = said(view.fragments)
    last = max(number for number, (role, _) in enumerate(heard) if role == "user")
    rounds = json.loads(heard[last][1])["rounds"]
    done = sum(role == "assistant" for role, _ in heard[last:])
    if done < len(rounds):
        return [Delegate(AgentId(to), message(plan)) for to, plan in rounds[done]]
    return [Say(answer(view.agent, heard))]


def said(fragments: Sequence[object]) -> list[Said]:
    return [(one.message.role, one.message.text) for one in fragments]  # type: ignore[attr-defined]


class Shuffled(Waiting):
    """Jobs come in whatever order the tape says."""

    def __init__(self, tape: Tape, run: object, on_error: object) -> None:
        super().__init__(run, on_error)
        self._tape = tape

    async def do(self, kind: str = "") -> None:
        job: Job = self.jobs.pop(self._tape.below(len(self.jobs)))
        self.jobs += await self._run(job)


class Journey:
    """One conversation and its model, going the same way."""

    def __init__(self, stage: Stage, tape: Tape) -> None:
        self.stage = stage
        self.tape = tape
        self.tags = count()
        self.jobs: Shuffled | None = None
        self.engine = stage.engine(dict.fromkeys(AGENTS, agent), dispatch=self._dispatch)
        self.branches = {"main": Branch([])}
        self.current = "main"

    def _dispatch(self, run: object, on_error: object) -> Shuffled:
        self.jobs = Shuffled(self.tape, run, on_error)
        return self.jobs

    async def go(self) -> None:
        self.conversation = await self.engine.conversation("demo", agent="boss")
        await self.say()
        while self.tape.left:
            match self.tape.below(8):
                case 0 | 1 | 2:
                    await self.say()
                case 3:
                    await self.fork(self.length())
                case 4 | 5:
                    await self.rewind(self.length())
                case _:
                    await self.checkout()
        await self.check(self.engine)
        await self.check(self.stage.engine(dict.fromkeys(AGENTS, agent), dispatch=Waiting))  # folded anew

    # What may happen

    async def say(self) -> None:
        """A turn, in which people may fork while children run."""
        plan = self.plan("boss", DEPTH_MAX)
        branch = self.branches[self.current]
        begun_at = len(branch.past)
        expected = branch.say(plan)
        saying = asyncio.create_task(self.conversation.say(message(plan)))
        while not saying.done():
            assert self.jobs is not None
            if self.jobs.jobs and self.tape.below(12) == 11 and len(self.branches) < 6:
                head = await self.head()
                if head > begun_at:
                    await self.fork(1 + self.tape.below(head))
            if self.jobs.jobs:
                await self.jobs.do()
            await asyncio.sleep(0)
        reply: Reply = saying.result()
        assert (reply.text, reply.finished) == (expected, "answered")

    async def fork(self, length: int) -> None:
        name = f"b{next(self.tags)}"
        branch = self.branches[self.current]
        forked = await self.conversation.fork(length - 1, name)
        assert forked.at == branch.cut(length)
        self.branches[name] = branch.fork(length)

    async def rewind(self, length: int) -> None:
        branch = self.branches[self.current]
        forked = await self.conversation.rewind(length - 1)
        assert forked.at == branch.cut(length)
        self.current = forked.branch.name
        self.branches[self.current] = branch.fork(length)

    async def checkout(self) -> None:
        self.current = self.tape.pick(sorted(self.branches))
        await self.conversation.checkout(self.current)

    # What is drawn from the tape

    def plan(self, who: str, depth: int) -> Plan:
        others = [name for name in AGENTS if name != who]
        rounds = []
        for _ in range(self.tape.below(3) if depth else 0):
            chosen = [self.tape.pick(others) for _ in range(1 + self.tape.below(3))]
            rounds.append([(name, self.plan(name, depth - 1)) for name in chosen])
        return {"tag": next(self.tags), "rounds": rounds}

    def length(self) -> int:
        """A place on the current branch; at least one entry stays."""
        return 1 + self.tape.below(len(self.branches[self.current].past) or 1)

    async def head(self) -> int:
        return (await self.conversation.stack()).head

    # What must be so

    async def check(self, engine: Engine) -> None:
        conversation = await engine.conversation("demo")
        for name, branch in self.branches.items():
            stack = await conversation.stack(branch=name)
            assert stack.head == len(branch.past)
            await self.same(engine, stack, branch.mind)
        assert await self.stage.owed(conversation) == []

    async def same(self, engine: Engine, stack: Stack, mind: Mind) -> None:
        """The stack remembers what the mind does, and so do those it delegated to, as it last saw them."""
        draft = [("assistant", stack.draft[0])] if stack.draft else []  # a reply that a cut left without what follows
        assert plain(said(stack.fragments) + draft) == plain(mind.heard)
        assert set(stack.children) == set(mind.known)
        for name, (_, (ref, length)) in stack.children.items():
            await self.same(engine, await engine.world.stacks.base(ref, length), mind.known[name])


def travel(tape: Tape) -> None:
    async def journey() -> None:
        stage = await Stage.open()
        try:
            await Journey(stage, tape).go()
        finally:
            await stage.aclose()

    asyncio.run(journey())


NUMBERS = st.lists(st.integers(0, 1000), max_size=120).map(Tape)
SEEDED = st.integers(0, 2**32).map(lambda seed: Tape([random.Random(seed + n).randrange(1000) for n in range(200)]))


@given(st.one_of(NUMBERS, SEEDED))
@example(Tape([2, 2, 0, 0, 0, 1, 0, 1, 0, 2, 2, 1, 0, 1, 0]))
def test_failure_12_every_agent_remembers_what_the_naive_model_says(tape: Tape) -> None:
    """Turns with delegations in sequence, in parallel and below one another; forks, also while children run; rewinds to
    any entry; going over to any branch: all memories, warm and folded anew, are those of copies of everything."""
    travel(tape)

"""A process on a shared file that does what it is told, a line of JSON a command. A program; `Actor` is its client.

Its agents and tools stop at gates, so that a test knows where it is and says when it goes on.
"""

import asyncio
import json
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec

from p2engine.domain.decisions import Delegate, Move, Say, UseTool
from p2engine.domain.ids import AgentId
from p2engine.domain.records import Query
from p2engine.domain.stack import Stack
from p2engine.errors import P2EngineError
from p2engine.ports import AgentView, ToolContext
from p2engine.runtime.engine import Engine
from p2engine.testing.doubles import Decide, ToolBody
from tests.crash.cast import REPEATS, open_engine, trace
from tests.crash.nursery import ROOT

PATIENCE_S = 30  # a test that waits longer for a word hangs


class Actor:
    """The other process, as a test holds it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._places: list[str] = []
        self._heard = asyncio.Condition()
        self._listening = asyncio.get_running_loop().create_task(self._listen())

    @classmethod
    async def start(cls, home: Path, *, gates: Sequence[str] = (), **options: float) -> Self:
        """A process with an engine on `home` that works; these gates are closed. options: those of `open_engine`."""
        pipe = asyncio.subprocess.PIPE
        settings = json.dumps({"home": str(home), "gates": gates, "options": options})
        actor = cls(
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.crash.actor", settings, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe
            )
        )
        await actor.reaches("start")
        return actor

    def tell(self, command: str, *arguments: Any) -> "asyncio.Future[Any]":
        """Have it do something; the future is what came of it, an error as the line that it is."""
        assert self.process.stdin is not None
        number = len(self._answers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        self.process.stdin.write(json.dumps([number, command, *arguments]).encode() + b"\n")
        return self._answers[number]

    async def does(self, command: str, *arguments: Any) -> Any:
        """Have it do something, and wait for it."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.tell(command, *arguments)

    async def reaches(self, place: str) -> None:
        """Wait until it has come to a place: `think boss`, `tool pay`, … Each arrival is seen once."""
        async with asyncio.timeout(PATIENCE_S), self._heard:
            await self._heard.wait_for(lambda: place in self._places)
            self._places.remove(place)

    def was_at(self, place: str) -> bool:
        """Whether it has come to a place, beyond those arrivals that were waited for."""
        return place in self._places

    async def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal and wait for its end."""
        self.process.send_signal(number)
        await self.ends()

    async def ends(self) -> int:
        """Wait for its end: its exit status, or minus the signal that ended it."""
        async with asyncio.timeout(PATIENCE_S):
            status = await self.process.wait()
            await self._listening
        return status

    async def complains(self) -> str:
        """What it wrote to standard error, after its end."""
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()

    async def aclose(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.ends()
        assert self.process.stdin is not None
        self.process.stdin.close()

    async def _listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            word = json.loads(line)
            async with self._heard:
                if "at" in word:
                    self._places.append(word["at"])
                elif not self._answers[word["done"]].done():
                    self._answers[word["done"]].set_result(word["result"])
                self._heard.notify_all()


Start = Callable[..., Awaitable[Actor]]
"""Starts an Actor: the fixture `start`."""


def report(**word: Any) -> None:
    print(json.dumps(word), flush=True)


class Stage:
    """What the process does when it is told to."""

    def __init__(self, home: Path, gates: Sequence[str]) -> None:
        self.home = home
        self.gates: dict[str, asyncio.Event] = {}
        self.ended = asyncio.Event()
        self.doing: set[asyncio.Task[None]] = set()
        for gate in gates:
            self.close(gate)
        self.engine: Engine

    async def play(self, options: Mapping[str, Any]) -> None:
        agents: dict[str, Decide] = {name: self._agent(name) for name in ("boss", "ann")}
        tools: dict[str, ToolBody] = {name: self._tool(name) for name in REPEATS}
        self.engine = await open_engine(self.home, agents, tools, REPEATS, **options)
        try:
            await self.engine.start()
            listening = asyncio.get_running_loop().create_task(self._listen())
            report(at="start")
            await self.ended.wait()
            listening.cancel()
        finally:
            report(at="end")
            await self.engine.aclose()

    # The cast

    async def passes(self, place: str) -> None:
        report(at=place)
        for gate in (place, place.partition(" ")[0]):
            if gate in self.gates:
                await self.gates[gate].wait()

    def _agent(self, name: str) -> Decide:
        async def decide(view: AgentView) -> Sequence[Move]:
            trace(self.home, f"think {view.effect}")
            await self.passes(f"think {name}")
            return _moves(view)

        return decide

    def _tool(self, name: str) -> ToolBody:
        async def body(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
            trace(self.home, f"{name} {ctx.idempotency_key}")
            await self.passes(f"tool {name}")
            return f"{name} done"

        return body

    # Commands

    def open(self, gate: str) -> None:
        self.gates.pop(gate).set()

    def close(self, gate: str) -> None:
        self.gates[gate] = asyncio.Event()

    def end(self) -> None:
        self.ended.set()

    def limit(self, bytes_max: int | None) -> None:
        """How large a file may grow; None: as large as it likes."""
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard if bytes_max is None else bytes_max, hard))

    def die_at_write(self, nth: int) -> None:
        """Kill this process before its nth write from now on."""
        store, left = self.engine.world.store, nth
        write = store.write

        async def mortal(batch: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return await write(batch)

        store.write = mortal  # type: ignore[method-assign]

    async def sweep(self) -> int:
        return await self.engine.sweeper.sweep()

    async def say(self, text: str, name: str = "demo") -> Any:
        return await (await self.engine.conversation(name, agent="boss")).say(text)

    async def resume(self, name: str = "demo") -> Any:
        return await (await self.engine.conversation(name)).resume()

    async def cancel(self) -> bool:
        return await (await self.engine.conversation("demo")).cancel()

    async def rewind(self, at: int) -> Any:
        return await (await self.engine.conversation("demo")).rewind(at)

    async def fork(self, at: int, name: str) -> Any:
        return await (await self.engine.conversation("demo")).fork(at, name)

    async def checkout(self, branch: str) -> Any:
        return await (await self.engine.conversation("demo")).checkout(branch)

    async def stack(self, branch: str | None = None, name: str = "demo") -> list[Any]:
        """The entries, as their tags and what was said."""
        commits = await (await self.engine.conversation(name)).commits(branch=branch)
        return [msgspec.to_builtins(state) for placed in commits for state in placed.commit.states]

    async def shown(self) -> str:
        """The last message that the agent is shown."""
        stack = await (await self.engine.conversation("demo")).stack()
        return stack.fragments[-1].message.text

    async def delegates(self) -> list[str]:
        """What each delegate's stack stands on."""
        conversation = await self.engine.conversation("demo")
        stacks: list[Stack] = [
            await self.engine.world.stacks.refresh(branch.ref)
            for branch in await conversation.branches(delegates=True)
            if branch.delegate
        ]
        return [str(msgspec.to_builtins(stack.ground)) for stack in stacks]

    async def late(self) -> list[str]:
        """The outcomes that came after their effect was settled."""
        events = await self.engine.query(Query(kinds=("effect.late",)))
        return [event.body["outcome"]["content"] for event in events]

    async def owed(self, name: str = "demo") -> list[str]:
        """Every open effect of the conversation."""
        conversation = await self.engine.conversation(name)
        branches = await conversation.branches(delegates=True)
        return [effect for branch in branches for effect in await self.engine.world.store.owed(branch.ref)]

    async def rests(self, name: str = "demo") -> None:
        """Come back when nothing is owed any more."""
        nothing = asyncio.get_running_loop().create_future()
        while await self.owed(name):
            await asyncio.wait((nothing,), timeout=0.01)  # another process may be the one that settles it

    async def sees(self, text: str) -> None:
        """Come back when that message is in the log."""
        async for event in self.engine.events(0):
            if event.kind == "state.user_message" and event.body["text"] == text:
                return

    async def _listen(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        async for line in reader:
            task = loop.create_task(self._do(*json.loads(line)))
            self.doing.add(task)
            task.add_done_callback(self.doing.discard)

    async def _do(self, number: int, command: str, *arguments: Any) -> None:
        try:
            result = getattr(self, command)(*arguments)
            if asyncio.iscoroutine(result):
                result = await result
        except P2EngineError as error:
            result = f"{type(error).__name__}: {error}"
        report(done=number, result=msgspec.to_builtins(result))


def _moves(view: AgentView) -> Sequence[Move]:
    """`use X` calls the tool X, `ask ann to Y` delegates; all else, and every result there is, is repeated."""
    new: list[str] = []
    for fragment in reversed(view.fragments):
        if fragment.message.role == "assistant":
            break
        if not fragment.message.text.startswith("[no result"):
            new.insert(0, fragment.message.text)
    match new[0].split():
        case ["use", *tools]:
            return [UseTool(tool, {}) for tool in tools]
        case ["ask", agent, "to", *words]:
            return [Delegate(AgentId(agent), " ".join(words))]
        case _:
            return [Say(" + ".join(new))]


def main() -> None:
    settings = json.loads(sys.argv[1])
    asyncio.run(Stage(Path(settings["home"]), settings["gates"]).play(settings["options"]))


if __name__ == "__main__":
    main()

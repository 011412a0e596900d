"""OpenAI Agents SDK: a custom Model in the process, with the history in memory or in a SQLiteSession."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agents import Agent, Model, ModelResponse, Runner, SQLiteSession, Usage, function_tool, set_tracing_disabled
from agents.extensions.memory.advanced_sqlite_session import AdvancedSQLiteSession
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

ANSWER = "It is sunny in Paris, twenty degrees, and it will stay so."
WEATHER = '{"city":"Paris","temp_c":20,"sky":"sunny"}'

set_tracing_disabled(True)


class AtOnce(Model):
    """Calls the tool `tools` times a turn, then answers."""

    def __init__(self, tools: int, latency_s: float) -> None:
        self._tools = tools
        self._latency_s = latency_s

    async def get_response(self, system_instructions: Any, input: Any, *_: Any, **__: Any) -> ModelResponse:  # noqa: A002 -- the port says so
        """The next reply of the turn."""
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        done = 0
        for item in reversed([] if isinstance(input, str) else input):
            if item.get("role") == "user":
                break
            done += item.get("type") == "function_call_output"
        if done < self._tools:
            arguments = f'{{"city":"Paris","day":{done}}}'
            said: Any = ResponseFunctionToolCall(
                id=f"f{done}", call_id=f"c{done}", name="weather", arguments=arguments, type="function_call"
            )
        else:
            text = ResponseOutputText(text=ANSWER, type="output_text", annotations=[])
            said = ResponseOutputMessage(id="m", content=[text], role="assistant", status="completed", type="message")
        usage = Usage(requests=1, input_tokens=100, output_tokens=20, total_tokens=120)
        return ModelResponse(output=[said], usage=usage, response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        """Nobody streams here."""
        raise NotImplementedError


@function_tool
async def weather(city: str, day: int) -> str:
    """The weather of a city on a day."""
    return WEATHER


class NormalSession(SQLiteSession):
    """Like ours in these works: nothing is lost when the process dies."""

    def _configure_connection(self, conn: sqlite3.Connection) -> None:
        super()._configure_connection(conn)
        conn.execute("PRAGMA synchronous=NORMAL")


class NormalAdvancedSession(AdvancedSQLiteSession):
    """The session with branches, NORMAL as well."""

    def _configure_connection(self, conn: sqlite3.Connection) -> None:
        super()._configure_connection(conn)
        conn.execute("PRAGMA synchronous=NORMAL")


class Opened:
    """An agent, and its conversations."""

    def __init__(self, folder: Path | None, tools: int, latency_s: float, kind: Any = NormalSession) -> None:
        self._agent: Agent[Any] = Agent(name="alpha", model=AtOnce(tools, latency_s), tools=[weather])
        self._folder = folder
        self._kind = kind
        self._sessions: dict[str, Any] = {}
        self._histories: dict[str, list[Any]] = {}

    def session(self, conversation: str) -> Any:
        """The session of that name, opened once."""
        if conversation not in self._sessions:
            assert self._folder is not None
            more = {"create_tables": True} if self._kind is NormalAdvancedSession else {}
            self._sessions[conversation] = self._kind(
                session_id=conversation, db_path=self._folder / "agents.db", **more
            )
        return self._sessions[conversation]

    async def turn(self, conversation: str, text: str) -> None:
        """One user turn."""
        if self._folder is None:
            history = [*self._histories.get(conversation, ()), {"role": "user", "content": text}]
            result = await Runner.run(self._agent, history, max_turns=50)
            self._histories[conversation] = result.to_input_list()
        else:
            await Runner.run(self._agent, text, session=self.session(conversation), max_turns=50)

    async def fork(self, conversation: str, number: int) -> None:
        """A branch from the turn in the middle, then back to the main one."""
        session = self.session(conversation)
        await session.create_branch_from_turn(23 if await self._turns(session) >= 23 else 5, f"fork-{number}")
        await session.switch_to_branch("main")

    async def _turns(self, session: Any) -> int:
        if not hasattr(self, "_turns_n"):
            self._turns_n = len(await session.get_conversation_turns())
        return self._turns_n


class OpenAIAgents:
    """Runner.run with the history in memory, or a SQLiteSession."""

    def __init__(self, *, persistent: bool) -> None:
        self._persistent = persistent
        self.name = "OpenAI Agents, " + ("SQLiteSession" if persistent else "history in memory")

    @asynccontextmanager
    async def open(self, folder: Path, *, tools: int, latency_s: float) -> AsyncIterator[Opened]:
        """The agent, and its file in that folder."""
        yield Opened(folder if self._persistent else None, tools, latency_s)


class OpenAIAgentsAdvanced:
    """The session that has branches."""

    name = "OpenAI Agents, AdvancedSQLiteSession"

    @asynccontextmanager
    async def open(self, folder: Path, *, tools: int, latency_s: float) -> AsyncIterator[Opened]:
        """The agent, and its file in that folder."""
        yield Opened(folder, tools, latency_s, NormalAdvancedSession)

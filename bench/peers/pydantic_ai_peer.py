"""Pydantic AI: a FunctionModel, with the message history in memory, or its new messages appended as rows."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic_ai import Agent
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

ANSWER = "It is sunny in Paris, twenty degrees, and it will stay so."
WEATHER = '{"city":"Paris","temp_c":20,"sky":"sunny"}'


async def weather(city: str, day: int) -> str:
    """The weather of a city on a day."""
    return WEATHER


class Opened:
    """An agent, and its conversations. Rows are written once a turn: this peer has no hook for each step."""

    def __init__(self, folder: Path | None, tools: int, latency_s: float) -> None:
        async def reply(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            if latency_s:
                await asyncio.sleep(latency_s)
            done = 0
            for message in reversed(messages):
                done += sum(isinstance(part, ToolReturnPart) for part in message.parts)
                if any(isinstance(part, UserPromptPart) for part in message.parts):
                    break
            if done < tools:
                call = ToolCallPart("weather", {"city": "Paris", "day": done}, tool_call_id=f"c{done}")
                return ModelResponse(parts=[call])
            return ModelResponse(parts=[TextPart(ANSWER)])

        self._agent = Agent(FunctionModel(reply), tools=[weather])
        self._histories: dict[str, list[ModelMessage]] = {}
        self._db: sqlite3.Connection | None = None
        if folder is not None:
            self._db = sqlite3.connect(folder / "pydantic.db", isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("CREATE TABLE IF NOT EXISTS row(id INTEGER PRIMARY KEY, conversation TEXT, body BLOB)")
            self._db.execute("CREATE INDEX IF NOT EXISTS by_conversation ON row(conversation)")

    async def turn(self, conversation: str, text: str) -> None:
        """One user turn."""
        result = await self._agent.run(text, message_history=self._histories.get(conversation))
        self._histories[conversation] = result.all_messages()
        if self._db is not None:
            self._append(conversation, result.new_messages_json())

    async def fork(self, conversation: str, number: int) -> None:
        """The first half of the history, read and kept under another name."""
        assert self._db is not None
        rows = self._db.execute("SELECT body FROM row WHERE conversation = ? ORDER BY id", (conversation,)).fetchall()
        half = [ModelMessagesTypeAdapter.validate_json(body) for (body,) in rows[: len(rows) // 2]]
        copied: list[ModelMessage] = [message for messages in half for message in messages]
        self._append(f"{conversation}-{number}", ModelMessagesTypeAdapter.dump_json(copied))

    def _append(self, conversation: str, body: bytes) -> None:
        assert self._db is not None
        self._db.execute("INSERT INTO row(conversation, body) VALUES (?, ?)", (conversation, body))

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            self._db.close()


class PydanticAI:
    """Agent.run with the history handed back each turn."""

    def __init__(self, *, persistent: bool) -> None:
        self._persistent = persistent
        self.name = "Pydantic AI, " + ("rows appended" if persistent else "history in memory")

    @asynccontextmanager
    async def open(self, folder: Path, *, tools: int, latency_s: float) -> AsyncIterator[Opened]:
        """The agent, and its file in that folder."""
        opened = Opened(folder if self._persistent else None, tools, latency_s)
        try:
            yield opened
        finally:
            opened.close()

"""The `limits` of a project hold for the calls its engine makes, in either store."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2engine import Engine
from p2engine.settings import Settings
from p2engine.testing.server import OpenAIServer
from tests.servers import ValkeyServer

MODEL = "openai/m"
AT_ONCE = 2
CALLS = 6


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    server = ValkeyServer().start()
    yield server
    server.remove()


@pytest.mark.parametrize("store", ["sqlite", "redis"])
async def test_calls_of_a_provider_at_once_are_bounded(store: str, tmp_path: Path, valkey: ValkeyServer) -> None:
    """Of many conversations no more than `limits.concurrency` says ask the provider at the same moment."""
    running = most = 0
    together = asyncio.Barrier(AT_ONCE)

    async def answer(body: dict[str, Any]) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await together.wait()
        running -= 1
        return "fine"

    (tmp_path / "config").mkdir()
    (tmp_path / "config/agents.yml").write_text("agents:\n  - id: a\n    llm_model: openai/m\n")
    async with OpenAIServer(answer) as server:
        settings = Settings.load(
            project=tmp_path,
            environ={},
            store=store,
            llm={"api_base": server.base_url, "models": {"default_model": MODEL, "supported_models": [MODEL]}},
            redis={"host": "127.0.0.1", "port": valkey.port},
            limits={"concurrency": {"openai": AT_ONCE}},
        )
        async with Engine.open(settings=settings) as engine:
            talks = [await engine.conversation(f"c{number}", agent="a") for number in range(CALLS)]
            replies = await asyncio.gather(*(talk.say("go") for talk in talks))
    assert [reply.text for reply in replies] == ["fine"] * CALLS
    assert most == AT_ONCE

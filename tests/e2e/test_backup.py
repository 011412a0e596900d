"""What `docs/deployment.md` says about back-up and restore, done."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from redis import Redis

from p2engine.domain.states import UserMessage
from p2engine.settings import Settings
from p2engine.wiring import Engine
from tests.servers import ValkeyServer

AOF = "appendonlydir"
AGENTS = """\
agents:
  - id: keeper
    type: rule
    rules: [{contains: "?", answer: "I do not know"}]
    default: "I heard: {{ message }}"
"""


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    """The server that is backed up."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def restored() -> Iterator[ValkeyServer]:
    """Another one, not started: what is put into its folder is what it starts from."""
    server = ValkeyServer()
    yield server
    server.remove()


def opened(folder: Path, server: ValkeyServer) -> AbstractAsyncContextManager[Engine]:
    (folder / "config").mkdir(exist_ok=True)
    (folder / "config" / "agents.yml").write_text(AGENTS)
    environ = {"P2ENGINE_STORE": "redis", "REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(server.port)}
    return Engine.open(settings=Settings.load(project=folder, environ=environ))


async def said(engine: Engine) -> list[str]:
    """What the conversation `kept` has heard."""
    chat = await engine.conversation("kept", agent="keeper")
    await chat.say("and now?")
    states = [state for placed in await chat.commits() for state in placed.commit.states]
    return [state.text for state in states if isinstance(state, UserMessage)]


async def test_a_copy_of_the_append_only_file(tmp_path: Path, valkey: ValkeyServer, restored: ValkeyServer) -> None:
    """Copied while the server works, it starts another one, on which conversations go on from there."""
    async with opened(tmp_path, valkey) as engine:
        await (await engine.conversation("kept", agent="keeper")).say("before")
        with Redis(port=valkey.port) as client:
            client.config_set("auto-aof-rewrite-percentage", 0)
            shutil.copytree(valkey.folder / AOF, restored.folder / AOF)
            client.config_set("auto-aof-rewrite-percentage", 100)
        await (await engine.conversation("kept", agent="keeper")).say("after")

    restored.start()
    async with opened(tmp_path, restored) as engine:
        assert await said(engine) == ["before", "and now?"]


async def test_a_snapshot(tmp_path: Path, valkey: ValkeyServer, restored: ValkeyServer) -> None:
    """It is read by a server without an append-only file, which then makes one; with one, it would start empty."""
    async with opened(tmp_path, valkey) as engine:
        await (await engine.conversation("kept", agent="keeper")).say("before")
    with Redis(port=valkey.port) as client:
        client.save()
    shutil.copy(valkey.folder / "dump.rdb", restored.folder / "dump.rdb")

    restored.start(None, "--appendonly", "no", "--appendfsync", "always", "--save", "")
    with Redis(port=restored.port) as client:
        assert client.dbsize() > 0
        client.config_set("appendonly", "yes")
        while client.info("persistence")["aof_rewrite_in_progress"]:
            pass
        assert client.info("persistence")["aof_last_bgrewrite_status"] == "ok"
    restored.stop()
    restored.start(None, "--appendonly", "yes", "--appendfsync", "always", "--save", "")
    async with opened(tmp_path, restored) as engine:
        assert await said(engine) == ["before", "and now?"]

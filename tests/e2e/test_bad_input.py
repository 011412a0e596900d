"""What a distributed project meets: servers that are wrong, full or somebody else's, and hosts whose clocks are off."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from p2engine.testing.server import OpenAIServer
from tests.dispatch.workplace import Workplace, get, obedient
from tests.e2e.deployment import PATIENCE_S
from tests.servers import ValkeyServer, free_port

AHEAD = """\
import time

real = time.time
time.time = lambda: real() + {skew_s}
"""


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    """Of this module's own: it is filled up."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    """The address of a model that calls the tools it is told to."""
    with OpenAIServer(obedient) as started:
        yield started.base_url


@pytest.fixture
def prefix() -> str:
    """Of the keys of one test."""
    return f"e2e{uuid.uuid4().hex[:8]}"


@pytest.fixture
def place(tmp_path: Path, valkey: ValkeyServer, prefix: str, model: str) -> Iterator[Workplace]:
    """A project that keeps everything in the Redis, with no worker yet."""
    place = Workplace(tmp_path, valkey, prefix, model)
    place.configure(valkey, prefix, store="redis", llm={"api_base": model})
    yield place
    place.close()


def refused(place: Workplace, *words: str, **env: str) -> tuple[int, list[str]]:
    """The status and the lines of a command that cannot begin."""
    process = place.start(*words, env=env)
    status = process.wait()
    return status, [line.strip() for line in process.said if not line.startswith("20")]


@pytest.mark.parametrize("words", [("worker",), ("sweeper",), ("chat", "with", "agent_alpha", "-m", "hello")])
def test_failure_27_a_server_that_is_wrong(
    place: Workplace, valkey: ValkeyServer, prefix: str, words: tuple[str, ...]
) -> None:
    """Keys of somebody else or of a later version: what, and what now; nothing of them is touched."""
    client = Redis(port=valkey.port)
    client.set(f"{prefix}:meta", "mine")
    status, said = refused(place, *words)
    assert (status, len(said)) == (1, 2), said
    assert f"'{prefix}:meta' is not ours (a string)" in said[0]
    assert said[1] == "choose another redis.prefix or redis.db"
    assert client.get(f"{prefix}:meta") == b"mine"

    client.delete(f"{prefix}:meta")
    client.hset(f"{prefix}:meta", "version", "3")
    status, said = refused(place, *words)
    assert (status, len(said)) == (1, 2), said
    assert f"'{prefix}:meta' is not ours (a hash with other fields)" in said[0]
    assert client.hgetall(f"{prefix}:meta") == {b"version": b"3"}

    client.delete(f"{prefix}:meta")
    client.hset(f"{prefix}:meta", "schema", "999")
    status, said = refused(place, *words)
    assert (status, len(said)) == (1, 2), said
    assert "schema '999'; this version knows 1" in said[0]
    assert said[1] == "update P2Engine"
    assert client.hgetall(f"{prefix}:meta") == {b"schema": b"999"}
    client.close()


@pytest.mark.parametrize(
    ("key", "command"),
    [
        *(("log", command) for command in ("worker", "chat with agent_alpha -m hello", "conversation list")),
        *(("celery:ticks", command) for command in ("worker", "sweeper", "chat with agent_alpha -m hello")),
        ("celery:_kombu.binding.gpu", "worker"),
    ],
)
def test_failure_27_a_key_of_somebody_else(
    place: Workplace, valkey: ValkeyServer, prefix: str, key: str, command: str
) -> None:
    """Where messages or the log should be: whoever needs that place does not begin, names the key, and leaves it."""
    with Redis(port=valkey.port) as client:
        client.set(f"{prefix}:{key}", "mine")
        status, said = refused(place, *command.split())
        assert client.get(f"{prefix}:{key}") == b"mine"
    assert (status, len(said)) == (1, 2), said
    assert f"'{prefix}:{key}' is not ours (a string)" in said[0]
    assert said[1] == "choose another redis.prefix or redis.db"


@pytest.mark.parametrize(
    ("variable", "value", "what"),
    [
        ("REDIS_DB", "99", "99"),
        ("REDIS_PASSWORD", "wrong-password", "password"),
        ("REDIS_PORT", "", "cannot be reached"),
    ],
)
def test_failure_27_a_server_that_is_not_there(place: Workplace, variable: str, value: str, what: str) -> None:
    """No such database, a password that nobody asked for, nobody there: a line with its mend, and no password in it."""
    status, said = refused(place, "chat", "with", "agent_alpha", "-m", "hello", **{variable: value or str(free_port())})

    assert (status, len(said)) == (1, 2), said
    assert what in said[0]
    assert "wrong-password" not in "".join(said)


async def test_failure_35_a_full_server(place: Workplace, valkey: ValkeyServer) -> None:
    """What a client says is refused whole, with the mend; an outcome of a worker waits until there is room."""
    client = Redis(port=valkey.port)
    health = free_port()
    worker, sweeper = place.start("worker", "--no-sweeper", "--health", str(health)), place.start("sweeper")
    worker.until("ready")
    sweeper.until("ready")
    try:
        async with place.client() as engine:
            chat = await engine.conversation("held", agent="agent_alpha")
            turn = asyncio.create_task(chat.say("call hold"))
            assert await asyncio.to_thread(place.began) == worker.pid
            client.config_set("maxmemory", "1mb")
            await asyncio.to_thread(place.go, "on")
            await asyncio.to_thread(worker.until, "maxmemory")
            ready, why = await asyncio.to_thread(get, health, "readyz")
            status, said = await asyncio.to_thread(refused, place, "chat", "with", "agent_alpha", "-m", "hello")
            client.config_set("maxmemory", "0")
            async with asyncio.timeout(PATIENCE_S):
                reply = await turn
    finally:
        client.config_set("maxmemory", "0")
        client.close()

    assert ready == 503
    assert "is full: " in why
    assert status == 1
    assert "is full" in said[0] or "maxmemory" in "".join(said)
    assert reply.finished == "answered"
    assert reply.text.endswith(f"on by {worker.pid}")


@pytest.mark.parametrize("skew_s", [60, -60])
async def test_seam_09_a_host_whose_clock_is_off(place: Workplace, tmp_path: Path, skew_s: int) -> None:
    """A minute ahead or behind: turns run as ever, and what is recorded is at the time of the server."""
    (tmp_path / "skewed").mkdir()
    (tmp_path / "skewed" / "sitecustomize.py").write_text(AHEAD.format(skew_s=skew_s))
    env = {"PYTHONPATH": str(tmp_path / "skewed")}
    place.start("worker", env=env).until("ready")
    async with place.client() as engine:
        chat = await engine.conversation("skewed", agent="agent_alpha")
        async with asyncio.timeout(PATIENCE_S):
            reply = await chat.say("What's the weather like in Paris?")
        at = [placed.commit.at for placed in await chat.commits()]
        now = engine.world.clock.now()

    assert reply.finished == "answered"
    assert at == sorted(at)
    assert 0 <= now - at[0] < PATIENCE_S
    assert 0 <= reply.duration_s < PATIENCE_S

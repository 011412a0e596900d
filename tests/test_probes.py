"""What monitors are told: counts of what was written, and text that Prometheus reads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from p2engine.domain.effects import Think
from p2engine.domain.ids import ConversationId, EffectId
from p2engine.domain.messages import Usage
from p2engine.domain.records import Batch, Commit
from p2engine.domain.states import AssistantMessage, Finished, ToolResult
from p2engine.errors import UsageError
from p2engine.probes import Meter, exposition, served
from p2engine.settings import Settings
from p2engine.wiring import Engine
from tests.servers import free_port


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    """One of an embedded project, which works."""
    settings = Settings.load(home=tmp_path, environ={}, llm={"offline": "always"})
    async with Engine.open(settings=settings) as opened:
        yield opened


async def get(port: int, path: str) -> tuple[int, list[str]]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/{path}") as answer:
        return answer.status, (await answer.text()).splitlines()


def test_a_meter_counts_outcomes_and_not_what_follows_from_them() -> None:
    """Of a commit, what came back; turns and usage wherever they stand."""
    meter = Meter()
    usage = Usage(model="openai/x", tokens_in=7, tokens_out=2, cost_usd=0.25)
    meter.wrote(Commit(1.0, "a:0.0", (AssistantMessage("hi"), Finished("answered")), 1, usage))
    meter.wrote(Commit(2.0, "a:2.0", (ToolResult("c", "t", "timeout", "slow"),), 1))
    assert list(meter.samples()) == [
        ("outcomes_total", {"state": "assistant_message", "status": "ok"}, 1),
        ("outcomes_total", {"state": "tool_result", "status": "timeout"}, 1),
        ("turns_total", {"reason": "answered"}, 1),
        ("tokens_total", {"direction": "in"}, 7),
        ("tokens_total", {"direction": "out"}, 2),
        ("cost_usd_total", {}, 0.25),
    ]


def test_the_text_is_what_prometheus_reads() -> None:
    """Help and type once a metric, labels quoted."""
    text = exposition([("queue_depth", {"queue": 'a"b\\c\n'}, 3), ("queue_depth", {"queue": "d"}, 0)])
    assert text == (
        "# HELP p2engine_queue_depth Messages that wait in a queue of the broker.\n"
        "# TYPE p2engine_queue_depth gauge\n"
        'p2engine_queue_depth{queue="a\\"b\\\\c\\n"} 3\n'
        'p2engine_queue_depth{queue="d"} 0\n'
    )


async def test_an_engine_tells_what_it_did_and_what_is_due(engine: Engine) -> None:
    """Turns that ended here, and an effect that nobody holds with how long it has waited."""
    port = free_port()
    async with served(port, engine):
        chat = await engine.conversation("demo", agent="somebody")
        await chat.say("hello")
        await engine.sweeper.aclose()  # it would hand out what the next lines leave
        ref = chat.record.current
        left: dict[str, Any] = {"conversation": ConversationId(chat.record.id)}
        await engine.world.store.write(Batch(effects=(Think(id=EffectId(f"{ref}:99.0")),), **left))
        status, metrics = await get(port, "metrics")
    assert status == 200
    assert 'p2engine_turns_total{reason="answered"} 1' in metrics
    assert "p2engine_effects_due 1" in metrics
    assert any(line.startswith("p2engine_effects_due_oldest_age_seconds 0") for line in metrics)
    assert not any("queue_depth" in line for line in metrics)


async def test_readiness_names_what_is_missing(engine: Engine) -> None:
    """503 for a worker that takes no messages; alive all the same."""
    port = free_port()
    async with served(port, engine, consumes=lambda: False):
        assert await get(port, "readyz") == (503, ["worker: takes no messages"])
        assert await get(port, "livez") == (200, ["ok"])


async def test_a_port_in_use_is_refused(engine: Engine) -> None:
    """By its number; and without a port nothing is served."""
    port = free_port()
    async with served(port, engine), served(None, engine):
        with pytest.raises(UsageError, match=str(port)):
            async with served(port, engine):
                pass

"""What the Celery dispatcher sends, where, and what becomes of it when nobody is there."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import uuid
from typing import Any

import pytest
import redis

from p2engine.dispatch.celery import (
    BATCH_MAX,
    PERFORM,
    QUEUES,
    WAKE,
    Broker,
    CeleryDispatcher,
    Routes,
    celery_app,
    queues_of,
)
from p2engine.domain.effects import AnyEffect, CallAgent, CallTool, Cancel, Judge, kind_of
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId, EffectId, StackRef
from p2engine.domain.records import Perform, Wake
from p2engine.domain.states import Caller
from tests.servers import ValkeyServer, free_port

ROUTES = Routes({"render": "gpu"}, on_loop={"lookup", "render"}.__contains__)


def broker_at(url: str) -> Broker:
    """Of a project of its own."""
    return Broker(url=url, shown=url, prefix=uuid.uuid4().hex)


def dispatcher_of(broker: Broker) -> CeleryDispatcher:
    return CeleryDispatcher(celery_app(broker, queues_of({"render": "gpu"})), ROUTES.queue_of, broker)


def messages(server: ValkeyServer, broker: Broker, queue: str) -> list[dict[str, Any]]:
    """What waits in a queue, the oldest first."""
    with redis.Redis.from_url(server.url) as client:
        return [json.loads(body) for body in reversed(client.lrange(f"{broker.prefix}:celery:{queue}", 0, -1))]


def told(message: dict[str, Any]) -> tuple[str, list[str]]:
    """The task of a message and its arguments."""
    import base64

    arguments, keywords, _ = json.loads(base64.b64decode(message["body"]))
    assert keywords == {}
    return message["headers"]["task"], arguments


@pytest.mark.parametrize(
    ("kind", "queue"),
    [
        ("think", "ticks"),
        ("call_agent", "ticks"),
        ("return", "ticks"),
        ("cancel", "ticks"),
        ("ask", "ticks"),
        ("", "ticks"),
        ("judge.gpt4_judge", "evals"),
        ("judge.", "evals"),
        ("call_tool.lookup", "ticks"),
        ("call_tool.blocks", "tools"),
        ("call_tool.render", "gpu"),
    ],
)
def test_where_a_job_goes(kind: str, queue: str) -> None:
    """What waits goes to ticks; verdicts to evals; a tool that blocks, or is not known here, to tools, or where it is
    pinned."""
    assert ROUTES.queue_of(kind) == queue


def test_kinds_are_those_of_effects() -> None:
    """The routes read what effects say of themselves."""
    caller = Caller(effect=EffectId("p:0.0"), call_id="c", root=(StackRef("p"), 0))
    effects: list[AnyEffect] = [
        CallTool(id=EffectId("a:0.0"), call_id="c", tool="blocks"),
        CallAgent(id=EffectId("a:0.1"), call_id="d", agent=AgentId("b"), message="m", caller=caller),
        Cancel(id=EffectId("a:0.2"), child=StackRef("b")),
        Judge(id=EffectId("a:0.3"), evaluation=Evaluation(evaluator="gpt4_judge")),
    ]
    assert [ROUTES.queue_of(kind_of(effect)) for effect in effects] == ["tools", "ticks", "ticks", "evals"]


async def test_a_message_holds_ids_only(server: ValkeyServer) -> None:
    """Nothing of a conversation is in the broker: a task, the effect's id and its kind."""
    broker = broker_at(server.url)
    dispatcher = dispatcher_of(broker)
    await dispatcher.submit(Perform(EffectId("a:3.1"), "call_tool.render"), Wake(StackRef("b")))
    await dispatcher.aclose()

    assert [told(each) for each in messages(server, broker, "gpu")] == [(PERFORM, ["a:3.1", "call_tool.render"])]
    assert [told(each) for each in messages(server, broker, "ticks")] == [(WAKE, ["b"])]


async def test_a_job_costs_one_command(server: ValkeyServer) -> None:
    """Once connected, a publish is one LPUSH, and many are one round trip in the order they were submitted in."""
    broker = broker_at(server.url)
    dispatcher = dispatcher_of(broker)
    await dispatcher.submit(Wake(StackRef("first")))
    await dispatcher.depths()  # connected
    jobs = [Perform(EffectId(f"a:{number}.0"), "think") for number in range(2 * BATCH_MAX + 1)]
    with redis.Redis.from_url(server.url) as client:
        client.config_resetstat()
        await dispatcher.submit(*jobs)
        depths = await dispatcher.depths()
        calls = {name.removeprefix("cmdstat_"): of["calls"] for name, of in client.info("commandstats").items()}
    await dispatcher.aclose()

    assert depths == {**dict.fromkeys((*QUEUES, "gpu"), 0), "ticks": 1 + len(jobs)}
    assert calls == {"lpush": len(jobs), "llen": len(depths), "config|resetstat": 1}
    sent = [told(each)[1][0] for each in messages(server, broker, "ticks")]
    assert sent == ["first", *(job.effect for job in jobs)]


async def test_projects_on_one_broker_do_not_mix(server: ValkeyServer) -> None:
    """Each prefix has queues of its own."""
    ours, theirs = broker_at(server.url), broker_at(server.url)
    first, second = dispatcher_of(ours), dispatcher_of(theirs)
    await first.submit(Perform(EffectId("a:0.0"), "think"))
    assert (await first.depths())["ticks"] == 1
    assert (await second.depths())["ticks"] == 0
    await first.aclose()
    await second.aclose()


async def test_a_broker_that_is_away_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Submitting neither waits nor raises; it is told once; who asks is told, too."""
    broker = broker_at(f"redis://127.0.0.1:{free_port()}/0")
    dispatcher = dispatcher_of(broker)
    with caplog.at_level(logging.WARNING, "p2engine.dispatch"):
        await dispatcher.submit(Perform(EffectId("a:0.0"), "think"))
        with pytest.raises(OSError, match="onnect"):
            await dispatcher.depths()
        await dispatcher.submit(Perform(EffectId("b:0.0"), "think"))
        await dispatcher.aclose()
    assert [record.getMessage().partition(" is away")[0] for record in caplog.records] == [f"the broker {broker.shown}"]


async def test_a_broker_that_was_restarted_is_found_again() -> None:
    """A connection that was cut between two jobs costs neither."""
    with ValkeyServer() as server:
        broker = broker_at(server.url)
        dispatcher = dispatcher_of(broker)
        await dispatcher.submit(Perform(EffectId("a:0.0"), "think"))
        await dispatcher.depths()
        server.restart()
        await dispatcher.submit(Perform(EffectId("b:0.0"), "think"))
        await dispatcher.aclose()
        assert [told(each)[1][0] for each in messages(server, broker, "ticks")] == ["a:0.0", "b:0.0"]


def test_settings_of_the_application() -> None:
    """Messages are kept by the process that took them, how many it takes, and what is never sent."""
    app = celery_app(broker_at("redis://:secret@nowhere.invalid:6379/2"), QUEUES)
    assert app.conf.task_acks_late
    assert app.conf.task_reject_on_worker_lost
    assert app.conf.worker_prefetch_multiplier == 1
    assert app.conf.broker_transport_options["ack_emulation"] is False
    assert (app.conf.task_serializer, app.conf.accept_content) == ("json", ["json"])
    assert app.conf.task_ignore_result
    assert app.conf.result_backend is None
    assert app.conf.worker_pool == "threads"
    assert not app.conf.worker_hijack_root_logger


def test_a_broker_is_shown_without_its_password() -> None:
    """Not in its text either."""
    assert "secret" not in repr(Broker(url="redis://:secret@host:1/0", shown="redis://host:1/0"))


def test_only_who_asks_for_it_loads_celery() -> None:
    """The embedded engine, its wiring and the command line load neither Celery nor a client of Redis."""
    program = "import sys, p2engine, p2engine.wiring, p2engine.cli.main; "
    program += "print(sorted({'celery', 'kombu', 'redis', 'aiohttp'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

"""Conversations whose work is done by worker processes: shared, killed, stopped, told apart by queue, and refused."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from p2engine.runtime.conversation import Reply
from p2engine.wiring import Engine
from tests.dispatch.workplace import INT, KILL, READY, TERM, TOOLS, Workplace, get
from tests.servers import ValkeyServer, free_port

PATIENCE_S = 40.0
ENDED = "worker has ended"


async def say(engine: Engine, text: str, name: str = "demo") -> Reply:
    """A message, and the answer that workers make."""
    chat = await engine.conversation(name, agent="agent_alpha")
    async with asyncio.timeout(PATIENCE_S):
        return await chat.say(text)


def test_a_conversation_on_one_worker(place: Workplace) -> None:
    """The command line asks, a worker answers with tools and a delegate, and its probes tell what it did."""
    port = free_port()
    worker = place.worker("--health", str(port), "--sinks")
    messages = ("-m", "weather in Paris", "-m", "Delegate to agent_helper: weather in Tokyo", "-m", "call whoami")
    done = subprocess.run(
        [sys.executable, "-m", "p2engine", "chat", "with", "agent_alpha", *messages],
        cwd=place.folder,
        env=place.environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    paris, tokyo, who = done.stdout.splitlines()
    assert "22" in paris
    assert "10" in tokyo
    assert who == f"I was told: {worker.pid}"
    assert get(port, "livez") == (200, "ok\n")
    assert get(port, "readyz") == (200, "ok\n")
    status, metrics = get(port, "metrics")
    assert status == 200
    assert 'p2engine_turns_total{reason="answered"} 4' in metrics.splitlines()
    assert 'p2engine_outcomes_total{state="tool_result",status="ok"} 3' in metrics.splitlines()
    assert 'p2engine_queue_depth{queue="gpu"} 0' in metrics.splitlines()
    assert "p2engine_jobs_in_flight 0" in metrics.splitlines()
    worker.signal(TERM)
    assert worker.wait() == 143
    assert get_refused(port)


def get_refused(port: int) -> bool:
    """Whether nobody listens there."""
    try:
        get(port, "livez")
    except urllib.error.URLError:
        return True
    return False


async def test_failure_06_a_worker_that_is_killed_loses_nothing(place: Workplace) -> None:
    """kill -9 while a tool runs: the next worker does it again where that is right, and says so where it is not."""
    first = place.worker()
    async with place.client() as engine:
        free, once = (asyncio.create_task(say(engine, f"call {tool}", tool)) for tool in ("hold", "pay"))
        assert {await asyncio.to_thread(place.began), await asyncio.to_thread(place.began)} == {first.pid}
        first.signal(KILL)
        await asyncio.to_thread(first.wait)
        second = await asyncio.to_thread(place.worker)
        assert await asyncio.to_thread(place.began) == second.pid
        await asyncio.to_thread(place.go, "done")
        assert (await free).text == f"I was told: done by {second.pid}"
        assert "interrupted" in (await once).text


async def test_a_worker_that_is_asked_to_end_finishes_what_runs(place: Workplace) -> None:
    """SIGTERM during a tool: its result is kept; what follows is another worker's, at once."""
    first = place.worker("--no-sweeper")
    async with place.client() as engine:
        turn = asyncio.create_task(say(engine, "call pay"))
        assert await asyncio.to_thread(place.began) == first.pid
        first.signal(TERM)
        await asyncio.to_thread(place.go, "paid")
        assert await asyncio.to_thread(first.wait) == 143
        assert any(ENDED in line for line in first.said)
        await asyncio.to_thread(place.worker, "--no-sweeper")  # nobody sweeps: the message itself came back
        assert (await turn).text == f"I was told: paid by {first.pid}"


async def test_asked_twice_a_worker_ends_at_once(place: Workplace) -> None:
    """Whatever runs."""
    worker = place.worker()
    async with place.client() as engine:
        turn = asyncio.create_task(say(engine, "call hold"))
        await asyncio.to_thread(place.began)
        worker.signal(INT)
        worker.until("ends")
        worker.signal(INT)
        assert await asyncio.to_thread(worker.wait) == 130
        assert not any(ENDED in line for line in worker.said)
        turn.cancel()
        await asyncio.gather(turn, return_exceptions=True)


async def test_work_goes_to_the_queue_it_belongs_to(place: Workplace) -> None:
    """Blocking tools to workers of `tools`, pinned ones to theirs, the rest stays with who thinks; Celery's own command
    line starts a worker too, from anywhere that names the project."""
    ticks = place.start_celery(
        *("worker", "-Q", "ticks", "-n", "ticks@%h", "-c", "8"),
        folder=place.folder.parent,
        env={"P2ENGINE_PROJECT": str(place.folder)},
    )
    tools, pinned = place.start("worker", "--queues", "tools"), place.start("worker", "--queues", "gpu")
    for process in (ticks, tools, pinned):
        process.until(READY)
    async with place.client() as engine:
        turn = asyncio.create_task(say(engine, "call hold"))
        assert await asyncio.to_thread(place.began) == tools.pid
        await asyncio.to_thread(place.go, "held")
        assert (await turn).text == f"I was told: held by {tools.pid}"
        assert (await say(engine, "call pinned")).text == f"I was told: {pinned.pid}"
        assert (await say(engine, "call whoami")).text == f"I was told: {ticks.pid}"
    ticks.signal(TERM)
    assert await asyncio.to_thread(ticks.wait) == 143
    assert any(ENDED in line for line in ticks.said)


async def test_a_call_waits_for_a_worker_that_has_its_tool(place: Workplace) -> None:
    """One without the project's code gives it back, says so once, and fails nothing."""
    bare = place.worker("--no-project-code")
    async with place.client() as engine:
        turn = asyncio.create_task(say(engine, "call whoami"))
        await asyncio.to_thread(bare.until, "waits for a process that has tool 'whoami'")
        full = await asyncio.to_thread(place.worker)
        assert (await turn).text == f"I was told: {full.pid}"
    assert sum("waits for a process that has tool 'whoami'" in line for line in bare.said) == 1


LACKS = "agent_alpha may use the tool whoami, which is not loaded here"


@pytest.mark.parametrize(
    ("ours", "told"),
    [
        ("", [LACKS, "has tool 'whoami'"]),
        (
            "import torch_of_another_host\n" + TOOLS,
            ["tools/ours.py:1: ModuleNotFoundError", LACKS, "has tool 'whoami'"],
        ),
        (TOOLS.replace("whoami()", "whoami(extra: str)"), ["tool 'whoami' with other arguments than here"]),
    ],
    ids=["no file", "a broken import", "another version"],
)
async def test_a_worker_whose_folder_differs_leaves_calls_to_others(
    place: Workplace, tmp_path: Path, ours: str, told: list[str]
) -> None:
    """It starts, says by name and once what it lacks and why, and gives the call to one that has the tool."""
    folder = tmp_path / "another host"
    shutil.copytree(place.folder / "config", folder / "config")
    if ours:
        (folder / "tools").mkdir()
        (folder / "tools/ours.py").write_text(ours)
    home = {"P2ENGINE_PROJECT": str(folder), "P2ENGINE_HOME": str(place.folder / ".p2engine")}
    other = place.start("worker", env=home).until(READY)
    async with place.client() as engine:
        turn = asyncio.create_task(say(engine, "call whoami"))
        await asyncio.to_thread(other.until, told[-1])
        full = await asyncio.to_thread(place.worker)
        assert (await turn).text == f"I was told: {full.pid}"
    for words in told:
        assert sum(words in line for line in other.said) == 1, other.said


@pytest.mark.parametrize("command", ["sweeper", "chat with agent_alpha -m hello"])
def test_who_is_no_worker_still_refuses_a_tool_that_it_lacks(place: Workplace, command: str) -> None:
    """In one line, with its place."""
    (place.folder / "tools/ours.py").unlink()
    process = place.start(*command.split())
    assert process.wait() == 2
    assert "agents.yml" in "".join(process.said)
    assert "no tool 'hold'" in "".join(process.said)


async def test_without_a_key_a_worker_says_why(place: Workplace, server: ValkeyServer) -> None:
    """The stand-in answers nothing on workers unless it was asked to: the log names the mends, the turn its error."""
    place.configure(server, "keyless")
    worker = place.start("worker").until("P2ENGINE_OFFLINE")
    worker.until(READY)
    async with place.client() as engine:
        reply = await say(engine, "hello")
    assert (reply.finished, reply.offline) == ("error", False)
    assert "no key for openai" in reply.detail
    told = next(line for line in worker.said if "P2ENGINE_OFFLINE" in line)
    assert "export OPENAI_API_KEY=" in told


async def test_the_sweeper_alone_feeds_the_sinks(place: Workplace, server: ValkeyServer) -> None:
    """A worker writes no event to a sink unless it is told to; the sweeper writes each once."""
    place.configure(server, "sinks", llm={"offline": "always"}, logging={"events_file": "events.jsonl"})
    worker, sweeper = place.start("worker", "--no-sweeper"), place.start("sweeper")
    worker.until(READY)
    sweeper.until(READY)
    async with place.client() as engine:
        assert (await say(engine, "hello")).finished == "answered"
    sweeper.signal(TERM)
    assert await asyncio.to_thread(sweeper.wait) == 143
    events = (place.folder / "logs/events.jsonl").read_text().splitlines()
    assert sum('"state.finished"' in line for line in events) == 1


def test_a_client_without_a_broker_is_told_in_one_line(place: Workplace) -> None:
    """Nobody there: what, and the mend."""
    port = free_port()
    away = refusal(place, "chat with agent_alpha -m hello", {"REDIS_PORT": str(port)})
    assert f"redis://127.0.0.1:{port}/0 cannot be reached" in away


@pytest.mark.parametrize("command", ["worker", "sweeper", "chat with agent_alpha -m hello"])
def test_a_broker_that_cannot_be_used_is_one_line(place: Workplace, command: str) -> None:
    """A wrong password: what, and the mend; no password is shown, and nothing is left running."""
    with ValkeyServer("--save", "", "--requirepass", "right") as locked:
        wrong = refusal(place, command, {"REDIS_PORT": str(locked.port), "REDIS_PASSWORD": "wrong-password"})
    assert "refuses the password" in wrong
    assert "wrong-password" not in wrong


@pytest.mark.parametrize("store", ["sqlite", "redis"])
@pytest.mark.parametrize("command", ["worker", "sweeper"])
def test_failure_35_who_serves_waits_for_a_server_that_is_away(place: Workplace, command: str, store: str) -> None:
    """It says what it waits for, in its log and to who asks whether it is ready, and goes on when that answers."""
    port, health = free_port(), free_port()
    away = {"REDIS_PORT": str(port), "P2ENGINE_STORE": store}
    process = place.start(command, "--health", str(health), env=away).until("waits: ")
    said = f"redis://127.0.0.1:{port}/0 cannot be reached"
    assert sum(said in line for line in process.said) == 1
    assert get(health, "livez")[0] == 200
    status, why = get(health, "readyz")
    assert status == 503
    assert said in why
    with ValkeyServer() as server:
        server.stop()
        server.start(port)
        process.until(READY)
        assert get(health, "readyz")[0] == 200
        process.signal(TERM)
        assert process.wait() == 143


def test_who_waits_for_a_server_may_be_asked_to_end(place: Workplace) -> None:
    """At once."""
    process = place.start("worker", env={"REDIS_PORT": str(free_port())}).until("waits: ")
    process.signal(TERM)
    assert process.wait() in (143, -TERM)


def refusal(place: Workplace, command: str, env: dict[str, str]) -> str:
    process = place.start(*command.split(), env=env)
    assert process.wait() == 1
    said = [line for line in process.said if not line.startswith("20")]  # the log, on the same stream
    assert said[0].startswith("error: ")
    assert len(said) <= 2, said
    return "".join(process.said)


def test_celery_itself_is_refused_what_cannot_be(place: Workplace, tmp_path: Path) -> None:
    """Without a project that has workers, on another pool, or for a queue that there is not: a line, and no worker."""
    nowhere = tmp_path / "elsewhere"
    (nowhere / "config").mkdir(parents=True)
    (nowhere / "config/config.json").write_text("{}")
    embedded = place.start_celery("worker", folder=nowhere)
    nameless = place.start_celery("worker", "-Q", "ticks,nosuch")
    others = [place.start_celery("worker", "-P", pool) for pool in ("solo", "prefork")]
    assert embedded.wait() == 2
    assert nameless.wait() == 2
    assert "".join(nameless.said).endswith("error: no queue 'nosuch'\n  there are ticks, tools, evals, rollouts, gpu\n")
    assert not any("Traceback" in line for line in nameless.said)
    assert any("dispatch is inline" in line for line in embedded.said)
    for other in others:
        assert other.wait() == 2
        assert any("leave -P away" in line for line in other.said)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--queues", "tickz"), "no queue 'tickz'"),
        (("--queues", ""), "--queues names none"),
        (("--queues", " , "), "--queues names none"),
        (("--health", "0"), "--health"),
    ],
)
def test_a_wrong_option_is_one_line(place: Workplace, arguments: tuple[str, ...], words: str) -> None:
    """And exit status 2."""
    process = place.start("worker", *arguments)
    assert process.wait() == 2
    assert words in "".join(process.said)


def test_a_worker_of_an_embedded_project_is_refused(place: Workplace) -> None:
    """With the line that changes it."""
    process = place.start("worker", env={"P2ENGINE_DISPATCH": "inline"})
    assert process.wait() == 2
    assert "P2ENGINE_DISPATCH=celery" in "".join(process.said)

"""A project whose effects run on workers: its folder, workers as processes of their own, and a client in this one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Self

from p2engine.domain.messages import ToolUse
from p2engine.testing.server import Answer, Reply, showcase
from p2engine.wiring import Engine
from tests.servers import ValkeyServer

PATIENCE_S = 40.0
READY = "ready"
AGENTS = """\
agents:
  - id: agent_alpha
    llm_model: openai/gpt-4o
    tools: [get_weather, delegate, hold, pay, pinned, whoami]
  - id: agent_helper
    llm_model: openai/gpt-4o
    tools: [get_weather]
"""
TOOLS = """\
import os
from pathlib import Path
from p2engine import function_tool

HERE = Path(__file__).parent.parent


def _hold() -> str:
    with (HERE / "began").open("a") as began:  # a pipe: whoever waits for this reads it
        began.write(f"{os.getpid()}\\n")
    return f"{(HERE / 'go').read_text().strip()} by {os.getpid()}"


@function_tool(side_effect_free=True, name="hold")
def hold() -> str:
    "Begin, and wait until somebody says how to go on."
    return _hold()


@function_tool
def pay() -> str:
    "The same, and it may not be repeated."
    return _hold()


@function_tool
def pinned() -> str:
    "Tell who runs this; only on a queue of its own."
    return str(os.getpid())


@function_tool
async def whoami() -> str:
    "Tell who runs this, without blocking."
    return str(os.getpid())
"""


def obedient(body: dict[str, Any]) -> Answer:
    """`call TOOL` is called; everything else as in the showcase."""
    last = body["messages"][-1]
    asked = re.match(r"call (\w+)", str(last.get("content") or "")) if last["role"] == "user" else None
    if asked is None:
        return showcase(body)
    return Reply(calls=(ToolUse(f"call_{len(body['messages'])}", asked[1], {}),))


def get(port: int, path: str) -> tuple[int, str]:
    """A probe's status and text."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Process:
    """A worker or sweeper that runs. What it says on standard error is in `said`."""

    def __init__(self, arguments: list[str], folder: Path, env: Mapping[str, str]) -> None:
        self.said: list[str] = []
        self._is_over = False
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            arguments,
            cwd=folder,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def until(self, words: str) -> Self:
        """Wait until it has said this."""
        with self._changed:
            self._changed.wait_for(lambda: self._has(words) or self._is_over, PATIENCE_S)
        assert self._has(words), f"waited for {words!r}:\n{''.join(self.said)}"
        return self

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Its exit status."""
        status = self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return status

    def kill(self) -> None:
        """At once, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _has(self, words: str) -> bool:
        return any(words in line for line in self.said)

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._changed:
                self.said.append(line)
                self._changed.notify_all()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()


class Workplace:
    """A project folder on a broker. Whoever is started here is killed at the end."""

    def __init__(self, folder: Path, server: ValkeyServer, prefix: str, base_url: str) -> None:
        self.folder = folder
        self._started: list[Process] = []
        self._began: list[str] = []
        self.write("config/agents.yml", AGENTS)
        self.write("tools/ours.py", TOOLS)
        self.configure(server, prefix, llm={"api_base": base_url})
        for pipe in ("began", "go"):
            os.mkfifo(folder / pipe)

    def configure(self, server: ValkeyServer, prefix: str, **more: Any) -> None:
        keys = {
            "dispatch": "celery",
            "redis": {"host": "127.0.0.1", "port": server.port, "prefix": prefix},
            "celery": {"queues": {"pinned": "gpu"}},
            "sqlite": {"synchronous": "normal"},
            **more,
        }
        self.write("config/config.json", json.dumps(keys))

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return {"PATH": os.defpath, "HOME": str(self.folder.parent), **(extra or {})}

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> Process:
        """`p2engine …` as a process."""
        return self._run([sys.executable, "-m", "p2engine", *arguments], self.folder, env)

    def start_celery(
        self, *arguments: str, folder: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Process:
        """`celery -A p2engine.worker …` as a process."""
        program = [sys.executable, "-m", "celery", "-A", "p2engine.worker", *arguments]
        return self._run(program, folder or self.folder, env)

    def worker(self, *arguments: str) -> Process:
        """A worker that is ready."""
        return self.start("worker", *arguments).until(READY)

    def client(self) -> AbstractAsyncContextManager[Engine]:
        """An engine that leaves all work to the workers."""
        return Engine.open(self.folder)

    def began(self) -> int:
        """Wait until `hold` or `pay` has begun. Returns the process it runs in."""
        if not self._began:  # two that write at once are read at once
            self._began += (self.folder / "began").read_text().split()
        return int(self._began.pop(0))

    def go(self, words: str) -> None:
        """Let the tool that waits go on."""
        (self.folder / "go").write_text(words)

    def close(self) -> None:
        for process in self._started:
            process.kill()

    def _run(self, program: list[str], folder: Path, env: Mapping[str, str] | None) -> Process:
        process = Process(program, folder, self.environment(env))
        self._started.append(process)
        return process


TERM, INT, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGKILL

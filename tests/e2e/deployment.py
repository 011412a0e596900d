"""One project in one mode: its folder, the command line in it, and the processes that it needs beside them."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pexpect

from p2engine.settings import Settings
from p2engine.testing.server import OpenAIServer
from p2engine.wiring import Engine
from tests.cli.project import Project, Ran
from tests.e2e.model import Model
from tests.servers import ValkeyServer

PATIENCE_S = 60.0
AGENTS = """\
agents:
  - id: agent_alpha
    llm_model: openai/gpt-4o
    tools: [get_weather, delegate, check_balance, transfer_funds, transaction_history, reward_agent]
  - id: agent_helper
    llm_model: openai/gpt-4o
    tools: [get_weather]
  - id: agent_beta
    llm_model: openai/gpt-4o
    tools: [check_balance, transfer_funds, transaction_history]
  - id: treasurer
    llm_model: openai/gpt-4o
    tools: [check_balance, transfer_funds, transaction_history]
    wallet: {initial: 1000}
  - id: child
    llm_model: openai/gpt-4o
    tools: [check_balance]
  - id: talker
    llm_model: local/model
    tools: [add, whereabouts, once, transfer_funds]
    wallet: {initial: 1000}
  - id: keeper
    type: rule
    tools: [save_artifact, read_artifact]
    rules:
      - regex: "^save (\\\\S+) (.*)"
        tool: save_artifact
        arguments: {name: "{{ groups[0] }}", content: "{{ groups[1] }}"}
      - regex: "^read (\\\\S+)"
        tool: read_artifact
        arguments: {name: "{{ groups[0] }}"}
    default: "I heard: {{ message }}"
"""
TOOLS = '''\
"""Tools that may block, tools that do not, and one that must not run twice."""

import os
from p2engine import function_tool


@function_tool(side_effect_free=True)
def add(numbers: list[int]) -> int:
    """Add whole numbers."""
    return sum(numbers)


@function_tool(side_effect_free=True)
async def whereabouts() -> int:
    """The process that this runs in."""
    return os.getpid()


@function_tool
def once() -> str:
    """Something with a side effect."""
    return "done"
'''


class Beside:
    """A worker or a sweeper. Its log file tells when it is ready; it ends with `end`."""

    def __init__(self, project: Project, environment: Mapping[str, str], *words: str) -> None:
        self._process = project.process(*words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self._said: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.words = " ".join(words)

    @property
    def pid(self) -> int:
        return self._process.pid

    def until_ready(self) -> None:
        assert self._ready.wait(PATIENCE_S), f"{self.words}: not ready"
        assert self._process.poll() is None, "".join(self._said)

    def end(self) -> None:
        self._process.terminate()
        try:
            status = self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        finally:
            self._reader.join(PATIENCE_S)
            assert self._process.stderr is not None
            self._process.stderr.close()
        assert status == 143, "".join(self._said)

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line)
            if "ready" in line:
                self._ready.set()
        self._ready.set()


class Deployment:
    """A project in one mode. Conversations of different tests live beside each other in it.

    model: who answers `talker`. The other agents are answered by the offline stand-in or by rules.
    """

    def __init__(self, mode: str, folder: Path) -> None:
        self.mode = mode
        self.model = Model()
        self.project = Project(folder)
        self._served = OpenAIServer(self.model)
        self._redis: ValkeyServer | None = None
        self._beside: list[Beside] = []
        self.environment: dict[str, str] = {"LEDGER_ENABLED": "true"}

    @property
    def is_distributed(self) -> bool:
        return self.mode == "distributed"

    @property
    def worker_pids(self) -> set[int]:
        return {beside.pid for beside in self._beside}

    def up(self) -> None:
        """Everything that this mode needs; returns when it takes work."""
        self._served.__enter__()
        self.project.write("config/agents.yml", AGENTS)
        self.project.write("tools/ours.py", TOOLS)
        llm = {"api_base": self._served.base_url, "models": {"default_model": "local/model"}}
        self.project.configure(llm=llm, sqlite={"synchronous": "normal"})
        if not self.is_distributed:
            return
        self._redis = ValkeyServer().start()
        self.environment |= {
            "P2ENGINE_STORE": "redis",
            "P2ENGINE_DISPATCH": "celery",
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(self._redis.port),
        }
        stand_in = {**self.environment, "P2ENGINE_OFFLINE": "auto"}
        self._beside = [Beside(self.project, stand_in, *words) for words in (("worker", "--no-sweeper"), ("sweeper",))]
        for beside in self._beside:
            beside.until_ready()

    def down(self) -> None:
        """End what was started. Fails where something does not end as it should."""
        self.model.open_all()
        try:
            for beside in self._beside:
                beside.end()
        finally:
            self._served.__exit__(None, None, None)
            if self._redis is not None:
                self._redis.remove()

    def prompts(self) -> list[str]:
        """The last message of every request that the model server has had."""
        return [str(each.body["messages"][-1].get("content") or "") for each in tuple(self._served.requests)]

    def cli(self, *arguments: str, input: str = "") -> Ran:  # noqa: A002
        """Run a command line to its end, as a process."""
        return self.project.run(*arguments, input=input, env=self.environment)

    def process(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command line as a process, with pipes."""
        return self.project.process(*arguments, env=self.environment)

    def terminal(self, *arguments: str) -> pexpect.spawn[str]:
        """Start a command line on a terminal of its own."""
        return self.project.terminal(*arguments, env=self.environment)

    def engine(self, **more: Any) -> AbstractAsyncContextManager[Engine]:
        """The Python side, in this process."""
        environ = {"PATH": os.defpath, **self.environment}
        return Engine.open(settings=Settings.load(project=self.project.folder, environ=environ), **more)

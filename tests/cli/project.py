"""A project in a temporary folder, and the command line in it: as a process with pipes, or on a terminal."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pexpect

PROGRAM = (sys.executable, "-m", "p2engine")
AGENTS = """\
agents:
  - id: agent_alpha
    llm_model: openai/gpt-4o
    tools: [get_weather, delegate, check_balance]
  - id: agent_helper
    llm_model: openai/gpt-4o
    tools: [get_weather]
"""
TIMEOUT_S = 60


class Ran(NamedTuple):
    """What a command line came to."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output as one JSON document."""
        return json.loads(self.out)

    @property
    def rows(self) -> list[Any]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Ran]


class Project:
    """A project folder whose files a test may write, and the command line in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("config/agents.yml", AGENTS)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def configure(self, **keys: Any) -> None:
        """Write `config/config.json`."""
        self.write("config/config.json", json.dumps(keys))

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """As on a fresh machine."""
        return {"PATH": os.defpath, "HOME": str(self.folder.parent), "TERM": "xterm", **(extra or {})}

    def process(self, *arguments: str, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        """Start a process of its own, with pipes."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(
            [*PROGRAM, *arguments], cwd=self.folder, env=self.environment(env), text=True, encoding="utf-8", **pipes
        )

    def run(self, *arguments: str, input: str = "", env: Mapping[str, str] | None = None) -> Ran:  # noqa: A002
        """Run to the end in a process of its own."""
        with self.process(*arguments, env=env) as process:
            try:
                out, err = process.communicate(input, timeout=TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Ran(process.returncode, out, err)

    def terminal(self, *arguments: str, env: Mapping[str, str] | None = None) -> pexpect.spawn[str]:
        """Start on a terminal of its own. It says how the terminal was left, and the exit status, at the end."""
        line = f"trap : INT; stty -a > before; {shlex.join([*PROGRAM, *arguments])}; echo status=$?; stty -a > after"
        return pexpect.spawn(
            "/bin/sh",
            ["-c", line],
            cwd=str(self.folder),
            env=self.environment({"PROMPT_TOOLKIT_NO_CPR": "1", **(env or {})}),
            encoding="utf-8",
            timeout=TIMEOUT_S,
            dimensions=(40, 120),
        )

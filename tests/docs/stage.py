"""Runs what a page shows: its files are written, its Python is executed, its commands are typed."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from p2engine.cli.main import execute
from tests.docs.pages import ROOT, Block, first_difference

TIMEOUT_S = 100
SILENT = {"mermaid"}  # pictures
PROGRAMS = {
    "p2engine": (sys.executable, "-m", "p2engine"),
    "./scripts/run_project.sh": (sys.executable, "-m", "p2engine"),  # tested by itself, in tests/house
    "p2engine-sim": (sys.executable, "-m", "p2engine.testing.simulate"),
    "python": (sys.executable,),
    "cat": ("cat",),
}
NOT_HERE = ("git clone ", "cd p2engine", "./scripts/test.sh", "pip install ")  # about a machine, not about a project
_PROMPT = re.compile(r"(?:p2engine▸|You:) ?(.*)")
_SETTING = re.compile(r"[A-Z][A-Z0-9_]*=\S*")


class Typed(NamedTuple):
    """A command line, what is typed into it, and what is shown of its output."""

    line: str
    typed: tuple[str, ...]
    shown: str


class Stage:
    """A project of its own for one page. `names` holds what its Python has defined so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, Any] = {"__name__": "__example__"}
        self._printed: str | None = None  # by the Python block just before
        for part in ("config", "templates"):
            shutil.copytree(ROOT / part, folder / part)

    def play(self, block: Block) -> None:
        """Do what a block shows. Fails where something else comes of it."""
        printed, self._printed = self._printed, None
        match block.language:
            case _ if block.title:
                self._write(block, block.title)
            case "yaml" if block.text.startswith("agents:"):
                self._write(block, "config/agents.yml")
            case "python":
                self._printed = self._execute(block)
            case "console":
                for typed in commands(block.text):
                    self._type(typed)
            case "toml":
                tomllib.loads(block.text)
            case "text":
                difference = "" if printed is None else first_difference(block.text, printed)
                assert not difference, f"line {block.line}: {difference}"
            case language if language not in SILENT:
                raise AssertionError(f"line {block.line}: nobody knows how to run a block of {language or 'nothing'}")

    def _write(self, block: Block, name: str) -> None:
        """A file of the project: afterwards the whole project must still be right."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text + "\n", encoding="utf-8")
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            status = execute(["config", "check"])
        assert status == 0, f"line {block.line}: {name}: {said.getvalue()}"

    def _execute(self, block: Block) -> str:
        """Run Python, `await` and `async with` at the top included. Returns what it printed."""
        source = "\n" * block.line + block.text
        code = compile(source, "<example>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            running = eval(code, self.names)
            if inspect.iscoroutine(running):
                asyncio.run(running)
        return printed.getvalue()

    def _type(self, typed: Typed) -> None:
        if typed.line.startswith(NOT_HERE):
            assert all((ROOT / word).exists() for word in typed.line.split() if word.startswith("./"))
            return
        words = shlex.split(typed.line)
        settings = dict(word.split("=", 1) for word in _leading_settings(words))
        program, *arguments = words[len(settings) :]
        if program.endswith("run_project.sh"):
            arguments = arguments or ["shell"]
        assert program in PROGRAMS, f"no page may show the program {program!r}: nobody runs it"
        done = subprocess.run(
            [*PROGRAMS[program], *arguments],
            cwd=self.folder,
            env={**os.environ, **settings, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"},
            input="".join(f"{line}\n" for line in typed.typed),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=TIMEOUT_S,
            check=False,
        )
        fails = typed.shown.startswith(("error:", '{"error"', '{\n  "error"'))
        assert (done.returncode != 0) == fails, f"{typed.line}: status {done.returncode}\n{done.stdout}"
        difference = first_difference(typed.shown, done.stdout) if typed.shown else ""
        assert not difference, f"{typed.line}\n{difference}"


def commands(text: str) -> Iterator[Typed]:
    """The command lines of a console block: `$ …`, continued by a backslash, with what is typed and shown below."""
    line = ""
    typed: list[str] = []
    shown: list[str] = []
    for each in text.splitlines():
        if line.endswith("\\") and not typed and not shown:
            line = f"{line[:-1].rstrip()} {each.strip()}"
        elif each.startswith("$ "):
            if line:
                yield Typed(line, tuple(typed), "\n".join(shown))
            line, typed, shown = each[2:], [], []
        elif prompted := _PROMPT.fullmatch(each):
            typed.append(prompted[1])
        else:
            shown.append(each)
    assert line, "a console block shows at least one command line: `$ …`"
    yield Typed(line, tuple(typed), "\n".join(shown))


def _leading_settings(words: Sequence[str]) -> Iterator[str]:
    for word in words:
        if not _SETTING.fullmatch(word):
            return
        yield word

"""A project of its own for every test of the command line."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from p2engine.cli.main import execute
from tests.cli.project import Project, Ran, Run


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project folder with two agents."""
    folder = tmp_path / "project"
    folder.mkdir()
    return Project(folder)


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process: the fast way."""
    monkeypatch.chdir(project.folder)

    def run(*arguments: str, input: str = "") -> Ran:  # noqa: A002
        monkeypatch.setattr(sys, "stdin", io.StringIO(input))
        capsys.readouterr()
        status = execute(arguments)
        return Ran(status, *capsys.readouterr())

    return run

"""The `deployment` of a test: the same project embedded in one process, and spread over several."""

from __future__ import annotations

import io
import sys
import uuid
from collections.abc import Iterator

import pytest

from p2engine.cli.main import execute
from tests.cli.project import Ran, Run
from tests.e2e.deployment import Deployment

MODES = ("embedded", "distributed")


def _deployed(mode: str, factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    deployed = Deployment(mode, factory.mktemp(mode))
    try:
        deployed.up()
        yield deployed
    finally:
        deployed.down()


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One process with one file, as it is by itself."""
    yield from _deployed("embedded", tmp_path_factory)


@pytest.fixture(scope="session")
def distributed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A Redis of its own, a worker of every queue and a sweeper, for as long as the tests of this process run."""
    yield from _deployed("distributed", tmp_path_factory)


@pytest.fixture(params=MODES)
def deployment(request: pytest.FixtureRequest) -> Deployment:
    """Both modes, one after the other: whatever takes this is tested in both."""
    deployed: Deployment = request.getfixturevalue(request.param)
    return deployed


@pytest.fixture
def name() -> str:
    """Of a conversation that no other test has."""
    return f"talk-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def here(deployment: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line of the deployment in this process: the fast way to look."""
    monkeypatch.chdir(deployment.project.folder)
    for variable, value in deployment.environment.items():
        monkeypatch.setenv(variable, value)

    def run(*arguments: str, input: str = "") -> Ran:  # noqa: A002
        monkeypatch.setattr(sys, "stdin", io.StringIO(input))
        capsys.readouterr()
        status = execute(arguments)
        return Ran(status, *capsys.readouterr())

    return run

"""Rollouts that another machine runs: two state folders on one Redis stand for two machines."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from p2engine.rollouts import journal
from p2engine.rollouts.journal import Options, Rollout
from p2engine.wiring import Engine, experiments, runners
from tests.cli.project import Project
from tests.cli.rollouts import with_rollouts
from tests.servers import ValkeyServer


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    """Of this module's own."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def shared(tmp_path: Path, valkey: ValkeyServer) -> Project:
    """A project whose store is a Redis that all machines see."""
    project = Project(tmp_path / "project")
    with_rollouts(project)
    prefix = f"e2e{uuid.uuid4().hex[:8]}"
    redis = {"host": "127.0.0.1", "port": valkey.port, "prefix": prefix}
    project.write("config/config.json", json.dumps({"store": "redis", "redis": redis, "ledger": {"enabled": False}}))
    return project


@asynccontextmanager
async def running(project: Project, home: Path, rollout: Rollout | None = None) -> AsyncIterator[Rollout]:
    """While inside, a machine with that state folder runs a rollout; at the end it is gone, and the rollout is not."""
    async with Engine.open(project.folder, home=home, work=False) as engine:
        if rollout is None:
            spec = experiments.read(engine, project.folder / "config" / "rules.yml")
            rollout = await experiments.begin(engine, spec, Options())
        with runners.hold(home, rollout.id):
            await journal.take(engine.world, rollout, runners.place(home))
            yield rollout


async def listed(project: Project, home: Path, rollout: Rollout) -> str:
    """What the machine with that state folder says of it."""
    async with Engine.open(project.folder, home=home, work=False) as engine:
        return experiments.status(engine, await journal.find(engine.world, rollout.id))


async def test_what_another_machine_left_is_interrupted(shared: Project, tmp_path: Path) -> None:
    """Running as long as that one lives, interrupted afterwards; whoever resumes it finishes it, and all know."""
    here, there = tmp_path / "here", tmp_path / "there"
    async with running(shared, there) as rollout:
        assert await listed(shared, here, rollout) == "running"
        assert await listed(shared, there, rollout) == "running"
    assert await listed(shared, here, rollout) == "interrupted"
    assert await listed(shared, there, rollout) == "interrupted"

    async with Engine.open(shared.folder, home=here) as engine:
        with runners.hold(here, rollout.id) as held:
            await experiments.run(engine, await journal.find(engine.world, rollout.id), held=held)
        assert (await journal.find(engine.world, rollout.id)).place == runners.place(here)
    assert await listed(shared, here, rollout) == "finished"
    assert await listed(shared, there, rollout) == "finished"


async def test_what_another_machine_took_over_is_running(shared: Project, tmp_path: Path) -> None:
    """Also where this one ran it before, and was cut off."""
    here, there = tmp_path / "here", tmp_path / "there"
    async with running(shared, here) as rollout:
        pass
    async with running(shared, there, rollout):
        assert await listed(shared, here, rollout) == "running"
    assert await listed(shared, here, rollout) == "interrupted"


async def test_what_nobody_took_yet_is_running(shared: Project, tmp_path: Path) -> None:
    """Between its start and its runner nothing is known, and nothing is claimed."""
    async with Engine.open(shared.folder, home=tmp_path / "there", work=False) as engine:
        spec = experiments.read(engine, shared.folder / "config" / "rules.yml")
        rollout = await experiments.begin(engine, spec, Options())
    assert await listed(shared, tmp_path / "here", rollout) == "running"

"""A broker, a model and projects for the tests of this folder."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2engine.testing.server import OpenAIServer
from tests.dispatch.workplace import Workplace, obedient
from tests.servers import ValkeyServer


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """A server that the tests of one module share, each under a prefix of its own."""
    with ValkeyServer("--save", "") as started:
        yield started


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    """The address of a model that calls the tools it is told to."""
    with OpenAIServer(obedient) as started:
        yield started.base_url


@pytest.fixture
def place(tmp_path: Path, server: ValkeyServer, model: str) -> Iterator[Workplace]:
    """A project of one test, with no worker yet."""
    workplace = Workplace(tmp_path, server, uuid.uuid4().hex, model)
    yield workplace
    workplace.close()

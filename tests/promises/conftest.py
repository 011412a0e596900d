"""What the tests of promises start from: engines on one real file, and the command line in a project of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.conftest import here, project
from tests.runtime.conftest import Stage

__all__ = ["here", "project"]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = await Stage.open(tmp_path / "store.db")
    yield stage
    await stage.aclose()

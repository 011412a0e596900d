"""Real processes for the tests of this folder; whatever a test does, each is ended and reaped."""

import sys
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.crash.actor import Actor, Start
from tests.crash.nursery import Nursery


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts an Actor."""
    actors: list[Actor] = []

    async def start(*arguments: object, **options: object) -> Actor:
        actors.append(await Actor.start(*arguments, **options))  # type: ignore[arg-type]
        return actors[-1]

    yield start
    for actor in actors:
        await actor.aclose()
        sys.stderr.write(await actor.complains())  # shown where the test failed

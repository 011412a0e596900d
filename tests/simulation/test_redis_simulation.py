"""Seeded disorder over the shared store, on a real server: the same invariants hold."""

from collections.abc import Iterator

import pytest

from p2engine.testing.simulate import simulate
from tests.servers import ValkeyServer
from tests.simulation.redis_place import on


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer("--save", "", "--appendonly", "no") as server:
        yield server


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_every_invariant_holds_under_disorder(valkey: ValkeyServer, first: int) -> None:
    """Jobs lost, doubled and reordered, processes killed at any call: each effect is settled once, nothing is owed."""
    for seed in range(first, first + 10):
        seen = simulate(seed, place=on(valkey))
        assert not seen.problems, f"seed {seed}: {seen.problems}"


def test_the_same_seed_gives_the_same_log_in_either_store(valkey: ValkeyServer) -> None:
    """A script and a seed say what happens; which store keeps it makes no difference."""
    for seed in range(8):
        assert simulate(seed, place=on(valkey, laconic=True)).log == simulate(seed).log

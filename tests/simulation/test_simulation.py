"""Seeded disorder: the invariants hold, the same seed repeats itself, and faults put in by hand are found."""

from collections.abc import Callable
from typing import Any

import pytest

from p2engine.domain.draft import Draft
from p2engine.domain.effects import Return
from p2engine.runtime import perform
from p2engine.stores.sqlite import SqliteStore
from p2engine.testing import simulate
from p2engine.testing.simulate import CALM, CHAOS
from p2engine.testing.simulate import simulate as run

SEEDS = 200


@pytest.mark.parametrize("first", range(0, SEEDS, 25))
def test_every_invariant_holds_under_disorder(first: int) -> None:
    """Jobs lost, doubled and reordered, processes killed at any call: each effect is settled once, nothing is owed."""
    for seed in range(first, first + 25):
        seen = run(seed)
        assert not seen.problems, f"p2engine-sim --seed {seed}: {seen.problems}"


def test_the_disorder_is_real() -> None:
    """Over the seeds processes die, effects run more than once, outcomes come late, and calls are interrupted."""
    logs = [run(seed) for seed in range(60)]
    text = "\n".join(line for seen in logs for line in seen.log)
    assert sum(seen.kills for seen in logs) > 60
    assert any(times > 1 for seen in logs for times in seen.performs.values())
    assert "effect.late" in text
    assert '"interrupted"' in text
    assert '"reason":"cancelled"' in text
    assert "agent_result" in text


def test_the_same_seed_gives_the_same_log() -> None:
    """A failing run is one integer."""
    assert [run(seed).log for seed in range(5)] == [run(seed).log for seed in range(5)]


def test_a_calm_world_runs_everything_once() -> None:
    """Without disorder no effect runs twice and nobody dies."""
    for seed in range(20):
        seen = run(seed, CALM)
        assert not seen.problems
        assert seen.kills == 0
        assert set(seen.performs.values()) <= {1}


def test_seam_01_nothing_times_out_that_was_not_slow() -> None:
    """However long a job lies in the queue, no wait times out: time counts from an attempt's start."""
    for seed in range(20):
        assert not any('"timeout"' in line for line in run(seed).log)


async def _claim_anything(self: SqliteStore, effect: Any, owner: Any, *, since: int = 0) -> Any:
    from functools import partial

    from p2engine.stores import sqlite_owed
    from p2engine.stores.owners import MemoryOwners

    take = partial(sqlite_owed.take, effect=effect, owner=owner, owners=MemoryOwners(), since=since)
    return await self._writer.run(take)


def _break_claims(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SqliteStore, "claim", _claim_anything)


def _break_returns(patch: pytest.MonkeyPatch) -> None:
    real = Draft.step

    def step(self: Any) -> Any:
        self.effects = [effect for effect in self.effects if not isinstance(effect, Return)]
        return real(self)

    patch.setattr(Draft, "step", step)


def _break_sweep(patch: pytest.MonkeyPatch) -> None:
    async def due(self: SqliteStore, *, limit: int) -> Any:
        return []

    patch.setattr(SqliteStore, "due", due)


def _break_interruption(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(perform, "_spoiled", lambda claimed: None)


def _break_cancel(patch: pytest.MonkeyPatch) -> None:
    async def nothing(effect: Any, world: Any) -> Any:
        return ()

    patch.setattr(perform, "_cancel", nothing)


@pytest.mark.parametrize(
    "fault", [_break_claims, _break_returns, _break_sweep, _break_interruption, _break_cancel], ids=lambda f: f.__name__
)
def test_a_fault_put_in_by_hand_is_found(fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: Any) -> None:
    """Ignored ownership, a lost Return, no sweep, a repeated payment, a cancel that reaches nobody: all are seen."""
    monkeypatch.setattr(simulate, "STEPS_MAX", 30)
    fault(monkeypatch)
    assert any(run(seed, CHAOS).problems for seed in range(60))


def test_the_command_names_the_seed_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`p2engine-sim` exits 1 and prints how to run the failing seed again; 0 when all hold."""
    assert simulate.main(["--count", "3"]) == 0
    _break_sweep(monkeypatch)
    monkeypatch.setattr(simulate, "STEPS_MAX", 30)
    assert simulate.main(["--count", "40"]) == 1
    assert "p2engine-sim --seed" in capsys.readouterr().out

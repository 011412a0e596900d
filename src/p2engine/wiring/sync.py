"""The engine of a project for code without `async`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2engine.runtime.sync import SyncEngine as Core

if TYPE_CHECKING:
    from p2engine.rollouts.report import Report


class SyncEngine(Core):
    """An Engine whose calls return their results; a context manager. See Engine for what each does and raises."""

    def rollout(self, file: Path | str, **options: Any) -> "Report":
        """Run the rollout of a file to its end, and report on it. options: as of `Engine.rollout`."""
        report: Report = self._run(self._inner.rollout(file, **options))  # type: ignore[attr-defined]
        return report

"""The example on BFCL where its package is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "bfcl"


def test_it_says_what_to_install(tmp_path: Path) -> None:
    """Without the package: status 1, the line that installs it, and nothing is written."""
    bare = [sys.executable, "-S", str(EXAMPLE / "run.py")]  # -S: as if nothing were installed
    ran = subprocess.run(
        [*bare, "--project", str(tmp_path / "project")], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 1
    assert "needs bfcl-eval" in ran.stderr
    assert "pip install --no-deps bfcl-eval==2026.3.23 mpmath" in ran.stderr
    assert not (tmp_path / "project").exists()

"""The floors of the house: an import only ever points down. The contracts stand in pyproject.toml."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "p2engine"
CONTRACTS: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]
# Outside the floors: the door of the package, and the kit that nothing in the house may lean on.
OUTSIDE = {"__init__", "__main__", "testing"}


def lint_imports(source: Path) -> subprocess.CompletedProcess[str]:
    """Runs the contracts against the package below `source`, which hides the installed one."""
    return subprocess.run(
        [
            Path(sys.executable).with_name("lint-imports"),
            "--no-logo",
            "--no-cache",
            "--config",
            ROOT / "pyproject.toml",
        ],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_point_down() -> None:
    """No contract is broken; what is printed names each import that breaks one."""
    done = lint_imports(ROOT / "src")
    assert done.returncode == 0, f"\n{done.stdout}{done.stderr}"


def test_every_module_stands_on_a_floor() -> None:
    """Each module or package right below p2engine is named in the layers, so none escapes the contracts."""
    layers = next(contract["layers"] for contract in CONTRACTS if contract["name"] == "floors")
    named = {name.strip().removeprefix("p2engine.") for layer in layers for name in re.split("[|:]", layer)}
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there - OUTSIDE - named == set(), "stand on no floor"
    assert named - there == set(), "named as a floor, and not there"


@pytest.mark.parametrize(
    ("where", "line", "contract"),
    [
        ("domain/__init__.py", "import p2engine.ports", "floors"),
        ("stores/__init__.py", "import p2engine.runtime", "drivers know ports, not the engine"),
        ("domain/__init__.py", "import time", "the ground floor touches no world"),
        ("runtime/__init__.py", "import celery", "Celery and Redis stay with their drivers"),
        ("runtime/__init__.py", "import p2engine.testing", "nothing in the house leans on its test kit"),
    ],
)
def test_a_contract_bites(tmp_path: Path, where: str, line: str, contract: str) -> None:
    """An import that points up is refused, and the contract it breaks is named."""
    shutil.copytree(PACKAGE, tmp_path / "p2engine", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "p2engine" / where).open("a") as module:
        module.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, f"\n{done.stdout}{done.stderr}"
    assert f"{contract} BROKEN" in done.stdout

"""What hints tell people to type: the command that works where they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.project import TIMEOUT_S, Project

STARTER = f"#!{sys.executable}\nfrom p2engine.cli.main import run\nrun()\n"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder like a clone: the program in .venv/bin, and the script that starts it."""
    folder = tmp_path / "a clone"
    for name, text in ((".venv/bin/p2engine", STARTER), ("scripts/run_project.sh", "#!/bin/sh\n")):
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(0o755)
    return folder


def hinted(program: str, folder: Path, project: Project, path: str = os.defpath) -> str:
    """The hint of a wrong command line."""
    env = {**project.environment(), "PATH": path}
    done = subprocess.run(
        [program, "chat", "resume", "nobody"], cwd=folder, env=env, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 2, done.stderr
    return done.stderr.splitlines()[-1].strip()


def test_a_clone_is_started_by_its_script(clone: Path, project: Project) -> None:
    """Not on the PATH and started by its full path, as the script does: the script, from where one is."""
    program = str(clone / ".venv/bin/p2engine")

    assert hinted(program, clone, project) == "./scripts/run_project.sh conversation list shows what there is"
    elsewhere = hinted(program, project.folder, project)
    assert elsewhere == f"'{clone}/scripts/run_project.sh' conversation list shows what there is"


def test_what_was_typed_works_again(clone: Path, project: Project) -> None:
    """A path from the working folder is named as it was typed, also where there is a script."""
    assert hinted(".venv/bin/p2engine", clone, project).startswith("./.venv/bin/p2engine conversation list")


def test_on_the_path_it_is_p2engine(clone: Path, project: Project) -> None:
    """Found under its name: that. Where the PATH holds another of that name, not."""
    folder = str(clone / ".venv/bin")
    other = project.write("bin/p2engine", "#!/bin/sh\n")
    other.chmod(0o755)

    for path, expected in ((folder, "p2engine"), (f"{other.parent}:{folder}", "'"), (os.defpath, "'")):
        said = hinted(f"{folder}/p2engine", project.folder, project, f"{path}:{os.defpath}")
        assert said.startswith(f"{expected}"), path


def test_in_the_shell_a_line_begins_with_p2engine(clone: Path, project: Project) -> None:
    """Within the shell hints hold for the shell, and what was copied from outside may be pasted there."""
    lines = "chat resume nobody\n./scripts/run_project.sh agent list --json\n"
    done = subprocess.run(
        [str(clone / ".venv/bin/p2engine"), "shell"],
        cwd=clone,
        env=project.environment(),
        input=lines,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )

    assert "  p2engine conversation list shows what there is" in done.stderr
    assert '"id": "agent_alpha"' in done.stdout

"""How `.venv` is made: one install at a time, half-made ones thrown away, whole ones left alone."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "install.py"


def _loaded() -> Any:
    """install.py as a module; it belongs to no package."""
    spec = importlib.util.spec_from_file_location("install", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


install = _loaded()


@pytest.fixture
def environment(tmp_path: Path) -> Any:
    """An environment that is not made yet."""
    return install.Environment(root=tmp_path, group="run", inputs="checksum")


@pytest.fixture
def made(environment: Any) -> Any:
    """A real environment without packages, as another tool might have left it: no stamp."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment.folder], check=True)
    return environment


def holder(lock: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock until its stdin ends, and says when it has it."""
    program = (
        "import sys; from pathlib import Path; import install\n"
        "with install.alone(Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, lock],
        env={"PYTHONPATH": str(SCRIPT.parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line_of(stream: Any) -> str:
    """The next line that a process prints."""
    return str(stream.readline()).strip()


def test_two_installs_take_turns(tmp_path: Path) -> None:
    """The second install says that it waits, and begins when the first has ended."""
    lock = tmp_path / "lock"
    with holder(lock) as first:
        assert line_of(first.stdout) == "held"
        with holder(lock) as second:
            assert line_of(second.stderr) == "p2engine: another run is installing: waiting for it"
            first.communicate()
            assert line_of(second.stdout) == "held"
            second.communicate()


def test_a_killed_install_leaves_no_lock(tmp_path: Path) -> None:
    """After kill -9 of an install the next one begins at once: the lock is the kernel's, not a file that stays."""
    with holder(tmp_path / "lock") as process:
        assert line_of(process.stdout) == "held"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with install.alone(tmp_path / "lock"):
            pass


def test_an_unfinished_environment_is_thrown_away(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What an install left that did not finish is not mended but made anew, and that is said."""
    install.clear_the_ground(made, unfinished=True)
    assert not made.folder.exists()
    assert capsys.readouterr().err == "p2engine: making .venv anew: the last install did not finish\n"


def test_a_working_environment_is_kept(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """An environment made by hand, or by an older lock, is mended in place; its stamps go until it is whole again."""
    made.stamp("test").write_text(f"another checksum\n{made.root}\n{made.version()}\n")
    install.clear_the_ground(made, unfinished=False)
    assert made.python.exists()
    assert not made.stamp("test").exists()
    assert capsys.readouterr().err == ""


def test_a_moved_environment_is_thrown_away(made: Any) -> None:
    """A stamp with another path says that the programs in the environment name a Python that is gone."""
    made.stamp("run").write_text(f"checksum\n/elsewhere\n{made.version()}\n")
    install.clear_the_ground(made, unfinished=False)
    assert not made.folder.exists()


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_no_environment_gives_way(environment: Any, tmp_path: Path, kind: str) -> None:
    """An empty folder, a file or a dead link called .venv does not stop an install; a link's target is left alone."""
    (tmp_path / "target").mkdir()
    match kind:
        case "folder":
            environment.folder.mkdir()
        case "file":
            environment.folder.touch()
        case _:
            environment.folder.symlink_to(tmp_path / "target")
    install.clear_the_ground(environment, unfinished=False)
    assert not environment.folder.exists()
    assert (tmp_path / "target").exists()


def test_a_whole_environment_is_left_alone(made: Any) -> None:
    """The run that waited for another finds everything done, and does nothing."""
    made.stamp("run").write_text(made.stamped())
    install.ensure(made)
    assert made.stamp("run").read_text() == made.stamped()


def test_what_is_in_one_group_is_in_those_that_have_it(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests have what a distributed run needs: after their install neither of the others installs anything."""
    monkeypatch.setattr(install, "install", lambda *_: None)
    install.ensure(dataclasses.replace(made, group="test"))
    assert all(dataclasses.replace(made, group=group).is_whole() for group in install.REQUIREMENTS)
    install.clear_the_ground(made, unfinished=False)
    install.ensure(dataclasses.replace(made, group="distributed"))
    whole = [group for group in install.REQUIREMENTS if dataclasses.replace(made, group=group).is_whole()]
    assert whole == ["run", "distributed"]


def test_a_failing_tool_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """Where venv, pip or uv fails, the status is 1 and the last line says so; the next run begins anew."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(
        install, "base_python", lambda: "/usr/bin/false" if Path("/usr/bin/false").exists() else "false"
    )
    assert install.main(str(tmp_path), "run", "checksum") == 1
    assert capfd.readouterr().err.splitlines()[-1].startswith("p2engine: false ended with status 1")
    assert (tmp_path / ".venv.lock").read_text() == "installing\n"


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing can be written, the status is 1 and the line says what and why."""
    assert install.main(str(tmp_path / "nowhere"), "run", "checksum") == 1
    assert capsys.readouterr().err.startswith("p2engine: cannot make .venv: ")

"""Makes or mends `.venv` from uv.lock: with uv where it is on PATH, elsewhere with venv and pip.

Runs before anything is installed, on a bare Python 3.11: standard library only, and no word about what it installs.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

OLDEST_PYTHON = (3, 11)
REQUIREMENTS = {
    "run": ("requirements.txt",),
    "distributed": ("requirements.txt", "requirements-local.txt"),
    "test": ("requirements.txt", "requirements-test.txt"),
}
COVERS = {"run": ("run",), "distributed": ("run", "distributed"), "test": ("run", "distributed", "test")}
LEARN = ("--extra", "learn")  # the statistics of rollouts: a clone is a project that has some
UV_GROUPS = {"run": LEARN, "distributed": (*LEARN, "--group", "local"), "test": (*LEARN, "--group", "test")}
# Each would send an install somewhere else than into .venv.
MISLEADING = ("PIP_PREFIX", "PIP_TARGET", "PIP_USER", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")


def say(text: str) -> None:
    """One line for the person who waits."""
    print(f"p2engine: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """`.venv` below a root, for one group of requirements (of REQUIREMENTS), as made from `inputs` (a checksum)."""

    root: Path
    group: str
    inputs: str

    @property
    def folder(self) -> Path:
        """Where it stands."""
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def version(self) -> str | None:
        """The version of its interpreter; None where that does not run."""
        program = 'import sys; print("%d.%d.%d" % sys.version_info[:3])'
        try:
            done = subprocess.run([self.python, "-I", "-S", "-c", program], capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    def stamp(self, group: str) -> Path:
        """The file that says `group` is installed whole, and from what."""
        return self.folder / f"p2engine-{group}.stamp"

    def stamped(self) -> str:
        """What the stamp holds when all is as it should be. bootstrap.sh writes the same text to compare."""
        return f"{self.inputs}\n{self.root}\n{self.version()}\n"

    def is_whole(self) -> bool:
        """Whether nothing is left to do."""
        stamp = self.stamp(self.group)
        return stamp.exists() and stamp.read_text() == self.stamped()

    def why_anew(self) -> str | None:
        """Why this cannot be mended in place; None when it can."""
        version = self.version()
        if version is None:
            return "its Python does not run"
        if tuple(map(int, version.split(".")[:2])) < OLDEST_PYTHON:
            return f"its Python is {version}"
        for group in REQUIREMENTS:
            stamp = self.stamp(group)
            if stamp.exists() and stamp.read_text().splitlines()[1:] != [str(self.root), version]:
                return "it was moved, or its Python was replaced"
        return None


@contextmanager
def alone(lock: Path) -> Iterator[int]:
    """Holds `lock`, a file, against other installs. The kernel lets go of it when its last holder ends, in any way.

    The lock's content outlives that: text in it says that an install began and did not finish.
    """
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run is installing: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def ensure(environment: Environment) -> None:
    """Leaves `.venv` whole. Raises CalledProcessError when a tool fails, OSError when a file cannot be written."""
    with alone(environment.root / ".venv.lock") as lock:
        if environment.is_whole():
            return
        started = time.monotonic()
        clear_the_ground(environment, unfinished=os.fstat(lock).st_size > 0)
        os.pwrite(lock, b"installing\n", 0)
        install(environment, lock)
        for group in COVERS[environment.group]:
            environment.stamp(group).write_text(environment.stamped())
        os.ftruncate(lock, 0)
        say(f"ready after {time.monotonic() - started:.0f} s")


def clear_the_ground(environment: Environment, *, unfinished: bool) -> None:
    """Takes away what cannot be mended, and every stamp of what can: nothing is whole until the end."""
    folder = environment.folder
    if folder.is_symlink() or folder.exists():
        why = "the last install did not finish" if unfinished else environment.why_anew()
        if why is not None:
            say(f"making .venv anew: {why}")
            if folder.is_symlink() or not folder.is_dir():
                folder.unlink()
            else:
                shutil.rmtree(folder)
    for group in REQUIREMENTS:
        environment.stamp(group).unlink(missing_ok=True)


def install(environment: Environment, lock: int) -> None:
    """Everything uv.lock names for the group, and the project itself as an editable install."""
    variables = {name: value for name, value in os.environ.items() if name not in MISLEADING}

    def run(*command: str | Path) -> None:
        # The lock goes along: a tool that outlives this process must not meet a second install.
        subprocess.run(command, cwd=environment.root, env=variables, stdout=sys.stderr, pass_fds=(lock,), check=True)

    uv = shutil.which("uv")
    if uv is not None:
        say("installing what uv.lock names, with uv")
        try:
            run(uv, *uv_arguments(environment))
        except subprocess.CalledProcessError:
            # An old uv lacks an option, or uv trusts other certificates than pip does.
            say("uv could not: trying with venv and pip")
        else:
            return
    for command in pip_commands(environment):
        run(*command)


def uv_arguments(environment: Environment) -> list[str]:
    """The one command of uv: makes `.venv` where it is missing, and leaves what another group put there."""
    python = environment.python if environment.folder.exists() else base_python()
    groups = UV_GROUPS[environment.group]
    return ["sync", "--quiet", "--frozen", "--inexact", "--no-default-groups", "--python", str(python), *groups]


def pip_commands(environment: Environment) -> Iterator[Sequence[str | Path]]:
    """The commands of venv and pip, one when the one before has ended."""
    python = environment.python
    if not environment.folder.exists():
        say(f"making .venv with Python {sys.version.split()[0]}")
        yield base_python(), "-I", "-m", "venv", environment.folder
    elif not any(environment.folder.glob("lib/python*/site-packages/pip/__main__.py")):
        yield python, "-I", "-m", "ensurepip", "--default-pip"
    files = [environment.root / "scripts" / name for name in REQUIREMENTS[environment.group]]
    count = sum(line.count("==") for file in files for line in file.read_text().splitlines() if line[:1].isalnum())
    say(f"installing {count} packages pinned by uv.lock, with pip: about a minute the first time")
    pip = (python, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input")
    yield *pip, "--require-hashes", *(part for file in files for part in ("-r", file))
    yield *pip, "--no-deps", "--no-build-isolation", "-e", environment.root


def base_python() -> str:
    """The interpreter that outlives `.venv`, also where this one is `.venv`'s own."""
    return str(getattr(sys, "_base_executable", sys.executable))


def main(root: str, group: str, inputs: str) -> int:
    """Ends with the status of the script: 0 done, 1 failed, 130 interrupted."""
    try:
        ensure(Environment(root=Path(root), group=group, inputs=inputs))
    except subprocess.CalledProcessError as error:
        say(f"{Path(error.cmd[0]).name} ended with status {error.returncode}, for the reason above: mend it, run again")
        return 1
    except OSError as error:
        say(f"cannot make .venv: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped; the next run begins anew")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

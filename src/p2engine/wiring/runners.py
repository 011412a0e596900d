"""Who runs a rollout on this machine: one process at a time, known by a lock on a file in the state folder."""

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from p2engine.errors import StoreError, UsageError

_LOCK = "runner"
_LOG = "log"


class Held(NamedTuple):
    """The right to run a rollout, as long as the lock is held."""

    rollout: str


def folder(home: Path, rollout: str) -> Path:
    """Where a rollout keeps files on this machine."""
    return home / "rollouts" / rollout


def place(home: Path) -> str:
    """This state folder, told from those of all machines."""
    return f"{socket.gethostname()}:{home.resolve()}"


@contextmanager
def hold(home: Path, rollout: str) -> Iterator[Held]:
    """While inside, this process runs the rollout. Raises UsageError where another one does, StoreError."""
    path = folder(home, rollout) / _LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}", hint="check its permissions and the disk") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.read(descriptor, 200).decode("utf-8", "replace").strip() or "another process"
            hint = f"p2engine rollout cancel {rollout} ends it"
            raise UsageError(f"{rollout} runs already: {who}", hint=hint) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield Held(rollout)
    finally:
        os.close(descriptor)


def runs(home: Path, rollout: str) -> bool | None:
    """Whether a process of this machine runs it; None where none ever did."""
    try:
        descriptor = os.open(folder(home, rollout) / _LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def detach(home: Path, rollout: str, words: Sequence[str]) -> Path:
    """Go on with a rollout in a process of its own that outlives this one. words: its further arguments.

    Returns the file that has what it says. Raises StoreError.
    """
    log = folder(home, rollout) / _LOG
    line = [sys.executable, "-m", "p2engine", "rollout", "resume", rollout, *words]
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        # By way of a shell that ends at once, so that it is nobody's child to be waited for.
        shell = ["/bin/sh", "-c", '"$@" </dev/null >>"$0" 2>&1 &', str(log), *line]
        subprocess.run(shell, check=True, start_new_session=True)  # noqa: S603 — its words are arguments, not script
    except (OSError, subprocess.CalledProcessError) as error:
        raise StoreError(f"cannot start a process for {rollout}: {error}") from error
    return log

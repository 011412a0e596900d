"""Who is alive: an owner is one incarnation of one process, and lives as long as it holds its lock.

The kernel lets go of a lock when its process ends, however it ends, so nothing has to be renewed or to time out.
"""

import fcntl
import os
import re
import socket
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from p2engine.domain.ids import OwnerId
from p2engine.errors import StoreError, UsageError

_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")


class Owners(Protocol):
    """A register of living owners."""

    def add(self, owner: OwnerId) -> None:
        """From now on `owner` lives, here. Raises StoreError when it lives already, or cannot be registered."""
        ...

    def drop(self, owner: OwnerId) -> None:
        """An owner added here is no more."""
        ...

    def alive(self, owner: OwnerId) -> bool: ...

    def who(self, owner: OwnerId) -> str:
        """A living owner in words, for people."""
        ...


class MemoryOwners:
    """Owners within one process: alive from `add` to `drop`."""

    def __init__(self) -> None:
        self._living: set[OwnerId] = set()

    def add(self, owner: OwnerId) -> None:
        if owner in self._living:
            raise StoreError(f"owner {owner!r} is alive already")
        self._living.add(owner)

    def drop(self, owner: OwnerId) -> None:
        self._living.discard(owner)

    def alive(self, owner: OwnerId) -> bool:
        return owner in self._living

    def who(self, owner: OwnerId) -> str:
        return f"owner {owner} in this process"


class FileOwners:
    """Owners on one machine: each holds an flock on `<directory>/<owner>.lock`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: dict[OwnerId, int] = {}
        _REGISTERS.add(self)

    def add(self, owner: OwnerId) -> None:
        if not _NAME.fullmatch(owner):
            raise UsageError(f"{owner!r} is no name for an owner: letters, digits, - and _, at most 100")
        if self.alive(owner):
            raise StoreError(f"owner {owner!r} is alive already")
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            for lock in self._directory.glob("*.lock"):  # those of owners that owed nothing when they were killed
                self.alive(OwnerId(lock.stem))
            self._held[owner] = self._lock(self._path(owner))
        except OSError as error:
            raise StoreError(
                f"cannot lock a file in {self._directory}: {error.strerror}", hint="check its permissions and the disk"
            ) from error

    def _lock(self, path: Path) -> int:
        # Locked before it has its name, so that nobody ever sees the file of a living owner unlocked.
        descriptor, part = tempfile.mkstemp(dir=self._directory, suffix=".part")
        try:
            os.fchmod(descriptor, 0o644)  # other users of one store must be able to ask
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            os.link(part, path)
        except OSError:
            os.close(descriptor)
            raise
        finally:
            Path(part).unlink()
        return descriptor

    def drop(self, owner: OwnerId) -> None:
        descriptor = self._held.pop(owner, None)
        if descriptor is not None:
            self._path(owner).unlink(missing_ok=True)
            os.close(descriptor)

    def alive(self, owner: OwnerId) -> bool:
        """Whether somebody holds its lock. Removes the file of one that is dead. Raises StoreError: cannot be told."""
        if owner in self._held:
            return True
        if not _NAME.fullmatch(owner):
            return False
        path = self._path(owner)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        with suppress(OSError):  # it may lie in somebody else's directory, and does no harm there
            path.unlink()
        return False

    def who(self, owner: OwnerId) -> str:
        try:
            return self._path(owner).read_text().strip() or f"process {owner}"
        except (OSError, UnicodeDecodeError):
            return f"process {owner}"

    def _path(self, owner: OwnerId) -> Path:
        return self._directory / f"{owner}.lock"

    def _forget(self) -> None:
        """In a forked child: it shares the parent's locks, and would keep them held after the parent's death."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()


_REGISTERS: "weakref.WeakSet[FileOwners]" = weakref.WeakSet()


def _forget_all() -> None:
    for register in _REGISTERS:
        register._forget()


os.register_at_fork(after_in_child=_forget_all)

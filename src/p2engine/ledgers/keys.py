"""The key of a ledger: made once, read by its holder only. Signs checkpoints and seals records.

Beside it lies the head, the newest record that this machine knows to be written, so that a ledger file that was cut
or exchanged for an older copy is noticed.
"""

import os
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from p2engine.domain.money import Checkpoint
from p2engine.errors import StoreError

SEED_BYTES = 32
SEAL_BYTES = 16


class Head(NamedTuple):
    """The newest record: its number and its link."""

    seq: int
    link: bytes


_LOSS = "without it nobody can tell a tail that was cut, or an older copy, but by a checkpoint that was published"

PUBLIC = "ledger.pub"
PUBLIC_MEND = "take it away: it is made again from the key"
IN_A_FILE = "ledger.head"
IN_REDIS = "redis.head"


class KeyMissing(StoreError):
    """There is a ledger, and its key is not here: nothing can be written."""


class Keys:
    """Of one ledger. `public`: in hexadecimal, the name of the ledger.

    head: the file that the newest record is noted in. A project may have a ledger in a file and one in a Redis.
    """

    def __init__(self, folder: Path, seed: bytes, head: str) -> None:
        self._seed = seed
        key = blake2b(seed, digest_size=32, person=b"p2engine seal").digest()
        self._begun = blake2b(digest_size=SEAL_BYTES, key=key).copy  # to copy it costs less than half of beginning
        self.head_file = folder / head
        self._pub = folder / PUBLIC
        self._public = ""

    @classmethod
    def at(cls, folder: Path, *, head: str = IN_A_FILE) -> "Keys":
        """The key in this folder, made where there is none. Raises StoreError."""
        path = folder / "ledger.key"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not path.exists():
                (folder / PUBLIC).unlink(missing_ok=True)  # of another key, which is gone
                _make(path)
            seed = bytes.fromhex(path.read_text("ascii"))
        except (OSError, ValueError) as error:
            raise StoreError(
                f"the ledger's key {path} cannot be used: {_why(error)}", hint="mend or restore it"
            ) from None
        if len(seed) != SEED_BYTES:
            raise StoreError(f"the ledger's key {path} is damaged", hint="restore a copy of it")
        return cls(folder, seed, head)

    @classmethod
    def found(cls, folder: Path, *, head: str = IN_A_FILE) -> "Keys | None":
        """The key in this folder, if there is one. Raises StoreError."""
        return cls.at(folder, head=head) if (folder / "ledger.key").exists() else None

    @property
    def public(self) -> str:
        if not self._public:
            with suppress(OSError, ValueError):  # to read it is quicker than to work it out
                self._public = self._pub.read_text("ascii").strip()
        if not self._public:
            self._public = self._worked_out()
            with suppress(OSError):
                self._pub.write_text(f"{self._public}\n", "ascii")
        return self._public

    def doubt_public(self) -> str:
        """What is wrong with the public key that lies beside the key, "" for nothing. `public` is the key's own then.

        Asked where a ledger names another one, or none yet: to work it out takes a while.
        """
        said, self._public = self.public, self._worked_out()
        return "" if said == self._public else f"{self._pub} is not the public key of the key beside it"

    def check_public(self) -> None:
        """Raises StoreError for one that lies beside the key and is another's."""
        doubt = self.doubt_public()
        if doubt:
            raise StoreError(doubt, hint=PUBLIC_MEND)

    def _worked_out(self) -> str:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self._seed).public_key().public_bytes_raw().hex()

    def seal(self, link: bytes) -> bytes:
        """What only the holder of the key can put beside a link."""
        made = self._begun()
        made.update(link)
        return made.digest()

    def sign(self, count: int, root: bytes, at: float) -> Checkpoint:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        words = _words(self.public, count, root.hex(), at)
        signature = Ed25519PrivateKey.from_private_bytes(self._seed).sign(words)
        return Checkpoint(ledger=self.public, count=count, root=root.hex(), at=at, signature=signature.hex())

    def read_head(self) -> Head | None:
        """The newest record that was seen to be written; None where none was yet. Raises StoreError."""
        try:
            count, link = self.head_file.read_text("ascii").split()
            return Head(int(count), bytes.fromhex(link))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            hint = f"run `p2engine ledger verify`: where it finds nothing else, take {self.head_file} away; {_LOSS}"
            raise StoreError(f"{self.head_file} cannot be read: {_why(error)}", hint=hint) from None

    def look_at_head(self) -> tuple[Head | None, str]:
        """As `read_head`, and what is wrong with it in place of an error."""
        try:
            return self.read_head(), ""
        except StoreError as error:
            return None, f"{error}; {_LOSS}"

    def write_head(self, head: Head) -> None:
        """Note the newest record. Not flushed: after a power cut an older one stands there, which is as true.

        The file is opened each time, as it may have been taken away or restored. To hold it open and ask whether it was
        costs more: Linux gives the next change of a file whose times were asked for a time of its own, and as long as
        that is being written down the next flush of the ledger waits.
        """
        words = f"{head.seq:020d} {head.link.hex()}\n".encode()
        try:
            noted = os.open(self.head_file, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(noted, words)
            finally:
                os.close(noted)
        except FileNotFoundError:
            self._begin_head(words)
        except OSError:
            return  # it only guards what is written already

    def _begin_head(self, words: bytes) -> None:
        """Flushed, so that no power cut leaves an empty file."""
        with suppress(OSError):
            noted = os.open(self.head_file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(noted, words)
                os.fsync(noted)
            finally:
                os.close(noted)


def is_signed(checkpoint: Checkpoint, public: str) -> bool:
    """Whether the holder of the key behind `public` signed it."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    words = _words(public, checkpoint.count, checkpoint.root, checkpoint.at)
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(checkpoint.signature), words)
    except (InvalidSignature, ValueError):
        return False
    return checkpoint.ledger == public


def _words(public: str, count: int, root: str, at: float) -> bytes:
    return f"p2engine ledger checkpoint 1\n{public}\n{count}\n{root}\n{at!r}\n".encode()


def _make(path: Path) -> None:
    """A new key, whole or not at all; that of another process where that was first."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, os.urandom(SEED_BYTES).hex().encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    with suppress(FileExistsError):
        path.hardlink_to(part)
    part.unlink()


def _why(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else "it is damaged"

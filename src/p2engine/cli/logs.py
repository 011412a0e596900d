"""The log file of one process: JSON lines that rotate, with secrets taken out.

Knows the standard library's logging and the settings for it. What was said in a conversation is logged by nobody above
DEBUG; what must never be written is replaced here in every line.
"""

import json
import logging
import logging.handlers
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from p2engine.cli.output import safe

if TYPE_CHECKING:
    from pathlib import Path

    from p2engine.settings import Settings

ROOT = "p2engine"
MODELS = "p2engine.models"
FIELDS = ("conversation", "agent", "branch", "effect")
"""What a record may say it is about: `log.info(…, extra={"conversation": …})`."""

FILE_BYTES_MAX = 10 * 1024 * 1024  # of one log file
FILES_MAX = 5  # the one that is written, and older ones

_GONE = "[redacted]"
_SECRETS = re.compile(r"\b(?:sk|pk|xoxb|ghp|gsk)[-_][\w-]{8,}|\b(Bearer|Basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE)


@contextmanager
def logged(settings: "Settings", *, debug: bool = False, libraries: Sequence[str] = ()) -> Iterator[None]:
    """While inside, log to the file of these settings, and to standard error where `logging.console` is on.

    libraries: loggers of others whose warnings are wanted as well.
    A log that cannot be written is one warning on standard error; it stops nobody.
    """
    root, models = logging.getLogger(ROOT), logging.getLogger(MODELS)
    roots = [root, *(logging.getLogger(name) for name in libraries)]
    before = [(logger, logger.level, logger.propagate) for logger in (*roots, models)]
    for logger in roots:
        logger.setLevel(logging.WARNING)
        logger.propagate = False
    root.setLevel(logging.DEBUG if debug else settings.logging.level)
    models.setLevel(settings.logging.model_level)
    clean = redaction(key.get_secret_value() for key in settings.provider_keys.values())
    handlers: list[logging.Handler] = [RotatingFile(settings.log_path)]
    handlers[0].setFormatter(JsonLine(clean))
    if settings.logging.console:
        handlers.append(logging.StreamHandler())
        handlers[1].setFormatter(ForPeople(clean))
    for logger in roots:
        for handler in handlers:
            logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            for logger in roots:
                logger.removeHandler(handler)
            handler.close()
        for logger, level, propagates in before:
            logger.setLevel(level)
            logger.propagate = propagates


def redaction(secrets: Iterable[str]) -> Callable[[str], str]:
    """Takes these secrets, and whatever looks like one, out of a text."""
    known = sorted({secret for secret in secrets if len(secret) >= 4}, key=len, reverse=True)
    mine = re.compile("|".join(map(re.escape, known))) if known else None

    def clean(text: str) -> str:
        if mine is not None:
            text = mine.sub(_GONE, text)
        return _SECRETS.sub(lambda found: f"{found[1]} {_GONE}" if found[1] else _GONE, text)

    return clean


class JsonLine(logging.Formatter):
    """One JSON object a record: `ts level event msg`, what it is about, and the traceback of an error."""

    def __init__(self, clean: Callable[[str], str]) -> None:
        super().__init__()
        self._clean = clean

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "ts": _time(record.created),
            "level": record.levelname.lower(),
            "event": str(getattr(record, "event", record.name)),
            **{name: str(getattr(record, name)) for name in FIELDS if getattr(record, name, None) is not None},
            "msg": self._clean(record.getMessage()),
            "pid": record.process,
        }
        if record.exc_info:
            said["error"] = self._clean(self.formatException(record.exc_info))
        return json.dumps(said, ensure_ascii=False)


class ForPeople(logging.Formatter):
    """One line a record, for a terminal."""

    def __init__(self, clean: Callable[[str], str]) -> None:
        super().__init__()
        self._clean = clean

    def format(self, record: logging.LogRecord) -> str:
        about = "".join(f" {name}={getattr(record, name)}" for name in FIELDS if getattr(record, name, None))
        line = f"{_time(record.created)} {record.levelname.lower()} {record.name}: {record.getMessage()}{about}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return safe(self._clean(line))


class RotatingFile(logging.handlers.RotatingFileHandler):
    """A rotating file that other processes may write to, and rotate, at the same time. Made when first needed."""

    def __init__(self, path: "Path") -> None:
        super().__init__(path, maxBytes=FILE_BYTES_MAX, backupCount=FILES_MAX - 1, encoding="utf-8", delay=True)
        self._path = path
        self._is_lost = False

    def emit(self, record: logging.LogRecord) -> None:
        stream = self.stream
        if stream is not None and self._is_moved(stream):
            stream.close()
            self.stream = None
        super().emit(record)

    def _open(self) -> Any:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return super()._open()

    def _is_moved(self, stream: TextIO) -> bool:
        """Whether somebody else rotated the file away under us."""
        import os

        try:
            there, ours = self._path.stat(), os.fstat(stream.fileno())
        except OSError:
            return True
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- the name is logging's
        """The disk refused: say so once and go on without a log."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._is_lost:
            self._is_lost = True
            print(f"no log: cannot write {safe(self._path)}: {error.strerror}", file=sys.stderr)


def _time(created: float) -> str:
    return datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

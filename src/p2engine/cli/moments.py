"""Moments as people type them: a date and time, or how long ago."""

import re
from datetime import UTC, datetime

from p2engine.errors import UsageError

_AGO = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def moment(text: str, now: float) -> float:
    """The Unix time that `text` means: ISO 8601 (UTC where it names no zone), or 30s, 10m, 2h, 1d before `now`.

    Raises UsageError.
    """
    if ago := _AGO.fullmatch(text.strip()):
        return now - int(ago[1]) * _SECONDS[ago[2]]
    try:
        found = datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        hint = "write 2026-01-31T12:00, 2026-01-31, or 30s, 10m, 2h, 1d"
        raise UsageError(f"{text[:40]!r} is no time", hint=hint) from None

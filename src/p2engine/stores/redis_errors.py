"""What the errors of Redis and of its client mean, in words of what to do. No password ever stands in them."""

import asyncio
import ssl
from collections.abc import Iterator

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    ConnectionError,  # noqa: A004
    InvalidResponse,
    MasterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TimeoutError,  # noqa: A004
)

from p2engine.errors import StoreBusy, StoreError

Failure = RedisError | OSError

# Beginnings of what the server says -> what that means, what to do, and whether it may pass by itself.
_SAID = (
    ("DB index is out of range", "has no database of this number", "choose another with redis.db (REDIS_DB)", False),
    ("AUTH <password> called without any password", "has no password", "unset REDIS_PASSWORD", False),
    ("WRONGTYPE", "holds keys of somebody else's under our names", "choose another redis.prefix or redis.db", False),
    ("MISCONF", "cannot write to its disk, and takes no writes", "make room on its disk, and look at its log", False),
    ("NOREPLICAS", "has too few replicas in step, and takes no writes", "look after its replicas", True),
    ("BUSY ", "is busy with a script", "wait for it, or end the script with SCRIPT KILL", True),
    ("max number of clients reached", "has too many clients", "raise its maxclients, or run fewer workers", True),
    ("No connection available", "is asked for more than it answers", "run more workers, or fewer at once", True),
)
_CLUSTER = (MovedError, AskError, ClusterCrossSlotError, ClusterDownError)
_IN_PIPELINE = " of pipeline caused error: ('"
_NO_REDIS = "does not answer as Redis does"
_NO_REDIS_HINT = "check redis.host, redis.port and redis.tls (REDIS_HOST, REDIS_PORT, REDIS_TLS)"
_UNREACHED_HINT = "start it, or check redis.host, redis.port and redis.tls (REDIS_HOST, REDIS_PORT, REDIS_TLS)"


def passing(error: Failure) -> bool:
    """Whether it may be over in a moment: the server is away, starts, or has just become a replica."""
    if isinstance(error, AuthenticationError | NoPermissionError) or _tls(error):
        return False
    if isinstance(error, ConnectionError | TimeoutError | OSError | ReadOnlyError | MasterDownError):
        return True
    return any(lasts for begins, _, _, lasts in _SAID if _text(error).startswith(begins))


def store_error(error: Failure, where: str, password: str | None) -> StoreError:
    """What went wrong with the Redis at `where`. The password is taken out of `error` too, which a log may show."""
    forget(error, password)
    kind = StoreBusy if passing(error) else StoreError
    what, hint = _meaning(error, bool(password))
    return kind(f"{where} {what}", hint=hint)


def forget(error: BaseException, password: str | None) -> None:
    """Take a password out of an error and of those behind it."""
    if not password:
        return
    for each in _chain(error):
        each.args = tuple(arg.replace(password, "***") if isinstance(arg, str) else arg for arg in each.args)


def _chain(error: BaseException) -> Iterator[BaseException]:
    behind: BaseException | None = error
    while behind is not None:
        yield behind
        behind = behind.__cause__ or behind.__context__


def _meaning(error: Failure, with_password: bool) -> tuple[str, str]:
    """What happened, and what to do."""
    text = _text(error)
    for begins, what, hint, _ in _SAID:
        if text.startswith(begins):
            return what, hint
    match error:
        case AuthenticationError() if with_password:
            return "refuses the password", "check REDIS_PASSWORD and redis.username"
        case AuthenticationError():
            return "wants a password", "set REDIS_PASSWORD"
        case NoPermissionError():
            return f"forbids it: {text}", "give its user the right, or name another with redis.username"
        case BusyLoadingError():
            return "still loads its data", "wait a moment"
        case OutOfMemoryError():
            return "is full; nothing was written", "raise its maxmemory, or prune old conversations"
        case ReadOnlyError() | MasterDownError():
            return "is a replica, and takes no writes", "give the address of the primary"
        case _ if isinstance(error, _CLUSTER):
            return f"is part of a Redis Cluster: {text}", "use one primary, with Sentinel or a managed fail-over"
        case InvalidResponse():
            return _NO_REDIS, _NO_REDIS_HINT
        case TimeoutError() | asyncio.TimeoutError():
            return "gives no answer", _UNREACHED_HINT
        case ConnectionError() | OSError():
            return _unreached(error, text)
    return f"refuses: {text}", "run `p2engine doctor`"


def _text(error: Failure) -> str:
    """What the server said, without the command that it said it to: a pipeline's error repeats that, bodies and all."""
    _, pipeline, said = str(error).rpartition(_IN_PIPELINE)
    return " ".join((said.removesuffix("',)") if pipeline else str(error)).split())


def _unreached(error: Failure, text: str) -> tuple[str, str]:
    tls = _tls(error)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return f"has a certificate that is not trusted: {tls.verify_message}", "name its authority with redis.ca"
    if tls is not None:
        return "does not speak TLS", "set redis.tls to false, or check redis.port"
    return f"cannot be reached: {text}", _UNREACHED_HINT


def _tls(error: Failure) -> ssl.SSLError | None:
    return next((each for each in _chain(error) if isinstance(each, ssl.SSLError)), None)

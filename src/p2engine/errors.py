"""Every error P2Engine raises, as one tree, by what the reader must do.

P2EngineError
├── SetupError            fix the setup: a file, a key, a name, an argument
│   ├── ConfigError       a configuration file or variable; says file and line
│   ├── UsageError        a wrong name or argument on a command or call
│   ├── NotAvailable      asked for something this version does not have
│   └── NotLoaded         a tool that other processes may have is not loaded in this one
├── ConflictError         somebody else wrote first: reload and decide again
│   ├── HeadMoved         the stack grew; may carry what it gained
│   ├── AlreadySettled    the effect has an outcome already
│   └── NameTaken         a conversation or branch of that name exists
├── EffectError           the world said no: tell the model
│   ├── ToolError         raised by a tool: the model reads the message
│   └── ModelError        a provider refused or failed
├── StoreError            the disk or server under the log failed: mend it, then go on
│   ├── StoreBusy         locked or unreachable for longer than we wait
│   ├── CorruptEntry      bytes in the log that cannot be read
│   ├── NewerFormat       written by a later version
│   ├── Pruned            a cursor below what is still kept
│   ├── Rewound           the server came back without writes it had acknowledged
│   └── BodiesLost        bodies that a batch relies on are not there: put them again
└── IllegalTransition     a fault of ours: a state that the table does not allow
"""

from collections.abc import Sequence
from typing import Any


class P2EngineError(Exception):
    """Base of every error P2Engine raises. `hint` is the mend, where there is one."""

    code = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class SetupError(P2EngineError):
    """The setup is wrong; a person must change it."""

    code = "setup"


class ConfigError(SetupError):
    """A configuration file or variable is wrong. `file` and `line` (1-based) say where, when known."""

    code = "config"

    def __init__(self, message: str, *, hint: str = "", file: str | None = None, line: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.file = file
        self.line = line

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.file and self.line else f"{self.file}: " if self.file else ""
        return where + self.message


class UsageError(SetupError):
    """A name or an argument of a command or call is wrong."""

    code = "usage"


class NotAvailable(SetupError):
    """A key, option or argument whose feature this version does not have; refused, never ignored."""

    code = "not_available"

    def __init__(self, key: str, *, hint: str = "") -> None:
        super().__init__(f"not available in this version: {key}", hint=hint)
        self.key = key


class NotLoaded(SetupError):
    """The tool `tool` is not loaded in this process, which is one of several; another may have it."""

    code = "not_loaded"

    def __init__(self, tool: str) -> None:
        super().__init__(f"tool {tool!r} is not loaded here")
        self.tool = tool


class ConflictError(P2EngineError):
    """Somebody else wrote first; reload and decide again."""

    code = "conflict"


class HeadMoved(ConflictError):
    """The stack grew since it was loaded; nothing of the batch was written.

    missing: what it gained (`Placed` commits), where the store says so along with the refusal; else None.
    """

    code = "head_moved"

    def __init__(self, message: str, *, missing: Sequence[Any] | None = None) -> None:
        super().__init__(message)
        self.missing = missing


class AlreadySettled(ConflictError):
    """The effect `effect` has an outcome already, or was never owed."""

    code = "already_settled"

    def __init__(self, effect: str) -> None:
        super().__init__(f"effect {effect!r} is settled already")
        self.effect = effect


class NameTaken(ConflictError):
    """A conversation, or a branch of it, has that name already."""

    code = "name_taken"


class EffectError(P2EngineError):
    """The world said no. Becomes data on the stack, never a crash.

    `retryable` says whether the same attempt may succeed later; `retry_after_s` is what the other side asked for.
    """

    code = "effect"

    def __init__(self, message: str, *, retryable: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class ToolError(EffectError):
    """Raised by a tool to tell the model that the call failed, and why."""

    code = "tool"


class ModelError(EffectError):
    """A model provider refused, failed, or answered what cannot be read. `status` is the HTTP status, if any."""

    code = "model"

    def __init__(
        self, message: str, *, retryable: bool = False, retry_after_s: float | None = None, status: int | None = None
    ) -> None:
        super().__init__(message, retryable=retryable, retry_after_s=retry_after_s)
        self.status = status


class StoreError(P2EngineError):
    """The disk or server under the log failed."""

    code = "store"


class StoreBusy(StoreError):
    """The store stayed locked or unreachable for longer than we wait."""

    code = "store_busy"


class CorruptEntry(StoreError):
    """An entry of the log cannot be read; the message names it."""

    code = "corrupt_entry"


class NewerFormat(StoreError):
    """The entry or file was written by a later version of P2Engine."""

    code = "newer_format"


class Pruned(StoreError):
    """A cursor lies below the oldest event that is still kept."""

    code = "pruned"


class Rewound(StoreError):
    """A server came back without the newest of what it had acknowledged: what a process remembers may be gone."""

    code = "rewound"


class BodiesLost(StoreError):
    """Bodies that a batch relies on are not in the store, though they were put; nothing was written.

    refs: which. Whoever has them puts them again and writes again.
    """

    code = "bodies_lost"

    def __init__(self, refs: Sequence[str]) -> None:
        super().__init__(f"bodies were acknowledged and are gone: {', '.join(refs)}")
        self.refs = refs


class IllegalTransition(P2EngineError):
    """A state that the successor table does not allow. A fault of P2Engine, not of its user."""

    code = "illegal_transition"

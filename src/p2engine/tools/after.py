"""What a tool asks to happen with its result: post-effects. Values, and functions from a result to values; no one here
carries them out."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from p2engine.domain.decisions import CallAgentAfter
from p2engine.domain.ids import AgentId
from p2engine.errors import ConfigError, NotAvailable, ToolError, UsageError
from p2engine.limits import FAN_OUT_MAX, NAME_BYTES_MAX
from p2engine.tools.results import as_json

_KIND = re.compile(r"tool\.[a-z0-9_]+(?:[.-][a-z0-9_]+)*")
_DRIVE = re.compile(r"[A-Za-z]:")


class SaveArtifactAfter(msgspec.Struct, frozen=True):
    """Post-effect: keep `content` under `name` among the conversation's artifacts."""

    name: str
    content: str | bytes


class RaiseEventAfter(msgspec.Struct, frozen=True):
    """Post-effect: record an event of this kind, settled with the result."""

    kind: str
    body: dict[str, Any]


After = CallAgentAfter | SaveArtifactAfter | RaiseEventAfter
PostEffect = After | Callable[[Any], After | Iterable[After] | None]
"""A value, or a function from the tool's result to a value, to several, or to None for nothing."""


def agent_call(agent: str, message: str) -> CallAgentAfter:
    """Have `agent` act on the result; its answer reaches the caller as a note. Raises UsageError for an empty name."""
    if not agent or not message:
        raise UsageError(f"agent_call needs an agent and a message, got {agent!r} and {message!r}")
    return CallAgentAfter(AgentId(agent), message)


def save_artifact(name: str, content: str | bytes) -> SaveArtifactAfter:
    """Keep `content` as an artifact. Raises ToolError for a name that is not allowed."""
    return SaveArtifactAfter(artifact_name(name), content)


def raise_event(kind: str, /, **body: Any) -> RaiseEventAfter:
    """Record an event. `kind` starts with `tool.`, so that it cannot pass for one of P2Engine's. Raises UsageError."""
    if not _KIND.fullmatch(kind) or len(kind) > NAME_BYTES_MAX:
        raise UsageError(f"event kind {kind!r} must look like 'tool.some_name' (lower case, digits, _ . -)")
    return RaiseEventAfter(kind, as_json(body)[0])


def artifact_name(name: str) -> str:
    """`name` if it may name an artifact: relative, without `..`, printable, ≤ NAME_BYTES_MAX bytes. Else ToolError."""
    shown = repr(name if len(name) <= NAME_BYTES_MAX else name[:NAME_BYTES_MAX] + "…")
    if len(name.encode("utf-8", "replace")) > NAME_BYTES_MAX:
        raise ToolError(f"artifact name {shown} is longer than {NAME_BYTES_MAX} bytes; choose a shorter one")
    if not name.isprintable() or "\\" in name or _DRIVE.match(name):
        raise ToolError(f"artifact name {shown} may not hold control characters, backslashes or drives; choose another")
    if any(part in {"", ".", ".."} for part in name.split("/")):
        raise ToolError(f"artifact name {shown} must be a plain or relative name, such as 'report.md'; choose another")
    return name


def checked(effects: object) -> tuple[PostEffect, ...]:
    """What a declaration lists as post-effects. Raises NotAvailable for a payment, ConfigError for what is none."""
    if isinstance(effects, str) or not isinstance(effects, Iterable):
        effects = [effects]
    listed = tuple(effects)
    for effect in listed:
        if effect == "payment" or (isinstance(effect, dict) and "payment" in effect):
            raise NotAvailable("post_effects.payment")
        if not isinstance(effect, After) and not callable(effect):
            raise ConfigError(
                f"post-effect {effect!r} is none",
                hint="list agent_call(…), save_artifact(…), raise_event(…), or functions of the result that give them",
            )
    return listed


def resolve(effects: Sequence[PostEffect], result: Any) -> list[After]:
    """The post-effects of one result, in order. Raises ToolError for what is none, and what their functions raise."""
    found: list[After] = []
    for effect in effects:
        given = effect if isinstance(effect, After) else effect(result)
        if given is None:
            continue
        found += [given] if isinstance(given, After) else given
    for one in found:
        if not isinstance(one, After):
            raise ToolError(f"a post-effect gave {type(one).__name__}, which is none")
    if len(found) > FAN_OUT_MAX:
        raise ToolError(f"{len(found)} post-effects, at most {FAN_OUT_MAX} are carried out")
    return found

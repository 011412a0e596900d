"""One tool call from arguments to outcome: cache, checks, time-out, retries, bounds.

This is the edge between the engine and code of others: whatever a tool does becomes an outcome.
"""

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

import msgspec

from p2engine.domain.decisions import ToolOutcome
from p2engine.domain.messages import ToolSpec
from p2engine.errors import EffectError, StoreError, ToolError
from p2engine.limits import RETRY_AFTER_MAX_S, RETRY_WAIT_INITIAL_S, RETRY_WAIT_MAX_S, TOOL_TIMEOUT_S
from p2engine.ports import Tool, Toolbox, ToolContext
from p2engine.tools.cache import ResultCache, key_of
from p2engine.tools.function import ToolBody
from p2engine.tools.results import bounded, describe
from p2engine.tools.threads import Threads

log = logging.getLogger(__name__)


class Limit(Protocol):
    """Bounds a wait; see `asyncio.timeout`."""

    def expired(self) -> bool: ...


class Attempt(NamedTuple):
    """What one attempt came to. `again_s`: how long to wait before another could do better; None: it could not."""

    outcome: ToolOutcome
    again_s: float | None = None


class Runner:
    """The port `ToolRunner` over a toolbox. One of these per process: it holds the cache and the threads.

    now: Unix seconds. sleep: how to wait between attempts. limit: bounds an attempt's time, as `asyncio.timeout` does.
    """

    def __init__(
        self,
        toolbox: Toolbox,
        *,
        now: Callable[[], float],
        threads: Threads | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        limit: Callable[[float], AbstractAsyncContextManager[Limit]] = asyncio.timeout,
    ) -> None:
        self._toolbox = toolbox
        self._cache = ResultCache(now)
        self._threads = threads or Threads()
        self._sleep = sleep
        self._limit = limit

    def spec(self, name: str) -> ToolSpec | None:
        """What is told of the tool that is loaded here under that name; None where there is none."""
        tool = self._toolbox.get(name)
        return None if tool is None else tool.spec

    async def __call__(self, name: str, arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome:
        """Run the tool. Every failure is an outcome; only cancellation and interruption pass through."""
        tool = self._toolbox.get(name)
        if tool is None:
            return ToolOutcome(status="error", content=f"tool {name!r} is not loaded here")
        if tool.spec.repeat != "free":
            try:
                return await self._attempts(tool, arguments, ctx)
            finally:
                self._cache.drop_related(tool, ctx.conversation)
        if tool.spec.cache_ttl_s is None:
            return await self._attempts(tool, arguments, ctx)
        key = key_of(tool, arguments, ctx)
        if (kept := self._cache.get(key, tool)) is not None:
            return kept
        with self._cache.flight(key, tool) as flight:
            outcome = await self._attempts(tool, arguments, ctx)
            self._cache.keep(flight, outcome)
        return outcome

    async def _attempts(self, tool: Tool, arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome:
        further = tool.spec.retries if tool.spec.repeat != "never" else 0
        for number in range(further + 1):
            if number and ctx.wallet is not None:
                ctx = msgspec.structs.replace(ctx, wallet=ctx.wallet.again())
            attempt = await self._attempt(tool, arguments, ctx)
            if attempt.again_s is None or number == further:
                break
            wait_s = min(RETRY_WAIT_INITIAL_S * 2**number, RETRY_WAIT_MAX_S)
            await self._sleep(max(wait_s, attempt.again_s))
        told = attempt.outcome.content
        shown = bounded(told)
        return attempt.outcome if shown is told else msgspec.structs.replace(attempt.outcome, content=shown)

    async def _attempt(self, tool: Tool, arguments: Mapping[str, Any], ctx: ToolContext) -> Attempt:
        """The effect boundary: the one place where anything that a tool raises is caught."""
        run = _Run(tool, arguments, ctx, self._threads, self._limit)
        try:
            return Attempt(await run.outcome())
        except asyncio.CancelledError as error:
            # Whoever cancels this call means it; a tool that awaited something cancelled has merely failed.
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            return run.failed(error)
        except (Exception, SystemExit) as error:
            if isinstance(error, StoreError):
                log.warning("tool %s failed: %s (%s)", tool.spec.name, error, error.hint or "no hint")
            elif not isinstance(error, EffectError | TimeoutError):
                log.warning("tool %s failed: %s at %s", tool.spec.name, type(error).__name__, _place(error))
            log.debug("tool %s failed", tool.spec.name, exc_info=True)
            return run.failed(error)


class _Run:
    """One attempt, and how far it came."""

    def __init__(
        self,
        tool: Tool,
        arguments: Mapping[str, Any],
        ctx: ToolContext,
        threads: Threads,
        limit: Callable[[float], AbstractAsyncContextManager[Limit]],
    ) -> None:
        self._tool = tool
        self._arguments = arguments
        self._ctx = ctx
        self._threads = threads
        self._limit = limit
        self._limit_s = tool.spec.timeout_s or TOOL_TIMEOUT_S
        self._is_late = False
        self._has_run = False
        self._shaped: ToolOutcome | None = None

    async def outcome(self) -> ToolOutcome:
        if not isinstance(self._tool, ToolBody):
            outcome = await self._timed(self._tool(self._arguments, self._ctx))
            self._has_run = True
            if not isinstance(outcome, ToolOutcome):
                raise ToolError(f"it returned {type(outcome).__name__}, not a ToolOutcome")
            return outcome
        call = self._tool.prepare(self._arguments, self._ctx)
        if call.is_blocking:
            result = await self._threads.run(call.run, within=self._timed)
        else:
            result = await self._timed(call.run())
        self._has_run = True
        self._shaped = self._tool.shape(result)
        return await self._tool.follow(result, self._shaped, self._ctx)

    def failed(self, error: BaseException) -> Attempt:
        """What the model is told, and whether another attempt could do better."""
        spec = self._tool.spec
        if self._is_late and not self._has_run:
            return Attempt(ToolOutcome(status="timeout", content=_late(spec, self._limit_s)), 0.0)
        text = describe(error)
        if not self._has_run:
            return Attempt(ToolOutcome(status="error", content=text), _again_s(error))
        if self._shaped is None:
            return Attempt(ToolOutcome(status="error", content=f"{spec.name} has run, but {text}"))
        text = f"{self._shaped.content}\n[{spec.name} has run and gave the above; what was to follow failed: {text}]"
        return Attempt(msgspec.structs.replace(self._shaped, status="error", content=text))

    async def _timed(self, running: Awaitable[Any]) -> Any:
        try:
            async with self._limit(self._limit_s) as limit:
                return await running
        finally:
            self._is_late = limit.expired()


def _place(error: BaseException) -> str:
    """Where it was raised, `file:line`; nothing of what it says, which may quote a message."""
    raised = traceback.extract_tb(error.__traceback__)
    return f"{raised[-1].filename}:{raised[-1].lineno}" if raised else "?"


def _late(spec: ToolSpec, limit_s: float) -> str:
    text = f"{spec.name} did not answer within {limit_s:g} s"
    return text if spec.repeat == "free" else f"{text}; outcome unknown: it may have had its effect, or may still"


def _again_s(error: BaseException) -> float | None:
    # Retries are asked for by whoever wrote the tool, so an error they did not foresee is tried again as well.
    if not isinstance(error, EffectError):
        return 0.0
    wait_s = error.retry_after_s or 0.0
    return wait_s if error.retryable and wait_s <= RETRY_AFTER_MAX_S else None

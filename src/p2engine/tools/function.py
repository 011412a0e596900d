"""Tools from plain functions: the decorator, what it makes, and what it refuses. Knows declarations; runs no policy."""

import asyncio
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from hashlib import blake2b
from typing import Any, Final, Generic, NamedTuple, ParamSpec, TypeVar, overload

import msgspec

from p2engine.domain.decisions import CallAgentAfter, ToolOutcome
from p2engine.domain.messages import ToolSpec
from p2engine.errors import ConfigError, NotAvailable, P2EngineError
from p2engine.limits import TOOL_TIMEOUT_S
from p2engine.ports import ToolContext
from p2engine.tools.after import (
    PostEffect,
    SaveArtifactAfter,
    agent_call,
    checked,
    raise_event,
    resolve,
    save_artifact,
)
from p2engine.tools.results import shape
from p2engine.tools.schema import Arguments, Returns, Schema, arguments_of
from p2engine.tools.signature import Signature, doc_of, signature_of

__all__ = ["FunctionTool", "PostEffect", "ToolBody", "agent_call", "function_tool", "raise_event", "save_artifact"]

P = ParamSpec("P")
R = TypeVar("R")

RETRIES_MAX: Final = 10  # further attempts a tool may ask for
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")  # what model providers accept
_NOT_BUILT = {"reflect", "compensate"}


class Call(NamedTuple):
    """One checked call, ready to run. `run` blocks its thread where `is_blocking`, else it is awaited."""

    run: Callable[[], Any]
    is_blocking: bool


class ToolBody:
    """A function as the port `Tool`: arguments by its schema, result as an outcome.

    Called by itself it runs once, with no time-out, retry or cache: those belong to the runner.
    """

    def __init__(
        self,
        spec: ToolSpec,
        function: Callable[..., Any],
        arguments: Arguments,
        returns: Returns | None,
        signature: Signature,
        after: tuple[PostEffect, ...],
    ) -> None:
        self.spec = spec
        self.needs_context = signature.context is not None
        self.group = str(getattr(function, "__module__", ""))
        self._function = function
        self._is_blocking = not _is_async(function)
        self._arguments = arguments
        self._returns = returns
        self._context = signature.context
        self._after = after

    @property
    def is_blocking(self) -> bool:
        """Whether it takes a thread: a `def`, not an `async def`."""
        return self._is_blocking

    @property
    def source(self) -> str:
        """Where the function is written, as `file:line`."""
        return ":".join(str(part) for part in where(self._function) if part)

    def prepare(self, arguments: Mapping[str, Any], ctx: ToolContext) -> Call:
        """Check the arguments and hand the context in. Raises ToolError that names what is wrong."""
        keywords = self._arguments.read(self.spec.name, arguments)
        if self._context is not None:
            keywords[self._context] = ctx
        return Call(functools.partial(self._function, **keywords), self._is_blocking)

    def shape(self, result: Any) -> ToolOutcome:
        """The result as an outcome, without post-effects. Raises ToolError for one that is not as promised."""
        outcome = shape(result)
        if self._returns is not None and outcome.status == "ok":
            self._returns.check(result)
        return outcome

    async def follow(self, result: Any, outcome: ToolOutcome, ctx: ToolContext) -> ToolOutcome:
        """The outcome with its post-effects; artifacts are saved here. Raises what their functions raise."""
        if not self._after or outcome.status != "ok":
            return outcome
        calls, events = list(outcome.then), list(outcome.events)
        for one in resolve(self._after, result):
            if isinstance(one, CallAgentAfter):
                calls.append(one)
            elif isinstance(one, SaveArtifactAfter):
                await ctx.artifacts.save(one.name, one.content)
            else:
                events.append((one.kind, one.body))
        return msgspec.structs.replace(outcome, then=tuple(calls), events=tuple(events))

    async def __call__(self, arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome:
        call = self.prepare(arguments, ctx)
        result = await (asyncio.to_thread(call.run) if call.is_blocking else call.run())
        return await self.follow(result, self.shape(result), ctx)


class FunctionTool(Generic[P, R]):
    """A decorated function. Calling it calls the function itself, as it was written; `tool` is what an agent uses."""

    __name__: str
    __wrapped__: Callable[P, R]

    def __init__(self, function: Callable[P, R], tool: ToolBody) -> None:
        self.tool = tool
        self._function = function
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._function(*args, **kwargs)

    @property
    def spec(self) -> ToolSpec:
        """What a model is told of it."""
        return self.tool.spec

    def __repr__(self) -> str:
        return f"<tool {self.spec.name} {self.tool.source}>"


@overload
def function_tool(function: Callable[P, R], /) -> FunctionTool[P, R]: ...


@overload
def function_tool(
    function: None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    input_schema: Schema | None = None,
    output_schema: Schema | None = None,
    cache_ttl: float | None = None,
    side_effect_free: bool = False,
    idempotent: bool = False,
    dedup_ttl: float | None = None,
    post_effects: object = (),
    requires_context: bool = False,
    requires_approval: bool = False,
    milestone: bool = False,
    timeout_s: float = TOOL_TIMEOUT_S,
    retries: int = 0,
) -> Callable[[Callable[P, R]], FunctionTool[P, R]]: ...


def function_tool(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a tool of a function, `def` or `async def`; bare or with options.

    What is left out of name, description and input_schema is read from the function: its name, its docstring's first
    paragraph, its annotations. A parameter annotated `ToolContext` is given the context and is hidden from models.

    input_schema, output_schema: a pydantic model or a JSON schema.
    side_effect_free: may be repeated at will. idempotent: may be repeated with the same `ctx.idempotency_key`.
    cache_ttl: seconds a successful result is kept; only for tools free of side effects.
    dedup_ttl: seconds in which an equal call counts as a repeat.
    post_effects: `agent_call`, `save_artifact`, `raise_event`, or functions from the result to these.
    requires_approval: a person must agree to each call.
    milestone: a result of it is a point that evaluators of milestones judge.
    timeout_s: of one attempt. retries: further attempts; only for tools that may be repeated.

    Raises ConfigError, with file and line, for a declaration that cannot hold; NotAvailable for what this version
    lacks; TypeError for an option that does not exist.
    """
    for option in options:
        if option in _NOT_BUILT:
            raise NotAvailable(option)
        if option not in _OPTIONS:
            near = get_close_matches(option, _OPTIONS, n=1)
            raise TypeError(f"function_tool has no option {option!r}" + (f"; nearest: {near[0]!r}" if near else ""))
    if function is not None:
        return _declare(function, _Options(**options))
    return functools.partial(_declare, options=_Options(**options))


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    name: str | None = None
    description: str | None = None
    input_schema: Any = None
    output_schema: Any = None
    cache_ttl: float | None = None
    side_effect_free: bool = False
    idempotent: bool = False
    dedup_ttl: float | None = None
    post_effects: object = ()
    requires_context: bool = False
    requires_approval: bool = False
    milestone: bool = False
    timeout_s: float = TOOL_TIMEOUT_S
    retries: int = 0


_OPTIONS = _Options.__struct_fields__


def _declare(function: Callable[..., Any], options: _Options) -> FunctionTool[..., Any]:
    if isinstance(function, FunctionTool) or not callable(function):
        raise TypeError(f"function_tool takes a function, not {function!r}")
    name = str(options.name or getattr(function, "__name__", ""))
    try:
        return FunctionTool(function, _body(name, function, options))
    except NotAvailable:
        raise
    except P2EngineError as error:
        file, line = where(function)
        raise ConfigError(f"tool {name!r}: {error.message}", hint=error.hint, file=file, line=line) from None


def _body(name: str, function: Callable[..., Any], options: _Options) -> ToolBody:
    _check(name, options)
    doc, signature = doc_of(function), signature_of(function, requires_context=options.requires_context)
    arguments = arguments_of(signature, options.input_schema, doc)
    returns = None if options.output_schema is None else Returns(options.output_schema)
    spec = ToolSpec(
        name=name,
        description=doc.summary if options.description is None else options.description,
        parameters=arguments.parameters,
        repeat="free" if options.side_effect_free else "idempotent" if options.idempotent else "never",
        requires_approval=options.requires_approval,
        milestone=options.milestone,
        dedup_ttl_s=options.dedup_ttl,
        cache_ttl_s=options.cache_ttl,
        timeout_s=options.timeout_s,
        retries=options.retries,
    )
    digest = blake2b(msgspec.json.encode(spec, order="sorted") + _text(function).encode(), digest_size=6)
    spec = msgspec.structs.replace(spec, version=digest.hexdigest())
    return ToolBody(spec, function, arguments, returns, signature, checked(options.post_effects))


def _check(name: str, options: _Options) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError("a name has 1 to 64 letters, digits, _ or -, and begins with a letter or _")
    for option in ("cache_ttl", "dedup_ttl", "timeout_s"):
        seconds = getattr(options, option)
        if seconds is None and option != "timeout_s":
            continue
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < float("inf"):
            raise ConfigError(f"{option} must be seconds above 0, not {seconds!r}")
    if isinstance(options.retries, bool) or not isinstance(options.retries, int):
        raise ConfigError(f"retries must be a whole number, not {options.retries!r}")
    if not 0 <= options.retries <= RETRIES_MAX:
        raise ConfigError(f"retries must be 0 to {RETRIES_MAX}, not {options.retries}")
    if options.cache_ttl is not None and not options.side_effect_free:
        raise ConfigError("cache_ttl needs side_effect_free=True: a kept result would stand for an effect not made")
    if options.cache_ttl is not None and options.post_effects:
        raise ConfigError("cache_ttl and post_effects exclude each other: a kept result would pass over them")
    if options.retries and not (options.side_effect_free or options.idempotent):
        raise ConfigError("retries need side_effect_free=True or idempotent=True: a failed attempt may have had effect")


def where(function: Callable[..., Any]) -> tuple[str | None, int | None]:
    """File and line (1-based) of a function, as far as they are known."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code else (None, None)


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _text(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""

"""What a function's signature and docstring say to whoever calls it by name. Knows functions; no schemas or values."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

from p2engine.errors import ConfigError
from p2engine.ports import ToolContext

_ARGUMENT_LINE = re.compile(r"\s+\*{0,2}(\w+)(?: ?\([^)]*\))?: +(.+)")
_PARAM_LINE = re.compile(r"\s*:param (?:[^:]* )?(\w+): +(.+)")
_HEADINGS = {"Args:", "Arguments:", "Parameters:"}


class Signature(NamedTuple):
    """The parameters of a function with their annotations evaluated, without the one that takes the context."""

    parameters: tuple[inspect.Parameter, ...]
    context: str | None
    is_open: bool  # takes any keyword


class Doc(NamedTuple):
    """A docstring: its first paragraph, and the lines about single arguments."""

    summary: str
    arguments: Mapping[str, str]


def signature_of(function: Callable[..., Any], *, requires_context: bool) -> Signature:
    """Read a function's parameters. Raises ConfigError for those that a model cannot give."""
    try:
        parameters = inspect.signature(function, eval_str=True).parameters.values()
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise ConfigError(
            f"its annotations cannot be read: {error}",
            hint="they are needed at run time: define the type above the function, outside `if TYPE_CHECKING:`",
        ) from None
    context = [one.name for one in parameters if _takes_context(one, requires_context)]
    if len(context) > 1:
        raise ConfigError(f"only one parameter may take the context, not {' and '.join(context)}")
    if requires_context and not context:
        raise ConfigError("requires_context=True needs a parameter `ctx: ToolContext`")
    kept = [one for one in parameters if one.name not in context]
    for one in kept:
        if one.kind in {one.POSITIONAL_ONLY, one.VAR_POSITIONAL}:
            raise ConfigError(f"parameter {one} must be callable by name: a model gives arguments by name")
        if one.annotation is one.empty and one.name in {"self", "cls", "ctx"}:
            raise ConfigError(
                f"parameter {one.name!r} is nothing a model can give",
                hint="annotate the context as ToolContext; make tools of functions, not of methods",
            )
    return Signature(
        tuple(one for one in kept if one.kind is not one.VAR_KEYWORD),
        context[0] if context else None,
        any(one.kind is one.VAR_KEYWORD for one in kept),
    )


def doc_of(function: Callable[..., Any]) -> Doc:
    """The docstring's first paragraph on one line, and its `Args:` or `:param` lines by name."""
    lines = (inspect.getdoc(function) or "").splitlines()
    end = next((at for at, line in enumerate(lines) if not line.strip()), len(lines))
    summary = [line.strip() for line in lines[:end] if not _PARAM_LINE.match(line)]
    arguments: dict[str, str] = {}
    is_inside = False
    for line in lines:
        is_inside = line.strip() in _HEADINGS or (is_inside and (not line or line.startswith(" ")))
        if found := (is_inside and _ARGUMENT_LINE.fullmatch(line)) or _PARAM_LINE.fullmatch(line):
            arguments.setdefault(found[1], found[2].strip())
    return Doc(" ".join(summary), arguments)


def _takes_context(parameter: inspect.Parameter, requires_context: bool) -> bool:
    annotation = parameter.annotation
    if annotation is ToolContext or ToolContext in get_args(annotation):
        return True
    return requires_context and parameter.name == "ctx"

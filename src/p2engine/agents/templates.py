"""Text with places to fill in: Jinja in a sandbox that may read what it is given, change none of it, and miss nothing.

What is filled in is data: braces in it stay braces.
"""

from collections.abc import Iterator
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from p2engine.limits import CONFIG_FILE_BYTES_MAX

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import ImmutableSandboxedEnvironment

_NAME = "<template>"  # how Jinja calls a template that has no file; its frames in a traceback carry template lines


class TemplateFault(ValueError):
    """A template that cannot be read or filled. line: 1-based, within the template."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@cache
def _environment() -> "ImmutableSandboxedEnvironment":
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # Prompts are no pages: nothing is escaped for HTML.
    return ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@lru_cache(maxsize=1024)
def template(text: str) -> "Template":
    """Raises TemplateFault where the syntax is wrong."""
    from jinja2 import TemplateSyntaxError

    try:
        return _environment().from_string(text)
    except TemplateSyntaxError as error:
        raise TemplateFault(f"template: {error.message}", error.lineno) from None
    except RecursionError:
        raise TemplateFault("template: is nested too deeply", 1) from None


def fill(compiled: "Template", /, **values: Any) -> str:
    """The text with `values` filled in. Raises TemplateFault for a name that is not there, or too long a text."""
    from jinja2 import TemplateError

    pieces: list[str] = []
    size = 0
    try:
        for piece in compiled.generate(values):
            size += len(piece.encode())
            if size > CONFIG_FILE_BYTES_MAX:
                raise TemplateFault(f"template: makes more than {CONFIG_FILE_BYTES_MAX} bytes", 1)
            pieces.append(piece)
    except (TemplateError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        raise TemplateFault(f"template: {error}", max(_lines(error), default=1)) from None
    return "".join(pieces).strip()


def _lines(error: BaseException) -> Iterator[int]:
    frame = error.__traceback__
    while frame:
        if frame.tb_frame.f_code.co_filename == _NAME:
            yield frame.tb_lineno
        frame = frame.tb_next

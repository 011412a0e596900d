"""Regular expressions that people write into rules, and the texts they are tried on. Bounds what a match may cost.

Python's matcher backtracks: a repeat inside a repeat, such as `(a+)+`, takes twice as long with each character more.
Those are refused when they are read; for the rest the text is short enough that it does not matter.
"""

import re
from functools import lru_cache

MATCH_CHARS_MAX = 10_000  # of a text that a pattern is tried on

_ESCAPED = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_INNERMOST = re.compile(r"\((?:\?(?:P<\w+>|[^()]*?[:=!]))?([^()]*)\)")
_UNBOUNDED = re.compile(r"[*+]|\{\d*,\}")


@lru_cache(maxsize=1024)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Raises ValueError for what is no regular expression, and for a repeat inside a repeat."""
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression: {error}") from None
    if _repeats_a_repeat(pattern):
        raise ValueError("a repeat inside a repeat, such as (a+)+, can take for ever; write it without the outer one")
    return compiled


def search(compiled: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The first match in the first MATCH_CHARS_MAX characters of `text`."""
    return compiled.search(text[:MATCH_CHARS_MAX])


def _repeats_a_repeat(pattern: str) -> bool:
    """Fold groups from the inside: one that holds an unbounded repeat becomes `x+`, any other `x`."""
    left = _ESCAPED.sub("x", pattern)
    while group := _INNERMOST.search(left):
        repeats = _UNBOUNDED.search(group[1]) is not None
        if repeats and _UNBOUNDED.match(left, group.end()):
            return True
        left = left[: group.start()] + ("x+" if repeats else "x") + left[group.end() :]
    return False

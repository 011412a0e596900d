"""What an evaluator is handed when it runs. Holds; does nothing."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from p2engine.ports import Model

Run = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a call that may block, off the loop, and gives what it returns or raises."""


class Doors(NamedTuple):
    """model: who answers requests. run: where blocking code of others goes."""

    model: Model
    run: Run

"""What shall be judged, and by what: part of an agent's setup. Values only."""

from typing import Any, Literal

import msgspec

When = Literal["finish", "step", "milestone"]


class Evaluation(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One evaluator as it is asked to judge. version: empty for the newest there is when it runs.

    params: what this evaluator takes: a judge's rubric, a check's expected value. when: at the end of a turn, after
    every step of it, or after every result of a tool that is marked as a milestone. repeats: how many samples a verdict
    is made of. first: the number of the first one; a model is asked once for each number of the same content. again:
    ask also where that was judged before. timeout_s: for all of them; None: the usual bound.
    """

    evaluator: str
    version: str = ""
    params: dict[str, Any] = {}
    when: When = "finish"
    repeats: int = 1
    first: int = 0
    again: bool = False
    timeout_s: float | None = None

    def __hash__(self) -> int:
        return hash((self.evaluator, self.version, self.when, self.repeats))

"""Who judges."""

from typing import Protocol, runtime_checkable

from p2engine.domain.evaluation import Evaluation
from p2engine.domain.verdicts import Subject, Verdict


@runtime_checkable
class Evaluator(Protocol):
    """Judges. What it cannot say it leaves undecided; it never makes up a number. Raises EffectError."""

    @property
    def id(self) -> str: ...

    @property
    def version(self) -> str: ...

    async def evaluate(self, subject: Subject) -> Verdict: ...


class Judges(Protocol):
    """The evaluators that are loaded here, and how one is asked. A failure is a verdict, never an exception."""

    def identity(self, evaluation: Evaluation) -> str | None:
        """Everything but the subject that a verdict depends on, in words: `ID@VERSION MODEL …`; None: not loaded."""
        ...

    async def __call__(self, evaluation: Evaluation, subject: Subject) -> Verdict:
        """Ask as often as the evaluation says, within its time."""
        ...

"""Who judges."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol, runtime_checkable

from p2engine.domain.evaluation import Evaluation
from p2engine.domain.verdicts import Subject, Verdict

NONE_KNOWN: Final[Mapping[int, Verdict]] = MappingProxyType({})


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

    def has(self, evaluation: Evaluation) -> bool:
        """Whether the evaluator is loaded here, in the version that is asked for."""
        ...

    def key(self, evaluation: Evaluation, subject: Subject) -> str:
        """A hash of all that a verdict depends on but its samples: who judges and how, and what is shown.

        Empty where that cannot be said.
        """
        ...

    def asks_model(self, evaluation: Evaluation) -> bool:
        """Whether a model judges: what it said of the same before is worth looking for."""
        ...

    async def __call__(
        self, evaluation: Evaluation, subject: Subject, known: Mapping[int, Verdict] = NONE_KNOWN
    ) -> Verdict:
        """Ask as often as the evaluation says, within its time. known: samples by number, which are not asked for."""
        ...

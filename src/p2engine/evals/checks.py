"""The built-in evaluators: the judge, and every deterministic check. Knows them by name."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from p2engine.domain.verdicts import Subject, Verdict
from p2engine.errors import UsageError
from p2engine.evals.answers import Compile, Validator, answer_checks
from p2engine.evals.check import VALUE, text_of, value_of
from p2engine.evals.conduct import conduct_checks
from p2engine.evals.doors import Doors
from p2engine.evals.function import PLAIN, Declared
from p2engine.evals.judge import judge
from p2engine.evals.registry import Registry
from p2engine.evals.rubrics import Fill
from p2engine.ports import Evaluator

VERSION: Final = "1"
"""Of the checks. Raise it when one of them decides otherwise than before."""


def built_in(*, fill: Fill, compile_pattern: Compile, validator: Validator, partial: str = "") -> Registry:
    """A registry with all that comes with P2Engine. For the arguments see Judge, answer_checks and Registry."""
    registry = Registry([judge(fill)], partial=partial)
    for check in (*answer_checks(compile_pattern, validator), *conduct_checks()):
        registry.add(Declared(check, id=check.id, version=VERSION))
    registry.add(Declared(PythonCheck(registry.get), id=PythonCheck.id, version=VERSION))
    return registry


def check_names(registry: Registry) -> Iterator[str]:
    """The evaluators that need no model and come with P2Engine."""
    return (each.id for each in registry.all() if registry.is_built_in(each.id) and not each.asks_model)


class PythonCheck:
    """`python: NAME`: a function of the project's evals/ that takes `subject`, declared or not. The params beside the
    name are its own."""

    id: Final = "python"
    summary: Final = "A function of the project's evals/ that takes `subject`."

    def __init__(self, get: Callable[[str], Declared | None]) -> None:
        self._get = get

    def check_params(self, params: Mapping[str, Any]) -> None:
        """Raises UsageError where there is no such function."""
        self._target(params).check_params(_others(params))

    def traits(self, params: Mapping[str, Any]) -> str:
        """Who is asked."""
        return self._target(params).identity(_others(params))

    def bind(self, declared: Declared, doors: Doors) -> Evaluator:
        """The port, with what it needs in hand."""
        return _Python(declared, doors, self._target)

    def _target(self, params: Mapping[str, Any]) -> Declared:
        name = text_of(params["function"] if params.get("function") else value_of(params), "the name of the function")
        found = self._get(f"{PLAIN}{name}") or self._get(name)
        if found is None or found.id == self.id:
            hint = f"write: def {name}(subject): … in a file of evals/" if name.isidentifier() else ""
            raise UsageError(f"python: no function {name!r} of a subject is loaded from evals/", hint=hint)
        return found


class _Python:
    def __init__(self, declared: Declared, doors: Doors, target: Callable[[Mapping[str, Any]], Declared]) -> None:
        self.id = declared.id
        self.version = declared.version
        self._doors = doors
        self._target = target

    async def evaluate(self, subject: Subject) -> Verdict:
        target = self._target(subject.params)
        own = msgspec.structs.replace(subject, params=_others(subject.params))
        verdict = await target.bind(self._doors).evaluate(own)
        return msgspec.structs.replace(verdict, evaluator=self.id, version=self.version)


def _others(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name not in ("function", VALUE)}

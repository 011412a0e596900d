"""The evaluators that are loaded here, by id and version. Knows names and where they come from; runs nothing."""

import re
from collections.abc import Iterable, Mapping

from p2engine.documents import did_you_mean
from p2engine.domain.evaluation import Evaluation
from p2engine.errors import ConfigError, UsageError
from p2engine.evals.function import PLAIN, Declared
from p2engine.positions import show

Versions = dict[str, Declared]


class Registry:
    """Evaluators by id, several versions of each. Built-in ones are added once; a project's may be exchanged.

    partial: why there may be evaluators that are not loaded.
    """

    def __init__(self, evaluators: Iterable[Declared] = (), *, partial: str = "") -> None:
        self.partial = partial
        self._built_in: dict[str, Versions] = {}
        self._project: dict[str, Versions] = {}
        for each in evaluators:
            self.add(each)

    def add(self, evaluator: Declared) -> None:
        """Add an evaluator for good. Raises ConfigError, naming both places, when its id and version are taken."""
        self._put(evaluator, self._built_in)

    def exchange(self, evaluators: Iterable[Declared]) -> tuple[ConfigError, ...]:
        """Take these in place of all that came before by this way. Those refused are named; the others are in."""
        project: dict[str, Versions] = {}
        refused = []
        for each in evaluators:
            try:
                if each.id in self._built_in:
                    raise each.error(f"the name is taken by {self._built_in_source(each.id)}; choose another")
                self._put(each, project)
            except ConfigError as error:
                refused.append(error)
        self._project = project
        return tuple(refused)

    def get(self, id: str, version: str = "") -> Declared | None:  # noqa: A002 — the word for it
        """The evaluator of that id; of that version, else the newest. `ID@VERSION` is understood as well."""
        name, _, asked = id.partition("@")
        versions = self._versions(name)
        if version := version or asked:
            return versions.get(version)
        return max(versions.values(), key=lambda each: version_key(each.version), default=None)

    def find(self, id: str, version: str = "") -> Declared:  # noqa: A002
        """As `get`. Raises UsageError with the nearest name, or the versions there are."""
        found = self.get(id, version)
        if found is not None:
            return found
        name = id.partition("@")[0]
        if there := self._versions(name):
            asked = version or id.partition("@")[2]
            listed = ", ".join(sorted(there, key=version_key))
            raise UsageError(f"evaluator {name!r} has no version {show(asked)}; there is {listed}")
        raise UsageError(f"no evaluator {show(name)}{did_you_mean(name, self.ids())}", hint=self.partial)

    def all(self) -> list[Declared]:
        """Every evaluator in every version, by id, the newest version first."""
        ids = self.ids()
        return [
            each
            for one in ids
            for each in sorted(self._versions(one).values(), key=lambda e: version_key(e.version), reverse=True)
        ]

    def ids(self) -> list[str]:
        """The ids that may be named, sorted."""
        return sorted(name for name in {*self._built_in, *self._project} if not name.startswith(PLAIN))

    def is_built_in(self, id: str) -> bool:  # noqa: A002
        """Whether it came with P2Engine or an installed package."""
        return id in self._built_in

    def check(self, evaluation: Evaluation) -> None:
        """Raises UsageError where no such evaluator is loaded, or it cannot judge by these params."""
        if evaluation.repeats < 1:
            raise UsageError(f"repeats is at least 1, not {evaluation.repeats}")
        self.find(evaluation.evaluator, evaluation.version).check_params(evaluation.params)

    def _versions(self, name: str) -> Mapping[str, Declared]:
        return self._built_in.get(name) or self._project.get(name) or {}

    def _built_in_source(self, name: str) -> str:
        return next(iter(self._built_in[name].values())).source or "P2Engine"

    def _put(self, evaluator: Declared, into: dict[str, Versions]) -> None:
        versions = into.setdefault(evaluator.id, {})
        other = versions.get(evaluator.version)
        if other is not None and other is not evaluator:
            words = f"version {evaluator.version!r} is there twice: {other.source} and {evaluator.source}"
            raise evaluator.error(f"{words}; change one")
        versions[evaluator.version] = evaluator


def version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts versions: numbers by size, a release after its `rc1` and before its `.1`."""
    parts = re.findall(r"\d+|[a-z]+", version.casefold().removeprefix("v"))
    words = ((2, int(part), "") if part.isdigit() else (0, 0, part) for part in parts)
    return (*words, (1, 0, ""))

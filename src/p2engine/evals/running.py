"""Asking an evaluator: its samples, its time, and what becomes of one that fails. The port `Judges`.

This is the edge between the engine and evaluators, which are code of others: whatever one does becomes a verdict.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from hashlib import blake2b
from typing import Any, Final, Protocol

import msgspec

from p2engine.domain.evaluation import Evaluation
from p2engine.domain.setup import Spent
from p2engine.domain.verdicts import Subject, Verdict
from p2engine.errors import P2EngineError, UsageError
from p2engine.evals.doors import Doors
from p2engine.evals.function import Declared
from p2engine.evals.judge import ID as JUDGE
from p2engine.evals.pairwise import Preference, compare
from p2engine.evals.parsing import COMMENT_CHARS_MAX
from p2engine.evals.registry import Registry
from p2engine.evals.shaping import Unfit, apart, plain, shaped
from p2engine.limits import EVALUATION_TIMEOUT_S
from p2engine.ports import Model
from p2engine.ports.judging import NONE_KNOWN

log = logging.getLogger(__name__)

NAMED: Final = "metric"  # the param that says what a score is called, which nobody is told who judges
REPEATS_MAX: Final = 100  # samples of one verdict
SAMPLES_AT_ONCE: Final = 8
_COMMENT_CHARS: Final = 1000  # of an error in a verdict


class Limit(Protocol):
    """Bounds a wait; see `asyncio.timeout`."""

    def expired(self) -> bool: ...


class Threads(Protocol):
    """Where blocking code runs."""

    async def run(self, call: Callable[[], Any], *, within: Callable[[Awaitable[Any]], Awaitable[Any]]) -> Any:
        """What `call` returns or raises; `within` awaits its end, and may give up."""
        ...


class Evaluators:
    """The port `Judges` over a registry. model: who answers those that ask one. limit: as `asyncio.timeout`."""

    def __init__(
        self,
        registry: Registry,
        model: Model,
        threads: Threads,
        *,
        limit: Callable[[float], AbstractAsyncContextManager[Limit]] = asyncio.timeout,
    ) -> None:
        self.registry = registry
        self._doors = Doors(model, self._run)
        self._threads = threads
        self._limit = limit

    def has(self, evaluation: Evaluation) -> bool:
        """Whether the evaluator is loaded here, in the version that is asked for."""
        return self.registry.get(evaluation.evaluator, evaluation.version) is not None

    def key(self, evaluation: Evaluation, subject: Subject) -> str:
        """Of the evaluator with its version and code, the model and rubric it judges by, and all that it is shown."""
        declared = self.registry.get(evaluation.evaluator, evaluation.version)
        if declared is None:
            return ""
        given = msgspec.structs.replace(subject, params=evaluation.params)
        params = {name: value for name, value in given.params.items() if name != NAMED}
        try:
            told = (declared.identity(given.params), params, declared.shown(given))
        except (UsageError, ValueError, TypeError):  # asking it says what is wrong
            return ""
        return blake2b(msgspec.json.encode(told, order="deterministic"), digest_size=16).hexdigest()

    def asks_model(self, evaluation: Evaluation) -> bool:
        declared = self.registry.get(evaluation.evaluator, evaluation.version)
        return declared is not None and declared.asks_model

    async def __call__(
        self, evaluation: Evaluation, subject: Subject, known: Mapping[int, Verdict] = NONE_KNOWN
    ) -> Verdict:
        """A verdict, whatever happens: one sample as it is, several as their mean."""
        declared = self.registry.get(evaluation.evaluator, evaluation.version)
        if declared is None:
            return self._failed(evaluation, subject, f"no evaluator {evaluation.evaluator!r} is loaded here")
        if not 1 <= evaluation.repeats <= REPEATS_MAX:
            return self._failed(evaluation, subject, f"repeats is 1 to {REPEATS_MAX}, not {evaluation.repeats}")
        given = msgspec.structs.replace(subject, params=evaluation.params)
        limit_s = evaluation.timeout_s or EVALUATION_TIMEOUT_S
        sampling = _Sampling(
            declared, self._doors, given, range(evaluation.first, evaluation.first + evaluation.repeats)
        )
        try:
            async with self._limit(limit_s) as limit:
                await sampling.run(known)
        except TimeoutError:
            if not limit.expired():
                raise
            late = f"{declared.id} did not answer within {limit_s:g} s"
            return merged(sampling.finished(late), declared, given)
        return merged(sampling.finished(""), declared, given)

    async def prefer(self, first: Subject, second: Subject, params: Mapping[str, Any]) -> Preference:
        """Which of two is better, by the rubric of the built-in judge. Raises UsageError for wrong params."""
        rubric = self.registry.find(JUDGE).made().rubric(params)
        return await compare(first, second, rubric, self._doors, params)

    async def _run(self, call: Callable[[], Any]) -> Any:
        return await self._threads.run(call, within=_await)

    def _failed(self, evaluation: Evaluation, subject: Subject, why: str) -> Verdict:
        version = evaluation.version
        return Verdict(
            evaluator=evaluation.evaluator, version=version, subject=subject.event, status="error", comment=why
        )


async def _await(ended: Awaitable[Any]) -> Any:
    return await ended


class _Sampling:
    """The samples of one verdict, as they come. Those that have come stay when the time is over."""

    def __init__(self, declared: Declared, doors: Doors, subject: Subject, numbers: range) -> None:
        self._declared = declared
        self._doors = doors
        self._subject = subject
        self._numbers = numbers
        self._samples: dict[int, Verdict] = {}

    async def run(self, known: Mapping[int, Verdict]) -> None:
        """Ask for those that are not known."""
        self._samples.update(known)
        missing = [number for number in self._numbers if number not in known]
        places = asyncio.Semaphore(SAMPLES_AT_ONCE)

        async def one(number: int) -> None:
            async with places:
                self._samples[number] = await self._sample(number)

        if len(missing) == 1:
            await one(missing[0])
            return
        async with asyncio.TaskGroup() as group:
            for number in missing:
                group.create_task(one(number))

    def finished(self, late: str) -> list[Verdict]:
        """All samples in order; an error that says `late` for those that did not come."""
        missing = self._error(late)
        return [self._samples.get(number, missing) for number in self._numbers]

    async def _sample(self, number: int) -> Verdict:
        """The effect boundary: the one place where anything that an evaluator raises is caught."""
        declared, subject = self._declared, apart(self._subject, number)
        try:
            verdict = await declared.bind(self._doors).evaluate(subject)
            return shaped(verdict, declared.id, declared.version, self._subject)
        except asyncio.CancelledError as error:
            # Whoever cancels this task means it; an evaluator that awaited something cancelled has merely failed.
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            return self._error(describe(error))
        except (Exception, SystemExit) as error:
            if not isinstance(error, P2EngineError | Unfit):
                log.warning("evaluator %s failed: %s", declared.name, type(error).__name__)
            log.debug("evaluator %s failed", declared.name, exc_info=True)
            return self._error(describe(error))

    def _error(self, why: str) -> Verdict:
        return Verdict(
            evaluator=self._declared.id,
            version=self._declared.version,
            subject=self._subject.event,
            status="error",
            comment=plain(why, _COMMENT_CHARS),
        )


def describe(error: BaseException) -> str:
    """An error in one line: its message where it is one of ours, else its type as well."""
    line = next(iter(str(error).splitlines()), "")
    if isinstance(error, UsageError) and error.hint:
        return f"{line}; {error.hint}"
    if isinstance(error, P2EngineError | Unfit):
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def merged(samples: Sequence[Verdict], declared: Declared, subject: Subject) -> Verdict:
    """One verdict of several samples: the mean of those that are decided. One sample is what it is."""
    terms = declared.terms(subject.params)
    if len(samples) == 1:
        return msgspec.structs.replace(samples[0], terms=terms)
    decided = [each for each in samples if each.score is not None]
    scores = [each.score for each in decided if each.score is not None]
    labelled = [each for each in samples if each.status == "scored"]
    shown = (decided or labelled or [each for each in samples if each.status == "undecided"] or list(samples))[0]
    labels = Counter(each.label for each in labelled if each.label).most_common()
    return Verdict(
        evaluator=declared.id,
        version=declared.version,
        subject=subject.event,
        score=round(sum(scores) / len(scores), 12) if scores else None,
        label=labels[0][0] if labels and (len(labels) == 1 or labels[0][1] > labels[1][1]) else "",
        status=shown.status,
        metrics=_means(decided),
        comment=_comment(samples, shown, len(decided or labelled)),
        model=next((each.model for each in samples if each.model), ""),
        provider=next((each.provider for each in samples if each.provider), ""),
        terms=terms,
        spent=_sum(each.spent for each in samples),
        saved=_sum(each.saved for each in samples),
        source=samples[0].source if all(each.source for each in samples) else "",
        samples=tuple(each.score for each in samples),
        parts=tuple(msgspec.structs.replace(each, terms=None, key="", first=0) for each in samples),
    )


def _means(decided: Sequence[Verdict]) -> dict[str, float]:
    names = dict.fromkeys(name for each in decided for name in each.metrics)
    values = {name: [each.metrics[name] for each in decided if name in each.metrics] for name in names}
    return {name: round(sum(found) / len(found), 12) for name, found in values.items()}


def _comment(samples: Sequence[Verdict], shown: Verdict, decided: int) -> str:
    """What the shown sample says, and what became of the others where they say nothing."""
    if decided == len(samples) or not decided:
        return shown.comment
    why = next((each.comment for each in samples if each.status != "scored" and each.comment), "")
    words = f"{decided} of {len(samples)} samples decided" + (f" ({why})" if why else "")
    return plain(f"{words}. {shown.comment}".strip(), COMMENT_CHARS_MAX)


def _sum(spent: Iterable[Spent]) -> Spent:
    total = Spent()
    for each in spent:
        total = total.plus(each)
    return total

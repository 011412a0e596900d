"""Verdicts as commands read and show them: of one conversation, or of all trials of a rollout. Judges nothing."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from p2engine.cli.output import Output, iso, one_line
from p2engine.cli.reading import all_events
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.records import Conversation as Record
from p2engine.domain.records import Event, Query
from p2engine.domain.setup import Spent
from p2engine.domain.verdicts import Verdict
from p2engine.errors import ConfigError, UsageError
from p2engine.limits import TRIALS_MAX
from p2engine.rollouts import journal
from p2engine.rollouts.journal import Rollout
from p2engine.runtime.judging import VERDICT
from p2engine.wiring import Engine

SCORE = "score"
COMMENT_WIDTH = 80


class Seen(NamedTuple):
    """A verdict where it stands."""

    record: Record
    event: Event
    verdict: Verdict

    def value(self, metric: str) -> float | None:
        """What it says of a metric; None where it says nothing."""
        return self.verdict.score if metric == SCORE else self.verdict.metrics.get(metric)

    @property
    def name(self) -> str:
        return f"{self.verdict.evaluator}@{self.verdict.version}"

    @property
    def by(self) -> str:
        """What it was judged by, where a model judged: verdicts on other terms are another measurement."""
        return self.verdict.terms.words if self.verdict.terms else ""


def tell_broken(engine: Engine, output: Output) -> None:
    """Name the files of evaluators that could not be loaded, so that nobody looks for theirs in vain."""
    for problem in engine.broken_evaluators:
        output.note(problem)


async def records_of(engine: Engine, session: str) -> Sequence[Record]:
    """The conversations of a rollout, by its id or a unique beginning of it; else the one that is called so.

    Raises UsageError.
    """
    everything = await engine.conversations(limit=2 * TRIALS_MAX)
    groups = {record.group for record in everything if record.group and record.group.startswith(session)}
    chosen = {session} & groups or groups
    exact = [record for record in everything if session in (record.name, record.id)]
    if exact or not session:
        return exact
    if len(chosen) > 1:
        raise UsageError(f"ambiguous rollout {session!r}: {', '.join(sorted(map(repr, chosen))[:5])}")
    if chosen:
        return [record for record in reversed(everything) if record.group in chosen]
    from p2engine.cli.arguments import conversation_of

    return [(await conversation_of(engine, session)).record]


async def rollout_of(engine: Engine, session: str) -> Rollout | None:
    """The rollout of that id, or the only one whose id begins so; None where a conversation is called so, or none."""
    if any(session in (found.name, found.id) for found in await engine.conversations(session)):
        return None
    found = await journal.rollouts(engine.world, session)
    exact = [each for each in found if each.id == session] or found
    return exact[0] if len(exact) == 1 else None


async def verdicts_in(engine: Engine, records: Sequence[Record], evaluator: str = "") -> list[Seen]:
    """The verdicts on these conversations, oldest first; of one that was asked for again, the newest.

    evaluator: only its; `ID` or `ID@VERSION`.
    """
    found: dict[str, Seen] = {}
    scored: set[str] = set()
    for record in records:
        query = Query(conversation=record.id, kinds=(VERDICT,))
        async for event in all_events(engine, query):
            seen = Seen(record, event, msgspec.convert(event.body, Verdict))
            if evaluator and evaluator not in (seen.verdict.evaluator, seen.name):
                continue
            key = f"{record.id}/{event.ref}/{seen.verdict.key}" if seen.verdict.key else event.id
            if seen.verdict.status == "scored":
                scored.add(key)
            elif key in scored:  # asked for again in vain
                continue
            found.pop(key, None)
            found[key] = seen
    return list(found.values())


def evaluation_of(
    written: str,
    params: Sequence[str] = (),
    *,
    rubric: str | None = None,
    model: str | None = None,
    repeats: int = 1,
    asked: Sequence[Evaluation] = (),
) -> Evaluation:
    """An evaluation as a command line says it; where it says no params, as the conversation's setup does.

    Raises UsageError.
    """
    name, _, version = written.partition("@")
    given = dict(_param(each) for each in params)
    if rubric is not None:
        given["rubric"] = _text(rubric)
    base, first = next((each for each in asked if each.evaluator == name), None), 0
    if base is not None and not given:
        given, version, first = dict(base.params), version or base.version, base.first
    if model is not None:
        given["model"] = model
    return Evaluation(evaluator=name, version=version, params=given, repeats=repeats, first=first)


def _param(written: str) -> tuple[str, Any]:
    from p2engine.documents import parse_yaml

    name, equals, value = written.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"a param is written as NAME=VALUE, not {written[:40]!r}")
    try:
        return name.strip(), parse_yaml(value, name.strip()).value if value.strip() else ""
    except ConfigError:
        return name.strip(), value


def _text(written: str) -> str:
    """A text, or what stands in the file of `@FILE`."""
    from pathlib import Path

    from p2engine.documents import read_text

    return read_text(Path(written[1:])) if written.startswith("@") and len(written) > 1 else written


def verdict_row(verdict: Verdict) -> dict[str, Any]:
    """A verdict as a document."""
    return {
        "evaluator": verdict.evaluator,
        "version": verdict.version,
        "subject": verdict.subject,
        "score": verdict.score,
        "label": verdict.label or None,
        "status": verdict.status,
        "metrics": verdict.metrics,
        "samples": list(verdict.samples) or None,
        "source": verdict.source or None,
        "comment": verdict.comment or None,
        "model": verdict.model or None,
        "terms": terms_row(verdict),
        "tokens": verdict.spent.tokens,
        "cost_usd": verdict.spent.cost_usd,
    }


def terms_row(verdict: Verdict) -> dict[str, Any] | None:
    """What it was judged by, as a document; None where no model judges."""
    terms = verdict.terms
    return {**msgspec.structs.asdict(terms), "key": terms.key, "words": terms.words} if terms else None


def verdict_lines(verdict: Verdict) -> Iterator[str]:
    """A verdict for people."""
    yield f"{verdict.evaluator}@{verdict.version}: {score_words(verdict.score, verdict)}"
    yield from (f"  {name}: {value:.3g}" for name, value in verdict.metrics.items())
    if verdict.samples:
        yield f"  samples: {', '.join('–' if each is None else f'{each:.3g}' for each in verdict.samples)}"
    if verdict.comment:
        yield f"  {one_line(verdict.comment, 1000)}"
    if verdict.model:
        yield f"  by {verdict.model}, {spent_words(verdict.spent)}"
    if verdict.source:
        yield f"  as on {verdict.source}, where the same was judged before"
    if verdict.terms:
        yield f"  on terms: {verdict.terms.words}"


def spent_words(spent: Spent) -> str:
    """Tokens and their cost; `–` where that is not known."""
    from p2engine.cli.conversation_view import dollars

    return f"{spent.tokens} tokens, {dollars(spent.cost_usd)}"


def score_words(value: float | None, verdict: Verdict) -> str:
    """A number; where there is none, why not."""
    if value is not None:
        return f"{value:.3f}"
    return verdict.label if verdict.status == "scored" and verdict.label else f"– ({verdict.status})"


def seen_row(seen: Seen, metric: str) -> dict[str, Any]:
    """A verdict with its conversation, as a document."""
    return {
        "conversation": seen.record.name,
        "branch": seen.event.branch,
        "agent": seen.event.agent,
        "metric": metric,
        "value": seen.value(metric),
        **verdict_row(seen.verdict),
        "at": iso(seen.event.at),
    }

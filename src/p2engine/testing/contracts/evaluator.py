"""What every Evaluator does: it judges what it is shown, changes nothing, and never makes a number up."""

import asyncio
import math

import msgspec

from p2engine.domain.verdicts import Subject, Verdict
from p2engine.errors import EffectError
from p2engine.ports import Evaluator

STATUSES = ("scored", "undecided", "error")


class EvaluatorContract:
    """A subclass gives the fixtures `evaluator`, and `subject`: something that it can judge."""

    async def test_it_has_a_name_and_a_version(self, evaluator: Evaluator) -> None:
        """Both are texts, and the same each time."""
        assert evaluator.id
        assert evaluator.version
        assert (evaluator.id, evaluator.version) == (evaluator.id, evaluator.version)

    async def test_a_verdict_says_whose_it_is_and_of_what(self, evaluator: Evaluator, subject: Subject) -> None:
        """The evaluator, its version, and the event that was judged."""
        verdict = await evaluator.evaluate(subject)
        assert isinstance(verdict, Verdict)
        assert (verdict.evaluator, verdict.version) == (evaluator.id, evaluator.version)
        assert verdict.subject == subject.event
        assert verdict.status in STATUSES

    async def test_numbers_are_numbers(self, evaluator: Evaluator, subject: Subject) -> None:
        """A score is in 0..1 or is none; one that is none is not called scored without a label; metrics are finite."""
        verdict = await evaluator.evaluate(subject)
        if verdict.score is not None:
            assert 0 <= verdict.score <= 1
            assert verdict.status == "scored"
        else:
            assert verdict.status != "scored" or verdict.label
        assert all(math.isfinite(value) for value in verdict.metrics.values())

    async def test_a_verdict_can_be_kept(self, evaluator: Evaluator, subject: Subject) -> None:
        """It is the same after it was written and read."""
        verdict = await evaluator.evaluate(subject)
        assert msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict

    async def test_what_is_judged_stays_as_it_was(self, evaluator: Evaluator, subject: Subject) -> None:
        """Neither the transcript nor the params are changed."""
        before = msgspec.json.encode(subject, order="deterministic")
        await evaluator.evaluate(subject)
        assert msgspec.json.encode(subject, order="deterministic") == before

    async def test_an_empty_turn_is_judged_or_refused(self, evaluator: Evaluator, subject: Subject) -> None:
        """Where nothing was said, it gives a verdict or raises EffectError, and no other."""
        empty = msgspec.structs.replace(subject, transcript=(), answer="", reason=None, holdings={})
        try:
            verdict = await evaluator.evaluate(empty)
        except EffectError:
            return
        assert verdict.status in STATUSES

    async def test_several_are_judged_at_once(self, evaluator: Evaluator, subject: Subject) -> None:
        """Calls that run beside one another do not disturb one another."""
        others = [msgspec.structs.replace(subject, event=f"ref:{number}") for number in range(8)]
        verdicts = await asyncio.gather(*map(evaluator.evaluate, others))
        assert [verdict.subject for verdict in verdicts] == [other.event for other in others]

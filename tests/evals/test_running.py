"""Asking an evaluator: whatever it does becomes a verdict, and several samples become one."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from p2engine.domain.evaluation import Evaluation
from p2engine.domain.verdicts import Line, Subject, Verdict
from p2engine.errors import ToolError, UsageError
from p2engine.evals.function import Declared
from p2engine.evals.llm import LLMEvaluator
from p2engine.evals.running import REPEATS_MAX, Evaluators, Limit
from tests.evals.subjects import Says, judges, subject


def bench(body: object, **options: Any) -> Evaluators:
    return judges(None, Declared(body, id="mine", version="1.0"), **options)


async def verdict(body: object, *, repeats: int = 1, judged: Subject | None = None, **options: Any) -> Verdict:
    return await bench(body, **options)(Evaluation(evaluator="mine", repeats=repeats), judged or subject())


@pytest.mark.parametrize(
    ("result", "score", "label"),
    [
        (0.25, 0.25, ""),
        (1, 1.0, ""),
        (Decimal("0.5"), 0.5, ""),
        (True, 1.0, "pass"),
        (False, 0.0, "fail"),
        (None, None, ""),
        ({"label": "rude"}, None, "rude"),
        ({"score": 0.5, "comment": "so so"}, 0.5, ""),
        ({"score": None}, None, ""),
    ],
)
async def test_what_an_evaluator_may_give(result: object, score: float | None, label: str) -> None:
    """A number, yes or no, nothing, or more in a mapping; without a score and a label it is undecided."""
    found = await verdict(lambda subject: result)
    assert (found.score, found.label) == (score, label)
    assert found.status == ("undecided" if score is None and not label else "scored")
    assert (found.evaluator, found.version, found.subject) == ("mine", "1.0", "ref:7")


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (float("nan"), "what it returned is nan"),
        (float("inf"), "inf"),
        (7, "the score is 7, not from 0 to 1"),
        (-0.1, "-0.1"),
        ("high", "the text 'high'"),
        (b"0.5", "text"),
        (object(), "of type object"),
        ([0.5], "of type list"),
        ({"score": "0.5"}, "the text '0.5'"),
        ({"score": 0.5, "metrics": {"n": float("nan")}}, "the metric 'n' is nan"),
        ({"score": 0.5, "metrics": [1]}, "metrics are a mapping"),
        ({"score": 0.5, "note": "x"}, "the metric 'note' is the text"),
        ({"score": 0.5, "comment": 3}, "label and comment are texts"),
        ({"status": "great"}, "not 'great'"),
        ({"score": 0.5, "metrics": {f"m{n}": n for n in range(300)}}, "300 metrics"),
        (Verdict(evaluator="x", version="1", subject="y", score=7.0), "the score is 7"),
        (10**400, "of type int"),
    ],
)
async def test_what_is_no_verdict_is_an_error(result: object, why: str) -> None:
    """NaN, a score of 7, a word, another type: an error with its reason, and no number."""
    found = await verdict(lambda subject: result)
    assert (found.status, found.score, found.metrics) == ("error", None, {})
    assert why in found.comment


class Raises:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def evaluate(self, subject: Subject) -> float:
        raise self.error


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ValueError("no\nmore"), "ValueError: no"),
        (ToolError("the search is down"), "the search is down"),
        (UsageError("wrong", hint="mend it"), "wrong; mend it"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyError("x"), "KeyError: 'x'"),
        (asyncio.CancelledError(), "CancelledError"),
        (TimeoutError("the socket"), "TimeoutError: the socket"),
        (RecursionError(), "RecursionError"),
    ],
)
async def test_failure_11_an_evaluator_that_raises_is_an_error_not_a_zero(error: BaseException, why: str) -> None:
    """Whatever it raises, in a thread or on the loop."""

    async def awaited(subject: Subject) -> float:
        raise error

    for body in (Raises(error), awaited):
        found = await verdict(body)
        assert (found.status, found.score, found.comment) == ("error", None, why)


class Never(LLMEvaluator):
    def __init__(self) -> None:
        raise RuntimeError("no configuration")

    def build_messages(self, subject: Subject) -> list[Any]:
        return []


async def test_a_class_that_cannot_be_made_is_an_error() -> None:
    """And what its verdict depends on can be told all the same."""
    assert (await verdict(Never)).comment == "RuntimeError: no configuration"
    assert bench(Never).key(Evaluation(evaluator="mine"), subject())


async def test_a_hanging_evaluator_is_given_up(release: threading.Event) -> None:
    """One on the loop and one in a thread: after the evaluation's time there is an error that says so."""

    async def on_loop(subject: Subject) -> float:
        await asyncio.Event().wait()
        return 1.0

    def in_thread(subject: Subject) -> float:
        release.wait()
        return 1.0

    for body in (on_loop, in_thread):
        found = await bench(body)(Evaluation(evaluator="mine", timeout_s=0.01), subject())
        assert (found.status, found.score) == ("error", None)
        assert found.comment == "mine did not answer within 0.01 s"


@pytest.fixture
def release() -> Any:
    """Ends what hangs in a thread."""
    event = threading.Event()
    yield event
    event.set()


async def test_samples_that_came_in_time_are_kept() -> None:
    """The time is that of all samples: those that did not come are missing, and it is said."""
    came = asyncio.Event()

    async def some(subject: Subject) -> float:
        if subject.repeat == 2:
            came.set()
            await asyncio.Event().wait()
        return 0.5 + subject.repeat / 4

    @asynccontextmanager
    async def until_they_came(seconds: float) -> AsyncIterator[Limit]:
        class Expired:
            def expired(self) -> bool:
                return True

        task = asyncio.current_task()
        assert task is not None

        async def strike() -> None:
            await came.wait()
            for _ in range(20):
                await asyncio.sleep(0)
            task.cancel()

        striking = asyncio.ensure_future(strike())
        try:
            yield Expired()
        except asyncio.CancelledError:
            task.uncancel()
            raise TimeoutError from None
        finally:
            striking.cancel()

    found = await verdict(some, repeats=3, limit=until_they_came)
    assert found.samples == (0.5, 0.75, None)
    assert found.score == pytest.approx(0.625)
    assert found.comment.startswith("2 of 3 samples decided (mine did not answer within 300 s)")


async def test_cancelling_the_caller_cancels() -> None:
    """Whoever closes the engine is not told a verdict."""
    begun = asyncio.Event()

    async def waits(subject: Subject) -> float:
        begun.set()
        await asyncio.Event().wait()
        return 1.0

    for repeats in (1, 3):
        begun.clear()
        task = asyncio.ensure_future(verdict(waits, repeats=repeats))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_samples_become_one_verdict() -> None:
    """The mean of those that are decided; metrics likewise; the label that most have; each sample's score is kept."""
    answers: list[Any] = [
        {"score": 0.2, "label": "bad", "comment": "first", "n": 1},
        {"score": 0.8, "label": "good", "n": 2},
        None,
        {"score": 0.8, "label": "good", "n": 3},
    ]
    found = await verdict(lambda subject: answers[subject.repeat], repeats=4)
    assert found.score == pytest.approx(0.6)
    assert found.samples == (0.2, 0.8, None, 0.8)
    assert (found.label, found.metrics, found.status) == ("good", {"n": 2.0}, "scored")
    assert found.comment == "3 of 4 samples decided. first"


async def test_where_no_sample_is_decided_neither_is_the_verdict() -> None:
    """All undecided: undecided. All failed: an error. Some of each: undecided, since one had a word to say."""
    assert (await verdict(lambda subject: None, repeats=3)).status == "undecided"
    assert (await verdict(lambda subject: 7, repeats=3)).status == "error"
    mixed = await verdict(lambda subject: 7 if subject.repeat else None, repeats=3)
    assert (mixed.status, mixed.score, mixed.samples) == ("undecided", None, (None, None, None))


@pytest.mark.parametrize("repeats", [0, -1, REPEATS_MAX + 1])
async def test_a_number_of_repeats_that_cannot_be(repeats: int) -> None:
    """It is an error that says so; and refused at planning where it is below one."""
    found = await verdict(lambda subject: 1.0, repeats=repeats)
    assert (found.status, found.score) == ("error", None)
    assert "repeats" in found.comment
    if repeats < 1:
        with pytest.raises(UsageError, match="repeats"):
            bench(lambda subject: 1.0).registry.check(Evaluation(evaluator="mine", repeats=repeats))


async def test_an_evaluator_works_on_a_copy() -> None:
    """Whatever it does to params, arguments or wallets, nobody else sees."""
    params = {"list": [1]}
    judged = subject()

    def spoil(subject: Subject) -> float:
        assert subject.params == {"list": [1]}
        subject.params["list"].append(2)
        subject.transcript[1].arguments.clear()
        return 1.0

    found = await bench(spoil)(Evaluation(evaluator="mine", params=params, repeats=3), judged)
    assert found.samples == (1.0, 1.0, 1.0)
    assert (params, judged.transcript[1].arguments["location"]) == ({"list": [1]}, "Paris")


async def test_text_that_cannot_be_kept_is_mended() -> None:
    """Half characters and endless comments do not stop a verdict from being written."""
    found = await verdict(lambda subject: {"score": 1, "comment": "half \ud800 " + "x" * 100_000})
    assert found.score == 1.0
    assert found.comment.startswith("half ? xxx")
    assert len(found.comment) == 4000
    failing = await verdict(Raises(ValueError("\ud800" + "y" * 100_000)))
    assert failing.status == "error"
    failing.comment.encode()


async def test_an_unknown_evaluator_is_an_error() -> None:
    """Asked for all the same, it does not raise."""
    found = await judges()(Evaluation(evaluator="nobody"), subject())
    assert (found.status, found.evaluator) == ("error", "nobody")


class Expert(LLMEvaluator):
    """Asks for a grade."""

    model = "openai/gpt-4o-mini"
    temperature = 0.3

    def build_messages(self, payload: Subject) -> list[dict[str, str]]:
        return [
            {"role": "system", "content": "You are an examiner."},
            {"role": "user", "content": f"Grade: {payload.answer}"},
        ]

    def parse(self, text: str, payload: Subject) -> dict[str, Any]:
        return {"score": {"A": 1.0, "B": 0.5}[text.strip()], "label": text.strip()}


async def test_an_llm_evaluator_of_a_project_has_its_own_words_and_parsing() -> None:
    """It asks its model at its temperature; what its parse cannot read is asked again with the reason."""
    model = Says("C", "B")
    bench = judges(model, Declared(Expert, id="expert", version="1.0"))
    found = await bench(Evaluation(evaluator="expert"), subject())
    assert (found.score, found.label, found.model) == (0.5, "B", "gpt-4o-2024")
    assert (found.spent.tokens, found.spent.usd) == (220, 0.02)
    first, second = model.asked
    assert (first.model, first.temperature, first.instructions) == (
        "openai/gpt-4o-mini",
        0.3,
        "You are an examiner.",
    )
    assert [message.text for message in first.messages] == ["Grade: It is 22 °C in Paris."]
    assert "C is missing" in second.messages[-1].text


async def test_params_of_the_evaluation_win_over_the_class() -> None:
    """Model and temperature are those that the evaluation names."""
    model = Says("A")
    bench = judges(model, Declared(Expert, id="expert", version="1.0"))
    await bench(Evaluation(evaluator="expert", params={"model": "x/y", "temperature": 1}), subject())
    assert (model.asked[0].model, model.asked[0].temperature) == ("x/y", 1.0)


@pytest.mark.parametrize(
    "said", [[], [{"role": "tool", "content": "x"}], ["hello"], [{"role": "system", "content": "x"}]]
)
async def test_messages_that_are_none_are_an_error(said: list[Any]) -> None:
    """Nobody is asked."""

    class Odd(LLMEvaluator):
        def build_messages(self, subject: Subject) -> list[Any]:
            return said

    model = Says("A")
    found = await judges(model, Declared(Odd, id="odd", version="1"))(Evaluation(evaluator="odd"), subject())
    assert (found.status, model.asked) == ("error", [])
    assert "message" in found.comment


async def test_a_step_without_an_answer_can_be_judged() -> None:
    """While a turn goes on there may be nothing said yet."""
    going = subject(transcript=(Line(kind="user", text="go"),), reason=None)
    assert (await verdict(lambda subject: subject.reason is None, judged=going)).score == 1.0

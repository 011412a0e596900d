"""One call made to come to something: attempts, waits, time-outs, and text that is shown once. Time is virtual."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from p2engine.domain.messages import ModelReply, ModelRequest, ToolUse, Usage
from p2engine.errors import ConfigError, ModelError
from p2engine.limits import MODEL_ATTEMPTS_MAX, RETRY_AFTER_MAX_S
from p2engine.models.calling import RETRIES, Guarded
from p2engine.models.limiter import LocalLimiter
from p2engine.models.scripted import ScriptedModel
from p2engine.ports import OnText
from p2engine.testing import virtual_time

REQUEST = ModelRequest(model="openai/gpt-4o", key="abc:1.0")
BUSY = ModelError("openai: too many calls (429)", retryable=True, status=429)


def said(text: str, **usage: Any) -> ModelReply:
    """A reply with this text."""
    return ModelReply(text=text, usage=Usage(model="gpt-4o", **usage))


class Talking:
    """A double of a streaming model: each attempt says its pieces, and then fails or answers with all of them."""

    def __init__(self, *attempts: Sequence[str | ModelError]) -> None:
        self._attempts = iter(attempts)

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReply:
        pieces: list[str] = []
        for piece in next(self._attempts):
            if isinstance(piece, ModelError):
                raise piece
            pieces.append(piece)
            if on_text is not None:
                on_text(piece)
        return said("".join(pieces))


class Slow:
    """A double of a model that takes so many seconds of the loop's time for each call."""

    def __init__(self, *seconds: float) -> None:
        self._seconds = iter(seconds)

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReply:
        passed = asyncio.Event()
        asyncio.get_running_loop().call_later(next(self._seconds), passed.set)
        await passed.wait()
        return said("at last")


def guarded(model: Any, limiter: LocalLimiter | None = None, **fields: Any) -> Guarded:
    """The model behind a limiter of its own, without chance."""
    return Guarded(model, "openai", limiter or LocalLimiter(), chance=lambda: 1.0, **fields)


def timed(model: Any, on_text: OnText | None = None, **fields: Any) -> tuple[ModelReply, float]:
    """The reply to one call, and how many seconds it took."""

    async def scene() -> tuple[ModelReply, float]:
        reply = await guarded(model, **fields).complete(REQUEST, on_text=on_text)
        return reply, asyncio.get_running_loop().time()

    return virtual_time.run(scene())


def failing(model: Any, **fields: Any) -> ModelError:
    """The error of one call."""
    with pytest.raises(ModelError) as caught:
        timed(model, **fields)
    return caught.value


def test_seam_26_a_call_that_works_is_one_attempt() -> None:
    """The first attempt runs bare: no wait, the same request, one attempt in the usage."""
    model = ScriptedModel([said("Hi", tokens_in=5)])
    reply, seconds = timed(model)
    assert (reply.text, reply.usage.attempts, reply.usage.tokens_in, seconds) == ("Hi", 1, 5, 0.0)
    assert model.requests == [REQUEST]


def test_what_may_pass_is_tried_again() -> None:
    """Retryable errors are tried again with growing waits, with the same key, and the attempts are counted."""
    model = ScriptedModel([BUSY, BUSY, BUSY, said("Hi")])
    reply, seconds = timed(model)
    assert (reply.text, reply.usage.attempts) == ("Hi", 4)
    assert seconds == pytest.approx(0.5 + 1 + 2)
    assert {request.key for request in model.requests} == {"abc:1.0"}


def test_chance_shortens_a_wait_by_no_more_than_half() -> None:
    """Jitter lies between half of a wait and all of it."""

    async def scene() -> float:
        model = Guarded(ScriptedModel([BUSY, said("Hi")]), "openai", LocalLimiter(), chance=lambda: 0.0)
        await model.complete(REQUEST)
        return asyncio.get_running_loop().time()

    assert virtual_time.run(scene()) == pytest.approx(0.25)


def test_each_retry_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """When, why, and which attempt of how many; an answer that holds nothing has fewer."""
    with caplog.at_level(logging.WARNING, RETRIES):
        timed(ScriptedModel([BUSY, said(""), said(""), said("Hi")]))

    assert [record.getMessage() for record in caplog.records] == [
        "retrying in 0.5 s: openai: too many calls (429) (attempt 2 of 5)",
        "retrying in 1.0 s: openai: answered nothing (attempt 3 of 4)",
        "retrying in 2.0 s: openai: answered nothing (attempt 4 of 4)",
    ]


def test_attempts_have_an_end() -> None:
    """After the last attempt the error says how many there were."""
    model = ScriptedModel([BUSY] * 20)
    error = failing(model)
    assert len(model.requests) == MODEL_ATTEMPTS_MAX
    assert error.message == f"openai: too many calls (429) (after {MODEL_ATTEMPTS_MAX} attempts)"
    assert error.status == 429


def test_what_will_not_pass_is_not_tried_again() -> None:
    """An error that is not retryable comes at once, as it is; so does one of the setup."""
    refused = ModelError("openai: the key was refused (401)", status=401)
    model = ScriptedModel([refused, said("never")])
    assert failing(model) is refused
    assert len(model.requests) == 1
    with pytest.raises(ConfigError):
        timed(ScriptedModel([ConfigError("no such file")]))


def test_a_rest_that_is_asked_for_is_given() -> None:
    """Retry-After is waited for, and every other call of that provider waits as well; other providers do not."""

    async def scene() -> tuple[float, float, float]:
        limiter, loop = LocalLimiter(), asyncio.get_running_loop()
        busy = ModelError("busy", retryable=True, retry_after_s=20.0)

        async def ends(model: Guarded) -> float:
            await model.complete(REQUEST)
            return loop.time()

        first = asyncio.create_task(ends(guarded(ScriptedModel([busy, said("Hi")]), limiter)))
        for _ in range(5):
            await asyncio.sleep(0)  # the first is told to wait
        second = asyncio.create_task(ends(guarded(ScriptedModel([said("Hi")]), limiter)))
        other = Guarded(ScriptedModel([said("Hi")]), "anthropic", limiter)
        return await first, await second, await ends(other) - loop.time()

    first, second, other = virtual_time.run(scene())
    assert first == pytest.approx(20.5)
    assert second == pytest.approx(20.0)
    assert other == 0.0


def test_too_long_a_rest_is_an_error() -> None:
    """Nobody waits for longer than RETRY_AFTER_MAX_S: the error names what was asked, at once."""
    asked = RETRY_AFTER_MAX_S + 1
    model = ScriptedModel([ModelError("openai: busy", retryable=True, retry_after_s=asked), said("never")])
    error = failing(model)
    assert f"asks to wait {asked:g} s" in error.message
    assert error.retry_after_s == asked
    assert len(model.requests) == 1


def test_an_attempt_has_a_time_out() -> None:
    """Each attempt ends after timeout_s; the next may answer."""
    reply, seconds = timed(Slow(100, 100, 3), timeout_s=10)
    assert (reply.text, reply.usage.attempts) == ("at last", 3)
    assert seconds == pytest.approx(10 + 0.5 + 10 + 1 + 3)
    assert "no answer within 10 s" in failing(Slow(100, 100), timeout_s=10, attempts=2).message


def test_seam_01_the_wait_for_a_turn_is_not_the_attempts() -> None:
    """A call that queues behind another for longer than its time-out still gets its whole time."""

    async def scene() -> list[ModelReply]:
        model = guarded(Slow(8, 8, 8), LocalLimiter(1), timeout_s=10)
        return await asyncio.gather(*(model.complete(REQUEST) for _ in range(3)))

    assert [reply.usage.attempts for reply in virtual_time.run(scene())] == [1, 1, 1]


def test_nothing_is_asked_again_twice() -> None:
    """An empty reply is asked again at most twice; its tokens and cost count."""
    nothing, blank = said("", tokens_in=10, cost_usd=0.5), said(" \n", tokens_in=10, cost_usd=0.25)
    reply, _ = timed(ScriptedModel([nothing, blank, said("Hi", tokens_in=10, tokens_out=1, cost_usd=0.25)]))
    assert (reply.text, reply.usage.attempts) == ("Hi", 3)
    assert (reply.usage.tokens_in, reply.usage.tokens_out, reply.usage.cost_usd) == (30, 1, 1.0)

    model = ScriptedModel([nothing] * 9)
    assert "answered nothing" in failing(model).message
    assert len(model.requests) == 3


def test_a_cost_that_is_unknown_in_part_is_unknown() -> None:
    """None and a number do not add up to a number."""
    reply, _ = timed(ScriptedModel([said("", cost_usd=0.5), said("Hi")]))
    assert reply.usage.cost_usd is None


def test_calls_without_text_are_an_answer() -> None:
    """A reply of calls alone is not empty."""
    reply, _ = timed(ScriptedModel([[ToolUse("c1", "f")]]))
    assert [call.name for call in reply.calls] == ["f"]


@pytest.mark.parametrize(
    ("attempts", "shown"),
    [
        ([["Hel", "lo"]], "Hello"),
        ([[BUSY], ["Hel", "lo"]], "Hello"),
        ([["Hel", BUSY], ["H", "ello"]], "Hello"),
        ([["Hel", BUSY], ["Hel", "lo"]], "Hello"),
        ([["Hello", BUSY], ["Hel", "lo"]], "Hello"),
        ([["Hel", BUSY], ["Help", " me"]], "Help me"),
        ([["Hel", BUSY], ["Good", " day"]], "Hel\nGood day"),
        ([["Hello you", BUSY], ["Hello"]], "Hello you\nHello"),
        ([["Hel", BUSY], ["Good", BUSY], ["Good", " day"]], "Hel\nGood day"),
        ([["A", BUSY], ["B", BUSY], ["C"]], "A\nB\nC"),
        ([["A", BUSY], [BUSY], ["AB"]], "AB"),
    ],
)
def test_a_retry_shows_no_text_twice(attempts: list[list[str | ModelError]], shown: str) -> None:
    """What was shown before an attempt broke is not shown again; another text begins on a line of its own."""
    texts: list[str] = []
    reply, _ = timed(Talking(*attempts), on_text=texts.append)
    assert "".join(texts) == shown
    assert shown.endswith(reply.text)


def test_a_cancelled_call_gives_its_turn_back() -> None:
    """Cancelling during an attempt or a wait leaves the limiter as it was."""

    async def scene(make: Callable[[], Any]) -> None:
        limiter = LocalLimiter(1)
        task = asyncio.create_task(guarded(make(), limiter).complete(REQUEST))
        for _ in range(3):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.wait_for(limiter.acquire("openai"), 1)

    virtual_time.run(scene(lambda: Slow(50)))
    virtual_time.run(scene(lambda: ScriptedModel([BUSY, said("Hi")])))

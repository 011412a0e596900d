"""One model call, made to come to something: a turn from the limiter, a bound on each attempt, and further attempts.

Knows errors and waits; never a wire. The first attempt runs bare: nothing is set up for a retry until one is due.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from p2engine.domain.messages import ModelReply, ModelRequest, Usage
from p2engine.errors import ModelError
from p2engine.limits import (
    MODEL_ATTEMPTS_MAX,
    MODEL_TIMEOUT_S,
    RETRY_AFTER_MAX_S,
    RETRY_WAIT_INITIAL_S,
    RETRY_WAIT_MAX_S,
)
from p2engine.ports import Limiter, Model, OnText

EMPTY_RETRIES_MAX = 2  # how often a model that answers nothing is asked again

RETRIES: Final = "p2engine.models.retries"
"""The logger of one warning a retry: when, why, and which attempt it is."""

_LOG = logging.getLogger(RETRIES)


class Guarded:
    """A model behind its provider's limiter, with a time-out for each attempt and retries for what may pass.

    timeout_s: seconds for one attempt, not counting the wait for a turn. Waits between attempts grow from
    RETRY_WAIT_INITIAL_S, with jitter; a provider that asks for a rest gets it from every call of that provider, and
    one that asks for more than RETRY_AFTER_MAX_S is an error at once. `Usage.attempts` counts all attempts,
    `Usage.latency_s` is that of the one that answered, tokens and cost are of all that were answered.
    `chance` gives a number in [0, 1) for the jitter.
    """

    def __init__(
        self,
        model: Model,
        provider: str,
        limiter: Limiter,
        attempts: int = MODEL_ATTEMPTS_MAX,
        timeout_s: float = MODEL_TIMEOUT_S,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._model = model
        self._provider = provider
        self._limiter = limiter
        self._attempts = attempts
        self._timeout_s = timeout_s
        self._chance = chance

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReply:
        """Ask until there is an answer, or an error that asking again cannot mend. Raises ModelError.

        `on_text` gets each piece once: an attempt that starts over is silent as long as it repeats what was handed
        on, and where it says something else, a line break and its whole text follow.
        """
        shown = None if on_text is None else _Shown(on_text)
        nothings: list[Usage] = []
        attempt = 0
        while True:
            attempt += 1
            try:
                reply = await self._attempt(request, shown)
            except ModelError as error:
                failure, last = error, self._attempts
            else:
                if reply.text.strip() or reply.calls:
                    return _with_attempts(reply, attempt, nothings)
                nothings.append(reply.usage)
                left = EMPTY_RETRIES_MAX + 1 - len(nothings)
                failure, last = self._nothing(again=left > 0), min(self._attempts, attempt + left)
            wait_s = self._wait_s(failure, attempt)
            _LOG.warning("retrying in %.1f s: %s (attempt %d of %d)", wait_s, failure.message, attempt + 1, last)
            await asyncio.sleep(wait_s)

    def _nothing(self, *, again: bool) -> ModelError:
        return ModelError(f"{self._provider}: answered nothing", retryable=again)

    async def _attempt(self, request: ModelRequest, shown: "_Shown | None") -> ModelReply:
        await self._limiter.acquire(self._provider)
        try:
            began = time.monotonic()
            async with asyncio.timeout(self._timeout_s):
                if shown is None:
                    reply = await self._model.complete(request)
                else:
                    shown.start_over()
                    reply = await self._model.complete(request, on_text=shown.take)
                    shown.end()
        except TimeoutError as error:
            raise ModelError(f"{self._provider}: no answer within {self._timeout_s:g} s", retryable=True) from error
        finally:
            self._limiter.release(self._provider)
        return ModelReply(
            text=reply.text, calls=reply.calls, usage=replace(reply.usage, latency_s=time.monotonic() - began)
        )

    def _wait_s(self, error: ModelError, attempt: int) -> float:
        """Seconds before the next attempt. Raises the error, in full words, when there is to be none."""
        asked_s = error.retry_after_s
        if asked_s is not None and asked_s > RETRY_AFTER_MAX_S:
            raise _final(error, f"asks to wait {asked_s:g} s, more than {RETRY_AFTER_MAX_S:g} s") from error
        if asked_s:
            self._limiter.pause(self._provider, asked_s)
        if not error.retryable:
            raise error
        if attempt >= self._attempts:
            raise _final(error, f"after {attempt} attempts") if attempt > 1 else error
        step_s: float = min(RETRY_WAIT_MAX_S, RETRY_WAIT_INITIAL_S * 2 ** (attempt - 1))
        return (asked_s or 0.0) + step_s * (1 + self._chance()) / 2


def _final(error: ModelError, why: str) -> ModelError:
    """The same error, saying why it is the last."""
    final = ModelError(
        f"{error.message} ({why})",
        retryable=error.retryable,
        retry_after_s=error.retry_after_s,
        status=error.status,
    )
    final.hint = error.hint
    return final


def _with_attempts(reply: ModelReply, attempts: int, nothings: list[Usage]) -> ModelReply:
    """The reply, its usage counting every attempt, and what the empty ones cost as well."""
    if attempts == 1:
        return reply
    usages = [*nothings, reply.usage]
    costs = [usage.cost_usd for usage in usages]
    total = replace(
        reply.usage,
        attempts=attempts,
        tokens_in=sum(usage.tokens_in for usage in usages),
        tokens_out=sum(usage.tokens_out for usage in usages),
        cost_usd=None if None in costs else sum(cost for cost in costs if cost is not None),
    )
    return ModelReply(text=reply.text, calls=reply.calls, usage=total)


class _Shown:
    """What a reader has seen of this call, whichever attempt said it."""

    def __init__(self, on_text: OnText) -> None:
        self._on_text = on_text
        self._pieces: list[str] = []  # seen of the answer that the reader sees now
        self._seen = ""  # the same as one text, while an attempt repeats it
        self._said = ""  # by that attempt so far
        self._repeats = False

    def start_over(self) -> None:
        self._seen = "".join(self._pieces)
        self._said = ""
        self._repeats = bool(self._seen)

    def take(self, text: str) -> None:
        if not self._repeats:
            self._show(text)
            return
        self._said += text
        if self._said.startswith(self._seen):
            self._repeats = False
            self._show(self._said[len(self._seen) :])
        elif not self._seen.startswith(self._said):
            self._say_again()

    def end(self) -> None:
        """The attempt is complete: if it stopped short of what was seen, its own text is said again."""
        if self._repeats and self._said:
            self._say_again()

    def _say_again(self) -> None:
        self._repeats = False
        self._pieces.clear()
        self._on_text("\n")
        self._show(self._said)

    def _show(self, text: str) -> None:
        if text:
            self._pieces.append(text)
            self._on_text(text)

"""What a turn may still spend. Derived from entries alone: no counter is shared, so parts always add up."""

from functools import lru_cache
from typing import TypeVar

from p2engine.domain.render import prompt_tokens
from p2engine.domain.setup import Budget, Spent
from p2engine.domain.stack import Stack
from p2engine.domain.states import AgentCall
from p2engine.limits import TURN_STEPS_MAX

_N = TypeVar("_N", int, float)


def limit_of(stack: Stack) -> Budget:
    """The budget of the running turn: what the caller granted, within what the agent's own setup allows."""
    return _within(stack.setup.budget, stack.granted or Budget())


@lru_cache(maxsize=256)  # asked several times a step, and the same for many turns
def _within(own: Budget, granted: Budget) -> Budget:
    return Budget(
        steps=_least(own.steps, granted.steps, TURN_STEPS_MAX),
        tokens=_least(own.tokens, granted.tokens),
        usd=_least(own.usd, granted.usd),
        seconds=_least(own.seconds, granted.seconds),
    )


def remaining(limit: Budget, spent: Spent, elapsed_s: float) -> Budget:
    """What is left of `limit`; never negative; None stays unbounded."""
    return Budget(
        steps=None if limit.steps is None else max(0, limit.steps - spent.steps),
        tokens=None if limit.tokens is None else max(0, limit.tokens - spent.tokens),
        usd=None if limit.usd is None else max(0.0, limit.usd - spent.usd),
        seconds=None if limit.seconds is None else max(0.0, limit.seconds - elapsed_s),
    )


def unpromised(stack: Stack, at: float, spent: Spent) -> Budget:
    """What is left of the running turn after `spent`, less what its open calls may still spend."""
    for call, _ in stack.calls.values():
        grant = call.grant if isinstance(call, AgentCall) else Budget()
        spent = spent.plus(Spent(1 + (grant.steps or 0), grant.tokens or 0, 0, grant.usd or 0.0))
    return remaining(limit_of(stack), spent, at - stack.turn_at)


def carve(left: Budget, calls: int, delegates: int) -> Budget:
    """What each of `delegates` may spend: an equal part of `left` for each and one for the caller.

    Of the steps, one for the result of each of the `calls` decided together is kept back. Time runs for all alike.
    """
    return Budget(
        steps=None if left.steps is None else max(0, left.steps - calls) // (delegates + 1),
        tokens=None if left.tokens is None else left.tokens // (delegates + 1),
        usd=None if left.usd is None else left.usd / (delegates + 1),
        seconds=left.seconds,
    )


def reply_tokens(stack: Stack) -> int | None:
    """What the turn's tokens leave for the reply of the next model call, its prompt taken off; None: unbounded."""
    limit = limit_of(stack).tokens
    return None if limit is None else limit - stack.spent.tokens - prompt_tokens(stack)


def spent_out(stack: Stack, at: float) -> str:
    """Which bound of the turn's budget, or of the conversation's, keeps the next model call from being made, in words;
    empty while none does."""
    cap = stack.setup.conversation_usd
    if cap is not None and stack.caller is None and stack.total.usd >= cap:
        return f"{cap:g} USD in this conversation; raise budget.conversation_usd to go on"
    limit = limit_of(stack)
    left = remaining(limit, stack.spent, at - stack.turn_at)
    if left.steps == 0:
        return f"{limit.steps} steps in one turn"
    if left.tokens == 0:
        return f"{limit.tokens} tokens in one turn"
    if left.tokens is not None and (prompt := prompt_tokens(stack)) >= left.tokens:
        return f"{limit.tokens} tokens in one turn: the next prompt takes about {prompt}, and {left.tokens} are left"
    if left.usd is not None and limit.usd is not None and left.usd <= 0:
        return f"{limit.usd:g} USD in one turn"
    if left.seconds is not None and limit.seconds is not None and left.seconds <= 0:
        return f"{limit.seconds:g} seconds in one turn"
    return ""


def _least(*bounds: _N | None) -> _N | None:
    known = [bound for bound in bounds if bound is not None]
    return min(known) if known else None

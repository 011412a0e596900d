"""Checks of what an agent did: its calls, steps and errors, and what wallets hold. Knows transcripts; asks no model."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from p2engine.domain.money import Amount
from p2engine.domain.verdicts import Holding, Line, Subject
from p2engine.errors import UsageError
from p2engine.evals.check import Check, Decide, Outcome, count, flag, quote, text_of, value_of
from p2engine.positions import show

_WORDS = {"amount": "exactly", "at_least": "at least", "at_most": "at most"}
_BOUNDS = tuple(_WORDS)


def conduct_checks() -> list[Check]:
    """The checks of this module."""
    wallet = frozenset({"agent", *_BOUNDS})
    return [
        Check(
            "tool_called",
            "A tool was called: with these arguments, so often, and with success where that is asked for.",
            _tool_called,
            frozenset({"tool", "arguments", "times", "at_least", "ok"}),
        ),
        Check("tool_not_called", "A tool was not called.", _tool_not_called, frozenset({"tool"})),
        Check("ledger_received", "A wallet has received an amount.", _wallet("received"), wallet),
        Check("balance", "A wallet holds an amount.", _wallet("balance"), wallet),
        Check("no_error", "The turn ended with an answer, and no call failed.", _no_error),
        Check("max_steps", "The turn took no more steps: replies and results, delegates included.", _max_steps),
    ]


def _tool(params: Mapping[str, Any]) -> str:
    return text_of(params["tool"] if params.get("tool") is not None else value_of(params), "the tool")


def _tool_called(params: Mapping[str, Any]) -> Decide:
    tool, wanted = _tool(params), params.get("arguments") or {}
    if not isinstance(wanted, Mapping):
        raise UsageError(f"arguments are a mapping, not {show(wanted)}")
    times, least, ok = count(params, "times"), count(params, "at_least", 1), flag(params, "ok", usual=False)

    def decide(subject: Subject) -> Outcome:
        calls = _calls(subject, tool)
        fitting = [call for call, result in calls if _fits(call, wanted) and (not ok or _is_ok(result))]
        passed = len(fitting) == times if times is not None else len(fitting) >= (least or 0)
        words = f"{tool} was called {len(fitting)} times" + (" so" if wanted or ok else "")
        return Outcome(passed, words if calls or passed else f"{words}; {_called(subject)}")

    return decide


def _tool_not_called(params: Mapping[str, Any]) -> Decide:
    tool = _tool(params)

    def decide(subject: Subject) -> Outcome:
        calls = _calls(subject, tool)
        return Outcome(not calls, f"{tool} was called {len(calls)} times")

    return decide


def _calls(subject: Subject, tool: str) -> list[tuple[Line, Line | None]]:
    """The calls of a tool, each with its result: those of one name come back in the order in which they were made."""
    results = [line for line in subject.transcript if line.kind == "result" and line.name == tool]
    calls = [line for line in subject.transcript if line.kind == "call" and line.name == tool]
    return [(call, results[n] if n < len(results) else None) for n, call in enumerate(calls)]


def _called(subject: Subject) -> str:
    names = dict.fromkeys(line.name for line in subject.transcript if line.kind == "call")
    return f"called were: {', '.join(names)}" if names else "nothing was called"


def _is_ok(result: Line | None) -> bool:
    return result is not None and result.status == "ok"


def _fits(call: Line, wanted: Mapping[str, Any]) -> bool:
    return all(name in call.arguments and _alike(call.arguments[name], value) for name, value in wanted.items())


def _alike(given: Any, wanted: Any) -> bool:
    """Texts in any case; numbers also where the model wrote them as text."""
    if isinstance(wanted, Mapping):
        return isinstance(given, Mapping) and all(k in given and _alike(given[k], v) for k, v in wanted.items())
    if isinstance(wanted, bool) or isinstance(given, bool):
        return given is wanted
    if isinstance(wanted, int | float) or isinstance(given, int | float):
        try:
            return Decimal(str(given)) == Decimal(str(wanted))
        except ArithmeticError:
            return False
    if isinstance(wanted, str) and isinstance(given, str):
        return given.strip().casefold() == wanted.strip().casefold()
    return bool(given == wanted)


def _wallet(what: str) -> Any:
    def read(params: Mapping[str, Any]) -> Decide:
        agent = text_of(params.get("agent"), "agent")
        given = {"amount": params.get("value", params.get("expected")), **params}
        bounds = {name: _amount(given[name], name) for name in _BOUNDS if given.get(name) is not None}
        if not bounds:
            raise UsageError(f"it needs amount, at_least or at_most for {agent}")

        def decide(subject: Subject) -> Outcome:
            if not subject.holdings:
                return Outcome(None, "there is no ledger here")
            holding = subject.holdings.get(agent)
            if holding is None:
                return Outcome(False, f"{agent} has no wallet")
            return _bounded(holding, what, agent, bounds)

        return decide

    return read


def _bounded(holding: Holding, what: str, agent: str, bounds: Mapping[str, Decimal]) -> Outcome:
    held = Decimal(getattr(holding, what))
    passed = (
        held == bounds.get("amount", held)
        and held >= bounds.get("at_least", held)
        and held <= bounds.get("at_most", held)
    )
    verb = "has received" if what == "received" else "has"
    asked = ", ".join(f"{_WORDS[name]} {bound.normalize():f}" for name, bound in bounds.items())
    return Outcome(passed, f"{agent} {verb} {held}" + ("" if passed else f", not {asked}"))


def _amount(value: object, what: str) -> Decimal:
    try:
        return Amount.parse(value, zero=True).value
    except UsageError as error:
        raise UsageError(f"{what}: {error.message}") from None


def _no_error(params: Mapping[str, Any]) -> Decide:
    if params.get("value") not in (None, True):
        raise UsageError(f"it takes nothing, not {show(params['value'])}")
    return _without_error


def _without_error(subject: Subject) -> Outcome:
    failed = [line for line in subject.transcript if line.kind == "result" and line.status != "ok"]
    if failed:
        return Outcome(False, f"{failed[0].name} came back with {failed[0].status}: {quote(failed[0].text)}")
    if subject.reason not in (None, "answered"):
        return Outcome(False, f"the turn ended: {subject.reason}" + (f": {subject.detail}" if subject.detail else ""))
    return Outcome(True, "no call failed")


def _max_steps(params: Mapping[str, Any]) -> Decide:
    most = count({"value": value_of(params)}, "value")

    def decide(subject: Subject) -> Outcome:
        return Outcome(subject.spent.steps <= (most or 0), f"{subject.spent.steps} steps, at most {most}")

    return decide

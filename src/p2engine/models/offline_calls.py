"""Which tool calls a step comes to, or why none. Knows the tools that are offered; nothing of what happened before."""

from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_DOWN, Decimal, localcontext
from typing import Any, Final

import msgspec

from p2engine.domain.messages import ToolSpec
from p2engine.models.offline_phrases import Step
from p2engine.models.offline_words import quoted

NESTING_MAX: Final = 64  # brackets in arguments that are written out

Tools = Mapping[str, ToolSpec]
Calls = list[tuple[str, dict[str, Any]]]
"""The name and the arguments of each."""

_SHARE = Decimal("1e-10")


def calls_for(step: Step, tools: Tools) -> Calls | str | None:
    """What `step` wants called; a str is why it cannot be. None for a step that calls nothing."""
    tool, act = _ACTS.get(step.kind, ("", None))
    if act is None:
        return None
    if step.kind == "use":
        tool = step.names[0]
    if step.kind == "reward" and tool not in tools and step.amount is not None:
        tool, act, step = "transfer_funds", _transfer, msgspec.structs.replace(step, words=step.words or "reward")
    if tool not in tools:
        lacking = "the ledger's tools are not available to me" if tool in LEDGER else "I have no such tool here"
        return f"{quoted(step.text)}: {lacking} ({tool})"
    found = act(step, tools[tool])
    return f"{quoted(step.text)}: {found}" if isinstance(found, str) else [(tool, arguments) for arguments in found]


def equal_shares(amount: Decimal, n: int) -> list[Decimal]:
    """n equal parts of `amount`, to ten decimal places, that sum to it exactly: the first takes what is left over."""
    with localcontext() as context:
        context.prec = 60
        part = (amount / n).quantize(_SHARE, rounding=ROUND_DOWN)
        return [amount - part * (n - 1), *[part] * (n - 1)]


def agents_offered(spec: ToolSpec | None) -> list[str] | None:
    """The agents that a delegation tool lists; None where it lists none."""
    found = _property(spec, "agent_id").get("enum") if spec else None
    return [str(name) for name in found] if isinstance(found, list) else None


Arguments = list[dict[str, Any]]


def _weather(step: Step, spec: ToolSpec) -> Arguments | str:
    unit = {"unit": step.words} if step.words else {}
    return [{"location": city, **unit} for city in step.names] or "name a city"


def _delegate(step: Step, spec: ToolSpec) -> Arguments | str:
    agents = agents_offered(spec)
    if agents is not None and (unknown := [name for name in step.names if name not in agents]):
        return f"I may not ask {', '.join(unknown)}, only: {', '.join(agents) or 'nobody'}"
    return [{"agent_id": name, "message": step.words} for name in step.names]


def _balance(step: Step, spec: ToolSpec) -> Arguments:
    return [{"agent_id": name} for name in step.names] or [{}]


def _transfer(step: Step, spec: ToolSpec) -> Arguments | str:
    if len(step.names) > 1 and not step.each:
        return "is that for each of them? Say `each`, or `distribute … equally among …`"
    return _transfers(step, spec, [step.amount or Decimal(0)] * len(step.names))


def _shares(step: Step, spec: ToolSpec) -> Arguments:
    return _transfers(step, spec, equal_shares(step.amount or Decimal(0), len(step.names)))


def _transfers(step: Step, spec: ToolSpec, amounts: Sequence[Decimal]) -> Arguments:
    reason = {"reason": step.words} if step.words else {}
    return [
        {"to_agent": name, "amount": _amount(spec, amount), **reason}
        for name, amount in zip(step.names, amounts, strict=True)
    ]


def _reward(step: Step, spec: ToolSpec) -> Arguments | str:
    if len(step.names) > 1 and step.amount is not None and not step.each:
        return f"is that for each of {', '.join(step.names)}? Say `each`, or name one"
    given: dict[str, Any] = {} if step.amount is None else {"amount": _amount(spec, step.amount)}
    if step.words:
        given["reason"] = step.words
    return [{"agent_id": name, **given} for name in step.names]


def _history(step: Step, spec: ToolSpec) -> Arguments:
    return [{} if step.amount is None else {"limit": int(step.amount)}]


def _save(step: Step, spec: ToolSpec) -> Arguments | str:
    return [{"name": step.names[0], "content": step.words}] if step.words else "there is nothing to save"


def _read(step: Step, spec: ToolSpec) -> Arguments:
    return [{"name": step.names[0]}]


def _list(step: Step, spec: ToolSpec) -> Arguments:
    return [{"prefix": step.names[0]} if step.names else {}]


def _use(step: Step, spec: ToolSpec) -> Arguments | str:
    try:
        if step.words.count("{") + step.words.count("[") <= NESTING_MAX:
            return [msgspec.json.decode(step.words, type=dict[str, Any])]
    except msgspec.DecodeError:
        pass
    return "its arguments are no plain JSON object"


_ACTS: dict[str, tuple[str, Callable[[Step, ToolSpec], Arguments | str]]] = {
    "weather": ("get_weather", _weather),
    "delegate": ("delegate", _delegate),
    "balance": ("check_balance", _balance),
    "transfer": ("transfer_funds", _transfer),
    "shares": ("transfer_funds", _shares),
    "reward": ("reward_agent", _reward),
    "history": ("transaction_history", _history),
    "save": ("save_artifact", _save),
    "read": ("read_artifact", _read),
    "list": ("list_artifacts", _list),
    "use": ("", _use),
}
LEDGER: Final = {"check_balance", "transfer_funds", "reward_agent", "transaction_history"}


def _amount(spec: ToolSpec, amount: Decimal) -> str | int | float:
    """An amount as the tool's schema takes it; as exact text where it may be one."""
    schema = _property(spec, "amount")
    ways = schema.get("anyOf", [])
    kinds = [one.get("type") for one in [schema, *(ways if isinstance(ways, list) else [])] if isinstance(one, dict)]
    if "string" in kinds:
        text = format(amount, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    return int(amount) if amount == amount.to_integral_value() else float(amount)


def _property(spec: ToolSpec, name: str) -> dict[str, Any]:
    properties = spec.parameters.get("properties")
    found = properties.get(name) if isinstance(properties, dict) else None
    return found if isinstance(found, dict) else {}

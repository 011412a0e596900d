"""Subjects of agents that nobody asked: one that is right, one that is useless, one that does what is forbidden.

Knows what the built-in checks look for, and makes it up from their params and from what a task expects. Judges nothing.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from msgspec.structs import replace

from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId, ConversationId, StackRef
from p2engine.domain.setup import Spent
from p2engine.domain.verdicts import Holding, Line, Subject
from p2engine.rollouts.judging import WALLET_CHECKS

NOTHING = ("", "I do not know.")
"""What a null agent answers."""

_ANSWERS = frozenset({"contains", "equals", "regex", "json_schema", "numeric"})
_FORBIDDING = frozenset({"no_error", "max_steps", "tool_not_called"})
SCHEMA_DEPTH_MAX = 16  # of a schema for which a value is made up


class Scene:
    """Where the scripted agents act. wallets: agent -> what it holds at first. tools: that some variant has."""

    def __init__(self, agent: AgentId, message: str, wallets: Mapping[str, str], tools: Collection[str]) -> None:
        self.tools = tools
        self._wallets = {name: Holding(held, "0", "0") for name, held in wallets.items()}
        self._subject = Subject(
            event="scripted:0",
            conversation=ConversationId("scripted"),
            ref=StackRef("scripted"),
            agent=agent,
            transcript=(Line(kind="user", text=message),),
            reason="answered",
            spent=Spent(steps=1),
            holdings=self._wallets,
        )
        self.message = message

    def says(self, answer: str) -> Subject:
        """Nothing is done, and this is answered."""
        said = (Line(kind="assistant", text=answer),) if answer else ()
        return replace(self._subject, answer=answer, transcript=(*self._subject.transcript, *said))

    def calls(self, tool: str, arguments: Mapping[str, Any], times: int, status: str = "ok") -> Subject:
        """A tool is called so often, and a word is said."""
        call = Line(kind="call", name=tool, arguments=dict(arguments))
        result = Line(kind="result", name=tool, text="done", status=status)  # type: ignore[arg-type]
        return replace(
            self._subject,
            answer="Done.",
            transcript=(*self._subject.transcript, *((call, result) * times), Line(kind="assistant", text="Done.")),
            spent=Spent(steps=1 + 2 * times),
        )

    def holds(self, agent: str, holding: Holding) -> Subject:
        """A wallet holds this in the end; one that there is not, does not."""
        wallets = {**self._wallets, agent: holding} if agent in self._wallets else self._wallets
        return replace(self.says("Done."), holdings=wallets)

    def holding(self, agent: str) -> Holding:
        return self._wallets.get(agent, Holding("0", "0", "0"))

    def takes(self, steps: int) -> Subject:
        """A turn of so many steps."""
        return replace(self.says("Done."), spent=Spent(steps=steps))


def forbids(check: Evaluation) -> bool:
    """Whether it looks for what must not be: whoever does nothing passes, so it is no evidence of a right answer."""
    params = check.params
    match check.evaluator:
        case "tool_called":
            return params.get("times") == 0 or (params.get("at_least") == 0 and not params.get("times"))
        case "ledger_received" | "balance":
            return params.get("at_most") is not None and params.get("amount", params.get("at_least")) is None
        case name:
            return name in _FORBIDDING


def right(check: Evaluation, expected: Any, scene: Scene) -> list[Subject]:
    """Subjects of an agent that did what was asked, the plainest first: one of them must pass. Empty: none is known."""
    match check.evaluator:
        case "tool_called" if forbids(check):
            return [scene.says("Done.")]
        case "tool_called":
            return [scene.calls(*_call(check.params))]
        case name if name in WALLET_CHECKS:
            return [_paid(check, scene, above=False)]
        case "max_steps":
            return [scene.takes(_count(_value(check.params)))]
        case name if name in _FORBIDDING:
            return [scene.says("Done.")]
        case _:
            return [scene.says(answer) for answer in _answers(check, expected)]


def wrong(check: Evaluation, scene: Scene) -> list[Subject]:
    """Subjects of an agent that is of no use, or does what the check forbids: none of them may pass."""
    if not forbids(check):
        return [scene.says(answer) for answer in NOTHING]
    match check.evaluator:
        case "no_error":
            return [scene.calls("any_tool", {}, 1, status="error"), replace(scene.says(""), reason="error")]
        case "max_steps":
            return [scene.takes(_count(_value(check.params)) + 1)]
        case name if name in WALLET_CHECKS:
            return [_paid(check, scene, above=True)]
        case _:
            tool, arguments, _ = _call(check.params)
            return [scene.calls(tool, arguments, 1)]


def tool_of(check: Evaluation) -> str | None:
    """The tool that a right agent must call."""
    return _call(check.params)[0] if check.evaluator == "tool_called" and not forbids(check) else None


def wallet_of(check: Evaluation) -> str | None:
    """Whose wallet is looked at."""
    return str(check.params.get("agent")) if check.evaluator in WALLET_CHECKS else None


# What checks are told


def _value(params: Mapping[str, Any]) -> Any:
    return next((params[name] for name in ("value", "expected") if params.get(name) is not None), None)


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _call(params: Mapping[str, Any]) -> tuple[str, Mapping[str, Any], int]:
    tool = str(params["tool"] if params.get("tool") is not None else _value(params))
    return tool, params.get("arguments") or {}, _count(params.get("times")) or _count(params.get("at_least")) or 1


def _paid(check: Evaluation, scene: Scene, *, above: bool) -> Subject:
    """A wallet as the check wants it, or above what it allows."""
    params, agent = check.params, str(check.params.get("agent"))
    wanted = next((params[name] for name in ("amount", "at_least", "at_most") if params.get(name) is not None), 0)
    amount, held = Decimal(str(wanted)) + int(above), scene.holding(agent)
    if check.evaluator == "ledger_received":
        return scene.holds(agent, Holding(str(Decimal(held.balance) + amount), str(amount), held.sent))
    return scene.holds(agent, Holding(str(amount), held.received, held.sent))


# Answers


def _answers(check: Evaluation, expected: Any) -> list[str]:
    """What is expected and no more, so that a check of anything else is found; without it what the check asks for."""
    return list(_made_up(check)) if expected is None else _texts(expected)


def _texts(expected: Any) -> list[str]:
    """An expected value as an answer: itself, all parts of it, each part, JSON."""
    if isinstance(expected, str):
        return [expected]
    parts = list(expected.values()) if isinstance(expected, dict) else expected if isinstance(expected, list) else []
    plain = [str(part) for part in parts if isinstance(part, str | int | float)]
    whole = json.dumps(expected, ensure_ascii=False)
    return list(dict.fromkeys([*([" ".join(plain)] if len(plain) > 1 else []), *plain, whole]))


def _made_up(check: Evaluation) -> Iterator[str]:
    params, value = check.params, _value(check.params)
    match check.evaluator:
        case "contains" if isinstance(value, list):
            yield " ".join(map(str, value))
        case "contains" | "numeric":
            yield str(value)
        case "equals":
            yield value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        case "regex":
            yield from _alternatives(str(value))
        case "json_schema":
            schema = next((params[name] for name in ("value", "schema", "expected") if name in params), params)
            if isinstance(schema, Mapping):
                yield json.dumps(_instance(schema), ensure_ascii=False)


def is_made_up(check: Evaluation) -> bool:
    """Whether a right answer that is made up from the params alone must pass; of a pattern or a schema it may not."""
    return check.evaluator in _ANSWERS - {"regex", "json_schema"} or not is_answer(check)


def is_answer(check: Evaluation) -> bool:
    """Whether it is about what is said: all but those known to be about what is done."""
    return check.evaluator not in WALLET_CHECKS | _FORBIDDING | {"tool_called"}


def _alternatives(pattern: str) -> Iterator[str]:
    """Texts that simple patterns match: their alternatives without what is only syntax."""
    for part in re.split(r"\|", re.sub(r"\(\?[aiLmsux:]+\)?|[()^$]|\\[bBAZ]", "", pattern)):
        text = re.sub(r"\\d[+*?]?", "7", part)
        text = re.sub(r"\\s[+*?]?", " ", text)
        text = re.sub(r"\\w[+*?]?|\.[+*]?\??", "a", text)
        yield re.sub(r"\\(.)", r"\1", text)


def _instance(schema: Mapping[str, Any], depth: int = 0) -> Any:
    """A value that a plain schema describes, as far as its keys say."""
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    for name in ("enum", "examples"):
        if isinstance(schema.get(name), Sequence) and schema[name]:
            return schema[name][0]
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if depth > SCHEMA_DEPTH_MAX:
        return None
    match kind:
        case "object" | None if isinstance(schema.get("properties"), Mapping) or kind:
            properties = schema.get("properties") or {}
            return {name: _instance(each, depth + 1) for name, each in properties.items() if isinstance(each, Mapping)}
        case "array":
            items = schema.get("items")
            count = max(1, _count(schema.get("minItems")))
            return [_instance(items, depth + 1)] * count if isinstance(items, Mapping) else []
        case "integer" | "number":
            return schema.get("minimum", schema.get("maximum", 1))
        case "boolean":
            return True
        case "string":
            return "a" * max(1, _count(schema.get("minLength")))
        case _:
            return None

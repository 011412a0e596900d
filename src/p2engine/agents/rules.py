"""The agent that answers by rules: the first that fits the last thing said. Asks no model; knows messages and moves.

A rule says something, uses a tool or delegates; once the results are in, it says what came of it.
"""

from collections.abc import Sequence
from typing import Any

from p2engine.agents.entries import RuleAgentEntry, RuleEntry
from p2engine.agents.patterns import compile_pattern, search
from p2engine.agents.templates import TemplateFault, fill, template
from p2engine.domain.decisions import Decision, Delegate, Finish, Move, Say, UseTool
from p2engine.domain.ids import AgentId
from p2engine.domain.messages import Fragment
from p2engine.errors import ModelError
from p2engine.ports import AgentView


class RuleAgent:
    """Answers by the rules of its entry."""

    def __init__(self, entry: RuleAgentEntry) -> None:
        self._rules = tuple(entry.rules)
        self._default = entry.default

    async def decide(self, view: AgentView) -> Decision:
        """The move of the first rule that fits. Raises ModelError when its template cannot be filled in."""
        message, results = _last_said(view.fragments)
        try:
            return Decision((self._move(view.agent, message, results),))
        except TemplateFault as fault:
            raise ModelError(f"a rule of {view.agent}: {fault}") from fault

    def _move(self, agent: AgentId, message: str, results: Sequence[str]) -> Move:
        values: dict[str, Any] = {"agent": agent, "message": message, "results": list(results)}
        for rule in self._rules:
            groups = _fit(rule, message)
            if groups is not None:
                return _act(rule, values | groups, has_results=bool(results))
        if self._default is None:
            return Finish("gave_up", f"no rule of {agent} fits this message, and it has no default")
        return _say(self._default, values | _groups())


def _last_said(fragments: Sequence[Fragment]) -> tuple[str, list[str]]:
    """The last message to the agent, and what its calls since then came to."""
    results: list[str] = []
    for piece in reversed(fragments):
        if piece.role == "user":
            return piece.message.text, results[::-1]
        if piece.role == "tool":
            results.append(piece.message.text)
    return "", results[::-1]


def _fit(rule: RuleEntry, message: str) -> dict[str, Any] | None:
    """What the rule found in the message, for its templates; None when it does not fit."""
    if rule.regex is not None:
        found = search(compile_pattern(rule.regex), message)
        return _groups(found.groups(""), found.groupdict("")) if found else None
    if rule.contains is not None:
        return _groups() if rule.contains.casefold() in message.casefold() else None
    return _groups() if rule.match == message.strip() else None


def _groups(found: Sequence[str] = (), named: dict[str, str] | None = None) -> dict[str, Any]:
    return {"groups": list(found), "named": named or {}}


def _act(rule: RuleEntry, values: dict[str, Any], *, has_results: bool) -> Move:
    if rule.answer is not None:
        return _say(rule.answer, values)
    if has_results:
        return _say(rule.then or "{{ results | join('\n') }}", values)
    if rule.tool is not None:
        return UseTool(rule.tool, {name: _filled(value, values) for name, value in rule.arguments.items()})
    assert rule.delegate is not None
    return Delegate(AgentId(rule.delegate), fill(template(rule.message), **values))


def _say(text: str, values: dict[str, Any]) -> Say:
    said = fill(template(text), **values)
    if not said:
        raise TemplateFault("template: makes an empty answer", 1)
    return Say(said)


def _filled(value: Any, values: dict[str, Any]) -> Any:
    """An argument with the texts inside it filled in."""
    match value:
        case str():
            return fill(template(value), **values)
        case dict():
            return {name: _filled(inner, values) for name, inner in value.items()}
        case list():
            return [_filled(inner, values) for inner in value]
    return value

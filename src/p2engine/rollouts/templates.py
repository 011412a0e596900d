"""The texts of a rollout that are templates: what may stand in them, how they are filled. Knows tasks and values."""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from p2engine.agents.templates import TemplateFault, fill, template
from p2engine.domain.evaluation import Evaluation
from p2engine.rollouts.spec import Task, Team, Trial

if TYPE_CHECKING:
    from jinja2.environment import TemplateExpression

RESERVED = ("task", "teams", "expected")
"""Names that no value of a task may have: they stand for something else."""

_ALONE = re.compile(r"\s*\{\{[-+]?((?:[^{}'\"]|'[^']*'|\"[^\"]*\")*?)[-+]?\}\}\s*")
_PLAIN = (str, int, float, list, dict, type(None))


def trial_message(trial: Trial, teams: Mapping[str, Any] | None = None) -> str:
    """What the agent is told in a trial. teams: what came of earlier teams, by id (see earlier.py).

    What is filled in is data: braces in it stay braces. Raises TemplateFault where a name is not there, or nothing is
    left to say.
    """
    text = fill(template(trial.message), **_values(trial.task), **({} if teams is None else {"teams": teams}))
    if not text.strip():
        raise TemplateFault("the message is empty", 1)
    return text


def trial_evaluations(team: Team, task: Task | None) -> tuple[Evaluation, ...]:
    """What judges a trial of this task: the team's evaluations with the task filled in. Raises TemplateFault."""
    return tuple(replace(each, params=fill_params(each.params, task)) for each in team.evaluations)


def fill_params(params: Mapping[str, Any], task: Task | None) -> dict[str, Any]:
    """The params of an evaluation with the task filled in. `{{ … }}` alone keeps its type. Raises TemplateFault."""
    values = {**_values(task), "expected": task.expected} if task else {}
    return {key: _filled(value, values) for key, value in params.items()}


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    match value:
        case str() if "{{" in value or "{%" in value:
            return _evaluated(value, values)
        case list():
            return [_filled(each, values) for each in value]
        case dict():
            return {key: _filled(each, values) for key, each in value.items()}
        case _:
            return value


def _evaluated(text: str, values: Mapping[str, Any]) -> Any:
    alone = _ALONE.fullmatch(text)
    if alone is None:
        return fill(template(text), **values)
    from jinja2 import TemplateError

    compiled = template(text)  # says what is wrong with the syntax
    try:
        found = _expression(alone[1])(**values)
    except (TemplateError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        raise TemplateFault(f"template: {error}", 1) from None
    # A name that is not there is told of by the text, which says which one.
    return found if isinstance(found, _PLAIN) else fill(compiled, **values)


@lru_cache(maxsize=1024)
def _expression(text: str) -> "TemplateExpression":
    return template("").environment.compile_expression(text, undefined_to_none=False)


def _values(task: Task | None) -> dict[str, Any]:
    return {**task.values, "task": {**task.values, "id": task.id}} if task else {}


def names_in(text: str) -> frozenset[str]:
    """The names that a template looks up. Raises TemplateFault where the syntax is wrong."""
    from jinja2 import meta

    return frozenset(meta.find_undeclared_variables(template(text).environment.parse(text)))


def teams_in(text: str) -> Iterator[str]:
    """The teams that a template names, as `teams.ID` or `teams["ID"]`."""
    from jinja2 import nodes

    tree = template(text).environment.parse(text)
    for way in tree.find_all(nodes.Getattr):
        if isinstance(way.node, nodes.Name) and way.node.name == "teams":
            yield way.attr
    for item in tree.find_all(nodes.Getitem):
        if isinstance(item.node, nodes.Name) and item.node.name == "teams" and isinstance(item.arg, nodes.Const):
            yield str(item.arg.value)

"""What could stand next on a line of the shell: commands, options, and the names of what there is.

Knows the tree of commands and asks the engine for names. A parameter says by its name what it takes.
"""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from typer.core import TyperGroup

from p2engine.cli.main import command
from p2engine.cli.shell import LEAVE
from p2engine.errors import P2EngineError

if TYPE_CHECKING:
    from p2engine.wiring import Engine


async def words(before: str, engine: "Engine") -> Sequence[str]:
    """The words that could stand at the end of `before`, each beginning as it ends."""
    *given, begun = before.split(" ")
    given = [word for word in given if word]
    if given and given[0] == "help":
        given = given[1:]
    node: Any = command()
    while isinstance(node, TyperGroup) and given and given[0] in node.commands:
        node, given = node.commands[given[0]], given[1:]
    if isinstance(node, TyperGroup):
        found = [] if given else [name for name, inner in node.commands.items() if not inner.hidden]
        found += ["help", *LEAVE] if node is command() and not given else []
    elif begun.startswith("-"):
        found = [option for param in node.params for option in param.opts if option.startswith("--")]
    else:
        try:
            found = [shlex.quote(name) for name in await _names(_wanted(node, given), given, engine, begun)]
        except P2EngineError:  # no such conversation, a store that is busy: there is nothing to offer
            found = []
    return [word for word in dict.fromkeys(found) if word.startswith(begun)]


def _wanted(node: Any, given: list[str]) -> str:
    """The name of the parameter that comes next."""
    options = {option: param for param in node.params for option in param.opts if param.param_type_name == "option"}
    if given and given[-1] in options and not options[given[-1]].is_flag:
        return str(options[given[-1]].name)
    arguments = [param for param in node.params if param.param_type_name == "argument"]
    place = len(_arguments(given, options))
    return str(arguments[place].name) if place < len(arguments) else ""


def _arguments(given: list[str], options: dict[str, Any]) -> list[str]:
    """The words that are neither options nor their values."""
    found: list[str] = []
    takes_value = False
    for word in given:
        if takes_value:
            takes_value = False
        elif word in options:
            takes_value = not options[word].is_flag
        elif not word.startswith("--"):
            found.append(word)
    return found


async def _names(wanted: str, given: list[str], engine: "Engine", begun: str) -> Sequence[str]:
    match wanted:
        case "agent":
            return list(engine.roster.agents())
        case "persona":
            return engine.roster.personas()
        case "tools":
            return _next_of_a_list(begun, engine.registry.known())
        case "kind":
            from p2engine.cli.artifact import kinds

            return kinds()
        case "conversation" | "name":
            return [record.name for record in await engine.conversations(grouped=False)]
        case "branch" if given:
            conversation = await engine.conversation(given[0])
            return [branch.name for branch in await conversation.branches()]
        case _:
            return []


def _next_of_a_list(begun: str, known: Sequence[str]) -> list[str]:
    """What could stand after the last comma, behind what stands before it."""
    before = begun.rpartition(",")[0].split(",") if "," in begun else []
    return [",".join([*before, name]) for name in known if name not in before]

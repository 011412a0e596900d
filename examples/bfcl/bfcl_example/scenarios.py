"""The scenarios of BFCL's `multi_turn_base`: what is asked, what is expected, where each world starts.

Reads the files of the installed package; nothing of them is kept here.
"""

import ast
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import Any, NamedTuple

from bfcl_eval.constants.executable_backend_config import (
    CLASS_FILE_PATH_MAPPING,
    MULTI_TURN_FUNC_DOC_FILE_MAPPING,
)

_NAME = "BFCL_v4_multi_turn_base.json"


class Call(NamedTuple):
    """One call of a method, its arguments by name."""

    method: str
    arguments: dict[str, Any]


class Scenario(NamedTuple):
    """requests: of the user, turn by turn. expected: the calls of all turns in a row. classes: of its world.

    config: class -> what its instance starts with.
    """

    id: str
    requests: tuple[str, ...]
    expected: tuple[Call, ...]
    classes: tuple[str, ...]
    config: Mapping[str, Any]


@cache
def scenarios() -> Mapping[str, Scenario]:
    """All of them by id, in the order of the file."""
    answers = {row["id"]: row["ground_truth"] for row in _rows("possible_answer", _NAME)}
    return {row["id"]: _scenario(row, answers[row["id"]]) for row in _rows(_NAME)}


@cache
def classes() -> Mapping[str, type]:
    """The classes that scenarios use, by name, sorted."""
    names = sorted({name for scenario in scenarios().values() for name in scenario.classes})
    return {name: getattr(import_module(CLASS_FILE_PATH_MAPPING[name]), name) for name in names}


@cache
def owners() -> Mapping[str, str]:
    """The class of each method that an agent may call."""
    return {document["name"]: name for name in classes() for document in documents(name)}


def documents(name: str) -> Iterator[dict[str, Any]]:
    """What BFCL tells models of the methods of a class: name, description and parameters of each."""
    return _rows("multi_turn_func_doc", MULTI_TURN_FUNC_DOC_FILE_MAPPING[name])


def _rows(*path: str) -> Iterator[dict[str, Any]]:
    lines = files("bfcl_eval").joinpath("data", *path).read_text("utf-8").splitlines()
    return (json.loads(line) for line in lines if line.strip())


def _scenario(row: Mapping[str, Any], turns: list[list[str]]) -> Scenario:
    return Scenario(
        id=row["id"],
        requests=tuple("\n".join(message["content"] for message in turn) for turn in row["question"]),
        expected=tuple(_call(text, row["involved_classes"]) for turn in turns for text in turn),
        classes=tuple(row["involved_classes"]),
        config=row["initial_config"],
    )


def _call(text: str, among: list[str]) -> Call:
    """`f(1, b=2)` as a call by name. Everything in it is a literal: nothing is evaluated."""
    node = ast.parse(text.strip(), mode="eval").body
    assert isinstance(node, ast.Call), text
    assert isinstance(node.func, ast.Name), text
    names = list(inspect.signature(_method(node.func.id, among)).parameters)[1:]
    given = dict(zip(names, node.args, strict=False)) | {each.arg or "": each.value for each in node.keywords}
    return Call(node.func.id, {name: ast.literal_eval(value) for name, value in given.items()})


def _method(name: str, among: list[str]) -> Callable[..., Any]:
    for owner in among:
        kind = getattr(import_module(CLASS_FILE_PATH_MAPPING[owner]), owner)
        if hasattr(kind, name):
            method: Callable[..., Any] = getattr(kind, name)
            return method
    raise LookupError(f"no class of the scenario has {name}")

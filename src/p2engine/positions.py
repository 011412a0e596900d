"""YAML and JSON text as plain data with the line of every value. Knows the two grammars and their bounds; no files."""

import json
import re
from collections.abc import Iterator
from typing import Any

from p2engine.errors import ConfigError

Place = tuple[str | int, ...]
"""Where a value stands in a document: keys and list positions from the top."""

VALUES_MAX = 100_000  # values in one document with its aliases written out: a few lines of YAML can mean billions
DEPTH_MAX = 32  # of values inside one another
BRACKETS_MAX = 1000  # open at once anywhere in a text, prose included: the parser looks far ahead from every open one
SHOWN_CHARS_MAX = 60  # of a wrong value in a message


def yaml_value(text: str, file: str) -> tuple[Any, dict[Place, int]]:
    """YAML 1.2 of one document, safe types only. Raises ConfigError."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if _brackets(text) > BRACKETS_MAX:
        raise ConfigError("is nested too deeply", file=file)
    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(text)
        if node is None:
            raise ConfigError("is empty", file=file)
        _bounded(node, file)
        lines: dict[Place, int] = {}
        _yaml_lines(node, (), lines, file)
        return yaml.constructor.construct_document(node), lines
    except MarkedYAMLError as error:
        raise _not_yaml(error, file) from None
    except (YAMLError, ValueError, ArithmeticError) as error:  # bytes that no YAML has; 1e999999999 as a number
        raise ConfigError(f"not YAML: {_first_line(error)}", file=file) from None
    except RecursionError:
        raise ConfigError("is nested too deeply", file=file) from None


def json_value(text: str, file: str) -> tuple[Any, dict[Place, int]]:
    """One JSON value; a key twice is an error. Raises ConfigError."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"not JSON: {error.msg[0].lower()}{error.msg[1:]}", file=file, line=error.lineno) from None
    except ValueError as error:  # a number of thousands of digits
        raise ConfigError(f"not JSON: {_first_line(error)}", file=file) from None
    except RecursionError:
        raise ConfigError("is nested too deeply", file=file) from None
    lines: dict[Place, int] = {}
    for place, line in _json_lines(text, file):
        if place in lines:
            raise ConfigError(f"the key {show(place[-1])} stands twice", file=file, line=line)
        lines[place] = line
    return value, lines


def show(value: object) -> str:
    """A value inside a message: one short line, no control characters."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 1] + "…"


def _brackets(text: str) -> int:
    most = depth = 0
    for bracket in re.finditer(r"[\[\]{}]", text):
        depth = max(0, depth + (1 if bracket[0] in "[{" else -1))
        most = max(most, depth)
    return most


def _bounded(node: Any, file: str) -> None:
    """Refuse a document that is too deep or, with its aliases written out, too long; one that holds itself is both."""
    sizes: dict[int, tuple[int, int]] = {}

    def measure(node: Any, depth: int) -> tuple[int, int]:
        if depth > DEPTH_MAX:
            raise ConfigError("is nested too deeply", file=file, line=node.start_mark.line + 1)
        if id(node) not in sizes:
            size, height = 1, 0
            for child in _children(node):
                child_size, child_height = measure(child, depth + 1)
                size, height = size + child_size, max(height, child_height + 1)
            sizes[id(node)] = size, height
        size, height = sizes[id(node)]
        if size > VALUES_MAX or depth + height > DEPTH_MAX:
            raise ConfigError("means too many values", file=file, line=node.start_mark.line + 1)
        return size, height

    measure(node, 0)


def _children(node: Any) -> Iterator[Any]:
    for child in node.value if isinstance(node.value, list) else ():
        yield from child if isinstance(child, tuple) else (child,)


def _yaml_lines(node: Any, place: Place, lines: dict[Place, int], file: str) -> None:
    lines.setdefault(place, node.start_mark.line + 1)
    if node.id == "sequence":
        for index, child in enumerate(node.value):
            _yaml_lines(child, (*place, index), lines, file)
    elif node.id == "mapping":
        for key, child in _pairs(node, file):
            lines[*place, key.value] = key.start_mark.line + 1
            _yaml_lines(child, (*place, key.value), lines, file)


def _pairs(node: Any, file: str) -> Iterator[tuple[Any, Any]]:
    """The keys of a mapping with scalar names, its own before those that `<<` merges into it."""
    own: set[str] = set()
    merged: list[Any] = []
    for key, child in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            merged += child.value if child.id == "sequence" else [child]
        elif key.id == "scalar":
            if key.value in own:
                line = key.start_mark.line + 1
                raise ConfigError(f"the key {show(key.value)} stands twice", file=file, line=line)
            own.add(key.value)
            yield key, child
    for each in merged:
        if each.id == "mapping":
            yield from (pair for pair in _pairs(each, file) if pair[0].value not in own)


def _not_yaml(error: Any, file: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else None
    if "'\\t'" in str(error.problem):
        return ConfigError("a tab cannot indent YAML; use spaces", file=file, line=line)
    return ConfigError(f"not YAML: {_first_line(error.problem or error)}", file=file, line=line)


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def _json_lines(text: str, file: str) -> Iterator[tuple[Place, int]]:
    """The place and line of every key and list item of a valid JSON text."""
    line, end = 1, 0
    open_: list[str] = []
    steps: list[str | int] = []
    names = False  # the next string is a key
    for token in _TOKEN.finditer(text):
        line, end = line + text.count("\n", end, token.start()), token.start()
        word = token[0]
        if word in "}]":
            open_.pop()
            steps.pop()
            names = False
        elif word == ",":
            names = open_[-1] == "{"
            steps[-1] = 0 if names else int(steps[-1]) + 1
        elif names:
            names = False
            steps[-1] = str(json.loads(word))
            yield tuple(steps), line
        elif word != ":":
            if open_ and open_[-1] == "[":
                yield tuple(steps), line
            if word in "{[":
                open_.append(word)
                steps.append(0)
                names = word == "{"
                if len(open_) > DEPTH_MAX:
                    raise ConfigError("is nested too deeply", file=file, line=line)


def _first_line(error: object) -> str:
    """A foreign message as one short line without control characters."""
    text = " ".join(str(error).split("; use ")[0].split())
    return text if len(text) <= 200 else text[:199] + "…"

"""Values checked by JSON schemas."""

from typing import Any

import pytest
from pydantic_core import ValidationError

from p2engine.errors import ConfigError
from p2engine.tools.json_types import validator

CHECKED: list[tuple[Any, Any, Any]] = [
    ({}, {"a": 1}, {"a": 1}),
    (True, 5, 5),
    ({"type": "integer"}, "3", 3),
    ({"type": "number", "minimum": 0}, 2, 2.0),
    ({"type": "boolean"}, "true", True),
    ({"type": "string", "pattern": "b(?=c)"}, "abc", "abc"),
    ({"type": "string"}, 5, "5"),
    ({"type": ["string", "null"]}, None, None),
    ({"type": "string", "nullable": True}, None, None),
    ({"enum": ["a", 1]}, 1, 1),
    ({"type": "integer", "enum": [1, 2]}, "2", 2),
    ({"const": "x"}, "x", "x"),
    ({"type": "array", "items": {"type": "integer"}, "maxItems": 2}, ["1", 2], [1, 2]),
    ({"anyOf": [{"type": "integer"}, {"type": "array"}]}, [1], [1]),
    ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, "x", "x"),
    ({"allOf": [{"type": "integer"}, {"type": "integer", "minimum": 2}]}, "2", 2),
    ({"type": "object", "properties": {"a": {"type": "integer"}}}, {"a": "1", "b": 2}, {"a": 1, "b": 2}),
    ({"properties": {"a": {"type": "integer"}}}, {"a": "1"}, {"a": 1}),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, {"z": "1"}, {"z": 1}),
    ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}, "7", 7),
    ({"type": "string", "format": "date", "title": "T", "x-order": 1}, "2026-01-01", "2026-01-01"),
]

REFUSED: list[tuple[Any, Any]] = [
    ({"type": "integer", "maximum": 5}, 6),
    ({"type": "integer", "multipleOf": 5}, 6),
    ({"type": "number"}, float("nan")),
    ({"type": "number", "exclusiveMinimum": 0}, 0),
    ({"type": "string", "minLength": 2}, "a"),
    ({"type": "string", "pattern": "^a$"}, "b"),
    ({"type": "string", "enum": ["a"]}, "b"),
    ({"type": "array", "minItems": 1}, []),
    ({"type": "object", "required": ["a"]}, {}),
    ({"type": "object", "properties": {}, "additionalProperties": False}, {"a": 1}),
    ({"type": "object", "properties": {"a": {"type": "object", "required": ["b"]}}}, {"a": {}}),
    ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "x"),
]

WRONG: list[tuple[Any, str]] = [
    ({"type": "object", "properties": {"a": {"not": {}}}}, "uses 'not' at a"),
    ({"type": "array", "items": {"type": "string", "uniqueItems": True}}, "uses 'uniqueItems' at"),
    ({"type": "date"}, "type 'date'"),
    ({"type": "string", "pattern": "("}, "schema is wrong"),
    ({"type": "integer", "minimum": "low"}, "schema is wrong"),
    ({"type": "object", "required": 5}, "schema is wrong"),
    ({"properties": {"a": 5}}, "at a is no object: 5"),
    ({"$ref": "#/$defs/gone"}, "refers to '#/\\$defs/gone'"),
    ({"$ref": "http://example.org/x"}, "refers to 'http"),
    ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}}, "holds itself"),
]


@pytest.mark.parametrize(("schema", "value", "expected"), CHECKED, ids=[str(case[0]) for case in CHECKED])
def test_a_value_that_fits_is_returned_as_meant(schema: Any, value: Any, expected: Any) -> None:
    """What fits passes, with numbers and booleans read from text."""
    got = validator(schema)(value)

    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(("schema", "value"), REFUSED, ids=[str(case[0]) for case in REFUSED])
def test_a_value_that_does_not_fit_is_refused(schema: Any, value: Any) -> None:
    """Each word of a schema that is accepted is also checked."""
    with pytest.raises(ValidationError):
        validator(schema)(value)


@pytest.mark.parametrize(("schema", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_schema_that_cannot_be_checked_is_refused(schema: Any, message: str) -> None:
    """A word that would be ignored is named instead, and so is a schema that is wrong."""
    with pytest.raises(ConfigError, match=message):
        validator(schema)

"""A JSON schema, as something that checks. Knows the part of JSON Schema that tools are described with; what it cannot
check it refuses by name, so that no rule is quietly dropped."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic_core import CoreSchema, SchemaError, SchemaValidator, core_schema

from p2engine.errors import ConfigError

_SILENT = {  # words that describe and check nothing
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "default",
    "definitions",
    "deprecated",
    "description",
    "discriminator",
    "example",
    "examples",
    "format",
    "readOnly",
    "title",
    "writeOnly",
}
_COMMON = {"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "nullable"}
_WORDS = {
    "string": {"minLength": "min_length", "maxLength": "max_length", "pattern": "pattern"},
    "integer": {"minimum": "ge", "maximum": "le", "exclusiveMinimum": "gt", "exclusiveMaximum": "lt"},
    "array": {"minItems": "min_length", "maxItems": "max_length"},
}
_WORDS["integer"]["multipleOf"] = "multiple_of"
_WORDS["number"] = _WORDS["integer"]
_STRUCTURE = {"object": {"properties", "required", "additionalProperties"}, "array": {"items"}}
_DEPTH_MAX = 32  # of nested schemas; a reference to itself would never end


def validator(schema: Mapping[str, Any]) -> Callable[[Any], Any]:
    """A function that checks a value by the schema and returns it, with simple coercions such as "3" to 3.

    The function raises pydantic_core.ValidationError. Raises ConfigError for a schema that cannot be checked here.
    """
    try:
        return SchemaValidator(_Reader(schema).read(schema, "", 0)).validate_python
    except (SchemaError, TypeError, AttributeError) as error:  # the latter two: a word with a value of another type
        raise ConfigError(f"the JSON schema is wrong: {next(iter(str(error).splitlines()), '')}") from None


class _Reader:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def read(self, schema: Any, at: str, depth: int) -> CoreSchema:
        """The check for `schema`, which stands at `at` of the whole."""
        if schema is True or schema == {}:
            return core_schema.any_schema()
        if not isinstance(schema, Mapping):
            raise ConfigError(f"the JSON schema at {at or 'its top'} is no object: {schema!r}")
        if depth > _DEPTH_MAX:
            raise ConfigError(f"the JSON schema at {at} is nested deeper than {_DEPTH_MAX}, or holds itself")
        kinds = schema.get("type")
        listed = list(kinds) if isinstance(kinds, list) else [kinds] if kinds else []
        self._refuse_unknown(schema, listed, at)
        choices: list[Any] = [self._of_kind(schema, kind, at, depth) for kind in listed]
        if schema.get("nullable"):
            choices.append(core_schema.none_schema())
        checks = [*self._combined(schema, at, depth)]
        if choices:
            checks.insert(0, choices[0] if len(choices) == 1 else core_schema.union_schema(choices))
        if not checks:
            return self._of_kind(schema, "object", at, depth) if "properties" in schema else core_schema.any_schema()
        # All of them must hold: each sees what the one before it made of the value.
        return checks[0] if len(checks) == 1 else core_schema.chain_schema(checks)

    def _refuse_unknown(self, schema: Mapping[str, Any], kinds: Sequence[str], at: str) -> None:
        known = _SILENT | _COMMON
        for kind in kinds or ["object"]:
            known |= _STRUCTURE.get(kind, set()) | set(_WORDS.get(kind, {}))
        for word in schema:
            if word not in known and not word.startswith("x-"):
                raise ConfigError(
                    f"the JSON schema uses {word!r} at {at or 'its top'}, which is not checked here",
                    hint="leave it out, or give a pydantic model",
                )

    def _combined(self, schema: Mapping[str, Any], at: str, depth: int) -> list[CoreSchema]:
        checks: list[CoreSchema] = []
        if "enum" in schema:
            checks.append(core_schema.literal_schema(list(schema["enum"])))
        if "const" in schema:
            checks.append(core_schema.literal_schema([schema["const"]]))
        if "$ref" in schema:
            checks.append(self.read(self._target(schema["$ref"]), at, depth + 1))
        # Values that fit several of oneOf are let through: the nearest is taken.
        unions = [schema[word] for word in ("anyOf", "oneOf") if word in schema]
        checks += [core_schema.union_schema([self.read(one, at, depth + 1) for one in union]) for union in unions]
        return checks + [self.read(one, at, depth + 1) for one in schema.get("allOf", [])]

    def _of_kind(self, schema: Mapping[str, Any], kind: str, at: str, depth: int) -> CoreSchema:
        bounds: dict[str, Any] = {
            ours: schema[theirs] for theirs, ours in _WORDS.get(kind, {}).items() if theirs in schema
        }
        match kind:
            case "string":
                return core_schema.str_schema(coerce_numbers_to_str=True, regex_engine="python-re", **bounds)
            case "integer":
                return core_schema.int_schema(**bounds)
            case "number":
                return core_schema.float_schema(allow_inf_nan=False, **bounds)
            case "boolean":
                return core_schema.bool_schema()
            case "null":
                return core_schema.none_schema()
            case "array":
                return core_schema.list_schema(self.read(schema.get("items", True), f"{at}[]", depth + 1), **bounds)
            case "object":
                return self._object(schema, at, depth)
        raise ConfigError(f"the JSON schema has type {kind!r} at {at or 'its top'}, which is none")

    def _object(self, schema: Mapping[str, Any], at: str, depth: int) -> CoreSchema:
        others = schema.get("additionalProperties", True)
        required = set(schema.get("required", ()))
        fields = {
            name: core_schema.typed_dict_field(
                self.read(one, f"{at}.{name}".lstrip("."), depth + 1), required=name in required
            )
            for name, one in schema.get("properties", {}).items()
        }
        for name in required - set(fields):
            fields[name] = core_schema.typed_dict_field(core_schema.any_schema(), required=True)
        extras = self.read(others, at, depth + 1) if isinstance(others, Mapping) else None
        return core_schema.typed_dict_schema(
            fields, extra_behavior="forbid" if others is False else "allow", extras_schema=extras
        )

    def _target(self, reference: str) -> Any:
        found: Any = self._root
        for part in reference.removeprefix("#/").split("/"):
            if not reference.startswith("#/") or not isinstance(found, Mapping) or part not in found:
                raise ConfigError(f"the JSON schema refers to {reference!r}, which is not in it")
            found = found[part]
        return found

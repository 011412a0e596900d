"""What a tool takes and gives: schemas from signatures, pydantic models or JSON, and values checked by them.

Knows types and names; nothing of calls, contexts or time.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, RootModel, create_model
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUndefinedAnnotation, PydanticUserError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import SchemaError, ValidationError

from p2engine.errors import ConfigError, ToolError
from p2engine.tools import json_types
from p2engine.tools.results import as_json
from p2engine.tools.signature import Doc, Signature

Schema = type[BaseModel] | Mapping[str, Any]
"""How a user may write one: a pydantic model, or a JSON schema."""

_COMPLAINTS_MAX = 10  # named in one answer to a model
_SHOWN_CHARS = 80  # of a value that is refused


class Arguments:
    """Reads what a model sent. `parameters` is the JSON schema that the model is shown."""

    def __init__(
        self,
        parameters: Mapping[str, Any],
        read: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        is_open: bool = False,
    ) -> None:
        self.parameters = {"type": "object", "properties": {}, **parameters}
        self.parameters.pop("title", None)
        self._read = read
        self._is_open = is_open
        self._names = tuple(self.parameters["properties"])
        self._optional = frozenset(self._names) - frozenset(self.parameters.get("required", ()))

    def read(self, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords to call the function with. Raises ToolError that names every argument that is wrong."""
        given = {name: value for name, value in arguments.items() if self._is_open or name in self._names}
        wrong = [self._unknown(name) for name in arguments if name not in given]
        try:
            keywords = self._forgiving(given)
        except ValidationError as error:
            wrong += complaints(error)
        if not wrong:
            return keywords
        takes = ", ".join(f"{name} (optional)" if name in self._optional else name for name in self._names)
        raise ToolError(
            f"wrong arguments for {tool}: {'; '.join(sorted(wrong)[:_COMPLAINTS_MAX])}. "
            f"It takes {takes or 'no arguments'}; call it again with these."
        )

    def _forgiving(self, given: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._read(given)
        except ValidationError as error:
            # Models send null for what they leave out.
            wrong = {str(one["loc"][0]) for one in error.errors() if one["loc"]}
            nulls = {name for name in wrong & self._optional if name in given and given[name] is None}
            if not nulls:
                raise
        return self._read({name: value for name, value in given.items() if name not in nulls})

    def _unknown(self, name: str) -> str:
        near = get_close_matches(name, self._names, n=1)
        return f"{_shown(name)} is no argument" + (f" (nearest: {near[0]!r})" if near else "")


class Returns:
    """Checks what a function returned."""

    def __init__(self, schema: Schema) -> None:
        self._model = schema if isinstance(schema, type) else None
        self._check = schema.model_validate if isinstance(schema, type) else json_types.validator(schema)

    def check(self, result: Any) -> None:
        """Raises ToolError that names what does not match."""
        if self._model is not None and isinstance(result, self._model):
            return
        try:
            self._check(as_json(result)[0])
        except ValidationError as error:
            wrong = "; ".join(complaints(error)[:_COMPLAINTS_MAX])
            raise ToolError(f"its result does not match its output_schema: {wrong}") from None


def complaints(error: ValidationError) -> list[str]:
    """Each thing a value did wrong, by name."""
    found = []
    for one in error.errors(include_url=False, include_context=False):
        name = repr(".".join(str(part) for part in one["loc"])) if one["loc"] else "the value"
        match one["type"]:
            case "missing":
                found.append(f"{name} is missing")
            case "extra_forbidden":
                found.append(f"{name} is no known field")
            case _:
                found.append(f"{name}: {one['msg'][:1].lower()}{one['msg'][1:]}, got {_shown(one['input'])}")
    return found


def arguments_of(signature: Signature, schema: Schema | None, doc: Doc) -> Arguments:
    """The arguments by `schema`, or by the signature where there is none. Raises ConfigError where they disagree."""
    try:
        if schema is None:
            return _from_signature(signature, doc)
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            return _from_model(signature, schema)
        if isinstance(schema, Mapping):
            return _from_json(signature, schema)
    except (PydanticUserError, PydanticUndefinedAnnotation, PydanticInvalidForJsonSchema, SchemaError) as error:
        raise ConfigError(
            f"its arguments have no JSON schema: {next(iter(str(error).splitlines()), '')}",
            hint="annotate with str, int, float, bool, list, dict, Literal or pydantic models",
        ) from None
    raise ConfigError(f"input_schema must be a pydantic model or a JSON schema, not {schema!r}")


def _from_signature(signature: Signature, doc: Doc) -> Arguments:
    if signature.is_open:
        raise ConfigError("**keywords need an input_schema: a model must be told what it may give")
    # Fields are numbered and known by alias: a parameter may have a name that a model class uses itself.
    names = {f"p{at}": one.name for at, one in enumerate(signature.parameters)}
    fields: dict[str, Any] = {
        field: _field(one, doc.arguments.get(one.name)) for field, one in zip(names, signature.parameters, strict=True)
    }
    spelled = {field for field, (_, default) in fields.items() if isinstance(default, FieldInfo)}
    model = create_model(
        "Arguments",
        __config__=ConfigDict(extra="forbid", coerce_numbers_to_str=True, protected_namespaces=()),
        **fields,
    )

    def read(given: dict[str, Any]) -> dict[str, Any]:
        value = model.model_validate(given)
        # What was not given is left to the function's own default, unless that one is a Field and only says it.
        return {names[field]: getattr(value, field) for field in value.model_fields_set | spelled}

    return Arguments(model.model_json_schema(schema_generator=_Plain), read)


def _from_model(signature: Signature, model: type[BaseModel]) -> Arguments:
    if issubclass(model, RootModel):
        raise ConfigError(f"input_schema {model.__name__} must be an object with fields")
    parameters = model.model_json_schema(schema_generator=_Plain)
    takes_whole = len(signature.parameters) == 1 and signature.parameters[0].annotation is model
    is_open = model.model_config.get("extra") == "allow"
    if not takes_whole:
        _agree(signature, model.model_fields, model.__name__)

    def read(given: dict[str, Any]) -> dict[str, Any]:
        value = model.model_validate(given)
        if takes_whole:
            return {signature.parameters[0].name: value}
        return {name: getattr(value, name) for name in (*model.model_fields, *(value.model_extra or ()))}

    return Arguments(parameters, read, is_open=is_open and (takes_whole or signature.is_open))


def _from_json(signature: Signature, schema: Mapping[str, Any]) -> Arguments:
    if schema.get("type", "object") != "object":
        raise ConfigError(f"input_schema must describe an object, not {schema['type']!r}")
    validate = json_types.validator(schema)
    others = schema.get("additionalProperties", False)
    _agree(signature, schema.get("properties", {}), "input_schema", schema.get("required", ()))
    return Arguments(
        dict(schema),
        lambda given: dict(validate(given)),
        is_open=signature.is_open and others is not False,
    )


def _agree(signature: Signature, fields: Mapping[str, Any], schema: str, required: Sequence[str] | None = None) -> None:
    """Every field has a parameter, and every parameter that must be given has a field that will be."""
    names = {one.name for one in signature.parameters}
    if signature.context in fields:
        raise ConfigError(f"{signature.context!r} takes the context and may not be a field of {schema}")
    if not signature.is_open and (lost := [name for name in fields if name not in names]):
        raise ConfigError(f"{schema} has {', '.join(lost)}, and the function no such parameter")
    sure = set(fields) if required is None else set(required)
    missing = [one.name for one in signature.parameters if one.default is one.empty and one.name not in sure]
    if missing:
        raise ConfigError(f"the function needs {', '.join(missing)}, which {schema} does not always give")


def _field(parameter: inspect.Parameter, line: str | None) -> tuple[Any, Any]:
    annotation: Any = Any if parameter.annotation is parameter.empty else parameter.annotation
    base, *notes = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    texts = [note for note in notes if isinstance(note, str)]
    described = [Field(description=text) for text in (*texts[:1], line) if text][:1]
    default = ... if parameter.default is parameter.empty else parameter.default
    if isinstance(default, FieldInfo):
        described = [] if default.description else described
    # Later notes win over earlier ones: what the user wrote as a Field over a line of the docstring.
    return _annotated(base, *described, *notes, Field(alias=parameter.name)), default


def _annotated(base: Any, *notes: Any) -> Any:
    return Annotated[(base, *notes)]


def _shown(value: Any) -> str:
    text = repr(value[:_SHOWN_CHARS] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"


class _Plain(GenerateJsonSchema):
    """Without a title for each field, which would tell a model its name twice; odd defaults are left out quietly."""

    def emit_warning(self, kind: Any, detail: str) -> None:
        pass

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

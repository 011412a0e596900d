"""What the decorator makes of a function, and what it refuses to."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

import pytest
from pydantic import BaseModel, Field, RootModel

from p2engine.domain.decisions import CallAgentAfter
from p2engine.domain.ids import AgentId
from p2engine.errors import ConfigError, NotAvailable, ToolError, UsageError
from p2engine.ports import Tool, ToolContext
from p2engine.tools.function import FunctionTool, agent_call, function_tool, raise_event, save_artifact
from tests.tools.tool_context import MemoryArtifacts, context


class Query(BaseModel):
    """What the seeds' example takes."""

    query: str
    limit: int = 10


class Whole(RootModel[list[int]]):
    """A schema that is no object."""


@dataclass
class Point:
    """A value with fields."""

    x: int
    y: int = 0


async def test_a_tool_called_directly_is_the_plain_function() -> None:
    """The decorated name still calls the function as it was written, with its types, `def` or `async def`."""

    @function_tool
    def double(number: int, *, times: int = 1) -> int:
        """Double it."""
        return number * 2 * times

    @function_tool(side_effect_free=True)
    async def later(text: str) -> str:
        return text.upper()

    number: int = double(2, times=3)
    text: str = await later("a")

    assert (number, text) == (12, "A")
    assert (double.__name__, double.__doc__, inspect.signature(double).parameters["times"].default) == (
        "double",
        "Double it.",
        1,
    )


async def test_name_description_and_schema_are_read_from_the_function() -> None:
    """What is left out comes from the name, the docstring and the annotations; providers get plain JSON schema."""

    @function_tool
    def search(
        query: str,
        limit: Annotated[int, Field(ge=1, le=50)] = 10,
        kinds: list[Literal["a", "b"]] | None = None,
        where: Annotated[Point, "where to look"] = Point(0),  # noqa: B008
        exact: bool = False,
    ) -> str:
        """Search the
        knowledge base.

        More about it.

        Args:
            query: what to look for
            limit (int): how many to give
        """
        return query

    spec = search.spec

    assert (spec.name, spec.description, spec.repeat) == ("search", "Search the knowledge base.", "never")
    assert spec.parameters["required"] == ["query"]
    assert spec.parameters["additionalProperties"] is False
    properties = spec.parameters["properties"]
    assert properties["query"] == {"type": "string", "description": "what to look for"}
    assert properties["limit"] == {
        "type": "integer",
        "description": "how many to give",
        "minimum": 1,
        "maximum": 50,
        "default": 10,
    }
    assert properties["kinds"]["anyOf"][0]["items"]["enum"] == ["a", "b"]
    assert properties["where"]["description"] == "where to look"
    assert properties["exact"] == {"type": "boolean", "default": False}
    json.dumps(spec.parameters)


def test_param_lines_describe_arguments_too() -> None:
    """The docstring form `:param name: text` is read as well, and is no part of the description."""

    @function_tool
    def search(query: str) -> str:
        """Search.
        :param str query: what to look for
        """
        return query

    assert search.spec.description == "Search."
    assert search.spec.parameters["properties"]["query"]["description"] == "what to look for"


async def test_the_seeds_example_works_as_written() -> None:
    """A pydantic input_schema, a result with `status`, cache and repeat class: as the first projects declare it."""

    @function_tool(
        name="search_database",
        description="Search the knowledge database",
        input_schema=Query,
        cache_ttl=300,
        side_effect_free=True,
    )
    def search_database(query: str, limit: int = 10) -> dict[str, Any]:
        return {"status": "success", "data": [query] * limit, "count": limit}

    outcome = await search_database.tool({"query": "x", "limit": "2"}, context())

    spec = search_database.spec
    assert (spec.name, spec.repeat, spec.cache_ttl_s) == ("search_database", "free", 300)
    assert spec.parameters["properties"]["limit"] == {"default": 10, "type": "integer"}
    assert outcome.status == "ok"
    assert json.loads(outcome.content) == {"status": "success", "data": ["x", "x"], "count": 2}


async def test_a_model_may_be_taken_whole() -> None:
    """A function whose one parameter is the input_schema gets the validated model itself."""

    @function_tool(input_schema=Query)
    def search(asked: Query) -> str:
        return f"{asked.query}:{asked.limit}"

    assert (await search.tool({"query": "x"}, context())).content == "x:10"


async def test_a_json_schema_is_checked_like_a_model() -> None:
    """input_schema may be JSON schema: shown as it is, with coercions and errors as for a model."""
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "minLength": 2}, "days": {"type": "integer", "maximum": 7}},
        "required": ["city"],
    }

    @function_tool(input_schema=schema)
    def forecast(city: str, days: int = 3) -> str:
        return f"{city}:{days}"

    assert forecast.spec.parameters == schema
    assert (await forecast.tool({"city": "Oslo", "days": "5"}, context())).content == "Oslo:5"
    assert (await forecast.tool({"city": "Oslo", "days": None}, context())).content == "Oslo:3"
    with pytest.raises(ToolError, match=r"'city' is missing.*'days': input should be less than or equal to 7"):
        await forecast.tool({"days": 8}, context())


async def test_parameters_may_have_names_that_model_classes_use() -> None:
    """`json`, `copy`, `schema`, `model_config` and `_x` are names like any other."""

    @function_tool
    def odd(json: str, copy: int, schema: str = "s", model_config: str = "m", _x: int = 0) -> str:
        return f"{json}{copy}{schema}{model_config}{_x}"

    assert (await odd.tool({"json": "j", "copy": 1, "_x": 2}, context())).content == "j1sm2"


async def test_wrong_arguments_are_all_named_with_the_nearest_name() -> None:
    """The model reads which arguments are wrong, what was got, and what the tool takes."""

    @function_tool
    def search(query: str, limit: int = 10) -> str:
        return query

    with pytest.raises(ToolError) as caught:
        await search.tool({"querry": "x", "limit": "many"}, context())

    message = str(caught.value)
    assert message.startswith("wrong arguments for search: ")
    assert "'querry' is no argument (nearest: 'query')" in message
    assert "'query' is missing" in message
    assert "'limit': input should be a valid integer" in message
    assert "got 'many'" in message
    assert message.endswith("It takes query, limit (optional); call it again with these.")
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"limit": "3"}, "'x' 3 False"),
        ({"limit": 3.0}, "'x' 3 False"),
        ({"limit": None}, "'x' 10 False"),
        ({"query": 7}, "'7' 10 False"),
        ({"exact": "true"}, "'x' 10 True"),
    ],
)
async def test_what_models_often_write_is_understood(given: dict[str, Any], expected: str) -> None:
    """Numbers in quotes, whole floats, null for what is left out, numbers for text: read as meant."""

    @function_tool
    def search(query: str, limit: int = 10, exact: bool = False) -> str:
        return f"{query!r} {limit} {exact}"

    assert (await search.tool({"query": "x", **given}, context())).content == expected


@pytest.mark.parametrize(
    "name", ["creator_id", "agent_id", "conversation_id", "conversation", "agent", "ctx", "context"]
)
async def test_failure_18_arguments_cannot_change_who_acts(name: str) -> None:
    """The context is what the engine says: no argument of a model reaches it, and one that tries is refused by name."""
    seen: list[tuple[str, str]] = []

    @function_tool(requires_context=True)
    def pay(amount: int, ctx: Any) -> str:
        seen.append((ctx.agent, ctx.conversation))
        return "paid"

    assert list(pay.spec.parameters["properties"]) == ["amount"]
    await pay.tool({"amount": 1}, context("c1", "alice"))
    with pytest.raises(ToolError, match=f"'{name}' is no argument"):
        await pay.tool({"amount": 1, name: "treasurer"}, context("c1", "alice"))
    assert seen == [("alice", "c1")]


async def test_failure_18_an_argument_called_agent_id_is_an_argument_only() -> None:
    """A tool may take `agent_id` from the model; the acting agent in the context stays who it is."""
    seen: list[tuple[str, str]] = []

    @function_tool
    async def look(agent_id: str, caller: ToolContext | None = None) -> str:
        seen.append((agent_id, caller.agent if caller else ""))
        return "looked"

    await look.tool({"agent_id": "treasurer"}, context("c1", "alice"))

    assert seen == [("treasurer", "alice")]


class Holder(BaseModel):
    """A schema that would let a model write the context."""

    ctx: str
    amount: int


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"reflect": True}, "reflect"),
        ({"reflect": False}, "reflect"),
        ({"compensate": None}, "compensate"),
        ({"post_effects": ["payment"]}, "payment"),
        ({"post_effects": "payment"}, "payment"),
        ({"post_effects": [{"payment": 5}]}, "payment"),
    ],
)
def test_what_is_not_built_is_refused_by_name(options: dict[str, Any], word: str) -> None:
    """An option for a feature that this version lacks is never accepted and ignored."""
    with pytest.raises(NotAvailable, match=f"not available in this version: .*{word}"):
        declare(_add, **options)


def test_an_unknown_option_is_named_with_the_nearest() -> None:
    """A misspelt option is a TypeError that says what it may have been."""
    with pytest.raises(TypeError, match="no option 'side_effect_fre'; nearest: 'side_effect_free'"):
        declare(_add, side_effect_fre=True)


def _add(a: int) -> int:
    return a


def _anything(*args: int) -> None: ...


def _keywords(**kwargs: int) -> None: ...


def _positional(a: int, /) -> None: ...


def _bare_context(a: int, ctx) -> None: ...  # type: ignore[no-untyped-def]


def _method(self, a: int) -> None: ...  # type: ignore[no-untyped-def]


def _two_contexts(a: ToolContext, b: ToolContext) -> None: ...


def _callback(a: Callable[[], None]) -> None: ...


def _later(a: "Undefined") -> None: ...  # type: ignore[name-defined]  # noqa: F821


def _search(query: str, limit: int) -> None: ...


def _pay(amount: int, ctx: ToolContext) -> None: ...


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (_add, {"name": "no spaces"}, "letters, digits"),
    (_add, {"name": "x" * 65}, "1 to 64"),
    (_add, {"cache_ttl": 5}, "cache_ttl needs side_effect_free"),
    (_add, {"cache_ttl": 0, "side_effect_free": True}, "cache_ttl must be seconds above 0"),
    (_add, {"cache_ttl": 5, "side_effect_free": True, "post_effects": [agent_call("a", "b")]}, "exclude each other"),
    (_add, {"dedup_ttl": -1}, "dedup_ttl must be"),
    (_add, {"timeout_s": None}, "timeout_s must be"),
    (_add, {"timeout_s": float("inf")}, "timeout_s must be"),
    (_add, {"retries": 2}, "retries need side_effect_free=True or idempotent=True"),
    (_add, {"retries": 11, "idempotent": True}, "0 to 10"),
    (_add, {"retries": "2", "idempotent": True}, "whole number"),
    (_add, {"post_effects": ["agent_call"]}, "post-effect 'agent_call' is none"),
    (_add, {"input_schema": "Query"}, "must be a pydantic model or a JSON schema"),
    (_add, {"input_schema": Whole}, "must be an object"),
    (_add, {"input_schema": Query}, "has query, limit, and the function no such parameter"),
    (_add, {"input_schema": {"type": "array"}}, "must describe an object"),
    (_add, {"input_schema": {"properties": {"a": {"type": "integer"}}}}, "needs a, which input_schema does not always"),
    (_add, {"input_schema": {"properties": {"a": {"if": {}}}, "required": ["a"]}}, "uses 'if' at a"),
    (_add, {"requires_context": True}, "needs a parameter `ctx: ToolContext`"),
    (_pay, {"input_schema": Holder}, "'ctx' takes the context and may not be a field of Holder"),
    (_search, {"input_schema": {"properties": {"query": {}}, "required": ["query"]}}, "needs limit"),
    (_anything, {}, "callable by name"),
    (_positional, {}, "callable by name"),
    (_keywords, {}, "need an input_schema"),
    (_bare_context, {}, "'ctx' is nothing a model can give"),
    (_method, {}, "'self' is nothing a model can give"),
    (_two_contexts, {}, "only one parameter may take the context"),
    (_callback, {}, "no JSON schema"),
    (_later, {}, "cannot be read: name 'Undefined' is not defined"),
]


@pytest.mark.parametrize(("function", "options", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_a_declaration_that_cannot_hold_is_refused_where_it_stands(
    function: Any, options: dict[str, Any], message: str
) -> None:
    """Each is a ConfigError that names the tool, the file and the line."""
    with pytest.raises(ConfigError, match=message) as caught:
        declare(function, **options)

    assert caught.value.message.startswith("tool '")
    assert caught.value.file == __file__
    assert caught.value.line == inspect.getsourcelines(function)[1]


def test_a_tool_cannot_be_made_twice() -> None:
    """Decorating a tool, or something that is no function, is a TypeError."""
    with pytest.raises(TypeError, match="takes a function"):
        declare(declare(_add))
    with pytest.raises(TypeError, match="takes a function"):
        declare(5)


def test_the_version_follows_what_the_tool_is() -> None:
    """The same declaration has the same version; another text, schema or policy has another."""
    versions = [
        declare(_add).spec.version,
        declare(_add).spec.version,
        declare(_add, description="other").spec.version,
        declare(_add, idempotent=True).spec.version,
        declare(_search, name="_add").spec.version,
    ]

    assert versions[0] == versions[1]
    assert len(set(versions)) == 4


def test_options_reach_the_spec() -> None:
    """What the machine and the runner decide by stands in the spec."""
    spec = declare(
        _add, idempotent=True, dedup_ttl=30, requires_approval=True, timeout_s=5, retries=3, description=""
    ).spec

    assert (spec.repeat, spec.dedup_ttl_s, spec.requires_approval) == ("idempotent", 30, True)
    assert (spec.timeout_s, spec.retries, spec.description) == (5, 3, "")


async def test_post_effects_are_values_or_functions_of_the_result() -> None:
    """Agents to call and events to raise come out with the outcome; artifacts are saved."""
    artifacts = MemoryArtifacts()

    @function_tool(
        post_effects=[
            lambda result: agent_call("reviewer", f"Check: {result['text']}"),
            lambda result: [save_artifact("draft.md", result["text"]), raise_event("tool.drafted", n=len(result))],
            lambda result: None,
            raise_event("tool.called"),
        ]
    )
    def draft() -> dict[str, str]:
        return {"text": "hello"}

    outcome = await draft.tool({}, context(artifacts=artifacts))

    assert outcome.then == (CallAgentAfter(AgentId("reviewer"), "Check: hello"),)
    assert outcome.events == (("tool.drafted", {"n": 1}), ("tool.called", {}))
    assert artifacts.bodies == {"draft.md": b"hello"}


async def test_a_failed_call_has_no_post_effects() -> None:
    """What a result was to bring about does not happen when the result says it failed."""

    @function_tool(post_effects=[agent_call("reviewer", "look")])
    def draft() -> dict[str, str]:
        return {"status": "failed"}

    outcome = await draft.tool({}, context())

    assert (outcome.status, outcome.then) == ("error", ())


@pytest.mark.parametrize(
    "kind", ["ledger.transfer", "tool.", "tool", "tool.UP", "state.finished", "tool.a b", "tool.x" * 50]
)
def test_an_event_cannot_pass_for_one_of_the_engine(kind: str) -> None:
    """Kinds that a tool may raise start with `tool.`."""
    with pytest.raises(UsageError, match=r"must look like 'tool\.some_name'"):
        raise_event(kind)


@pytest.mark.parametrize("schema", [Query, {"properties": {"query": {"type": "string"}}, "required": ["query"]}])
async def test_a_result_is_checked_by_the_output_schema(schema: Any) -> None:
    """A success that is not as promised is named; a reported failure needs no such form."""

    @function_tool(output_schema=schema)
    def answer(kind: str) -> Any:
        return {
            "good": {"query": "x"},
            "model": Query(query="x"),
            "bad": {"limit": 1},
            "failed": {"status": "error", "error": "no"},
        }[kind]

    assert (await answer.tool({"kind": "good"}, context())).status == "ok"
    assert (await answer.tool({"kind": "model"}, context())).status == "ok"
    assert (await answer.tool({"kind": "failed"}, context())).status == "error"
    with pytest.raises(ToolError, match="does not match its output_schema: 'query' is missing"):
        await answer.tool({"kind": "bad"}, context())


async def test_validation_makes_what_the_annotations_say() -> None:
    """Dataclasses and models among the parameters arrive as such."""

    @function_tool
    def where(point: Point, query: Query) -> str:
        return f"{type(point).__name__} {point.x} {type(query).__name__} {query.limit}"

    given = {"point": {"x": "1"}, "query": {"query": "q"}}
    assert (await where.tool(given, context())).content == "Point 1 Query 10"


def test_the_body_is_a_tool() -> None:
    """What an agent uses fits the port."""
    tool: Tool = declare(_add).tool

    assert tool.spec.name == "_add"


def declare(function: Any, **options: Any) -> FunctionTool[..., Any]:
    """Decorate with options that the types would not let through."""
    decorator = cast(Any, function_tool)
    return cast(FunctionTool[..., Any], decorator(**options)(function))

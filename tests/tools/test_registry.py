"""Which tools are loaded, and what a name may be."""

from collections.abc import Mapping
from typing import Any

import pytest

from p2engine.domain.decisions import ToolOutcome
from p2engine.domain.messages import ToolSpec
from p2engine.errors import ConfigError
from p2engine.ports import Toolbox, ToolContext
from p2engine.tools.artifacts import artifact_tools
from p2engine.tools.function import FunctionTool, function_tool
from p2engine.tools.registry import MOVES, WITHHELD, Registry


def tool(name: str) -> FunctionTool[..., Any]:
    @function_tool(name=name)
    def body() -> str:
        return name

    return body


class Plain:
    """A tool that is no function."""

    spec = ToolSpec(name="plain")

    async def __call__(self, arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome:
        return ToolOutcome()


def test_tools_are_found_by_name() -> None:
    """Decorated functions and other tools, from built-in and project, in one toolbox."""
    registry = Registry([tool("b"), Plain()])
    registry.exchange([tool("a")])
    toolbox: Toolbox = registry

    assert registry.names() == ["a", "b", "plain"]
    assert list(registry.specs()) == registry.names()
    assert toolbox.get("gone") is None
    assert (found := toolbox.get("b")) is not None
    assert found.spec.name == "b"
    assert registry.source("a").startswith(__file__ + ":")
    assert registry.source("plain").endswith("Plain")
    assert registry.source("gone") == ""


def test_failure_27_two_tools_of_one_name_name_both_places() -> None:
    """The second is refused, with the file and line of each."""
    registry = Registry([tool("same")])
    place = registry.source("same")

    with pytest.raises(ConfigError, match="two tools are named 'same'") as caught:
        registry.add(tool("same"))

    assert caught.value.message.count(place) == 2
    assert (caught.value.file, caught.value.line) == (__file__, int(place.rpartition(":")[2]))


def test_exchanging_takes_what_it_can() -> None:
    """Of a project's tools those that collide are named and the others are in; the ones before are gone."""
    registry = Registry([tool("built_in")])
    registry.exchange([tool("old")])
    first, second = tool("twice"), tool("twice")

    refused = registry.exchange([tool("built_in"), first, second, tool("new")])

    assert [error.message.split("'")[1] for error in refused] == ["built_in", "twice"]
    assert registry.names() == ["built_in", "new", "twice"]
    assert registry.get("twice") is first.tool


def test_the_same_tool_again_is_no_collision() -> None:
    """A project file that imports a built-in tool does not define another."""
    registry = Registry(artifact_tools())

    assert registry.exchange(artifact_tools()) == ()
    assert registry.names() == ["list_artifacts", "read_artifact", "save_artifact"]


@pytest.mark.parametrize("name", sorted({*WITHHELD, *MOVES}))
def test_names_of_p2engine_are_kept(name: str) -> None:
    """A tool of the ledger, a question to a person and `delegate` cannot be replaced by something else."""
    registry = Registry()

    with pytest.raises(ConfigError, match=f"tool '{name}': the name belongs to P2Engine"):
        registry.add(tool(name))
    assert registry.get(name) is None
    assert name in registry.known()


def test_withheld_names_have_a_reason() -> None:
    """Tools that configurations may name and that are not there yet say why."""
    assert set(WITHHELD) == {
        "ask_human",
        "check_balance",
        "reward_agent",
        "transaction_history",
        "transfer_funds",
    }
    assert all("not available in this version" in why or "the ledger is off" in why for why in WITHHELD.values())

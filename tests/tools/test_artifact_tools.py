"""The tools that keep and read artifacts."""

import json

import pytest

from p2engine.errors import ToolError
from p2engine.limits import NAME_BYTES_MAX
from p2engine.tools.after import artifact_name
from p2engine.tools.artifacts import artifact_tools, list_artifacts, read_artifact, save_artifact
from tests.tools.tool_context import MemoryArtifacts, context


async def test_what_is_saved_can_be_read_and_listed() -> None:
    """Save, save again, list by prefix, read: the newest text of a name is what it holds."""
    artifacts = MemoryArtifacts()
    ctx = context(artifacts=artifacts)

    await save_artifact.tool({"name": "notes/a.md", "content": "old"}, ctx)
    saved = await save_artifact.tool({"name": "notes/a.md", "content": "new ü"}, ctx)
    await save_artifact.tool({"name": "b.md", "content": ""}, ctx)

    assert json.loads(saved.content) == {"status": "success", "name": "notes/a.md", "bytes": 6}
    assert (await read_artifact.tool({"name": "notes/a.md"}, ctx)).content == "new ü"
    listed = json.loads((await list_artifacts.tool({"prefix": "notes/"}, ctx)).content)
    assert [one["name"] for one in listed["artifacts"]] == ["notes/a.md"]
    assert len(json.loads((await list_artifacts.tool({}, ctx)).content)["artifacts"]) == 2


async def test_what_is_no_text_is_an_error_and_what_is_missing_too() -> None:
    """Bytes are not guessed at; an unknown name is told."""
    artifacts = MemoryArtifacts()
    artifacts.bodies["image.png"] = b"\x89PNG\xff"

    outcome = await read_artifact.tool({"name": "image.png"}, context(artifacts=artifacts))

    assert outcome.status == "error"
    assert "is no text: 5 bytes" in outcome.content
    with pytest.raises(ToolError, match="no artifact is named 'gone'"):
        await read_artifact.tool({"name": "gone"}, context())


BAD_NAMES = [
    "",
    ".",
    "..",
    "../secrets",
    "a/../../b",
    "a//b",
    "a/",
    "/etc/passwd",
    "C:\\x",
    "C:x",
    "a\\..\\b",
    "a\0b",
    "a\nb",
    "\x1b[31mred",
    "a\u202eb",
    "\ud800",
    "x" * (NAME_BYTES_MAX + 1),
    "ü" * NAME_BYTES_MAX,
    "x" * 10_000_000,
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=[repr(name[:20]) for name in BAD_NAMES])
async def test_failure_26_names_that_could_lead_out_are_refused(name: str) -> None:
    """Paths upwards, absolute ones, control characters and endless names save nothing; the message stays short."""
    artifacts = MemoryArtifacts()

    with pytest.raises(ToolError, match="artifact name") as caught:
        await save_artifact.tool({"name": name, "content": "x"}, context(artifacts=artifacts))

    assert artifacts.bodies == {}
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()
    with pytest.raises(ToolError, match="artifact name"):
        await read_artifact.tool({"name": name}, context(artifacts=artifacts))


@pytest.mark.parametrize("name", ["a", "report.md", "notes/2026/…", "..a", "a..b", "emoji 🎉", "x" * NAME_BYTES_MAX])
def test_plain_and_relative_names_are_allowed(name: str) -> None:
    """Spaces, dots, folders and other scripts are fine."""
    assert artifact_name(name) == name


def test_the_contract_of_the_artifact_tools() -> None:
    """Names and arguments are what configurations rely on; saving may be repeated, reading is free."""
    assert {one.spec.name: (list(one.spec.parameters["properties"]), one.spec.repeat) for one in artifact_tools()} == {
        "save_artifact": (["name", "content"], "idempotent"),
        "read_artifact": (["name"], "free"),
        "list_artifacts": (["prefix"], "free"),
    }

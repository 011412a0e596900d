"""The tools that keep and read artifacts of a conversation. Knows the port `Artifacts` only."""

from typing import Any, Final

from p2engine.ports import ToolContext
from p2engine.tools.after import artifact_name
from p2engine.tools.function import FunctionTool, function_tool

LISTED_MAX: Final = 1000  # names in one answer


@function_tool(idempotent=True)
async def save_artifact(name: str, content: str, ctx: ToolContext) -> dict[str, Any]:
    """Save text under a name, to be read later in this conversation. Saving a name again keeps the newest.

    Args:
        name: a plain or relative name, such as report.md
        content: the whole text
    """
    saved = await ctx.artifacts.save(artifact_name(name), content)
    return {"status": "success", "name": saved.name, "bytes": saved.bytes}


@function_tool(side_effect_free=True)
async def read_artifact(name: str, ctx: ToolContext) -> str | dict[str, Any]:
    """Read the newest text saved under a name in this conversation.

    Args:
        name: the name it was saved under
    """
    body = await ctx.artifacts.read(artifact_name(name))
    try:
        return body.decode()
    except UnicodeDecodeError:
        return {"status": "error", "error": f"artifact {name!r} is no text: {len(body)} bytes"}


@function_tool(side_effect_free=True)
async def list_artifacts(ctx: ToolContext, prefix: str = "") -> dict[str, Any]:
    """List what is saved in this conversation.

    Args:
        prefix: only names that begin with this
    """
    found = await ctx.artifacts.list(prefix)
    listed = [{"name": one.name, "bytes": one.bytes, "media": one.media} for one in found[:LISTED_MAX]]
    return {"status": "success", "artifacts": listed, "left_out": len(found) - len(listed)}


def artifact_tools() -> tuple[FunctionTool[..., Any], ...]:
    """All of them."""
    return save_artifact, read_artifact, list_artifacts

"""A tool's surroundings for tests: a context, and artifacts that live in memory."""

from collections.abc import Sequence

from p2engine.domain.ids import AgentId, ConversationId, EffectId, StackRef, blob_ref
from p2engine.domain.records import Artifact
from p2engine.errors import ToolError
from p2engine.ports import ToolContext


class MemoryArtifacts:
    """A double of the port `Artifacts`: it keeps bodies in a dictionary."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}

    async def save(self, name: str, content: str | bytes, *, media: str = "text/plain") -> Artifact:
        body = content.encode() if isinstance(content, str) else content
        self.bodies[name] = body
        return Artifact(name=name, blob=blob_ref(body), bytes=len(body), media=media)

    async def read(self, name: str) -> bytes:
        if name not in self.bodies:
            raise ToolError(f"no artifact is named {name!r}")
        return self.bodies[name]

    async def list(self, prefix: str = "") -> Sequence[Artifact]:
        return [
            Artifact(name=name, blob=blob_ref(body), bytes=len(body))
            for name, body in self.bodies.items()
            if name.startswith(prefix)
        ]


def context(conversation: str = "c1", agent: str = "alice", artifacts: MemoryArtifacts | None = None) -> ToolContext:
    """The context of one call."""
    return ToolContext(
        conversation=ConversationId(conversation),
        agent=AgentId(agent),
        branch=StackRef("0123456789ab"),
        call_id="call_1",
        idempotency_key=EffectId("0123456789ab:3.0"),
        artifacts=artifacts or MemoryArtifacts(),
    )

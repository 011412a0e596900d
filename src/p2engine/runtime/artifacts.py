"""The named bodies of a conversation, as one call sees them. A save is an event settled with the call's result."""

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from p2engine.domain.ids import BlobRef, EffectId, StackRef
from p2engine.domain.records import Artifact, Branch, Cursor, Event, Fact, Query
from p2engine.errors import ToolError
from p2engine.limits import QUERY_EVENTS_MAX
from p2engine.runtime.outcomes import plain_text

if TYPE_CHECKING:
    from p2engine.runtime.world import World

SAVED = "artifact.saved"


class Saving:
    """ports.Artifacts for one tool call. `root` is the place on the root stack under which the call happens."""

    def __init__(self, world: "World", branch: Branch, effect: EffectId, root: tuple[StackRef, int]) -> None:
        self._world = world
        self._branch = branch
        self._effect = effect
        self._root = root
        self._saved: dict[str, tuple[Artifact, bytes]] = {}

    @property
    def facts(self) -> tuple[Fact, ...]:
        """What was saved, as facts to settle."""
        return tuple(
            Fact(
                id=f"{self._effect}={name}",
                kind=SAVED,
                cause=self._effect,
                at=self._world.clock.now(),
                conversation=self._branch.conversation,
                ref=self._branch.ref,
                body={**msgspec.to_builtins(artifact), "root": list(self._root)},
            )
            for name, (artifact, _) in self._saved.items()
        )

    @property
    def bodies(self) -> dict[BlobRef, bytes]:
        """What the facts rely on."""
        return {artifact.blob: body for artifact, body in self._saved.values()}

    async def save(self, name: str, content: str | bytes, *, media: str = "text/plain") -> Artifact:
        if not isinstance(name, str) or name != plain_text(name):
            raise ToolError(f"an artifact's name is text that UTF-8 can hold, not {name!r}")
        body = content.encode() if isinstance(content, str) else content
        artifact = Artifact(name=name, blob=await self._world.blobs.put(body), bytes=len(body), media=media)
        self._saved[name] = (artifact, body)
        return artifact

    async def read(self, name: str) -> bytes:
        if name in self._saved:
            return self._saved[name][1]
        for artifact in await self.list(name):
            if artifact.name == name:
                return await self._world.blobs.get(artifact.blob)
        raise ToolError(f"no artifact {name!r} in this conversation; list_artifacts shows what there is")

    async def list(self, prefix: str = "") -> Sequence[Artifact]:
        """The newest of each name, as seen from this path of the tree, sorted by name."""
        seen: dict[str, Artifact] = {}
        lineage = await _lineage(self._world, self._root)
        async for event in _saved_events(self._world, self._branch):
            ref, at = event.body["root"]
            name = str(event.body["name"])
            if name.startswith(prefix) and at < lineage.get(ref, 0):
                seen[name] = msgspec.convert({k: event.body[k] for k in Artifact.__struct_fields__}, Artifact)
        seen.update({name: artifact for name, (artifact, _) in self._saved.items() if name.startswith(prefix)})
        return [seen[name] for name in sorted(seen)]


async def _lineage(world: "World", root: tuple[StackRef, int]) -> dict[StackRef, int]:
    """How many entries of each branch lie on the path to this place of the root stack, itself included."""
    path: dict[StackRef, int] = {}
    ref: StackRef | None
    ref, length = root[0], root[1] + 1
    while ref is not None:
        path[ref] = length
        branch = await world.stacks.branch(ref)
        ref, length = branch.parent, min(length, branch.at)
    return path


async def _saved_events(world: "World", branch: Branch) -> AsyncIterator[Event]:
    after = Cursor()
    while True:
        query = Query(conversation=branch.conversation, kinds=(SAVED,), after=after, limit=QUERY_EVENTS_MAX)
        events = await world.store.events(query)
        for event in events:
            yield event
        if len(events) < QUERY_EVENTS_MAX:
            return
        after = events[-1].cursor

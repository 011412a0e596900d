"""A project folder to write in, and a roster on it with a few tools."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from p2engine.agents.roster import AgentFactory, Defaults, FileRoster, Tools
from p2engine.domain.decisions import Decision, Say
from p2engine.domain.ids import BlobRef
from p2engine.domain.messages import ToolSpec
from p2engine.ports import AgentView
from p2engine.stores.blobs import FileBlobs
from p2engine.tools.registry import MOVES, WITHHELD, Registry

WEATHER = ToolSpec(name="get_weather", description="The weather {{ 7 * 7 }}", repeat="free", dedup_ttl_s=30)
MAIL = ToolSpec(name="send_mail", description="Sends a mail", requires_approval=True)
DEFAULTS = Defaults("openai/gpt-4o")


class ModelDouble:
    """Stands where the agent that asks a model stands."""

    async def decide(self, view: AgentView) -> Decision:
        return Decision((Say("said by the model"),))


class CountingBlobs(FileBlobs):
    """Real blobs that count how often they are read and written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reads = self.writes = 0

    async def put(self, body: bytes) -> BlobRef:
        self.writes += 1
        return await super().put(body)

    async def get(self, ref: BlobRef) -> bytes:
        self.reads += 1
        return await super().get(ref)


@dataclass
class Project:
    """A folder whose files a test writes. tools: the loaded tools, by name."""

    folder: Path
    tools: dict[str, ToolSpec] = field(default_factory=lambda: {WEATHER.name: WEATHER, MAIL.name: MAIL})
    model: ModelDouble = field(default_factory=ModelDouble)

    def __post_init__(self) -> None:
        self.blobs = CountingBlobs(self.folder / "blobs")
        self._written = 0

    def write(self, name: str, text: str) -> None:
        """Write a file of the project; each time it differs from before also to those who only look at its stamp."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self._written += 1
        os.utime(path, ns=(self._written * 10**9, self._written * 10**9))

    def agents(self, text: str) -> None:
        self.write("config/agents.yml", text)

    def persona(self, name: str, text: str) -> None:
        self.write(f"templates/personas/{name}.j2", text)

    def roster(
        self,
        *,
        defaults: Defaults = DEFAULTS,
        factories: Mapping[str, AgentFactory] | None = None,
        registry: Registry | None = None,
    ) -> FileRoster:
        """registry: of the tools, in place of `tools`."""
        tools = Tools(self.tools.get, lambda: [*self.tools, *WITHHELD, *MOVES], WITHHELD.get)
        if registry is not None:
            tools = Tools(registry.specs().get, lambda: None, registry.withheld, registry.missing)
        return FileRoster(
            project=self.folder,
            defaults=defaults,
            tools=tools,
            factories={"llm": lambda _: self.model, **(factories or {})},
            blobs=self.blobs,
        )

"""The model of the distributed benches, and the project that asks it: what it does stands in its name.

`bench/TOOLS-MS` calls the tool so many times in each turn, then answers, and takes so many milliseconds each time.
"""

import json
from pathlib import Path

from bench.work import AtOnce
from p2engine.domain.messages import ModelReply, ModelRequest
from p2engine.models.catalogue import Models
from p2engine.ports import OnText

CALLS = 6  # model calls in a turn of the agents that only wait: five tool calls, and the answer
WAITS_S = {"waits": 0.2, "waits_long": 2.0}  # how long their model takes
AGENTS = {"plain": "0-0", "tool": "1-0", "waits": "5-200", "waits_long": "5-2000"}
TOOL = '''\
from p2engine import function_tool


@function_tool(side_effect_free=True)
async def weather(city: str, day: int) -> str:
    """The weather of a city on a day.

    Args:
        city: the name of the city
        day: days from today
    """
    return '{"city":"Paris","temp_c":20,"sky":"sunny"}'
'''


class Named:
    """The port `Model`: every `bench/TOOLS-MS`."""

    def __init__(self) -> None:
        self._models: dict[str, AtOnce] = {}

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReply:
        """The next reply of the turn."""
        found = self._models.get(request.model)
        if found is None:
            tools, milliseconds = request.model.removeprefix("bench/").split("-")
            found = self._models[request.model] = AtOnce(int(tools), int(milliseconds) / 1e3)
        reply = await found.complete(request)
        if on_text is not None and reply.text:
            on_text(reply.text)  # as a model that streams does
        return reply


def models(*_: object, **__: object) -> Models:
    """What a worker asks, in the place of `wiring.models_of`."""
    return Models(drivers={"bench": Named()})


def make_project(folder: Path, redis_port: int) -> None:
    """A project whose conversations are kept in that Redis, and whose workers do the work."""
    agents = "".join(
        f'  - {{id: {name}, type: llm, llm_model: "bench/{model}", tools: [weather]}}\n'
        for name, model in AGENTS.items()
    )
    config = {
        "store": "redis",
        "dispatch": "celery",
        "redis": {"host": "127.0.0.1", "port": redis_port, "durability": "warn"},
        "logging": {"level": "WARNING"},
    }
    for name, text in {
        "config/agents.yml": "agents:\n" + agents,
        "config/config.json": json.dumps(config),
        "tools/weather.py": TOOL,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

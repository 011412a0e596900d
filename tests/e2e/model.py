"""A model that does what it is told, for tests that decide when it answers."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from typing import Any

from p2engine.domain.messages import ToolUse
from p2engine.testing.server import Answer, Reply, echo

PATIENCE_S = 60.0
GAP_S = 20.0  # before the rest of a story, which nobody waits for
FIRST, REST = "Once upon a time", " there was a long story."


class Gate:
    """An answer that does not come until `opened`; `asked` once somebody waits for it."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.opened = threading.Event()


class Model:
    """`hold NAME` waits at the gate of that name; `call TOOL {…}` calls it; `story` begins and is slow to go on.

    Everything else is repeated. As a judge it gives what was said the score that stands in it: `worth 0.7`.
    """

    def __init__(self) -> None:
        self._gates: dict[str, Gate] = {}
        self._lock = threading.Lock()

    def gate(self, name: str) -> Gate:
        with self._lock:
            return self._gates.setdefault(name, Gate())

    def open_all(self) -> None:
        """So that the server can close."""
        with self._lock:
            for gate in self._gates.values():
                gate.opened.set()

    async def __call__(self, body: dict[str, Any]) -> Answer:
        last = body["messages"][-1]
        text = str(last.get("content") or "")
        if "You are a judge" in str(body["messages"][0].get("content")):
            worth = re.search(r"worth (\d\.\d+)", text)
            return json.dumps({"score": float(worth[1]) if worth else None, "comment": "by its own word"})
        if last["role"] == "tool":
            return f"It says {json.loads(text) if text.startswith('{') else text}"
        if held := re.match(r"hold (\S+)", text):
            gate = self.gate(held[1])
            gate.asked.set()
            await asyncio.to_thread(gate.opened.wait, PATIENCE_S)
        if called := re.match(r"call (\w+) (\{.*\})", text):
            return Reply(calls=(ToolUse(f"call_{len(body['messages'])}", called[1], json.loads(called[2])),))
        if text == "story":
            return Reply(text=FIRST + REST, write_bytes=700, gap_s=GAP_S)
        return echo(body)

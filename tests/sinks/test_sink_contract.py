"""The sinks that ship keep the contract of a sink."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from p2engine.sinks.jsonl import JsonLinesSink
from p2engine.testing.contracts import EventSinkContract


class TestJsonLines(EventSinkContract):
    @pytest.fixture
    def sink(self, tmp_path: Path) -> JsonLinesSink:
        return JsonLinesSink(tmp_path / "deep" / "events.jsonl")

    @pytest.fixture
    def received(self, tmp_path: Path) -> Callable[[], Sequence[str]]:
        def lines() -> list[str]:
            return [json.loads(line)["id"] for line in (tmp_path / "deep" / "events.jsonl").read_bytes().splitlines()]

        return lines

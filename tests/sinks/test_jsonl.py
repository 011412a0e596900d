"""The JSON-lines sink: every event of the log is a line, from an engine's start to its end."""

import json
from pathlib import Path

from p2engine.domain.records import Query
from p2engine.settings import Settings
from p2engine.wiring import Engine


async def test_every_event_is_a_line_with_a_cause(tmp_path: Path) -> None:
    """What the log holds after a conversation stands in the file, in order; closing loses nothing."""
    settings = Settings.load(home=tmp_path / "home", logging={"log_dir": str(tmp_path), "events_file": "events.jsonl"})

    async with Engine.open(settings=settings) as engine:
        conversation = await engine.conversation("demo", agent="agent_alpha")
        await conversation.say("What's the weather in Paris?")
        logged = await engine.query(Query(limit=1000))

    assert settings.events_path is not None
    lines = [json.loads(line) for line in settings.events_path.read_text().splitlines()]
    assert [line["id"] for line in lines] == [event.id for event in logged]
    assert all(line["cause"] for line in lines)


async def test_a_sink_that_cannot_write_stops_nobody(tmp_path: Path) -> None:
    """A file that cannot be opened costs its events, which are counted; the conversation goes on."""
    (tmp_path / "events.jsonl").mkdir()
    settings = Settings.load(home=tmp_path / "home", logging={"log_dir": str(tmp_path), "events_file": "events.jsonl"})

    async with Engine.open(settings=settings) as engine:
        conversation = await engine.conversation("demo", agent="agent_alpha")
        reply = await conversation.say("What's the weather in Paris?")
        await engine.aclose()

        assert reply.finished == "answered"
        assert engine.dropped["JsonLinesSink"] > 0

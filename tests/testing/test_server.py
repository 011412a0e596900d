"""The scripted server by itself: in this loop, in a thread, and as a process."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from p2engine.domain.messages import ToolUse
from p2engine.errors import ConfigError
from p2engine.testing.completions import read_answers
from p2engine.testing.server import Fault, OpenAIServer, Reply, echo, showcase


def post(base_url: str, body: dict[str, Any], key: str = "") -> tuple[int, str]:
    """Status and body of one request, with the standard library alone."""
    parts = urlsplit(base_url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    connection.request("POST", f"{parts.path}/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def asking(text: str, *tools: str, **fields: Any) -> dict[str, Any]:
    """The body of a request."""
    offered = [{"type": "function", "function": {"name": name}} for name in tools]
    return {"model": "m", "messages": [{"role": "user", "content": text}], "tools": offered} | fields


def test_a_server_in_a_thread() -> None:
    """`with` serves from a thread, records what came, and is gone afterwards."""
    with OpenAIServer(["Hi", Fault(status=418, message="tea")]) as server:
        status, text = post(server.base_url, asking("Hello"), key="k")
        assert status == 200
        assert json.loads(text)["choices"][0]["message"]["content"] == "Hi"
        assert post(server.base_url, asking("Tea?"))[0] == 418
        status, text = post(server.base_url, asking("More?"))
        assert (status, "script of 2 answers is exhausted" in text) == (500, True)
    assert [received.body["messages"][0]["content"] for received in server.requests] == ["Hello", "Tea?", "More?"]
    assert server.requests[0].headers["authorization"] == "Bearer k"
    with pytest.raises(OSError):  # which one depends on the system
        post(server.base_url, asking("Anyone?"))


def test_a_stream_ends_with_done() -> None:
    """A stream is events with usage where it was asked for, and [DONE]."""
    with OpenAIServer(["one two"]) as server:
        _, text = post(server.base_url, asking("Hello", stream=True, stream_options={"include_usage": True}))
    events = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert events[-1] == "[DONE]"
    assert "usage" in json.loads(events[-2])
    assert [json.loads(one)["choices"][0]["delta"].get("content") for one in events[1:3]] == ["one", " two"]


def test_a_server_as_a_process(tmp_path: Path) -> None:
    """`python -m p2engine.testing.server` prints its address, answers from a file, and logs what came."""
    script, log = tmp_path / "script.jsonl", tmp_path / "log.jsonl"
    script.write_text('"Hi"\n{"calls": [{"name": "f", "arguments": {"a": 1}}]}\n{"status": 429, "message": "slow"}\n')
    command = [sys.executable, "-m", "p2engine.testing.server", "--script", str(script), "--log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            base_url = process.stdout.readline().strip()
            assert "Hi" in post(base_url, asking("1"))[1]
            call = json.loads(post(base_url, asking("2"))[1])["choices"][0]["message"]["tool_calls"][0]
            assert call == {"id": "call_2_0", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
            assert post(base_url, asking("3"))[0] == 429
        finally:
            process.terminate()
        assert process.wait(30) == 0
    assert [json.loads(line)["messages"][0]["content"] for line in log.read_text().splitlines()] == ["1", "2", "3"]


def test_a_file_of_answers(tmp_path: Path) -> None:
    """Texts, replies and faults; a key that is neither is named with its line."""
    path = tmp_path / "answers.yml"
    path.write_text("- Hi\n- {text: x, calls: [{name: f, malformed: '{'}]}\n- {drop: midway}\n- {raw: '{'}\n")
    assert read_answers(path) == [
        "Hi",
        Reply(text="x", calls=(ToolUse("call_2_0", "f", malformed="{"),)),
        Fault(drop="midway"),
        Fault(raw="{"),
    ]
    path.write_text("- Hi\n- {statu: 500}\n")
    with pytest.raises(ConfigError, match="statu") as caught:
        read_answers(path)
    assert caught.value.line == 2


def test_the_showcase_uses_only_what_it_is_offered() -> None:
    """Tools are called where they are offered; otherwise it repeats what it heard."""
    question = "What's the weather in Paris?"
    assert isinstance(showcase(asking(question, "get_weather")), Reply)
    assert showcase(asking(question)) == f"You said: {question}"
    assert echo(asking("Delegate to a: b", "delegate")) == "You said: Delegate to a: b"
    delegation = showcase(asking("Delegate to a: b; delegate to c: d", "delegate"))
    assert isinstance(delegation, Reply)
    assert [call.arguments["agent_id"] for call in delegation.calls] == ["a", "c"]

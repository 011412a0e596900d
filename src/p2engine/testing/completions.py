"""What a scripted server answers, and its chat-completions form from the server's side.

Shares no code with the drivers, so that neither hides the other's mistakes.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from p2engine.domain.messages import ToolUse, tokens_estimate
from p2engine.errors import ConfigError
from p2engine.models.scripted import read_rows

_encode = msgspec.json.encode


class Reply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A completion. How it is sent: `latency_s` before the first byte; as a stream, `write_bytes` at a time (0: an
    event at a time) with `gap_s` between writes. `usage` False leaves the count of tokens out; `finish` is the
    finish_reason, derived when empty; `plain` answers with plain JSON although a stream was asked for.
    """

    text: str = ""
    calls: tuple[ToolUse, ...] = ()
    model: str = ""
    finish: str = ""
    usage: bool = True
    tokens_in: int | None = None
    tokens_out: int | None = None
    plain: bool = False
    latency_s: float = 0.0
    write_bytes: int = 0
    gap_s: float = 0.0


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something other than a completion: an error status, a body as it stands (`raw`), or a connection that breaks:
    `drop` before the first byte, or midway through the completion of `text`.
    """

    status: int = 500
    message: str = "scripted fault"
    code: str = ""
    headers: dict[str, str] = {}
    raw: str | None = None
    drop: Literal["", "before", "midway"] = ""
    text: str = "this will not arrive"
    latency_s: float = 0.0


Answer = str | Reply | Fault


def writes(events: list[bytes], size: int) -> list[bytes]:
    """The same bytes, an event at a time, or `size` bytes at a time."""
    if not size:
        return events
    whole = b"".join(events)
    return [whole[start : start + size] for start in range(0, len(whole), size)]


def completion(reply: Reply, body: dict[str, Any]) -> dict[str, Any]:
    """The whole completion, as the JSON body of an answer."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or None}
    if reply.calls:
        message["tool_calls"] = [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": _arguments(call)}}
            for call in reply.calls
        ]
    completion = _head(reply, body, "chat.completion")
    completion["choices"] = [{"index": 0, "message": message, "finish_reason": _finish(reply)}]
    if reply.usage:
        completion["usage"] = _usage(reply, body)
    return completion


def events(reply: Reply, body: dict[str, Any]) -> Iterator[bytes]:
    """The completion as server-sent events: words of text, calls in three deltas each, usage when asked for."""
    head = _head(reply, body, "chat.completion.chunk")

    def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return b"data: " + _encode(head | {"choices": [choice]}) + b"\n\n"

    yield event({"role": "assistant", "content": ""})
    for word in re.findall(r"\s*\S+|\s+$", reply.text):
        yield event({"content": word})
    for index, call in enumerate(reply.calls):
        arguments = _arguments(call)
        half = len(arguments) // 2
        function = {"name": call.name, "arguments": ""}
        yield event({"tool_calls": [{"index": index, "id": call.call_id, "type": "function", "function": function}]})
        for part in (arguments[:half], arguments[half:]):
            yield event({"tool_calls": [{"index": index, "function": {"arguments": part}}]})
    yield event({}, _finish(reply))
    if reply.usage and (body.get("stream_options") or {}).get("include_usage"):
        yield b"data: " + _encode(head | {"choices": [], "usage": _usage(reply, body)}) + b"\n\n"
    yield b"data: [DONE]\n\n"


def _head(reply: Reply, body: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-scripted", "object": kind, "created": 0, "model": reply.model or body.get("model", "")}


def _arguments(call: ToolUse) -> str:
    return call.malformed or _encode(call.arguments).decode()


def _finish(reply: Reply) -> str:
    return reply.finish or ("tool_calls" if reply.calls else "stop")


def _usage(reply: Reply, body: dict[str, Any]) -> dict[str, int]:
    sent = tokens_estimate(_encode(body["messages"]).decode()) if reply.tokens_in is None else reply.tokens_in
    said = reply.text + "".join(map(_arguments, reply.calls))
    came = tokens_estimate(said) if reply.tokens_out is None else reply.tokens_out
    return {"prompt_tokens": sent, "completion_tokens": came, "total_tokens": sent + came}


def read_answers(path: Path) -> list[Answer]:
    """The answers in a file of JSON lines or YAML: a text, a mapping of Reply, or one of Fault (it has `status`,
    `raw` or `drop`). A call without `call_id` gets one. Raises ConfigError, with file and line.
    """
    answers: list[Answer] = []
    for number, row in read_rows(path):
        if isinstance(row, dict):
            for place, call in enumerate(row.get("calls") or ()):
                call.setdefault("call_id", f"call_{number}_{place}")
            try:
                answers.append(_answer(row))
            except msgspec.ValidationError as error:
                raise ConfigError(f"no answer: {error}", file=str(path), line=number) from error
        else:
            answers.append(str(row))
    return answers


def _answer(row: dict[str, Any]) -> Answer:
    if {"status", "raw", "drop"} & row.keys():
        return msgspec.convert(row, Fault)
    return msgspec.convert(row, Reply)

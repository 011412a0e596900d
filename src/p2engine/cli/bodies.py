"""The bodies behind references: artifacts, events, and the exact requests of model calls. Reads; prints nothing."""

import base64
import json
from typing import Any

import msgspec

from p2engine.cli.conversation_view import event_row, usage_words
from p2engine.cli.provenance import Blob, find
from p2engine.domain.ids import BlobRef, blob_ref
from p2engine.domain.messages import ModelRequest, Usage, prompt_hash, wire_tools
from p2engine.domain.records import Event
from p2engine.wiring import Engine

MODEL = "model.reply"
SAVED = "artifact.saved"
TEXT_BYTES_MAX = 1024 * 1024  # of an artifact that is shown; more is for `save`


class Whole(msgspec.Struct, frozen=True):
    """An event with all that belongs to it, for programs and for people."""

    document: dict[str, Any]
    text: str


class Content(msgspec.Struct, frozen=True):
    """What a reference leads to. body: its exact bytes; text: the same to be read; said: the part of it worth
    comparing with another."""

    ref: str
    body: bytes
    document: dict[str, Any]
    text: str
    said: str


async def content(engine: Engine, ref: str) -> Content:
    """What `ref` names, whole: an artifact's bytes, else an event as JSON. Raises UsageError, StoreError."""
    found = await find(engine, ref)
    if isinstance(found, Blob):
        return _content(found.ref, await engine.world.blobs.get(found.ref), {"ref": found.ref})
    if found.kind == SAVED:
        body = await engine.world.blobs.get(BlobRef(found.body["blob"]))
        facts = {"name": found.body["name"], "media": found.body.get("media", "text/plain"), "blob": found.body["blob"]}
        return _content(found.id, body, event_row(found) | facts)
    seen = await whole(engine, found)
    text = _pretty(seen.document)
    said = _pretty(seen.document.get("request", found.body))
    return Content(found.id, text.encode(), seen.document, text, said)


def _content(ref: str, body: bytes, document: dict[str, Any]) -> Content:
    text = _as_text(body)
    shown = text if text is not None else f"{len(body)} bytes that are no text; p2engine artifact save {ref} FILE"
    if len(body) > TEXT_BYTES_MAX:
        shown = f"{len(body)} bytes, too many to show; p2engine artifact save {ref} FILE"
    coded = None if text is not None else base64.b64encode(body).decode()
    document |= {"bytes": len(body), "content": text, "content_base64": coded}
    return Content(ref, body, document, shown, blob_ref(body) if text is None else text)


def _as_text(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


async def whole(engine: Engine, event: Event) -> Whole:
    """An event with its body; of a model call the request that was sent, rebuilt and compared with its hash."""
    document = event_row(event) | {"body": event.body}
    if event.kind != MODEL:
        return Whole(document, f"{_head(document)}\n{_pretty(event.body)}")
    request = await engine.request_of(event)
    usage = msgspec.convert(event.body, Usage)
    found = prompt_hash(request)
    matches = found == usage.prompt
    document |= {"hash": usage.prompt, "hash_ok": matches, "request": request_document(request)}
    checked = "as recorded" if matches else f"NOT as recorded: {found} when rebuilt"
    lines = [
        _head(document),
        usage_words(usage),
        f"prompt hash {usage.prompt}: {checked}",
        _pretty(document["request"]),
    ]
    return Whole(document, "\n".join(lines))


def request_document(request: ModelRequest) -> dict[str, Any]:
    """A request as chat completions write it, the instructions as the first message."""
    system = [{"role": "system", "content": request.instructions}] if request.instructions else []
    sampling = {"temperature": request.temperature, "top_p": request.top_p, "max_tokens": request.max_tokens}
    return {
        "model": request.model,
        **{name: value for name, value in sampling.items() if value is not None},
        "messages": [*system, *(msgspec.json.decode(fragment.wire) for fragment in request.fragments)],
        "tools": msgspec.json.decode(wire_tools(request.tools)),
    }


def _head(document: dict[str, Any]) -> str:
    return f"{document['ref']}  {document['kind']}  {document['at']}  {document['agent']}  ← {document['cause']}"


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)

"""Model-facing messages, tool specifications, requests and usage, and their one canonical wire form.

The wire form is that of chat completions; every message is encoded once and kept, with a digest chained over all
before it, so that neither a request nor its hash costs more with a longer history.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Literal

import msgspec

from p2engine.domain.setup import Repeat, Spent

RENDERER = 1  # raise when the same stack renders to other bytes
CUT_SHORT = "[no result: the turn ended first"  # how the result of a call begins that had none when its turn ended

Role = Literal["system", "user", "assistant", "tool"]

_encode = msgspec.json.Encoder(order="sorted").encode
_arguments = msgspec.json.Decoder(dict[str, Any]).decode


class ToolUse(msgspec.Struct, frozen=True, gc=False):
    """A call as a model wrote it. `malformed` is its text where it was no JSON object."""

    call_id: str
    name: str
    arguments: dict[str, Any] = {}
    malformed: str = ""


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    role: Role
    text: str = ""
    calls: tuple[ToolUse, ...] = ()
    call_id: str = ""


class Fragment(msgspec.Struct, frozen=True, gc=False):
    """A message in place: its wire bytes (JSON), and the digest of all up to and including it.

    The bytes are all that is kept of it, since a history is sent far more often than it is read.
    """

    role: Role
    wire: bytes
    digest: bytes

    @property
    def message(self) -> Message:
        """What the bytes say, read anew each time."""
        said = _read(self.wire)
        calls = tuple(ToolUse(one.id, one.function.name, _arguments(one.function.arguments)) for one in said.tool_calls)
        return Message(role=said.role, text=said.content or "", calls=calls, call_id=said.tool_call_id)


class _Function(msgspec.Struct, frozen=True, gc=False):
    name: str
    arguments: str


class _Call(msgspec.Struct, frozen=True, gc=False):
    id: str
    function: _Function


class _Said(msgspec.Struct, frozen=True, gc=False):
    """What `wire_message` writes."""

    role: Role
    content: str | None = None
    tool_calls: tuple[_Call, ...] = ()
    tool_call_id: str = ""


_read = msgspec.json.Decoder(_Said).decode


class ToolSpec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a model is told of a tool, and what a repeat of it means. `parameters` is a JSON schema."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    repeat: Repeat = "never"
    requires_approval: bool = False
    milestone: bool = False
    dedup_ttl_s: float | None = None
    cache_ttl_s: float | None = None
    timeout_s: float | None = None
    retries: int = 0
    version: str = ""


class Usage(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """One model call's cost. `prompt` is the hash of the exact request; `model` the id as the provider returned it.

    provider: who is paid for it, as agents.yml names it; empty where nobody is.
    """

    model: str
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float | None = None
    latency_s: float = 0.0
    attempts: int = 1
    prompt: str = ""
    offline: bool = False
    provider: str = ""

    @property
    def spent(self) -> Spent:
        """This call as part of a turn's budget: one step."""
        return Spent(1, self.tokens_in, self.tokens_out, self.cost_usd or 0.0, int(self.cost_usd is None))


class ModelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a provider is sent. `key` is the effect's id: the same request again carries the same key.

    answer_schema: the JSON schema that the text of the answer shall have; not every provider keeps to it.
    """

    model: str
    instructions: str = ""
    fragments: Sequence[Fragment] = ()
    tools: tuple[ToolSpec, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    answer_schema: dict[str, Any] | None = None
    key: str = ""
    agent: str = ""
    conversation: str = ""

    @property
    def messages(self) -> list[Message]:
        """The messages without the instructions."""
        return [fragment.message for fragment in self.fragments]


class ModelReply(msgspec.Struct, frozen=True, kw_only=True):
    """What a model answered: text, calls, or both."""

    text: str = ""
    calls: tuple[ToolUse, ...] = ()
    usage: Usage


def wire_message(message: Message) -> bytes:
    """The chat-completions JSON of one message, keys sorted."""
    body: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.calls:
        body["content"] = message.text or None
        body["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": _encode(call.arguments).decode()},
            }
            for call in message.calls
        ]
    if message.role == "tool":
        body["tool_call_id"] = message.call_id
    return _encode(body)


def fragment(message: Message, before: bytes = b"") -> Fragment:
    """Encode `message` and chain its digest to `before`, the digest of the fragment in front of it."""
    return chained(message.role, wire_message(message), before)


def chained(role: Role, wire: bytes, before: bytes) -> Fragment:
    """A message that is encoded already, behind the fragment of that digest."""
    return Fragment(role, wire, blake2b(before + wire, digest_size=16).digest())


_WIRED_MAX = 256
_wired: dict[int, tuple[tuple[ToolSpec, ...], bytes]] = {}


def wire_tools(tools: tuple[ToolSpec, ...]) -> bytes:
    """The chat-completions JSON list of tools. The bytes of a tuple that comes again, as a setup's does, are kept."""
    known = _wired.get(id(tools))
    if known is None or known[0] is not tools:
        if len(_wired) >= _WIRED_MAX:
            _wired.clear()
        body = [
            {
                "type": "function",
                "function": {"name": t.name, "description": t.description, "parameters": t.parameters},
            }
            for t in tools
        ]
        known = _wired[id(tools)] = (tools, _encode(body))  # with the tuple, so that its id is not given to another
    return known[1]


def prompt_hash(request: ModelRequest) -> str:
    """The hash of exactly what is sent: O(1) in the length of the history, which the last digest stands for."""
    head = [
        RENDERER,
        request.model,
        request.instructions,
        request.temperature,
        request.top_p,
        request.max_tokens,
        request.seed,
    ]
    digest = blake2b(_encode(head), digest_size=16)
    digest.update(wire_tools(request.tools))
    digest.update(request.fragments[-1].digest if request.fragments else b"")
    return digest.hexdigest()


def tokens_estimate(text: str) -> int:
    """A rough count of tokens: four bytes a token, at least one. For budgets of rendering, never for bills."""
    return max(1, len(text.encode()) // 4)

"""The chat-completions wire without I/O: a request to bytes; bytes, whole or streamed, to an answer.

Knows how compatible servers differ from the letter. What a refusal means is in `refusal`; sockets are the driver's.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import msgspec

from p2engine.domain.messages import Message, ModelRequest, ToolSpec, ToolUse, wire_message, wire_tools
from p2engine.errors import ModelError
from p2engine.limits import REPLY_BYTES_MAX
from p2engine.models.refusal import Peer
from p2engine.ports import OnText

_DEPTH_MAX: Final = 64  # nesting of a call's arguments; what is deeper could not be written again
_TOOL_LISTS_KEPT: Final = 256
_BLANK: Final = b"\xef\xbb\xbf \t\r\n"  # a byte order mark too

_encode = msgspec.json.encode


class RequestWriter:
    """Writes requests. The history is joined from the bytes its fragments hold, never encoded again."""

    def __init__(self, provider: str, limit_key: str) -> None:
        """`limit_key` is what this server calls the bound on a reply's tokens."""
        self._prefix = f"{provider}/"
        self._limit_key = limit_key
        self._tools: dict[int, tuple[tuple[ToolSpec, ...], bytes]] = {}

    def body(self, request: ModelRequest, *, stream: bool) -> bytes:
        """The JSON body of one call."""
        messages = [fragment.wire for fragment in request.fragments]
        if request.instructions:
            messages.insert(0, _system(request.instructions))
        parts = [
            b'{"model":' + _encode(request.model.removeprefix(self._prefix)),
            b'"messages":[' + b",".join(messages) + b"]",
        ]
        if request.tools:
            parts.append(b'"tools":' + self._tool_list(request.tools))
        parts.extend(self._sampling(request))
        if request.answer_schema is not None:
            parts.append(b'"response_format":' + _encode(answer_format(request.answer_schema)))
        if stream:
            parts.append(b'"stream":true,"stream_options":{"include_usage":true}')
        return b",".join(parts) + b"}"

    def _sampling(self, request: ModelRequest) -> Iterator[bytes]:
        for key, value in (
            ("temperature", request.temperature),
            ("top_p", request.top_p),
            (self._limit_key, request.max_tokens),
            ("seed", request.seed),
        ):
            if value is not None:
                yield b'"%b":%b' % (key.encode(), _encode(value))

    def _tool_list(self, tools: tuple[ToolSpec, ...]) -> bytes:
        known = self._tools.get(id(tools))
        if known is None or known[0] is not tools:
            if len(self._tools) >= _TOOL_LISTS_KEPT:
                self._tools.clear()
            # The tuple is kept beside its bytes, so that its id is not given to another.
            known = self._tools[id(tools)] = (tools, wire_tools(tools))
        return known[1]


def answer_format(schema: dict[str, Any]) -> dict[str, Any]:
    """How chat completions are told what form an answer shall have."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


@lru_cache(maxsize=256)
def _system(instructions: str) -> bytes:
    return wire_message(Message(role="system", text=instructions))


class Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class Call(msgspec.Struct):
    id: str | int | None = None
    index: int | None = None
    function: Function | None = None


class Part(msgspec.Struct):
    text: str | None = None


class Said(msgspec.Struct):
    """A message, or what one streamed piece adds to it."""

    content: str | list[Part] | None = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None


class Choice(msgspec.Struct):
    index: int | None = None
    message: Said | None = None
    delta: Said | None = None
    finish_reason: str | None = None


class Details(msgspec.Struct):
    cached_tokens: int | None = None


class Tokens(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Details | None = None


class Piece(msgspec.Struct):
    """One chunk of a stream, or a whole completion: the same shape but for `delta` and `message`."""

    model: str | None = None
    choices: list[Choice] | None = None
    usage: Tokens | None = None
    error: Any = None


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What the wire carried, before it is judged. Tokens are None when the server did not count."""

    text: str
    calls: tuple[ToolUse, ...]
    model: str
    finish: str
    tokens_in: int | None
    tokens_out: int | None
    tokens_cached: int


class _OpenCall:
    """A call whose pieces are still coming."""

    __slots__ = ("arguments", "call_id", "name")

    def __init__(self) -> None:
        self.call_id = ""
        self.name = ""
        self.arguments: list[str | dict[str, Any]] = []

    def closed(self) -> ToolUse:
        whole = next((part for part in self.arguments if isinstance(part, dict)), None)
        raw = "".join(part for part in self.arguments if isinstance(part, str))
        return tool_use(self.call_id, self.name, raw if whole is None else whole)


class Assembly:
    """Puts pieces together. Hands text on as it comes."""

    def __init__(self, peer: Peer, on_text: OnText | None) -> None:
        self._peer = peer
        self._on_text = on_text
        self._texts: list[str] = []
        self._calls: list[_OpenCall] = []
        self._by_index: dict[int, _OpenCall] = {}
        self._model = ""
        self._usage = Tokens()
        self._bytes = 0
        self.finish = ""

    def add(self, piece: Piece) -> None:
        """Take one piece. Raises ModelError for an error inside it, and above REPLY_BYTES_MAX."""
        if piece.error:
            raise self._peer.refused_in_reply(piece.error)
        self._model = piece.model or self._model
        self._usage = piece.usage or self._usage
        for choice in piece.choices or ():
            if choice.index:
                continue  # one answer was asked for
            self.finish = choice.finish_reason or self.finish
            if choice.delta is not None:
                self._take(choice.delta, whole=False)
            elif choice.message is not None:
                self._take(choice.message, whole=True)

    def answered(self) -> Answered:
        """All of it, once the last piece is in."""
        details = self._usage.prompt_tokens_details
        return Answered(
            text="".join(self._texts),
            calls=tuple(call.closed() for call in self._calls),
            model=self._model,
            finish=self.finish,
            tokens_in=self._usage.prompt_tokens,
            tokens_out=self._usage.completion_tokens,
            tokens_cached=(details.cached_tokens or 0) if details else 0,
        )

    def _take(self, said: Said, *, whole: bool) -> None:
        text = said.content if isinstance(said.content, str) else "".join(p.text or "" for p in said.content or ())
        text = text or said.refusal or ""
        if text:
            self._grow(text)
            self._texts.append(text)
            if self._on_text is not None:
                self._on_text(text)
        for call in said.tool_calls or ():
            self._take_call(call, whole=whole)

    def _take_call(self, call: Call, *, whole: bool) -> None:
        function = call.function or Function()
        call_id = "" if call.id is None else str(call.id)
        open_call = None if whole else self._continued(call.index, call_id, function.name or "")
        if open_call is None:
            open_call = _OpenCall()
            self._calls.append(open_call)
            if call.index is not None:
                self._by_index[call.index] = open_call
        open_call.call_id = open_call.call_id or call_id
        open_call.name = open_call.name or function.name or ""
        if function.arguments:
            self._grow(function.arguments if isinstance(function.arguments, str) else "")
            open_call.arguments.append(function.arguments)

    def _continued(self, index: int | None, call_id: str, name: str) -> _OpenCall | None:
        """The call a streamed piece goes on with; None when it begins another.

        By the letter the index decides. Some servers leave it out, and some give every parallel call the same one:
        then another id, or a name without an id, begins another call.
        """
        if index is None:
            last = self._calls[-1] if self._calls else None
            begins = last is None or (call_id != last.call_id if call_id else bool(name))
        else:
            last = self._by_index.get(index)
            begins = last is None or bool(call_id and last.call_id and call_id != last.call_id)
        return None if begins else last

    def _grow(self, text: str) -> None:
        self._bytes += len(text) if text.isascii() else len(text.encode())
        if self._bytes > REPLY_BYTES_MAX:
            raise self._peer.failed(f"answered more than {REPLY_BYTES_MAX} bytes", retryable=False)


class ReplyReader:
    """Reads an answer as its bytes come: a stream of events, or one JSON object, whichever the server chose to send."""

    def __init__(self, peer: Peer, on_text: OnText | None = None) -> None:
        self._peer = peer
        self._assembly = Assembly(peer, on_text)
        self._held = bytearray()
        self._fields: list[bytes] = []
        self._fields_bytes = 0
        self._whole: bool | None = None
        self._pieces = 0
        self.done = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises ModelError for what cannot be read."""
        self._held += data
        if self._whole is None:
            # A stream of events never begins with a brace, whatever the content type says.
            self._held = self._held.lstrip(_BLANK)
            if not self._held:
                return
            self._whole = self._held.startswith((b"{", b"["))
        if not self._whole:
            self._take_lines()
        if len(self._held) + self._fields_bytes > REPLY_BYTES_MAX:
            raise self._peer.failed(f"answered more than {REPLY_BYTES_MAX} bytes", retryable=False)

    def finish(self) -> Answered:
        """What was answered, once no more bytes come. Raises ModelError when that is no complete answer."""
        if self._whole:
            self._take_piece(bytes(self._held))
        else:
            self._held += b"\n\n"
            self._take_lines()
            if not self._pieces:
                raise self._peer.failed("what came back is no chat completion", retryable=False)
            if not self.done and not self._assembly.finish:
                raise self._peer.failed("the stream broke off before its end", retryable=True)
        return self._assembly.answered()

    def _take_lines(self) -> None:
        held = self._held
        # A carriage return at the very end may be half of a line end.
        end = max(held.rfind(b"\n"), held.rfind(b"\r", 0, max(0, len(held) - 1)))
        lines = bytes(held[: end + 1]).splitlines()
        del held[: end + 1]
        for line in lines:
            if line.startswith(b"data:"):
                self._fields.append(line[5:].removeprefix(b" "))
                self._fields_bytes += len(line)
            elif not line and self._fields:
                event = b"\n".join(self._fields)
                self._fields.clear()
                self._fields_bytes = 0
                self._take_event(event)

    def _take_event(self, event: bytes) -> None:
        if event.strip() == b"[DONE]":
            self.done = True
        elif not self.done and event.strip():
            self._take_piece(event)

    def _take_piece(self, text: bytes) -> None:
        try:
            piece = _decode_piece(text)
        except (ValueError, RecursionError) as error:
            raise self._peer.failed(f"what came back cannot be read: {error}", retryable=True) from error
        self._pieces += 1
        self._assembly.add(piece)


_decode_piece = msgspec.json.Decoder(Piece).decode
_decode = msgspec.json.Decoder().decode


def tool_use(call_id: str, name: str, arguments: str | dict[str, Any]) -> ToolUse:
    """A call as the model wrote it; arguments that are no JSON object are kept as `malformed`."""
    if isinstance(arguments, str):
        if not arguments.strip():
            return ToolUse(call_id, name)
        try:
            found = _decode(arguments)
        except (ValueError, RecursionError):
            found = None
    else:
        found = arguments
    if isinstance(found, dict) and _is_plain(found):
        return ToolUse(call_id, name, found)
    return ToolUse(call_id, name, malformed=arguments if isinstance(arguments, str) else "(an object without end)")


def _is_plain(arguments: dict[str, Any]) -> bool:
    """Whether this can be written again anywhere: no deep nesting, no number beyond 64 bits."""
    level: list[Any] = [arguments]
    for _ in range(_DEPTH_MAX):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, int) and not -(2**63) <= value < 2**64:
                return False
        if not below:
            return True
        level = below
    return False


def judged(answered: Answered, peer: Peer) -> Answered:
    """The answer, unless it is empty for a reason that asking again cannot mend: then ModelError."""
    if answered.text.strip() or answered.calls:
        return answered
    if answered.finish == "length":
        raise _empty(peer, "the model used up its tokens before it said anything", "raise max_tokens")
    if answered.finish == "content_filter":
        raise _empty(peer, "the provider's content filter withheld the answer", "")
    return answered


def _empty(peer: Peer, what: str, hint: str) -> ModelError:
    error = peer.failed(what, retryable=False)
    error.hint = hint
    return error

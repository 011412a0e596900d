"""The wire driver against a real server on a real socket: what it sends, understands, and makes of errors."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2engine.domain.messages import Fragment, Message, ModelReply, ModelRequest, ToolSpec, ToolUse, fragment
from p2engine.errors import ConfigError, ModelError
from p2engine.limits import REPLY_BYTES_MAX
from p2engine.models.openai import OpenAIModel, limit_key
from p2engine.models.refusal import Peer, retry_after_s
from p2engine.models.wire import ReplyReader, RequestWriter, tool_use
from p2engine.testing.server import Answer, Fault, Handler, OpenAIServer, Received, Reply

WEATHER = ToolSpec(
    name="get_weather",
    description="The weather",
    parameters={"type": "object", "properties": {"location": {"type": "string"}}},
)


def history(*messages: Message) -> tuple[Fragment, ...]:
    """The messages as a stack renders them."""
    fragments: list[Fragment] = []
    for message in messages:
        fragments.append(fragment(message, fragments[-1].digest if fragments else b""))
    return tuple(fragments)


def asking(text: str = "Hello", **fields: Any) -> ModelRequest:
    """A request with one user message."""
    return ModelRequest(model="openai/gpt-4o", fragments=history(Message(role="user", text=text)), **fields)


async def ask(
    handler: Handler, request: ModelRequest, *, stream: bool = False, key: str | None = "k-1"
) -> tuple[ModelReply, Received, list[str]]:
    """One call to a server that answers so: the reply, what the server received, and the text as it came."""
    texts: list[str] = []
    async with OpenAIServer(handler) as server:
        model = OpenAIModel(server.base_url, key)
        try:
            reply = await model.complete(request, on_text=texts.append if stream else None)
        finally:
            await model.aclose()
    return reply, server.requests[0], texts


async def refused(handler: Handler, *, stream: bool = False, key: str | None = "k-1") -> ModelError:
    """The error of one call to a server that answers so."""
    with pytest.raises(ModelError) as caught:
        await ask(handler, asking(), stream=stream, key=key)
    return caught.value


async def test_a_request_carries_all_that_was_asked() -> None:
    """Instructions, history, tools, sampling, key and idempotency key arrive as the wire has them."""
    # Given a request with a call and its result in its history
    request = ModelRequest(
        model="openai/gpt-4o",
        instructions="Be brief.",
        fragments=history(
            Message(role="user", text="Weather in Zürich?"),
            Message(role="assistant", calls=(ToolUse("c1", "get_weather", {"location": "Zürich"}),)),
            Message(role="tool", text="12 °C", call_id="c1"),
        ),
        tools=(WEATHER,),
        temperature=0.5,
        top_p=0.9,
        max_tokens=50,
        seed=7,
        key="abc:1.0",
    )
    # When it is sent
    _, received, _ = await ask(["12 degrees"], request)
    # Then the server sees it
    assert received.headers["authorization"] == "Bearer k-1"
    assert received.headers["idempotency-key"] == "abc:1.0"
    assert received.body == {
        "model": "gpt-4o",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather in Zürich?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": '{"location":"Zürich"}'},
                    }
                ],
            },
            {"role": "tool", "content": "12 °C", "tool_call_id": "c1"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "get_weather",
                    "description": "The weather",
                    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
                },
            }
        ],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 50,
        "seed": 7,
    }


async def test_what_is_not_set_is_not_sent() -> None:
    """A bare request has a model and messages, and without a key no authorization is sent."""
    _, received, _ = await ask(["Hi"], asking(), key=None)
    assert received.body == {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
    assert "authorization" not in received.headers
    assert "idempotency-key" not in received.headers


def test_the_bound_on_a_reply_is_called_what_the_server_calls_it() -> None:
    """OpenAI itself is told max_completion_tokens, everyone else max_tokens."""
    assert limit_key("https://api.openai.com/v1") == "max_completion_tokens"
    assert limit_key("https://eu.api.openai.com/v1/") == "max_completion_tokens"
    assert limit_key("http://localhost:11434/v1") == "max_tokens"
    assert limit_key("https://api.openai.com.example.org/v1") == "max_tokens"


def test_tools_are_encoded_once() -> None:
    """The same tuple of tools gives the same bytes, another tuple its own, however many were seen."""
    writer = RequestWriter("openai", "max_tokens")
    for number in range(600):
        tools = (ToolSpec(name=f"tool_{number}"),)
        body = msgspec.json.decode(writer.body(asking(tools=tools), stream=False))
        again = msgspec.json.decode(writer.body(asking(tools=tools), stream=False))
        assert body == again
        assert body["tools"][0]["function"]["name"] == f"tool_{number}"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reply_comes_with_text_calls_and_usage(stream: bool) -> None:
    """Text and several calls in one reply are kept, in order, with tokens, cost and the provider's model id."""
    calls = (
        ToolUse("c1", "get_weather", {"location": "Paris"}),
        ToolUse("c2", "get_weather", {"location": "Tokyo"}),
        ToolUse("c3", "now"),
    )
    answer = Reply(text="Let me look.", calls=calls, model="gpt-4o-2024-08-06", tokens_in=1000, tokens_out=100)
    reply, received, texts = await ask([answer], asking(), stream=stream)
    assert (reply.text, reply.calls) == ("Let me look.", calls)
    assert (reply.usage.model, reply.usage.tokens_in, reply.usage.tokens_out) == ("gpt-4o-2024-08-06", 1000, 100)
    assert reply.usage.cost_usd == pytest.approx(1000 * 2.5e-6 + 100 * 10e-6)
    assert reply.usage.latency_s > 0
    assert received.body.get("stream") == (True if stream else None)
    assert "".join(texts) == ("Let me look." if stream else "")
    assert len(texts) == (3 if stream else 0)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 100_000])
async def test_a_stream_may_be_cut_anywhere(size: int) -> None:
    """However the bytes of a stream are cut into writes, the reply is the same."""
    answer = Reply(text="Grüße aus Zürich 🙂", calls=(ToolUse("c1", "f", {"a": "ü"}),), write_bytes=size)
    reply, _, texts = await ask([answer], asking(), stream=True)
    assert reply.text == "".join(texts) == "Grüße aus Zürich 🙂"
    assert reply.calls == (ToolUse("c1", "f", {"a": "ü"}),)


async def test_a_server_that_does_not_stream_is_understood() -> None:
    """Plain JSON in answer to a request for a stream is a reply; its text is handed on at once."""
    reply, _, texts = await ask([Reply(text="All at once", plain=True)], asking(), stream=True)
    assert reply.text == "All at once"
    assert texts == ["All at once"]


@pytest.mark.parametrize("stream", [False, True])
async def test_missing_usage_is_no_error(stream: bool) -> None:
    """A server that does not count tokens gives a reply of unknown cost."""
    reply, _, _ = await ask([Reply(text="Hi", usage=False)], asking(), stream=stream)
    assert (reply.usage.tokens_in, reply.usage.tokens_out, reply.usage.cost_usd) == (0, 0, None)


async def test_arguments_that_are_no_object_are_kept_as_text() -> None:
    """What a model wrote instead of a JSON object is not lost and not guessed at."""
    written = ['{"a": ', "[1]", "5", "null", '"x"', '{"a": NaN}', '{"a":1}{"b":2}']
    calls = tuple(ToolUse(f"c{n}", "f", malformed=text) for n, text in enumerate(written))
    reply, _, _ = await ask([Reply(calls=calls)], asking())
    assert reply.calls == calls


async def test_arguments_that_could_not_be_written_again_are_malformed() -> None:
    """Nesting without end and numbers beyond 64 bits are the model's mistake, not a crash of ours later."""
    deep = '{"a":' + "[" * 200 + "]" * 200 + "}"
    deepest = '{"a":' + "[" * 50_000 + "]" * 50_000 + "}"
    huge = '{"a":123456789012345678901234567890}'
    calls = tuple(ToolUse(f"c{n}", "f", malformed=text) for n, text in enumerate((deep, deepest, huge)))
    reply, _, _ = await ask([Reply(calls=calls)], asking())
    assert [call.malformed for call in reply.calls] == [deep, deepest, huge]


async def test_missing_and_equal_call_ids_stay_as_they_are() -> None:
    """Ids are the provider's; making them distinct is for those who need them so."""
    calls = (ToolUse("", "f", {"a": 1}), ToolUse("", "f", {"a": 2}), ToolUse("x", "g"), ToolUse("x", "g"))
    reply, _, _ = await ask([Reply(calls=calls)], asking())
    assert reply.calls == calls


STATUSES = [
    (400, False),
    (401, False),
    (403, False),
    (404, False),
    (408, True),
    (409, True),
    (413, False),
    (422, False),
    (425, True),
    (429, True),
    (500, True),
    (502, True),
    (503, True),
    (529, True),
]


@pytest.mark.parametrize(("status", "retryable"), STATUSES)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_says_who_what_and_whether_to_ask_again(status: int, retryable: bool, stream: bool) -> None:
    """An error status becomes a ModelError with provider, status and the provider's own words."""
    error = await refused([Fault(status=status, message="because of this")], stream=stream)
    assert (error.status, error.retryable) == (status, retryable)
    assert error.message.startswith("openai: ")
    assert str(status) in error.message
    assert "because of this" in error.message


async def test_a_refused_key_is_named_and_never_shown() -> None:
    """401 says that the key was refused; no part of the error shows the key, even where the server repeats it."""
    key = "sk-very-secret-0123456789"
    async with OpenAIServer(api_key="another") as server:
        model = OpenAIModel(server.base_url, key)
        with pytest.raises(ModelError, match="the key was refused") as caught:
            await model.complete(asking())
        await model.aclose()
    assert not caught.value.retryable
    assert "secret" not in f"{caught.value.message} {caught.value.hint} {caught.value!r}"


async def test_too_long_a_conversation_says_so() -> None:
    """A context-length error is told apart from other bad requests."""
    for fault in (
        Fault(status=400, code="context_length_exceeded", message="too many"),
        Fault(status=400, message="This model's maximum context length is 8192 tokens."),
    ):
        error = await refused([fault])
        assert "longer than the model can take" in error.message
        assert not error.retryable


async def test_an_empty_account_is_not_asked_again() -> None:
    """429 for lack of quota does not pass by waiting."""
    error = await refused([Fault(status=429, code="insufficient_quota", message="You exceeded your quota")])
    assert not error.retryable
    assert "quota" in error.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"error": "plain words"}', "plain words"),
        ('{"message": "plain words"}', "plain words"),
        ('{"detail": "plain words"}', "plain words"),
        ('{"detail": [{"msg": "plain words"}]}', "plain words"),
        ('[{"error": {"message": "plain words"}}]', "plain words"),
        ("plain words", "plain words"),
        ("<html><body>Bad gateway</body></html>", "failed (500)"),
        ("", "failed (500)"),
        ("x" * 100_000, "…"),
        ("line\n\x1b[31mred\x00", "line [31mred"),
    ],
)
async def test_error_bodies_of_every_shape_are_read(body: str, words: str) -> None:
    """Compatible servers word their errors in many shapes; the words come through, short and printable."""
    error = await refused([Fault(status=500, raw=body)])
    assert words in error.message
    assert len(error.message) < 400
    assert error.message.isprintable()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "Retry-After": "7"}, 0.25),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
async def test_the_wait_that_a_provider_asks_for_is_read(headers: dict[str, str], seconds: float | None) -> None:
    """Retry-After in seconds, or in milliseconds where a server says those."""
    error = await refused([Fault(status=429, headers=headers)])
    assert error.retry_after_s == seconds


def test_a_wait_until_a_date_is_read() -> None:
    """Retry-After as an HTTP date counts from now; one that has passed is no wait."""
    now = 1_800_000_000.0
    assert retry_after_s({"retry-after": formatdate(now + 90, usegmt=True)}, now) == 90
    assert retry_after_s({"retry-after": formatdate(now - 90, usegmt=True)}, now) == 0


async def test_a_redirect_is_not_followed() -> None:
    """The key is not carried to another host: the error names where the server sends."""
    error = await refused([Fault(status=307, raw="", headers={"Location": "http://elsewhere.test/v1"})])
    assert "http://elsewhere.test/v1" in error.message
    assert not error.retryable


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("drop", ["before", "midway"])
async def test_a_broken_connection_may_be_tried_again(drop: Any, stream: bool) -> None:
    """A connection that breaks, before or within the answer, is a retryable error."""
    error = await refused([Fault(drop=drop)], stream=stream)
    assert error.retryable
    assert error.status is None


async def test_a_server_that_is_not_there_is_named() -> None:
    """Nothing listens: the error says where, and asks whether a server runs."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    model = OpenAIModel(f"http://127.0.0.1:{port}/v1", None)
    with pytest.raises(ModelError, match=rf"no connection to 127\.0\.0\.1:{port}: Connection refused") as caught:
        await model.complete(asking())
    await model.aclose()
    assert caught.value.retryable
    assert "is a server running" in caught.value.hint


async def test_a_call_ends_after_its_time() -> None:
    """A server that does not answer within timeout_s is a retryable error."""
    never = asyncio.Event()

    async def handler(_: dict[str, Any]) -> Answer:
        await never.wait()
        return "too late"

    async with OpenAIServer(handler) as server:
        model = OpenAIModel(server.base_url, None, timeout_s=0.05)
        with pytest.raises(ModelError, match=r"no answer within 0\.05 s") as caught:
            await model.complete(asking())
        never.set()
        await model.aclose()
    assert caught.value.retryable


async def test_what_is_no_json_may_be_tried_again() -> None:
    """Half a JSON object is a mishap; a web page is the wrong address."""
    assert (await refused([Fault(status=200, raw='{"choices": [')])).retryable
    page = await refused([Fault(status=200, raw="<html>Welcome</html>")])
    assert "no chat completion" in page.message
    assert not page.retryable


@pytest.mark.parametrize(("finish", "words"), [("length", "used up its tokens"), ("content_filter", "content filter")])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_empty_reply_with_a_reason_says_it(finish: str, words: str, stream: bool) -> None:
    """Nothing said because of max_tokens or a filter is an error that asking again does not mend."""
    error = await refused([Reply(finish=finish)], stream=stream)
    assert words in error.message
    assert not error.retryable


async def test_a_reply_cut_by_max_tokens_is_kept() -> None:
    """What was said before the tokens ran out is a reply."""
    reply, _, _ = await ask([Reply(text="Once upon", finish="length")], asking())
    assert reply.text == "Once upon"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reply_has_a_bound(stream: bool) -> None:
    """An answer above REPLY_BYTES_MAX is refused while it is read."""
    error = await refused([Reply(text="word " * (REPLY_BYTES_MAX // 4))], stream=stream)
    assert "more than" in error.message
    assert not error.retryable


async def test_many_calls_share_one_model() -> None:
    """100 calls at once through one model each get their own answer."""
    async with OpenAIServer(lambda body: body["messages"][0]["content"].upper()) as server:
        model = OpenAIModel(server.base_url, None)
        replies = await asyncio.gather(*(model.complete(asking(f"call {n}")) for n in range(100)))
        await model.aclose()
        await model.aclose()
    assert [reply.text for reply in replies] == [f"CALL {n}" for n in range(100)]


@pytest.mark.parametrize("base", ["", "localhost:8000", "ftp://x/v1", "http://", "/v1", "http://[::1", "http://x:port"])
def test_a_base_that_is_no_address_is_refused_at_once(base: str) -> None:
    """A wrong api_base is a wrong configuration, before any call."""
    with pytest.raises(ConfigError, match="api_base"):
        OpenAIModel(base, None)


def test_a_password_in_a_base_is_refused_and_not_shown() -> None:
    """An address with a password would end up in errors and logs."""
    with pytest.raises(ConfigError, match="password") as caught:
        OpenAIModel("https://me:secret@example.test/v1", None)
    assert "secret" not in str(caught.value)


def test_a_key_that_cannot_be_sent_is_refused_at_once() -> None:
    """A key with a line break or other letters inside is not sent, and not shown."""
    with pytest.raises(ConfigError) as caught:
        OpenAIModel("http://localhost/v1", "sk-abc\ndef")
    assert "abc" not in str(caught.value)


async def test_a_base_may_end_in_a_slash_and_have_a_query() -> None:
    """The path is added to the base's own, before its query."""
    async with OpenAIServer(["Hi"]) as server:
        model = OpenAIModel(f"{server.base_url}/?api-version=1", None)
        assert (await model.complete(asking())).text == "Hi"
        await model.aclose()


def read(*chunks: bytes, on_text: Any = None) -> Any:
    """What the reader makes of these bytes."""
    reader = ReplyReader(Peer("openai"), on_text)
    for chunk in chunks:
        reader.feed(chunk)
    return reader.finish()


def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    """One streamed piece."""
    return b"data: " + msgspec.json.encode({"choices": [{"delta": delta, "finish_reason": finish}]}) + b"\n\n"


def test_a_stream_is_read_by_its_letter() -> None:
    """Comments, other fields, CRLF and lone CR, several data lines, a missing last blank line, blanks in front."""
    stream = (
        b"\r\n: keep-alive\r\n\r\nevent: x\r\nid: 1\r\n"
        b'data: {"choices":[{"delta":{"content":"a"}}]}\r\n\r\n'
        b'data:{"choices":[{"delta":\rdata: {"content":"b"}}]}\r\r'
        b'data: {"choices":null,"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
        b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]'
    )
    for size in (1, 2, 5, len(stream)):
        answered = read(*(stream[at : at + size] for at in range(0, len(stream), size)))
        assert (answered.text, answered.tokens_in, answered.tokens_out) == ("ab", 3, 2)


def test_a_stream_without_a_last_word_is_broken() -> None:
    """A stream that ends without [DONE] is whole when a finish_reason came, and broken when none did."""
    assert read(event({"content": "all"}, "stop")).text == "all"
    with pytest.raises(ModelError, match="broke off") as caught:
        read(event({"content": "ha"}))
    assert caught.value.retryable


def test_an_error_inside_a_stream_is_an_error() -> None:
    """Servers that began well may still fail; their words and kind come through."""
    for error, retryable in (
        ({"message": "overloaded", "type": "server_error"}, True),
        ({"message": "slow down", "code": "rate_limit_exceeded"}, True),
        ({"message": "no", "code": 400}, False),
        ({"message": "no", "type": "invalid_request_error"}, False),
        ("boom", True),
    ):
        with pytest.raises(ModelError, match=r"overloaded|slow down|no|boom") as caught:
            read(event({"content": "half"}), b"data: " + msgspec.json.encode({"error": error}) + b"\n\n")
        assert caught.value.retryable is retryable


def deltas(*calls: dict[str, Any]) -> Iterator[bytes]:
    """A stream with one delta for each."""
    for call in calls:
        yield event({"tool_calls": [call]})
    yield event({}, "tool_calls")


def test_calls_in_pieces_are_put_together() -> None:
    """By index as the wire says; by id or name where a server leaves the index out or repeats it."""
    expected = (ToolUse("a", "f", {"x": 1}), ToolUse("b", "g", {"y": 2}))
    by_index = deltas(
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}},
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": '{"y"'}},
        {"index": 0, "function": {"arguments": '{"x":1}'}},
        {"index": 1, "function": {"arguments": ":2}"}},
    )
    without_index = deltas(
        {"id": "a", "function": {"name": "f", "arguments": '{"x"'}},
        {"function": {"arguments": ":1}"}},
        {"id": "b", "function": {"name": "g", "arguments": '{"y":2}'}},
    )
    same_index = deltas(
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"index": 0, "id": "b", "function": {"name": "g", "arguments": '{"y":2}'}},
    )
    id_repeated = deltas(
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x"'}},
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": ":1}"}},
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": {"y": 2}}},
    )
    for stream in (by_index, without_index, same_index, id_repeated):
        assert read(*stream).calls == expected


def test_calls_without_ids_and_indexes_begin_with_a_name() -> None:
    """A server that gives neither is still understood: each name begins a call."""
    stream = deltas(
        {"function": {"name": "f", "arguments": '{"x":1}'}}, {"function": {"name": "f", "arguments": '{"x":2}'}}
    )
    assert read(*stream).calls == (ToolUse("", "f", {"x": 1}), ToolUse("", "f", {"x": 2}))


def test_odd_shapes_of_a_message_are_read() -> None:
    """Content in parts, a refusal in place of content, a second choice, a byte order mark."""
    parts = {"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}}]}
    assert read(msgspec.json.encode(parts)).text == "ab"
    refusal = {"choices": [{"message": {"content": None, "refusal": "I would rather not."}}]}
    assert read(msgspec.json.encode(refusal)).text == "I would rather not."
    two = {"choices": [{"index": 0, "message": {"content": "a"}}, {"index": 1, "message": {"content": "b"}}]}
    assert read(b"\xef\xbb\xbf  " + msgspec.json.encode(two)).text == "a"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["choices", "delta", "message", "content", "tool_calls", "error"]), inner)
    ),
    max_leaves=12,
)
CHUNK = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([b"data: ", b"\n", b"\r\n", b"\r", b"\n\n", b"data: [DONE]\n\n", b": ping\n", b"{", b"}"]),
    JSON.map(lambda value: b"data: " + json.dumps(value).encode() + b"\n\n"),
    JSON.map(lambda value: json.dumps(value).encode()),
)


@given(st.lists(CHUNK, max_size=8))
def test_whatever_comes_back_is_read_or_refused(chunks: list[bytes]) -> None:
    """No bytes from a server raise anything but ModelError."""
    try:
        answered = read(*chunks)
    except ModelError:
        return
    assert isinstance(answered.text, str)


@given(st.lists(st.binary(max_size=60), max_size=3), st.integers(300, 599))
def test_whatever_an_error_says_is_told(bodies: list[bytes], status: int) -> None:
    """No body of an error raises anything; the error is one line and has the status."""
    error = Peer("openai", "secret-key").refused(status, b"".join(bodies), {}, 0.0)
    assert str(status) in error.message
    assert error.message.isprintable()


@given(JSON)
def test_arguments_are_an_object_or_malformed(value: Any) -> None:
    """Any JSON as arguments comes out as the same object or as its text, and can be written again."""
    call = tool_use("c1", "f", json.dumps(value))
    if isinstance(value, dict) and not call.malformed:
        assert call.arguments == value
    else:
        assert call.malformed == json.dumps(value)
    assert msgspec.msgpack.encode(call)

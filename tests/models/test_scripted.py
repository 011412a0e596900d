"""Scripts: lists, functions and files, and what happens at their end."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2engine.domain.messages import Fragment, Message, ModelReply, ModelRequest, ToolUse, Usage, fragment
from p2engine.errors import ConfigError, ModelError
from p2engine.models.scripted import Line, ScriptedModel
from p2engine.ports import Model


def request(*texts: str) -> ModelRequest:
    """A request with these user messages."""
    fragments: list[Fragment] = []
    for text in texts:
        fragments.append(fragment(Message(role="user", text=text), fragments[-1].digest if fragments else b""))
    return ModelRequest(model="openai/gpt-4o", fragments=tuple(fragments))


async def test_a_list_is_said_in_order() -> None:
    """Text, calls, whole replies and errors come one after the other; then the script is exhausted."""
    whole = ModelReply(text="whole", usage=Usage(model="m", tokens_in=1))
    script: list[Line] = ["text", [ToolUse("c1", "f", {"a": 1})], whole, ModelError("scripted")]
    model = ScriptedModel(script)
    assert isinstance(model, Model)
    assert (await model.complete(request("1"))).text == "text"
    assert (await model.complete(request("2"))).calls == (ToolUse("c1", "f", {"a": 1}),)
    assert await model.complete(request("3")) is whole
    with pytest.raises(ModelError, match="scripted"):
        await model.complete(request("4"))
    with pytest.raises(ModelError, match="script of 4 replies is exhausted"):
        await model.complete(request("5"))
    assert [asked.messages[0].text for asked in model.requests] == ["1", "2", "3", "4", "5"]


async def test_a_function_answers_what_it_sees() -> None:
    """The function is given the request; text is handed on."""
    texts: list[str] = []
    model = ScriptedModel(lambda asked: asked.messages[-1].text.upper())
    reply = await model.complete(request("hello"), on_text=texts.append)
    assert reply.text == "HELLO"
    assert texts == ["HELLO"]


async def test_usage_is_the_same_every_time() -> None:
    """Tokens are an estimate that depends on nothing but the texts, and says that it is offline."""
    usages = []
    for _ in range(2):
        model = ScriptedModel(lambda _: "some words")
        usages.append([(await model.complete(request(*("word",) * n))).usage for n in (1, 5, 3, 5)])
    assert usages[0] == usages[1]
    first, longer, between, again = usages[0]
    assert first.tokens_in < between.tokens_in < longer.tokens_in == again.tokens_in
    assert first.model == "scripted/gpt-4o"
    assert first.offline
    assert first.cost_usd is None


LINES = """\
"Hello"
{"text": "I look", "calls": [{"name": "get_weather", "arguments": {"location": "Paris"}, "call_id": "c1"}]}

{"error": "too many calls", "retryable": true, "retry_after_s": 2, "status": 429}
"""
YAML = """\
# what the model says
- Hello
- text: I look
  calls:
    - {name: get_weather, arguments: {location: Paris}, call_id: c1}
- error: too many calls
  retryable: true
  retry_after_s: 2
  status: 429
"""


@pytest.mark.parametrize(("name", "text"), [("script.jsonl", LINES), ("script.yml", YAML)])
@pytest.mark.parametrize("as_text", [False, True])
async def test_a_file_is_a_script(name: str, text: str, as_text: bool, tmp_path: Path) -> None:
    """JSON lines and YAML say the same."""
    path = tmp_path / name
    path.write_text(text)
    model = ScriptedModel(str(path) if as_text else path)
    assert (await model.complete(request("1"))).text == "Hello"
    reply = await model.complete(request("2"))
    assert (reply.text, reply.calls) == ("I look", (ToolUse("c1", "get_weather", {"location": "Paris"}),))
    assert reply.usage.tokens_in > 0
    with pytest.raises(ModelError, match="too many calls") as caught:
        await model.complete(request("3"))
    assert (caught.value.retryable, caught.value.retry_after_s, caught.value.status) == (True, 2, 429)
    with pytest.raises(ModelError, match="exhausted"):
        await model.complete(request("4"))


@pytest.mark.parametrize(
    ("name", "text", "line", "words"),
    [
        ("a.jsonl", '"Hello"\n{"text": \n', 2, "no JSON"),
        ("a.jsonl", '"Hello"\n{"txt": "x"}\n', 2, "txt"),
        ("a.jsonl", '"Hello"\n5\n', 2, "no reply"),
        ("a.yml", "- Hello\n- {text: [}\n", 2, "no YAML"),
        ("a.yml", "- Hello\n- txt: x\n", 2, "txt"),
        ("a.yml", "text: Hello\n", 1, "list of replies"),
        ("a.yml", "", 1, "list of replies"),
        ("a.yml", "\x00", None, "no YAML"),
    ],
)
def test_a_broken_file_is_named(name: str, text: str, line: int | None, words: str, tmp_path: Path) -> None:
    """A file that is no script is refused at once, with its line."""
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        ScriptedModel(path)
    assert (caught.value.file, caught.value.line) == (str(path), line)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """So is one that is not there, and a directory."""
    for path in (tmp_path / "none.yml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            ScriptedModel(path)

"""Files that people write: read strictly, and when they are wrong, in one line with the file, the line and the mend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from p2engine.documents import expected, nearest, parse_json, parse_yaml, read_json, read_yaml
from p2engine.errors import ConfigError, NotAvailable, SetupError
from p2engine.limits import CONFIG_FILE_BYTES_MAX


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    later: ClassVar[dict[str, tuple[object, ...]]] = {"wallet": (), "store": ("redis",)}
    heat: Annotated[float, Field(ge=0, le=2)] | None = None
    store: Literal["sqlite"] = "sqlite"
    tools: list[str] = []


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    parts: list[Part]
    count: int = Field(default=1, ge=1)


BAD_YAML = {
    "parts:\n- heat: 3\n": "f:2: parts[0].heat: expected a number from 0 to 2, not 3",
    "parts:\n- heat: .nan\n": "f:2: parts[0].heat: expected a number from 0 to 2, not nan",
    "parts:\n- heat: true\n": "f:2: parts[0].heat: expected a number from 0 to 2, not True",
    "parts:\n- store: x\n  haet: 1\n": "f:2: parts[0].store: expected sqlite, not 'x'",
    "parts:\n- tools: []\n  haet: 1\n": "f:3: parts[0]: unknown key 'haet' (did you mean heat?)",
    "parts:\n- zzz: 1\n": "f:2: parts[0]: unknown key 'zzz' (known: heat, store, tools)",
    "parts:\n- store: sqlit\n": "f:2: parts[0].store: expected sqlite, not 'sqlit' (did you mean sqlite?)",
    "parts:\n- tools:\n  - a\n  - 1\n": "f:4: parts[0].tools[1]: expected text, not 1",
    "parts: 3\n": "f:1: parts: expected a list (a mapping each), not 3",
    "parts:\n- 3\n": "f:2: parts[0]: expected a mapping, not 3",
    "count: 1\n": "f:1: the key parts is missing",
    "count: 1\npart: []\n": "f:2: unknown key 'part' (did you mean parts?)",
    "parts: []\ncount: 0\n": "f:2: count: expected a whole number of at least 1, not 0",
    "- a\n": "f:1: expected a mapping, not ['a']",
    "parts: []\n1: 2\n": "f:1: a key must be text, not 1",
    "parts: []\nparts: []\n": "f:2: the key 'parts' stands twice",
    "parts:\n\t- a\n": "f:2: a tab cannot indent YAML; use spaces",
    "parts: [1\n": "f:2: not YAML: expected ',' or ']', but got '<stream end>'",
    "parts: *nowhere\n": "f:1: not YAML: found undefined alias 'nowhere'",
    "parts: &a [*a]\n": "f:1: is nested too deeply",
    "parts: []\n---\nparts: []\n": "f:2: not YAML: but found another document",
    "": "f: is empty",
    " \n# only a comment\n": "f: is empty",
    "[" * 50_000: "f: is nested too deeply",
    "- - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - 1": "f:1: is nested too deeply",
}


@pytest.mark.parametrize(("text", "says"), BAD_YAML.items(), ids=range(len(BAD_YAML)))
def test_failure_27_wrong_yaml_is_one_line_with_file_line_and_nearest_key(text: str, says: str) -> None:
    """Whatever is wrong with a YAML file is said in one line that starts with where it is."""
    with pytest.raises(ConfigError) as raised:
        parse_yaml(text, "f").check(Whole)
    assert str(raised.value) == says


BAD_JSON = {
    '{"parts": [{},\n{"haet": 1}]}': "f:2: parts[1]: unknown key 'haet' (did you mean heat?)",
    '{"parts": [],\n "count": 0}': "f:2: count: expected a whole number of at least 1, not 0",
    '{"parts": [], "count":\n NaN}': "f:1: count: expected a whole number of at least 1, not nan",
    '{"parts": [],\n"parts": []}': "f:2: the key 'parts' stands twice",
    '{"parts": [{"heat": 1,\n\n"heat": 2}]}': "f:3: the key 'heat' stands twice",
    '{"parts": []\n"count": 1}': "f:2: not JSON: expecting ',' delimiter",
    '{"parts": []}\nx': "f:2: not JSON: extra data",
    "[]": "f:1: expected a mapping, not []",
    "": "f: is empty",
    "[" * 100_000: "f: is nested too deeply",
    "[" * 40 + "]" * 40: "f:1: is nested too deeply",
}


@pytest.mark.parametrize(("text", "says"), BAD_JSON.items(), ids=range(len(BAD_JSON)))
def test_failure_27_wrong_json_is_one_line_with_file_line_and_nearest_key(text: str, says: str) -> None:
    """Whatever is wrong with a JSON file is said in one line that starts with where it is."""
    with pytest.raises(ConfigError) as raised:
        parse_json(text, "f").check(Whole)
    assert str(raised.value) == says


@pytest.mark.parametrize(
    ("text", "key"),
    [("parts:\n- wallet: 1\n", "parts[0].wallet"), ("parts:\n- store: redis\n", "parts[0].store: redis")],
)
def test_what_is_not_built_yet_is_refused_by_name(text: str, key: str) -> None:
    """A key, or a value of a key, that this version does not have is refused, with its place as the hint."""
    with pytest.raises(NotAvailable) as raised:
        parse_yaml(text, "f").check(Whole)
    assert str(raised.value) == f"not available in this version: {key}"
    assert raised.value.hint == "f:2: take it out"


def test_an_alias_bomb_is_refused_without_being_written_out() -> None:
    """Aliases that stand for billions of values are counted, not built."""
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]")
    with pytest.raises(ConfigError, match="f:5: means too many values"):
        parse_yaml("\n".join(lines), "f")


def test_aliases_and_merged_keys_keep_their_lines() -> None:
    """A wrong value that a merge brought in is reported where it is written."""
    text = "parts:\n- &base\n  store: sqlite\n  heat: 1\n- <<: *base\n  heat: 5\n"
    with pytest.raises(ConfigError, match=r"f:6: parts\[1\]\.heat"):
        parse_yaml(text, "f").check(Whole)
    merged = parse_yaml("parts:\n- {heat: 1}\nbase: &b\n  odd: 1\nmore:\n  <<: *b\n", "f")
    assert merged.line(("more", "odd")) == 4


def test_control_characters_of_a_file_are_shown_as_text() -> None:
    """An escape sequence in a key or value does not reach the terminal through the error."""
    with pytest.raises(ConfigError) as raised:
        parse_yaml('"\\e[31mred": 1\n', "f").check(Whole)
    assert "\x1b" not in str(raised.value)
    assert "\\x1b[31mred" in str(raised.value)


def test_a_long_wrong_value_is_cut() -> None:
    """An error stays one line, whatever was written."""
    with pytest.raises(ConfigError) as raised:
        parse_yaml("parts:\n- store: " + "x" * 10_000 + "\n", "f").check(Whole)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("read", [read_yaml, read_json])
def test_failure_27_what_is_no_small_text_file_is_said(
    read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing, huge or binary file, a folder and other encodings are each one line with the file's name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(b"a: 1\n\0\1")
    (tmp_path / "latin").write_bytes("a: 1\nb: é\n".encode("latin-1"))
    (tmp_path / "huge").write_bytes(b"#" * (CONFIG_FILE_BYTES_MAX + 1))
    (tmp_path / "empty").write_text(" \n")
    wrong = {
        "missing": "missing: no such file",
        "folder": "folder: is a folder, not a file",
        "binary": "binary:2: is a binary file, not text",
        "latin": "latin:2: is not UTF-8 text",
        "huge": f"huge: is larger than {CONFIG_FILE_BYTES_MAX} bytes",
        "empty": "empty: is empty",
    }
    for name, says in wrong.items():
        with pytest.raises(ConfigError) as raised:
            read(tmp_path / name)
        assert str(raised.value) == says
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "a\0b")


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    """What some editors put in front of a file does not spoil its first key."""
    (tmp_path / "f.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "f.json").value == {"a": 1}


@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text makes either reader fail in another way than with a SetupError."""
    for parse in (parse_yaml, parse_json):
        assert "\n" not in refusal(parse, text)


def refusal(parse: Callable[[str, str], object], text: str) -> str:
    """What the reader says against a text; nothing when it takes it."""
    try:
        parse(text, "f")
    except SetupError as error:
        return str(error)
    return ""


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@given(_PLAIN, st.sampled_from([None, 2]))
def test_json_values_are_what_json_says_and_every_key_has_a_line(value: Any, indent: int | None) -> None:
    """The reader changes no value, and knows where each key and item stands."""
    import json

    document = parse_json(json.dumps(value, indent=indent), "f")
    assert document.value == value

    def places(inner: Any, place: tuple[str | int, ...]) -> None:
        items = inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else ()
        for step, child in items:
            assert (*place, step) in document.lines
            places(child, (*place, step))

    places(value, ())


@pytest.mark.parametrize(
    ("name", "near"), [("temprature", "temperature"), ("Max-Tokens", "max_tokens"), ("qqqq", None), ("x" * 10**7, None)]
)
def test_the_nearest_name_is_found(name: str, near: str | None) -> None:
    """Small slips, case and dashes are seen through; what is far from everything has no nearest name."""
    assert nearest(name, ["temperature", "max_tokens", "tools"]) == near


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Literal["a", "b", "c"], "a, b or c"),
        (bool | None, "true or false"),
        (Annotated[int, Field(ge=1)], "a whole number of at least 1"),
        (Annotated[float, Field(gt=0)] | None, "a number above 0"),
        (list[str], "a list (text each)"),
        (Whole, "a mapping"),
    ],
)
def test_types_are_said_in_words(annotation: Any, words: str) -> None:
    """An error and the tables of the documents say what may stand there in the same words."""
    assert expected(annotation) == words

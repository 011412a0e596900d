"""How results become text for a model, and how errors do."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from p2engine.errors import ConfigError, ToolError
from p2engine.limits import TOOL_RESULT_BYTES_MAX
from p2engine.tools.results import bounded, describe, shape


class Price(BaseModel):
    """A model with a value that JSON has no type for."""

    amount: Decimal


@dataclass
class Sale:
    """A dataclass that holds a model."""

    price: Price
    at: datetime


class Colour(Enum):
    """A choice."""

    RED = "red"


SALE = Sale(Price(amount=Decimal("1.10")), datetime(2026, 1, 2, tzinfo=UTC))


@pytest.mark.parametrize(
    ("result", "content"),
    [
        ("plain \x1b[31m{{ text }}", "plain \x1b[31m{{ text }}"),
        (None, "null"),
        (3, "3"),
        ([1, "ü"], '[1, "ü"]'),
        ({1: (2, {3})}, '{"1": [2, [3]]}'),
        (SALE, '{"price": {"amount": "1.10"}, "at": "2026-01-02T00:00:00Z"}'),
        ([Colour.RED, PurePosixPath("a/b"), Decimal("0.1")], '["red", "a/b", "0.1"]'),
    ],
)
def test_text_stays_and_the_rest_becomes_json(result: Any, content: str) -> None:
    """Strings are data and stay as they are; values with a JSON form are written in it."""
    assert shape(result).content == content
    assert shape(result).status == "ok"


@pytest.mark.parametrize("result", [b"\x00", {"a": [bytearray(b"x")]}, object(), print, (n for n in "ab"), {(1, 2): 3}])
def test_what_has_no_json_form_is_refused(result: Any) -> None:
    """Bytes and objects are not guessed at: the error names the type."""
    with pytest.raises(ToolError, match="its result cannot be shown as JSON"):
        shape(result)


def test_a_result_that_holds_itself_is_refused() -> None:
    """A cycle ends in an error, not in a dead process."""
    cycle: list[Any] = []
    cycle.append(cycle)

    with pytest.raises(ToolError, match="cannot be shown"):
        shape(cycle)


@pytest.mark.parametrize(
    ("result", "status"),
    [
        ({"status": "error", "error": "no"}, "error"),
        ({"status": "failed"}, "error"),
        ({"status": "ERROR"}, "error"),
        ({"status": "success"}, "ok"),
        ({"status": 500}, "ok"),
        ({"error": "in another place"}, "ok"),
        ([{"status": "error"}], "ok"),
    ],
)
def test_failure_33_a_result_that_reports_failure_is_recorded_as_failed(result: Any, status: str) -> None:
    """The convention `{"status": "error" | "failed" | "success"}` decides the recorded status."""
    assert shape(result).status == status


@pytest.mark.parametrize(
    ("reward", "expected"),
    [(0.5, 0.5), (2, 2.0), ("1", None), (True, None), (float("nan"), None), (10**400, None), (None, None)],
)
def test_a_numeric_reward_is_taken_out(reward: Any, expected: float | None) -> None:
    """Only a finite number counts as a reward."""
    assert shape({"reward": reward}).reward == expected


@given(st.text(), st.integers(0, 9), st.booleans())
def test_no_text_is_longer_than_a_model_may_be_shown(text: str, pad: int, long: bool) -> None:
    """Any text, cut or not, is valid UTF-8 within the bound, begins as it began, and says what was cut."""
    whole = text + "é" * (TOOL_RESULT_BYTES_MAX // 2 + pad if long else 0)

    shown = bounded(whole)

    size = len(whole.encode("utf-8", "replace"))
    assert len(shown.encode()) <= TOOL_RESULT_BYTES_MAX
    if size <= TOOL_RESULT_BYTES_MAX:
        assert shown == whole
    else:
        head, _, marker = shown.rpartition("\n")
        assert whole.startswith(head)
        assert marker == f"[cut here: {size - len(head.encode())} of {size} bytes left out]"


def test_half_a_character_cannot_spoil_the_log() -> None:
    """A lone surrogate is replaced: what is recorded can be encoded."""
    assert msgspec.json.decode(msgspec.json.encode(bounded("a\ud800b"))) == "a?b"


def _group() -> BaseException:
    return ExceptionGroup("several", [ValueError("inner")])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ToolError("closed on Sundays\ncome back"), "closed on Sundays\ncome back"),
        (lambda: ConfigError("no key", hint="set one"), "no key; set one"),
        (lambda: ValueError("first\nsecond"), "ValueError: first"),
        (lambda: KeyError(), "KeyError"),
        (lambda: ValueError("x" * 600), "ValueError: " + "x" * 500 + " …"),
        (_group, "ValueError: inner"),
    ],
)
def test_errors_are_described_in_a_line(make: Callable[[], BaseException], text: str) -> None:
    """What was written for a model is whole; anything else is its type and first line."""
    assert describe(make()) == text


def test_json_of_a_result_can_be_read_back() -> None:
    """The text of a structured result is JSON."""
    assert json.loads(shape({"a": SALE}).content)["a"]["price"]["amount"] == "1.10"

"""What is printed: text of others as text, tables and documents for people and for programs."""

from __future__ import annotations

import io
import json
from typing import Any
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2engine.cli.options import Options
from p2engine.cli.output import Output, iso, one_line, safe
from p2engine.errors import UsageError

NASTY = "\x1b[31m[bold]x[/bold]\r\n\x9b \u202e {{ 1 }}"


class Terminal(io.StringIO):
    """A double of a terminal: it says that it is one, and keeps what was printed."""

    def isatty(self) -> bool:
        return True


def output(*, terminal: bool = False, **options: Any) -> tuple[Output, io.StringIO, io.StringIO]:
    """An Output and its two streams."""
    out, err = (Terminal(), Terminal()) if terminal else (io.StringIO(), io.StringIO())
    return Output(Options(**options), out, err), out, err


@given(st.text(st.characters(codec=None)))
def test_failure_25_no_text_moves_the_cursor(text: str) -> None:
    """Whatever the text: no control character but tab and newline is left, and every stream can encode it."""
    shown = safe(text)

    assert not {character for character in shown if category(character) in ("Cc", "Cs")} - {"\t", "\n"}
    assert not {"\x1b", "\r", "\x08", "\u202e", "\u2028"} & set(shown)
    shown.encode()


def test_what_can_be_read_stays_as_it_is() -> None:
    """Letters of any script, emoji, tabs and newlines are shown as they are."""
    text = "Zürich 日本 עברית 🦊‍\n\t[x] {{ y }}"
    assert safe(text) == text


def test_one_line_is_one_line() -> None:
    """Blanks and newlines become one blank, and what is too long is cut."""
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("x" * 300, 10) == "x" * 9 + "…"


def test_times_are_utc_with_milliseconds() -> None:
    """A time is ISO 8601 in UTC; none is null."""
    assert (iso(0.1234), iso(None)) == ("1970-01-01T00:00:00.123Z", None)


@pytest.mark.parametrize("terminal", [True, False])
def test_failure_25_a_table_shows_text_as_text(terminal: bool) -> None:
    """Markup and escapes in cells and titles stand in the table as they are."""
    printer, out, _ = output(terminal=terminal, no_color=True)

    printer.table("of [red]things[/red]", ["name", "n"], [[NASTY.replace("\r\n", ""), 1], ["b", None]])

    shown = out.getvalue()
    assert "\\x1b[31m[bold]x[/bold]" in shown
    assert "\x1b" not in shown
    assert "–" in shown


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_a_table_keeps_short_columns_whole(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However narrow the terminal: what is short (a reference, a time) can be copied, and of what is long no word is
    lost."""
    monkeypatch.setenv("COLUMNS", str(columns))
    printer, out, _ = output(terminal=True, no_color=True)
    words = [f"word{n}" for n in range(40)]

    printer.table("", ["ref", "at", "body"], [["e20cfef5545b:27.model", "11-22 02:20:17", " ".join(words)]])

    shown = out.getvalue()
    assert "e20cfef5545b:27.model" in shown
    assert "11-22 02:20:17" in shown
    assert [word for word in words if word not in shown] == []
    assert "…" not in shown


def test_a_table_on_a_pipe_is_a_line_a_row() -> None:
    """On a pipe nothing is cut or wrapped, and each row is one line."""
    printer, out, _ = output()

    printer.table("things", ["name", "n"], [["a\nb", 1], ["x" * 300, 22]])

    header, first, second = out.getvalue().splitlines()
    assert header.split() == ["name", "n"]
    assert first.startswith("a b ")
    assert second == "x" * 300 + "  22"


def test_a_table_is_a_list_with_json() -> None:
    """With --json a table is one document: the rows that were given for it."""
    printer, out, _ = output(json=True)

    printer.table("things", ["name"], [["shown"]], [{"name": NASTY, "n": None}])

    assert json.loads(out.getvalue()) == [{"name": NASTY, "n": None}]
    assert "\x1b" not in out.getvalue()


def test_a_document_is_text_or_json() -> None:
    """People see the fields, or the text made for them; programs one JSON document."""
    for options, text in (({}, None), ({}, "for people"), ({"json": True}, "for people")):
        printer, out, _ = output(**options)
        printer.document({"a": 1, "b": None}, text)
        shown = out.getvalue()
        assert (json.loads(shown) == {"a": 1, "b": None}) if options else (text or "b  –") in shown


def test_lines_of_a_stream_are_json_lines() -> None:
    """With --json each line of a stream is one object; text without one is left out."""
    printer, out, _ = output(json=True)

    printer.line("text", {"a": 1})
    printer.line("only text")

    assert out.getvalue() == '{"a":1}\n'


@given(st.text(st.characters(codec="utf-8")))
def test_failure_25_json_moves_no_cursor(text: str) -> None:
    """In a document and in a line: every control character is escaped, and what is read back is the text."""
    for indented in (True, False):
        printer, out, _ = output(json=True)
        if indented:
            printer.document({text: [text]})
        else:
            printer.line("for people", {text: [text]})

        shown = out.getvalue()
        assert not {character for character in shown if category(character) == "Cc"} - {"\n"}
        assert not {"\u202e", "\u2028", "\u2066"} & set(shown)
        assert json.loads(shown) == {text: [text]}


def test_hints_name_the_command_that_works() -> None:
    """What stands for the program in a hint is what was typed, once and never inside a name; JSON keeps the name."""
    printer, out, err = output(terminal=True)
    printer.program = "./scripts/run_project.sh"

    printer.next("p2engine chat resume 'my p2engine demo'")
    printer.error(UsageError("no p2engine here", hint="cd ~/p2engine && p2engine --help"))
    printer.is_json = True
    printer.error(UsageError("wrong", hint="p2engine --help"))

    assert "next: ./scripts/run_project.sh chat resume 'my p2engine demo'" in err.getvalue()
    assert "no p2engine here" in err.getvalue()
    assert "cd ~/p2engine && ./scripts/run_project.sh --help" in err.getvalue()
    assert json.loads(out.getvalue())["error"]["hint"] == "p2engine --help"


def test_hints_stand_on_terminals_only() -> None:
    """`next:` is for people: not on a pipe, not with --json, not with --quiet."""
    shown = []
    for options in ({"terminal": True}, {}, {"terminal": True, "json": True}, {"terminal": True, "quiet": True}):
        printer, _, err = output(**options)
        printer.next("p2engine help")
        shown.append("next: p2engine help" in err.getvalue())

    assert shown == [True, False, False, False]

"""The runner of the documentation's examples notices what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import Block, blocks, first_difference
from tests.docs.stage import Stage, commands


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A stage in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return Stage(tmp_path)


def block(language: str, text: str, title: str = "") -> Block:
    return Block(language, title, text, 1, generated=False)


@pytest.mark.parametrize(
    ("shown", "came"),
    [
        ("a  b", "a b"),
        ("id … at …", "id 12 at noon"),
        ("first\n…\nlast", "first\nsecond\nthird\nlast"),
        ("first\n…", "first"),
        ("entries 0…8 stay", "entries 0…8 stay"),
    ],
)
def test_dots_stand_for_what_differs(shown: str, came: str) -> None:
    """`…` is any text in a line, or any lines; blanks do not count."""
    assert first_difference(shown, came) == ""


@pytest.mark.parametrize(
    ("shown", "came"),
    [("a", "b"), ("a", "a\nb"), ("a\nb", "a"), ("id … at noon", "id 12 at one"), ("first\n…\nlast", "first\nsecond")],
)
def test_other_output_is_noticed(shown: str, came: str) -> None:
    """Output that is not what is shown is a difference, in either direction."""
    assert first_difference(shown, came) != ""


def test_a_console_block_falls_into_commands() -> None:
    """Each command line has what is typed into it and what is shown below it."""
    text = "$ p2engine shell \\\n    --quiet\np2engine▸ fsm\nstate\n$ p2engine models"
    assert list(commands(text)) == [("p2engine shell --quiet", ("fsm",), "state"), ("p2engine models", (), "")]


@pytest.mark.parametrize(
    "wrong",
    [
        [block("python", "assert False")],
        [block("python", "print(1)"), block("text", "2")],
        [block("python", "pass"), block("text", "something")],
        [block("console", "$ p2engine fsm\nnonsense")],
        [block("console", "$ p2engine nonsense")],
        [block("console", "$ rm -rf nothing")],
        [block("yaml", "agents:\n  - id: a\n    tools: [nonsense]")],
        [block("json", '{"nonsense": 1}', "config/config.json")],
        [block("toml", "= 1")],
        [block("ruby", "puts 1")],
    ],
    ids=lambda wrong: wrong[-1].text.split("\n")[0],
)
def test_a_wrong_example_fails(stage: Stage, wrong: list[Block]) -> None:
    """Code that raises, output that differs, a command or file that is refused, and a language nobody runs."""
    *before, last = wrong
    for each in before:
        stage.play(each)
    with pytest.raises((AssertionError, ValueError)):
        stage.play(last)


def test_blocks_know_their_lines_and_who_wrote_them(tmp_path: Path) -> None:
    """A fence has its language, its file, its line, and whether a script wrote it."""
    page = tmp_path / "page.md"
    page.write_text('# A\n```yaml title="a.yml"\nx\n```\n<!-- generated: y -->\n```text\n```\n<!-- /generated -->\n')
    assert list(blocks(page)) == [Block("yaml", "a.yml", "x", 2, False), Block("text", "", "", 6, True)]

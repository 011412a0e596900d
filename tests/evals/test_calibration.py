"""Labels of people, read from a file."""

from pathlib import Path

import pytest

from p2engine.errors import ConfigError
from p2engine.evals.calibration import Labelled, read_labels

EXPECTED = [Labelled("a", 1.0, "good", 2), Labelled("b", 0.25, "", 3), Labelled("c", 0.0, "No", 4)]


def test_csv_and_json_lines_say_the_same(tmp_path: Path) -> None:
    """Scores as numbers; labels as words for 0 and 1, or as themselves."""
    table = tmp_path / "labels.csv"
    table.write_text("Conversation, Score ,label\na,,good\nb,0.25,\nc,,No\n")
    assert read_labels(table) == EXPECTED
    lines = tmp_path / "labels.jsonl"
    lines.write_text(
        '\n{"conversation": "a", "label": "good"}\n{"conversation": "b", "score": 0.25}\n'
        '{"conversation": "c", "label": "No"}\n'
    )
    assert read_labels(lines) == EXPECTED


@pytest.mark.parametrize(
    ("name", "text", "line", "said"),
    [
        ("l.csv", "name,score\na,1\n", 1, "the column conversation is missing"),
        ("l.csv", "conversation,score\na,2\n", 2, "from 0 to 1, not '2'"),
        ("l.csv", "conversation,score\na,nan\n", 2, "from 0 to 1"),
        ("l.csv", "conversation,score\na,1\na,0\n", 3, "'a' is labelled twice, first on line 2"),
        ("l.csv", "conversation,score\na,1,2,3\n", 2, "more fields"),
        ("l.csv", "conversation,score\n,1\n", 2, "the conversation is missing"),
        ("l.csv", "conversation,score\na,\n", 2, "needs a score or a label"),
        ("l.csv", "conversation,label\na,good\nb,goood\n", 3, "no label 'goood' (did you mean good?)"),
        ("l.csv", "conversation,label\na,1\nb,0.7\n", 3, "the label '0.7' is a number; write numbers under score"),
        ("l.jsonl", '{"conversation": "a", "label": "splendid"}\n', 1, "no label 'splendid'"),
        ("l.csv", "conversation,score\n", None, "has no rows"),
        ("l.jsonl", "nothing\n", 1, "no JSON"),
        ("l.jsonl", "[1]\n", 1, "expected an object"),
        ("l.jsonl", '{"score": 1}\n', 1, "the conversation is missing"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, name: str, text: str, line: int | None, said: str) -> None:
    """One line for people."""
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_labels(file)
    assert said in caught.value.message
    assert caught.value.line == line


def test_failure_27_a_file_that_is_none(tmp_path: Path) -> None:
    """Missing, a folder, binary."""
    with pytest.raises(ConfigError, match="no such file"):
        read_labels(tmp_path / "labels.csv")
    with pytest.raises(ConfigError, match="is a folder"):
        read_labels(tmp_path)
    binary = tmp_path / "b.csv"
    binary.write_bytes(b"conversation,score\n\0")
    with pytest.raises(ConfigError, match="binary"):
        read_labels(binary)

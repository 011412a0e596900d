"""Data sets: what a task is made of, from a list or from a file beside the rollout file."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2engine.errors import ConfigError
from p2engine.limits import TASKS_BYTES_MAX
from p2engine.rollouts.spec import Task
from tests.rollouts.rollout_files import read, team

FILES = {
    "a.jsonl": '\ufeff{"id": "p", "city": "Paris", "expected": 22}\r\n\r\n{"city": "Oslo"}',
    "b.ndjson": '{"city": "Paris", "expected.now": 22, "expected.unit": "C"}\n',
    "c.csv": '\ufeffid,city,expected\r\np,"Paris,\r\nFrance",22\r\n,,\r\nq,Oslo,\r\n',
    "d.csv": "question,answer,why,nr\nq1,a1,w1,x\nq2,a2,w2,y\n",
}
TASKS = {
    "[{city: Paris}, {id: 7, city: Oslo, expected: [1]}]": [
        Task(id="t1", values={"city": "Paris"}),
        Task(id="7", values={"city": "Oslo"}, expected=[1]),
    ],
    "a.jsonl": [Task(id="p", values={"city": "Paris"}, expected=22), Task(id="t2", values={"city": "Oslo"})],
    "{file: b.ndjson}": [Task(id="t1", values={"city": "Paris"}, expected={"now": 22, "unit": "C"})],
    "sub/../c.csv": [
        Task(id="p", values={"city": "Paris,\r\nFrance"}, expected="22"),
        Task(id="q", values={"city": "Oslo"}, expected=""),
    ],
    "{file: d.csv, id: nr, expected: answer}": [
        Task(id="x", values={"question": "q1", "why": "w1"}, expected="a1"),
        Task(id="y", values={"question": "q2", "why": "w2"}, expected="a2"),
    ],
    "{file: d.csv, expected: [answer, why]}": [
        Task(id="t1", values={"question": "q1", "nr": "x"}, expected={"answer": "a1", "why": "w1"}),
        Task(id="t2", values={"question": "q2", "nr": "y"}, expected={"answer": "a2", "why": "w2"}),
    ],
}


@pytest.mark.parametrize(("written", "tasks"), TASKS.items(), ids=range(len(TASKS)))
def test_a_data_set_is_read_from_a_list_or_a_file(tmp_path: Path, written: str, tasks: list[Task]) -> None:
    """Ids and expected values are taken out of the rows; the rest is what a message may say."""
    (tmp_path / "sub").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_bytes(text.encode())
    assert list(read(tmp_path, team(f"tasks: {written}")).teams[0].tasks) == tasks


def test_a_data_set_lies_beside_the_rollout_file(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From wherever a rollout is started, its data set is found from the folder of its file."""
    (tmp_path / "q.csv").write_text("q\n1\n")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert len(read(tmp_path, team("tasks: q.csv")).teams[0].tasks) == 1


BAD_FILES = {
    "q.jsonl": {
        '{"q": 1}\n{"q": \n': "q.jsonl:2: not JSON: expecting value",
        "\n": "jokes.yml:6: teams.t.tasks: q.jsonl has no tasks",
        "[1]\n": "q.jsonl:1: a task is a mapping, not [1]",
        '\n{"q": 1, "q": 2}\n': "q.jsonl:2: the key 'q' stands twice",
        '{"id": 1}\n{"id": "1"}\n': "q.jsonl:2: task '1' is there already",
        '{"q": 1e999}\n': "q.jsonl:1: q: inf is neither text nor a plain number; put it in quotes",
        '{"q": NaN}\n': "q.jsonl:1: NaN is no number in JSON",
        "[" * 100_000: "q.jsonl:1: is nested too deeply",
        '{"q": 99999999999999999999}': "q.jsonl:1: q: 99999999999999999999 is neither text nor a plain number;"
        " put it in quotes",
        '{"q": "\\ud800"}': "q.jsonl:1: q: '\\ud800' is neither text nor a plain number; put it in quotes",
        '{"id": [1]}': "q.jsonl:1: a task's id is a number or a printable text of at most 120 bytes; this is [1]",
        '{"teams": 1}': "q.jsonl:1: no value of a task may be called teams",
        '{"expected": 1, "expected.a": 2}': "q.jsonl:1: expected stands beside 'expected.a': one or the other",
    },
    "q.csv": {
        "a,b\n1,2\n\n1\n": "q.csv:4: expected 2 columns, not 1",
        "a,a\n1,2\n": "q.csv:1: the first line names the columns, each once and none of them empty",
        'a,b\n"x\ny",2\n1,"2\n': "q.csv:4: not CSV: unexpected end of data",
        'a,b\n"x\ny",2\n1\n': "q.csv:4: expected 2 columns, not 1",
        "a,b\n": "jokes.yml:6: teams.t.tasks: q.csv has no tasks",
        "a\nx\n\udcff\n": "q.csv:3: is not UTF-8 text",
        "a\n\0\n": "jokes.yml:6: teams.t.tasks: q.csv is a binary file, not text",
        "a\n" + "x" * TASKS_BYTES_MAX: "jokes.yml:6: teams.t.tasks: q.csv is larger than 16777216 bytes",
    },
}
CASES = [(name, text, says) for name, cases in BAD_FILES.items() for text, says in cases.items()]


@pytest.mark.parametrize(("name", "text", "says"), CASES, ids=range(len(CASES)))
def test_failure_27_a_wrong_data_set_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, says: str
) -> None:
    """Whatever is wrong with a row is said with its file and line; with the file as a whole, where it is named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, team(f"tasks: {name}"))
    assert str(raised.value) == says


BAD_NAMES = {
    "none.jsonl": "no such file: none.jsonl",
    "sub.csv": "sub.csv is a folder, not a file",
    "x.txt": "a data set is a .jsonl or .csv file, not 'x.txt'",
    '"a\\0.csv"': "a file's name has no control characters; this is 'a\\x00.csv'",
    "[]": "there are no tasks in the list",
    "3": "expected a list of tasks, a file or {file: …}, not 3",
    "{fil: q.csv}": "unknown key 'fil' (did you mean file?)",
    "{file: q.csv, expected: anser}": "there is no column 'anser' (did you mean answer?)",
}


@pytest.mark.parametrize(("written", "says"), BAD_NAMES.items(), ids=range(len(BAD_NAMES)))
def test_failure_27_a_missing_data_set_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, says: str
) -> None:
    """A data set that is not there, is no file, or lacks a column."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub.csv").mkdir()
    (tmp_path / "q.csv").write_text("q,answer\n1,2\n")
    where = "q.csv:2: " if "anser" in written else "jokes.yml:6: teams.t.tasks: "
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, team(f"tasks: {written}"))
    assert str(raised.value) == where + says

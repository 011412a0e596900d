"""The log file: a JSON object a line, rotating, without secrets and without what was said."""

from __future__ import annotations

import json
import logging
import multiprocessing
import re
from pathlib import Path
from typing import Any

import pytest

from p2engine.cli import logs
from p2engine.cli.logs import logged, redaction
from p2engine.settings import Settings
from tests.cli.project import Project, Run

SECRET = "sk-secret-0123456789abcdef"
PARIS = "What's the weather in Paris?"


def load(project: Project, **environ: str) -> Settings:
    return Settings.load(project=project.folder, environ=environ)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def log() -> logging.Logger:
    """A logger of the package."""
    return logging.getLogger("p2engine.somewhere")


def test_a_line_is_an_object(project: Project, log: logging.Logger) -> None:
    """Each record is one JSON object: time in UTC, level, event, what it is about, and its message."""
    settings = load(project)
    with logged(settings):
        log.warning("lost %d of %s", 2, "three\nlines", extra={"conversation": "c1", "agent": "a", "effect": "e:1.0"})
        log.debug("not at INFO")

    (row,) = rows(project.folder / "logs/main.log")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row.pop("ts"))
    assert isinstance(row.pop("pid"), int)
    assert row == {
        "level": "warning",
        "event": "p2engine.somewhere",
        "conversation": "c1",
        "agent": "a",
        "effect": "e:1.0",
        "msg": "lost 2 of three\nlines",
    }


def test_failure_28_log_level_has_its_effect(project: Project, log: logging.Logger) -> None:
    """LOG_LEVEL chooses what is logged, LITELLM_LOG_LEVEL what model calls log."""
    models = logging.getLogger("p2engine.models")
    for number, environ in enumerate(({"LOG_LEVEL": "debug"}, {"LOG_LEVEL": "ERROR"}, {"LITELLM_LOG_LEVEL": "debug"})):
        settings = load(project, **environ)
        with logged(settings):
            log.debug("%d debug", number)
            log.warning("%d warning", number)
            models.debug("%d call", number)

    said = [row["msg"] for row in rows(project.folder / "logs/main.log")]
    assert said == ["0 debug", "0 warning", "2 warning", "2 call"]


def test_failure_28_the_console_has_it_too(
    project: Project, log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """LOG_TO_CONSOLE=1 shows the log on standard error, without escapes; 0 shows nothing."""
    for choice in ("1", "0"):
        with logged(load(project, LOG_TO_CONSOLE=choice)):
            log.warning("console %s \x1b[31m", choice)

    shown = capsys.readouterr().err
    assert "console 1 \\x1b[31m" in shown
    assert "console 0" not in shown
    assert len(rows(project.folder / "logs/main.log")) == 2


def test_the_place_can_be_chosen(project: Project, log: logging.Logger) -> None:
    """`logging.log_dir` and `log_file` say where; without a project the log lies in the state folder."""
    project.configure(logging={"log_dir": "deep/er", "log_file": "p2.log"})
    with logged(load(project)):
        log.error("here")

    assert rows(project.folder / "deep/er/p2.log")[0]["msg"] == "here"


def test_nothing_is_made_when_nothing_is_logged(project: Project) -> None:
    """The file and its folder come with the first line."""
    with logged(load(project)):
        pass

    assert not (project.folder / "logs").exists()


def test_an_error_has_its_traceback(project: Project, log: logging.Logger) -> None:
    """An exception is logged whole, in its one line."""
    with logged(load(project)):
        try:
            json.loads(SECRET)
        except ValueError as error:
            error.add_note(f"with {SECRET}")
            log.exception("broke")

    (row,) = rows(project.folder / "logs/main.log")
    assert "Traceback" in row["error"]
    assert "JSONDecodeError" in row["error"]
    assert "with [redacted]" in row["error"]


@pytest.mark.parametrize(
    "text",
    [
        "key=my-own-key",
        f"a {SECRET} b",
        "Authorization: Bearer abc.def-ghi_jkl",
        "my-own-key my-own-key",
        "GSK_abcdefgh1",
    ],
)
def test_secrets_are_taken_out(text: str) -> None:
    """Keys that are known, and whatever looks like one, are replaced; the rest stays."""
    clean = redaction(["my-own-key", ""])

    assert "[redacted]" in clean(text)
    assert not re.search(r"my-own-key|sk-|abc\.def|abcdefgh", clean(text))
    assert clean("an ordinary line, task-oriented") == "an ordinary line, task-oriented"


def test_known_keys_are_taken_out_of_the_file(project: Project, log: logging.Logger) -> None:
    """The keys of the settings never reach the file, whatever they look like."""
    with logged(load(project, OPENAI_API_KEY="plain-words-as-a-key")):
        log.warning("sent plain-words-as-a-key", extra={"agent": "x"})

    assert rows(project.folder / "logs/main.log")[0]["msg"] == "sent [redacted]"


def test_files_rotate(project: Project, log: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full file is put aside, and there are never more than five."""
    monkeypatch.setattr(logs, "FILE_BYTES_MAX", 2000)
    with logged(load(project)):
        for number in range(200):
            log.warning("line %d %s", number, "x" * 100)

    files = sorted((project.folder / "logs").iterdir())
    assert [file.name for file in files] == ["main.log", "main.log.1", "main.log.2", "main.log.3", "main.log.4"]
    assert all(file.stat().st_size <= 2000 for file in files)
    assert rows(files[0])[-1]["msg"].startswith("line 199 ")


def test_a_file_that_another_process_rotated_is_left(project: Project, log: logging.Logger) -> None:
    """When the file is moved away under us, the next line goes to the new one."""
    path = project.folder / "logs/main.log"
    with logged(load(project)):
        log.warning("one")
        path.rename(path.with_suffix(".old"))
        log.warning("two")

    assert [row["msg"] for row in rows(path)] == ["two"]


def write_many(folder: str, who: int) -> None:
    """In a process of its own: a hundred lines."""
    with logged(Settings.load(project=folder, environ={})):
        for number in range(100):
            logging.getLogger("p2engine.somewhere").warning("%d-%d", who, number)


def test_processes_share_a_file(project: Project) -> None:
    """Lines of several processes stand whole beside one another."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(str(project.folder), who)) for who in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)

    said = {row["msg"] for row in rows(project.folder / "logs/main.log")}
    assert said == {f"{who}-{number}" for who in range(3) for number in range(100)}


def test_failure_35_a_log_that_cannot_be_written_stops_nobody(project: Project, here: Run) -> None:
    """Where the log folder is a file, one line says so and the command works."""
    project.write("logs", "a file")

    done = here("chat", "with", "agent_alpha", "-m", PARIS)

    assert done.status == 0, done.err
    assert "22" in done.out
    assert done.err.count("no log: cannot write") == 1


def test_what_is_said_is_not_logged(project: Project, here: Run) -> None:
    """At INFO no message, argument or reply is in the log; which command ran and what went wrong is."""
    here("chat", "with", "agent_alpha", "--name", "demo", "-m", PARIS)
    here("chat", "resume", "nowhere")

    text = (project.folder / "logs/main.log").read_text()
    assert "weather" not in text.lower()
    assert "chat with" in text
    assert "no conversation 'nowhere'" in text


def test_logging_is_as_before_afterwards(project: Project) -> None:
    """A command leaves the loggers as they were: whoever embeds us keeps theirs."""
    root = logging.getLogger("p2engine")
    before = (root.level, root.propagate, list(root.handlers))

    with logged(load(project), debug=True):
        assert root.level == logging.DEBUG

    assert (root.level, root.propagate, list(root.handlers)) == before

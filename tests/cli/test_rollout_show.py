"""What a rollout came to, on the command line: tables, trials, comparisons, exports, and a page in a real browser."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from p2engine.cli.options import Options as OutputOptions
from p2engine.cli.output import Output
from p2engine.cli.rollout_view import tell_report
from p2engine.rollouts import journal
from p2engine.rollouts.findings import OFFLINE
from p2engine.rollouts.journal import Options, Status
from p2engine.rollouts.report import report_of
from p2engine.rollouts.results import TrialResult
from p2engine.wiring import Engine
from p2engine.wiring.runners import hold
from tests.cli.project import Project, Ran, Run
from tests.cli.scenes import EVIL
from tests.cli.test_export import Page
from tests.rollouts.simulated import TEAM, rollout, row, trials

FILE = """\
teams:
  weather:
    initial_message: "What's the weather in {{ city }}?"
    base: {agent_id: agent_alpha, tools: [get_weather]}
    variants: [{id: cold, temperature: 0.1}, {id: warm, temperature: 0.9}]
    tasks: [{id: paris, city: Paris}, {id: tokyo, city: Tokyo}]
    eval: {evaluator_id: gpt4_judge, rubric: Good?, metric: score}
    checks: [{contains: "{{ city }}"}, no_error]
"""
CONTRACT = {"id", "status", "offline", "seed", "spec_hash", "arms", "trials", "comparisons", "provenance"}


@pytest.fixture
def weather(here: Run, project: Project) -> str:
    """The id of a rollout that the offline stand-in has answered."""
    project.write("config/weather.yml", FILE)
    done = here("rollout", "start", "config/weather.yml")
    assert done.status == 0, done.err
    (listed,) = here("rollout", "list", "--json").document
    return str(listed["id"])


def keep(project: Project, rows: Sequence[TrialResult], *, status: Status | None = "finished", **settings: int) -> str:
    """Write down a rollout that nobody ran, as a runner would. status: None where it does not end. Returns its id."""
    variants = tuple(dict.fromkeys(each.variant for each in rows))
    planned = rollout(variants, **settings)  # type: ignore[arg-type]

    async def write() -> str:
        async with Engine.open(project.folder, work=False) as engine:
            begun = await journal.start(engine.world, planned.spec, Options(), planned.provenance)
            for each in rows:
                await journal.record(engine.world, begun, each)
            return (await journal.end(engine.world, begun, status)).id if status else begun.id

    return asyncio.run(write())


# Offline


def test_a_rollout_that_the_stand_in_answered_is_titled_so(here: Run, weather: str) -> None:
    """A dash where nobody judged, checks beside it, no comparison, and at the end the command for a real run."""
    shown = here("rollout", "show", weather)

    lines = shown.out.splitlines()
    assert (shown.status, OFFLINE in lines) == (0, True)
    assert [line.split()[:6] for line in lines if line.startswith(("cold", "warm"))][:2] == [
        ["cold", "2", "0", "–", "1", "1"],
        ["warm", "2", "0", "–", "1", "1"],
    ]
    assert "against" not in shown.out
    assert f"p2engine eval top {weather} --metric score" in lines
    assert lines[-2] == "export OPENAI_API_KEY=…"
    assert lines[-1].endswith("rollout start config/weather.yml")


def test_the_document_of_a_rollout(here: Run, weather: str) -> None:
    """With --json one document, whose names and types are promised; what is not known is null."""
    document = here("rollout", "show", weather, "--json").document

    assert set(document) >= CONTRACT
    assert (document["offline"], document["comparisons"], len(document["trials"])) == (True, [], 4)
    assert document["arms"][0]["metrics"]["score"] == {"mean": None, "low": None, "high": None, "n": 0}
    assert document["arms"][0]["metrics"]["contains"] == {"mean": 1.0, "low": None, "high": None, "n": 2}
    assert document["trials"][0]["conversation"] == f"{weather}/weather/cold/1"
    assert document["provenance"]["models"] == ["offline/stand-in"]


def test_the_trials_of_a_variant_name_their_conversations(here: Run, weather: str) -> None:
    """Each row has a name that `conversation show` takes."""
    shown = here("rollout", "show", weather, "warm")
    rows = here("rollout", "show", weather, "weather/warm", "--json").document

    assert OFFLINE in shown.out
    assert [each["task"] for each in rows] == ["paris", "tokyo"]
    assert all(each["conversation"] in shown.out for each in rows)
    assert here("conversation", "show", rows[0]["conversation"]).status == 0


def test_a_trial_is_its_transcript_and_its_verdicts(here: Run, weather: str) -> None:
    """What was said and done, in order, and what each evaluator said of it."""
    shown = here("rollout", "show", weather, "warm", "2")
    document = here("rollout", "show", weather, "warm", "2", "--json").document

    assert "What's the weather in Tokyo?" in shown.out
    assert 'get_weather(location="Tokyo"' in shown.out
    assert "gpt4_judge@" in shown.out
    assert "  on terms: 'Good?', openai/gpt-4o, temperature 0, #" in shown.out
    assert [each["evaluator"] for each in document["judgements"]] == ["gpt4_judge", "contains", "no_error"]
    assert [each["score"] for each in document["judgements"]] == [None, 1.0, 1.0]
    assert document["judgements"][0]["comment"] is not None
    assert document["transcript"][-1]["state"] == "Finished"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "nothing"), "no rollout 'nothing'"),
        (("show", "{id}", "hot"), "no variant 'hot' in {id}; there is weather/cold, weather/warm"),
        (("show", "{id}", "warm", "9"), "warm has no trial 9 in {id}; there is 1, 2"),
        (("compare", "{id}"), "the offline stand-in answered: configurations are not compared"),
        (("compare", "{id}", "cold"), "compare takes two variants, or none"),
        (("aa", "{id}"), "the offline stand-in answered"),
        (("aa", "config/other.yml"), "no rollout of config/other.yml has run"),
        (("export", "{id}", "--format", "xls"), "no format 'xls'; there is csv, jsonl, html"),
    ],
)
def test_what_is_not_there_is_refused(
    here: Run, project: Project, weather: str, arguments: Sequence[str], message: str
) -> None:
    """One line that names it, and status 2."""
    project.write("config/other.yml", FILE)

    done = here("rollout", *(each.format(id=weather) for each in arguments))

    assert (done.status, done.out) == (2, "")
    assert message.format(id=weather) in done.err


def test_scores_by_other_rubrics_are_told_apart_in_a_ranking(here: Run, project: Project) -> None:
    """Two teams whose scores are no one measurement: `eval top` says by what each was judged."""
    second = FILE.replace("teams:\n  weather:", "  other:").replace("Good?", "Short?")
    project.write("config/two.yml", FILE + second)
    assert here("rollout", "start", "config/two.yml").status == 0

    ranked = here("eval", "top", "two-", "--metric", "score")

    assert "score is not the same measurement in all teams: weather: 'Good?', openai/gpt-4o, " in ranked.err
    assert "; other: 'Short?', openai/gpt-4o, " in ranked.err
    assert "not the same" not in here("eval", "top", "two-", "--metric", "no_error").err


# With scores


def test_what_may_be_concluded_is_said(here: Run, project: Project) -> None:
    """Intervals, the difference with its corrected p, and no advice where all is decided."""
    id_ = keep(project, trials({"base": 0.4, "other": 0.8}, seed=1, repeats=8), repeats=8)

    shown = here("rollout", "show", id_[:9])

    assert OFFLINE not in shown.out
    assert "is better than base." in shown.out
    assert "repeats" not in shown.out
    assert shown.out.splitlines()[-1] == f"p2engine eval top {id_} --metric score"


def test_what_would_decide_is_said_where_nothing_does(here: Run, project: Project) -> None:
    """One trial each: no winner, and the command with its price and what it finds."""
    id_ = keep(project, trials({"base": 0.1, "other": 0.9}, seed=1))

    lines = here("rollout", "show", id_).out.splitlines()

    assert "Undecided on score: one trial of a variant says nothing of chance, so no winner is named." in lines
    assert lines[-3] == f"p2engine eval top {id_} --metric score"
    assert lines[-2] == "to decide (about $0.054, detects 0.25 at 80 % power):"
    assert lines[-1].endswith("rollout start config/jokes.yml --repeats 18")


def told(status: str, *, program: str = "p2engine", why: str = "", **settings: Any) -> list[str]:
    """The lines of a report of a rollout in that state."""
    out = io.StringIO()
    rows = trials({"base": 0.4, "other": 0.41}, seed=1)
    if not settings.get("evaluations", True):
        rows = [replace(each, metrics={}, verdicts={}) for each in rows]
    budget = {"budget_usd": settings.pop("usd", None)}
    planned = replace(rollout(**settings), why=why, options=Options(**budget))
    tell_report(Output(OutputOptions(), out, program=program), report_of(planned, rows, status=status))
    return out.getvalue().splitlines()


def test_what_was_cut_off_is_gone_on_with() -> None:
    """Before anything else is advised: with more money where that was spent."""
    cut, spent, late = told("interrupted"), told("stopped", usd=0.002), told("stopped", usd=5.0)

    assert cut[0].startswith("jokes-1a2b3c: interrupted, ")
    assert cut[-1] == "p2engine rollout resume jokes-1a2b3c"
    assert spent[-1] == "p2engine rollout resume jokes-1a2b3c --budget USD"
    assert late[-1] == "p2engine rollout resume jokes-1a2b3c"
    assert not any("--repeats" in line for line in (*cut, *spent, *late))


def test_bounds_that_differ_are_shown_in_words() -> None:
    """What differs says a mapping as it is written, not as a program has it."""
    lines = told("finished", changes={"base": {"budget": {"steps": 2}}, "other": {"budget": {"steps": 9, "usd": 0.5}}})

    (line,) = [line for line in lines if line.startswith("budget ")]
    assert line.split("  ") == ["budget", "steps 2", "steps 9, usd 0.5"]


def test_the_command_that_would_decide_is_allowed_what_it_costs() -> None:
    """It raises the budget where what was allowed is less, with some room; else it leaves it alone."""
    bound, free, rich = told("finished", usd=0.01), told("finished"), told("finished", usd=5.0)

    assert bound[-2].startswith("to decide (about $0.072, ")
    assert bound[-1] == "p2engine rollout start config/jokes.yml --repeats 24 --budget 0.09"
    assert free[-1] == rich[-1] == "p2engine rollout start config/jokes.yml --repeats 24"


@pytest.mark.parametrize("status", ["finished", "interrupted", "stopped"])
def test_every_command_of_a_report_works_as_typed(status: str) -> None:
    """It begins with what this program was called by."""
    lines = told(status, program="./p2")

    assert "./p2 eval top jokes-1a2b3c --metric score" in lines
    assert lines[-1].startswith("./p2 rollout ")
    assert not any(line.startswith("p2engine ") and "python" not in line for line in lines)


def test_no_ranking_is_suggested_where_nobody_was_asked() -> None:
    """Without an evaluator and without a check there is nothing to rank by."""
    assert not any("eval top" in line for line in told("finished", evaluations=()))


def test_a_rollout_whose_process_died_is_interrupted(here: Run, project: Project) -> None:
    """`show` says what `list` says, for people and for programs, with the command that goes on."""
    id_ = keep(project, trials({"base": 0.4, "other": 0.8}, seed=1), status=None)
    with hold(project.folder / ".p2engine", id_):
        held = here("rollout", "show", id_, "--json").document["status"]

    lines = here("rollout", "show", id_).out.splitlines()
    (listed,) = here("rollout", "list", "--json").document

    assert (held, listed["status"], here("rollout", "show", id_, "--json").document["status"]) == (
        "running",
        "interrupted",
        "interrupted",
    )
    assert lines[0].startswith(f"{id_}: interrupted, ")
    assert lines[-1] == f"p2engine rollout resume {id_}"


def test_equal_repeats_are_no_promise_kept(here: Run, project: Project) -> None:
    """Where nothing could vary, `aa` says so."""
    id_ = keep(project, [row("base", n, 1.0) for n in range(1, 21)], repeats=20)

    shown = here("rollout", "aa", id_)

    assert "as promised" not in shown.out
    assert "all repeats are the same: nothing could vary, so nothing was checked" in shown.out


def test_two_variants_are_compared(here: Run, project: Project) -> None:
    """B against A; the p-value is still corrected for all variants of the team."""
    id_ = keep(project, trials({"base": 0.4, "one": 0.45, "two": 0.5}, seed=1, repeats=8), repeats=8)

    every = here("rollout", "compare", id_, "--json").document
    two = here("rollout", "compare", id_, "one", f"{TEAM}/two", "--json").document

    assert {(each["variant"], each["baseline"]) for each in every} == {("one", "base"), ("two", "base")}
    assert {(each["variant"], each["baseline"]) for each in two} == {("two", "one")}
    assert [each["metric"] for each in two] == ["score", "cost_usd", "tokens", "duration_s"]
    assert here("rollout", "compare", id_).out.splitlines()[0].split()[:4] == [
        "metric",
        "variant",
        "against",
        "difference",
    ]


@pytest.mark.parametrize("by", ["id", "file"])
def test_the_comparison_is_checked_on_halves(here: Run, project: Project, by: str) -> None:
    """How often it finds a difference where there is none, of a rollout by its id or by its file."""
    project.write("config/jokes.yml", FILE)
    id_ = keep(project, trials({"base": 0.4, "other": 0.5}, seed=1, repeats=20), repeats=20)

    rows = here("rollout", "aa", id_ if by == "id" else "config/jokes.yml", "--splits", "300", "--json").document

    assert [(each["variant"], each["splits"], each["holds"]) for each in rows] == [
        ("base", 300, True),
        ("other", 300, True),
    ]
    assert all(each["low"] <= 0.05 <= each["high"] for each in rows)


def test_of_a_file_the_newest_is_checked_that_can_be(here: Run, project: Project) -> None:
    """One with a single trial of each task is passed over in favour of an older one, and that is said; where none can
    be halved, the newest is taken, and said so.
    """
    project.write("config/jokes.yml", FILE)
    lone = keep(project, [row("base", 1, 0.5)])
    alone = here("rollout", "aa", "config/jokes.yml")
    id_ = keep(project, trials({"base": 0.4}, seed=1, repeats=20), repeats=20)
    newest = keep(project, [row("base", 1, 0.5)])

    checked = here("rollout", "aa", "config/jokes.yml")

    assert "nothing was repeated, so nothing can be halved" in alone.out
    assert alone.err == f"{lone} is the newest, and none has anything to halve\n"
    assert checked.out.startswith(f"{id_}: halves of the same variant")
    assert checked.err == f"{newest} is newer, and has nothing to halve\n"
    assert here("rollout", "aa", id_).err == ""


# Exports


def hostile(project: Project) -> str:
    """A rollout whose replies want to be run, by a browser, a terminal or a spreadsheet."""
    rows = [row(name, n, 0.5 + n / 100, reply=EVIL) for name in ("base", "<b>bold</b>") for n in range(1, 5)]
    rows[0] = replace(rows[0], reply="=cmd|' /C calc'!A0")
    return keep(project, rows, repeats=4)


def test_trials_as_csv(here: Run, project: Project) -> None:
    """A row a trial with flat columns; a text that a spreadsheet would compute does not begin as one."""
    id_ = hostile(project)

    rows = list(csv.DictReader(io.StringIO(here("rollout", "export", id_).out)))

    assert [(each["variant"], each["trial"], each["metric.score"]) for each in rows][:2] == [
        ("base", "1", "0.51"),
        ("base", "2", "0.52"),
    ]
    assert (rows[0]["reply"], rows[1]["reply"]) == ("'=cmd|' /C calc'!A0", EVIL)


def test_trials_as_json_lines(here: Run, project: Project) -> None:
    """The same rows as `show --json` has them, one a line, in ASCII."""
    id_ = hostile(project)

    done = here("rollout", "export", id_, "--format", "jsonl")

    assert done.out.isascii()
    assert done.rows == here("rollout", "show", id_, "--json").document["trials"]


@pytest.mark.parametrize("format_", ["csv", "jsonl", "html"])
def test_a_dash_is_standard_output(here: Run, project: Project, format_: str) -> None:
    """The same as without a file, and nothing else; no file is called so."""
    id_ = hostile(project)

    done = here("rollout", "export", id_, "-", "--format", format_)

    assert done == here("rollout", "export", id_, "--format", format_)
    assert (done.status, len(done.out) > 100, done.err) == (0, True, "")
    assert not (project.folder / "-").exists()


def test_a_file_is_written_as_its_name_ends(here: Run, project: Project) -> None:
    """Whole, or not at all; what there was is replaced."""
    id_ = hostile(project)
    project.write("out.html", "old")

    done = here("rollout", "export", id_, "out.html", "--json")
    folder = here("rollout", "export", id_, "config", "--format", "csv")

    text = (project.folder / "out.html").read_text()
    assert done.document == {"rollout": id_, "format": "html", "file": "out.html", "bytes": len(text.encode())}
    assert text.startswith("<!DOCTYPE html>")
    assert (folder.status, "is a folder" in folder.err) == (2, True)


def test_a_page_escapes_all_and_asks_nobody(here: Run, project: Project) -> None:
    """No element, no address and no script that is not the page's own; plots of intervals and of the front."""
    page = Page(here("rollout", "export", hostile(project), "--format", "html").out)

    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "b", "a"}
    assert not any(
        name in attributes for _, attributes in page.elements for name in ("src", "href", "onclick", "onload")
    )
    assert (page.having("intervals"), page.having("pareto"), page.having("bar"), page.having("dot")) == (1, 1, 2, 2)
    assert "<script>alert(1)</script>" in page.text
    assert "<b>bold</b>" in page.text
    assert "\x1b" not in page.text


def test_a_page_of_the_stand_in_compares_nothing(here: Run, weather: str) -> None:
    """Titled as the table is, without plots."""
    page = Page(here("rollout", "export", weather, "--format", "html").out)

    assert OFFLINE in page.text
    assert not any(tag == "svg" for tag, _ in page.elements)


@pytest.mark.browser
def test_a_page_in_a_browser(here: Run, project: Project, tmp_path: Path) -> None:
    """A real browser lays it out from the file alone: its plots are there, nothing is run, nothing is refused."""
    id_ = hostile(project)
    assert here("rollout", "export", id_, "page.html").status == 0

    seen = browsed(project.folder / "page.html", tmp_path)

    page = Page(seen.out.removeprefix("<!DOCTYPE html>"))
    assert seen.status == 0
    assert "CONSOLE" not in seen.err  # where it says what the page's own policy refused
    assert (page.having("intervals"), page.having("pareto"), page.having("mean"), page.having("front")) == (1, 1, 2, 2)
    assert not any(tag == "script" for tag, _ in page.elements)
    assert (tmp_path / "page.png").stat().st_size > 10_000  # an empty page has fewer bytes


def browsed(path: Path, folder: Path) -> Ran:
    """The page as Chromium has it after loading; and its picture, as `page.png` in that folder."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(found for name in names if (found := shutil.which(name)))
    quiet = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
    quiet += ["--disable-sync", "--disable-gpu", "--no-sandbox", "--enable-logging=stderr"]
    command = [program, "--headless", *quiet, f"--user-data-dir={folder / 'browser'}", "--window-size=1000,1600"]
    picture = subprocess.run(
        [*command, f"--screenshot={folder / 'page.png'}", path.as_uri()], capture_output=True, timeout=100, check=True
    )
    done = subprocess.run([*command, "--dump-dom", path.as_uri()], capture_output=True, timeout=100, check=False)
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode() + picture.stderr.decode())


def test_the_exports_of_a_rollout_are_json_as_well(here: Run, project: Project) -> None:
    """With --json a page is a field of a document, so that a program gets one document whatever the format."""
    document = here("rollout", "export", hostile(project), "--format", "html", "--json").document

    assert (document["format"], document["content"].startswith("<!DOCTYPE html>")) == ("html", True)
    assert json.dumps(document)

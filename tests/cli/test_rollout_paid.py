"""`rollout …` against a real server: what it costs and may cost, who is asked, and going on after interruptions."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from p2engine.domain.records import Query
from p2engine.rollouts import journal
from p2engine.testing.server import Answer, Fault, OpenAIServer, echo
from p2engine.wiring import Engine, experiments
from tests.cli.project import TIMEOUT_S, Project, Ran, Run
from tests.cli.rollouts import JUDGED, WEATHER, judge_or_echo, with_rollouts


class Turnstile:
    """A server that answers `let` requests and holds the next ones until it is opened. held: so many as `room` are."""

    def __init__(self, let: int, room: int = 1) -> None:
        self.held = threading.Event()
        self.opened = threading.Event()
        self._let = let
        self._room = room

    async def __call__(self, body: dict[str, Any]) -> Answer:
        self._let -= 1
        if self._let < 0 and not self.opened.is_set():
            if -self._let >= self._room:
                self.held.set()
            await asyncio.to_thread(self.opened.wait, TIMEOUT_S)
        return echo(body)


@pytest.fixture
def stile() -> Iterator[Turnstile]:
    """Two are let through; opened at the end, so that the server can close."""
    stile = Turnstile(2)
    yield stile
    stile.opened.set()


@pytest.fixture
def rolling(project: Project) -> Project:
    """A project with rollout files."""
    with_rollouts(project)
    return project


@pytest.fixture
def judged(rolling: Project) -> Iterator[OpenAIServer]:
    """A server that answers and judges: warm is better than cool."""
    with OpenAIServer(judge_or_echo) as server:
        rolling.configure(llm={"api_base": server.base_url})
        yield server


def ended(process: subprocess.Popen[str]) -> Ran:
    out, err = process.communicate(timeout=TIMEOUT_S)
    return Ran(process.returncode, out, err)


def test_scores_come_with_intervals_and_a_conclusion(judged: OpenAIServer, here: Run) -> None:
    """The judge's scores, their intervals, and an arm that is better by them; tokens and dollars are counted."""
    report = here("rollout", "start", "config/judged.yml", "--yes", "--repeats", "4", "--json").document
    cool, warm = report["arms"]
    assert (report["offline"], cool["metrics"]["score"]["mean"], warm["metrics"]["score"]["mean"]) == (False, 0.2, 0.9)
    assert warm["metrics"]["score"]["low"] is not None
    assert report["trials"][0]["judge_cost_usd"] > 0
    (compared,) = [each for each in report["comparisons"] if each["metric"] == "score"]
    assert compared["difference"] == pytest.approx(0.7)


def test_worse_than_a_variant_by_interval_is_exit_3(judged: OpenAIServer, here: Run) -> None:
    """cool is worse than warm; warm is not worse than cool."""
    words = ("rollout", "start", "config/judged.yml", "--yes", "--repeats", "6")
    missed = here(*words, "--fail-if-worse-than", "warm")
    assert missed.status == 3
    assert "--fail-if-worse-than warm: cool is worse in score: " in missed.err
    assert here(*words, "--fail-if-worse-than", "weather/cool", "--fail-under", "score=0.1").status == 0


def test_few_trials_are_not_called_worse(judged: OpenAIServer, here: Run) -> None:
    """Four pairs that all differ alike have an interval without width, and no test that could say so: exit 0."""
    words = ("rollout", "start", "config/judged.yml", "--yes", "--repeats", "2")
    assert here(*words, "--fail-if-worse-than", "warm").status == 0


def test_the_plan_says_what_it_costs_and_later_what_it_did_cost(
    rolling: Project, judged: OpenAIServer, here: Run
) -> None:
    """First a guess, with the usual budget; then the mean of earlier trials of the same arms."""
    plan = here("rollout", "start", "config/judged.yml", "--yes").out.splitlines()
    assert plan[3].startswith("cost: about $0.0")
    assert "(a guess by the length of prompts); no trial begins once $5.00 are spent" in plan[3]
    assert plan[4].startswith("weather: too few trials to find a difference of any size; --repeats ")
    again = here("rollout", "start", "config/judged.yml", "--budget", "0.5", "--repeats", "50", "--limit", "1")
    assert "(from earlier trials); no trial begins once $0.50 are spent" in again.out
    rolling.write("config/judged.yml", "budget: {usd: 0.25}\n" + JUDGED.replace("0.9}", "0.8}"))
    partly = here("rollout", "start", "config/judged.yml", "--yes", "--limit", "1")
    assert "(from earlier trials where there are any (1 of 2 variants)); no trial begins once $0.25" in partly.out


def test_no_trial_begins_once_the_budget_is_spent(judged: OpenAIServer, here: Run) -> None:
    """It stops with what is spent, and resume with more money goes on; trials that ended are not run again."""
    words = ("--budget", "0.000001", "--parallel", "1", "--json")
    stopped = here("rollout", "start", "config/judged.yml", *words).document
    assert (stopped["status"], len(stopped["trials"])) == ("stopped", 1)
    more = here("rollout", "resume", stopped["id"], "--budget", "1", "--json").document
    assert (more["status"], len(more["trials"])) == ("finished", 4)
    assert stopped["trials"][0] in more["trials"]


def test_a_model_without_a_price_is_said_to_have_none(rolling: Project, judged: OpenAIServer, here: Run) -> None:
    """No number is made up."""
    rolling.write("config/weather.yml", WEATHER.replace("tools: [get", "model: openai/of-my-own, tools: [get"))
    plan = here("rollout", "start", "config/weather.yml", "--yes").out.splitlines()[3]
    assert plan.startswith("cost: unknown, about ")
    assert "; no price is known of openai/of-my-own; " in plan


def test_real_and_offline_are_never_mixed(rolling: Project, judged: OpenAIServer, here: Run) -> None:
    """Refused at planning with the variants on either side; nothing is asked of anybody."""
    rolling.write("config/weather.yml", WEATHER.replace("{id: warm,", "{id: warm, model: anthropic/claude-3-opus,"))
    refused = here("rollout", "start", "config/weather.yml", "--yes")
    assert refused.status == 2
    assert "weather/warm would be answered by the stand-in, weather/cool not" in refused.err
    assert judged.requests == []


def test_a_rollout_in_which_nobody_answers_is_exit_1(rolling: Project, here: Run) -> None:
    """A trial that fails is a row with its reason; where all do, the work has failed."""
    with OpenAIServer(lambda body: Fault(status=400, message="no such model")) as server:
        rolling.configure(llm={"api_base": server.base_url})
        ran = here("rollout", "start", "config/weather.yml", "--yes", "--follow")
    assert ran.status == 1
    assert ran.err.endswith("no trial has an answer\n")
    assert len([line for line in ran.out.splitlines() if line.startswith("[") and "no such model" in line]) == 4


async def test_where_workers_ask_the_plan_counts_on_real_models(rolling: Project) -> None:
    """For workers the stand-in answers nothing unless it was asked for: then they may have keys that this has not."""
    rolling.configure(dispatch="celery", store="sqlite")
    async with Engine.open(rolling.folder, work=False) as engine:
        assert not experiments.stands_in(engine, "openai/gpt-4o")
        assert experiments.stands_in(engine, "offline/stand-in")
    rolling.configure(dispatch="celery", store="sqlite", llm={"offline": "auto"})
    async with Engine.open(rolling.folder, work=False) as engine:
        assert experiments.stands_in(engine, "openai/gpt-4o")


def test_a_person_is_asked(rolling: Project, judged: OpenAIServer) -> None:
    """No: nothing runs, exit 1. Ctrl-C: 130. Yes: it runs, in a table."""
    answers = (("n\r", "1", "nothing was run"), ("\x03", "130", "nothing was run"), ("y\r", "0", "4 of 4 trials"))
    for answer, status, shown in answers:
        terminal = rolling.terminal("rollout", "start", "config/judged.yml", "--follow", "--no-color")
        terminal.expect(r"Run it \(about \$0\.0\d+\)\? \[y/N\]")
        assert len(judged.requests) == 0
        terminal.send(answer)
        terminal.expect(shown)
        terminal.expect(rf"status={status}")
        terminal.expect(pexpect.EOF)
        terminal.close()
    assert len(judged.requests) > 0


def test_failure_30_parallel_bounds_the_trials_at_once(rolling: Project, here: Run) -> None:
    """So many are under way and no more, while nobody answers; in the end all have run."""
    stile = Turnstile(0, room=3)
    with OpenAIServer(stile) as server:
        rolling.configure(llm={"api_base": server.base_url})
        with rolling.process(
            "rollout", "start", "config/weather.yml", "--yes", "--repeats", "5", "--parallel", "3"
        ) as it:
            assert stile.held.wait(TIMEOUT_S)
            assert here("rollout", "list").status == 0  # takes longer than a trial that nothing holds back
            assert len(server.requests) == 3
            stile.opened.set()
            assert ended(it).status == 0
        assert len(server.requests) == 20


def test_failure_36_a_rollout_that_is_interrupted_goes_on(rolling: Project, here: Run, stile: Turnstile) -> None:
    """Ctrl-C: exit 130 and the command that goes on; it is listed as interrupted; what ended is not asked again."""
    with OpenAIServer(stile) as server:
        rolling.configure(llm={"api_base": server.base_url})
        words = ("rollout", "start", "config/weather.yml", "--yes", "--parallel", "1", "--follow")
        with rolling.process(*words) as process:
            assert stile.held.wait(TIMEOUT_S)
            (row,) = here("rollout", "list", "--json").document
            assert row["status"] == "running"
            process.send_signal(signal.SIGINT)
            cut = ended(process)
        (row,) = here("rollout", "list", "--json").document
        assert (cut.status, row["status"]) == (130, "interrupted")
        assert cut.err.splitlines()[-1] == f"p2engine rollout resume {row['id']} goes on"
        assert len([line for line in cut.out.splitlines() if line.startswith("[")]) == 2
        stile.opened.set()
        done = here("rollout", "resume", row["id"], "--follow")
    assert done.status == 0
    assert [line[:5] for line in done.out.splitlines() if line.startswith("[")] == ["[3/4]", "[4/4]"]
    asked = [json.dumps(request.body["messages"]) + str(request.body["seed"]) for request in server.requests]
    assert len(server.requests) == 5
    assert len(set(asked)) <= 4


async def test_nowait_prints_the_id_and_goes_on_elsewhere(rolling: Project, stile: Turnstile) -> None:
    """The id alone on standard output, at once; another process finishes it and writes a log."""
    with OpenAIServer(stile) as server:
        rolling.configure(llm={"api_base": server.base_url})
        ran = await asyncio.to_thread(rolling.run, "rollout", "start", "config/weather.yml", "--yes", "--nowait")
        (id_,) = ran.out.splitlines()
        assert ran.status == 0
        assert "cost: " in ran.err
        stile.opened.set()
        async with asyncio.timeout(TIMEOUT_S), Engine.open(rolling.folder, work=False) as engine:
            rows = await journal.rollouts(engine.world)
            async for event in engine.events(0):
                if event.kind == journal.FINISHED:
                    break
            facts = await engine.query(Query(kinds=(journal.TRIAL,)))
    assert rows[0].id == id_
    assert len(facts) == 4
    assert "[1/4]" in Path(rolling.folder / ".p2engine/rollouts" / rows[0].id / "log").read_text()


def test_what_is_added_while_it_runs_is_run_by_who_runs_it(rolling: Project, here: Run, stile: Turnstile) -> None:
    """extend says so and returns; the runner goes on with the new variant when it is through."""
    third = WEATHER.replace("    tasks:\n", "      - {id: hot, temperature: 1.5}\n    tasks:\n")
    more = str(rolling.write("more.yml", third))
    with OpenAIServer(stile) as server:
        rolling.configure(llm={"api_base": server.base_url})
        with rolling.process("rollout", "start", "config/weather.yml", "--yes", "--json") as process:
            assert stile.held.wait(TIMEOUT_S)
            (row,) = here("rollout", "list", "--json").document
            added = here("rollout", "extend", row["id"], more, "--yes")
            assert (added.status, "the process that runs it takes them up" in added.out) == (0, True)
            stile.opened.set()
            done = ended(process)
    assert sorted({each["variant"] for each in done.document["trials"]}) == ["cool", "hot", "warm"]
    assert (done.document["status"], len(done.document["trials"])) == ("finished", 6)


def test_cancel_stops_it_where_it_runs(rolling: Project, here: Run, stile: Turnstile) -> None:
    """The runner ends with exit 1 and its rows; nothing further is asked."""
    with OpenAIServer(stile) as server:
        rolling.configure(llm={"api_base": server.base_url})
        with rolling.process("rollout", "start", "config/weather.yml", "--yes", "--parallel", "1") as process:
            assert stile.held.wait(TIMEOUT_S)
            (row,) = here("rollout", "list", "--json").document
            assert here("rollout", "cancel", row["id"]).out == f"cancelled {row['id']}\n"
            done = ended(process)
        assert len(server.requests) == 3
    assert done.status == 1
    assert f"{row['id']}: cancelled" in done.out
    (row,) = here("rollout", "list", "--json").document
    assert row["status"] == "cancelled"


def test_cancel_ends_what_nobody_runs_any_more(rolling: Project, here: Run, stile: Turnstile) -> None:
    """After kill -9: the trial that was under way is ended too, so that no later command pays for it."""
    with OpenAIServer(stile) as server:
        rolling.configure(llm={"api_base": server.base_url})
        with rolling.process("rollout", "start", "config/weather.yml", "--yes", "--parallel", "1") as process:
            assert stile.held.wait(TIMEOUT_S)
            process.kill()
            process.communicate()
        (row,) = here("rollout", "list", "--json").document
        assert row["status"] == "interrupted"
        assert here("rollout", "cancel", row["id"]).status == 0
        statuses = [each["status"] for each in here("conversation", "list", "--all", "--json").document]
        assert statuses == ["cancelled", "finished", "finished"]
        unasked = here("rollout", "resume", row["id"])
        assert (unasked.status, "--yes" in unasked.err) == (2, True)
        stile.opened.set()
        done = here("rollout", "resume", row["id"], "--yes", "--json").document
    assert [each["status"] for each in done["trials"]] == ["done"] * 4
    assert [each["conversation"][-2:] for each in done["trials"] if "~" in each["conversation"]] == ["~2"]

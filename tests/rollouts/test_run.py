"""Running a rollout: every trial once, whoever dies; failures are rows; budgets, time-outs and a word to stop hold."""

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from p2engine.domain.decisions import Decision, Say
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId
from p2engine.domain.messages import Usage
from p2engine.domain.records import Batch, Event, Query, Written
from p2engine.domain.setup import Budget
from p2engine.domain.verdicts import Subject
from p2engine.errors import StoreError, UsageError
from p2engine.ports import AgentView
from p2engine.rollouts import journal, trial
from p2engine.rollouts.columns import Columns
from p2engine.rollouts.journal import Options, Rollout
from p2engine.rollouts.results import TrialResult, metric_names
from p2engine.rollouts.run import Runner
from p2engine.rollouts.spec import Spec, Task, Team, Variant, sealed
from p2engine.rollouts.trial import cut_off
from p2engine.runtime.engine import Engine
from p2engine.testing.doubles import FunctionJudges
from tests.runtime.conftest import Stage

NICE = Evaluation(evaluator="nice", params={"metric": "score"})


@pytest.fixture
async def stage(tmp_path: Any) -> AsyncIterator[Stage]:
    stage = await Stage.open(tmp_path / "store.db")
    yield stage
    await stage.aclose()


class Cast:
    """Agents and an evaluator that count what they were asked; `gate` holds every answer back until it is set."""

    def __init__(self) -> None:
        self.said: Counter[str] = Counter()
        self.seeds: list[tuple[str, int | None]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.judges = FunctionJudges({"nice": self._nice})
        self.at_once = self.most = 0

    async def alpha(self, view: AgentView) -> Decision:
        text = view.fragments[-1].message.text
        self.said[text] += 1
        self.seeds.append((text, view.setup.seed))
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await self.gate.wait()
        finally:
            self.at_once -= 1
        if "fall" in text:
            raise RuntimeError("fallen")
        return Decision((Say(f"heard {text}"),), Usage(model="m", tokens_in=10, tokens_out=5, cost_usd=0.25))

    async def _nice(self, subject: Subject) -> float:
        return 1.0 if "good" in subject.answer else 0.5

    def engine(self, stage: Stage) -> Engine:
        engine = stage.engine({"alpha": self.alpha})
        engine.world.judges = self.judges
        return engine


def spec(*messages: str, repeats: int = 2, **more: Any) -> Spec:
    """A team with a variant for each message."""
    variants = tuple(Variant(id=f"v{n}", agent=AgentId("alpha"), message=text) for n, text in enumerate(messages, 1))
    of_team = {key: more.pop(key) for key in ("tasks", "timeout_s", "depends_on") if key in more}
    team = Team(id="team", variants=variants, evaluations=(NICE,), repeats=repeats, **of_team)
    return sealed(Spec(name="demo", teams=(team,), **more))


async def run(engine: Engine, rollout: Rollout, told: Callable[[TrialResult], None] | None = None) -> Runner:
    runner = Runner(engine, rollout, on_result=told)
    runner.rollout = await runner.run()
    return runner


async def test_every_trial_is_a_conversation_with_a_verdict_and_a_row(stage: Stage) -> None:
    """Two variants, two repeats: four conversations of one group, each judged once, each with its row in the log."""
    cast = Cast()
    engine = cast.engine(stage)
    rollout = await journal.start(engine.world, spec("a good one", "another"), Options(), {})
    runner = await run(engine, rollout)
    assert runner.rollout.status == "finished"
    rows = {row.key: row for row in await journal.results(engine.world, rollout)}
    assert rows == runner.results
    assert {key: row.metrics for key, row in rows.items()} == {
        "team/v1/1": {"score": 1.0},
        "team/v1/2": {"score": 1.0},
        "team/v2/1": {"score": 0.5},
        "team/v2/2": {"score": 0.5},
    }
    assert cast.judges.asked == {"nice": 4}
    row = rows["team/v1/2"]
    assert (row.status, row.reply, row.spent.usd, row.steps, row.models) == (
        "done",
        "heard a good one",
        0.25,
        1,
        ("m",),
    )
    assert row.conversation == f"{rollout.id}/team/v1/2"
    groups = {record.group for record in await engine.conversations()}
    assert groups == {rollout.id}


async def test_a_trial_is_five_commits(stage: Stage) -> None:
    """Opened, told, answered, judged, written down: nothing is written between them."""
    cast = Cast()
    engine = cast.engine(stage)
    rollout = await journal.start(engine.world, spec("a good one", repeats=1), Options(), {})
    writes, write = 0, stage.store.write

    async def counted(batch: Batch) -> Written:
        nonlocal writes
        writes += 1
        return await write(batch)

    stage.store.write = counted  # type: ignore[method-assign]
    runner = Runner(engine, rollout)
    await runner.run()
    assert [row.status for row in runner.results.values()] == ["done"]
    assert writes == 5 + 1  # and that the rollout is over


async def test_a_trial_without_the_time_to_begin_is_a_row_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a store is so slow that the time is over before anything was said, no verdict is waited for."""

    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(trial, "begin", never)
    engine = Cast().engine(stage)
    rollout = await journal.start(engine.world, spec("a good one", repeats=1, timeout_s=0.001), Options(), {})
    (row,) = (await run(engine, rollout)).results.values()
    assert (row.status, row.detail, row.steps) == ("error", "it has not ended", 0)


async def test_the_time_of_a_trial_that_was_left_alone_is_not_known(stage: Stage) -> None:
    """Nobody ran it for a while, which is no latency of its variant; the others have theirs."""
    cast = Cast()
    engine = cast.engine(stage)
    rollout = await journal.start(engine.world, spec("a good one"), Options(), {})
    await engine.conversation(f"{rollout.id}/team/v1/1", agent="alpha", group=rollout.id)
    stage.clock.time += 3600
    rows = (await run(engine, rollout)).results
    assert {key: row.resumed for key, row in rows.items()} == {"team/v1/1": True, "team/v1/2": False}
    assert Columns(list(rows.values())).measure("duration_s").trials == [2]


async def test_two_judges_that_are_the_same_are_two_samples(stage: Stage) -> None:
    """In every repeat of a trial, whatever their scores are called; so that they can be seen to differ."""
    cast = Cast()
    engine = cast.engine(stage)
    seen = []

    async def nice(subject: Subject) -> float:
        seen.append(subject.repeat)
        return 0.5

    cast.judges.evaluators["nice"] = nice
    (team,) = spec("a good one").teams
    twice = replace(team, evaluations=(NICE, replace(NICE, params={"metric": "charm"}, repeats=2)))
    rollout = await journal.start(engine.world, sealed(Spec(name="demo", teams=(twice,))), Options(), {})
    await run(engine, rollout)
    assert sorted(seen) == [0, 1, 2, 3, 4, 5]


async def test_a_trial_that_is_told_nothing_is_a_row_with_its_reason(stage: Stage) -> None:
    """A template that fills to nothing asks nobody."""
    cast = Cast()
    engine = cast.engine(stage)
    rollout = await journal.start(engine.world, spec(" {% if false %}go{% endif %}\n"), Options(), {})
    (row, _) = (await run(engine, rollout)).results.values()
    assert (row.status, row.detail) == ("error", "the message is empty")
    assert not cast.said


@pytest.mark.parametrize("collects", [True, False])
async def test_reading_rows_leaves_the_garbage_collector_as_it_was(collects: bool, stage: Stage) -> None:
    """Rows are read without it; afterwards it is on where it was on, also where the log cannot be read."""
    engine = Cast().engine(stage)
    rollout = await journal.start(engine.world, spec("a good one"), Options(), {})
    seen: list[bool] = []

    async def events(query: Query) -> list[Event]:
        seen.append(gc.isenabled())
        raise StoreError("the log is away")

    (gc.enable if collects else gc.disable)()
    try:
        assert await journal.results(engine.world, rollout) == []
        assert gc.isenabled() is collects
        stage.store.events = events  # type: ignore[method-assign]
        with pytest.raises(StoreError):
            await journal.results(engine.world, rollout)
        assert (gc.isenabled(), seen) == (collects, [False])
    finally:
        gc.enable()


async def test_variants_are_paired(stage: Stage) -> None:
    """Trial r of every variant has the same task and the same seed; other repeats have other seeds."""
    cast = Cast()
    engine = cast.engine(stage)
    tasks = (Task(id="p", values={"city": "Paris"}), Task(id="t", values={"city": "Tokyo"}))
    await run(engine, await journal.start(engine.world, spec("{{ city }}!", "{{ city }}?", tasks=tasks), Options(), {}))
    by_city: dict[str, list[set[int | None]]] = {}
    for city in ("Paris", "Tokyo"):
        by_city[city] = [{seed for text, seed in cast.seeds if text == f"{city}{mark}"} for mark in "!?"]
        assert by_city[city][0] == by_city[city][1]
        assert len(by_city[city][0]) == 2
    assert by_city["Paris"][0].isdisjoint(by_city["Tokyo"][0])


async def test_failure_08_a_trial_that_fails_is_a_row_and_the_others_go_on(stage: Stage) -> None:
    """An agent that raises, an unknown name in a message, an agent that is gone: rows with their reason."""
    cast = Cast()
    engine = cast.engine(stage)
    plan = spec("fall down", "{{ nobody }}", "fine", repeats=1)
    lost = Variant(id="lost", agent=AgentId("gone"), message="hello")
    team = Team(id="other", variants=(lost,), repeats=1)
    plan = sealed(Spec(name="demo", teams=(*plan.teams, team)))
    runner = await run(engine, await journal.start(engine.world, plan, Options(), {}))
    assert {key: row.status for key, row in runner.results.items()} == {
        "team/v1/1": "error",
        "team/v2/1": "error",
        "team/v3/1": "done",
        "other/lost/1": "error",
    }
    details = {key: row.detail for key, row in runner.results.items()}
    assert details["team/v1/1"] == "RuntimeError: fallen"
    assert "nobody" in details["team/v2/1"]
    assert "gone" in details["other/lost/1"]


@pytest.mark.parametrize("by_budget", [False, True])
async def test_a_trial_that_takes_too_long_is_ended_and_not_judged(stage: Stage, by_budget: bool) -> None:
    """Its row says that it timed out; nothing of it runs on. Time in a trial's budget ends it as `timeout_sec` does."""
    cast = Cast()
    cast.gate.clear()
    engine = cast.engine(stage)
    slow = spec("slow", repeats=1, timeout_s=9.0 if by_budget else 0.01)
    if by_budget:
        (team,) = slow.teams
        variants = (replace(team.variants[0], changes={"budget": {"seconds": 0.01}}),)
        slow = sealed(replace(slow, teams=(replace(team, variants=variants),)))
    rollout = await journal.start(engine.world, slow, Options(), {})
    runner = await run(engine, rollout)
    row = runner.results["team/v1/1"]
    assert (row.status, row.metrics) == ("timeout", {"score": None})
    assert row.detail == "the trial took longer than 0.01 s"
    assert await stage.owed(await engine.conversation(row.conversation)) == []


async def test_so_many_at_once_and_no_more(stage: Stage) -> None:
    """`parallel` bounds what is asked at the same time."""
    cast = Cast()
    cast.gate.clear()
    engine = cast.engine(stage)
    rollout = await journal.start(engine.world, spec("a", "b", repeats=4), Options(parallel=3), {})
    running = asyncio.ensure_future(run(engine, rollout))
    while cast.at_once < 3:
        await asyncio.sleep(0)
    cast.gate.set()
    runner = await running
    assert (len(runner.results), cast.most) == (8, 3)


@pytest.mark.parametrize("named", [{"model": "scripted/function"}, {}])
async def test_a_provider_is_asked_by_so_many_at_once(named: dict[str, str], stage: Stage) -> None:
    """Also where it is the agent, not the variant, that names its model."""
    cast = Cast()
    cast.gate.clear()
    engine = cast.engine(stage)
    plan = spec("a", "b", repeats=3, providers={"scripted": 2})
    arms = tuple(msgspec.structs.replace(each, changes=named) for each in plan.teams[0].variants)
    plan = msgspec.structs.replace(plan, teams=(msgspec.structs.replace(plan.teams[0], variants=arms),))
    running = asyncio.ensure_future(run(engine, await journal.start(engine.world, plan, Options(parallel=6), {})))
    while cast.at_once < 2:
        await asyncio.sleep(0)
    for _ in range(1000):  # whoever else would begin, begins
        await asyncio.sleep(0)
    cast.gate.set()
    runner = await running
    assert (len(runner.results), cast.most) == (6, 2)


async def test_the_whole_has_a_budget(stage: Stage) -> None:
    """Once it is spent no further trial begins; what ran is kept, and a larger budget goes on from there."""
    cast = Cast()
    engine = cast.engine(stage)
    plan = spec("a", "b", repeats=3, budget=Budget(usd=0.5))
    rollout = await journal.start(engine.world, plan, Options(parallel=1), {})
    runner = await run(engine, rollout)
    assert (runner.rollout.status, len(runner.results)) == ("stopped", 2)
    assert runner.rollout.why == "the money is spent: $0.5000"
    again = await run(engine, await journal.extend(engine.world, runner.rollout, plan, Options(budget_usd=5.0)))
    assert (again.rollout.status, len(again.results)) == ("finished", 6)
    assert set(cast.said.values()) == {3}


async def test_what_runs_is_counted_before_more_begins(stage: Stage) -> None:
    """With several at once, no trial begins whose like, with those that run, would spend more than is left."""
    cast = Cast()
    engine = cast.engine(stage)
    plan = spec("a", "b", repeats=5, budget=Budget(usd=1.0))
    runner = await run(engine, await journal.start(engine.world, plan, Options(parallel=2), {}))
    assert (runner.rollout.status, len(runner.results), runner.spent.usd) == ("stopped", 4, 1.0)


async def test_failure_06_whoever_runs_it_may_die(stage: Stage) -> None:
    """Killed in the middle, gone on with by another process: nothing that had ended is asked or judged again."""
    cast = Cast()
    first = cast.engine(stage)
    rollout = await journal.start(first.world, spec("a", "b", repeats=3), Options(parallel=2), {})
    ended: list[str] = []

    def told(row: TrialResult) -> None:
        ended.append(row.key)
        if len(ended) == 3:
            cast.gate.clear()

    running = asyncio.ensure_future(run(first, rollout, told))
    while len(ended) < 3 or not cast.at_once:
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await stage.kill(first)
    before, judged = Counter(cast.said), cast.judges.asked["nice"]
    cast.gate.set()
    second = cast.engine(stage)
    await second.start()
    runner = await run(second, await journal.find(second.world, rollout.id[:6]))
    assert len(runner.results) == 6
    assert sum(cast.said.values()) <= 6 + 2  # what was in flight is asked again
    assert sum(before.values()) <= sum(cast.said.values())
    assert cast.judges.asked["nice"] <= judged + 4
    rows = await stage.events(journal.TRIAL)
    assert Counter(event.id for event in rows) == {f"{rollout.id}/{key}": 1 for key in runner.results}


async def test_a_word_to_stop_ends_it(stage: Stage) -> None:
    """Cancelled from elsewhere: trials in flight end, none begins, what had ended stays."""
    cast = Cast()
    engine = cast.engine(stage)
    rollout = await journal.start(engine.world, spec("a", "b", repeats=5), Options(parallel=1), {})
    ended = asyncio.Event()

    def told(row: TrialResult) -> None:
        cast.gate.clear()
        ended.set()

    running = asyncio.ensure_future(run(engine, rollout, told))
    await ended.wait()
    while not cast.at_once:
        await asyncio.sleep(0)
    await journal.end(engine.world, rollout, "cancelled", "cancelled by the user")
    runner = await running
    assert (runner.rollout.status, len(runner.results)) == ("cancelled", 1)
    assert (await journal.find(engine.world, rollout.id)).status == "cancelled"


async def test_what_a_cancellation_cut_off_is_run_again(stage: Stage) -> None:
    """Gone on with after it was cancelled, twice: each trial has its own end, in a conversation of its own."""
    cast = Cast()
    engine = cast.engine(stage)
    cast.gate.clear()
    rollout = await journal.start(engine.world, spec("a", "b", repeats=1), Options(parallel=2), {})
    for _ in range(2):
        running = asyncio.ensure_future(run(engine, rollout))
        while cast.at_once < 2:
            await asyncio.sleep(0)
        await journal.end(engine.world, rollout, "cancelled", "cancelled by the user")
        assert (await running).results == {}
        while cast.at_once:
            await asyncio.sleep(0)
    cast.gate.set()
    runner = await run(engine, rollout)
    assert runner.spent.usd == 2 * 0.25  # nothing was answered before
    names = {row.conversation: row.status for row in runner.results.values()}
    assert names == {f"{rollout.id}/team/v1/1~3": "done", f"{rollout.id}/team/v2/1~3": "done"}
    assert runner.rollout.status == "finished"
    assert len(await engine.conversations()) == 6


async def test_what_an_attempt_cost_that_was_cut_off_is_spent(stage: Stage) -> None:
    """It counts for the budget of the whole, and not for the trial that took its place."""
    cast = Cast()
    engine = cast.engine(stage)
    rollout = await journal.start(engine.world, spec("a", repeats=1), Options(), {})
    first = await engine.conversation(f"{rollout.id}/team/v1/1", agent="alpha", group=rollout.id)
    await first.say("as far as it came")
    cast.gate.clear()
    asked = asyncio.ensure_future(first.say("and on"))
    while not cast.at_once:
        await asyncio.sleep(0)
    await cut_off(engine, first.name)
    await asked
    cast.gate.set()
    runner = await run(engine, rollout)
    (row,) = runner.results.values()
    assert (row.cost.usd, row.lost.usd, runner.spent.usd) == (0.25, 0.25, 0.5)


async def test_one_trial_that_is_cancelled_by_itself_stays_so(stage: Stage) -> None:
    """Ended by a person who looked at it: that is its row, and going on does not run it again."""
    cast = Cast()
    engine = cast.engine(stage)
    cast.gate.clear()
    rollout = await journal.start(engine.world, spec("a", repeats=1), Options(), {})
    running = asyncio.ensure_future(run(engine, rollout))
    while not cast.at_once:
        await asyncio.sleep(0)
    await (await engine.conversation(f"{rollout.id}/team/v1/1")).cancel()
    await running
    cast.gate.set()
    runner = await run(engine, rollout)
    assert [(row.status, row.conversation) for row in runner.results.values()] == [
        ("cancelled", f"{rollout.id}/team/v1/1")
    ]


async def test_who_goes_on_with_a_cancelled_one_can_cancel_it_again(stage: Stage) -> None:
    """Taken up by a process it is running, whatever it was before."""
    engine = Cast().engine(stage)
    rollout = await journal.start(engine.world, spec("a"), Options(), {})
    await journal.end(engine.world, rollout, "cancelled", "cancelled by the user")
    await journal.take(engine.world, rollout, "here")
    found = await journal.find(engine.world, rollout.id)
    assert (found.status, found.why, found.ended_at) == ("running", "", None)


async def test_a_later_team_hears_of_an_earlier_one(stage: Stage) -> None:
    """`depends_on`: its message may say what came of the other team, verdicts included."""
    cast = Cast()
    engine = cast.engine(stage)
    first = spec("a good one", "another", repeats=1).teams[0]
    text = "pay {{ teams.team.leaders[0].agent }} for {{ teams.team.leaders[0].reply }}"
    payer = Team(
        id="payer", variants=(Variant(id="v1", agent=AgentId("alpha"), message=text),), depends_on=("team",), repeats=1
    )
    plan = sealed(Spec(name="demo", teams=(payer, first)))
    runner = await run(engine, await journal.start(engine.world, plan, Options(), {}))
    assert runner.results["payer/v1/1"].reply == "heard pay alpha for heard a good one"


async def test_several_rollouts_run_at_once(stage: Stage) -> None:
    """Each has rows of its own, and a prefix that two ids share is ambiguous."""
    cast = Cast()
    engine = cast.engine(stage)
    plan = spec("a", "b")
    one, two = [await journal.start(engine.world, plan, Options(), {}) for _ in range(2)]
    runners = await asyncio.gather(run(engine, one), run(engine, two))
    assert [len(runner.results) for runner in runners] == [4, 4]
    assert sum(cast.said.values()) == 8
    with pytest.raises(UsageError, match="ambiguous"):
        await journal.find(engine.world, "demo-")
    with pytest.raises(UsageError, match="no rollout"):
        await journal.find(engine.world, "nothing")


def test_metrics_of_one_name_are_told_apart() -> None:
    """Two checks of one kind, and a judge whose score is called by its metric."""
    of = [NICE, Evaluation(evaluator="contains"), Evaluation(evaluator="contains"), Evaluation(evaluator="no_error")]
    assert metric_names(of) == ["score", "contains", "contains_2", "no_error"]
    calls = [Evaluation(evaluator="tool_called", params={"value": tool}) for tool in ("delegate", "get_weather")]
    assert metric_names(calls) == ["tool_called(delegate)", "tool_called(get_weather)"]
    assert metric_names(calls[:1]) == ["tool_called"]
    wallets = [Evaluation(evaluator="balance", params={"agent": name, "amount": 5}) for name in ("beta", "child")]
    assert metric_names(wallets) == ["balance(beta)", "balance(child)"]

"""Verdicts: owed with the turn, written once whatever dies, caused by what they judge, and waited for by nobody."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from p2engine.domain.decisions import Delegate, UseTool
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId
from p2engine.domain.money import MAIN_BOOK, AccountName, Amount, BookId, Opening
from p2engine.domain.records import Batch, Event, Fact
from p2engine.domain.setup import Spent
from p2engine.domain.states import AssistantMessage, Finished
from p2engine.domain.verdicts import Subject
from p2engine.errors import UsageError
from p2engine.evals.function import Declared
from p2engine.evals.running import Evaluators
from p2engine.ledgers.embedded import EmbeddedLedger
from p2engine.limits import RELEASES_MAX
from p2engine.ports import ToolContext
from p2engine.runtime.conversation import Conversation
from p2engine.runtime.engine import Engine
from p2engine.runtime.judging import VERDICT, judge_now
from p2engine.runtime.promotion import PROMOTED, promote
from p2engine.testing.doubles import FunctionJudges
from tests.evals.subjects import judges
from tests.runtime.conftest import Gate, Script, Stage, Waiting, ref_of, states_of, until


class Judge:
    """An evaluator double: keeps what it was shown, gives its scores in turn, and can be held up."""

    def __init__(self, *scores: float | None) -> None:
        self.scores = scores or (0.5,)
        self.seen: list[Subject] = []
        self.gate: Gate | None = None

    async def __call__(self, subject: Subject) -> float | None:
        self.seen.append(subject)
        if self.gate is not None:
            await self.gate.pass_through()
        return self.scores[min(len(self.seen), len(self.scores)) - 1]


async def look(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
    return "it is there"


def engine_of(stage: Stage, script: Script, judge: Judge | None, **options: Any) -> Engine:
    engine = stage.engine({"boss": script, "ann": Script("from ann")}, {"look": look}, **options)
    engine.world.judges = FunctionJudges({} if judge is None else {"good": judge})
    return engine


async def judged_by(engine: Engine, *evaluations: Evaluation) -> Conversation:
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.override({"evaluations": list(evaluations)})
    return conversation


async def verdicts(stage: Stage, count: int) -> Sequence[Event]:
    """The verdicts, once there are so many; and no effect is owed any more."""

    async def there() -> bool:
        return len(await stage.events(VERDICT)) >= count

    await until(there)
    return await stage.events(VERDICT)


async def test_a_turn_is_judged_at_its_end_and_answered_before(stage: Stage) -> None:
    """The answer does not wait for the verdict, which is caused by it and names it."""
    judge = Judge(0.8)
    judge.gate = Gate()
    engine = engine_of(stage, Script([UseTool("look")], "here it is"), judge)
    conversation = await judged_by(engine, Evaluation(evaluator="good", params={"rubric": "strict"}))
    reply = await conversation.say("where is it?")
    assert (reply.text, reply.finished) == ("here it is", "answered")
    assert await stage.events(VERDICT) == []
    judge.gate.open.set()
    (event,) = await verdicts(stage, 1)

    states = await states_of(conversation)
    (place,) = [n for n, state in enumerate(states) if isinstance(state, AssistantMessage)]
    assert event.cause == event.body["subject"] == f"{await ref_of(conversation)}:{place}"
    assert (event.body["evaluator"], event.body["score"]) == ("good", 0.8)
    (seen,) = judge.seen
    assert (seen.answer, seen.reason, seen.params) == ("here it is", "answered", {"rubric": "strict"})
    assert [line.kind for line in seen.transcript] == ["user", "call", "result", "assistant"]
    assert await stage.owed(conversation) == []


async def test_what_the_turn_took_is_shown(stage: Stage) -> None:
    """Steps, tokens and cost of the turn up to there, delegates included: what the reply says of the whole of it."""
    judge = Judge(0.5)
    engine = engine_of(stage, Script([UseTool("look")], [Delegate(AgentId("ann"), "look too")], "there"), judge)
    conversation = await judged_by(engine, Evaluation(evaluator="good"))
    reply = await conversation.say("where is it?")
    await verdicts(stage, 1)
    (seen,) = judge.seen
    assert (seen.spent.tokens_in, seen.spent.tokens_out) == (reply.tokens_in, reply.tokens_out) == (40, 20)
    assert seen.spent.steps == 6  # three replies, what the tool said, ann's reply, and what she said


async def test_every_step_is_judged_where_that_is_asked_for(stage: Stage) -> None:
    """Each outcome that came back, by itself: the call, the result, the answer; and then the end."""
    judge = Judge(0.1, 0.2, 0.3, 0.4)
    engine = engine_of(stage, Script([UseTool("look")], "here it is"), judge)
    step, end = Evaluation(evaluator="good", when="step"), Evaluation(evaluator="good")
    conversation = await judged_by(engine, step, end)
    await conversation.say("where is it?")
    events = await verdicts(stage, 4)
    kinds = sorted([line.kind for line in seen.transcript][-1] for seen in judge.seen)
    assert kinds == ["assistant", "assistant", "call", "result"]
    assert sum(seen.reason == "answered" for seen in judge.seen) == 1
    assert len({event.id for event in events}) == 4
    assert await stage.owed(conversation) == []


@pytest.mark.parametrize("when", ["finish", "step"])
async def test_a_verdict_is_written_once_though_its_process_dies(stage: Stage, when: Any) -> None:
    """It dies while it judges; whoever comes next judges again, and one verdict stands."""
    slow, quick = Judge(0.3), Judge(0.7)
    slow.gate = Gate()
    one = engine_of(stage, Script("done"), slow)
    conversation = await judged_by(one, Evaluation(evaluator="good", when=when))
    await conversation.say("go")
    await slow.gate.reached.wait()
    await stage.kill(one)
    assert await stage.events(VERDICT) == []

    two = engine_of(stage, Script("never asked"), quick)
    assert await two.sweeper.sweep()
    (event,) = await verdicts(stage, 1)
    assert event.body["score"] == 0.7
    again = await two.conversation("demo")
    assert await stage.owed(again) == []
    three = engine_of(stage, Script("never asked"), Judge(0.9))
    assert not await three.sweeper.sweep()
    assert len(await stage.events(VERDICT)) == 1


async def test_a_job_that_comes_twice_judges_once(stage: Stage) -> None:
    """A queue may repeat a job; the second finds nothing to do."""
    judge = Judge()
    engine = engine_of(stage, Script("done"), judge, dispatch=Waiting)
    conversation = await judged_by(engine, Evaluation(evaluator="good"))

    saying = asyncio.ensure_future(conversation.say("go"))
    jobs = engine.world.dispatcher
    assert isinstance(jobs, Waiting)

    async def asked() -> bool:
        return bool(jobs.jobs)

    await until(asked)
    await jobs.do("think")
    await saying
    jobs.jobs += jobs.jobs
    await jobs.do_all()
    assert (len(judge.seen), len(await stage.events(VERDICT))) == (1, 1)


async def test_a_turn_that_failed_is_judged_and_a_cancelled_one_is_not(stage: Stage) -> None:
    """The evaluator is told how it ended; nobody judges what a person stopped."""
    judge = Judge(0.0)

    async def broken(view: Any) -> str:
        raise RuntimeError("no brain")

    engine = stage.engine({"boss": broken})
    engine.world.judges = FunctionJudges({"good": judge})
    conversation = await judged_by(engine, Evaluation(evaluator="good"))
    await conversation.say("go")
    await verdicts(stage, 1)
    assert (judge.seen[0].reason, judge.seen[0].answer) == ("error", "")

    gate = Gate()

    async def waits(view: Any) -> str:
        await gate.pass_through()
        return "late"

    import asyncio

    other = stage.engine({"boss": waits})
    other.world.judges = FunctionJudges({"good": judge})
    stopped = await other.conversation("stopped", agent="boss")
    await stopped.override({"evaluations": [Evaluation(evaluator="good")]})
    saying = asyncio.ensure_future(stopped.say("go"))
    await gate.reached.wait()
    assert await stopped.cancel()
    await saying
    states = await states_of(stopped)
    assert isinstance(states[-1], Finished)
    assert len(await stage.events(VERDICT)) == 1
    assert await stage.owed(stopped) == []


async def test_an_evaluator_that_is_not_loaded_ends_as_an_error(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """It is given back for somebody who has it; where this process does everything, it is given up after a while."""
    engine = engine_of(stage, Script("done"), None)
    conversation = await judged_by(engine, Evaluation(evaluator="good"))
    with caplog.at_level(logging.WARNING):
        await conversation.say("go")
        for _ in range(RELEASES_MAX + 1):
            await engine.sweeper.sweep()

            async def idle() -> bool:
                return not engine.world.busy and not engine.world.born

            await until(idle)
    (event,) = await verdicts(stage, 1)
    assert (event.body["status"], event.body.get("score")) == ("error", None)
    assert "has evaluator 'good' loaded" in event.body["comment"]
    assert "waits for a process that has evaluator 'good'" in caplog.text


async def test_real_evaluators_judge_a_turn(stage: Stage) -> None:
    """A check, a function that raises and one that answers 7: each has its verdict, the conversation its answer."""

    def seven(subject: Subject) -> float:
        return 7

    def broken(subject: Subject) -> float:
        raise ValueError("no idea")

    engine = stage.engine({"boss": Script("It is 22 °C in Paris.")})
    engine.world.judges = judges(
        None, Declared(seven, id="seven", version="1"), Declared(broken, id="broken", version="1")
    )
    assert isinstance(engine.world.judges, Evaluators)
    check = Evaluation(evaluator="contains", params={"value": "Paris"})
    conversation = await judged_by(engine, check, Evaluation(evaluator="seven"), Evaluation(evaluator="broken"))
    assert (await conversation.say("go")).finished == "answered"
    found = {event.body["evaluator"]: event.body for event in await verdicts(stage, 3)}
    assert found["contains"]["score"] == 1.0
    assert {found[name]["status"] for name in ("seven", "broken")} == {"error"}
    assert found["broken"]["comment"] == "ValueError: no idea"


async def test_a_delegate_is_judged_by_its_own_setup(stage: Stage) -> None:
    """What judges the one who delegates does not judge the delegate."""
    judge = Judge()
    engine = engine_of(stage, Script([Delegate(AgentId("ann"), "help")], "done"), judge)
    conversation = await judged_by(engine, Evaluation(evaluator="good"))
    await conversation.say("go")
    await verdicts(stage, 1)
    (seen,) = judge.seen
    assert (seen.agent, seen.transcript[1].name, seen.transcript[2].text) == ("boss", "delegate", "from ann")


async def test_the_same_is_not_judged_twice_by_hand(stage: Stage) -> None:
    """Asked again the known verdict is given; `again`, other params and another answer are judged anew."""
    judge = Judge(0.1, 0.2, 0.3, 0.4)
    engine = engine_of(stage, Script("one", "two"), judge)
    conversation = await engine.conversation("demo", agent="boss")
    ref, good = await ref_of(conversation), Evaluation(evaluator="good")
    with pytest.raises(UsageError, match="no answer to judge"):
        await judge_now(engine.world, ref, good)
    await conversation.say("go")
    first, known = await judge_now(engine.world, ref, good)
    assert (first.score, known) == (0.1, False)
    assert await judge_now(engine.world, ref, good) == (first, True)
    assert (await judge_now(engine.world, ref, good, again=True))[0].score == 0.2
    assert (await judge_now(engine.world, ref, Evaluation(evaluator="good", params={"n": 1})))[0].score == 0.3
    await conversation.say("on")
    assert (await judge_now(engine.world, ref, good))[0].score == 0.4
    assert len(await stage.events(VERDICT)) == 4


async def test_the_same_content_is_not_judged_twice(stage: Stage) -> None:
    """By what it is and not by where it stands: the same words on another branch have the verdict, which costs nothing,
    and so has what was judged because it was owed."""
    judge = Judge(0.1, 0.2)
    engine = engine_of(stage, Script("one"), judge)
    good = Evaluation(evaluator="good")
    conversation = await judged_by(engine, good)
    await conversation.say("go")
    (owed,) = await verdicts(stage, 1)
    there = await ref_of(conversation)
    assert (await judge_now(engine.world, there, good))[1]
    await conversation.rewind(0)
    await conversation.override({"evaluations": []})
    await conversation.say("go")
    here = await ref_of(conversation)
    again, known = await judge_now(engine.world, here, good)
    assert (here != there, again.score, known, again.spent) == (True, 0.1, True, Spent())
    assert again.subject.startswith(here)
    assert len(judge.seen) == 1
    assert [event.cause for event in await stage.events(VERDICT)] == [owed.cause, again.subject]


def judged_by_model(stage: Stage, judge: Judge) -> Engine:
    """An engine whose agent says the same each time, and whose judge counts as a model."""
    engine = engine_of(stage, Script(*["one"] * 9), None)
    engine.world.judges = FunctionJudges({"good": judge}, models=("good",))
    return engine


async def owed_again(engine: Engine, name: str, evaluation: Evaluation) -> None:
    """The same words in another conversation, judged by this."""
    conversation = await engine.conversation(name, agent="boss")
    await conversation.override({"evaluations": [evaluation]})
    await conversation.say("go")


@pytest.mark.parametrize(("models", "asked"), [(("good",), 1), ((), 2)])
async def test_what_is_owed_of_the_same_is_asked_of_a_model_once(stage: Stage, models: Any, asked: int) -> None:
    """In any conversation; the verdict says on what it was judged and costs nothing. Whoever is no model looks anew."""
    judge = Judge(0.1, 0.2)
    engine = engine_of(stage, Script("one", "one"), None)
    engine.world.judges = FunctionJudges({"good": judge}, models=models)
    for number in range(2):
        await owed_again(engine, f"c{number}", Evaluation(evaluator="good"))
        await verdicts(stage, number + 1)
    first, second = await verdicts(stage, 2)
    assert first.conversation != second.conversation
    assert len(judge.seen) == asked
    assert second.body["subject"] == second.cause != first.cause
    assert second.body.get("source", "") == (first.cause if models else "")
    assert second.body["score"] == (0.1 if models else 0.2)


@pytest.mark.parametrize(
    ("evaluation", "scores"),
    [
        (Evaluation(evaluator="good", first=1), (0.1, 0.2)),
        (Evaluation(evaluator="good", again=True), (0.1, 0.2)),
        (Evaluation(evaluator="good", params={"rubric": "other"}), (0.1, 0.2)),
        (Evaluation(evaluator="good"), (None, 0.2)),
    ],
)
async def test_a_model_is_asked_again_for_what_is_not_the_same(
    stage: Stage, evaluation: Evaluation, scores: tuple[float | None, float]
) -> None:
    """Another sample, another rubric, where it is told to, and where nothing was decided."""
    judge = Judge(*scores)
    engine = judged_by_model(stage, judge)
    await owed_again(engine, "first", Evaluation(evaluator="good"))
    await verdicts(stage, 1)
    await owed_again(engine, "second", evaluation)
    assert [event.body.get("score") for event in await verdicts(stage, 2)] == list(scores)
    assert [seen.repeat for seen in judge.seen] == [0, evaluation.first]


async def test_a_verdict_that_cannot_be_read_is_asked_for_again(stage: Stage) -> None:
    """One that a later version wrote, say, keeps nobody from judging."""
    judge = Judge(0.1, 0.2)
    engine = judged_by_model(stage, judge)
    await owed_again(engine, "first", Evaluation(evaluator="good"))
    (first,) = await verdicts(stage, 1)
    names = (f"verdict:{first.body['key']}:1",)
    later = Fact(id="later", kind="test.noted", cause="test", at=0.0, body={"score": {"value": 1}}, known_as=names)
    await stage.store.write(Batch(conversation=None, facts=(later,)))
    await owed_again(engine, "second", Evaluation(evaluator="good", first=1))
    assert [event.body["score"] for event in await verdicts(stage, 2)] == [0.1, 0.2]


async def test_of_samples_only_those_that_are_missing_are_asked(stage: Stage) -> None:
    """A verdict of one sample anywhere is the first of three here; what was not decided is missing as well."""
    judge = Judge(0.1, None, 0.3, 0.4)
    engine = judged_by_model(stage, judge)
    for number, repeats in enumerate((1, 3, 3)):
        await owed_again(engine, f"c{number}", Evaluation(evaluator="good", repeats=repeats))
        await verdicts(stage, number + 1)
    assert [seen.repeat for seen in judge.seen] == [0, 1, 2, 1]
    found = [event.body.get("samples") for event in await verdicts(stage, 3)]
    assert found == [None, [0.1, None, 0.3], [0.1, 0.4, 0.3]]


async def test_a_verdict_of_several_samples_is_no_verdict_of_one(stage: Stage) -> None:
    """Whoever asks for the first sample gets that, and not the mean of those that somebody else wanted."""
    judge = Judge(0.1, 0.9)
    engine = judged_by_model(stage, judge)
    await owed_again(engine, "first", Evaluation(evaluator="good", repeats=2))
    await verdicts(stage, 1)
    await owed_again(engine, "second", Evaluation(evaluator="good"))
    _, second = await verdicts(stage, 2)
    assert (second.body["score"], second.body.get("samples"), len(judge.seen)) == (0.1, None, 2)


@pytest.mark.parametrize(("models", "book", "seen"), [((), "", True), (("good",), "", False), (("good",), "own", True)])
async def test_a_model_is_told_of_wallets_in_a_book_of_the_conversations_own(
    stage: Stage, tmp_path: Path, models: Any, book: str, seen: bool
) -> None:
    """In the main one everybody pays, so what stands there is no doing of the agent's; checks may look all the same."""
    ledger = await EmbeddedLedger.open(tmp_path / "ledger.db", tmp_path / "keys")
    for each in ("", "own"):
        await ledger.open_wallets(
            Opening(name=AccountName("boss"), initial=Amount.parse(7), book=BookId(each) or MAIN_BOOK)
        )

    async def door() -> EmbeddedLedger:
        return ledger

    judge = Judge()
    engine = engine_of(stage, Script("one"), None)
    engine.world.judges = FunctionJudges({"good": judge}, models=models)
    engine.world.ledger = door
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.override({"evaluations": [Evaluation(evaluator="good")], **({"book": book} if book else {})})
    await conversation.say("go")
    await verdicts(stage, 1)
    await ledger.aclose()
    assert list(judge.seen[0].holdings) == (["boss"] if seen else [])


async def test_asking_again_changes_nothing_for_others(stage: Stage) -> None:
    """By hand, what was said here last counts here; everybody else has what was said first."""
    judge = Judge(0.1, 0.9)
    engine = judged_by_model(stage, judge)
    good = Evaluation(evaluator="good")
    for name in ("here", "there"):
        await owed_again(engine, name, good)
    await verdicts(stage, 2)
    here, there = [(await engine.conversation(name)).record.current for name in ("here", "there")]
    assert (await judge_now(engine.world, here, good, again=True))[0].score == 0.9
    assert (await judge_now(engine.world, here, good))[0].score == 0.9
    assert (await judge_now(engine.world, there, good))[0].score == 0.1
    await owed_again(engine, "elsewhere", good)
    assert (await verdicts(stage, 4))[-1].body["score"] == 0.1
    assert len(judge.seen) == 2


async def test_a_branch_is_promoted_with_what_it_was_chosen_by(stage: Stage) -> None:
    """It becomes the current one, and a fact names its verdicts."""
    engine = engine_of(stage, Script("one", "two"), Judge(0.9))
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("go")
    forked = await conversation.fork(-1, "other")
    verdict, _ = await judge_now(engine.world, forked.branch.ref, Evaluation(evaluator="good"))
    target, chosen_by = await promote(engine.world, conversation, "other")
    assert (target.name, (await conversation.branch()).name) == ("other", "other")
    (event,) = await stage.events(PROMOTED)
    assert [each.score for each in chosen_by] == [0.9]
    assert event.cause == verdict.subject
    assert event.body["from"] == "main"
    assert event.body["verdicts"][0]["score"] == 0.9

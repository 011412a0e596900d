"""A conversation as its users hold it: names, branches, places, configuration and ratings."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from p2engine.domain.decisions import UseTool
from p2engine.domain.records import Batch, Written
from p2engine.domain.states import AssistantMessage, Finished, Override, UserMessage, Waiting
from p2engine.errors import NameTaken, UsageError
from p2engine.limits import NAME_BYTES_MAX
from p2engine.ports import AgentView, ToolContext
from p2engine.runtime.conversation import Conversation
from tests.runtime.conftest import Gate, Script, Stage, states_of, until
from tests.runtime.conftest import Waiting as Slow


async def last_words(view: AgentView) -> str:
    return f"you said {view.fragments[-1].message.text}"


async def opened(stage: Stage, *texts: str) -> Conversation:
    """A conversation in which so much was said."""
    engine = stage.engine({"boss": last_words})
    conversation = await engine.conversation("demo", agent="boss")
    for text in texts:
        await conversation.say(text)
    return conversation


# Names


async def test_a_conversation_is_made_once_and_found_again(stage: Stage) -> None:
    """By its name, its id, or a beginning that only it has; with an agent the name is taken as it is."""
    engine = stage.engine({"boss": last_words})
    made = await engine.conversation("demo", agent="boss")
    for name in ("demo", made.record.id, "de"):
        assert (await engine.conversation(name)).record.id == made.record.id
    assert (await engine.conversation("de", agent="boss")).record.id != made.record.id
    assert [record.name for record in await engine.conversations("d")] == ["de", "demo"]


async def test_a_name_that_could_be_several_is_refused(stage: Stage) -> None:
    """It says which there are; an exact name wins over others that begin with it."""
    engine = stage.engine({"boss": last_words})
    for name in ("demo", "demo-2", "demo-3"):
        await engine.conversation(name, agent="boss")
    assert (await engine.conversation("demo")).name == "demo"
    with pytest.raises(UsageError, match="ambiguous conversation 'demo-': 'demo-3', 'demo-2'"):
        await engine.conversation("demo-")
    with pytest.raises(UsageError, match="no conversation 'other'"):
        await engine.conversation("other")


async def test_unnamed_conversations_get_the_next_name(stage: Stage) -> None:
    """`agent-1`, `agent-2`, …, each a conversation of its own, also when several begin at once."""
    engine = stage.engine({"boss": last_words})
    made = await asyncio.gather(*(engine.conversation(agent="boss") for _ in range(4)))
    assert sorted(conversation.name for conversation in made) == ["boss-1", "boss-2", "boss-3", "boss-4"]


async def test_many_unnamed_conversations_cost_a_few_writes_each(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are already, and however many begin at once."""
    engine = stage.engine({"boss": last_words})
    real, writes = stage.store.write, 0

    async def write(batch: Batch) -> Written:
        nonlocal writes
        writes += 1
        await asyncio.sleep(0)  # as across a network: everybody asks before anybody is answered
        return await real(batch)

    monkeypatch.setattr(stage.store, "write", write)
    made = await asyncio.gather(*(engine.conversation(agent="boss") for _ in range(200)))
    assert len({conversation.name for conversation in made}) == 200
    assert writes < 200 * 15  # one after the other it would be a hundred each
    before = writes
    await engine.conversation(agent="boss")
    assert writes - before <= 2


@pytest.mark.parametrize("name", ["", "  ", "a\0b", "a\nb", "x" * (NAME_BYTES_MAX + 1), "ü" * NAME_BYTES_MAX])
async def test_failure_26_a_name_that_cannot_be_is_refused(stage: Stage, name: str) -> None:
    """Empty, too long, or with control characters: nothing is made."""
    engine = stage.engine({"boss": last_words})
    with pytest.raises(UsageError):
        await engine.conversation(name, agent="boss")
    conversation = await opened(stage, "one")
    with pytest.raises(UsageError):
        await conversation.fork(-1, name)
    assert [record.name for record in await engine.conversations()] == ["demo"]
    assert len(await conversation.branches()) == 1


@pytest.mark.parametrize("name", ["a/b", "../../etc", "with spaces", "émoji 🎉", "-m"])
async def test_a_strange_name_is_a_name(stage: Stage, name: str) -> None:
    """Whatever people can read names a conversation and a branch."""
    engine = stage.engine({"boss": last_words})
    conversation = await engine.conversation(name, agent="boss")
    await conversation.say("hello")
    await conversation.fork(-1, name)
    assert (await engine.conversation(name)).record.id == conversation.record.id
    assert (await conversation.branch(name)).name == name


# Places


@pytest.mark.parametrize(("index", "at"), [(0, 1), (1, 2), (2, 2), (3, 4), (4, 5), (-1, 5), (-2, 4), (-3, 2), (-5, 1)])
async def test_a_fork_keeps_the_entries_up_to_its_index(stage: Stage, index: int, at: int) -> None:
    """0…index stay; inside an open wait it moves back to the decision that opened it, and says so."""
    conversation = await opened(stage, "one")
    kinds = [type(state) for state in await states_of(conversation)]
    assert kinds == [Override, UserMessage, Waiting, AssistantMessage, Finished]

    forked = await conversation.fork(index, "side")

    assert forked.at == at
    assert forked.asked == (index + 1 if index >= 0 else 5 + index + 1)
    assert [type(state) for state in await states_of(conversation, branch="side")] == kinds[:at]
    assert (await conversation.say("two", branch="side")).text == "you said two"
    assert len(await states_of(conversation)) == 5  # where it came from is as it was


@pytest.mark.parametrize("index", [5, 99, -6, -99])
async def test_a_place_that_is_not_there_is_refused(stage: Stage, index: int) -> None:
    """It says how many entries there are."""
    conversation = await opened(stage, "one")
    for travel in (conversation.rewind(index), conversation.fork(index, "side")):
        with pytest.raises(UsageError, match=f"no entry {index} in 'demo': it has 5 entries, 0…4"):
            await travel
    empty = await stage.engines[0].conversation("empty", agent="boss")
    with pytest.raises(UsageError, match="it has no entries yet"):
        await empty.rewind(-1)


async def test_seam_23_a_fork_writes_nothing_but_itself(stage: Stage) -> None:
    """Whatever the length of what it stands on: one branch and one event, and no commit is read to fold it."""
    conversation = await opened(stage, *(f"m{n}" for n in range(30)))
    loads = 0
    real = stage.store.load

    async def load(ref: Any, *, since: int = 0) -> Any:
        nonlocal loads
        loads += 1
        return await real(ref, since=since)

    stage.store.load = load  # type: ignore[method-assign]
    before = len(await stage.events())
    await conversation.fork(60, "side")
    events = await stage.events()
    assert loads == 0
    assert [event.kind for event in events[before:]] == ["branch.forked"]
    assert events[-1].body == {"name": "side", "from": "main", "at": 61, "asked": 61}


async def test_a_fork_owes_nothing_until_it_is_woken(stage: Stage) -> None:
    """Cut right after a message it rests; resuming it sets the turn going again."""
    conversation = await opened(stage, "one")
    forked = await conversation.rewind(1)
    assert await stage.store.owed(forked.branch.ref) == []
    reply = await conversation.resume()
    assert reply is not None
    assert (reply.text, reply.finished, reply.branch) == ("you said one", "answered", "main~1")


async def test_a_rewind_keeps_the_old_path_under_its_name(stage: Stage) -> None:
    """The fork becomes current, named after the place; the path that was left is all there."""
    conversation = await opened(stage, "one", "two")
    first, second = await conversation.rewind(4), await conversation.rewind(4)
    assert (first.branch.name, second.branch.name) == ("main~4", "main~4~4")
    await conversation.checkout("main")
    assert (await conversation.rewind(4)).branch.name == "main~4.2"
    assert len(await states_of(conversation, branch="main")) == 9
    assert [branch.name for branch in await conversation.branches()] == ["main", "main~4", "main~4~4", "main~4.2"]


async def test_a_branch_name_that_is_taken_is_refused(stage: Stage) -> None:
    """Nothing is made, and the current branch stays current."""
    conversation = await opened(stage, "one")
    with pytest.raises(NameTaken):
        await conversation.rewind(1, name="main")
    assert (await conversation.branch()).name == "main"
    assert len(await conversation.branches()) == 1


async def test_a_branch_is_found_by_a_beginning_of_its_name(stage: Stage) -> None:
    """One that only it has; what could be several, or is none, says which there are."""
    conversation = await opened(stage, "one")
    await conversation.fork(1, "colder")
    await conversation.fork(1, "colours")
    assert (await conversation.checkout("cold")).name == "colder"
    with pytest.raises(UsageError, match="ambiguous branch 'col'"):
        await conversation.checkout("col")
    with pytest.raises(UsageError, match="no branch 'warm' in 'demo'; there is 'main', 'colder', 'colours'"):
        await conversation.checkout("warm")


async def test_both_paths_go_on(stage: Stage) -> None:
    """Turns on either branch never show on the other."""
    conversation = await opened(stage, "one")
    await conversation.rewind(-1, name="right")
    await conversation.say("to the right")
    await conversation.checkout("main")
    await conversation.say("to the left")
    for name, other in (("main", "right"), ("right", "left")):
        texts = [state.text for state in await states_of(conversation, branch=name) if isinstance(state, UserMessage)]
        assert texts == ["one", f"to the {'left' if other == 'right' else 'right'}"]


# Going on


async def test_failure_10_a_restart_keeps_everything(on_file: Stage) -> None:
    """Closed and opened again: the same entries, the same branch, and the next turn knows the last."""
    conversation = await opened(on_file, "one")
    before = await conversation.commits()
    await on_file.aclose()

    again = await Stage.open(on_file.path)
    conversation = await again.engine({"boss": last_words}).conversation("demo")
    assert list(await conversation.commits()) == list(before)
    assert (await conversation.say("two")).turn == 2
    await again.aclose()


async def test_failure_10_a_turn_that_was_running_goes_on(on_file: Stage) -> None:
    """Stopped in the middle of a thought: resuming answers what was asked."""
    gate = Gate()

    async def slow(view: AgentView) -> str:
        await gate.pass_through()
        return "never said"

    one = on_file.engine({"boss": slow})
    conversation = await one.conversation("demo", agent="boss")
    saying = asyncio.create_task(conversation.say("one"))
    await gate.reached.wait()
    await on_file.kill(one)
    saying.cancel()

    two = on_file.engine({"boss": last_words}, store=await on_file.another_store())
    resuming = asyncio.create_task((await two.conversation("demo")).resume())
    await asyncio.sleep(0)
    assert await two.sweeper.sweep() == 1
    reply = await resuming
    assert reply is not None
    assert reply.text == "you said one"


async def test_there_is_nothing_to_resume_where_nothing_runs(stage: Stage) -> None:
    """An empty conversation, a finished turn, a fork after an answer, a question."""
    engine = stage.engine({"boss": last_words})
    conversation = await engine.conversation("demo", agent="boss")
    assert await conversation.resume() is None
    await conversation.say("one")
    assert await conversation.resume() is None
    await conversation.rewind(3)
    assert await conversation.resume() is None


async def test_whoever_resumes_hears_the_running_turn(stage: Stage) -> None:
    """Another terminal of the same process: it gets the answer that the first one waits for."""
    gate = Gate()

    async def slow(view: AgentView) -> str:
        await gate.pass_through()
        return "at last"

    conversation = await stage.engine({"boss": slow}).conversation("demo", agent="boss")
    saying = asyncio.create_task(conversation.say("one"))
    await gate.reached.wait()
    resuming = asyncio.create_task(conversation.resume())
    await asyncio.sleep(0)
    gate.open.set()
    assert [(await saying).text, getattr(await resuming, "text", None)] == ["at last"] * 2


# Configuring


async def test_an_override_is_recorded_and_holds(stage: Stage) -> None:
    """An entry on the stack of the current branch; later turns go by it, whatever the roster says."""
    conversation = await opened(stage, "one")
    setup = await conversation.override({"model": "new"})
    assert setup.model == "new"
    last = (await states_of(conversation))[-1]
    assert isinstance(last, Override)
    assert (last.changes, last.source) == ({"model": "new"}, "user")
    await conversation.say("two")
    assert (await conversation.stack()).setup.model == "new"
    assert sum(isinstance(state, Override) for state in await states_of(conversation)) == 2


async def test_a_locked_key_wants_a_lock_to_be_changed(stage: Stage) -> None:
    """It is refused by name and stays; with the lock said again it changes."""
    conversation = await opened(stage, "one")
    await conversation.override({"model": "a"}, lock=True)
    with pytest.raises(UsageError, match="'model' is locked on 'demo'"):
        await conversation.override({"temperature": 0.5, "model": "b"})
    assert (await conversation.stack()).setup.model == "a"
    assert (await conversation.override({"model": "b"}, lock=True)).model == "b"
    assert (await conversation.override({"temperature": 0.5})).temperature == 0.5


async def test_overrides_travel_with_their_branch(stage: Stage) -> None:
    """A fork from before has not been changed; one from after has."""
    conversation = await opened(stage, "one")
    await conversation.override({"model": "new"})
    await conversation.fork(4, "before")
    await conversation.fork(5, "after")
    assert (await conversation.stack(branch="before")).overrides == {}
    assert (await conversation.stack(branch="after")).overrides == {"model": "new"}


# Rating


async def test_a_rating_is_a_verdict_on_an_answer(stage: Stage) -> None:
    """On the last turn's, or on turn K's; the event names the answer as its cause."""
    conversation = await opened(stage, "one", "two")
    ref = conversation.record.current
    assert (await conversation.rate(1.0, note="good")).subject == f"{ref}:7"
    assert (await conversation.rate(0.0, turn=1)).subject == f"{ref}:3"
    first, second = await stage.events("eval.verdict")
    assert (first.cause, first.body["score"], first.body["comment"]) == (f"{ref}:7", 1.0, "good")
    assert (second.cause, second.body["evaluator"]) == (f"{ref}:3", "human")


@pytest.mark.parametrize(("score", "turn"), [(1.5, None), (-0.1, None), (1.0, 3), (1.0, 0)])
async def test_a_rating_that_means_nothing_is_refused(stage: Stage, score: float, turn: int | None) -> None:
    """A score outside 0..1, a turn that is not there."""
    conversation = await opened(stage, "one", "two")
    with pytest.raises(UsageError):
        await conversation.rate(score, turn=turn)
    assert await stage.events("eval.verdict") == []


async def test_a_rating_counts_turns_as_replies_do(stage: Stage) -> None:
    """Also on a fork that was cut in the middle of a turn: the number that `say` gave is the one to rate."""
    conversation = await opened(stage, "one", "two")
    await conversation.rewind(6)  # right after the second message
    reply = await conversation.say("three")
    verdict = await conversation.rate(1.0, turn=reply.turn)
    stack = await conversation.stack()
    assert verdict.subject == f"{conversation.record.current}:{stack.head - 2}"


# What is seen


async def test_the_log_is_followed_from_a_cursor(stage: Stage) -> None:
    """Everything from the beginning, or from where one stopped, in order and without gaps."""
    conversation = await opened(stage, "one")
    engine = stage.engines[0]
    seen = []
    async with asyncio.timeout(30):
        async for event in engine.events(0, conversation=conversation.record.id):
            seen.append(event)
            if event.kind == "state.finished":
                break
        assert [event.id for event in seen] == [event.id for event in await stage.events()][: len(seen)]
        async for event in engine.events(seen[2].cursor):
            assert event.id == seen[3].id
            break


async def test_seam_17_every_event_has_a_cause(stage: Stage) -> None:
    """Whoever spoke, or the effect that came back: why anything stands there can be walked."""

    async def look(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        return "seen"

    engine = stage.engine({"boss": Script([UseTool("look")], "done")}, {"look": look})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("go")
    ref = conversation.record.current
    causes = {event.id: event.cause for event in await stage.events() if event.ref == ref}
    assert all(causes.values())
    answer = next(event for event in await stage.events("state.assistant_message"))
    thought = answer.cause  # the effect that asked for it, owed by the entry it names
    asked = thought.rsplit(".", 1)[0]
    assert causes[asked] == f"{ref}:4.0"  # the tool call, owed by entry 4
    assert causes[f"{ref}:4"] == f"{ref}:2.0"  # the first thought
    assert causes[f"{ref}:2"] == "user"


async def test_a_stack_that_is_gone_from_memory_is_the_same(stage: Stage) -> None:
    """The cache forgets by size; what is folded again goes on as if nothing had been."""
    engine = stage.engine({"boss": last_words}, dispatch=Slow)
    engine.world.stacks._bytes_max = 1
    dispatcher = engine.world.dispatcher
    assert isinstance(dispatcher, Slow)
    for name in ("a", "b", "a", "b"):
        conversation = await engine.conversation(name, agent="boss")
        saying = asyncio.create_task(conversation.say("hi"))

        async def asked() -> bool:
            return bool(dispatcher.jobs)

        await until(asked)
        await dispatcher.do_all()
        assert (await saying).text == "you said hi"
    assert len(engine.world.stacks._stacks) == 1
    assert (await conversation.stack()).turn == 2

"""Rules where parts meet: who decides, who owns, what is written and what costs nothing. Each number names one rule.

Here stand the rules that no test of a single part can show; `test_index.py` says where each of the others is kept.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import genai_prices
import pytest
from genai_prices import data_snapshot

from p2engine.domain import machine, messages
from p2engine.domain.codec import CODEC
from p2engine.domain.decisions import AskUser, Decision, Delegate, Move, Say, ToolOutcome, UseTool
from p2engine.domain.effects import Ask, Think
from p2engine.domain.ids import AgentId, StackRef, child_ref, effect_id
from p2engine.domain.messages import RENDERER, Fragment, ModelReply, ModelRequest, Usage, prompt_hash
from p2engine.domain.records import Cursor, Query
from p2engine.domain.stack import Stack
from p2engine.domain.states import AgentResult, Finished, Override, UserMessage
from p2engine.models import pricing
from p2engine.models.calling import Guarded
from p2engine.models.limiter import LocalLimiter
from p2engine.ports import AgentView, OnText, ToolContext
from p2engine.runtime.stacks import Stacks
from p2engine.stores.sqlite import SqliteStore
from p2engine.testing.histories import NOON, answering, asking, opening
from tests.domain.walking import ROOT, Walk, setup_of
from tests.runtime.conftest import Script, Stage, states_of

ANN, BOB = AgentId("ann"), AgentId("bob")


async def hello(view: AgentView) -> str:
    return f"answer to {view.fragments[-1].message.text}"


def looks(then: str = "so: ") -> Any:
    """An agent that calls `look` and tells what it saw."""

    async def decide(view: AgentView) -> Sequence[Move] | str:
        newest = view.fragments[-1].message
        return [UseTool("look")] if newest.role == "user" else then + newest.text

    return decide


async def look(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
    return "seen"


async def test_seam_08_what_was_done_is_listed_when_its_tool_is_gone(stage: Stage) -> None:
    """A rewind names a payment also after the agent may pay no more; what only looked it does not."""

    async def pay(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        return "paid"

    boss = Script([UseTool("pay", {"to": "ann"}), UseTool("look"), UseTool("fly")], "done")
    engine = stage.engine({"boss": boss}, {"pay": pay, "look": look}, {"pay": "never", "look": "free"})
    talk = await engine.conversation("c", agent="boss")
    await talk.say("pay")
    await talk.override({"tools": []})
    await talk.say("and now?")
    assert (await talk.rewind(1)).left_behind == ('pay({"to":"ann"}) → ok',)


@pytest.mark.parametrize("kind", ["ledger.transfer", "state.finished", "eval.verdict", "tools.x", ""])
async def test_seam_14_no_tool_writes_what_others_are_the_source_of(stage: Stage, kind: str) -> None:
    """Payments are told by the ledger alone: a call that claims one is a failed call, and its event is not written."""

    async def claims(arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome:
        return ToolOutcome(content="paid", events=(("tool.noted", {}), (kind, {"amount": 5})))

    engine = stage.engine({"boss": looks()}, {"look": claims})
    talk = await engine.conversation("c", agent="boss")
    before = {event.id for event in await stage.events()}
    reply = await talk.say("pay")

    assert "must begin with 'tool.'" in reply.text
    written = [event.kind for event in await stage.events() if event.id not in before]
    assert written.count("state.finished") == 1
    assert not [each for each in written if each in ("tool.noted", "ledger.transfer", "eval.verdict", "tools.x", "")]


async def test_seam_16_what_is_due_is_a_scan_of_what_is_open(tmp_path: Path) -> None:
    """Settled effects are gone: asking what is due takes the same steps of SQLite after 10 turns and after 1,000."""
    store = await SqliteStore.open(tmp_path / "store.db", sync="OFF")
    await store.write(opening())
    steps: list[int] = []

    def count() -> int:
        steps[-1] += 1
        return 0

    head = 2
    for turns in (10, 1000):
        while head < 4 * turns - 2:
            await store.write(answering(head=head))
            await store.write(asking(head=head + 2))
            head += 4
        await store.due(limit=10)  # whatever is done only once
        steps.append(0)
        store._db.set_progress_handler(count, 1)
        store._read._db.set_progress_handler(count, 1)
        assert len(await store.due(limit=10)) == 1
        store._db.set_progress_handler(None, 0)
        store._read._db.set_progress_handler(None, 0)
    assert (await store.stats()).owed == 1
    assert steps[1] == steps[0] > 0
    await store.aclose()


async def test_seam_16_a_question_is_not_handed_out_again_and_again(stage: Stage) -> None:
    """A person's answer has no time: after its process died the question is taken over once, and then left alone."""
    one, other = stage.engine({"boss": Script([AskUser("which?")], "thanks")}), stage.engine({"boss": hello})
    assert (await (await one.conversation("c", agent="boss")).say("go")).asks
    await stage.kill(one)
    talk = await other.conversation("c")
    assert await other.sweeper.sweep() == 1
    while await stage.store.due(limit=1):
        await asyncio.sleep(0)
    assert [await other.sweeper.sweep() for _ in range(3)] == [0, 0, 0]
    assert len(await stage.owed(talk)) == 1
    assert (await talk.say("blue")).text == "answer to blue"


async def test_seam_19_what_is_decided_here_runs_here_without_a_claim(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Effects are born owned: a turn with a tool and a delegate claims nothing, and loads no stack a second time."""
    claims: list[object] = []
    loads: list[StackRef] = []
    claim, load = stage.store.claim, stage.store.load

    async def counted_claim(*given: Any, **more: Any) -> Any:
        claims.append(given)
        return await claim(*given, **more)

    async def counted_load(stack: StackRef, **more: Any) -> Any:
        loads.append(stack)
        return await load(stack, **more)

    monkeypatch.setattr(stage.store, "claim", counted_claim)
    monkeypatch.setattr(stage.store, "load", counted_load)
    boss = Script([UseTool("look"), Delegate(ANN, "work")], "done")
    engine = stage.engine({"boss": boss, "ann": looks()}, {"look": look})
    talk = await engine.conversation("c", agent="boss")
    assert (await talk.say("go")).text == "done"
    assert claims == []
    assert len(loads) <= 1


async def test_seam_20_memory_is_bounded_by_bytes_and_costs_no_truth(stage: Stage) -> None:
    """The stacks that were not used for longest are forgotten first; read again, they are what they were."""
    engine = stage.engine({"boss": hello})
    talks = [await engine.conversation(f"c{number}", agent="boss") for number in range(9)]
    for number, talk in enumerate(talks):
        await talk.say(Random(number).randbytes(10_000).hex())  # which packing makes half as long, and no shorter
    refs = [talk.record.current for talk in talks]

    small = Stacks(stage.store, seen=lambda ref, commits: None, bytes_max=150_000)
    first = await small.get(refs[0])
    for stack in refs[1:]:
        await small.get(stack)
        await small.get(refs[0])
    kept = [stack for stack in refs if small.peek(stack)]
    assert refs[0] in kept
    assert refs[-1] in kept
    assert len(kept) < len(refs)
    for stack in refs[1:]:
        await small.get(stack)
    again = await small.get(refs[0])
    assert [piece.digest for piece in again.fragments] == [piece.digest for piece in first.fragments]
    assert again.head == first.head


async def test_seam_24_no_cursor_is_given_twice(tmp_path: Path) -> None:
    """A row that is taken from the end of the log leaves its number unused."""
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path)
    await store.write(opening())
    row = (await store.write(answering())).row
    await store.aclose()
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM log WHERE cursor = ?", (row,))
        db.commit()
    store = await SqliteStore.open(path)
    assert (await store.write(opening("next"))).row == row + 1
    await store.aclose()


async def test_seam_24_who_follows_nothing_asks_nothing(tmp_path: Path) -> None:
    """Whether another process wrote is asked of the file only while somebody follows the log."""
    store = await SqliteStore.open(tmp_path / "store.db")
    asked: list[str] = []
    store._read._db.set_trace_callback(asked.append)
    await store.write(opening())
    await store.write(answering())
    await store.events(Query())
    assert not [each for each in asked if "data_version" in each]
    tail = store.tail(Cursor())
    await anext(tail)
    assert [each for each in asked if "data_version" in each]
    await tail.aclose()  # type: ignore[attr-defined]
    await store.aclose()


def test_seam_26_prices_are_resolved_once_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred calls of one model search the price table once, and never have the library reckon."""
    snapshot = data_snapshot.get_snapshot()
    searched: list[str] = []
    find = type(snapshot).find_provider_model

    def counted(self: Any, model: str, *more: Any) -> Any:
        searched.append(model)
        return find(self, model, *more)

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("asked each time")

    monkeypatch.setattr(type(snapshot), "find_provider_model", counted)
    monkeypatch.setattr(genai_prices.types.ModelInfo, "calc_price", refused)
    pricing._resolved.cache_clear()
    costs = {pricing.cost_usd("openai", "gpt-4o", 1000, tokens) for tokens in range(100)}
    assert len(costs) == 100
    assert searched == ["gpt-4o"]


async def test_seam_26_a_first_attempt_runs_bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that works draws no lot, reckons no wait and sleeps for nothing."""

    class Says:
        """A model double that answers at once."""

        async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReply:
            return ModelReply(text="hi", usage=Usage(model="m"))

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing failed")

    monkeypatch.setattr(Guarded, "_wait_s", refused)
    monkeypatch.setattr(asyncio, "sleep", refused)
    guarded = Guarded(Says(), "openai", LocalLimiter(), chance=refused)
    reply = await guarded.complete(ModelRequest(model="m"))
    assert (reply.text, reply.usage.attempts) == ("hi", 1)


async def test_seam_26_what_nobody_reads_is_not_put_into_words(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn with a tool and a delegate makes no log record at the level that is set."""
    made: list[str] = []
    make = logging.Logger.makeRecord

    def counted(self: logging.Logger, *given: Any, **more: Any) -> logging.LogRecord:
        made.append(self.name)
        return make(self, *given, **more)

    monkeypatch.setattr(logging.Logger, "makeRecord", counted)
    boss = Script([UseTool("look"), Delegate(ANN, "work")], "done")
    engine = stage.engine({"boss": boss, "ann": looks()}, {"look": look})
    assert (await (await engine.conversation("c", agent="boss")).say("go")).text == "done"
    assert made == []


class Unread(list[Fragment]):
    """Fragments that may be looked at one at a time, and never walked through."""

    def __iter__(self) -> Any:
        raise AssertionError("the history was read")


def turn(stack: Stack, text: str) -> Stack:
    """A question and its answer."""
    stack = machine.hear(stack, [UserMessage(text=text)], NOON).stack
    think = Think(id=effect_id(stack.ref, *next(iter(stack.open))))
    return machine.settle(stack, think, Decision((Say(f"re {text}"),)), NOON).stack


def test_seam_27_a_turn_encodes_what_it_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn 1,001 encodes its own two messages and no other; the hash of its request reads the last one's digest."""
    stack = Stack(ROOT, AgentId("boss"))
    for number in range(1000):
        stack = turn(stack, f"message {number}")

    encoded: list[str] = []
    wire = messages.wire_message

    def counted(message: messages.Message) -> bytes:
        encoded.append(message.text)
        return wire(message)

    monkeypatch.setattr(messages, "wire_message", counted)
    stack = turn(stack, "one more")
    request = ModelRequest(model="m", fragments=Unread(stack.fragments))
    encoded_by_turn, hashed = list(encoded), prompt_hash(request)

    assert len(stack.fragments) == 2002
    assert encoded_by_turn == encoded == ["one more", "re one more"]
    assert hashed == prompt_hash(ModelRequest(model="m", fragments=stack.fragments[-1:]))


def test_seam_27_the_hash_is_a_chain() -> None:
    """Another word anywhere in the history, or another order, is another hash; the same history is the same one."""

    def hashed(*texts: str) -> str:
        stack = Stack(ROOT, AgentId("boss"))
        for text in texts:
            stack = turn(stack, text)
        return prompt_hash(ModelRequest(model="m", fragments=stack.fragments))

    assert hashed("a", "b", "c") == hashed("a", "b", "c")
    assert len({hashed("a", "b", "c"), hashed("x", "b", "c"), hashed("b", "a", "c"), hashed("a", "b")}) == 4


async def test_seam_28_a_row_says_by_what_it_was_written(stage: Stage) -> None:
    """Codec, machine and renderer stand in every row, a delegate's too, so that a later one can tell its own."""
    engine = stage.engine({"boss": Script([Delegate(ANN, "work")], "done"), "ann": hello})
    talk = await engine.conversation("c", agent="boss")
    await talk.say("go")
    for branch in await talk.branches(delegates=True):
        rows = await stage.store.load(branch.ref)
        assert {placed.commit.versions for placed in rows} == {(CODEC, machine.MACHINE, RENDERER)}


async def test_seam_30_an_override_belongs_to_its_branch_and_goes_down_to_children(stage: Stage) -> None:
    """A child has it from its opening on, tools apart; a rewind to before it has the old one, and the way back it."""
    seen: list[tuple[str, float | None, int]] = []

    async def boss(view: AgentView) -> Sequence[Move] | str:
        seen.append((view.agent, view.setup.temperature, len(view.tools)))
        return [Delegate(ANN, "work")] if view.fragments[-1].message.role == "user" else "done"

    async def ann(view: AgentView) -> str:
        seen.append((view.agent, view.setup.temperature, len(view.tools)))
        return "worked"

    engine = stage.engine({"boss": boss, "ann": ann}, {"look": look})
    talk = await engine.conversation("c", agent="boss")
    await talk.say("one")
    head = (await talk.stack()).head
    await talk.override({"temperature": 0.25, "tools": []})
    await talk.say("two")
    await talk.rewind(head - 1, name="before")
    await talk.say("three")
    await talk.checkout("main")
    await talk.say("four")

    cold, warm = [("boss", None, 1), ("ann", None, 1), ("boss", None, 1)], [("boss", 0.25, 0), ("ann", 0.25, 1)]
    assert seen == [*cold, *warm, warm[0], *cold, *warm, warm[0]]
    children = [branch for branch in await talk.branches(delegates=True) if branch.delegate]
    inherited = [
        state.changes
        for branch in children
        for placed in await stage.store.load(branch.ref)
        for state in placed.commit.states
        if isinstance(state, Override) and state.changes
    ]
    assert inherited == [{"temperature": 0.25}] * 2  # recorded once; the later child remembers it


async def test_seam_32_a_thousand_delegations_to_one_child(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each forks from the one before: warm and read anew, the last remembers the first; the way back is short."""
    asked = 0

    async def boss(view: AgentView) -> Sequence[Move] | str:
        nonlocal asked
        if asked == len(tasks):
            return "done"
        asked += 1
        return [Delegate(ANN, tasks[asked - 1])]

    async def ann(view: AgentView) -> str:
        said = [piece.message.text for piece in view.fragments if piece.message.role == "user"]
        assert said == tasks[: len(said)]
        return f"heard {len(said)}"

    engine = stage.engine({"boss": boss, "ann": ann})
    talk = await engine.conversation("c", agent="boss")
    tasks = [f"task {number}" for number in range(1010)]
    while asked < len(tasks):  # a turn has a bound on its model calls
        await talk.say("go on")
    result = [state for state in await states_of(talk) if isinstance(state, AgentResult)][-1]
    assert result.content == "heard 1010"
    assert result.child is not None
    cold = await Stacks(stage.store, seen=lambda ref, commits: None).get(result.child[0])
    assert (cold.head, len(cold.fragments)) == (result.child[1], 2020)
    assert [branch.name for branch in await talk.branches()] == ["main"]

    listed: list[object] = []
    branches = stage.store.branches

    async def counted(*given: Any, **more: Any) -> Any:
        listed.append(given)
        return await branches(*given, **more)

    monkeypatch.setattr(stage.store, "branches", counted)
    assert (await talk.rewind(1)).left_behind == ()
    assert len(listed) <= 3


async def test_seam_34_a_question_below_holds_up_nobody(stage: Stage) -> None:
    """Where no person hears a delegate, it is told so, its callers wait for as long, and the turn is answered."""
    bob = Script([AskUser("which?")], "I chose blue")
    engine = stage.engine({"boss": Script([Delegate(ANN, "paint")], "done"), "ann": handing_on(BOB), "bob": bob})
    talk = await engine.conversation("c", agent="boss")
    reply = await talk.say("go")

    assert (reply.text, reply.asks) == ("done", False)
    assert "cannot ask a person" in bob.seen[-1][-1]
    result = next(state for state in await states_of(talk) if isinstance(state, AgentResult))
    assert (result.status, result.content) == ("ok", "I chose blue")
    assert await stage.owed(talk) == []


def handing_on(to: AgentId) -> Any:
    async def decide(view: AgentView) -> Sequence[Move] | str:
        newest = view.fragments[-1].message
        return [Delegate(to, newest.text)] if newest.role == "user" else newest.text

    return decide


def test_seam_34_cancelling_any_ancestor_withdraws_the_question() -> None:
    """While it is open all above it wait, and nothing else is owed; when one of them ends, nobody is asked any more."""
    for cancelled in range(3):
        walk = Walk(setup_of("boss"))
        walk.say("go")
        walk.decide(Delegate(ANN, "paint"))
        child = child_ref(walk.open().id)
        walk.think(child, Delegate(BOB, "paint this"))
        grandchild = child_ref(walk.open().id)
        walk.think(grandchild, AskUser("which?"))
        line = (ROOT, child, grandchild)
        assert [type(effect) for effect in walk.due()] == [Ask]
        assert all(walk.stacks[each].open for each in line)

        walk.cancel(line[cancelled])
        walk.deliver_all()
        assert not any(isinstance(effect, Ask) for effect in walk.owed.values())
        assert all(isinstance(walk.stacks[each].ground, Finished) for each in line[cancelled:])
        assert all(walk.stacks[each].open for each in line[:cancelled])

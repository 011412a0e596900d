"""Pruning through the whole engine: what goes, what must not, and how those live on who have seen it."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from p2engine.domain.decisions import Decision, Delegate, Move, Say, ToolOutcome, UseTool
from p2engine.domain.ids import AgentId, BlobRef, blob_ref
from p2engine.domain.messages import Usage
from p2engine.domain.money import Receipt, RecordQuery, Transfer
from p2engine.domain.records import Artifact, Cursor, Event, Query
from p2engine.domain.states import AgentResult, ToolResult
from p2engine.errors import ConflictError, Pruned, Rewound, StoreError, UsageError
from p2engine.ledgers.embedded import EmbeddedLedger
from p2engine.limits import BODY_UNUSED_S
from p2engine.ports import AgentView, ToolContext
from p2engine.runtime import bookkeeper, pruning
from p2engine.runtime.engine import Engine
from tests.runtime.conftest import Gate, Script, Stage, states_of

ANN = AgentId("ann")


async def _prune(engine: Engine, name: str, *, branches: bool = False) -> None:
    await engine.prune(await engine.prunable(name, branches=branches))


async def tell(view: AgentView) -> Sequence[Move]:
    """A boss double that hands everything it is told to ann, and says what she said."""
    last = view.fragments[-1].message
    return [Delegate(ANN, last.text)] if last.role == "user" else [Say(last.text)]


async def remember(view: AgentView) -> str:
    return ", ".join(fragment.message.text for fragment in view.fragments if fragment.message.role == "user")


async def test_seam_02_a_reused_name_pays_again(stage: Stage) -> None:
    """After `prune demo` a new `demo` that does the same has other keys: its payment is made, not taken for the old."""
    keys: list[str] = []

    async def pay(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        keys.append(ctx.idempotency_key)
        return "paid"

    async def boss(view: AgentView) -> Sequence[Move]:
        last = view.fragments[-1].message
        return [UseTool("pay", {"to": "ann", "amount": 5})] if last.role == "user" else [Say("done")]

    engine = stage.engine({"boss": boss}, {"pay": pay}, {"pay": "idempotent"})
    records = []
    for _ in range(2):
        conversation = await engine.conversation("demo", agent="boss")
        assert (await conversation.say("pay")).text == "done"
        records.append(conversation.record)
        await _prune(engine, "demo")
    assert len(set(keys)) == len(keys) == 2
    old, new = records
    assert old.id != new.id
    assert old.current != new.current
    assert [key.partition(":")[0] for key in keys] == [old.current, new.current]


async def test_what_is_pruned_is_gone_for_everybody(on_file: Stage) -> None:
    """Another process that has the conversation in hand is told that it is gone, and can write nothing to it."""
    here = on_file.engine({"boss": Script(*["hi"] * 9)})
    store = await on_file.another_store()
    there = on_file.engine({"boss": Script(*["ho"] * 9)}, store=store)
    mine = await here.conversation("demo", agent="boss")
    await mine.say("one")
    theirs = await there.conversation("demo")
    await theirs.say("two")
    await _prune(here, "demo")
    for conversation in (mine, theirs):
        with pytest.raises(UsageError, match="'demo' is gone"):
            await conversation.say("three")
    with pytest.raises(UsageError, match="no conversation 'demo'"):
        await there.conversation("demo")
    assert await on_file.store.check() == []
    new = await there.conversation("demo", agent="boss")
    assert (await new.say("one")).turn == 1
    assert (await here.conversation("demo")).record == new.record


async def test_seam_25_a_running_turn_is_not_pruned(stage: Stage) -> None:
    """What it owes is named; it goes on, and once it is answered it can go."""
    gate = Gate()

    async def boss(view: AgentView) -> str:
        await gate.pass_through()
        return "done"

    engine = stage.engine({"boss": boss})
    conversation = await engine.conversation("demo", agent="boss")
    turn = asyncio.ensure_future(conversation.say("go"))
    await gate.reached.wait()
    plan = await engine.prunable("demo")
    assert list(plan.owed) == await stage.owed(conversation)
    with pytest.raises(UsageError, match=f"owes {plan.owed[0]}"):
        await engine.prune(plan)
    gate.open.set()
    assert (await turn).text == "done"
    with pytest.raises(ConflictError, match="has moved since"):
        await engine.prune(plan)
    await _prune(engine, "demo")
    assert await engine.conversations() == []


async def test_what_comes_late_from_a_pruned_conversation_is_an_event(stage: Stage) -> None:
    """A call that was cancelled and goes on: what it came to is told, though its conversation is gone by then."""
    gate = Gate()

    async def pay(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        await gate.pass_through()
        return "paid"

    engine = stage.engine({"boss": Script([UseTool("pay")])}, {"pay": pay}, {"pay": "never"})
    conversation = await engine.conversation("demo", agent="boss")
    turn = asyncio.ensure_future(conversation.say("pay"))
    await gate.reached.wait()
    await conversation.cancel()
    assert (await turn).finished == "cancelled"
    await _prune(engine, "demo")
    gate.open.set()
    while not (late := await stage.events("effect.late")):
        await asyncio.sleep(0)
    assert late[0].conversation is None
    assert late[0].id == f"late:{late[0].cause}"


async def test_the_log_says_what_was_pruned(stage: Stage) -> None:
    """Which conversation, when, and how much; and nothing else of it."""
    engine = stage.engine({"boss": Script("a secret")})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("hush")
    plan = await engine.prunable("demo")
    stage.clock.time += 60
    await engine.prune(plan)
    (event,) = await stage.events()
    assert (event.kind, event.cause, event.conversation) == (pruning.PRUNED, "user", None)
    assert event.at == stage.clock.time
    assert event.body == {
        "id": conversation.record.id,
        "name": "demo",
        "agent": "boss",
        "branches": 1,
        "entries": plan.entries,
        "rows": plan.rows,
        "bytes": plan.bytes,
        "bodies": [],
    }
    assert plan.entries == 5
    assert 200 < plan.bytes < 4000


async def test_seam_25_side_branches_go_and_memories_stay(stage: Stage) -> None:
    """After pruning, the current branch, its delegates and what they remember are as before, and go on as before."""
    engine = stage.engine({"boss": tell, "ann": remember})
    conversation = await engine.conversation("demo", agent="boss")
    assert (await conversation.say("one")).text == "one"
    cut = (await conversation.stack()).head
    assert (await conversation.say("two")).text == "one, two"
    await conversation.rewind(cut - 1, name="again")
    assert (await conversation.say("three")).text == "one, three"
    await conversation.fork(2, "early")
    before = await states_of(conversation)
    many = len(await conversation.branches(delegates=True))

    plan = await engine.prunable("demo", branches=True)
    assert (plan.branches, plan.shortened) == (("early",), ("main",))
    stage.clock.time += 3600
    await engine.prune(plan)
    assert (await engine.prunable("demo")).moved_at == plan.moved_at < stage.clock.time  # it is as old as before
    assert [branch.name for branch in await conversation.branches()] == ["main", "again"]
    assert len(await conversation.branches(delegates=True)) == many - 2  # `early`, and the delegate that heard "two"
    assert await states_of(conversation) == before
    assert (await conversation.say("four")).text == "one, three, four"
    for state in await states_of(conversation):
        if isinstance(state, AgentResult) and state.child:
            assert await stage.store.head(state.child[0]) >= state.child[1]
    assert await stage.store.check() == []
    await conversation.checkout("main")
    assert (await conversation.say("five")).text == "one, five"
    with pytest.raises(UsageError, match="no branch 'early'"):
        await conversation.checkout("early")


async def test_where_nothing_can_go_nothing_goes(stage: Stage) -> None:
    """A conversation of one branch: its side branches are nothing to prune, and nothing is written."""
    engine = stage.engine({"boss": Script("hi")})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("hello")
    before = await stage.events()
    plan = await engine.prunable("demo", branches=True)
    assert plan.taken is None
    await engine.prune(plan)
    assert await stage.events() == before


async def test_a_trunk_that_another_process_remembers_longer(on_file: Stage) -> None:
    """Who has the cut trunk in memory is refused once, forgets it, and goes on from what there is."""
    here = on_file.engine({"boss": Script(*["hi"] * 9)})
    there = on_file.engine({"boss": Script(*["ho"] * 9)}, store=await on_file.another_store())
    mine = await here.conversation("demo", agent="boss")
    await mine.say("one")
    cut = (await mine.stack()).head
    theirs = await there.conversation("demo")
    await theirs.say("two")
    await mine.rewind(cut - 1, name="again")
    await _prune(here, "demo", branches=True)
    with pytest.raises(Rewound, match="lost entries"):
        await theirs.say("three", branch="main")
    assert (await theirs.say("three", branch="main")).turn == 2
    assert await on_file.store.check() == []


# Artifacts


SAVES: list[Any] = [[UseTool("save")], "done"]


def saving(text: str, name: str = "list.txt") -> Any:
    async def save(arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome:
        await ctx.artifacts.save(name, text.encode())
        return ToolOutcome(content="saved")

    return save


async def _collected(stage: Stage, engine: Engine, text: str) -> tuple[int, bool]:
    """How many bodies went, when an hour has passed; and whether this one is still there."""
    stage.blobs._put_at = dict.fromkeys(stage.blobs._put_at, -10 * BODY_UNUSED_S)
    return (await engine.collect()).bodies, await stage.blobs.has(blob_ref(text.encode()))


async def test_seam_25_artifacts_go_when_nobody_names_them(stage: Stage) -> None:
    """With the last conversation that names them, an hour after somebody put them; bodies of others stay."""
    engine = stage.engine({"boss": Script(*SAVES * 3)}, {"save": saving("milk")})
    for name in ("one", "two", "three"):
        await (await engine.conversation(name, agent="boss")).say("save")
    other = await stage.blobs.put(b"instructions that no event of these names")
    assert await _collected(stage, engine, "milk") == (0, True)
    for name in ("one", "two"):
        await _prune(engine, name)
        assert await _collected(stage, engine, "milk") == (0, True)
    await _prune(engine, "three")
    await stage.blobs.put(b"milk")
    assert (await engine.collect()).bodies == 0  # somebody has just put it again
    assert await _collected(stage, engine, "milk") == (1, False)
    assert await stage.blobs.has(other)
    assert await _collected(stage, engine, "milk") == (0, False)


async def test_artifacts_of_side_branches_go(stage: Stage) -> None:
    """Those that the current branch saved stay."""
    texts = iter(("milk", "eggs"))

    async def save(arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome:
        await ctx.artifacts.save("list.txt", next(texts).encode())
        return ToolOutcome(content="saved")

    engine = stage.engine({"boss": Script("hi", *SAVES * 2)}, {"save": save})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("hello")
    await conversation.say("save")
    await conversation.rewind(3, name="again")
    await conversation.say("save")
    assert any(isinstance(state, ToolResult) for state in await states_of(conversation))
    await _prune(engine, "demo", branches=True)
    assert await _collected(stage, engine, "milk") == (1, False)
    assert await stage.blobs.has(blob_ref(b"eggs"))
    saved = [
        Artifact(**{k: event.body[k] for k in ("name", "blob", "bytes")}) for event in await stage.events("artifact.")
    ]
    assert [artifact.blob for artifact in saved] == [BlobRef(blob_ref(b"eggs"))]


# The ledger


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[EmbeddedLedger]:
    ledger = await EmbeddedLedger.open(tmp_path / "ledger.db", tmp_path / "keys")
    yield ledger
    await ledger.aclose()


def _costly(stage: Stage, ledger: EmbeddedLedger) -> Engine:
    """An engine whose model costs a quarter of a dollar a call. Nothing sweeps its books."""

    async def decide(view: AgentView) -> Decision:
        return Decision((Say("hi"),), Usage(model="m", provider="openai", cost_usd=0.25))

    async def door() -> EmbeddedLedger:
        return ledger

    engine = stage.engine({"boss": decide})
    engine.world.ledger = door
    return engine


async def _spent(ledger: EmbeddedLedger) -> list[str]:
    return [str(record.money) for record in await ledger.records(RecordQuery(types=("transfer",)))]


async def test_seam_14_what_models_cost_is_booked_before_it_goes(stage: Stage, ledger: EmbeddedLedger) -> None:
    """The ledger keeps the cost of a conversation that is gone, once."""
    engine = _costly(stage, ledger)
    await (await engine.conversation("demo", agent="boss")).say("hello")
    assert await _spent(ledger) == []
    await _prune(engine, "demo")
    assert await _spent(ledger) == ["0.25"]
    await engine.bookkeeper.catch_up()
    assert await _spent(ledger) == ["0.25"]


async def test_books_are_kept_over_what_is_gone(
    stage: Stage, ledger: EmbeddedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever booked up to a place below what another process pruned goes on from there, page by page."""
    monkeypatch.setattr(bookkeeper, "BOOKED_AT_ONCE", 1)
    here, there = _costly(stage, ledger), _costly(stage, ledger)
    for name in ("one", "two", "three"):
        await (await here.conversation(name, agent="boss")).say("hello")
        if name == "one":
            await there.bookkeeper.catch_up()
    await _prune(here, "two")
    await (await here.conversation("three")).say("again")
    await there.bookkeeper.catch_up()
    assert await _spent(ledger) == ["0.25"] * 4


async def test_a_ledger_that_is_away_keeps_what_is_not_booked(stage: Stage, ledger: EmbeddedLedger) -> None:
    """Nothing goes whose cost could not be booked."""
    engine = _costly(stage, ledger)
    await (await engine.conversation("demo", agent="boss")).say("hello")
    plan = await engine.prunable("demo")

    async def away() -> EmbeddedLedger:
        raise StoreError("the ledger is gone")

    engine.world.ledger = away
    with pytest.raises(StoreError, match="the ledger is gone"):
        await engine.prune(plan)
    assert len(await engine.conversations()) == 1


async def test_failure_35_a_ledger_without_room_keeps_only_what_it_does_not_have(
    stage: Stage, ledger: EmbeddedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another conversation cost may wait: one whose own cost is booked goes, and makes room."""
    engine = _costly(stage, ledger)
    await (await engine.conversation("booked", agent="boss")).say("hello")
    await engine.bookkeeper.catch_up()
    await (await engine.conversation("late", agent="boss")).say("hello")
    transfer = ledger.transfer

    async def full(*orders: Transfer) -> Sequence[Receipt]:
        if None in [await ledger.receipt(order.id) for order in orders]:
            raise StoreError("the ledger is full")
        return await transfer(*orders)

    monkeypatch.setattr(ledger, "transfer", full)
    await _prune(engine, "booked")
    with pytest.raises(StoreError, match="the ledger is full"):
        await _prune(engine, "late")
    assert [found.name for found in await engine.conversations()] == ["late"]


# Those who watch


class Sink:
    """Keeps the ids of what it is given. It takes nothing before it is let."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.may = asyncio.Event()
        self.came = asyncio.Event()

    async def emit(self, event: Event) -> None:
        self.came.set()
        await self.may.wait()
        self.ids.append(event.id)

    async def aclose(self) -> None: ...


async def test_a_sink_that_lags_behind_a_pruning_goes_on(stage: Stage) -> None:
    """Whatever it was given of what is gone, everything that is kept reaches it, once."""
    sink = Sink()
    engine = stage.engine({"boss": Script(*["hi"] * 9)}, sinks=[sink])
    await engine.start()
    other = await engine.conversation("other", agent="boss")
    await other.say("hello")
    await sink.came.wait()  # it stands at the first event
    gone = await engine.conversation("gone", agent="boss")
    await gone.say("hello")
    await other.say("again")
    await _prune(engine, "gone")
    kept = [event.id for event in await stage.events()]
    sink.may.set()
    while len(sink.ids) < len(kept):
        await asyncio.sleep(0)
    assert [each for each in sink.ids if each in kept] == kept
    assert len(set(sink.ids)) == len(sink.ids)
    await engine.aclose()


async def test_a_sink_is_told_and_not_stopped(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Where the next page begins below what was pruned meanwhile, it goes on with what is kept."""
    engine = stage.engine({"boss": Script(*["hi"] * 9)}, sinks=[sink := Sink()])
    other = await engine.conversation("other", agent="boss")
    await other.say("hello")
    first = (await stage.events())[0].cursor
    gone = await engine.conversation("gone", agent="boss")
    await gone.say("hello")
    await _prune(engine, "gone")
    sink.may.set()
    engine._fanout._feeds[0].start(first)
    kept = [event.id for event in await stage.events()][1:]
    while len(sink.ids) < len(kept):
        await asyncio.sleep(0)
    assert sink.ids == kept
    assert "missed events: some of the events up to row" in caplog.text
    await engine.aclose()


async def test_who_follows_all_events_is_told_and_who_follows_a_conversation_is_not(stage: Stage) -> None:
    """The first needs to know that the log has a hole; a conversation has none. Where it is itself gone it ends."""
    engine = stage.engine({"boss": Script(*["hi"] * 9)})
    stays = await engine.conversation("stays", agent="boss")
    await stays.say("one")
    first = (await stage.events())[0].cursor
    gone = await engine.conversation("gone", agent="boss")
    await gone.say("one")
    watching = engine.events(0, conversation=gone.record.id)
    seen = [await anext(watching) for _ in range(3)]
    await _prune(engine, "gone")
    with pytest.raises(Pruned):
        await anext(engine.events(first))
    following = engine.events(first, conversation=stays.record.id)
    expected = [event.id for event in await stage.events() if event.conversation][1:]
    assert [(await anext(following)).id for _ in expected] == expected
    rest = [event async for event in watching]
    assert {event.conversation for event in (*seen, *rest)} == {gone.record.id}


async def test_a_listing_of_the_log_reads_over_what_is_gone(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading page by page all that is kept needs no cursor of its own that could be too old."""
    from p2engine.cli import reading

    engine = stage.engine({"boss": Script(*["hi"] * 9)})
    for name in ("one", "two", "three"):
        await (await engine.conversation(name, agent="boss")).say("hello")
    await _prune(engine, "two")
    monkeypatch.setattr(reading, "QUERY_EVENTS_MAX", 2)
    listing = reading.all_events(engine, Query())  # type: ignore[arg-type]  # an engine without its wiring does
    found = [event.id async for event in listing]
    assert found == [event.id for event in await stage.events()]
    with pytest.raises(Pruned):
        await engine.query(Query(after=Cursor(1)))

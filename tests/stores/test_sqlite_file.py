"""The file of the SQLite store: made, reopened, migrated, refused; and what is said when it is damaged."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from p2engine.domain.records import Batch, Cursor, Fact, Query
from p2engine.domain.states import UserMessage
from p2engine.errors import CorruptEntry, NewerFormat, Pruned, StoreError
from p2engine.stores.sqlite import SqliteStore
from p2engine.stores.sqlite_file import STORE, open_file
from p2engine.stores.sqlite_schema import SCHEMA
from p2engine.testing.histories import (
    NOON,
    answered,
    answering,
    asking,
    conversation,
    fact,
    grown,
    noting,
    opening,
    ref,
    thought,
)

DEMO = conversation("demo").id


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A closed file with two conversations: one of two turns, one whose answer is owed."""
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path)
    for batch in (opening(), answering(), asking(head=4), answering(head=6), noting(fact("f1")), opening("other")):
        await store.write(batch)
    await store.aclose()
    return path


def look(path: Path, sql: str) -> Any:
    """One value, read behind the store's back."""
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchone()[0]


def change(path: Path, sql: str, *values: object) -> None:
    """What no P2Engine does: write to the file behind its back."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute(sql, values).rowcount != 0
        db.commit()


async def test_a_closed_store_is_one_file(path: Path) -> None:
    """Closing moves the WAL into the file, and the next one who opens it finds everything."""
    assert [file.name for file in path.parent.iterdir() if file.is_file()] == ["store.db"]
    store = await SqliteStore.open(path)
    assert await store.head(ref("demo")) == 8
    assert await store.owed(ref("other")) == [thought("other")]
    stats = await store.stats()
    assert (stats.conversations, stats.branches, stats.rows, stats.owed) == (2, 2, 6, 1)
    assert (stats.journal, stats.schema) == ("wal", SCHEMA)
    assert await store.check() == []
    await store.aclose()


async def test_seam_17_a_commit_is_one_row(path: Path) -> None:
    """However many entries, effects and settlements a commit has, the log gains one row, and `owed` what is open."""
    store = await SqliteStore.open(path)
    before = await store.stats()
    await store.write(answering("other"))
    after = await store.stats()
    assert (after.rows - before.rows, after.owed) == (1, 0)
    await store.aclose()


async def test_failure_13_a_conversation_grows_by_what_is_said(tmp_path: Path) -> None:
    """400 turns of two texts of 1 KB take little more than their 800 KB."""
    store = await SqliteStore.open(tmp_path / "store.db", sync="OFF")
    await store.write(opening())
    for turn in range(400):
        said = Batch(
            conversation=DEMO,
            writes=(answered("demo", "x" * 1024, head=4 * turn + 2),),
            settles=(thought("demo", 4 * turn + 1),),
        )
        await store.write(said)
        await store.write(asking(text="y" * 1024, head=4 * turn + 4))
    await store.aclose()
    assert (tmp_path / "store.db").stat().st_size < 1_300_000


async def test_failure_14_a_row_that_cannot_be_read_is_named(path: Path) -> None:
    """A corrupt entry is an error that says branch, entry and row; every other stack is read as ever."""
    change(path, "UPDATE log SET body = x'c1' WHERE seq = 2")
    store = await SqliteStore.open(path)
    named = rf"entry 2 of branch {ref('demo')} \(row 2\)"
    with pytest.raises(CorruptEntry, match=named):
        await store.load(ref("demo"))
    with pytest.raises(CorruptEntry, match=named):
        await store.events(Query())
    with pytest.raises(CorruptEntry, match=named):
        await anext(store.tail(Cursor(1, 1)))
    assert [placed.seq for placed in await store.load(ref("demo"), since=4)] == [4, 6]
    assert len(await store.load(ref("other"))) == 1
    (problem,) = await store.check()
    assert "entry 2" in problem
    await store.aclose()


async def test_failure_14_a_row_of_a_later_version_is_named(path: Path) -> None:
    """An entry that a later P2Engine wrote is NewerFormat, whether its shape could be read or not."""
    body = look(path, "SELECT body FROM log WHERE seq = 2")
    for newer in (b"\x92\x02" + body[2:], b"\x92\x63\xc0"):
        change(path, "UPDATE log SET body = ? WHERE seq = 2", newer)
        store = await SqliteStore.open(path)
        with pytest.raises(NewerFormat, match="entry 2 of branch demo"):
            await store.load(ref("demo"))
        await store.aclose()


@pytest.mark.parametrize("body", ["92 63 c0", "c1"])
async def test_seam_29_an_effect_that_cannot_be_read_is_not_taken(path: Path, body: str) -> None:
    """An owed effect that is broken, or of a later version, is refused by name and stays free for others."""
    change(path, "UPDATE owed SET body = ?", bytes.fromhex(body))
    store = await SqliteStore.open(path)
    for _ in range(2):
        with pytest.raises((NewerFormat, CorruptEntry), match=f"owed effect {ref('other')}:1.0"):
            await store.claim(thought("other"), store.owner)
    assert len(await store.due(limit=9)) == 1
    assert len(await store.check()) == 1
    await store.aclose()


async def test_a_hole_in_a_stack_is_found(path: Path) -> None:
    """The check sees an entry that is missing, a row of no branch, and a conversation without its branch."""
    change(path, "DELETE FROM log WHERE seq = 2 AND bid = 1")
    change(path, "UPDATE conversation SET current = 'ghost' WHERE name = 'other'")
    change(path, "DELETE FROM branch WHERE ref = ?", ref("other"))
    store = await SqliteStore.open(path)
    hole, lost, rootless = await store.check()
    assert f"branch {ref('demo')} has entry 4" in hole
    assert "belongs to no branch" in lost
    assert "'other'" in rootless
    await store.aclose()


async def test_a_damaged_file_is_named(path: Path) -> None:
    """A file whose pages are overwritten is an error that names it, from the read and from the check."""
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(1024)
        file.write(b"\xff" * (size - 1024))
    with pytest.raises(StoreError, match=r"store\.db is damaged"):
        await SqliteStore.open(path)


async def test_damage_found_later_is_named(path: Path) -> None:
    """Damage that opening did not meet is an error where it is met, and a finding of the check."""
    store = await SqliteStore.open(path)
    root = look(path, "SELECT rootpage FROM sqlite_master WHERE name = 'log'")
    with path.open("r+b") as file:
        file.seek((root - 1) * 1024)
        file.write(b"\xff" * 1024)
    with pytest.raises(StoreError, match=r"store\.db is damaged"):
        await store.load(ref("demo"))
    assert await store.check() != []
    await store.aclose()


async def test_a_later_schema_is_refused(path: Path) -> None:
    """A file of a later version is NewerFormat, names the file, and is left as it is."""
    change(path, f"PRAGMA user_version = {SCHEMA + 1}")
    before = path.read_bytes()
    with pytest.raises(NewerFormat, match=r"store\.db"):
        await SqliteStore.open(path)
    assert path.read_bytes() == before


async def test_failure_27_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    """Text, another program's database, a directory, a path through nothing: each one line that names it."""
    text, foreign = tmp_path / "text.db", tmp_path / "foreign.db"
    text.write_text("not a database, but long enough to be taken for one\n" * 50)
    change(foreign, "CREATE TABLE theirs(x)")
    for path in (text, foreign):
        before = path.read_bytes()
        with pytest.raises(StoreError, match="is not a P2Engine store"):
            await SqliteStore.open(path)
        assert path.read_bytes() == before
    for path in (tmp_path, tmp_path / "nowhere" / "store.db"):
        with pytest.raises(StoreError, match="cannot be written"):
            await SqliteStore.open(path)


async def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    """A file of no bytes is as good as none."""
    (tmp_path / "store.db").touch()
    store = await SqliteStore.open(tmp_path / "store.db")
    await store.write(opening())
    await store.aclose()


async def test_failure_35_a_file_that_may_not_be_written(path: Path) -> None:
    """A store that may only be read says so when it is written to, keeps reading, and goes on once it may."""
    store = await SqliteStore.open(path, sync="NORMAL")
    store._db.execute("PRAGMA query_only = 1")
    with pytest.raises(StoreError, match=r"store\.db cannot be written"):
        await store.write(asking(head=8))
    assert await store.head(ref("demo")) == 8
    store._db.execute("PRAGMA query_only = 0")
    await store.write(asking(head=8))
    await store.aclose()


STEP = {SCHEMA: "ALTER TABLE conversation ADD COLUMN title TEXT;\nUPDATE conversation SET title = upper(name);\n"}


async def test_an_older_file_is_migrated(path: Path) -> None:
    """An older file is brought up with everything in it, once, after a copy of it was put beside it."""
    for _ in range(2):
        opened = open_file(str(path), sync="FULL", wait_s=1, form=STORE._replace(schema=SCHEMA + 1, migrations=STEP))
        assert opened.reader.execute("SELECT title FROM conversation ORDER BY cid").fetchall() == [
            ("DEMO",),
            ("OTHER",),
        ]
        for db in opened:
            db.close()
    assert look(path, "PRAGMA user_version") == SCHEMA + 1


async def test_a_file_of_the_first_schema_is_migrated(path: Path) -> None:
    """It lacked the index that finds facts of one kind in order, and the names of facts: it has them then."""
    change(path, "DROP INDEX log_of_kind")
    change(path, "DROP TABLE known")
    change(path, "PRAGMA user_version = 1")
    store = await SqliteStore.open(path)
    fact = Fact(id="seen", kind="tool.seen", cause="user", at=NOON, known_as=("sight",))
    await store.write(Batch(conversation=None, facts=(fact,)))
    (seen,) = await store.events(Query(kinds=("tool.seen",)))
    assert (seen.id, await store.known("sight")) == ("seen", seen)
    await store.aclose()
    assert look(path, "PRAGMA user_version") == SCHEMA


async def test_a_copy_is_a_store(path: Path) -> None:
    """The copy that a migration leaves can be opened and written like any store."""
    for db in open_file(str(path), sync="FULL", wait_s=1, form=STORE._replace(schema=SCHEMA + 1, migrations=STEP)):
        db.close()
    copy = await SqliteStore.open(f"{path}.schema-{SCHEMA}")
    assert await copy.head(ref("demo")) == 8
    await copy.write(asking(head=8))
    assert (await copy.stats()).journal == "wal"
    await copy.aclose()


async def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    """When a step fails the file stays at the version it had, and can be opened by it."""
    broken = {SCHEMA: STEP[SCHEMA] + "INSERT INTO nowhere VALUES (1);\n"}
    with pytest.raises(StoreError, match="nowhere"):
        open_file(str(path), sync="FULL", wait_s=1, form=STORE._replace(schema=SCHEMA + 1, migrations=broken))
    store = await SqliteStore.open(path)
    assert await store.head(ref("demo")) == 8
    assert await store.check() == []
    await store.aclose()


async def test_seam_24_a_cursor_below_the_horizon_is_told(path: Path) -> None:
    """Who asks for events after a row that was pruned since is told the horizon; from the start is always allowed."""
    change(path, "UPDATE meta SET value = 3 WHERE name = 'horizon'")
    store = await SqliteStore.open(path)
    with pytest.raises(Pruned, match="up to row 3"):
        await anext(store.tail(Cursor(2, 0)))
    with pytest.raises(Pruned, match="up to row 3"):
        await store.events(Query(after=Cursor(1, 1)))
    assert (await anext(store.tail(Cursor(3, 1)))).cursor.row == 4
    assert await store.events(Query()) != []
    assert (await anext(store.tail(Cursor()))).cursor.row == 1
    await store.aclose()


async def test_seam_24_a_tail_does_not_hold_the_wal_back(tmp_path: Path) -> None:
    """While somebody follows, and stands in the middle of a page, the WAL is still reused and stays small."""
    store = await SqliteStore.open(tmp_path / "store.db", sync="NORMAL")
    await store.write(opening())
    tail = store.tail(Cursor())
    await anext(tail)
    for number in range(150):
        states = [UserMessage(text="x" * 100_000)]
        await store.write(Batch(conversation=DEMO, writes=(grown("demo", 2 + number, states),)))
    assert (tmp_path / "store.db-wal").stat().st_size < 8_000_000
    assert (await anext(tail)).index == 1
    await store.aclose()


@pytest.mark.parametrize("of", ["demo", None])
async def test_failure_34_the_newest_events_cost_the_same_in_a_long_log(tmp_path: Path, of: str | None) -> None:
    """Reading the last 100 events takes as many steps of SQLite in a log of 4,000 rows as in one of 400."""
    store = await SqliteStore.open(tmp_path / "store.db", sync="OFF")
    await store.write(opening("demo"))
    await store.write(opening("loud"))
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    async def newest() -> int:
        nonlocal steps
        steps = 0
        store._read._db.set_progress_handler(count, 1)
        query = Query(newest=True, limit=100, conversation=conversation(of).id if of else None)
        assert len(await store.events(query)) == 100
        store._read._db.set_progress_handler(None, 0)
        return steps

    taken, head = [], 2
    for rows in (400, 4000):
        while head < rows:
            for name in ("demo", "loud"):
                write = grown(name, head, [UserMessage(text="x")])
                await store.write(Batch(conversation=conversation(name).id, writes=(write,)))
            head += 1
        taken.append(await newest())
    assert taken[1] < 1.1 * taken[0]
    await store.aclose()

"""Reads the log as events, by queries and from a cursor on.

Every read is a short one: a page of rows is fetched whole, so no cursor stays open and nothing holds the WAL back.
"""

import sqlite3
from typing import Any

from p2engine.domain.records import Cursor, Event, Query
from p2engine.limits import QUERY_EVENTS_MAX, TAIL_ROWS_MAX
from p2engine.stores.rows import AFTER_ALL, ALL_KINDS, Kinds, Row, check_horizon, events_of, matching

_NO_END = 2**62

_ROWS = """
SELECT log.cursor, log.seq, log.body, b.ref, b.name, b.agent, c.id, c.grp
FROM log {index} LEFT JOIN branch b ON b.bid = log.bid LEFT JOIN conversation c ON c.cid = log.cid
WHERE log.cursor BETWEEN :first AND :last {where} ORDER BY log.cursor {order} LIMIT :rows
"""
_NEXT = _ROWS.format(index="NOT INDEXED", where="", order="ASC")
_KNOWN = "SELECT row FROM known WHERE name = ?"


class Search:
    """One query, read a page at a time."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._kinds = Kinds(query.kinds)
        self._limit = min(query.limit, QUERY_EVENTS_MAX)
        self._first = query.after.row
        self._last = query.before.row if query.before else _NO_END
        self._rows = max(1, min(self._limit, TAIL_ROWS_MAX))
        self._found: list[Event] = []
        self._values: dict[str, Any] = {}
        self._sql = self._statement(query)

    def step(self, db: sqlite3.Connection) -> bool:
        """Read one page; whether there may be more to find. Raises Pruned."""
        if len(self._found) >= self._limit:
            return False
        values = {**self._values, "first": self._first, "last": self._last, "rows": self._rows}
        rows = [Row(*row) for row in db.execute(self._sql, values)]
        if self._query.whole and self._query.conversation is None and self._query.ref is None:
            check_kept(db, self._query.after)
        for row in rows:
            self._found += matching(row, self._kinds, self._query)
            if len(self._found) >= self._limit:
                return False
        if len(rows) < self._rows:
            return False
        self._rows = min(2 * self._rows, TAIL_ROWS_MAX)  # what is asked for seems to be rare
        if self._query.newest:
            self._last = rows[-1].cursor - 1
        else:
            self._first = rows[-1].cursor + 1
        return True

    def found(self) -> list[Event]:
        """What was found, oldest first."""
        found = self._found[: self._limit]
        return found[::-1] if self._query.newest else found

    def _statement(self, query: Query) -> str:
        where, index = _condition(self._kinds, self._values), "NOT INDEXED"
        if query.conversation is not None:
            where += " AND log.cid = (SELECT cid FROM conversation WHERE id = :conversation)"
            index = "INDEXED BY log_conversation"
            self._values["conversation"] = query.conversation
        if query.ref is not None:
            where += " AND log.cid = (SELECT cid FROM branch WHERE ref = :ref) AND b.ref = :ref"
            index = "INDEXED BY log_conversation"
            self._values["ref"] = query.ref
        if query.agent is not None:
            where += " AND b.agent = :agent"
            self._values["agent"] = query.agent
        if not self._kinds.of_commits:
            of_one = query.conversation is not None or query.ref is not None
            index = "INDEXED BY log_kind" if of_one else "INDEXED BY log_of_kind"
        return _ROWS.format(index=index, where=where, order="DESC" if query.newest else "ASC")


def _condition(kinds: Kinds, values: dict[str, Any]) -> str:
    """The SQL that leaves out facts of other kinds, and commits when none of theirs is asked for."""
    if kinds.all:
        return ""
    tests = ["log.kind IS NULL"] if kinds.of_commits else []
    for number, kind in enumerate(sorted(kinds.exact)):
        values[f"kind{number}"] = kind
        if kind in kinds.prefixes:
            values[f"beyond{number}"] = kind[:-1] + "/"  # the character after `.`
            tests.append(f"(log.kind >= :kind{number} AND log.kind < :beyond{number})")
        else:
            tests.append(f"log.kind = :kind{number}")
    facts_only = "" if kinds.of_commits else "AND log.kind IS NOT NULL"
    return f"{facts_only} AND ({' OR '.join(tests)})"


def check_kept(db: sqlite3.Connection, after: Cursor) -> None:
    """Raises Pruned when something after `after` was pruned. (0, 0) means from the oldest that is kept."""
    (horizon,) = db.execute("SELECT value FROM meta WHERE name = 'horizon'").fetchone()
    check_horizon(after, horizon)


def known(db: sqlite3.Connection, name: str) -> Event | None:
    """The fact that is known by this name."""
    found = db.execute(_KNOWN, (name,)).fetchone()
    rows = db.execute(_NEXT, {"first": found[0], "last": found[0], "rows": 1}) if found else ()
    return next((event for row in rows for event in events_of(Row(*row), ALL_KINDS)), None)


def newest(db: sqlite3.Connection) -> int:
    """The newest row's number; 0 in an empty log."""
    return int(db.execute("SELECT coalesce(max(cursor), 0) FROM log").fetchone()[0])


def next_rows(db: sqlite3.Connection, after: Cursor) -> list[Row]:
    """Up to a page of the rows that have events after `after`."""
    # Without gaps: SQLite has one writing transaction at a time, and a row's number is given inside it, so whatever
    # is committed after this read has a greater number than all that it saw.
    first = after.row + (after.item == AFTER_ALL)
    return [Row(*row) for row in db.execute(_NEXT, {"first": first, "last": _NO_END, "rows": TAIL_ROWS_MAX})]

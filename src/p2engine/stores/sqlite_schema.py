"""The tables of the SQLite store, and the steps that bring older files up to them."""

from collections.abc import Mapping

APPLICATION = 0x50324531  # `P2E1` in the file's header: whose file it is
SCHEMA = 3

# A row of `log` is a commit (seq: the index of its first entry; stop: the index after its last) or a fact (its kind,
# and its id in `fact`). UNIQUE(bid, seq) is the head check, AUTOINCREMENT keeps a cursor from ever being used twice.
# cid is in every row, and indexed, so that a conversation's events are read in order without touching anybody else's;
# that costs 3 µs a commit. Facts of one kind are found in order, those of one conversation or of all.
# `owed` holds what is open only, so whoever asks what is due reads all of it: an index for that would cost every step
# more than it saves a sweep. born: the newest row when it came to be owed.
# known: the fact that took each of the names that facts are known as.
TABLES = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE conversation(
  cid INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL UNIQUE, agent TEXT NOT NULL,
  current TEXT NOT NULL, created_at REAL NOT NULL, grp TEXT);
CREATE TABLE branch(
  bid INTEGER PRIMARY KEY, ref TEXT NOT NULL UNIQUE, cid INTEGER NOT NULL, agent TEXT NOT NULL, name TEXT NOT NULL,
  parent INTEGER, at INTEGER NOT NULL, created_at REAL NOT NULL, delegate TEXT, UNIQUE(cid, agent, name));
CREATE TABLE log(
  cursor INTEGER PRIMARY KEY AUTOINCREMENT, bid INTEGER, seq INTEGER, stop INTEGER, cid INTEGER, kind TEXT, fact TEXT,
  body BLOB NOT NULL, UNIQUE(bid, seq));
CREATE INDEX log_conversation ON log(cid);
CREATE INDEX log_kind ON log(kind, cid) WHERE kind IS NOT NULL;
CREATE INDEX log_of_kind ON log(kind) WHERE kind IS NOT NULL;
CREATE UNIQUE INDEX log_fact ON log(fact) WHERE fact IS NOT NULL;
CREATE TABLE owed(
  id TEXT PRIMARY KEY, born INTEGER NOT NULL, kind TEXT NOT NULL, owner TEXT, tries INTEGER NOT NULL,
  started INTEGER NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE known(name TEXT PRIMARY KEY, row INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('horizon', 0);
"""

MIGRATIONS: Mapping[int, str] = {
    1: "CREATE INDEX log_of_kind ON log(kind) WHERE kind IS NOT NULL;",
    2: "CREATE TABLE known(name TEXT PRIMARY KEY, row INTEGER NOT NULL) WITHOUT ROWID;",
}
"""By the schema a file has: the SQL that brings it to the next one, each statement ended by `;` at a line's end."""

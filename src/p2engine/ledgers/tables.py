"""The tables of the embedded ledger: the records, which count, and what is derived from them and kept to be quick."""

from p2engine.stores.sqlite_file import Form

# A record's body is what was linked and sealed; its other columns only find it, and `verify` compares them with it.
# The records of an account are a list: it names its newest, and each the one before, 0 for none. An index would be two
# more pages for every commit to flush.
# Balances are text: they have up to 38 digits. scope: what transfers that share a limit come to.
TABLES = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE account(
  aid INTEGER PRIMARY KEY, book TEXT NOT NULL, name TEXT NOT NULL, instrument TEXT NOT NULL, kind TEXT NOT NULL,
  owner TEXT NOT NULL, balance TEXT NOT NULL, received TEXT NOT NULL, sent TEXT NOT NULL, transfers INTEGER NOT NULL,
  newest INTEGER NOT NULL, UNIQUE(book, name, instrument));
CREATE TABLE record(
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, type TEXT NOT NULL, payer INTEGER, payee INTEGER,
  at REAL NOT NULL, body BLOB NOT NULL, link BLOB NOT NULL, seal BLOB NOT NULL,
  payer_before INTEGER NOT NULL, payee_before INTEGER NOT NULL);
CREATE TABLE scope(
  book TEXT NOT NULL, name TEXT NOT NULL, instrument TEXT NOT NULL, spent TEXT NOT NULL, count INTEGER NOT NULL,
  PRIMARY KEY(book, name, instrument)) WITHOUT ROWID;
CREATE TABLE hold(id TEXT PRIMARY KEY, seq INTEGER NOT NULL, ended_by TEXT) WITHOUT ROWID;
CREATE TABLE checkpoint(
  count INTEGER PRIMARY KEY, peaks BLOB NOT NULL, root BLOB NOT NULL, at REAL NOT NULL, signature TEXT NOT NULL);
INSERT INTO meta VALUES ('ledger', '');
"""

_BEFORE = """max(coalesce((SELECT max(seq) FROM record AS one WHERE one.payer = {0} AND one.seq < record.seq), 0),
  coalesce((SELECT max(seq) FROM record AS one WHERE one.payee = {0} AND one.seq < record.seq), 0))"""

LISTED = f"""
ALTER TABLE account ADD COLUMN newest INTEGER NOT NULL DEFAULT 0;
ALTER TABLE record ADD COLUMN payer_before INTEGER NOT NULL DEFAULT 0;
ALTER TABLE record ADD COLUMN payee_before INTEGER NOT NULL DEFAULT 0;
UPDATE account SET newest = max(coalesce((SELECT max(seq) FROM record WHERE payer = aid), 0),
  coalesce((SELECT max(seq) FROM record WHERE payee = aid), 0));
UPDATE record SET payer_before = {_BEFORE.format("record.payer")}, payee_before = {_BEFORE.format("record.payee")};
DROP INDEX record_payer;
DROP INDEX record_payee;
"""  # noqa: S608 — our words

LEDGER = Form(0x50324C31, 2, TABLES, {1: LISTED}, "ledger")  # `P2L1`

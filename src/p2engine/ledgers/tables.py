"""The tables of the embedded ledger: the records, which count, and what is derived from them and kept to be quick."""

from p2engine.stores.sqlite_file import Form

# A record's body is what was linked and sealed; its other columns only find it, and `verify` compares them with it.
# Balances are text: they have up to 38 digits. scope: what transfers that share a limit come to.
TABLES = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE account(
  aid INTEGER PRIMARY KEY, book TEXT NOT NULL, name TEXT NOT NULL, instrument TEXT NOT NULL, kind TEXT NOT NULL,
  owner TEXT NOT NULL, balance TEXT NOT NULL, received TEXT NOT NULL, sent TEXT NOT NULL, transfers INTEGER NOT NULL,
  UNIQUE(book, name, instrument));
CREATE TABLE record(
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, type TEXT NOT NULL, payer INTEGER, payee INTEGER,
  at REAL NOT NULL, body BLOB NOT NULL, link BLOB NOT NULL, seal BLOB NOT NULL);
CREATE INDEX record_payer ON record(payer) WHERE payer IS NOT NULL;
CREATE INDEX record_payee ON record(payee) WHERE payee IS NOT NULL;
CREATE TABLE scope(
  book TEXT NOT NULL, name TEXT NOT NULL, instrument TEXT NOT NULL, spent TEXT NOT NULL, count INTEGER NOT NULL,
  PRIMARY KEY(book, name, instrument)) WITHOUT ROWID;
CREATE TABLE hold(id TEXT PRIMARY KEY, seq INTEGER NOT NULL, ended_by TEXT) WITHOUT ROWID;
CREATE TABLE checkpoint(
  count INTEGER PRIMARY KEY, peaks BLOB NOT NULL, root BLOB NOT NULL, at REAL NOT NULL, signature TEXT NOT NULL);
INSERT INTO meta VALUES ('ledger', '');
"""

LEDGER = Form(0x50324C31, 1, TABLES, {}, "ledger")  # `P2L1`

"""What `doctor` finds out about the ledger: can it be opened, does it go as far as is known, is its key its holder's.

Quick however long the ledger is: whether each record is as it was written, `ledger verify` says. Makes none.
"""

import stat
from pathlib import Path
from typing import Any

from p2engine.cli.books import off_words
from p2engine.cli.health import Finding
from p2engine.domain.money import RecordQuery
from p2engine.errors import P2EngineError
from p2engine.ledgers.keys import IN_A_FILE, IN_REDIS
from p2engine.ports import AuditableLedger
from p2engine.settings import Settings

NONE = "made by its first use"
HERE = "run `p2engine doctor`"


async def ledger_finding(settings: Settings) -> Finding:
    """The one finding of the check."""
    if not settings.ledger.enabled:
        return Finding("ledger", "ok", off_words(settings))
    look = _in_a_file if settings.store == "sqlite" else _in_redis
    try:
        return await look(settings, settings.layout.keys)
    except P2EngineError as error:
        mend = error.hint.removeprefix(HERE).removeprefix(", and ")  # whoever reads it need not be sent here
        return Finding("ledger", "fail", error.message, mend or "p2engine ledger verify")


async def _in_a_file(settings: Settings, keys: Path) -> Finding:
    path = settings.layout.ledger
    if not path.exists() and not ((keys / "ledger.key").exists() and (keys / IN_A_FILE).exists()):
        return Finding("ledger", "ok", f"{path} ({NONE})")
    from p2engine.ledgers.embedded import EmbeddedLedger

    return await _looked_over(await EmbeddedLedger.open(path, keys), str(path), keys, IN_A_FILE)


async def _in_redis(settings: Settings, keys: Path) -> Finding:
    from p2engine.ledgers.redis import RedisLedger
    from p2engine.ledgers.redis_rows import Names
    from p2engine.stores.redis_server import RedisServer

    server = await RedisServer.open(settings.redis_address, durability="warn")
    client: Any = server.client
    where = f"in {server.address}"
    try:
        meta = Names(server.address.prefix).key("meta")
        is_there = await server.patiently(lambda: client.exists(meta))
        if not is_there and not ((keys / "ledger.key").exists() and (keys / IN_REDIS).exists()):
            return Finding("ledger", "ok", f"{where} ({NONE})")
        return await _looked_over(await RedisLedger.open(server, keys), where, keys, IN_REDIS)
    finally:
        await server.aclose()


async def _looked_over(ledger: AuditableLedger, where: str, keys: Path, head: str) -> Finding:
    """Opened, it goes as far as its head says."""
    try:
        newest = await ledger.records(RecordQuery(book=None, limit=1))
    finally:
        await ledger.aclose()
    key = keys / "ledger.key"
    mode = stat.S_IMODE(key.stat().st_mode)
    if mode & 0o077:
        others = f"{key} can be read by others (mode {mode:04o}): whoever has it can write another history"
        return Finding("ledger", "fail", others, f"chmod 600 {key}")
    if newest and not (keys / head).exists():
        lost = f"{where}: no {head} lies beside its key, so a tail that was cut, or an older copy, cannot be told"
        return Finding("ledger", "warn", lost, "p2engine ledger verify; the next payment writes it again")
    count = newest[-1].seq if newest else 0
    return Finding("ledger", "ok", f"{where}: {count} record{'' if count == 1 else 's'}, as far as its head says")

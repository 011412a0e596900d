"""What `doctor` looks at: each check gives one finding with its mend. Knows where things lie; shows nothing.

A model provider is only asked where there is a key for it, and never for longer than REACH_S.
"""

import asyncio
import platform
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from p2engine.cli.checking import Report, check, summary
from p2engine.cli.options import Options
from p2engine.errors import P2EngineError, SetupError
from p2engine.models.catalogue import OPENAI, Models, ProviderRow, provider_of
from p2engine.models.openai import OPENAI_BASE
from p2engine.settings import Settings
from p2engine.stores.sqlite import SqliteStore
from p2engine.wiring import FORMAT, models_of

PYTHON_MIN: Final = (3, 11)
FREE_LOW_BYTES: Final = 1024**3  # on the disk of the state folder: worth a warning
FREE_MIN_BYTES: Final = 64 * 1024**2  # too little to go on
REACH_S: Final = 3.0  # for all providers together: they are asked at once
DUE_MAX: Final = 1000

Status = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """What one check found. mend: the line that helps, where one does."""

    check: str
    status: Status
    detail: str
    mend: str = ""


async def examine(options: Options) -> AsyncIterator[Finding]:
    """Every check, in the order in which one builds on another."""
    yield _python()
    report = check(options)
    yield _configuration(report)
    settings = report.settings
    if settings is None:
        return
    yield _project(settings)
    yield _writable("home", settings.home)
    yield _format(settings)
    if settings.store == "sqlite":
        for finding in await _store(settings.layout.store):
            yield finding
    for finding in await _servers(settings):
        yield finding
    yield await _ledger(settings)
    yield _disk(settings.home)
    for finding in await _models(report, settings):
        yield finding
    yield _writable("logs", settings.log_path.parent)


def _python() -> Finding:
    version = platform.python_version()
    detail = f"{version} on {platform.system()}, SQLite {sqlite3.sqlite_version}"
    if sys.version_info < PYTHON_MIN:
        return Finding("python", "fail", detail, "install Python 3.11 or later")
    return Finding("python", "ok", detail)


def _configuration(report: Report) -> Finding:
    if report.problems:
        first = str(report.problems[0])
        return Finding("configuration", "fail", f"{summary(report.problems)}: {first}", "p2engine config check")
    if report.warnings:
        return Finding("configuration", "warn", "; ".join(report.warnings), "p2engine config check")
    return Finding("configuration", "ok", ", ".join(report.looked_at) or "built-in defaults")


def _project(settings: Settings) -> Finding:
    if settings.project is None:
        return Finding("project", "ok", "none here: built-in defaults and the shipped agents", "p2engine init")
    return Finding("project", "ok", str(settings.project))


def _nearest(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next((each for each in (path, *path.parents) if each.exists()), path)


def _writable(name: str, folder: Path) -> Finding:
    """Whether files can be made in a folder, or the folder itself can be."""
    there = _nearest(folder)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        mend = "mend its permissions, or choose another folder" + (" with --home" if name == "home" else "")
        return Finding(name, "fail", f"cannot write {there}: {error.strerror}", mend)
    return Finding(name, "ok", str(folder) if there == folder else f"{folder} (made when it is needed)")


def _format(settings: Settings) -> Finding:
    try:
        found = settings.layout.format.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return Finding("format", "ok", f"{FORMAT}, when the state folder is made")
    except (OSError, UnicodeDecodeError) as error:
        return Finding("format", "fail", f"{settings.layout.format} cannot be read: {error}", "restore a copy of it")
    if not found.isdecimal() or int(found) > FORMAT:
        return Finding("format", "fail", f"{found[:20]!r}; this version knows {FORMAT}", "use a later version")
    return Finding("format", "ok", found)


async def _store(path: Path) -> Sequence[Finding]:
    """Is the file sound, can every row be read, and does anything wait for a process that is gone?"""
    if not _exists(path):
        return [Finding("store", "ok", f"{path} (made when it is needed)")]
    try:
        store = await SqliteStore.open(path)
    except P2EngineError as error:
        return [Finding("store", "fail", error.message, error.hint or "restore a copy of it")]
    try:
        return await _look_over(store)
    except P2EngineError as error:
        return [Finding("store", "fail", error.message, error.hint or "restore a copy of it")]
    finally:
        await store.aclose()


async def _look_over(store: SqliteStore) -> Sequence[Finding]:
    problems = await store.check()
    if problems:
        more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
        return [Finding("store", "fail", f"{store.path}: {problems[0]}{more}", "restore a copy of it")]
    stats = await store.stats()
    counts = f"{_counted(stats.conversations, 'conversation')}, {_counted(stats.rows, 'row')}, "
    counts += f"{stats.bytes / 1e6:.1f} MB, sound"
    found = [Finding("store", "ok", f"{store.path}: {counts}")]
    waiting = len(await store.due(limit=DUE_MAX))
    if waiting:
        mend = "p2engine chat resume NAME goes on with one; conversation list shows which are stopped"
        found.append(Finding("owed", "warn", f"{_counted(waiting, 'effect')} owed, and no process is at it", mend))
    return found


def _counted(number: int, what: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


async def _servers(settings: Settings) -> Sequence[Finding]:
    """The servers that these settings name; without any, nothing of them is loaded."""
    if "redis" not in (settings.store, settings.blobs) and settings.dispatch != "celery":
        return []
    from p2engine.cli.health_servers import blobs_finding, dispatch_findings, redis_findings

    found = [*await redis_findings(settings)]
    if settings.dispatch == "celery":
        found += await dispatch_findings(settings, is_reachable=found[0].status != "fail")
    if settings.store == "redis":
        found.append(blobs_finding(settings))
    return found


async def _ledger(settings: Settings) -> Finding:
    from p2engine.cli.health_ledger import ledger_finding  # it gives findings of this module

    return await ledger_finding(settings)


def _exists(path: Path) -> bool:
    return path.exists()


def _disk(home: Path) -> Finding:
    there = _nearest(home)
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Finding("disk", "warn", f"cannot be measured: {error.strerror}")
    detail = f"{free / 1e9:.1f} GB free at {there}"
    status: Status = "fail" if free < FREE_MIN_BYTES else "warn" if free < FREE_LOW_BYTES else "ok"
    return Finding("disk", status, detail, "" if status == "ok" else "make room, or choose another folder with --home")


# Models


async def _models(report: Report, settings: Settings) -> Sequence[Finding]:
    """Every provider that agents use or that has a key."""
    catalogue = models_of(settings)
    try:
        used = dict(_used(report, settings))
        rows = [row for row in catalogue.describe() if row.provider in used or row.key]
        return await asyncio.gather(*(_provider(catalogue, settings, row, used.get(row.provider)) for row in rows))
    finally:
        await catalogue.aclose()


def _used(report: Report, settings: Settings) -> Iterator[tuple[str, str]]:
    """Provider -> one of its models that an agent, or the default, names."""
    default = settings.llm.models.default_model
    yield provider_of(default), default
    for agent in report.roster.agents() if report.roster else ():
        try:
            model = report.roster.describe(agent).model if report.roster else ""
        except SetupError:  # told by the check of the configuration
            continue
        if model:
            yield provider_of(model), model


async def _provider(catalogue: Models, settings: Settings, row: ProviderRow, model: str | None) -> Finding:
    name = f"models.{row.provider}"
    if row.offline:
        mend = f"for real answers: {row.enable}" if row.enable else ""
        return Finding(name, "ok", "the offline stand-in answers", mend)
    try:
        if model is not None:
            catalogue.resolve(model)
    except SetupError as error:
        return Finding(name, "fail", error.message, error.hint)
    base = row.base or (OPENAI_BASE if row.provider == OPENAI and row.key else None)
    if base is None:
        has = "a key is set (not tried: asked through litellm)" if row.key else "not tried: no key is set"
        return Finding(name, "ok", has, row.enable)
    return await _reach(name, base, settings.provider_keys[row.provider].get_secret_value() if row.key else None)


async def _reach(name: str, base: str, key: str | None) -> Finding:
    """Whether the provider answers this key, or without one. Asks for its list of models, which costs nothing."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=REACH_S)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.get(f"{base}/models", allow_redirects=False) as response,
        ):
            status = response.status
    except TimeoutError:
        return Finding(name, "fail", f"{base} gave no answer within {REACH_S:g} s", "check the network and the address")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        why = str(error) or type(error).__name__
        return Finding(name, "fail", f"{base} cannot be reached: {why}", "check the network and the address")
    if status in (401, 403):
        if key is None:
            return Finding(name, "fail", f"{base} wants a key ({status})", "set the key of this provider")
        return Finding(name, "fail", f"{base} refuses the key ({status})", "set another key")
    if status >= 500:
        return Finding(name, "warn", f"{base} answers, with status {status}", "try again later")
    return Finding(name, "ok", f"{base} answers, {'a key is set' if key else 'no key is set'}")

"""What a Redis must be for a log to be safe in it, judged from what it says of itself. Opens no connection."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

VERSION_MIN: Final = 7

Info = Mapping[str, Any]
"""What INFO tells, numbers as numbers."""

Config = Mapping[str, str] | None
"""What CONFIG GET tells; None where it is forbidden, as managed services do."""


class Fault(NamedTuple):
    """What is wrong, to be read after the server's address, and the line that mends it."""

    what: str
    mend: str


class Found(NamedTuple):
    """version: in words. refused: why nothing can be kept there. unsafe: what can lose acknowledged writes."""

    version: str
    refused: Fault | None
    unsafe: tuple[Fault, ...]
    notes: tuple[str, ...]


def judge(info: Info, config: Config) -> Found:
    """What kind of server this is, and what speaks against it."""
    return Found(_version(info), _refused(info), tuple(_unsafe(info, config)), tuple(_notes(info, config)))


def _version(info: Info) -> str:
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', 'of an unknown version')}"


def _refused(info: Info) -> Fault | None:
    major = str(info.get("redis_version", "0")).partition(".")[0]  # Valkey says here which Redis it equals
    if not major.isdecimal() or int(major) < VERSION_MIN:
        return Fault(f"is {_version(info)}", f"use Redis {VERSION_MIN} or later, or Valkey")
    if info.get("redis_mode") == "sentinel":
        return Fault("is a Sentinel, which keeps no data", "give the address of the primary that it watches")
    if info.get("cluster_enabled"):
        why = "is a Redis Cluster: one commit touches keys of many slots, which no script may do there"
        return Fault(why, "use one primary, with Sentinel or a managed fail-over")
    if info.get("role") != "master":
        primary = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
        return Fault(f"is a replica of {primary}, and takes no writes", "give the address of the primary")
    return None


def _unsafe(info: Info, config: Config) -> Iterator[Fault]:
    policy = (config or {}).get("maxmemory-policy") or info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield _wrong("maxmemory-policy", policy, "noeviction")
    if not info.get("aof_enabled", 1):
        yield _wrong("appendonly", "no", "yes")
    fsync = (config or {}).get("appendfsync", "always")
    if fsync != "always":
        yield _wrong("appendfsync", fsync, "always")


def _wrong(setting: str, found: str, wanted: str) -> Fault:
    mend = f"`CONFIG SET {setting} {wanted}` and `{setting} {wanted}` in redis.conf"
    return Fault(f"{setting} is {found}", mend)


def _notes(info: Info, config: Config) -> Iterator[str]:
    if config is None:
        known = "" if "maxmemory_policy" in info else " and maxmemory-policy"
        yield f"its CONFIG is closed to us, so appendfsync{known} could not be checked"
    if "aof_enabled" not in info:
        yield "it does not say whether it has an append-only file"
    if info.get("aof_last_write_status", "ok") != "ok":
        yield "it could not write its append-only file lately: look at its disk"

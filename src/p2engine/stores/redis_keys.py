"""The keys that a Redis store has once each, and whether those that are there are its own. Reads only."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from redis.exceptions import RedisError

from p2engine.errors import NewerFormat, StoreError
from p2engine.stores.redis_server import RedisServer

SCHEMA: Final = 1

KINDS: Final[Mapping[str, str]] = {
    "meta": "hash",
    "log": "stream",
    "facts": "set",
    "known": "hash",
    "conversations": "zset",
    "ungrouped": "zset",
    "words": "zset",
    "names": "hash",
    "free": "zset",
    "holders": "set",
    "pruned": "hash",
    "epochs": "hash",
}
"""Name below the prefix -> its type. Of the others there is one for each conversation, branch, effect or process."""


class Meta(NamedTuple):
    """What stands in `meta`. is_new: nothing yet. cursor: the newest row."""

    is_new: bool
    epoch: int = 0
    cursor: int = 0


async def recognise(server: RedisServer) -> Meta:
    """What the store under the server's prefix says of itself.

    Raises StoreError for a key of somebody else's, NewerFormat for a store of a later version, and what the client
    raises.
    """
    there = await check_kinds(server, KINDS)
    client: Any = server.client
    found = await client.hmget(f"{server.address.prefix}:meta", "schema", "epoch", "cursor", "beat")
    schema, epoch, cursor, _ = found
    if schema is None:
        if "meta" in there and not any(found):
            raise _foreign(server, "meta", "hash with other fields")
        return Meta(is_new=True)
    if not schema.isdigit() or int(schema) > SCHEMA:
        raise NewerFormat(
            f"{server.address} {server.address.prefix}: schema {schema.decode(errors='replace')!r};"
            f" this version knows {SCHEMA}",
            hint="update P2Engine",
        )
    return Meta(is_new=False, epoch=int(epoch or 0), cursor=int(cursor or 0))


async def check_kinds(server: RedisServer, kinds: Mapping[str, str]) -> set[str]:
    """Which of these names there are, in one round trip. Raises StoreError where one is of another type than it says
    here, since somebody else made it, and what the client raises."""
    there = set()
    answers = await server.together([("TYPE", f"{server.address.prefix}:{name}") for name in kinds])
    for (name, kind), answer in zip(kinds.items(), answers, strict=True):
        if isinstance(answer, RedisError):
            raise answer
        found = answer.decode()
        if found == "none":
            continue
        if found != kind:
            raise _foreign(server, name, found)
        there.add(name)
    return there


def _foreign(server: RedisServer, name: str, found: str) -> StoreError:
    return StoreError(
        f"{server.address}: key {f'{server.address.prefix}:{name}'!r} is not ours (a {found})",
        hint="choose another redis.prefix or redis.db",
    )

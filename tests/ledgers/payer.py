"""A process that pays at random until it is killed. Prints the id of each transfer once its receipt is there."""

import asyncio
import sys
from pathlib import Path
from random import Random

from p2engine.domain.money import AccountName, Amount, Transfer
from p2engine.ledgers.door import LedgerDoor
from p2engine.stores.redis_server import RedisAddress, RedisServer

NAMES = [AccountName(f"agent_{number}") for number in range(8)]


def orders(seed: int, count: int) -> list[Transfer]:
    """The same transfers for the same seed."""
    dice = Random(seed)
    made = []
    for number in range(count):
        payer, payee = dice.sample(NAMES, 2)
        amount = Amount(dice.randrange(1, 30 * 10**10))
        made.append(Transfer(id=f"{seed}:{number}", payer=payer, payee=payee, amount=amount, cause="test"))
    return made


async def main(place: Path | RedisServer, keys: Path, seed: int, count: int) -> None:
    ledger = await LedgerDoor(place, keys)()

    async def pay(order: Transfer) -> None:
        (receipt,) = await ledger.transfer(order)
        print(receipt.id, receipt.status, flush=True)

    made = orders(seed, count)
    for start in range(0, count, 20):
        await asyncio.gather(*(pay(order) for order in made[start : start + 20]))
    await ledger.aclose()


async def _begin(where: str, keys: str, seed: str, count: str) -> None:
    """where: the ledger's file, or the port and the prefix of a Redis on loopback."""
    if "/" in where:
        await main(Path(where), Path(keys), int(seed), int(count))
        return
    port, prefix = where.split(":")
    server = await RedisServer.open(
        RedisAddress(host="127.0.0.1", port=int(port), prefix=prefix), durability="warn", wait_s=10
    )
    await main(server, Path(keys), int(seed), int(count))
    await server.aclose()


if __name__ == "__main__":
    asyncio.run(_begin(*sys.argv[1:]))

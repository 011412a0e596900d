"""A process that pays at random until it is killed. Prints the id of each transfer once its receipt is there."""

import asyncio
import sys
from pathlib import Path
from random import Random

from p2engine.domain.money import AccountName, Amount, Transfer
from p2engine.ledgers.embedded import EmbeddedLedger

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


async def main(place: Path, seed: int, count: int) -> None:
    ledger = await EmbeddedLedger.open(place / "ledger.db", place / "keys")

    async def pay(order: Transfer) -> None:
        (receipt,) = await ledger.transfer(order)
        print(receipt.id, receipt.status, flush=True)

    made = orders(seed, count)
    for start in range(0, count, 20):
        await asyncio.gather(*(pay(order) for order in made[start : start + 20]))
    await ledger.aclose()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))

"""What one tool call may do with money: spend its own agent's, within the caps of every turn that it works for.

Whose money it is, and under which id it is paid, comes from the effect; nothing of it from what a model wrote.
"""

from collections.abc import AsyncIterator, Sequence

from p2engine.domain.ids import EffectId, ref_of
from p2engine.domain.money import (
    MAIN_BOOK,
    Account,
    AccountName,
    Amount,
    BookId,
    Limit,
    Receipt,
    Record,
    RecordQuery,
    Transfer,
)
from p2engine.domain.stack import Stack
from p2engine.ports import Ledger
from p2engine.runtime.world import World

MINUTE_S = 60
DAY_S = 86_400


class Purse:
    """The port `Wallet`: of the agent whose stack owes `effect`."""

    def __init__(self, world: World, stack: Stack, effect: EffectId) -> None:
        self._world = world
        self._stack = stack
        self._effect = effect
        self._name = AccountName(stack.agent)
        self._book = BookId(stack.setup.book) or MAIN_BOOK
        self._paid = 0

    async def pay(self, payee: str, amount: Amount, reason: str = "") -> Receipt:
        order = self._effect if not self._paid else f"{self._effect}/{self._paid}"
        self._paid += 1
        transfer = Transfer(
            id=order,
            payer=self._name,
            payee=AccountName(payee),
            amount=amount,
            reason=reason,
            cause=self._effect,
            book=self._book,
            limits=tuple([limit async for limit in self._limits()]),
            wallets=True,
        )
        (receipt,) = await (await self._ledger()).transfer(transfer)
        self._world.moved()
        return receipt

    def again(self) -> "Purse":
        return Purse(self._world, self._stack, self._effect)

    async def balance(self, agent: str | None = None) -> Account | None:
        if agent is not None and ":" in agent:  # an account that is no agent's
            return None
        return await (await self._ledger()).account(AccountName(agent or self._name), book=self._book)

    async def history(self, limit: int) -> Sequence[Record]:
        return await (await self._ledger()).records(RecordQuery(book=self._book, account=self._name, limit=limit))

    async def _ledger(self) -> Ledger:
        assert self._world.ledger is not None
        return await self._world.ledger()

    async def _limits(self) -> AsyncIterator[Limit]:
        caps, now, name = self._world.caps, self._world.clock.now(), self._name
        if caps.per_transfer is not None:
            says = f"{name} may pay at most {caps.per_transfer} at once"
            yield Limit(scope=f"order:{self._effect}", amount=caps.per_transfer, says=says)
        if caps.per_turn is not None:
            says = f"one turn may pay at most {caps.per_turn}, all that it delegates included"
            async for turn in self._turns():
                yield Limit(scope=turn, amount=caps.per_turn, says=says)
        if caps.per_day is not None:
            says = f"{name} may pay at most {caps.per_day} a day"
            yield Limit(scope=f"day:{int(now // DAY_S)}:{name}", amount=caps.per_day, says=says)
        if caps.per_agent is not None:
            says = f"{name} may pay at most {caps.per_agent} in all"
            yield Limit(scope=f"agent:{name}", amount=caps.per_agent, says=says)
        if caps.per_minute is not None:
            says = f"{name} may make at most {caps.per_minute} payments a minute"
            yield Limit(scope=f"minute:{int(now // MINUTE_S)}:{name}", count=caps.per_minute, says=says)

    async def _turns(self) -> AsyncIterator[str]:
        """The turn that pays, the one that delegated to it, and so on up to the root's."""
        stack = self._stack
        yield f"turn:{stack.ref}:{stack.turn}"
        while stack.caller is not None:
            stack = await self._world.stacks.get(ref_of(stack.caller.effect))
            yield f"turn:{stack.ref}:{stack.turn}"

"""Results that are kept for a while, and what drops them."""

import asyncio
from typing import Any

import pytest

from p2engine.errors import ToolError
from p2engine.ports import ToolContext
from p2engine.testing.doubles import ManualClock
from p2engine.tools.function import FunctionTool, function_tool
from p2engine.tools.registry import Registry
from p2engine.tools.running import Runner
from tests.tools.tool_context import context


class Bank:
    """A balance that a tool reads and another changes; it counts how often it was read."""

    def __init__(self) -> None:
        self.balance = 100
        self.reads = 0
        self.failing = False


def read_tool(bank: Bank, *, with_context: bool, module: str = "bank") -> FunctionTool[..., Any]:
    async def shared(account: str = "mine") -> str:
        bank.reads += 1
        if bank.failing:
            raise ToolError("closed")
        return f"{account}: {bank.balance}"

    async def own(ctx: ToolContext, account: str = "mine") -> str:
        return await shared(account)

    body = own if with_context else shared
    body.__module__ = module
    return function_tool(name="balance", side_effect_free=True, cache_ttl=60)(body)


def write_tool(bank: Bank, *, module: str = "bank") -> FunctionTool[..., Any]:
    async def transfer(amount: int) -> str:
        bank.balance -= amount
        if bank.balance < 0:
            raise ToolError("in the red")
        return "paid"

    transfer.__module__ = module
    return function_tool(transfer)


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def runner(clock: ManualClock, *tools: FunctionTool[..., Any]) -> Runner:
    return Runner(Registry(tools), now=clock.now)


async def test_a_success_is_kept_for_its_time(bank: Bank, clock: ManualClock) -> None:
    """An equal call within cache_ttl is answered without running; after it, the tool runs again."""
    run = runner(clock, read_tool(bank, with_context=False))

    for seconds, reads in [(0, 1), (59, 1), (2, 2)]:
        clock.time += seconds
        await run("balance", {"account": "a"}, context())
        assert bank.reads == reads


async def test_the_order_of_arguments_makes_no_other_call(clock: ManualClock) -> None:
    """Calls are equal by their arguments, not by how they were written down."""
    ran: list[int] = []

    @function_tool(side_effect_free=True, cache_ttl=5)
    async def add(a: int, b: int) -> int:
        ran.append(1)
        return a + b

    run = runner(clock, add)
    await run("add", {"a": 1, "b": 2}, context())
    await run("add", {"b": 2, "a": 1}, context())
    await run("add", {"b": 1, "a": 2}, context())

    assert len(ran) == 2


async def test_failure_22_errors_are_not_cached(bank: Bank, clock: ManualClock) -> None:
    """A failed call is not remembered: the next one runs, and answers."""
    run = runner(clock, read_tool(bank, with_context=False))

    bank.failing = True
    failed = await run("balance", {}, context())
    bank.failing = False
    then = await run("balance", {}, context())

    assert (failed.status, then.status, bank.reads) == ("error", "ok", 2)


@pytest.mark.parametrize("amount", [30, 130])
@pytest.mark.parametrize("with_context", [True, False])
async def test_failure_22_a_balance_after_a_transfer_is_the_new_one(
    bank: Bank, clock: ManualClock, with_context: bool, amount: int
) -> None:
    """A tool with side effects, done or failed, drops what tools of its module gave before."""
    run = runner(clock, read_tool(bank, with_context=with_context), write_tool(bank))

    await run("balance", {}, context())
    await run("transfer", {"amount": amount}, context())

    assert (await run("balance", {}, context())).content == f"mine: {100 - amount}"


@pytest.mark.parametrize(
    ("with_context", "conversation", "reads"),
    [
        (True, "c1", 2),  # it knows who calls, and its conversation did something
        (True, "c2", 1),
        (False, "c1", 1),  # it knows nobody, and is of another module
    ],
)
async def test_effects_of_other_modules_drop_what_the_conversation_made(
    bank: Bank, clock: ManualClock, with_context: bool, conversation: str, reads: int
) -> None:
    """An effect elsewhere drops results of the same conversation only, and only those that may depend on it."""
    run = runner(clock, read_tool(bank, with_context=with_context, module="bank"), write_tool(bank, module="mail"))

    await run("balance", {}, context("c1"))
    await run("transfer", {"amount": 1}, context(conversation))
    await run("balance", {}, context("c1"))

    assert bank.reads == reads


async def test_results_are_shared_only_where_nobody_is_known(bank: Bank, clock: ManualClock) -> None:
    """Without a context one result serves all conversations; with it, each agent of each conversation has its own."""
    who = [context("c1", "alice"), context("c1", "bob"), context("c2", "alice"), context("c1", "alice")]
    shared = runner(clock, read_tool(bank, with_context=False))
    for ctx in who:
        await shared("balance", {}, ctx)
    assert bank.reads == 1

    own = runner(clock, read_tool(bank, with_context=True))
    for ctx in who:
        await own("balance", {}, ctx)
    assert bank.reads == 1 + 3


async def test_a_read_that_an_effect_overtook_is_not_kept(bank: Bank, clock: ManualClock) -> None:
    """What was read before an effect and came back after it may be old: it answers its call and is forgotten."""
    began, go_on = asyncio.Event(), asyncio.Event()

    @function_tool(side_effect_free=True, cache_ttl=60)
    async def balance() -> str:
        seen = bank.balance
        began.set()
        await go_on.wait()
        return str(seen)

    run = runner(clock, balance, write_tool(bank, module=__name__))
    slow = asyncio.ensure_future(run("balance", {}, context()))
    await began.wait()
    await run("transfer", {"amount": 1}, context())
    go_on.set()

    assert (await slow).content == "100"
    assert (await run("balance", {}, context())).content == "99"


async def test_a_reloaded_tool_starts_afresh(bank: Bank, clock: ManualClock) -> None:
    """A tool of the same text from a new load is another tool: what it calls may have changed."""
    registry = Registry()
    run = Runner(registry, now=clock.now)

    for _ in range(2):
        registry.exchange([read_tool(bank, with_context=False)])
        await run("balance", {}, context())

    assert bank.reads == 2


async def test_the_cache_is_bounded(bank: Bank, clock: ManualClock) -> None:
    """The results that were not used for longest go first."""
    from p2engine.tools.cache import ResultCache, key_of

    tool = read_tool(bank, with_context=False).tool
    cache = ResultCache(clock.now, entries_max=2)
    keys = [key_of(tool, {"account": str(number)}, context()) for number in range(3)]
    outcome = await tool({}, context())

    for key in keys[:2]:
        with cache.flight(key, tool) as flight:
            cache.keep(flight, outcome)
    cache.get(keys[0], tool)
    with cache.flight(keys[2], tool) as flight:
        cache.keep(flight, outcome)

    assert [cache.get(key, tool) is not None for key in keys] == [True, False, True]

"""The tools that agents earn and spend with. Knows the port `Wallet` only: whose money it is, no argument can say."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from p2engine.domain.money import Account, Amount, Receipt, Record
from p2engine.errors import ToolError, UsageError
from p2engine.limits import NAME_BYTES_MAX, REASON_BYTES_MAX
from p2engine.ports import ToolContext, Wallet
from p2engine.tools.function import FunctionTool, function_tool
from p2engine.tools.registry import NO_LEDGER


def _exact(value: object) -> object:
    """An amount stays as it was written: neither true nor a list is one."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("expected an amount such as 12.5")  # noqa: TRY004 — pydantic wants this one
    return value


Agent = Annotated[str, Field(min_length=1, max_length=NAME_BYTES_MAX)]
Written = Annotated[str | int | float, BeforeValidator(_exact)]
Reason = Annotated[str, Field(max_length=REASON_BYTES_MAX)]
RETRIES = 2  # of a payment whose outcome is unknown: the same order again is paid once
Few = Annotated[int, Field(ge=1, le=100)]


@function_tool(side_effect_free=True)
async def check_balance(ctx: ToolContext, agent_id: Agent | None = None) -> dict[str, Any]:
    """Look up how much money an agent has.

    Args:
        agent_id: whose balance; your own if left out
    """
    account = await _wallet(ctx).balance(agent_id)
    if account is None:
        why = f"{agent_id or ctx.agent} has no wallet; the operator opens it with `p2engine ledger init`, unless"
        why += " agents.yml says `wallet: false`"
        if agent_id is not None and ":" in agent_id:
            why = f"{agent_id!r} is no agent"
        return {"status": "error", "error": why}
    return {"status": "success", **_shown(account)}


@function_tool(idempotent=True, retries=RETRIES)
async def transfer_funds(to_agent: Agent, amount: Written, ctx: ToolContext, reason: Reason = "") -> dict[str, Any]:
    """Pay another agent out of your own wallet.

    Args:
        to_agent: who is paid
        amount: how much, such as 12.5; at most 10 digits after the point
        reason: what it is for
    """
    return _told(await _wallet(ctx).pay(to_agent, _amount(amount), reason))


@function_tool(idempotent=True, retries=RETRIES)
async def reward_agent(agent_id: Agent, ctx: ToolContext, amount: Written = 10, reason: Reason = "") -> dict[str, Any]:
    """Reward another agent for its work, out of your own wallet.

    Args:
        agent_id: who is rewarded
        amount: how much, such as 12.5; at most 10 digits after the point
        reason: what it is for
    """
    return _told(await _wallet(ctx).pay(agent_id, _amount(amount), reason or "reward"))


@function_tool(side_effect_free=True)
async def transaction_history(ctx: ToolContext, limit: Few = 20) -> dict[str, Any]:
    """List your newest transactions, oldest first.

    Args:
        limit: how many at most
    """
    records = await _wallet(ctx).history(limit)
    return {"status": "success", "transactions": [_line(record) for record in records]}


def payment_tools() -> tuple[FunctionTool[..., Any], ...]:
    """All of them."""
    return check_balance, transfer_funds, reward_agent, transaction_history


def _wallet(ctx: ToolContext) -> Wallet:
    if ctx.wallet is None:
        raise ToolError(NO_LEDGER)
    return ctx.wallet


def _amount(value: str | float) -> Amount:
    try:
        return Amount.parse(value)
    except UsageError as error:
        raise ToolError(str(error)) from None


def _shown(account: Account) -> dict[str, Any]:
    return {"agent": account.name, "balance": str(account.balance), "instrument": account.balance.instrument}


def _told(receipt: Receipt) -> dict[str, Any]:
    said = {"id": receipt.id, "payee": receipt.payee, "amount": str(receipt.amount)}
    if receipt.status == "unknown":
        raise ToolError("the ledger has not answered: the outcome is unknown", retryable=True)
    if not receipt.is_paid:
        return {"status": "error", "error": f"not paid: {receipt.why}", **said}
    return {"status": "success", **said, "balance": str(receipt.left) if receipt.left else None}


def _line(record: Record) -> dict[str, Any]:
    line = {"id": record.id, "type": record.type, "payer": record.payer, "payee": record.payee}
    line |= {"amount": record.amount, "reason": record.reason, "status": record.status}
    return line | ({"why": record.why} if record.why else {})

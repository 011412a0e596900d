"""`agent list · show`: who the agents are, as the files say."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2engine.cli.books import off_words
from p2engine.cli.options import group
from p2engine.cli.output import Output
from p2engine.cli.session import run_with_engine
from p2engine.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2engine.domain.ids import AgentId
    from p2engine.wiring import Engine


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    agent = group("Look at the agents.")
    agent.command("list")(list_all)
    agent.command("show")(show)
    app.add_typer(agent, name="agent")


def list_all(ctx: typer.Context) -> None:
    """List the agents: source, model, tools (withheld ones with the reason)."""

    async def body(engine: "Engine", output: Output) -> None:
        rows = [_row(engine, agent) for agent in engine.roster.agents()]
        cells = [(row["id"], _decider(row), _tools(row), row["problem"] or row["source"]) for row in rows]
        output.table("", ("agent", "model", "tools", "source"), cells, rows)
        for why in dict.fromkeys(why for row in rows for why in row["withheld"].values()):
            output.line(f"* withheld: {why}")
        output.next("p2engine chat with AGENT")

    run_with_engine(ctx, body)


def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="AGENT", help="The agent's name in config/agents.yml.")],
) -> None:
    """Show an agent: source, model, persona, tools, whom it may ask, budget, wallet."""

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.domain.ids import AgentId

        engine.roster.describe(AgentId(name))
        row = _row(engine, AgentId(name))
        row["withheld"] = _with_source(engine, row["withheld"])
        row["wallet"] = wallet = await _wallet(engine, AgentId(name))
        budget = ", ".join(f"{key} {value}" for key, value in row["budget"].items() if value is not None)
        fields = {
            "agent": row["id"],
            "source": row["source"],
            "type": row["type"],
            "model": _model(row),
            "persona": row["persona"] or "none",
            "tools": ", ".join(row["tools"]) or "none",
            **({"withheld": "; ".join(_withheld(row))} if row["withheld"] else {}),
            "delegates": ", ".join(row["delegates"]) or "nobody",
            "render": row["render_policy"],
            "budget": budget or "no limits of its own",
            "wallet": _wallet_words(wallet) if engine.world.ledger else f"none: {off_words(engine.settings)}",
        }
        width = max(map(len, fields))
        output.document(row, "\n".join(f"{key:<{width}}  {value}" for key, value in fields.items()))
        output.next(f"p2engine chat with {name}")

    run_with_engine(ctx, body)


async def _wallet(engine: "Engine", agent: "AgentId") -> dict[str, Any] | None:
    """What it is opened with, what it has, and whose it is; None where it has none. Makes no ledger."""
    from p2engine.domain.money import AccountName
    from p2engine.wiring.wallets import openings

    if engine.world.ledger is None:
        return None
    account = None
    if engine.world.has_ledger():
        account = await (await engine.world.ledger()).account(AccountName(agent))
    opening = next(iter(openings(engine.roster, engine.settings, agent=agent)), None)
    if opening is None and account is None:
        return None
    initial = str(opening.initial) if opening is not None else None
    if account is not None:
        return {"initial": initial, "balance": str(account.balance), "owner": account.owner}
    return {"initial": initial, "balance": None, "owner": opening.owner if opening is not None else None}


def _wallet_words(wallet: dict[str, Any] | None) -> str:
    if wallet is None:
        return "none"
    if wallet["balance"] is None:
        return f"not open yet: {wallet['initial']} CREDIT, owner {wallet['owner']}, by p2engine ledger init"
    return f"{wallet['balance']} CREDIT, owner {wallet['owner']}"


def _model(row: dict[str, Any]) -> str:
    if not row["model"]:
        return "–"
    return f"{row['model']} (offline stand-in)" if row["offline"] else str(row["model"])


def _decider(row: dict[str, Any]) -> str:
    """Who decides for an agent: its model, else what it is."""
    return _model(row) if row["model"] else row["type"] or "–"


def _tools(row: dict[str, Any]) -> str:
    """Its tools by name, those that its model does not get with a star."""
    return ", ".join([*row["tools"], *(f"{tool}*" for tool in row["withheld"])]) or "none"


def _with_source(engine: "Engine", withheld: "Mapping[str, str]") -> dict[str, str]:
    """Reasons as they are, but who switched the ledger off."""
    from p2engine.tools.registry import NO_LEDGER

    return {tool: off_words(engine.settings) if why == NO_LEDGER else why for tool, why in withheld.items()}


def _withheld(row: dict[str, Any]) -> list[str]:
    """Tools by the reason for which their model does not get them."""
    reasons: dict[str, list[str]] = {}
    for tool, why in row["withheld"].items():
        reasons.setdefault(why, []).append(tool)
    return [f"{', '.join(tools)} ({why})" for why, tools in reasons.items()]


def _row(engine: "Engine", agent: "AgentId") -> dict[str, Any]:
    """An agent as programs see it; `problem` says why it cannot act, where it cannot."""
    row: dict[str, Any] = {"id": agent, "source": None, "type": None, "model": None, "offline": None, "persona": None}
    row |= {"tools": [], "withheld": {}, "delegates": [], "render_policy": None, "budget": {}, "problem": None}
    try:
        found = engine.roster.describe(agent)
    except SetupError as error:
        return row | {"problem": str(error)}
    render = found.render
    return row | {
        "source": found.source,
        "type": found.type,
        "model": found.model or None,
        "offline": engine.models.is_offline(found.model) if found.model else None,
        "persona": found.persona or None,
        "tools": list(found.tools),
        "withheld": found.withheld,
        "delegates": list(found.delegates),
        "render_policy": render.kind if render.kind == "full" else f"{render.kind}:{render.n}",
        "budget": {name: getattr(found.budget, name) for name in found.budget.__struct_fields__},
    }

"""`doctor`: what works here and what does not, one line each with its mend. Changes nothing but what it makes sure of.

Each check stands alone: one that fails does not hide the next.
"""

from typing import TYPE_CHECKING, Any

import typer

from p2engine.cli.options import options_of
from p2engine.cli.output import Output
from p2engine.cli.session import run_alone

if TYPE_CHECKING:
    from p2engine.cli.health import Finding


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("doctor")(doctor)


def doctor(ctx: typer.Context) -> None:
    """Check Python, configuration, folders, store, ledger, disk, models, each with its mend. Exit 1 where one fails."""
    options = options_of(ctx)

    async def body(output: Output) -> int:
        from p2engine.cli.health import examine

        findings = [finding async for finding in examine(options)]
        rows = [_row(finding) for finding in findings]
        cells = [(row["status"], row["check"], _said(row)) for row in rows]
        output.table("", ("", "check", "found"), cells, rows)
        return 1 if any(finding.status == "fail" for finding in findings) else 0

    run_alone(ctx, body)


def _row(finding: "Finding") -> dict[str, Any]:
    return {
        "check": finding.check,
        "status": finding.status,
        "detail": finding.detail,
        "mend": finding.mend or None,
    }


def _said(row: dict[str, Any]) -> str:
    return f"{row['detail']} → {row['mend']}" if row["mend"] else str(row["detail"])

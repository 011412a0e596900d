"""`fsm`: the successor table as it stands in the domain, as a table and as a diagram. Knows no engine."""

from typing import TYPE_CHECKING, Annotated

import typer

from p2engine.cli.session import output_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("fsm")(fsm)


def fsm(
    ctx: typer.Context,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="As a Mermaid state diagram.")] = False,
) -> None:
    """Print which state may follow which. Messages inside an open wait, and overrides, may stand anywhere."""
    output = output_of(ctx)
    if mermaid:
        diagram = "\n".join(diagram_lines())
        output.document({"mermaid": diagram}, diagram)
        return
    rows = [{"state": state, "next": following} for state, following in table()]
    output.table("", ("state", "may be followed by"), [(row["state"], ", ".join(row["next"])) for row in rows], rows)


def table() -> list[tuple[str, list[str]]]:
    """Each state with those that may follow it, in the order of the domain."""
    from p2engine.domain.states import STATES, SUCCESSORS, name_of

    grounds = [None, *(state for state in STATES if state in SUCCESSORS)]
    return [(name_of(each), [name_of(state) for state in STATES if state in SUCCESSORS[each]]) for each in grounds]


def diagram_lines() -> "Iterator[str]":
    """The same as a Mermaid state diagram; `[*]` is the empty stack."""
    yield "stateDiagram-v2"
    for state, following in table():
        before = "[*]" if state == "(start)" else state
        for after in following:
            yield f"    {before} --> {after}"

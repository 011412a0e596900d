"""The successor table as the command line prints it."""

from __future__ import annotations

from p2engine.domain.states import STATES, SUCCESSORS, name_of
from tests.cli.project import Run


def pairs() -> set[tuple[str, str]]:
    return {(name_of(before), name_of(after)) for before, following in SUCCESSORS.items() for after in following}


def test_the_table_is_the_one_the_machine_keeps(here: Run) -> None:
    """Every successor the domain allows, and none that it does not."""
    rows = here("fsm", "--json").document
    assert {(row["state"], after) for row in rows for after in row["next"]} == pairs()
    assert rows[0] == {"state": "(start)", "next": ["UserMessage"]}


def test_the_diagram_is_mermaid(here: Run) -> None:
    """One arrow a successor, the empty stack as the start; every name one that Mermaid takes."""
    first, *arrows = here("fsm", "--mermaid").out.splitlines()

    assert first == "stateDiagram-v2"
    drawn = [tuple(arrow.strip().split(" --> ")) for arrow in arrows]
    assert {("(start)" if before == "[*]" else before, after) for before, after in drawn} == pairs()
    assert {after for _, after in drawn} <= {name_of(state) for state in STATES}
    assert here("fsm", "--mermaid", "--json").document["mermaid"].startswith("stateDiagram-v2\n")

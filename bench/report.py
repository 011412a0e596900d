"""Rows as text for a terminal and as Markdown tables between markers. Knows layout only."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.rows import PeerRow, Row, shown

TITLES = {
    "work1": "Work 1: conversations of 11 steps",
    "work1_http": "Work 1 over HTTP, the server in another process",
    "work2": "Work 2: 500 conversations, 100 at once, 50 ms a model call",
    "work4": "Work 4: one long conversation",
    "work5": "Work 5: branches of a conversation of 500 steps",
    "tail": "Reading the log",
    "imports": "Starting",
    "idle": "Idle conversations",
    "distributed": "Distributed: a client, one worker, one server with an append-only file",
    "distributed_idle": "Distributed: idle, and starting",
    "ledger": "The embedded ledger, each commit flushed",
    "rollout_overhead": "What running a rollout adds to its models",
    "rollout_memory": "A rollout of 1,000 trials",
    "rollout_report": "The report of a rollout of 100,000 trials",
}


def target_of(row: Row) -> str:
    """The target in words; empty without one."""
    if row.target is None:
        return ""
    return f"{'≥' if row.at_least else '≤'} {shown(row.target)}"


def verdict_of(row: Row) -> str:
    """Whether the target was reached."""
    return {None: "", True: "met", False: "**missed**"}[row.is_met]


def range_of(row: Row) -> str:
    """The least and the greatest round."""
    return f"{shown(min(row.values))}–{shown(max(row.values))}" if len(row.values) > 1 else ""


def line(row: Row) -> str:
    """One row for a terminal."""
    ratio = f"{shown(row.ratio)} × {row.limit}" if row.ratio is not None else ""
    target = f"{target_of(row)} {verdict_of(row).strip('*')}".strip()
    figure = f"{shown(row.value)} {row.unit}"
    return f"  {row.what:44} {figure:26} {range_of(row):16} {target:16} {ratio}".rstrip()


def table(rows: Sequence[Row]) -> str:
    """All rows as Markdown, a table a bench."""
    parts = []
    for bench, title in TITLES.items():
        own = [row for row in rows if row.bench == bench]
        if not own:
            continue
        parts += [
            f"### {title}\n",
            "| what | over the limit beside it | result | least–most | target | |",
            "|---|---|---|---|---|---|",
        ]
        for row in own:
            ratio = f"{shown(row.ratio)} × {row.limit}" if row.ratio is not None else ""
            result = f"{shown(row.value)} {row.unit}"
            cells = (row.what, ratio, result, range_of(row), target_of(row), verdict_of(row))
            parts.append("| " + " | ".join(cells) + " |")
        parts.append("")
    return "\n".join(parts)


def peer_line(row: PeerRow) -> str:
    """One row of a peer for a terminal."""
    times = f"{shown(row.value / row.ours)} × ours" if row.ours else ""
    return f"  {row.work:6} {row.peer:44} {row.what:26} {shown(row.value)} {row.unit:16} {times}".rstrip()


def peer_table(rows: Sequence[PeerRow]) -> str:
    """All rows of peers as one Markdown table, ratios first."""
    parts = ["| work | system | what | over ours | its figure | ours |", "|---|---|---|---|---|---|"]
    for row in rows:
        ratio = f"**{shown(row.value / row.ours)} ×**" if row.ours else ""
        ours = f"{shown(row.ours)} {row.unit}" if row.ours is not None else ""
        figure = f"{shown(row.value)} {row.unit}"
        parts.append("| " + " | ".join((row.work, row.peer, row.what, ratio, figure, ours)) + " |")
    return "\n".join([*parts, ""])


def machine_list(machine: Mapping[str, str]) -> str:
    """The machine as a Markdown list."""
    return "\n".join(f"- {what}: {words}" for what, words in machine.items()) + "\n"


def write_between(page: Path, name: str, body: str) -> None:
    """Put `body` between the markers of that name. Raises SystemExit where the page has no such markers."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = page.read_text()
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{page} has no {begin} … {end}")
    page.write_text(pattern.sub(lambda _: f"{begin}\n\n{body}\n{end}", text))

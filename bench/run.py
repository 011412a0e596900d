"""Runs the benches, each in a process of its own, and says what they found.

python -m bench                    all of ours, about five minutes
python -m bench work1 work5        these
python -m bench --quick            fewer rounds, shorter histories
python -m bench distributed distributed_idle      a client, a worker and a Redis, each a process of its own
python -m bench --peers            the peers as well, beside ours (./bench/peers/setup.sh installs them)
python -m bench --write docs/performance.md      with names: the tables whose benches are all named
"""

import argparse
import asyncio
import importlib
import json
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # run as a file
    sys.path.insert(0, str(ROOT))

from bench import machine, report  # noqa: E402
from bench.beside import run_peers  # noqa: E402
from bench.rows import Row, row_of  # noqa: E402

BENCHES = {
    "work1": "bench.steps",
    "work1_http": "bench.steps",
    "work2": "bench.together",
    "work4": "bench.history",
    "work5": "bench.history",
    "tail": "bench.log",
    "imports": "bench.process",
    "idle": "bench.process",
    "distributed": "bench.distributed",
    "distributed_idle": "bench.distributed",
    "rollout_overhead": "bench.rollouts",
    "rollout_memory": "bench.rollouts",
    "rollout_report": "bench.reports",
    "ledger": "bench.ledger",
}
TABLES = {
    "results": [name for name in BENCHES if not name.startswith(("distributed", "rollout", "ledger"))],
    "ledger": ["ledger"],
    "rollouts": [name for name in BENCHES if name.startswith("rollout")],
    "distributed": [name for name in BENCHES if name.startswith("distributed")],
}
"""The tables of a page, by their markers, and the benches that are in each."""
PEER_WORKS = ("work1", "work2", "work4", "work5")
BENCH_S_MAX = 1200  # one bench that takes longer is stuck


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for. The status is 1 when a bench failed; a missed target is a result."""
    given = parsed(arguments)
    if given.inside:
        rows = asyncio.run(getattr(importlib.import_module(BENCHES[given.inside]), given.inside)(quick=given.quick))
        print(json.dumps([asdict(row) for row in rows]))
        return 0
    found = machine.description()
    print(report.machine_list(found))
    rows, failed, paces = [], [], [machine.pace_ms()]
    for name in given.names or ([] if given.only_peers else BENCHES):
        print(report.TITLES[name], flush=True)
        try:
            own = run_apart(name, quick=given.quick)
        except RuntimeError as error:
            print(f"  failed: {error}", flush=True)
            failed.append(name)
            continue
        print("\n".join(map(report.line, own)), flush=True)
        rows += own
        paces.append(machine.pace_ms())
    found["pace"] = (
        f"a fixed loop took {min(paces):.1f} ms at best and {max(paces):.1f} ms at worst between the benches"
    )
    print(f"pace: {found['pace']}")
    peers = run_peers(PEER_WORKS, run_apart, quick=given.quick) if given.peers or given.only_peers else []
    print("\n".join(map(report.peer_line, peers)))
    if given.json:
        body = {"machine": found, "rows": [asdict(row) for row in rows], "peers": [asdict(row) for row in peers]}
        given.json.write_text(json.dumps(body, indent=1) + "\n")
    for table in tables_of(given.names or BENCHES) if given.write and rows else ():
        own = [row for row in rows if row.bench in TABLES[table]]
        lost = "".join(f"\n{name} failed in this run and is not here.\n" for name in failed if name in TABLES[table])
        report.write_between(given.write, table, report.machine_list(found) + "\n" + report.table(own) + lost)
    if given.write and peers:
        report.write_between(given.write, "peers", report.machine_list(found) + "\n" + report.peer_table(peers))
    return 1 if failed else 0


def tables_of(names: Collection[str]) -> list[str]:
    """The tables whose benches are all among these."""
    return [table for table, benches in TABLES.items() if set(benches) <= set(names)]


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="name", help=f"which: {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, shorter histories")
    parser.add_argument("--peers", action="store_true", help="the peers as well")
    parser.add_argument("--only-peers", action="store_true", help="the peers, and of ours only what stands beside them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the tables between the markers of that page")
    parser.add_argument("--inside", choices=BENCHES, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.names) - set(BENCHES)):
        parser.error(f"there is no bench {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    whole = {name for table in tables_of(given.names or BENCHES) for name in TABLES[table]}
    if given.write and (given.quick or set(given.names) - whole):
        parser.error(f"--write puts whole tables on the page: not --quick, and of {list(TABLES.values())} all or none")
    return given


def run_apart(name: str, *, quick: bool) -> list[Row]:
    """The rows of one bench, run in a process of its own. Raises RuntimeError with the last line of what it said."""
    command = [sys.executable, "-m", "bench", "--inside", name, *(["--quick"] if quick else [])]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BENCH_S_MAX, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not done after {BENCH_S_MAX} s") from None
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or "no word").splitlines()[-1])
    return [row_of(found) for found in json.loads(done.stdout.splitlines()[-1])]


if __name__ == "__main__":
    sys.exit(main())

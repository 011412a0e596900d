"""BFCL's 200 scenarios of `multi_turn_base` through p2engine, played by agents whose success rates are known.

Writes a project, has `p2engine rollout start` run it, and sets what it found beside what is known.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BFCL = "2026.3.23"
CHECK = "bfcl"
ROUNDING = 1e-9
KNOWN = {"noisy_80": 0.8, "gold": 1.0, "noisy_90": 0.9, "other_80": 0.8, "noisy_60": 0.6, "null": 0.0}
"""The agents, each with the probability that it does a scenario right. The first is what the others are compared to."""

MESSAGE = """\
Scenario {{ task.id }}. First call open_scenario with it. Then do what is asked below, one after the other.
{% for request in requests %}
{{ loop.index }}. {{ request }}
{% endfor %}"""


def main() -> int:
    """Run it. The status is 1 where gold does not pass every scenario, or null passes one."""
    asked = _arguments()
    if missing := _missing():
        sys.stderr.write(f"{missing}\nuv pip install --no-deps bfcl-eval=={BFCL} mpmath\n")
        return 1
    project = Path(asked.project).resolve()
    write_project(project)
    sys.stderr.write(f"{len(KNOWN)} agents; all 200 scenarios take about a minute\n")
    began = time.monotonic()
    document = start(project, asked)
    seconds = time.monotonic() - began
    return tell(document, seconds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--project", default=str(HERE / ".p2engine" / "project"), help="where the project is written")
    parser.add_argument("--limit", type=int, help="scenarios of each agent, at most")
    parser.add_argument("--repeats", type=int, help="trials of each scenario")
    parser.add_argument("--seed", type=int, default=0, help="of all trials")
    return parser.parse_args()


def _missing() -> str:
    """What is not installed, in words; empty where all is there."""
    try:
        found = version("bfcl-eval")
    except PackageNotFoundError:
        return "This example needs bfcl-eval and mpmath, which are not installed. Install them on request:"
    if found != BFCL:
        return f"This example was written for bfcl-eval {BFCL}, and {found} is installed. Install that one:"
    return "" if find_spec("mpmath") else "This example needs mpmath as well, which is not installed. Install it:"


def write_project(project: Path) -> None:
    """Agents with all of BFCL's tools, the scenarios as a data set, and the rollout. JSON is YAML."""
    from bfcl_example.scenarios import owners, scenarios
    from bfcl_example.tools import OPEN

    tools = [OPEN, *owners()]
    agents = [
        {"id": name, "type": f"bfcl_{name}", "tools": tools}
        if name in ("gold", "null")
        else {"id": name, "type": "bfcl_noisy", "llm_model": f"noisy/{right}", "tools": tools}
        for name, right in KNOWN.items()
    ]
    team = {
        "initial_message": MESSAGE,
        "variants": [{"id": name, "agent_id": name} for name in KNOWN],
        "tasks": "scenarios.jsonl",
        "checks": [{CHECK: "{{ task.id }}"}],
    }
    rows = [json.dumps({"id": each.id, "requests": each.requests}) for each in scenarios().values()]
    (project / "config").mkdir(parents=True, exist_ok=True)
    (project / "config" / "config.json").write_text(json.dumps({"ledger": {"enabled": False}}))
    (project / "config" / "agents.yml").write_text(json.dumps({"agents": agents}, indent=1))
    (project / "bfcl.yml").write_text(json.dumps({"teams": {"bfcl": team}}, indent=1))
    (project / "scenarios.jsonl").write_text("\n".join(rows) + "\n")


def start(project: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Run the rollout as anybody would; its document. From this folder, so that the plug-in is found."""
    given = {"--seed": asked.seed, "--limit": asked.limit, "--repeats": asked.repeats}
    options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    command = [sys.executable, "-m", "p2engine", "--project", str(project), "--json", "rollout", "start"]
    command += [str(project / "bfcl.yml"), *options]
    ran = subprocess.run(command, cwd=HERE, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 — our own
    found: dict[str, Any] = json.loads(ran.stdout or "{}")
    if "arms" not in found:
        sys.exit(found.get("error", {}).get("message") or f"the rollout ended with status {ran.returncode}")
    return found


def tell(document: Mapping[str, Any], seconds: float) -> int:
    """The table, and what it says. Returns the exit status."""
    arms = {arm["variant"]: arm for arm in document["arms"]}
    against = {each["variant"]: each for each in document["comparisons"] if each["metric"] == CHECK}
    base = next(iter(KNOWN))
    rows: list[tuple[str, ...]] = [
        ("agent", "passed", "known", "found (95 %)", f"against {base}", "known", "found (95 %)", "p (Holm)", "")
    ]
    rows += [_row(name, arms[name], against.get(name), right - KNOWN[base]) for name, right in KNOWN.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        _say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    trials = document["trials"]
    meant = sum(_is_meant(trial) for trial in trials)
    rebuilt = sum(trial["metrics"]["rebuilt"] == 1 for trial in trials)
    results, idle = sum(trial["steps"] for trial in trials), arms["null"]
    _say("")
    _say(f"{len(trials)} trials, {results} tool results, in {seconds:.1f} s; rollout {document['id']}")
    _say(f"{meant} of {len(trials)} trials came out as their agent meant them to")
    _say(f"{rebuilt} of {len(trials)} trials have the results that their calls give in a world of their own")
    _say(f"{_passed(idle, 'state')} of {idle['n']} times null leaves the state that is expected: no change")
    _say("This measures the engine, not a model: no model was asked, and the agents were given the answers.")
    is_sound = _passed(arms["gold"]) == arms["gold"]["n"] and _passed(idle) == 0
    return 0 if is_sound and meant == rebuilt == len(trials) else 1


def _row(name: str, arm: Mapping[str, Any], difference: Mapping[str, Any] | None, known: float) -> tuple[str, ...]:
    figure = arm["metrics"][CHECK]
    cells = (
        name,
        f"{_passed(arm)} of {arm['n']}",
        f"{KNOWN[name]:.2f}",
        _interval(figure["mean"], figure, KNOWN[name]),
    )
    if difference is None:
        return (*cells, "", "", "", "", "")
    found = _interval(difference["difference"], difference, known, "+")
    return (*cells, "", f"{known:+.2f}", found, f"{difference['p_adjusted']:.2g}", difference["said"])


def _is_meant(trial: Mapping[str, Any]) -> bool:
    """Whether a trial passed if, and only if, its agent drew to do it right."""
    from bfcl_example.agents import is_right

    return bool(trial["metrics"][CHECK]) == is_right(KNOWN[trial["agent"]], trial["seed"], trial["agent"])


def _passed(arm: Mapping[str, Any], metric: str = CHECK) -> int:
    """How many trials of an agent passed."""
    figure = arm["metrics"][metric]
    rate, n = figure["mean"] or 0.0, int(figure["n"])
    return round(float(rate) * n)


def _interval(found: float | None, ends: Mapping[str, Any], known: float, sign: str = "") -> str:
    """What was found with its interval, and a word where that misses what is known."""
    if found is None or ends["low"] is None:
        return "-"
    misses = "" if ends["low"] - ROUNDING <= known <= ends["high"] + ROUNDING else " misses"
    return f"{found:{sign}.3f} ({ends['low']:{sign}.3f} … {ends['high']:{sign}.3f}){misses}"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())

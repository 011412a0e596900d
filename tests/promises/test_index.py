"""Every promise has a test that bears its number: `test_failure_NN_…` for what must not go wrong, `test_seam_NN_…` for
a rule where parts meet. The table says in a line what each number promises; the scan sees to it that none is lost.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = ("tests", "src/p2engine/testing/contracts")  # a contract's tests run for every driver of its port
NUMBERED = re.compile(r"test_(failure|seam)_(\d+)_\w+")

FAILURES: dict[int, str] = {
    1: "a parent reasons over its child's answer and goes on",
    2: "several delegations to one child, in sequence and in parallel",
    3: "every call of a reply, and the text beside them, is kept",
    4: "unknown tools, malformed arguments, errors, time-outs, 429 and 500 end in a turn that says so",
    5: "a message that comes while something runs is answered next; of two users both are",
    6: "kill -9 anywhere: the turn ends, nothing twice, nothing lost",
    7: "two hundred trials at once all finish",
    8: "a trial or an evaluator that fails is shown as such, and the rest finishes",
    9: "finished means that the root finished",
    10: "a restart keeps everything, and a chat is resumed",
    11: "an evaluator that fails is an error and what is not judged is a dash, never 0",
    12: "time travel through nested delegation",
    13: "storage grows by what is said",
    14: "a corrupt or newer entry is named, never skipped",
    15: "requests are not stored, and can be rebuilt",
    16: "agents who only delegate come to an end",
    17: "a follower that restarts misses nothing",
    18: "arguments of a model do not change who acts",
    19: "an invented agent has no power",
    20: "a tool outside the agent's list does not run",
    21: "what cannot be paid is refused with its reason, and no money is made or lost",
    22: "errors are not cached, and effects drop what they change",
    23: "one byte of the ledger that was changed is found, and its record named",
    24: "a trial has wallets of its own, unless its rollout says that they are shared",
    25: "text of models, tools and files is shown as text",
    26: "names stay names: inside the store, or refused",
    27: "a wrong file is one line with file, line and the nearest key, and nothing is started",
    28: "every environment variable has its effect",
    29: "a variant's id names it, and what it sets reaches the model",
    30: "overrides work on the next step, and a conversation can be watched",
    31: "rubrics in every notation, and verdicts with something around them, are read",
    32: "metrics of an evaluator's own are kept and can be ranked by",
    33: "a tool that failed is recorded as failed",
    34: "the newest events cost the same in a long log",
    35: "a full disk, a read-only home, a locked file: told, retried where that is right, and gone on from",
    36: "Ctrl-C anywhere: safe, the terminal restored, resumable",
    37: "a judge is shown a transcript as quoted data",
    38: "repeats of a verdict are samples of their own",
    39: "better is said with an interval and a corrected test, and of one sample nothing is said",
    40: "a check that a right answer fails or an empty one passes is called invalid, and equal arms seldom differ",
}
SEAMS: dict[int, str] = {
    1: "time-outs are of an attempt; nothing compares a wait with the clock",
    2: "effect ids name the branch, and a reused name repeats no key",
    3: "waits are keyed by position; a fork closes those it inherited",
    4: "a message during a wait comes after its outcomes and before the turn's end",
    5: "a conflict costs a fold, never an outcome",
    6: "every end returns to whoever waits",
    7: "cancelling reaches children; leaving a running branch cancels it",
    8: "a late outcome is an event, and what cannot be undone is listed",
    9: "an effect belongs to a living process, and only what had begun is in doubt",
    10: "budgets are carved, and add up",
    11: "an agent's memory is that of the last call decided, whatever came first",
    12: "approval is judged by the machine, beside running siblings",
    13: "two equal calls in one reply do not both pass",
    14: "nothing but the ledger tells of payments",
    15: "a batch is several stacks or none, and spoils no neighbour",
    16: "what is owed is what is open, and a person's answer has no time",
    17: "a commit is one row that says how much of it came back",
    18: "a log that several machines share has one order, and a cursor of another life of it is told so",
    19: "what is decided here runs here; a claim brings what its caller lacks",
    20: "memory is a prefix: only what is new is read, and forgetting costs no truth",
    21: "a locked file stalls nobody else",
    22: "flushed commits are shared by at most sixteen, unflushed ones wait for nobody",
    23: "a row knows where it may be cut, and a fork owes nothing",
    24: "tails read in short, hold nothing back, and no cursor is given twice",
    25: "pruning keeps what survives stands on, and takes nothing that is owed",
    26: "prices once a model, a first attempt bare, no words that nobody reads",
    27: "a turn encodes what it adds; the hash of a prompt is a chain",
    28: "recorded outcomes fold to the same bytes; rows say by what they were written",
    29: "a listed tool that is not loaded here waits for who has it; one off the list is a result",
    30: "an override belongs to its branch and is inherited at a child's opening",
    31: "a post-effect's answer is a note, never a tool message",
    32: "a lineage may be long, and delegates' branches are hidden",
    33: "a turn has a budget that begins anew, a conversation a cap of its own",
    34: "a question below holds up nobody, and is withdrawn with whoever waits above it",
}
LATER: dict[str, str] = {}
PROMISED = [("failure", number) for number in FAILURES] + [("seam", number) for number in SEAMS]


@cache
def found() -> dict[tuple[str, int], list[str]]:
    """The names of all tests that bear a number, by what they keep."""
    tests: dict[tuple[str, int], list[str]] = defaultdict(list)
    for path in (path for place in PLACES for path in (ROOT / place).rglob("*.py")):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if re.search(r"test_(failure|seam)_", text) else ():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (name := NUMBERED.fullmatch(node.name)):
                tests[name[1], int(name[2])].append(node.name)
    return tests


@pytest.mark.parametrize(("kind", "number"), PROMISED, ids=lambda value: str(value))
def test_every_promise_has_a_test(kind: str, number: int) -> None:
    """At least one test of the tree bears its number."""
    assert found()[kind, number], f"no test_{kind}_{number:02}_…: {(FAILURES if kind == 'failure' else SEAMS)[number]}"


def test_every_number_is_promised() -> None:
    """No test bears a number that nobody promised, or that is for later; numbers have two digits."""
    promised = {f"{kind} {number}" for kind, number in PROMISED}
    assert {f"{kind} {number}" for (kind, number), names in found().items() if names} <= promised
    assert promised & set(LATER) == set()
    assert [name for names in found().values() for name in names if not re.match(r"test_[a-z]+_\d\d_", name)] == []


def test_no_number_is_missing() -> None:
    """Every number is promised or said to be for later."""
    everything = {f"failure {n}" for n in range(1, 41)} | {f"seam {n}" for n in range(1, 35)}
    assert {f"{kind} {number}" for kind, number in PROMISED} | set(LATER) == everything

"""How the code is kept: sizes, names, who may touch the world, what may be caught, and what the text may say.

Each rule lists what breaks it as `file:line: what`. An exception is a line in a table here, with its reason; one that
no longer applies is reported as well, so the tables only hold what is true.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70

# file -> reason
LONG_MODULES: dict[str, str] = {}
# file:function -> reason
LONG_FUNCTIONS: dict[str, str] = {}
# file:function -> reason. The function is written as Class.method.
BROAD_EXCEPTS: dict[str, str] = {
    "src/p2engine/evals/running.py:_Sampling._sample": "effect boundary: what an evaluator raises is a verdict",
    "src/p2engine/rollouts/trial.py:play": "a fault in one trial is a row of the table; the others go on",
    "src/p2engine/worker.py:Node._live": "carries what opening raised to the thread that waits for it",
    "src/p2engine/plugins.py:_load": "somebody else's module while it loads: named, and the others load",
    "src/p2engine/runtime/perform.py:_think": "effect boundary: a plugin agent's fault ends its turn, not the engine",
    "src/p2engine/runtime/sinks.py:Fanout._emit": "sinks watch; they may not stop what they watch",
    "src/p2engine/tools/running.py:Runner._attempt": "effect boundary: what a tool raises is an outcome",
    "src/p2engine/tools/threads.py:_ended": "carries what a thread raised to the loop, where it is raised again",
}
# file:function -> reason
SLEEPERS: dict[str, str] = {
    "src/p2engine/testing/server.py:_pass": "a scripted latency is what the server serves",
    "tests/stores/test_redis_limiter.py:until": "a server's keys change without telling anybody",
    "tests/simulation/redis_place.py:Outside.follow": "virtual time",
    "tests/servers.py:ValkeyServer._try": "a server that starts tells nobody when it is ready",
    "tests/crash/blows.py:restarted.strike": "how long the server is away is the blow",
    "tests/crash/blows.py:frozen.strike": "how long the server is silent is the blow",
    "tests/crash/blows.py:in_step": "a server tells nobody when its replica is in step",
    "tests/crash/hosts.py:Hosts._serve": "a server that starts tells nobody when it is ready",
    "tests/crash/play.py:tools_of.look": "a tool that takes a while, so that there is something to cut off",
    "tests/crash/play.py:tools_of.book": "a tool that takes a while",
    "tests/crash/play.py:tools_of.pay": "a tool that takes a while",
    "tests/crash/project.py:Project.rests": "a server tells nobody that nothing is owed any more",
    "tests/crash/proxy.py:Proxy._carry": "a network that is slow is what the proxy plays",
    "tests/crash/test_two_hosts.py:test_a_host_that_is_cut_off_in_the_middle_of_a_turn": "how long it is cut off",
    "tests/crash/test_two_hosts.py:_first": "what comes late comes when it comes",
    "src/p2engine/testing/simulate.py:_Process._risk": "virtual time",
    "src/p2engine/testing/simulate.py:Simulation.play": "virtual time",
    "src/p2engine/testing/simulate.py:Simulation._rest": "virtual time",
    **{
        f"tests/runtime/test_review.py:{name}": "virtual time"
        for name in (
            "test_a_say_that_was_cut_short_leaves_no_waiter.slow",
            "test_a_say_that_was_cut_short_leaves_no_waiter.main",
            "test_a_cancelled_think_that_answers_all_the_same_leaves_its_task_as_it_was.boss",
            "test_a_cancelled_think_that_answers_all_the_same_leaves_its_task_as_it_was.main",
            "test_an_outcome_is_not_lost_when_the_disk_refuses_it_once.main",
            "test_an_agent_that_will_not_be_cancelled_does_not_keep_the_engine_open.boss",
            "test_an_agent_that_will_not_be_cancelled_does_not_keep_the_engine_open.main",
        )
    },
}
# file -> reason, beside the drivers
CLOCKS_AND_DICE: dict[str, str] = {}

SETTINGS = "src/p2engine/settings.py"
# Where time, chance and new ids come from; the test kit draws its histories from a seed.
DRIVERS = (
    "src/p2engine/dispatch/",
    "src/p2engine/ledgers/",
    "src/p2engine/models/",
    "src/p2engine/sinks/",
    "src/p2engine/stores/",
    "src/p2engine/testing/",
    "src/p2engine/wiring/",
)

VAGUE_NAMES = {"common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"}
CLOCK_MODULES = {"random", "secrets", "time", "uuid"}
CLOCK_CALLS = {"now", "today", "utcnow"}

# The brackets keep the patterns from finding themselves.
FORBIDDEN_TEXT = {
    r"\bTO[D]O\b|\bFIXM[E]\b": "unfinished work: do it, or say in the docs what is not there",
    r"(?<![\w.~])/(?:wor[k]|roo[t]|hom[e]/\w+|User[s]/\w+)/": "a path of one machine",
    r"\.\./share[d]\b": "a path outside the repository",
    r"(?i)\bissue[s]? #?\d+": "a number that means nothing to a reader: say what it is about",
    r"\b(?:DESIG[N]|SEAM[S]|SURFAC[E]|FAILURE[S]|STYL[E])(?:\.md\b| §)": "a page that is not in the repository",
    r"\bpypi[.]org\b|\bpythonhosted[.]org\b": "the host of a package index: installers know it",
}
# Written by a tool, and only about packages.
GENERATED = {"uv.lock", "scripts/requirements.txt", "scripts/requirements-local.txt", "scripts/requirements-test.txt"}

Finding = tuple[str, str]  # the key under which an exception may stand, and what is wrong
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def files() -> tuple[str, ...]:
    """Every file of the repository, also those not yet added, but none that is ignored."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = {name.decode() for name in listed.stdout.split(b"\0") if name}
    return tuple(sorted(name for name in names if (ROOT / name).is_file()))


def modules(*folders: str) -> list[str]:
    """The Python files, all of them or those below the folders."""
    return [name for name in files() if name.endswith(".py") and (not folders or name.startswith(folders))]


@cache
def tree(name: str) -> ast.Module:
    """A Python file, read."""
    return ast.parse((ROOT / name).read_text(), filename=name)


def report(findings: Iterator[Finding], excepted: Mapping[str, str]) -> None:
    """Fails with every finding that no exception covers, and with every exception that covers none."""
    found = dict.fromkeys(excepted, False)
    wrong = []
    for key, what in findings:
        if key in found:
            found[key] = True
        else:
            wrong.append(what)
    wrong += [f"{key}: listed as an exception, and is none" for key, used in found.items() if not used]
    assert not wrong, "\n" + "\n".join(wrong)


def walk(name: str) -> Iterator[tuple[str, ast.AST]]:
    """Each node of a file with the name of the function or class around it, `Class.method` or empty."""

    def below(node: ast.AST, around: str) -> Iterator[tuple[str, ast.AST]]:
        for child in ast.iter_child_nodes(node):
            yield around, child
            inner = around
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = f"{around}.{child.name}".lstrip(".")
            yield from below(child, inner)

    return below(tree(name), "")


def functions(name: str) -> Iterator[tuple[str, Function]]:
    """Each function of a file, with its name in full."""
    for around, node in walk(name):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{around}.{node.name}".lstrip("."), node


def dotted(node: ast.AST) -> str:
    """`a.b.c` for names and attributes of names; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (front := dotted(node.value)):
        return f"{front}.{node.attr}"
    return ""


def imported(node: ast.AST) -> Iterator[str]:
    """What an import statement names, in full; nothing for any other statement."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_modules_are_short() -> None:
    """No module of the package is longer than a reader can hold: 400 lines."""

    def findings() -> Iterator[Finding]:
        for name in modules("src/"):
            lines = len((ROOT / name).read_text().splitlines())
            if lines > MODULE_LINES_MAX:
                yield name, f"{name}: {lines} lines, at most {MODULE_LINES_MAX}: split by noun"

    report(findings(), LONG_MODULES)


def test_functions_are_short() -> None:
    """No function of the package is longer than one screen: 70 lines."""

    def findings() -> Iterator[Finding]:
        for name in modules("src/"):
            for function, node in functions(name):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    yield (
                        f"{name}:{function}",
                        f"{name}:{node.lineno}: {function} has {lines} lines, at most {FUNCTION_LINES_MAX}",
                    )

    report(findings(), LONG_FUNCTIONS)


def test_modules_are_named_after_what_they_know() -> None:
    """No module or folder has a name that would fit any content."""

    def findings() -> Iterator[Finding]:
        for name in modules():
            words = {word for part in Path(name).with_suffix("").parts for word in part.lower().split("_")}
            if vague := words & VAGUE_NAMES:
                yield name, f"{name}: named {', '.join(sorted(vague))}: name it after what it knows"

    report(findings(), {})


def test_only_settings_read_the_environment() -> None:
    """Configuration is one typed object, read once at the edge: no other module asks the environment."""

    def findings() -> Iterator[Finding]:
        readers = {"os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv", "os.unsetenv"}
        for name in sorted({*modules("src/")} - {SETTINGS}):
            for _, node in walk(name):
                names = {dotted(node), *imported(node)}
                if found := names & readers:
                    yield name, f"{name}:{getattr(node, 'lineno', 0)}: {', '.join(found)}: take it from settings"

    report(findings(), {})


def test_broad_excepts_are_counted() -> None:
    """Everything is caught only in places listed with their reason. To pass it on at the end is no catching."""

    def is_broad(node: ast.AST | None) -> bool:
        names = node.elts if isinstance(node, ast.Tuple) else [node]
        return any(name is None or dotted(name).split(".")[-1] in {"Exception", "BaseException"} for name in names)

    def passes_on(handler: ast.ExceptHandler) -> bool:
        last = handler.body[-1]
        return isinstance(last, ast.Raise) and last.exc is None

    def findings() -> Iterator[Finding]:
        for name in modules("src/"):
            for around, node in walk(name):
                caught = isinstance(node, ast.ExceptHandler) and is_broad(node.type) and not passes_on(node)
                suppressed = (
                    isinstance(node, ast.Call)
                    and dotted(node.func).split(".")[-1] == "suppress"
                    and any(is_broad(argument) for argument in node.args)
                )
                if caught or suppressed:
                    yield (
                        f"{name}:{around}",
                        f"{name}:{getattr(node, 'lineno', 0)}: {around or 'module'} catches everything",
                    )

    report(findings(), BROAD_EXCEPTS)


def test_modules_say_what_they_know() -> None:
    """Every module begins with a docstring; only an empty one may do without."""

    def findings() -> Iterator[Finding]:
        for name in modules():
            if tree(name).body and not ast.get_docstring(tree(name)):
                yield name, f"{name}: no docstring"

    report(findings(), {})


def test_tests_say_what_they_prove() -> None:
    """Every test has a docstring that states the fact."""

    def findings() -> Iterator[Finding]:
        for name in modules("tests/", "src/p2engine/testing/"):
            for function, node in functions(name):
                if node.name.startswith("test_") and not ast.get_docstring(node):
                    yield f"{name}:{function}", f"{name}:{node.lineno}: {function} has no docstring"

    report(findings(), {})


def test_tests_do_not_sleep() -> None:
    """No test waits for time to pass: it waits for what it wants to see. Giving way once (`sleep(0)`) is no waiting."""

    def sleeps(name: str) -> set[str]:
        bare = {one.split(".")[-1] for _, node in walk(name) for one in imported(node) if one.endswith(".sleep")}
        return {"time.sleep", "asyncio.sleep", "anyio.sleep"} | bare

    def findings() -> Iterator[Finding]:
        for name in modules("tests/", "src/p2engine/testing/"):
            sleeping = sleeps(name)
            for around, node in walk(name):
                if isinstance(node, ast.Call) and dotted(node.func) in sleeping:
                    gives_way = bool(node.args) and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
                    if not (gives_way and dotted(node.func) != "time.sleep"):
                        yield f"{name}:{around}", f"{name}:{node.lineno}: {around or 'module'} sleeps"

    report(findings(), SLEEPERS)


def test_only_drivers_read_clocks_and_throw_dice() -> None:
    """Time, chance and new ids come from outside: everything else can be run again and gives the same."""

    def findings() -> Iterator[Finding]:
        for name in modules("src/"):
            if name.startswith(DRIVERS):
                continue
            for _, node in walk(name):
                found = {one for one in imported(node) if one.split(".")[0] in CLOCK_MODULES}
                if isinstance(node, ast.Call):
                    front, _, last = dotted(node.func).rpartition(".")
                    if last in CLOCK_CALLS and front.split(".")[-1] in {"date", "datetime"}:
                        found.add(f"{front}.{last}()")
                if found:
                    yield name, f"{name}:{getattr(node, 'lineno', 0)}: {', '.join(sorted(found))}: have it passed in"

    report(findings(), CLOCKS_AND_DICE)


def test_the_text_speaks_of_the_project_alone() -> None:
    """Nothing is left unfinished in a comment, and nothing points at a machine or a page that no reader has."""

    def findings() -> Iterator[Finding]:
        for name in files():
            if name in GENERATED:
                continue
            try:
                lines = (ROOT / name).read_text().splitlines()
            except UnicodeDecodeError:
                continue
            for number, line in enumerate(lines, start=1):
                for pattern, why in FORBIDDEN_TEXT.items():
                    if match := re.search(pattern, line):
                        yield name, f"{name}:{number}: {match.group()!r}: {why}"

    report(findings(), {})


def prose(page: str) -> Iterator[tuple[int, str]]:
    """The numbered lines of a Markdown page outside its code blocks."""
    fenced = False
    for number, line in enumerate((ROOT / page).read_text().splitlines(), start=1):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced:
            yield number, line


def headings(page: str) -> set[str]:
    """The anchors of a Markdown page."""
    titles = (line.lstrip("#").strip().lower() for _, line in prose(page) if re.match(r"#{1,6} ", line))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def why_dead(page: str, link: str) -> str | None:
    """What is wrong with a relative link on a page; None when it leads somewhere."""
    path, _, heading = link.partition("#")
    target = ((ROOT / page).parent / path if path else ROOT / page).resolve()
    if not target.exists():
        return "there is no such file"
    if not target.is_relative_to(ROOT.resolve()):
        return "leads out of the repository"
    if heading and target.suffix == ".md" and heading not in headings(str(target.relative_to(ROOT.resolve()))):
        return "there is no such heading"
    return None


def test_links_in_the_docs_resolve() -> None:
    """A relative link in a Markdown page leads to a file of the repository, and to a heading that is there."""

    def findings() -> Iterator[Finding]:
        for page in (name for name in files() if name.endswith(".md")):
            for number, line in prose(page):
                for link in re.findall(r"\]\(<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\)", re.sub(r"`[^`]*`", "", line)):
                    if not re.match(r"[a-z][a-z+.-]*:", link) and (why := why_dead(page, link)):
                        yield page, f"{page}:{number}: {link}: {why}"

    report(findings(), {})


def test_public_names_are_sorted_and_there() -> None:
    """`__all__` of the package stands in one order (constants, classes, functions), and every name in it can be had."""
    package = importlib.import_module("p2engine")

    def order(name: str) -> tuple[int, str]:
        return 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2, name

    names = list(package.__all__)
    assert names == sorted(set(names), key=order)
    assert [name for name in names if not hasattr(package, name)] == []


CODE = "src/p2engine/broken.py"
TEST = "tests/broken.py"
SAYS = '"""Knows."""\n'


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (test_modules_are_short, CODE, SAYS + "\n" * 400),
        (test_functions_are_short, CODE, SAYS + "def long():\n" + "    pass\n" * 70),
        (test_modules_are_named_after_what_they_know, "src/p2engine/text_utils/broken.py", SAYS),
        (test_only_settings_read_the_environment, CODE, SAYS + "from os import getenv\n"),
        (test_only_settings_read_the_environment, CODE, SAYS + "import os\nhome = os.environ['HOME']\n"),
        (test_broad_excepts_are_counted, CODE, SAYS + "try:\n    pass\nexcept (OSError, Exception):\n    pass\n"),
        (test_broad_excepts_are_counted, CODE, SAYS + "try:\n    pass\nexcept:\n    pass\n"),
        (test_broad_excepts_are_counted, CODE, SAYS + "from contextlib import suppress\nsuppress(BaseException)\n"),
        (test_modules_say_what_they_know, CODE, "import json\n"),
        (test_tests_say_what_they_prove, TEST, SAYS + "class TestIt:\n    async def test_it(self):\n        pass\n"),
        (test_tests_do_not_sleep, TEST, SAYS + "import time\ntime.sleep(0)\n"),
        (test_tests_do_not_sleep, TEST, SAYS + "from asyncio import sleep\nsleep(0.1)\n"),
        (test_only_drivers_read_clocks_and_throw_dice, CODE, SAYS + "from uuid import uuid4\n"),
        (test_only_drivers_read_clocks_and_throw_dice, CODE, SAYS + "import datetime as d\nd.datetime.now()\n"),
        (test_the_text_speaks_of_the_project_alone, "broken.py.txt", "see SEAM" + "S.md\n"),
        (test_links_in_the_docs_resolve, "docs/broken.py.md", "# A page\n[there](#a-heading)\n"),
        (test_links_in_the_docs_resolve, "docs/broken.py.md", "[there](../nowhere.md)\n"),
    ],
)
def test_a_rule_bites(
    rule: Callable[[], None], name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that breaks a rule is named by it."""
    broken = tmp_path / name
    broken.parent.mkdir(parents=True, exist_ok=True)
    broken.write_text(text)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "files", lambda: (name,))
    tree.cache_clear()
    with pytest.raises(AssertionError, match=r"broken\.py"):
        rule()
    tree.cache_clear()

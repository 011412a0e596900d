"""Tools and evaluators from a project's folders and from installed packages; what is broken is named."""

import os
import sys
from pathlib import Path

import pytest

from p2engine.limits import CONFIG_FILE_BYTES_MAX
from p2engine.plugins import (
    AnyFunctionTool,
    Loaded,
    installed_agents,
    installed_evals,
    installed_tools,
    project_evals,
    project_tools,
)
from p2engine.tools.registry import Registry
from tests.tools.tool_context import context

GOOD = '''
from p2engine.tools.function import function_tool

@function_tool
def {name}() -> str:
    """Say it."""
    return "{says}"
'''


class Project:
    """A project folder whose tool files a test writes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.edits = 0

    def write(self, name: str, text: str | bytes, *, folder: str = "tools") -> None:
        """Write a file under `tools/`, or `folder`; each time it is another edit, however fast they come."""
        path = self.root / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        self.edits += 1
        os.utime(path, ns=(self.edits, self.edits))

    def tool(self, name: str, *, says: str = "hello", file: str | None = None) -> None:
        self.write(file or f"{name}.py", GOOD.format(name=name, says=says))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def names(loaded: Loaded[AnyFunctionTool]) -> list[str]:
    return [tool.spec.name for tool in loaded.found]


def problems(loaded: Loaded[AnyFunctionTool]) -> list[str]:
    return [str(problem) for problem in loaded.problems]


async def says(loaded: Loaded[AnyFunctionTool], name: str) -> str:
    (tool,) = [tool for tool in loaded.found if tool.spec.name == name]
    return (await tool.tool({}, context())).content


async def test_the_tools_of_a_folder_are_found(project: Project) -> None:
    """Every decorated function of every file, as its plain self and as a tool; nothing goes on sys.path."""
    before = list(sys.path)
    project.tool("one")
    project.tool("two", says="zwei", file="other name.py")
    project.write("three.txt", "no Python")

    loaded = project_tools(project.root).load()

    assert (names(loaded), loaded.problems) == (["one", "two"], ())
    assert await says(loaded, "two") == "zwei"
    assert loaded.found[0]() == "hello"
    assert sys.path == before
    assert not (project.root / "tools" / "__pycache__").exists()


@pytest.mark.parametrize("make", [lambda root: None, lambda root: (root / "tools").touch()])
def test_a_project_without_tools_has_none(project: Project, make: object) -> None:
    """No folder, or a file in its place: nothing to load, nothing wrong."""
    make(project.root)  # type: ignore[operator]
    tools = project_tools(project.root)

    assert tools.load() == Loaded()
    assert not tools.changed()


def test_code_of_the_project_can_be_kept_out(project: Project) -> None:
    """Where it is not wanted, nothing of the folder is run or looked at."""
    project.write("trap.py", "raise SystemExit('run')")
    tools = project_tools(project.root, enabled=False)

    assert not tools.changed()
    assert tools.load() == Loaded()


BROKEN: list[tuple[str | bytes, str]] = [
    ("def broken(:\n", "tools/bad.py:1: SyntaxError: "),
    ("x = 1\n\nraise ValueError('first\\nsecond')\n", "tools/bad.py:3: ValueError: first"),
    ("def f():\n    1 / 0\n\n\nf()\n", "tools/bad.py:2: ZeroDivisionError: division by zero"),
    ("import sys\nsys.exit(3)\n", "tools/bad.py:2: SystemExit: 3"),
    ("import nowhere_to_be_found\n", "tools/bad.py:1: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
    ("from p2engine import no_such_name\n", "tools/bad.py:1: "),
    (b"\x00\x01\x02\xff\xfe", "tools/bad.py"),
    (b"x = '\xff'\n", "tools/bad.py"),
    (GOOD.format(name="bad", says="").replace("function_tool\n\n", "function_tool\n\nassert 0\n"), "tools/bad.py:4: "),
    (
        "from p2engine.tools.function import function_tool\n\n\n@function_tool(retries=2)\ndef pay() -> None: ...\n",
        "tools/bad.py:4: tool 'pay': retries need side_effect_free=True or idempotent=True",
    ),
    (
        "from p2engine.tools.function import function_tool\n\n\n@function_tool(reflect=True)\ndef pay() -> None: ...\n",
        "tools/bad.py:4: not available in this version: reflect",
    ),
    ("#" * (CONFIG_FILE_BYTES_MAX + 1), "tools/bad.py: is larger than"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_failure_27_a_broken_file_is_named_and_the_others_load(
    project: Project, text: str | bytes, message: str
) -> None:
    """Whatever is wrong with a file, it is one line with the file, the line where there is one, and what it is."""
    project.tool("one")
    project.write("bad.py", text)
    project.tool("two")

    loaded = project_tools(project.root).load()

    assert names(loaded) == ["one", "two"]
    (problem,) = problems(loaded)
    assert problem.startswith(message)
    assert "\n" not in problem


def test_failure_27_a_directory_and_a_dotted_name_are_named(project: Project) -> None:
    """A folder called x.py and a file that no module can be called after."""
    project.tool("one")
    (project.root / "tools" / "x.py").mkdir()
    project.tool("two", file="a.b.py")

    loaded = project_tools(project.root).load()

    assert names(loaded) == ["one"]
    assert problems(loaded) == [
        "tools/a.b.py: a module's name has no dots; rename the file",
        "tools/x.py: is no file; a tool file is Python source",
    ]


def test_failure_27_two_tools_of_one_name_are_named(project: Project) -> None:
    """The registry takes the first and names both files."""
    project.tool("same", file="a.py")
    project.tool("same", file="b.py")
    loaded = project_tools(project.root).load()

    registry = Registry()
    (refused,) = registry.exchange(loaded.found)

    assert loaded.problems == ()
    assert f"{project.root / 'tools' / 'a.py'}:4" in refused.message
    assert f"{project.root / 'tools' / 'b.py'}:4" in refused.message
    assert registry.names() == ["same"]


@pytest.mark.parametrize(
    ("line", "mend"),
    [
        ("from agents.decorators import function_tool", "write: from p2engine import function_tool"),
        ("import orchestrator.schemas", "names for projects are in p2engine and p2engine.ports"),
        ("from prices import TABLE", "for a file beside this one write: from .prices import …"),
        ("from tools.prices import TABLE", "for a file beside this one write: from .NAME import …"),
        ("import gone_library", "install it beside p2engine, or take the import of gone_library out"),
    ],
)
def test_a_missing_import_says_what_to_write(project: Project, line: str, mend: str) -> None:
    """Imports of older projects and of files beside this one are named with the line that works."""
    project.write("prices.py", "TABLE = {}\n")
    project.write("old.py", f'"""Old."""\n\n{line}\n')

    (problem,) = problems(project_tools(project.root).load())

    assert problem.startswith("tools/old.py:3: ModuleNotFoundError: No module named ")
    assert problem.endswith(f"; {mend}")


async def test_files_import_one_another_relatively(project: Project) -> None:
    """A file shares code with those beside it; a name that begins with `_` is not loaded for itself."""
    project.write("_prices.py", "RAN = []\nPRICE = '7'\n")
    project.tool("one")
    body = GOOD.format(name="price", says="").replace('return ""', "return PRICE")
    project.write("shop.py", "from ._prices import PRICE\nfrom .one import one\n" + body)

    loaded = project_tools(project.root).load()

    assert (names(loaded), loaded.problems) == (["one", "price"], ())
    assert await says(loaded, "price") == "7"


async def test_two_projects_do_not_meet(tmp_path: Path) -> None:
    """Files of one name in two projects, or of one project loaded twice, are modules of their own."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Project(tmp_path / name).tool("one", says=name)

    loaded = [project_tools(tmp_path / name).load() for name in ("a", "b", "a")]

    assert [await says(one, "one") for one in loaded] == ["a", "b", "a"]
    assert len({one.found[0].tool.group for one in loaded}) == 3


async def test_edits_are_seen_however_fast_they_come(project: Project) -> None:
    """A change of the same size in the same second is another version; the change is named."""
    project.tool("one", says="1")
    tools = project_tools(project.root)
    first = tools.load()
    assert not tools.changed()

    project.tool("one", says="2")
    project.tool("two")
    assert tools.changed()
    second = tools.load()

    assert (first.changed, second.changed) == (("one.py",), ("one.py", "two.py"))
    assert [await says(first, "one"), await says(second, "one")] == ["1", "2"]
    assert first.found[0].spec.version != second.found[0].spec.version
    assert not tools.changed()


async def test_a_broken_edit_keeps_the_last_good_version(project: Project) -> None:
    """The file is named, its tools go on as they were, the other files take their edits; mended, it is new."""
    project.tool("one", says="1")
    project.tool("two", says="1")
    tools = project_tools(project.root)
    tools.load()

    project.write("one.py", "def (")
    project.tool("two", says="2")
    broken = tools.load()
    project.tool("one", says="3")
    mended = tools.load()

    assert [problem.file for problem in broken.problems] == ["tools/one.py"]
    assert (await says(broken, "one"), await says(broken, "two")) == ("1", "2")
    assert (await says(mended, "one"), mended.problems) == ("3", ())


async def test_a_helper_that_changes_reloads_its_users(project: Project) -> None:
    """A file that only others import counts as well."""
    project.write("_prices.py", "PRICE = '1'\n")
    body = GOOD.format(name="price", says="").replace('return ""', "return PRICE")
    project.write("shop.py", "from ._prices import PRICE\n" + body)
    tools = project_tools(project.root)
    tools.load()

    project.write("_prices.py", "PRICE = '2'\n")

    assert tools.changed()
    assert await says(tools.load(), "price") == "2"


def test_a_file_that_goes_takes_its_tools_along(project: Project) -> None:
    """A deleted file is a change, and its tools are gone."""
    project.tool("one")
    project.tool("two")
    tools = project_tools(project.root)
    tools.load()

    (project.root / "tools" / "one.py").unlink()

    assert tools.changed()
    loaded = tools.load()
    assert (names(loaded), loaded.changed) == (["two"], ("one.py",))


def install(folder: Path, package: str, points: str, code: str) -> None:
    """An installed package, as far as entry points go: a module, and metadata that names it."""
    module = package.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path, for packages that a test installs; what is imported from it is forgotten."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


async def test_packages_bring_tools(site: Path) -> None:
    """An entry point names one tool, several, or a module; a package that fails is named and the others load."""
    code = (
        GOOD.format(name="single", says="s") + GOOD.format(name="other", says="o") + "BOTH = [single, other]\nN = 1\n"
    )
    install(site, "bring-tools-a", "[p2engine.tools]\none = bring_tools_a:single\nall = bring_tools_a\n", code)
    install(site, "bring-tools-b", "[p2engine.tools]\nsome = bring_tools_b:BOTH\n", code.replace("single", "third"))
    install(site, "bring-tools-c", "[p2engine.tools]\nno = bring_tools_c:N\n", code)
    install(site, "bring-tools-d", "[p2engine.tools]\nbad = bring_tools_d\n", "raise ValueError('broken')")

    loaded = installed_tools()

    assert sorted(names(loaded)) == ["other", "other", "single", "third"]
    assert sorted(problems(loaded)) == [
        "entry point 'bad' of bring-tools-d (bring_tools_d): ValueError: broken",
        "entry point 'no' of bring-tools-c (bring_tools_c:N) holds no tool",
    ]


def test_packages_bring_agent_types(site: Path) -> None:
    """An entry point names a factory; of two with one name the first is taken and the other is named."""
    install(site, "bring-agents-a", "[p2engine.agents]\necho = bring_agents_a:Echo\n", "class Echo: ...")
    install(site, "bring-agents-b", "[p2engine.agents]\necho = bring_agents_b:Echo\n", "class Echo: ...")
    install(site, "bring-agents-c", "[p2engine.agents]\nfive = bring_agents_c:FIVE\n", "FIVE = 5")
    install(site, "bring-agents-d", "[p2engine.agents]\ngone = bring_agents_d:Gone\n", "")

    found = installed_agents()

    assert {name: factory.__module__ for name, factory in found.factories.items()} == {"echo": "bring_agents_a"}
    assert [problem.message.split(" (")[0] for problem in found.problems] == [
        "agent type 'echo' is there already; 'echo' of bring-agents-b",
        "entry point 'five' of bring-agents-c",
        "entry point 'gone' of bring-agents-d",
    ]


EVALUATORS = """
from p2engine import LLMEvaluator, Subject, evaluator
from p2engine.evals.function import declared_by

@evaluator(id="polite", version="1.0")
def polite(subject: Subject) -> bool:
    return "please" in subject.answer

@evaluator(id="polite", version="2.0")
async def politer(subject: Subject) -> float:
    return 0.5

@evaluator(id="domain_expert", version="1.0")
class DomainExpert(LLMEvaluator):
    model = "openai/gpt-4o"

    def build_messages(self, payload):
        return [{"role": "user", "content": payload.answer}]

def words(subject):
    return len(subject.answer.split()) < 5

def _own(subject):
    return 1.0

def other(text):
    return 1.0
"""


def test_the_evaluators_of_a_folder_are_found(project: Project) -> None:
    """Decorated functions and classes in every version; a plain function of a `subject` for the check `python`."""
    project.write("judges.py", EVALUATORS, folder="evals")
    project.write("again.py", "from .judges import polite\n", folder="evals")
    loaded = project_evals(project.root).load()
    assert loaded.problems == ()
    found = sorted(each.name for each in loaded.found)
    assert found == ["domain_expert@1.0", "polite@1.0", "polite@2.0", "python:words@1"]
    assert project_tools(project.root).load() == Loaded()
    assert project_evals(project.root, enabled=False).load() == Loaded()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "from infra.evals.llm_eval import LLMEvaluator\n",
            "No module named 'infra'; write: from p2engine import evaluator, LLMEvaluator",
        ),
        (
            "from p2engine import evaluator\n\n@evaluator(id='two words')\ndef f(subject): ...\n",
            "evals/bad.py:3: evaluator 'two words': an id has 1 to 64 letters, digits, _ . and -",
        ),
        ("from evals import judges\n", "for a file beside this one write: from .NAME import …"),
        ("def broken(:\n", "evals/bad.py:1: SyntaxError"),
    ],
)
def test_a_broken_evaluator_file_is_named_with_its_mend(project: Project, text: str, problem: str) -> None:
    """The others are loaded."""
    project.write("judges.py", EVALUATORS, folder="evals")
    project.write("bad.py", text, folder="evals")
    loaded = project_evals(project.root).load()
    (said,) = [str(each) for each in loaded.problems]
    assert problem in said
    assert len(loaded.found) == 4


def test_an_edited_evaluator_is_another(project: Project) -> None:
    """What a verdict depends on has another name after an edit, also one in the file around it."""
    project.write("one.py", EVALUATORS, folder="evals")
    code = project_evals(project.root)
    before = {each.name: each.identity({}) for each in code.load().found}
    project.write("one.py", EVALUATORS.replace("0.5", "0.6"), folder="evals")
    assert code.changed()
    after = {each.name: each.identity({}) for each in code.load().found}
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)


def test_installed_packages_bring_evaluators(site: Path) -> None:
    """An entry point names an evaluator, several, or a module; one that holds none is named."""
    install(site, "bring-evals-a", "[p2engine.evals]\none = bring_evals_a:polite\nall = bring_evals_a\n", EVALUATORS)
    install(site, "bring-evals-b", "[p2engine.evals]\nno = bring_evals_b:_own\n", EVALUATORS)
    loaded = installed_evals()
    assert sorted(each.name for each in loaded.found if each.id != "python:words") == [
        "domain_expert@1.0",
        "polite@1.0",
        "polite@2.0",
    ]
    (problem,) = loaded.problems
    assert "holds no evaluator" in str(problem)
    assert problem.hint == "make it one with @evaluator"

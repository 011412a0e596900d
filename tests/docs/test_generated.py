"""The documentation says what the code says: commands, the machine, the floors, links."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from p2engine.cli.main import command, execute
from p2engine.cli.options import walk
from p2engine.domain.states import STATES, SUCCESSORS, name_of
from tests.docs.pages import ROOT, anchors, blocks, links, pages, prose

ARCHITECTURE = ROOT / "ARCHITECTURE.md"
CLI = ROOT / "docs" / "cli.md"
EVENTS = ROOT / "docs" / "events.md"
SECTION = re.compile(r"### `p2engine ([\w -]+)`\n(.*?)(?=\n###? |\n<!-- /generated -->)", re.DOTALL)
NAMES = re.compile(r"--?[\w-]+")


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """The script that writes what is generated."""
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "scripts" / "generate_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leaves() -> Iterator[tuple[str, Any]]:
    """Every command that does something, by its words."""
    return ((" ".join(path), each) for path, each in walk(command()) if not hasattr(each, "commands"))


def test_generated_parts_are_up_to_date(generator: ModuleType) -> None:
    """Nothing generated differs from what the code says now; `python scripts/generate_docs.py` mends it."""
    stale = [path.name for path, text in generator.generated() if path.read_text(encoding="utf-8") != text]
    assert stale == []


def test_every_command_has_its_section() -> None:
    """The reference has the commands that there are, each once, and no other."""
    shown = [name for name, _ in SECTION.findall(CLI.read_text(encoding="utf-8"))]
    assert sorted(shown) == sorted(name for name, _ in leaves())


@pytest.mark.parametrize("name", [name for name, _ in leaves()])
def test_the_reference_has_the_words_of_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Options and text of a command in the reference are those of its `--help`."""
    assert execute([*name.split(), "--help"]) == 0
    told = capsys.readouterr().out
    section = dict(SECTION.findall(CLI.read_text(encoding="utf-8")))[name]

    listed = told.partition("\nOptions:\n")[2].partition("\n\n")[0]
    options = {name for line in listed.splitlines() if line[:3] == "  -" for name in NAMES.findall(line.split("  ")[1])}
    shown = {name for line in section.splitlines() if line[:3] == "- `" for name in re.findall(r"`(--?[\w-]+)", line)}
    assert options - {"--help", "-h"} == shown
    words = " ".join(told.split())
    for line in section.splitlines():
        text = line.partition("`: ")[2] if line.startswith("- ") else line
        assert " ".join(text.split()) in words


def test_the_machine_is_drawn_as_it_is() -> None:
    """The picture in ARCHITECTURE.md has the arrows of the successor table, no more and no fewer."""
    picture = next(block.text for block in blocks(ARCHITECTURE) if block.text.startswith("stateDiagram"))
    arrows = set(re.findall(r"(\S+) --> (\S+)", picture))
    table = {
        (name_of(ground) if ground else "[*]", name_of(state))
        for ground, after in SUCCESSORS.items()
        for state in after
    }
    assert arrows == table


def test_the_floors_are_drawn_as_they_are_checked() -> None:
    """The floors in ARCHITECTURE.md are the layers that import-linter checks, from the top down."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    checked = [set(re.findall(r"p2engine\.(\w+)", layer)) for layer in layers]
    picture = next(block.text for block in blocks(ARCHITECTURE) if block.text.startswith("cli "))
    drawn = [set(re.split(r" · ", re.split(r"\s{2,}", line)[0])) for line in picture.splitlines()]
    assert drawn == checked


def test_every_module_that_is_named_exists() -> None:
    """ARCHITECTURE.md sends nobody to a file or folder that is not there."""
    named = re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?|[a-z_]+\.py)`", ARCHITECTURE.read_text(encoding="utf-8"))
    source = ROOT / "src" / "p2engine"
    seeds = {"orchestrator/", "infra/", "services/"}  # of an older layout, which the table says
    lost = {name for name in named if name not in seeds and not ((ROOT / name).exists() or (source / name).exists())}
    assert {name for name in lost if not list(source.glob(f"*/{name}"))} == set()


def test_every_state_is_an_event_of_the_table() -> None:
    """The table of states in the documentation has every state."""
    text = (ROOT / "docs" / "orchestration.md").read_text(encoding="utf-8")
    assert [name_of(state) for state in STATES if f"| `{name_of(state)}` |" not in text] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """A link within the repository names a file that is there, and a heading that is in it."""
    lost = []
    for link in links(page):
        if "://" in link:
            continue
        file, _, heading = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (heading and heading not in anchors(target)):
            lost.append(link)
    assert lost == []


def test_every_page_is_reached_from_the_index() -> None:
    """No page is written for nobody."""
    index = ROOT / "docs" / "index.md"
    reached = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
    assert [page.name for page in pages() if page.parent != ROOT and page != index and page not in reached] == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_use_plain_words(page: Path) -> None:
    """No word that praises instead of telling."""
    praise = r"\b(?:powerful|seamless(?:ly)?|robust|cutting[- ]edge|blazing(?:ly)?|effortless(?:ly)?|world[- ]class)\b"
    assert re.findall(praise, prose(page), re.IGNORECASE) == []

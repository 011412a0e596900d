"""The pages of the documentation, taken apart into fenced blocks and links. Runs nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
HAND_WRITTEN = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")

_FENCE = re.compile(r"(?P<ticks>```+)(?P<language>[\w+-]*)(?: title=\"(?P<title>[^\"]+)\")?\s*")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`\n]*`")
_HEADING = re.compile(r"#{1,6} +(.*)")
_GENERATED = re.compile(r"<!-- (/?)generated")


class Block(NamedTuple):
    """One fenced block. title: the file it is. line: of its fence, 1-based. generated: a script wrote it."""

    language: str
    title: str
    text: str
    line: int
    generated: bool


def pages() -> list[Path]:
    """Every page there is."""
    return [*(ROOT / name for name in HAND_WRITTEN), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    opened: tuple[re.Match[str], int] | None = None
    inside: list[str] = []
    generated = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if opened is not None:
            if line == opened[0]["ticks"]:
                yield Block(opened[0]["language"], opened[0]["title"] or "", "\n".join(inside), opened[1], generated)
                opened = None
            else:
                inside.append(line)
        elif found := _FENCE.fullmatch(line):
            opened, inside = (found, number), []
        elif mark := _GENERATED.match(line):
            generated = not mark[1]
    assert opened is None, f"{page.name}:{opened and opened[1]}: the fence is never closed"


def prose(page: Path) -> str:
    """A page without what stands in fences and backticks."""
    text = re.sub(r"(?ms)^(```+).*?^\1$", "", page.read_text(encoding="utf-8"))
    return _CODE.sub("", text)


def links(page: Path) -> list[str]:
    """Where a page points to."""
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """The headings of a page, as links name them."""
    found = (_HEADING.fullmatch(line) for line in page.read_text(encoding="utf-8").splitlines())
    names = (re.sub(r"[^\w\- ]", "", heading[1].lower()) for heading in found if heading)
    return {name.strip().replace(" ", "-") for name in names}


def first_difference(shown: str, actual: str) -> str:
    """Where what a page shows is not what came out; empty where it is.

    `…` stands for any text in its line, and alone on a line for any lines. Runs of blanks count as one.
    """
    wanted, got = _lines(shown), _lines(actual)
    pattern = "".join(r"(?:[^\n]*\n)*?" if line == "…" else _line_pattern(line) + "\n" for line in wanted)
    if re.fullmatch(pattern, "".join(f"{line}\n" for line in got)):
        return ""
    for place, line in enumerate(wanted):
        if line == "…":
            break
        if place >= len(got) or not re.fullmatch(_line_pattern(line), got[place]):
            return f"shown: {line}\ncame:  {got[place] if place < len(got) else '(nothing)'}\n\n{actual}"
    return f"shown:\n{shown}\n\ncame:\n{actual}"


def _lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.strip("\n").splitlines()]


def _line_pattern(line: str) -> str:
    return "[^\n]*?".join(re.escape(part) for part in line.split("…"))

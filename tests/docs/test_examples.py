"""Every example in the documentation does what it shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks, pages
from tests.docs.stage import Stage

NOT_RUN = {"CONTRIBUTING.md"}  # shows how code reads, not what it does
PAGES = [page for page in pages() if page.name not in NOT_RUN and any(not block.generated for block in blocks(page))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_work(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a fresh project without a key or a network, from top to bottom; what is shown as output comes out."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    stage = Stage(folder)

    for block in blocks(page):
        if not block.generated:
            stage.play(block)

"""A conversation as one file: a page that runs nothing and asks nobody, or every event as JSON lines."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from tests.cli.project import Project, Run
from tests.cli.scenes import EVIL, PARIS, TOKYO, keeper, say

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Reads a page as a browser would: its elements, attributes and texts. Fails where elements do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def having(self, css: str) -> int:
        """How many elements have this class."""
        return sum(css in (attributes.get("class") or "").split() for _, attributes in self.elements)


def page(run: Run, name: str) -> Page:
    return Page(run("conversation", "export", name, "--format", "html").out)


def test_a_page_shows_the_conversation(here: Run) -> None:
    """Messages, calls, results, tokens; the delegation stands inside the call that asked for it."""
    say(here, "demo", PARIS, TOKYO, agent="agent_alpha")

    shown = page(here, "demo")

    assert PARIS in shown.text
    assert 'location="Tokyo"' in shown.text
    assert "calls get_weather" in shown.text
    assert "tokens" in shown.text
    assert shown.having("user_message") == 3
    assert shown.having("assistant_message") == 3
    places = [tag for tag, _ in shown.elements]
    assert "details" in places
    links = {attributes["href"] for tag, attributes in shown.elements if tag == "a"}
    anchors = {f"#{attributes['id']}" for tag, attributes in shown.elements if "id" in attributes}
    assert links <= anchors


def test_failure_25_a_page_runs_nothing_and_asks_nobody(project: Project, here: Run) -> None:
    """Text of users, agents and tools is text: no element, attribute or address comes from it, nor a request."""
    keeper(project)
    name = "<img src=x onerror=alert(1)>"
    say(here, name, EVIL, f'save "><svg/onload=alert(1)> {EVIL}', '</pre></details><a href="javascript:alert(1)">x</a>')
    here("conversation", "rate", name, "bad", "--note", "<b>no</b>")

    shown = page(here, name)

    tags = {tag for tag, _ in shown.elements}
    assert not tags & {"script", "img", "svg", "iframe", "object", "link", "form", "b", "base"}
    for tag, attributes in shown.elements:
        assert not any(key.startswith("on") for key in attributes)
        assert "src" not in attributes
        if "href" in attributes:
            assert tag == "a"
            assert str(attributes["href"]).startswith("#e-")
    policy = next(attributes["content"] for tag, attributes in shown.elements if "http-equiv" in attributes)
    assert str(policy).startswith("default-src 'none';")
    assert "<script>alert(1)</script>" in shown.text
    assert "\\x1b[31mred" in shown.text
    assert "{{ 7*7 }}" in shown.text
    assert name in shown.text


def test_other_branches_stand_below(here: Run) -> None:
    """The current branch whole, and of each other one what it added."""
    say(here, "demo", PARIS, TOKYO, agent="agent_alpha")
    here("conversation", "rewind", "demo", "8", "--name", "<other>")
    say(here, "demo", "What's the weather in Oslo?", agent="agent_alpha")

    shown = page(here, "demo")

    assert "Other branches" in shown.text
    ids = [attributes["id"] for _, attributes in shown.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "agent_alpha on <other>" in shown.text
    assert "agent_alpha on main" in shown.text
    assert "Tokyo" in shown.text
    assert "Oslo" in shown.text


def test_a_page_works_in_light_and_dark(here: Run) -> None:
    """One file with its own style for both."""
    say(here, "demo", PARIS, agent="agent_alpha")
    text = here("conversation", "export", "demo", "--format", "html").out
    assert "color-scheme: light dark" in text
    assert "prefers-color-scheme: dark" in text


def test_a_file_is_written_whole(project: Project, here: Run) -> None:
    """`-o` writes what would have been printed, and says how much; a failed write leaves nothing behind."""
    say(here, "demo", PARIS, agent="agent_alpha")
    printed = here("conversation", "export", "demo", "--format", "html").out

    done = here("conversation", "export", "demo", "--format", "html", "-o", "demo.html", "--json").document

    written = (project.folder / "demo.html").read_bytes()
    assert written.decode() == printed.removesuffix("\n")
    assert done == {"conversation": "demo", "format": "html", "file": "demo.html", "bytes": len(written)}
    missing = here("conversation", "export", "demo", "-o", "nowhere/demo.jsonl")
    assert missing.status == 1
    assert len(missing.err.splitlines()) == 1
    assert here("conversation", "export", "demo", "-o", "config").status == 2
    assert [path.name for path in project.folder.glob(".*.part")] == []


def test_json_lines_hold_every_event(here: Run) -> None:
    """One event a line, in order, in ASCII, with its cause and body: as many as there are."""
    say(here, "demo", EVIL, TOKYO, agent="agent_alpha")

    out = here("conversation", "export", "demo").out
    events = [json.loads(line) for line in out.splitlines()]

    assert out.isascii()
    assert "\x1b" not in out
    rows = here("artifact", "show", "demo", "--limit", "1000", "--json").document
    assert [event["ref"] for event in events] == [row["ref"] for row in rows]
    assert all(event["cause"] for event in events)
    message = next(event for event in events if event["kind"] == "state.user_message")
    assert message["body"]["text"] == EVIL


@pytest.mark.parametrize("name", ["openai", "sharegpt"])
def test_formats_of_later_versions_are_refused_by_name(name: str, here: Run) -> None:
    """Known, not built, exit 2."""
    done = here("conversation", "export", "demo", "--format", name)
    assert done.status == 2
    assert f"not available in this version: export --format {name}" in done.err


def test_an_unknown_format_is_refused(here: Run) -> None:
    """What there is is said."""
    done = here("conversation", "export", "demo", "--format", "pdf")
    assert done.status == 2
    assert "jsonl and html" in done.err

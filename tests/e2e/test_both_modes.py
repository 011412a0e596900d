"""The same script in one process and over several: the same states, the same branches, the same words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tests.e2e.deployment import Deployment

PARIS = "What's the weather in Paris?"
TOKYO = "Delegate to agent_helper: What's the weather in Tokyo?"
OSLO = "What's the weather in Oslo?"
LOOKS = (
    ("stack", "stack"),
    ("stack of main", "stack --branch main"),
    ("stack of the helper", "stack --agent agent_helper"),
    ("branches", "branches --delegates"),
    ("show", "show"),
)
CHANGING = {"id", "at", "updated_at", "created_at", "cost_usd", "duration_s"}
MINTED = re.compile(r"\b[0-9a-f]{12}\b")


def test_one_script_tells_the_same(embedded: Deployment, distributed: Deployment, name: str) -> None:
    """Answers over tools and delegates, a rewind and a fork: equal documents, apart from ids, times and costs."""
    told = [script(deployment, name) for deployment in (embedded, distributed)]

    assert told[0] == told[1]
    assert [entry["state"] for entry in told[0]["stack"]][-2:] == ["Finished", "Override"]


def script(deployment: Deployment, name: str) -> Mapping[str, Any]:
    """What each command said, with what differs from run to run taken out."""
    lines = [
        f'chat with agent_alpha --name {name} --json -m "{PARIS}" -m "{TOKYO}"',
        f"conversation rewind {name} 8 --json",
        f'chat resume {name} --json -m "{OSLO}"',
        f"conversation fork {name} 4 elsewhere --json",
        f"config set-override {name} temperature=0.5 --json",
        f"conversation rate {name} good --json",
        *(f"conversation {look.split()[0]} {name} {' '.join(look.split()[1:])} --json" for _, look in LOOKS),
    ]
    names = ("chat", "rewind", "resume", "fork", "override", "rate", *(label for label, _ in LOOKS))
    done = deployment.cli("shell", input="".join(f"{line}\n" for line in lines))
    assert done.status == 0, done.err
    minted: dict[str, str] = {}
    documents = list(_documents(done.out))
    turns = 3  # of `chat` lines: two of the first, one of the second
    assert len(documents) == len(lines) + turns - 2
    by_name = {"chat": documents[:2], **dict(zip(names[1:], documents[2:], strict=True))}
    return {label: _settled(document, minted) for label, document in by_name.items()}


def _documents(text: str) -> Any:

    decoder, place = json.JSONDecoder(), 0
    while place < len(text):
        document, place = decoder.raw_decode(text, place)
        yield document
        place += len(text[place:]) - len(text[place:].lstrip())


def _settled(value: Any, minted: dict[str, str]) -> Any:
    """Ids are numbered in the order in which they appear; what differs from run to run is left out."""
    if isinstance(value, dict):
        return {key: _settled(each, minted) for key, each in value.items() if key not in CHANGING}
    if isinstance(value, list):
        return [_settled(each, minted) for each in value]
    if isinstance(value, str):
        return MINTED.sub(lambda found: minted.setdefault(found[0], f"id{len(minted)}"), value)
    return value

"""Writes what is generated: `.env.example`, and the tables between markers in `docs/`.

    python scripts/generate_docs.py            writes them
    python scripts/generate_docs.py --check    only names what differs, and exits 1

A page asks for a table with the line `<!-- generated: NAME -->`; it ends at `<!-- /generated -->`.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from p2engine.agents.entries import AgentEntry, ModelEntry, RuleAgentEntry, RuleEntry
from p2engine.configuration import NOT_BUILT, PLACES, PROVIDERS, VARIABLES, all_keys
from p2engine.domain.setup import RenderPolicy

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs"
ENV_EXAMPLE = ROOT / ".env.example"

BLOCK = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; bars and line ends inside cells are kept from breaking it."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def written(default: Any) -> str:
    """A default as one would write it in a file."""
    match default:
        case None | [] | "":
            return ""
        case bool():
            return str(default).lower()
        case RenderPolicy():
            return default.kind
    return "required" if default is PydanticUndefined else str(default)


def configuration_keys() -> str:
    rows = ([code(k.name), k.words, code(written(k.default)), code(k.variable), k.effect] for k in all_keys())
    return table(("Key", "Type", "Default", "Variable", "Effect"), rows)


def variables() -> str:
    keys = {key.variable: f"Sets `{key.name}`." for key in all_keys() if key.variable}
    later = {
        name: "Not in this version: refused." if what == "refused" else "Not in this version: said at start, no effect."
        for name, what in NOT_BUILT.items()
    }
    rows = ([code(name), effect] for name, effect in {**PROVIDERS, **PLACES, **keys, **later}.items())
    return table(("Variable", "Effect"), rows)


def entry_keys(model: type[BaseModel], leave_out: type[BaseModel] | None = None) -> str:
    left_out = set(leave_out.model_fields) if leave_out else set()
    keys = (key for key in all_keys(model) if key.name.partition(".")[0] not in left_out)
    rows = ([code(key.name), key.words, code(written(key.default)), key.effect] for key in keys)
    return table(("Key", "Type", "Default", "Effect"), rows)


BLOCKS: Mapping[str, Callable[[], str]] = {
    "configuration-keys": configuration_keys,
    "variables": variables,
    "agent-keys": lambda: entry_keys(AgentEntry),
    "model-agent-keys": lambda: entry_keys(ModelEntry, leave_out=AgentEntry),
    "rule-agent-keys": lambda: entry_keys(RuleAgentEntry, leave_out=AgentEntry),
    "rule-keys": lambda: entry_keys(RuleEntry),
}


def env_example() -> str:
    """`.env.example`: every variable with its default, switched off."""
    keys = {key.variable: key for key in all_keys()}
    lines = [
        "# Copy this to .env and take away the # of what you want to set.",
        "# What stands in the environment wins over this file; an empty value counts as none.",
        "",
        f"# {PROVIDERS['OPENAI_API_KEY']}",
        "OPENAI_API_KEY=",
        f"# {PROVIDERS['OPENAI_BASE_URL']}",
        "# OPENAI_BASE_URL=https://api.openai.com/v1",
        f"# {PROVIDERS['…_API_KEY']}",
        "# ANTHROPIC_API_KEY=",
    ]
    for name in VARIABLES:
        key = keys[name]
        lines += ["", f"# {key.effect}", f"# Sets {key.name}: {key.words}.", f"# {name}={written(key.default)}"]
    examples = {"P2ENGINE_HOME": ".p2engine", "CONFIG_FILE": "config/config.json"}
    for name, example in examples.items():
        lines += ["", f"# {PLACES[name]}", f"# {name}={example}"]
    return "\n".join(lines) + "\n"


def filled(text: str) -> str:
    """A page with its tables written anew."""
    return BLOCK.sub(lambda block: f"{block[1]}{BLOCKS[block['name']]()}\n{block[3]}", text)


def generated() -> Iterator[tuple[Path, str]]:
    """Every file that is generated, wholly or in part, and what it should hold."""
    yield ENV_EXAMPLE, env_example()
    for path in sorted(PAGES.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if BLOCK.search(text):
            yield path, filled(text)


def main(arguments: list[str]) -> int:
    status = 0
    for path, text in generated():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        if "--check" in arguments:
            status = 1
        else:
            path.write_text(text, encoding="utf-8")
        print(f"{'differs' if status else 'written'}: {path.relative_to(ROOT)}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

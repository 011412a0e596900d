"""The files of a starter project. Knows what they hold; `init` writes them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from p2engine.agents.personas import SHIPPED
from p2engine.configuration import PLACES, PROVIDERS, SECRETS, VARIABLES, all_keys

TEMPLATES = ("chat",)
LATER = ("rollout", "payments")

GITIGNORE = """\
.p2engine/
.env
logs/
__pycache__/
"""

EXAMPLE_TOOL = '''\
"""Tools of this project: every @function_tool in tools/*.py is loaded. An agent may use those that its entry in
config/agents.yml lists under `tools`, as agent_alpha's does; an edit of either takes effect on the next turn.
"""

from p2engine import function_tool


@function_tool(side_effect_free=True)
def count_words(text: str) -> dict[str, int]:
    """Count the words and characters of a text."""
    return {"words": len(text.split()), "characters": len(text)}
'''
EXAMPLE_MESSAGE = 'Use count_words with {"text": "one two three"}'
"""What makes any model, and the offline stand-in too, call the example tool."""

_DELEGATE = '"get_weather", "delegate"'  # the tools of agent_alpha that the example tool is listed after


def files() -> Mapping[str, str]:
    """Path below the project folder -> content."""
    personas = {
        f"templates/personas/{path.name}": path.read_text(encoding="utf-8")
        for path in sorted((SHIPPED / "personas").glob("*.j2"))
    }
    return {
        "config/agents.yml": _shipped("agents.yml").replace(_DELEGATE, f'{_DELEGATE}, "count_words"', 1),
        "config/config.json": _shipped("config.json"),
        ".env.example": env_example(),
        ".gitignore": GITIGNORE,
        "tools/count_words.py": EXAMPLE_TOOL,
        **personas,
    }


def write(folder: Path) -> Iterator[tuple[str, bool]]:
    """Write each file that is not there, and say of each whether it was written. Raises OSError."""
    for name, content in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("x", encoding="utf-8", newline="") as stream:
                stream.write(content)
        except FileExistsError:
            yield name, False
        else:
            yield name, True


def _shipped(name: str) -> str:
    return (SHIPPED / name).read_text(encoding="utf-8")


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
        lines += ["", f"# {key.effect}", f"# Sets {key.name}: {key.words}.", f"# {name}={_written(key.default)}"]
    for name, effect in SECRETS.items():
        lines += ["", f"# {effect}", f"# {name}="]
    examples = {"P2ENGINE_HOME": ".p2engine", "CONFIG_FILE": "config/config.json"}
    for name, example in examples.items():
        lines += ["", f"# {PLACES[name]}", f"# {name}={example}"]
    return "\n".join(lines) + "\n"


def _written(default: Any) -> str:
    """A default as one would write it in a file."""
    if default is None or default == []:
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)

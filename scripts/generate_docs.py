"""Writes what is generated: `.env.example`, and the parts between markers in `docs/` and `ARCHITECTURE.md`.

    python scripts/generate_docs.py            writes them
    python scripts/generate_docs.py --check    only names what differs, and exits 1

A page asks for a part with the line `<!-- generated: NAME -->`; it ends at `<!-- /generated -->`.
"""

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from p2engine import errors, limits
from p2engine.agents.entries import AgentEntry, ModelEntry, RuleAgentEntry, RuleEntry
from p2engine.agents.moves import delegate_spec
from p2engine.cli.fsm import diagram_lines
from p2engine.cli.main import PROGRAM, command
from p2engine.cli.options import AnyCommand, walk
from p2engine.configuration import NOT_BUILT, PLACES, PROVIDERS, SECRETS, VARIABLES, all_keys
from p2engine.domain.messages import ToolSpec
from p2engine.domain.setup import RenderPolicy
from p2engine.domain.states import STATES, name_of, tag_of
from p2engine.evals.answers import answer_checks
from p2engine.evals.checks import PythonCheck
from p2engine.evals.conduct import conduct_checks
from p2engine.evals.rubrics import library
from p2engine.rollouts.entries import ArmEntry, EvalEntry, TasksEntry, TeamEntry
from p2engine.runtime.conversation import Conversation
from p2engine.runtime.engine import Engine as Core
from p2engine.tools.artifacts import artifact_tools
from p2engine.tools.payments import payment_tools
from p2engine.tools.registry import NO_LEDGER, WITHHELD
from p2engine.tools.weather import weather_tool
from p2engine.wiring import Engine

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs"
HOUSE = ROOT / "ARCHITECTURE.md"
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
    rows = ([code(name), effect] for name, effect in {**PROVIDERS, **SECRETS, **PLACES, **keys, **later}.items())
    return table(("Variable", "Effect"), rows)


def entry_keys(model: type[BaseModel], leave_out: type[BaseModel] | None = None) -> str:
    left_out = set(leave_out.model_fields) if leave_out else set()
    keys = (key for key in all_keys(model) if key.name.partition(".")[0] not in left_out)
    rows = ([code(key.name), key.words, code(written(key.default)), key.effect] for key in keys)
    return table(("Key", "Type", "Default", "Effect"), rows)


# The machine and its bounds


def fence(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


def machine() -> str:
    return fence("mermaid", "\n".join(diagram_lines()))


def states() -> str:
    """Every state with what it says of itself, without how it is stored."""
    rows = ([code(name_of(state)), code("state." + tag_of(state)), summary(state)] for state in STATES)
    return table(("State", "Event", "Holds"), rows)


def bounds() -> str:
    """`limits.py` as a table: each name with its value and the comment behind it."""
    source = inspect.getsource(limits)
    comments = {
        line.partition(":")[0]: line.partition("  # ")[2]
        for line in source.splitlines()
        if re.match(r"[A-Z_]+: Final", line)
    }
    names = [node.target.id for node in ast.parse(source).body if isinstance(node, ast.AnnAssign)]  # type: ignore[union-attr]
    return table(("Bound", "Value", "Of what"), ([code(n), bound(n), comments[n]] for n in names))


def bound(name: str) -> str:
    """A limit in its unit."""
    value = getattr(limits, name)
    if "BYTES" in name and value >= 1024:
        return f"{value // 1024**2} MiB" if value >= 1024**2 else f"{value // 1024} KiB"
    return f"{value:g} s" if name.endswith("_S") else f"{value:,}"


def error_tree() -> str:
    tree = inspect.getdoc(errors) or ""
    return fence("text", tree[tree.index("P2EngineError") :])


# The command line


def commands() -> str:
    """Every command in a line."""
    rows = ([code(usage(path, each)), summary(each, each.help)] for path, each in _leaves())
    return table(("Command", "Does"), rows)


def command_reference() -> str:
    """Every command with all that its help says of its words."""
    parts = []
    for path, each in _leaves():
        words = [described(param) for param in _shown(each)]
        told = " ".join((each.help or "").split())
        parts.append("\n".join([f"### `{' '.join((PROGRAM, *path))}`", "", told, *([""] if words else []), *words]))
    return "\n\n".join(parts)


def global_options() -> str:
    rows = ([code(word(param)), param.help] for param in _shown(command()) if param.name != "version")
    return table(("Option", "Means"), rows)


def usage(path: Iterable[str], each: AnyCommand) -> str:
    """`conversation fork NAME INDEX BRANCH [--option VALUE]`."""
    words = [word(param) if param.required else f"[{word(param)}]" for param in _shown(each)]
    return " ".join((PROGRAM, *path, *words))


def word(param: Any) -> str:
    """A parameter as it is typed."""
    if param.param_type_name == "argument":
        return str(param.metavar or param.name.upper()).strip("[]")
    name = max(param.opts, key=len)
    return name if param.is_flag else f"{name} {param.metavar or name.lstrip('-').upper()}"


def described(param: Any) -> str:
    """A parameter with all its spellings, and what it means."""
    short = "".join(f", `{name}`" for name in param.opts if name.startswith("-") and name != max(param.opts, key=len))
    return f"- `{word(param)}`{short}: {param.help}"


def _leaves() -> Iterator[tuple[tuple[str, ...], AnyCommand]]:
    return ((path, each) for path, each in walk(command()) if not hasattr(each, "commands"))


def _shown(each: AnyCommand) -> list[Any]:
    """The parameters that help shows, `--help` aside."""
    return [param for param in each.params if not getattr(param, "hidden", False) and "--help" not in param.opts]


# Tools and Python


def built_in_tools() -> str:
    specs = [*(tool.spec for tool in (weather_tool(), *artifact_tools(), *payment_tools())), delegate_spec(())]
    return table(("Tool", "A repeat", "Does"), ([code(call(s)), _repeat(s), s.description] for s in specs))


def call(spec: ToolSpec) -> str:
    """`get_weather(location, unit)`; what may be left out is in brackets."""
    needed = spec.parameters.get("required", ())
    names = spec.parameters["properties"]
    return f"{spec.name}({', '.join(name if name in needed else f'[{name}]' for name in names)})"


def _repeat(spec: ToolSpec) -> str:
    return "" if spec.name == "delegate" else spec.repeat


def withheld_tools() -> str:
    always = sorted((name, why) for name, why in WITHHELD.items() if why != NO_LEDGER)
    return table(("Name", "Why it is withheld"), ([code(name), why] for name, why in always))


# Evaluators


def checks() -> str:
    """The built-in checks, with what each takes beside its value."""
    every = [*answer_checks(re.compile, lambda _: str), *conduct_checks()]
    rows = [
        [code(each.id), ", ".join(code(name) for name in sorted(each.takes - {"*"})), each.summary] for each in every
    ]
    return table(
        ("Check", "Takes beside its value", "Passes when"), [*rows, [code(PythonCheck.id), "", PythonCheck.summary]]
    )


def rubrics() -> str:
    """The rubric library: each file with the comment that it begins with."""
    told = ((name, re.match(r"{# (.*?) #}", text)) for name, text in library().items())
    return table(("Rubric", "Judges"), ([code(name), found[1] if found else ""] for name, found in told))


PLUMBING = {"start", "run", "failed", "aclose", "reload"}  # public between modules, and nothing a user calls


def methods(*owners: type) -> str:
    """The public methods of a class, with what each says first of itself."""
    rows = []
    for owner in owners:
        for name, method in vars(owner).items():
            plain = getattr(method, "__func__", method)
            if not name.startswith("_") and name not in PLUMBING and inspect.isfunction(plain):
                rows.append([code(name + _signature(plain)), summary(plain)])
    return table(("Method", "Does"), rows)


def _signature(function: Callable[..., Any]) -> str:
    """The parameters by name, with their defaults; no annotations."""
    found = inspect.signature(inspect.unwrap(function))
    kept = [p.replace(annotation=p.empty) for name, p in found.parameters.items() if name not in ("self", "cls")]
    return str(found.replace(parameters=kept, return_annotation=found.empty))


def summary(thing: Any, text: str | None = None) -> str:
    """The first sentence of a docstring, on one line."""
    first = " ".join((text if text is not None else inspect.getdoc(thing) or "").partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z`])", first)[0]


BLOCKS: Mapping[str, Callable[[], str]] = {
    "machine": machine,
    "states": states,
    "limits": bounds,
    "errors": error_tree,
    "commands": commands,
    "command-reference": command_reference,
    "global-options": global_options,
    "built-in-tools": built_in_tools,
    "withheld-tools": withheld_tools,
    "checks": checks,
    "rubrics": rubrics,
    "rollout-team-keys": lambda: entry_keys(TeamEntry),
    "rollout-variant-keys": lambda: entry_keys(ArmEntry),
    "rollout-eval-keys": lambda: entry_keys(EvalEntry),
    "rollout-tasks-keys": lambda: entry_keys(TasksEntry),
    "engine-methods": lambda: methods(Engine, Core),
    "conversation-methods": lambda: methods(Conversation),
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
    for name, effect in SECRETS.items():
        lines += ["", f"# {effect}", f"# {name}="]
    examples = {"P2ENGINE_HOME": ".p2engine", "CONFIG_FILE": "config/config.json"}
    for name, example in examples.items():
        lines += ["", f"# {PLACES[name]}", f"# {name}={example}"]
    return "\n".join(lines) + "\n"


def filled(text: str) -> str:
    """A page with its generated parts written anew."""
    return BLOCK.sub(lambda block: f"{block[1]}{BLOCKS[block['name']]()}\n{block[3]}", text)


def generated() -> Iterator[tuple[Path, str]]:
    """Every file that is generated, wholly or in part, and what it should hold."""
    yield ENV_EXAMPLE, env_example()
    for path in (HOUSE, *sorted(PAGES.rglob("*.md"))):
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

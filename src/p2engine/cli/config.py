"""`config …`: what the settings are and whether the files are right, and the overrides of one conversation."""

import json
import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2engine.cli.arguments import ConversationName, conversation_of
from p2engine.cli.options import group, options_of
from p2engine.cli.output import Output, fault_of, iso, one_line
from p2engine.cli.session import output_of, run_with_engine, settings_of
from p2engine.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2engine.runtime.conversation import Conversation
    from p2engine.settings import Settings
    from p2engine.wiring import Engine

Lock = Annotated[bool, typer.Option("--lock", help="Later changes of it need --lock too.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    config = group("Show and check the configuration; change a conversation's while it runs.")
    config.command("show")(show)
    config.command("check")(check)
    config.command("set-behavior")(set_behavior)
    config.command("set-tools")(set_tools)
    config.command("set-override")(set_override)
    config.command("show-overrides")(show_overrides)
    config.command("show-tools")(show_tools)
    app.add_typer(config, name="config")


# The files


def show(ctx: typer.Context) -> None:
    """Show every setting, with where it came from."""
    output, settings = output_of(ctx), settings_of(ctx)
    rows = _setting_rows(settings)
    document = {
        "project": str(settings.project) if settings.project else None,
        "home": str(settings.home),
        "config": str(settings.config) if settings.config else None,
        "settings": rows,
        "providers": [
            {"provider": name, "key": name in settings.provider_keys, "api_base": settings.api_bases.get(name)}
            for name in sorted({*settings.provider_keys, *settings.api_bases})
        ],
        "notes": settings.notes,
    }
    if output.is_json:
        output.document(document)
        return
    for note in settings.notes:
        output.note(note)
    places = [(name, document[name], "") for name in ("project", "home", "config")]
    keys = [(f"key of {name}", "(set)", "") for name in sorted(settings.provider_keys)]
    cells = [(row["key"], _value(row["value"]), row["source"]) for row in rows]
    output.table("", ("key", "value", "source"), [*places, *keys, *cells])


def _setting_rows(settings: "Settings") -> list[dict[str, Any]]:
    from p2engine.configuration import all_keys

    rows = []
    for key in all_keys():
        value: Any = settings
        for name in key.name.split("."):
            value = getattr(value, name)
        plain = value if isinstance(value, bool | int | float | str | list | dict | None) else str(value)
        rows.append({"key": key.name, "value": plain, "source": settings.sources.get(key.name, "default")})
    return rows


def _value(value: object) -> str | None:
    return None if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def check(ctx: typer.Context) -> None:
    """Look over config.json, agents.yml, personas and tools, and name every problem with its file and line."""
    from p2engine.cli.checking import check as look_over
    from p2engine.cli.checking import summary

    output = output_of(ctx)
    report = look_over(options_of(ctx))
    problems = [fault_of(problem) for problem in report.problems]
    lines = [_problem_line(problem) for problem in problems]
    lines += [f"warning: {warning}" for warning in report.warnings]
    looked = ", ".join(report.looked_at) or "built-in defaults"
    lines.append(f"{summary(problems)}; looked at {looked}")
    document = {
        "ok": not problems,
        "problems": problems,
        "warnings": report.warnings,
        "looked_at": report.looked_at,
    }
    output.document(document, "\n".join(lines))
    if problems:
        raise typer.Exit(2)


def _problem_line(problem: "Mapping[str, Any]") -> str:
    where = f"{problem['file']}:{problem['line']}: " if problem["line"] else f"{problem['file']}: "
    hint = f" ({problem['hint']})" if problem["hint"] else ""
    return f"{where if problem['file'] else ''}{problem['message']}{hint}"


# One conversation


def set_behavior(
    ctx: typer.Context,
    name: ConversationName,
    persona: Annotated[str, typer.Argument(metavar="PERSONA", help="A file in templates/personas, without its .j2.")],
    lock: Lock = False,
) -> None:
    """Give a conversation's agent another persona, from its next step on."""
    _override(ctx, name, {"behavior": persona}, lock)


def set_tools(
    ctx: typer.Context,
    name: ConversationName,
    tools: Annotated[
        str, typer.Argument(metavar="TOOLS", help="The tools it may use, with commas: get_weather,delegate.")
    ],
    lock: Lock = False,
) -> None:
    """Give a conversation's agent these tools and no others, from its next step on."""
    _override(ctx, name, {"tools": [word.strip() for word in tools.split(",") if word.strip()]}, lock)


def set_override(
    ctx: typer.Context,
    name: ConversationName,
    pairs: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUE…",
            help="model, temperature, top_p, max_tokens, render_policy, behavior, tools.",
        ),
    ],
    lock: Lock = False,
) -> None:
    """Change a conversation's agent, from its next step on."""
    _override(ctx, name, _changes(pairs), lock)


def _changes(pairs: list[str]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UsageError(f"expected KEY=VALUE, not {pair[:60]!r}", hint="such as temperature=0.2")
        if key in changes:
            raise UsageError(f"{key!r} is given twice")
        changes[key] = _as_said(key, value.strip())
    return changes


def _as_said(key: str, value: str) -> Any:
    """A value as it is recorded: numbers as numbers, lists as lists, all else as the text it is."""
    if key == "tools":
        return [word.strip() for word in value.split(",") if word.strip()]
    for number in (int, float):
        try:
            return number(value) if value.isascii() and key in ("temperature", "top_p", "max_tokens") else value
        except ValueError:
            continue
    return value


def _override(ctx: typer.Context, name: str, changes: dict[str, Any], lock: bool) -> None:
    async def body(engine: "Engine", output: Output) -> None:
        conversation = await conversation_of(engine, name)
        setup = await conversation.override(changes, lock=lock)
        branch = await conversation.branch()
        locks = sorted((await conversation.stack()).locks)
        missing = list(engine.roster.lacks(setup))
        if missing:
            output.note(
                f"persona {setup.persona} wants the tools {', '.join(missing)}, which {setup.agent} does not have"
            )
        document = {
            "conversation": conversation.name,
            "branch": branch.name,
            "changes": changes,
            "locked": locks,
            "missing_tools": missing,
        }
        said = ", ".join(f"{key} = {_shown(value)}" for key, value in changes.items())
        words = f"{conversation.name} on {branch.name}: {said}{' (locked)' if lock else ''}, from the next step on"
        output.document(document, words)
        output.next(f"p2engine config show-overrides {shlex.quote(conversation.name)}")

    run_with_engine(ctx, body)


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def show_overrides(ctx: typer.Context, name: ConversationName) -> None:
    """List what was overridden on a conversation's current branch."""

    async def body(engine: "Engine", output: Output) -> None:
        conversation = await conversation_of(engine, name)
        stack = await conversation.stack()
        since = await _changed_at(conversation)
        rows = []
        for key, value in sorted(stack.overrides.items()):
            index, at = since.get(key, (None, None))
            rows.append({"key": key, "value": value, "locked": key in stack.locks, "index": index, "at": iso(at)})
        if not rows and not output.is_json:
            output.note(f"no overrides on {conversation.name}")
            return
        cells = [(r["key"], _shown(r["value"]), "yes" if r["locked"] else "", r["index"], r["at"]) for r in rows]
        output.table("", ("key", "value", "locked", "entry", "at"), cells, rows)

    run_with_engine(ctx, body)


async def _changed_at(conversation: "Conversation") -> dict[str, tuple[int, float]]:
    """Key -> the entry that set it last, and when."""
    from p2engine.cli.conversation_view import entries_of
    from p2engine.domain.states import Override

    found: dict[str, tuple[int, float]] = {}
    for entry in entries_of(await conversation.commits()):
        if isinstance(entry.state, Override):
            found |= dict.fromkeys(entry.state.changes, (entry.index, entry.at))
    return found


def show_tools(ctx: typer.Context) -> None:
    """List every tool that may stand in a configuration, and why one is withheld."""

    async def body(engine: "Engine", output: Output) -> None:
        rows = _tool_rows(engine)
        cells = [
            (row["name"], row["repeat"], row["source"] or row["withheld"], one_line(row["description"] or "", 100))
            for row in rows
        ]
        output.table("", ("name", "repeat", "source", "description"), cells, rows)

    run_with_engine(ctx, body)


def _tool_rows(engine: "Engine") -> list[dict[str, Any]]:
    from p2engine.agents.moves import DELEGATE, delegate_spec

    specs = engine.registry.specs() | {DELEGATE: delegate_spec(())}
    rows = []
    for name in engine.registry.known():
        spec = specs.get(name)
        withheld = engine.registry.withheld(name)
        source = engine.registry.source(name) or (None if withheld else "a move of the agent")
        rows.append(
            {
                "name": name,
                "description": spec.description if spec else None,
                "repeat": spec.repeat if spec and name != DELEGATE else None,
                "cache_ttl_s": spec.cache_ttl_s if spec else None,
                "timeout_s": spec.timeout_s if spec else None,
                "source": source,
                "withheld": withheld,
            }
        )
    return rows

"""The options that every command takes, before it and after it; and the groups that commands stand in.

Knows typer's objects and nothing of what a command does. Imports must stay light: this runs before `--help`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from p2engine.errors import NotAvailable, UsageError

AnyCommand = TyperCommand | TyperGroup

LATER = frozenset(
    {
        *(
            "answer",
            "approve",
            "backup",
            "deny",
            "inbox",
            "learn",
            "market",
            "mcp",
            "router",
        ),
        *(
            "serve",
            "tour",
            "web",
            "conversation.continue",
            "conversation.diff",
            "conversation.import",
        ),
        *(
            "conversation.merge",
            "conversation.pause",
            "conversation.replay",
        ),
        *("conversation.tell", "conversation.tree"),
    }
)
"""Commands that are known by name and not built: typing one is refused by name."""

_SENTENCE = re.compile(r"(?<=\.) (?=[A-Z`])")

MORE = "Global options (--project, --home, --config, --json, --no-color, --quiet, --debug …) may stand here too."


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the global options said. A place that was not given is None."""

    project: str | None = None
    home: str | None = None
    config: str | None = None
    json: bool = False
    no_color: bool = False
    quiet: bool = False
    debug: bool = False
    no_project_code: bool = False

    def is_same_engine(self, other: "Options") -> bool:
        """Whether both mean the same engine: one that is open can serve them."""
        places = ("project", "home", "config", "no_project_code")
        return all(getattr(self, name) == getattr(other, name) for name in places)


_KEY = "p2engine.options"


def options_of(ctx: typer.Context) -> Options:
    """The global options of a command line: those after the command win over those before it, both over the shell's."""
    return replace(getattr(ctx.find_root().obj, "options", Options()), **ctx.meta.get(_KEY, {}))


def _keep(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    if value and param.name is not None:
        ctx.meta.setdefault(_KEY, {})[param.name] = value
    return value


def _option(name: str, help_text: str, **settings: Any) -> Any:
    return typer.Option(f"--{name}", help=help_text, callback=_keep, expose_value=False, **settings)


def _every_command(
    project: Annotated[str | None, _option("project", "The project folder.", metavar="DIR")] = None,
    home: Annotated[str | None, _option("home", "The state folder.", metavar="DIR")] = None,
    config: Annotated[str | None, _option("config", "The configuration file.", metavar="FILE")] = None,
    json: Annotated[bool, _option("json", "One JSON document on standard output; streams are JSON lines.")] = False,
    no_color: Annotated[bool, _option("no-color", "No colour.")] = False,
    quiet: Annotated[bool, _option("quiet", "Only the result and errors.")] = False,
    debug: Annotated[bool, _option("debug", "Tracebacks of errors, and a log of everything.")] = False,
    no_project_code: Annotated[bool, _option("no-project-code", "Load no code of the project.")] = False,
) -> None:
    """The shared option group: read once here, then given to every command."""


def share(root: AnyCommand) -> AnyCommand:
    """Give every command below `root`, and `root` itself, the global options and the same plain help."""
    for _, command in walk(root):
        shared = _shared_params()
        for param in shared:
            param.hidden = command is not root
        command.params += shared
        command.rich_markup_mode = None
        command.context_settings.setdefault("help_option_names", ["-h", "--help"])
        if command is not root and not command.epilog:
            command.epilog = MORE
    return root


def _shared_params() -> list[Any]:
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(_every_command)
    return list(typer.main.get_command(app).params)


def walk(command: AnyCommand, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], AnyCommand]]:
    """Every command and group with the words that lead to it, the root first."""
    yield path, command
    if isinstance(command, TyperGroup):
        for name, inner in command.commands.items():
            if isinstance(inner, TyperCommand | TyperGroup):
                yield from walk(inner, (*path, name))


def summaries(root: AnyCommand) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every command that does something, with the first sentence of its help."""
    for path, command in walk(root):
        if not isinstance(command, TyperGroup) and not command.hidden:
            yield path, _SENTENCE.split(" ".join((command.help or "").split()), 1)[0]


def group(help_text: str, **settings: Any) -> typer.Typer:
    """A group of commands: `chat`, `conversation`, …. Unknown names in it are answered with the nearest known one."""
    return typer.Typer(
        cls=Group,
        help=help_text,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        **settings,
    )


class Group(TyperGroup):
    """A group that says what was probably meant, and which commands a later version has."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            path = (*ctx.command_path.split()[1:], name)
            unknown_command(path, self.list_commands(ctx))
        return super().resolve_command(ctx, args)


def unknown_command(path: tuple[str, ...], known: list[str]) -> NoReturn:
    """Raises NotAvailable for a command of a later version, else UsageError with the nearest known names."""
    if ".".join(path) in LATER or path[0] in LATER:
        raise NotAvailable(" ".join(path))
    near = get_close_matches(path[-1].lower(), known, n=2)
    meant = f"; did you mean {' or '.join(repr(' '.join((*path[:-1], name))) for name in near)}?" if near else ""
    where = " ".join(("p2engine", *path[:-1], "--help"))
    raise UsageError(f"no command {' '.join(path)!r}{meant}", hint="" if near else f"{where} lists what there is")

"""`artifact …`: the events and saved artifacts of a conversation, their bodies, and what caused them.

Bodies are shown as text that may be printed; `save` writes their exact bytes, and only where it is told to.
"""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2engine.cli.arguments import ConversationName, Ref, conversation_of
from p2engine.cli.options import group
from p2engine.cli.output import Output, one_line
from p2engine.cli.session import run_with_engine
from p2engine.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2engine.domain.records import Event, Query
    from p2engine.runtime.conversation import Conversation
    from p2engine.wiring import Engine

LIMIT = 50


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    artifact = group("Look at events and saved artifacts, and ask why they came about.")
    artifact.command("show")(show)
    artifact.command("cat")(cat)
    artifact.command("diff")(diff)
    artifact.command("save")(save)
    artifact.command("why")(why)
    app.add_typer(artifact, name="artifact")


def show(
    ctx: typer.Context,
    name: ConversationName,
    branch: Annotated[str | None, typer.Option("--branch", help="Only what lies on this branch.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind", help="Only this kind: model, state, tool_call, artifact, eval, branch, ….", metavar="KIND"
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="Only from this time on (ISO 8601, UTC), or 10m, 2h, 1d.", metavar="TIME"),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many, the newest.", metavar="N")] = LIMIT,
    full: Annotated[
        bool, typer.Option("--full", help="Whole bodies; of a model call the exact request, its hash checked.")
    ] = False,
) -> None:
    """List the events of a conversation, saved artifacts among them."""

    async def body(engine: "Engine", output: Output) -> int | None:
        from p2engine.cli.conversation_view import event_row
        from p2engine.cli.reading import newest_events

        conversation = await conversation_of(engine, name)
        query = _query(engine, conversation, kind, since)
        events = await newest_events(engine, query, await _wanted(conversation, branch), limit)
        if full:
            return await _show_in_full(engine, output, events)
        rows = [event_row(event) for event in events]
        columns = ("ref", "time (UTC)", "kind", "agent", "branch", "bytes", "summary")
        output.table("", columns, [_cells(row) for row in rows], rows)
        if len(events) == limit:
            output.note(f"the newest {limit}; --limit shows more")
        output.next("p2engine artifact why REF")
        return None

    run_with_engine(ctx, body)


def _cells(row: dict[str, Any]) -> list[object]:
    from p2engine.cli.conversation_view import when_words

    plain = [row[name] for name in ("agent", "branch", "bytes", "summary")]
    return [row["ref"], when_words(row["at"])[5:], row["kind"].removeprefix("state."), *plain]


def _query(engine: "Engine", conversation: "Conversation", kind: str | None, since: str | None) -> "Query":
    from p2engine.cli.moments import moment
    from p2engine.domain.records import Query

    return Query(
        conversation=conversation.record.id,
        kinds=() if kind is None else _kinds(kind),
        since=None if since is None else moment(since, engine.world.clock.now()),
    )


def _kinds(kind: str) -> tuple[str, ...]:
    """The kinds that a word means. Raises UsageError for one that means none."""
    from p2engine.documents import did_you_mean
    from p2engine.domain.states import STATES, name_of, tag_of

    families = _families()
    states = {name: f"state.{tag_of(state)}" for state in STATES for name in (tag_of(state), name_of(state))}
    word = kind.removesuffix(".")
    if word in states:
        return (states[word],)
    if word in families:
        return (f"{word}.",)
    if word.partition(".")[0] in families:
        return (word,)
    near = did_you_mean(kind[:60], [*families, *states])
    raise UsageError(
        f"no kind {kind[:60]!r}{near}", hint=f"a state, such as tool_call, or one of {', '.join(families)}"
    )


def _families() -> list[str]:
    """The kinds that hold other kinds."""
    from p2engine.cli.provenance import FACTS

    return [*(family.removesuffix(".") for family in FACTS), "model", "state"]


def kinds() -> list[str]:
    """The words that `--kind` takes."""
    from p2engine.domain.states import STATES, tag_of

    return [*_families(), *map(tag_of, STATES)]


async def _wanted(conversation: "Conversation", branch: str | None) -> "Callable[[Event], bool]":
    """Whether an event lies on that branch; any does where none is named."""
    from p2engine.cli.conversation_view import is_on, path_of
    from p2engine.cli.reading import branches_of

    if branch is None:
        return lambda _: True
    known = await branches_of(conversation)
    path = path_of(await conversation.branch(branch), known)
    return lambda event: is_on(path, event, known)


async def _show_in_full(engine: "Engine", output: Output, events: "list[Event]") -> int:
    """Every event whole. 1 where a request that was rebuilt is not the one that was sent."""
    from p2engine.cli.bodies import whole

    wholes = [await whole(engine, event) for event in events]
    output.document([each.document for each in wholes], "\n\n".join(each.text for each in wholes) or "nothing")
    return 1 if any(each.document.get("hash_ok") is False for each in wholes) else 0


def cat(ctx: typer.Context, ref: Ref) -> None:
    """Print an artifact or an event, as text; `save` writes the exact bytes."""

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.cli.bodies import content

        found = await content(engine, ref)
        output.document(found.document, found.text)

    run_with_engine(ctx, body)


def diff(
    ctx: typer.Context,
    a: Annotated[str, typer.Argument(metavar="A", help="As REF of `cat`.")],
    b: Annotated[str, typer.Argument(metavar="B", help="As REF of `cat`.")],
) -> None:
    """Show how B differs from A, line by line."""

    async def body(engine: "Engine", output: Output) -> None:
        import difflib

        from p2engine.cli.bodies import content

        old, new = await content(engine, a), await content(engine, b)
        lines = list(difflib.unified_diff(old.said.splitlines(), new.said.splitlines(), a, b, lineterm=""))
        equal = old.said == new.said
        words = "\n".join(lines) if lines else "no difference" if equal else "they differ in line ends only"
        output.document({"a": old.ref, "b": new.ref, "equal": equal, "diff": lines}, words)

    run_with_engine(ctx, body)


def save(
    ctx: typer.Context,
    ref: Ref,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to; one that exists is kept unless --force.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Write the exact bytes of an artifact, or the JSON of an event, to FILE."""

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.cli.bodies import content

        found = await content(engine, ref)
        _write(Path(file), found.body, force=force)
        document = {"ref": found.ref, "file": file, "bytes": len(found.body)}
        output.document(document, f"wrote {len(found.body)} bytes to {file}")

    run_with_engine(ctx, body)


def _write(path: Path, body: bytes, *, force: bool) -> None:
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder", hint="name the file to write")
    try:
        with path.open("wb" if force else "xb") as stream:
            stream.write(body)
    except FileExistsError:
        raise UsageError(f"{str(path)!r} is there already", hint="--force overwrites it") from None


def why(ctx: typer.Context, ref: Ref) -> None:
    """Walk from an event back, cause by cause, to the message that started it."""

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.cli.provenance import Blob, causes, find

        found = await find(engine, ref)
        if isinstance(found, Blob):
            hint = "p2engine artifact show NAME --kind artifact lists what was saved"
            raise UsageError("a body by itself has no cause; name the event that saved it", hint=hint)
        rows = [_why_row(cause) for cause in await causes(engine, found)]
        output.document(rows, "\n".join(_why_line(row) for row in rows))
        output.next(f"p2engine artifact cat {shlex.quote(rows[-1]['ref'])}")

    run_with_engine(ctx, body)


def _why_row(cause: Any) -> dict[str, Any]:
    from p2engine.cli.conversation_view import Entry, summary_of, words_of
    from p2engine.cli.output import iso

    words = one_line(words_of(cause.words.state)) if isinstance(cause.words, Entry) else summary_of(cause.words)
    return {
        "ref": cause.id,
        "at": iso(cause.at),
        "kind": cause.kind,
        "agent": cause.agent,
        "branch": cause.branch,
        "cause": cause.cause,
        "also": list(cause.also),
        "summary": words,
    }


def _why_line(row: dict[str, Any]) -> str:
    from p2engine.cli.conversation_view import when_words

    also = f"\n    beside {', '.join(row['also'])}" if row["also"] else ""
    who = row["agent"] or "–"
    line = f"{when_words(row['at'])}  {row['ref']}  {who}  {row['kind'].removeprefix('state.')}  {row['summary']}{also}"
    return f"{line}\n  ← {row['cause']}"

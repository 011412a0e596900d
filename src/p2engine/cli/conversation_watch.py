"""`conversation watch · rate`: follow the log of a conversation, and judge its answers."""

from typing import TYPE_CHECKING, Annotated

import typer

from p2engine.cli.arguments import ConversationName, conversation_of
from p2engine.cli.output import Output
from p2engine.cli.session import run_with_engine
from p2engine.errors import UsageError

if TYPE_CHECKING:
    from p2engine.domain.records import Cursor, Event
    from p2engine.runtime.conversation import Conversation
    from p2engine.wiring import Engine

RATINGS = {"good": 1.0, "bad": 0.0}


def register(conversation: typer.Typer) -> None:
    """Add these commands to the group `conversation`."""
    conversation.command("watch")(watch)
    conversation.command("rate")(rate)


def rate(
    ctx: typer.Context,
    name: ConversationName,
    rating: Annotated[str, typer.Argument(metavar="RATING", help="good, bad, or a number from 0 to 1.")],
    turn: Annotated[int | None, typer.Option("--turn", min=1, help="Turn K, 1 being the first; else the last.")] = None,
    note: Annotated[str, typer.Option("--note", help="Why.", metavar="TEXT")] = "",
) -> None:
    """Judge an answer. The rating is a verdict by evaluator `human`."""

    async def body(engine: "Engine", output: Output) -> None:
        conversation = await conversation_of(engine, name)
        label = rating if rating in RATINGS else ""
        verdict = await conversation.rate(_score(rating), turn=turn, note=note, label=label)
        document = {
            "conversation": conversation.name,
            "subject": verdict.subject,
            "evaluator": verdict.evaluator,
            "score": verdict.score,
            "label": verdict.label or None,
            "comment": verdict.comment or None,
        }
        rated = turn or (await conversation.stack()).turn
        output.document(document, f"rated turn {rated} of {conversation.name}: {label or f'{verdict.score:g}'}")

    run_with_engine(ctx, body)


def _score(rating: str) -> float:
    if rating in RATINGS:
        return RATINGS[rating]
    try:
        return float(rating)
    except ValueError:
        raise UsageError(f"a rating is good, bad or a number from 0 to 1, not {rating[:40]!r}") from None


def watch(
    ctx: typer.Context,
    name: ConversationName,
    from_start: Annotated[bool, typer.Option("--from-start", help="Show what happened before as well.")] = False,
    after: Annotated[
        str | None, typer.Option("--after", help="Go on after this cursor, as a watch printed it.", metavar="CURSOR")
    ] = None,
) -> None:
    """Follow what happens in a conversation, in this process or any other, until Ctrl-C. With --json: JSON lines."""
    if from_start and after is not None:
        raise UsageError("--from-start and --after exclude each other")

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.cli.conversation_view import event_line
        from p2engine.domain.records import Cursor, Query

        conversation = await conversation_of(engine, name)
        newest = await engine.query(Query(limit=1, newest=True))
        cursor = newest[-1].cursor if newest else Cursor()
        if from_start or after is not None:
            cursor = _cursor(after) if after is not None else Cursor()
        output.note(f"watching {conversation.name}; Ctrl-C ends it")
        try:
            async for event in engine.events(cursor, conversation=conversation.record.id):
                cursor = event.cursor
                output.line(_event_words(event, conversation), event_line(event))
            output.note(f"{conversation.name} was pruned")
        finally:
            output.note(f"to go on from here: --after {cursor}")

    run_with_engine(ctx, body)


def _cursor(text: str) -> "Cursor":
    from p2engine.domain.records import Cursor

    row, _, item = text.partition(".")
    if not (row.isdecimal() and (item.isdecimal() or not item) and len(text) < 20):
        raise UsageError(f"a cursor looks like 12.0, not {text[:40]!r}", hint="watch --json prints one in every line")
    return Cursor(int(row), int(item or 0))


def _event_words(event: "Event", conversation: "Conversation") -> str:
    """An event in a line: time, whose stack, what, in words."""
    from p2engine.cli.conversation_view import state_of, summary_of, when
    from p2engine.domain.states import name_of

    state = state_of(event)
    what = name_of(state) if state is not None else event.kind
    branch = f"@{event.branch}" if event.agent == conversation.record.agent else ""
    where = f"{event.agent or '–'}{branch}" + (f" #{event.index}" if event.index is not None else "")
    return f"{when(event.at)[11:]}  {where}  {what}  {summary_of(event)}"

"""`conversation prune`: what would go, a question, and then it is gone.

Asks the engine's facade; decides which conversations are meant, and nothing about what of them may go.
"""

import re
import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2engine.cli.arguments import conversation_of
from p2engine.cli.output import Output, iso
from p2engine.cli.session import INTERRUPTED, Interrupted, Session, run_with_engine, session_of
from p2engine.errors import ConflictError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2engine.domain.records import Conversation as Record
    from p2engine.runtime.pruning import Prunable
    from p2engine.wiring import Engine

REFUSED = 2  # the exit status where nobody could be asked
LISTED = 1_000_000  # conversations that are looked at
_AGE = re.compile(r"(\d{1,6})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def register(conversation: typer.Typer) -> None:
    """Add this command to the group `conversation`."""
    conversation.command("prune")(prune)


def prune(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="The conversations, each as elsewhere.")
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="Only those that did not move for so long: 30d, 12h, 2w."),
    ] = None,
    rollout: Annotated[
        str | None, typer.Option("--rollout", metavar="ID", help="The conversations of the trials of this rollout.")
    ] = None,
    branches: Annotated[
        bool, typer.Option("--branches", help="Keep the conversations; prune what their current branch does not need.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
) -> None:
    """Delete conversations for good: all their branches, entries and events. Shows what would go, and asks.

    Nothing else ever deletes history. Conversations that owe something are refused. The ledger, and what it says of
    them, stays. Not on a terminal it deletes nothing without --yes.
    """
    age_s = _seconds(older_than)
    if not names and older_than is None and rollout is None:
        raise UsageError("name conversations, or say --older-than AGE or --rollout ID")
    if names and rollout is not None:
        raise UsageError("NAME and --rollout exclude each other")

    async def body(engine: "Engine", output: Output) -> int:
        records = await _meant(engine, names or (), rollout)
        plans, skipped = await _planned(engine, records, age_s=age_s, branches=branches, named=bool(names))
        if not plans:
            output.document(_document([], skipped, is_pruned=False), _nothing(skipped))
            return 0
        if not output.is_json:
            _show(output, plans, skipped, branches=branches)
        if not yes and (status := await _refused(session_of(ctx), output, plans, skipped)):
            return status
        return await _prune(engine, output, plans, skipped)

    run_with_engine(ctx, body)


def _seconds(age: str | None) -> float | None:
    if age is None:
        return None
    found = _AGE.fullmatch(age)
    if found is None:
        raise UsageError(f"--older-than is a number and one of s, m, h, d, w, like 30d, not {age[:40]!r}")
    return float(int(found[1]) * _SECONDS[found[2]])


async def _meant(engine: "Engine", names: "Sequence[str]", rollout: str | None) -> "list[Record]":
    """The conversations that are named, or all there are, or the trials of a rollout."""
    if rollout is not None:
        return await _trials(engine, rollout)
    if not names:
        return list(await engine.conversations(grouped=False, limit=LISTED))
    records = {}
    for name in names:
        record = (await conversation_of(engine, name)).record
        if record.group is not None:
            raise UsageError(
                f"{record.name!r} is a trial of rollout {record.group!r}, which would lack it",
                hint=f"p2engine conversation prune --rollout {shlex.quote(record.group)} takes all of them",
            )
        records[record.id] = record
    return list(records.values())


async def _trials(engine: "Engine", rollout: str) -> "list[Record]":
    from p2engine.rollouts import journal
    from p2engine.wiring import experiments

    found = await journal.find(engine.world, rollout)
    if experiments.status(engine, found) == "running":
        raise UsageError(f"rollout {found.id} is running", hint=f"p2engine rollout cancel {shlex.quote(found.id)}")
    listed = await engine.conversations(limit=LISTED)
    return [record for record in listed if record.group == found.id]


async def _planned(
    engine: "Engine", records: "Sequence[Record]", *, age_s: float | None, branches: bool, named: bool
) -> "tuple[list[Prunable], list[Prunable]]":
    """What can go, and what cannot because it owes something; one that was named and owes something is an error."""
    from p2engine.runtime.pruning import moved_at

    plans: list[Prunable] = []
    skipped: list[Prunable] = []
    now = engine.world.clock.now()
    for record in records:
        if age_s is not None and now - await moved_at(engine.world, record) < age_s:
            continue
        plan = await engine.prunable(record.id, branches=branches)
        if plan.owed:
            if named:
                raise UsageError(
                    f"{record.name!r} is not at rest: it owes {', '.join(plan.owed[:3])}",
                    hint=f"wait until it is answered, or p2engine conversation cancel {shlex.quote(record.name)}",
                )
            skipped.append(plan)
        elif plan.taken is not None:
            plans.append(plan)
    return plans, skipped


def _nothing(skipped: "Sequence[Prunable]") -> str:
    return "nothing to prune" + (f"; {_count(len(skipped), 'conversation')} not at rest" if skipped else "")


def _show(output: Output, plans: "Sequence[Prunable]", skipped: "Sequence[Prunable]", *, branches: bool) -> None:
    from p2engine.cli.conversation_view import when_words

    columns = ("name", "agent", *(("branches",) if branches else ()), "entries", "rows", "size", "moved (UTC)")
    cells = [
        [
            plan.conversation.name,
            plan.conversation.agent,
            *((_branch_words(plan),) if branches else ()),
            plan.entries,
            plan.rows,
            _size(plan.bytes),
            when_words(iso(plan.moved_at)),
        ]
        for plan in plans
    ]
    output.table("", columns, cells)
    for plan in skipped:
        output.note(f"{plan.conversation.name} is not at rest, and stays")


def _branch_words(plan: "Prunable") -> str:
    cut = [f"the end of {name}" for name in plan.shortened]
    return ", ".join([*plan.branches, *cut]) or "those of delegates"


def _words(plans: "Sequence[Prunable]") -> str:
    entries, size = sum(plan.entries for plan in plans), sum(plan.bytes for plan in plans)
    of = "side branches of " if any(plan.branches or plan.shortened for plan in plans) else ""
    return f"{of}{_count(len(plans), 'conversation')}, {_count(entries, 'entry', 'entries')}, about {_size(size)}"


def _count(number: int, word: str, words: str = "") -> str:
    return f"{number} {word if number == 1 else words or word + 's'}"


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


async def _refused(session: Session, output: Output, plans: "Sequence[Prunable]", skipped: "Sequence[Prunable]") -> int:
    """The exit status where it shall not be done, else 0."""
    if not (session.lines_in().is_terminal and output.is_terminal):
        if output.is_json:
            output.document(_document(plans, skipped, is_pruned=False))
        output.note(f"nothing was pruned; --yes deletes {_words(plans)}")
        return REFUSED
    from p2engine.cli.prompts import Prompt

    async def no_words(before: str) -> tuple[str, ...]:
        return ()

    try:
        answer = await Prompt(no_words).ask(f"Delete {_words(plans)}, for good? [y/N] ")
    except Interrupted:
        output.note("nothing was pruned")
        return INTERRUPTED
    if answer is not None and answer.strip().lower() in ("y", "yes"):
        return 0
    output.note("nothing was pruned")
    return 1


async def _prune(engine: "Engine", output: Output, plans: "Sequence[Prunable]", skipped: "Sequence[Prunable]") -> int:
    """Prune one after the other; one that has moved meanwhile stays, and is told of."""
    done: list[Prunable] = []
    moved = 0
    for plan in plans:
        try:
            await engine.prune(plan)
        except (ConflictError, UsageError) as error:
            output.note(f"{plan.conversation.name} stays: {error.message}")
            moved += 1
        else:
            done.append(plan)
    freed = await engine.collect()
    document = _document(done, skipped, is_pruned=bool(done)) | {"bodies": freed.bodies, "body_bytes": freed.bytes}
    bodies = f", and {_count(freed.bodies, 'artifact')} of {_size(freed.bytes)}" if freed.bodies else ""
    output.document(document, f"pruned {_words(done)}{bodies}" if done else "nothing was pruned")
    return 1 if moved else 0


def _document(plans: "Sequence[Prunable]", skipped: "Sequence[Prunable]", *, is_pruned: bool) -> dict[str, Any]:
    return {
        "pruned": is_pruned,
        "conversations": [_row(plan) for plan in plans],
        "skipped": [{"name": plan.conversation.name, "owed": list(plan.owed)} for plan in skipped],
        "bodies": 0,
        "body_bytes": 0,
    }


def _row(plan: "Prunable") -> dict[str, Any]:
    return {
        "name": plan.conversation.name,
        "id": plan.conversation.id,
        "agent": plan.conversation.agent,
        "branches": list(plan.branches),
        "shortened": list(plan.shortened),
        "entries": plan.entries,
        "rows": plan.rows,
        "bytes": plan.bytes,
        "updated_at": iso(plan.moved_at),
    }

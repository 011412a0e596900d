"""`conversation …`: the group, and its commands that only look: list, show, stack, branches.

Each command asks the engine's facade and prints. Words and documents are made in `conversation_view`.
"""

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2engine.cli import conversation_prune, conversation_score, conversation_travel, conversation_watch
from p2engine.cli.arguments import ConversationName, conversation_of
from p2engine.cli.options import group
from p2engine.cli.output import Output, iso, one_line
from p2engine.cli.session import run_with_engine
from p2engine.errors import StoreError

if TYPE_CHECKING:
    from p2engine.cli.reading import Stretch
    from p2engine.domain.ids import StackRef
    from p2engine.domain.records import Branch
    from p2engine.domain.records import Conversation as Record
    from p2engine.runtime.conversation import Conversation
    from p2engine.wiring import Engine

BODY_WIDTH = 160  # of an entry's text in `stack`


def register(app: typer.Typer) -> None:
    """Add the commands of this module, and the others of its group."""
    conversation = group("Look at conversations; rewind, fork, watch and rate them.")
    conversation.command("list")(list_all)
    conversation.command("show")(show)
    conversation.command("stack")(stack)
    conversation.command("branches")(branches)
    conversation_travel.register(conversation)
    conversation_prune.register(conversation)
    conversation_score.register(conversation)
    conversation_watch.register(conversation)
    app.add_typer(conversation, name="conversation")


def list_all(
    ctx: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="The trials of rollouts too.")] = False,
) -> None:
    """List the conversations, the one that moved last first. Trials of rollouts stand in `rollout show`."""

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.cli.conversation_view import dollars, when_words

        rows = [await _row(engine, record) for record in await engine.conversations(grouped=everything)]
        rows.sort(key=lambda row: row["updated_at"] or "", reverse=True)
        if not rows and not output.is_json:
            output.note("no conversations yet")
            output.next("p2engine chat with agent_alpha")
            return
        plain = ("name", "agent", "branch", "status", "turns", "tokens")
        cells = [
            [*(row[name] for name in plain), dollars(row["cost_usd"]), when_words(row["updated_at"])] for row in rows
        ]
        output.table("", (*plain, "cost", "updated (UTC)"), cells, rows)
        output.next("p2engine conversation stack NAME")

    run_with_engine(ctx, body)


async def _is_in_hand(engine: "Engine", conversation: "Conversation") -> bool:
    """Whether somebody is at what the conversation owes: a living process, or workers, who will be."""
    if engine.elsewhere is not None:
        return True
    refs = [branch.ref for branch in await conversation.branches(delegates=True)]
    current = conversation.record.current
    for ref in (current, *(ref for ref in refs if ref != current)):
        if await engine.world.store.holders(ref):
            return True
    return False


async def _row(engine: "Engine", record: "Record") -> dict[str, Any]:
    """A conversation as `list` shows it. Tokens and cost are those of all its branches and delegates."""
    from p2engine.cli.conversation_view import spent_in, status_of
    from p2engine.cli.reading import all_events
    from p2engine.domain.records import Query
    from p2engine.runtime.conversation import Conversation

    row: dict[str, Any] = {"name": record.name, "id": record.id, "agent": record.agent, "branch": None}
    row |= {"status": "unreadable", "turns": None, "tokens": None, "cost_usd": None, "updated_at": None}
    try:
        conversation = Conversation(engine.world, record)
        row["branch"] = (await conversation.branch()).name
        stack = await conversation.stack()
        newest = await engine.query(Query(conversation=record.id, limit=1, newest=True))
        replies = Query(conversation=record.id, kinds=("model.reply",))
        spent = spent_in([event async for event in all_events(engine, replies)])
    except StoreError:  # one damaged conversation does not hide the others
        return row
    held = not stack.open or await _is_in_hand(engine, conversation)
    return row | {
        "status": status_of(stack, is_held=held),
        "turns": stack.turn,
        "tokens": spent.tokens,
        "cost_usd": spent.cost_usd,
        "updated_at": iso(newest[-1].at if newest else record.created_at),
    }


def show(ctx: typer.Context, name: ConversationName) -> None:
    """Show a conversation: its agent, branch, status, turns, tokens and cost."""

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.cli.conversation_view import changes_text, dollars

        conversation = await conversation_of(engine, name)
        row = await _row(engine, conversation.record)
        stack = await conversation.stack()
        row |= {
            "created_at": iso(conversation.record.created_at),
            "entries": stack.head,
            "branches": len(await conversation.branches()),
            "model": stack.setup.model or None,
            "overrides": stack.overrides,
        }
        words = {"cost_usd": dollars(row["cost_usd"]), "overrides": changes_text(stack.overrides) or "none"}
        width = max(len(key) for key in row)
        lines = [f"{key:<{width}}  {_shown(words.get(key, value))}" for key, value in row.items()]
        output.document(row, "\n".join(lines))
        output.next(f"p2engine conversation stack {shlex.quote(conversation.name)}")

    run_with_engine(ctx, body)


def _shown(value: object) -> str:
    return "–" if value is None else one_line(value)


def stack(
    ctx: typer.Context,
    name: ConversationName,
    agent: Annotated[str | None, typer.Option("--agent", help="The stacks of this delegate, newest first.")] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Only the last N entries.", metavar="N")] = None,
    branch: Annotated[str | None, typer.Option("--branch", help="Of this branch, not the current one.")] = None,
) -> None:
    """List the entries of a stack: index, time, cause, tokens, state."""

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.cli.conversation_view import entry_row
        from p2engine.cli.reading import branches_of, stacks_of, stretch_of

        conversation = await conversation_of(engine, name)
        known = await branches_of(conversation)
        if agent is None or (agent == conversation.record.agent and branch is None):
            stretches = [await stretch_of(engine, await conversation.branch(branch), last=n)]
        else:
            chosen = stacks_of(agent, known, conversation, branch)
            stretches = [await stretch_of(engine, each, last=n, own=branch is None) for each in chosen]
        if output.is_json:
            rows = [entry_row(entry, part.branch.agent, known) for part in stretches for entry in part.entries]
            output.document(rows)
            return
        for part in stretches:
            _show_stretch(output, part, known, conversation.name)
        output.next(f"p2engine conversation rewind {shlex.quote(conversation.name)} INDEX")

    run_with_engine(ctx, body)


def _show_stretch(output: Output, part: "Stretch", known: "dict[StackRef, Branch]", name: str) -> None:
    from p2engine.cli.conversation_view import cause_words, path_of, tokens_of, when, words_of
    from p2engine.domain.states import name_of

    own = path_of(part.branch, known)
    rows = [
        (
            entry.index,
            when(entry.at)[5:],
            cause_words(entry.cause, own, known),
            tokens_of(entry.usage),
            name_of(entry.state),
            one_line(words_of(entry.state), BODY_WIDTH),
        )
        for entry in part.entries
    ]
    title = f"{name} · {_origin(part.branch, known)}"
    if not output.is_terminal:
        output.note(title)
    output.table(title, ("index", "time (UTC)", "cause", "tokens", "state", "body"), rows)


def _origin(branch: "Branch", known: "dict[StackRef, Branch]") -> str:
    """Whose stack a branch is, and where it comes from."""
    from p2engine.cli.conversation_view import cause_words, point_words

    words = [f"{branch.agent} on {branch.name}"]
    if branch.delegate is not None:
        words.append(f"asked by {cause_words(branch.delegate, (), known)}")
    if branch.parent is not None:
        parent = known.get(branch.parent)
        words.append(f"from {parent.name if parent else branch.parent} {point_words(branch.at)}")
    return ", ".join(words)


def branches(
    ctx: typer.Context,
    name: ConversationName,
    delegates: Annotated[bool, typer.Option("--delegates", help="Those of delegations as well.")] = False,
) -> None:
    """List the branches. Each delegation has one of its own, left out here unless asked for; of several at once to one
    agent, it remembers the one that was decided last.
    """

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.cli.conversation_view import point_words, when_words
        from p2engine.cli.reading import branches_of

        conversation = await conversation_of(engine, name)
        known = await branches_of(conversation)
        current = (await conversation.branch()).ref
        rows = []
        for branch in known.values():
            if branch.delegate is not None and not delegates:
                continue
            row = await _branch_row(engine, branch, known, branch.ref == current)
            rows.append(row | {"agent": branch.agent} if delegates else row)
        columns = ("", "name", *(("agent",) if delegates else ()), "from", "entries", "updated (UTC)")
        cells = [
            [
                "*" if row["current"] else "",
                row["name"],
                *((row["agent"],) if delegates else ()),
                f"{row['parent']} {point_words(row['at'])}" if row["parent"] else None,
                row["entries"],
                when_words(row["updated_at"]),
            ]
            for row in rows
        ]
        output.table("", columns, cells, rows)
        output.next(f"p2engine conversation checkout {shlex.quote(conversation.name)} BRANCH")

    run_with_engine(ctx, body)


async def _branch_row(
    engine: "Engine", branch: "Branch", known: "dict[StackRef, Branch]", is_current: bool
) -> dict[str, Any]:
    """A branch as `branches` lists it. at: how many entries of its parent it begins with, None where it has none."""
    store = engine.world.store
    head = await store.head(branch.ref)
    last = (await store.load(branch.ref, since=head - 1))[-1].commit.at if head > branch.at else branch.created_at
    parent = known.get(branch.parent) if branch.parent else None
    return {
        "name": branch.name,
        "parent": parent.name if parent else None,
        "at": branch.at if parent else None,
        "entries": head,
        "current": is_current,
        "updated_at": iso(last),
    }

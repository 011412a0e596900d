"""`conversation rewind · fork · checkout · cancel`: travel through a conversation's time, and end a turn.

Each command asks the engine's facade and says what became of it.
"""

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from p2engine.cli.arguments import ConversationName, conversation_of
from p2engine.cli.output import Output, one_line
from p2engine.cli.session import run_with_engine

if TYPE_CHECKING:
    from p2engine.domain.records import Branch
    from p2engine.runtime.branches import Forked
    from p2engine.runtime.conversation import Conversation
    from p2engine.wiring import Engine

Index = Annotated[
    int, typer.Argument(metavar="INDEX", help="An entry as `stack` prints it: 0…INDEX stay. Negative: from the end.")
]
KeepRunning = Annotated[
    bool, typer.Option("--keep-running", help="Do not cancel what runs on the branch that is left.")
]


class IndexCommand(TyperCommand):
    """A command whose INDEX may be negative: `-3` is a number there, not an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.ignore_unknown_options = True
        return super().parse_args(ctx, args)


def register(conversation: typer.Typer) -> None:
    """Add these commands to the group `conversation`."""
    conversation.command("rewind", cls=IndexCommand)(rewind)
    conversation.command("fork", cls=IndexCommand)(fork)
    conversation.command("checkout")(checkout)
    conversation.command("cancel")(cancel)


def rewind(
    ctx: typer.Context,
    name: ConversationName,
    index: Index,
    branch: Annotated[
        bool, typer.Option("--branch", help="Keep it as a named branch. Every rewind is one, so this only says so.")
    ] = False,
    named: Annotated[
        str | None, typer.Option("--name", help="Name the new branch; else `main~10`, `main~10.2`, ….")
    ] = None,
    keep_running: KeepRunning = False,
) -> None:
    """Go back so that entries 0…INDEX stay. The old path keeps its name and its entries."""
    del branch

    async def body(engine: "Engine", output: Output) -> None:
        conversation = await conversation_of(engine, name)
        source = await conversation.branch()
        forked = await conversation.rewind(index, name=named, keep_running=keep_running)
        _tell_fork(output, conversation, source, forked, is_current=True)

    run_with_engine(ctx, body)


def fork(
    ctx: typer.Context,
    name: ConversationName,
    index: Index,
    new: Annotated[str, typer.Argument(metavar="BRANCH", help="What to call the new branch.")],
) -> None:
    """Make a new branch of entries 0…INDEX; the current branch stays the current one."""

    async def body(engine: "Engine", output: Output) -> None:
        conversation = await conversation_of(engine, name)
        source = await conversation.branch()
        _tell_fork(output, conversation, source, await conversation.fork(index, new), is_current=False)

    run_with_engine(ctx, body)


def _tell_fork(
    output: Output, conversation: "Conversation", source: "Branch", forked: "Forked", *, is_current: bool
) -> None:
    from p2engine.cli.conversation_view import point_words

    new = forked.branch.name
    begins = f"{point_words(forked.at)} of {source.name}"
    lines = [f"{conversation.name} is now on branch {new}, {begins}" if is_current else f"made branch {new}, {begins}"]
    if forked.at != forked.asked:
        where = f"entry {forked.asked - 1} lies inside a wait that is still open there"
        lines.append(f"{where}: moved back, it begins {point_words(forked.at)}")
    if is_current:
        lines.append(f"{source.name} is kept with all its entries")
    if forked.left_behind:
        lines.append("side effects after that entry happened, and stay:")
        lines += [f"  {one_line(each)}" for each in forked.left_behind]
    output.document(
        {
            "conversation": conversation.name,
            "branch": new,
            "parent": source.name,
            "asked": forked.asked,
            "at": forked.at,
            "moved_back": forked.at != forked.asked,
            "current": is_current,
            "left_behind": list(forked.left_behind),
        },
        "\n".join(lines),
    )
    where = f"chat resume {shlex.quote(conversation.name)}"
    output.next(f"p2engine {where}" if is_current else f"p2engine conversation checkout {_quoted(conversation, new)}")


def _quoted(conversation: "Conversation", branch: str) -> str:
    return f"{shlex.quote(conversation.name)} {shlex.quote(branch)}"


def checkout(
    ctx: typer.Context,
    name: ConversationName,
    branch: Annotated[str, typer.Argument(metavar="BRANCH", help="The branch, or a unique beginning of its name.")],
    keep_running: KeepRunning = False,
) -> None:
    """Go to another branch."""

    async def body(engine: "Engine", output: Output) -> None:
        conversation = await conversation_of(engine, name)
        before = await conversation.branch()
        target = await conversation.checkout(branch, keep_running=keep_running)
        is_there = target.ref == before.ref
        output.document(
            {"conversation": conversation.name, "branch": target.name, "from": before.name, "moved": not is_there},
            f"{conversation.name} is {'already' if is_there else 'now'} on branch {target.name}",
        )
        output.next(f"p2engine chat resume {shlex.quote(conversation.name)}")

    run_with_engine(ctx, body)


def cancel(ctx: typer.Context, name: ConversationName) -> None:
    """End the turn that is running, its delegations included."""

    async def body(engine: "Engine", output: Output) -> None:
        conversation = await conversation_of(engine, name)
        current = await conversation.branch()
        done = await conversation.cancel()
        words = f"cancelled the turn on {current.name}" if done else f"nothing is running on {current.name}"
        document = {"conversation": conversation.name, "branch": current.name, "cancelled": done}
        output.document(document, f"{conversation.name}: {words}")

    run_with_engine(ctx, body)

"""`chat with` and `chat resume`: their words, and which conversation is meant. Talking is done in `talk`."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from p2engine.cli.arguments import conversation_of
from p2engine.cli.options import group
from p2engine.cli.output import Output
from p2engine.cli.session import run_with_engine, session_of
from p2engine.errors import UsageError

if TYPE_CHECKING:
    from p2engine.cli.lines import Lines
    from p2engine.runtime.conversation import Conversation
    from p2engine.wiring import Engine

LEAVE = "exit"
Messages = Annotated[
    list[str] | None, typer.Option("--message", "-m", help="Say TEXT and leave; may be given again.", metavar="TEXT")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    chat = group("Talk to an agent.")
    chat.command("with")(chat_with)
    chat.command("resume")(chat_resume)
    app.add_typer(chat, name="chat")


def chat_with(
    ctx: typer.Context,
    agent: Annotated[str, typer.Argument(help="An agent of config/agents.yml; any name works.")],
    name: Annotated[str | None, typer.Option("--name", help="Name the conversation; one that exists goes on.")] = None,
    message: Messages = None,
    branch: Annotated[str | None, typer.Option("--branch", help="Talk on this branch.")] = None,
) -> None:
    """Talk to AGENT: streams its text, shows tool calls and delegations as they happen."""
    session = session_of(ctx)
    _check(message)

    async def body(engine: "Engine", output: Output) -> int:
        from p2engine.cli.talk import Chat

        known = await _existing(engine, name)
        if known is None and not message:
            await _something_said(session.lines_in())
        conversation = known or await engine.conversation(name, agent=agent)
        if known is not None and known.record.agent != agent:
            raise _not_theirs(known, agent)
        chat = Chat(engine, output, session, conversation, branch)
        if not message and known is not None and not await chat.asked_to_go_on():
            return 0
        _introduce(engine, output, agent)
        return await chat.run(message or ())

    run_with_engine(ctx, body, work=True)


def chat_resume(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The conversation.")],
    message: Messages = None,
) -> None:
    """Go on with a conversation where it was, a turn that was interrupted first."""
    session = session_of(ctx)
    _check(message)

    async def body(engine: "Engine", output: Output) -> int:
        from p2engine.cli.talk import Chat

        chat = Chat(engine, output, session, await conversation_of(engine, name))
        return await chat.run(message or (), resumes=True)

    run_with_engine(ctx, body, work=True)


def _check(messages: Sequence[str] | None) -> None:
    """Before anything is opened for them."""
    if not all(message.strip() for message in messages or ()):
        raise UsageError("a message needs some text")


async def _something_said(lines: "Lines") -> None:
    """Before a conversation is made for lines on a pipe: there is one. Raises UsageError."""
    if lines.is_terminal:
        return
    first = await lines.peek()
    if first is None or first.strip() == LEAVE:
        await lines.next()  # this `exit` was the chat's
        hint = "say it with -m TEXT, or on standard input"
        raise UsageError("nothing was said, so no conversation was made", hint=hint)


async def _existing(engine: "Engine", name: str | None) -> "Conversation | None":
    """The conversation of exactly that name."""
    if name is None or not name.strip():
        return None
    found = [record for record in await engine.conversations(name) if name in (record.name, record.id)]
    return await engine.conversation(found[0].id) if found else None


def _not_theirs(conversation: "Conversation", agent: str) -> Exception:
    name, owner = conversation.name, conversation.record.agent
    return UsageError(
        f"conversation {name!r} is with {owner!r}, not {agent!r}",
        hint=f"p2engine chat resume {shlex.quote(name)}, or another --name",
    )


def _introduce(engine: "Engine", output: Output, agent: str) -> None:
    """An agent that is in no file gets no tools: say so."""
    from p2engine.documents import did_you_mean

    known = list(engine.roster.agents())
    if agent not in known:
        near = did_you_mean(agent, known)
        output.note(f"{agent!r} is not in config/agents.yml{near}: this is the default agent, which has no tools")

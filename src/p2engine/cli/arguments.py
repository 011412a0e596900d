"""Arguments that several commands take: their help, and the conversation that one names.

Imports nothing that a `--help` could do without.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from p2engine.errors import UsageError

if TYPE_CHECKING:
    from p2engine.runtime.conversation import Conversation
    from p2engine.wiring import Engine

ConversationName = Annotated[
    str, typer.Argument(metavar="NAME", help="The conversation: its name, or a unique beginning of its name or id.")
]
Ref = Annotated[
    str,
    typer.Argument(
        metavar="REF", help="An event's id as `show` prints it or a unique beginning of it, or CONVERSATION/ARTIFACT."
    ),
]
"""What `provenance.find` finds."""


async def conversation_of(engine: "Engine", name: str) -> "Conversation":
    """The conversation that is called so, or begins so. Raises UsageError, with the nearest name there is."""
    try:
        return await engine.conversation(name)
    except UsageError as error:
        from p2engine.documents import nearest

        known = [record.name for record in await engine.conversations(grouped=False)]
        near = nearest(name, known)
        if near is None or near.startswith(name):  # ambiguous: all of them are named already
            raise
        raise UsageError(f"{error.message} (did you mean {near!r}?)", hint=error.hint) from None

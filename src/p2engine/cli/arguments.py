"""Arguments that several commands take, with their help. Imports nothing that a `--help` could do without."""

from typing import Annotated

import typer

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

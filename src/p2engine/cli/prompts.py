"""Lines that a person types: editing, history and completion. Knows prompt_toolkit, which loads only here.

Ctrl-C clears a line that has text and leaves an empty one; Ctrl-D leaves. Whatever ends a prompt, the terminal is as
it was before.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.patch_stdout import patch_stdout

from p2engine.cli.session import Interrupted

Words = Callable[[str], Awaitable[Sequence[str]]]
"""What could stand at the end of a line: given the text before the cursor, whole words beginning as it ends."""


class Prompt:
    """Asks for lines, one after the other."""

    def __init__(self, words: Words, history: Path | None = None) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=_history(history),
            completer=_Words(words),
            complete_while_typing=False,
            enable_open_in_editor=False,
            enable_suspend=True,
        )

    async def ask(self, label: str) -> str | None:
        """One line; None at the end of input. What is printed meanwhile stands above. Raises Interrupted."""
        while True:
            try:
                with patch_stdout(raw=True):
                    return await self._session.prompt_async(label, handle_sigint=False)
            except EOFError:
                return None
            except KeyboardInterrupt:
                if not self._session.default_buffer.text:
                    raise Interrupted from None


class _Words(Completer):
    def __init__(self, words: Words) -> None:
        self._words = words

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Any:
        return ()

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        before = document.text_before_cursor
        begun = before[before.rfind(" ") + 1 :]
        for word in await self._words(before):
            yield Completion(word, start_position=-len(begun))


def _history(path: Path | None) -> History:
    if path is None:
        return InMemoryHistory()
    try:
        path.touch(mode=0o600)
    except OSError:  # read-only: what is typed is remembered until the end
        return InMemoryHistory()
    return FileHistory(path)

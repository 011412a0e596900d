"""What a person sees of a conversation while it is talked to: text as it streams, calls and delegations as they happen.

Knows events and the screen. Text comes from two sides, the stream of a model call and the log, and is shown once.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from p2engine.cli.output import BOLD, Output, one_line, safe
from p2engine.domain.ids import ConversationId, StackRef
from p2engine.domain.records import Branch, Cursor, Event, Query
from p2engine.runtime.conversation import Reply
from p2engine.runtime.engine import Engine

CAUGHT_UP_MAX = 1000  # events shown at once at the end of a turn
FINE = ("answered", None)


class View:
    """One conversation on one screen.

    streams: replies are shown as they grow, also those of other terminals; otherwise a reply is printed when it is
    whole, alone on standard output, and everything else goes to standard error.
    """

    def __init__(self, engine: Engine, output: Output, conversation: ConversationId, *, streams: bool) -> None:
        self.streams = streams
        self._engine = engine
        self._output = output
        self._conversation = conversation
        self._cursor = Cursor()
        self._ref: StackRef | None = None
        self._agent = ""
        self._delegates: set[StackRef] = set()
        self._said: list[str] = []  # here, and not yet seen in the log
        self._shown = ""  # of the reply that is growing
        self._held: tuple[int, str] | None = None  # a whole reply: only the next event says whether it was the last

    async def open(self) -> None:
        """Look from here on."""
        newest = await self._engine.query(Query(limit=1, newest=True))
        self._cursor = newest[-1].cursor if newest else Cursor()

    async def follow(self) -> None:
        """Show what happens, for ever."""
        async for event in self._engine.events(self._cursor, conversation=self._conversation):
            self.show(event)

    async def catch_up(self) -> None:
        """Show what is in the log already and was not yet delivered."""
        query = Query(conversation=self._conversation, after=self._cursor, limit=CAUGHT_UP_MAX)
        for event in await self._engine.query(query):
            self.show(event)

    def look_at(self, branch: Branch, branches: Sequence[Branch]) -> None:
        """Show this branch and the delegations below it; `branches`: all there are."""
        self._ref = branch.ref
        self._agent = branch.agent
        self._delegates |= {each.ref for each in branches if each.delegate is not None}

    def said(self, text: str) -> None:
        """This was typed here, so it stands on the screen already."""
        self._said.append(text)

    def on_text(self, piece: str) -> None:
        """A piece of a growing reply."""
        if not self._shown:
            self._write(self._label())
        self._shown += piece
        self._write(safe(piece))

    def end(self, reply: Reply) -> None:
        """A turn is over."""
        self._held = None
        if self.streams:
            self._break()
        elif self._output.is_json:
            self._output.line("", _json_line(reply))
        elif reply.text:
            self._output.line(reply.text)
        if reply.finished not in FINE:
            detail = f": {one_line(reply.detail, 500)}" if reply.detail else ""
            self._output.note(f"the turn ended by {reply.finished}{detail}")

    def interrupted(self) -> None:
        """The turn is left: what is said next stands below what was shown and the ^C."""
        if self.streams:
            self._shown = ""
            self._write("\n")

    @contextmanager
    def retries_shown(self) -> Iterator[None]:
        """While inside, show that a model call of this process waits for its next attempt."""
        from p2engine.models.calling import RETRIES

        log, handler = logging.getLogger(RETRIES), _Told(self._line)
        before = log.level, log.propagate
        if not log.isEnabledFor(logging.WARNING):  # the settings keep it out of the log file, not from the screen
            log.setLevel(logging.WARNING)
            log.propagate = False
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(before[0])
            log.propagate = before[1]

    # Events

    def show(self, event: Event) -> None:
        """One event, in order; one that was shown is not shown again."""
        if event.cursor <= self._cursor:
            return
        self._cursor = event.cursor
        if event.kind == "state.user_message":
            self._show_message(event)
        elif event.ref == self._ref or event.ref in self._delegates:
            self._show_state(event)

    def _show_message(self, event: Event) -> None:
        body = event.body
        caller = body.get("caller")
        if caller:
            if caller["root"][0] == self._ref and event.ref is not None:
                self._delegates.add(event.ref)
        elif event.ref == self._ref:
            if body["text"] in self._said:
                self._said.remove(body["text"])
            else:
                self._line(f"{body.get('sender', 'user')} (elsewhere): {body['text']}")

    def _show_state(self, event: Event) -> None:
        body = event.body
        is_root = event.ref == self._ref
        who = "" if is_root else f"{event.agent} "
        self._let_go(event)
        match event.kind:
            case "state.assistant_message" if is_root:
                self._show_reply(event)
            case "state.tool_call":
                self._line(f"{who}→ {body['tool']}({_arguments(body)})")
            case "state.tool_result":
                self._line(f"{who}← {body['tool']}{_status(body)}: {one_line(body.get('content', ''))}")
            case "state.agent_call":
                self._line(f"{who}→ {body['agent']}: {one_line(body['message'])}")
            case "state.agent_result":
                self._line(f"{who}← {body['agent']}{_status(body)}: {one_line(body.get('content', ''))}")
            case _:
                pass

    def _show_reply(self, event: Event) -> None:
        text: str = event.body["text"]
        if not self.streams:
            self._held = event.cursor.row, text
        elif self._shown == text or (self._shown.endswith(text) and not self._shown.startswith(text)):
            self._break()
        elif self._shown.startswith(text):  # the next one has begun to grow
            self._shown = self._shown[len(text) :]
        elif self._shown and text.startswith(self._shown):
            self._write(safe(text[len(self._shown) :]))
            self._break()
        else:  # written in another process, or without streaming
            self._break()
            self._write(self._label() + safe(text) + "\n")

    def _let_go(self, event: Event) -> None:
        """A reply with calls beside it was not the last of its turn: it goes where the calls go."""
        held, self._held = self._held, None
        if held and event.cursor.row == held[0] and event.kind in ("state.tool_call", "state.agent_call"):
            self._line(f"{self._agent}: {held[1]}")

    # The screen

    def _line(self, text: str) -> None:
        self._break()
        if not self._output.is_quiet:
            self._output.aside("  " + one_line(text, 400))

    def _break(self) -> None:
        """End the line that a growing reply stands on."""
        if self._shown:
            self._shown = ""
            self._write("\n")

    def _label(self) -> str:
        return self._output.style(f"{safe(self._agent)}: ", BOLD, self._output.out)

    def _write(self, text: str) -> None:
        self._output.out.write(text)
        self._output.out.flush()


class _Told(logging.Handler):
    """Hands on what is logged, in words."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())


def _json_line(reply: Reply) -> dict[str, Any]:
    return {
        "conversation": reply.conversation,
        "branch": reply.branch,
        "turn": reply.turn,
        "reply": reply.text,
        "finished": reply.finished,
        "model": reply.model,
        "offline": reply.offline,
        "tokens_in": reply.tokens_in,
        "tokens_out": reply.tokens_out,
        "cost_usd": reply.cost_usd,
        "duration_s": reply.duration_s,
    }


def _arguments(body: Mapping[str, Any]) -> str:
    if body.get("malformed"):
        return one_line(body["malformed"])
    pairs = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in body.get("arguments", {}).items())
    return one_line(", ".join(pairs))


def _status(body: Mapping[str, Any]) -> str:
    status = body.get("status", "ok")
    return "" if status == "ok" else f" [{status}]"

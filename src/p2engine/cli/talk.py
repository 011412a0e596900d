"""Talking: a conversation at a terminal, or a turn a line from a pipe.

Reads lines, calls the conversation, prints. What can be done to a conversation besides talking are other commands;
inside a chat they stand behind a slash.
"""

import asyncio
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from p2engine.cli.chat import LEAVE
from p2engine.cli.chat_view import View
from p2engine.cli.conversation_view import awaited_words
from p2engine.cli.output import Output, one_line
from p2engine.cli.session import EXPECTED, INTERRUPTED, Interrupted, Session, obey, reloaded
from p2engine.documents import did_you_mean
from p2engine.domain.states import Finished
from p2engine.errors import UsageError
from p2engine.models.catalogue import provider_of
from p2engine.runtime.conversation import Conversation, Reply

if TYPE_CHECKING:
    from p2engine.cli.prompts import Prompt
    from p2engine.wiring import Engine

YOU = "You: "
FAILED = ("error", "budget")
ALONE_S = 2.0  # until somebody who waits for workers is told that there are none
INSIDE = {
    "/rewind": "INDEX: go back so that entries 0…INDEX stay",
    "/branch": "[NAME]: list the branches, or go to one; a new name forks here",
    "/stack": "show the entries with their indexes",
    "/good": "[WHY]: rate the last answer good",
    "/bad": "[WHY]: rate the last answer bad",
    "/help": "show this",
    "/exit": "leave; so do exit and Ctrl-D",
}


class Chat:
    """One conversation at this terminal or pipe. `branch`: the one to talk on; None: whichever is current."""

    def __init__(
        self,
        engine: "Engine",
        output: Output,
        session: Session,
        conversation: Conversation,
        branch: str | None = None,
    ) -> None:
        self._engine = engine
        self._output = output
        self._session = session
        self._conversation = conversation
        self._branch = branch
        self._lines = session.lines_in()
        self._is_interactive = self._lines.is_terminal and output.is_terminal
        self._view = View(engine, output, conversation.record.id, streams=output.is_terminal)
        self._prompt: Prompt | None = None
        self._goes_on = ""  # how, of the turn that is shown now, if it is left
        self._status = 0

    async def asked_to_go_on(self) -> bool:
        """Ask a person whether to go on with a conversation that exists; nobody else is asked."""
        if not self._is_interactive:
            return True
        turns = (await self._conversation.stack()).turn
        has = "1 turn" if turns == 1 else f"{turns} turns"
        answer = await self._ask(f"{self._conversation.name} has {has} already. Go on with it? [Y/n] ")
        return answer is not None and answer.strip().lower() in ("", "y", "yes")

    async def run(self, messages: Sequence[str], *, resumes: bool = False) -> int:
        """Say these messages, or what is typed or piped in. Returns the exit status."""
        name = self._conversation.name
        await self._conversation.branch(self._branch)
        self._output.note(f"conversation {name} · {self._resuming()}")
        await self._view.open()
        following = asyncio.ensure_future(self._view.follow())
        last = f"conversation {name} · {self._resuming()}"
        try:
            with self._view.retries_shown():
                await self._talk(messages, resumes=resumes)
        except Interrupted:
            return INTERRUPTED
        except asyncio.CancelledError:
            last = await self._left() or last
            raise
        finally:
            following.cancel()
            self._output.note(last)
            await asyncio.gather(following, return_exceptions=True)
        return self._status

    async def _talk(self, messages: Sequence[str], *, resumes: bool) -> None:
        await self._look()
        if resumes:
            await self._go_on()
        elif words := await self._at_work():
            self._output.note(f"{self._conversation.name} is in a turn: {words}")
        if not messages:
            await self._converse()
        for message in messages:
            await self._turn(message)

    async def _left(self) -> str:
        """Ctrl-C in a turn: what became of that, as its log says; empty where there was none."""
        if not self._goes_on:
            return ""
        self._view.interrupted()
        with suppress(*EXPECTED):
            if (await self._conversation.stack(branch=self._branch)).is_resting:
                return f"interrupted; the turn had ended: {self._resuming()}"
        return f"interrupted; the turn goes on {self._goes_on}: {self._resuming()}"

    def _resuming(self) -> str:
        """The command that goes on with this conversation."""
        options = self._output.options
        places = {"--project": options.project, "--home": options.home, "--config": options.config}
        given = [word for option, place in places.items() if place for word in (option, place)]
        return f"{self._output.program} {shlex.join([*given, 'chat', 'resume', self._conversation.name])}"

    # Turns

    async def _turn(self, text: str) -> None:
        for line in reloaded(self._engine):
            self._output.note(line)
        await self._look()
        self._view.said(text)
        on_text = self._view.on_text if self._view.streams else None
        with self._in_a_turn(self._goes_on_here()):
            reply = await self._conversation.say(text, branch=self._branch, on_text=on_text)
        await self._end(reply)

    async def _say_when_alone(self) -> None:
        """Somebody who waits for workers, and there are none, is told so."""
        await asyncio.sleep(ALONE_S)
        elsewhere = self._engine.elsewhere
        with suppress(OSError):  # a broker that is away has been told of
            if elsewhere is not None and not await elsewhere.workers():
                self._output.note("no worker is there to answer: start one with p2engine worker")

    @contextmanager
    def _in_a_turn(self, goes_on: str) -> Iterator[None]:
        """While inside, a turn runs. goes_on: how, if it is left; remembered when it is."""
        self._goes_on = goes_on
        lonely = asyncio.ensure_future(self._say_when_alone()) if self._engine.elsewhere is not None else None
        try:
            yield
        except EXPECTED:
            self._goes_on = ""
            raise
        finally:
            if lonely is not None:
                lonely.cancel()
        self._goes_on = ""

    def _goes_on_here(self) -> str:
        """How a turn that is left here goes on, where nobody else is at it already."""
        if self._engine.elsewhere is not None:
            return "at the workers; to see its answer"
        # A turn in the shell goes on behind the next prompt; alone, with whoever opens the project next.
        return "with" if self._session.engine is None else "meanwhile"

    async def _go_on(self) -> None:
        """Finish the turn that was interrupted, or follow the process that is at it."""
        holders = await self._holders()
        is_held = bool(holders)
        if words := await self._at_work():
            following = f"; {' and '.join(holders)} is at it; following" if holders else ""
            self._output.note(f"resuming {self._conversation.name}: {words}{following}")
        on_text = self._view.on_text if self._view.streams else None
        with self._in_a_turn("in the other process" if is_held else self._goes_on_here()):
            reply = await self._conversation.resume(branch=self._branch, on_text=on_text)
        if reply is None and is_held:  # it was done before we could follow
            reply = await self._last_reply()
        if reply is not None:
            await self._end(reply)
        else:
            last = (await self._conversation.stack(branch=self._branch)).reply
            said = f"; the last answer was: {one_line(last)}" if last else ""
            self._output.note(f"nothing is running in {self._conversation.name}{said}")

    async def _at_work(self) -> str:
        """`waiting for agent_alpha (get_weather)`; empty where no turn runs."""
        stack = await self._conversation.stack(branch=self._branch)
        if stack.is_resting:
            return ""
        return f"waiting for {stack.agent} ({awaited_words(stack)})" if stack.open else "cut off in a turn"

    async def _last_reply(self) -> Reply:
        """What the last turn came to, as its log says."""
        stack = await self._conversation.stack(branch=self._branch)
        ending = stack.ground if isinstance(stack.ground, Finished) else Finished()
        return Reply(
            conversation=self._conversation.name,
            branch=(await self._conversation.branch(self._branch)).name,
            turn=stack.turn,
            text=stack.reply,
            finished=ending.reason,
            detail=ending.detail,
            model=stack.usage.model if stack.usage else None,
            offline=stack.usage.offline if stack.usage else False,
            tokens_in=stack.spent.tokens_in,
            tokens_out=stack.spent.tokens_out,
            cost_usd=stack.spent.cost_usd,
        )

    async def _holders(self) -> Sequence[str]:
        """The living processes besides this one that hold what this stack owes, in words."""
        world = self._engine.world
        ref = (await self._conversation.branch(self._branch)).ref
        return await world.store.holders(ref, besides=world.owner)

    async def _look(self) -> None:
        branch = await self._conversation.branch(self._branch)
        self._view.look_at(branch, await self._conversation.branches(delegates=True))

    async def _end(self, reply: Reply) -> None:
        await self._view.catch_up()
        self._view.end(reply)
        if reply.offline and self._session.once("offline"):
            await self._say_offline()
        if reply.finished in FAILED and not self._is_interactive:
            self._status = 1

    async def _say_offline(self) -> None:
        """Once: who answered, and the two lines that get real answers."""
        setup = (await self._conversation.stack(branch=self._branch)).setup
        provider = provider_of(setup.model)
        rows = {row.provider: row.enable for row in self._engine.models.describe()}
        enable = rows.get(provider) or f"export {provider.upper()}_API_KEY=…"
        self._output.note("the offline stand-in answered, no language model. For real answers, either of:")
        self._output.note(f"  {enable}")
        self._output.note('  "llm": {"api_base": "http://localhost:11434/v1"} in config/config.json: your own server')

    # Lines

    async def _converse(self) -> None:
        while (line := await self._ask(YOU)) is not None:
            text = line.strip()
            # Commands are typed by people. What a pipe holds was written to be said, whatever it begins with.
            is_command = self._lines.is_terminal and text.startswith("/")
            if text == LEAVE or (is_command and text == f"/{LEAVE}"):
                return
            if not text:
                continue
            try:
                if is_command and not text.startswith("//"):
                    await self._inside(text)
                else:
                    await self._turn(text[1:] if is_command else text)
            except EXPECTED as error:
                if not self._is_interactive:
                    raise
                self._output.error(error)

    async def _ask(self, label: str) -> str | None:
        if not self._is_interactive:
            return await self._lines.next(label)
        if self._prompt is None:
            from p2engine.cli.prompts import Prompt

            self._prompt = Prompt(self._words)
        return await self._prompt.ask(label)

    async def _words(self, before: str) -> Sequence[str]:
        if before.startswith("/branch "):
            names = [branch.name for branch in await self._conversation.branches()]
            return [name for name in names if name.startswith(before.removeprefix("/branch "))]
        return [word for word in INSIDE if before.startswith("/") and word.startswith(before)]

    # Commands inside a chat

    async def _inside(self, text: str) -> None:
        word, _, rest = text.partition(" ")
        rest, name = rest.strip(), self._conversation.name
        match word:
            case "/help":
                words = {**INSIDE, "//TEXT": "say /TEXT to the agent"}
                self._output.note("\n".join(f"{command:<8} {what}" for command, what in words.items()))
            case "/stack":
                await self._obey("conversation", "stack", name, *self._on_branch())
            case "/rewind":
                await self._settle_on_branch()
                await self._obey("conversation", "rewind", name, "--", rest or "")
            case "/branch":
                await self._go_to_branch(rest)
            case "/good" | "/bad":
                note = ("--note", rest) if rest else ()
                await self._obey("conversation", "rate", name, word[1:], *note)
            case _:
                hint = f"/help lists what there is; to say it to the agent: /{one_line(text, 60)}"
                raise UsageError(
                    f"no command {one_line(word, 40)!r} in a chat{did_you_mean(word, INSIDE)}",
                    hint=hint,
                )

    def _on_branch(self) -> tuple[str, ...]:
        return ("--branch", self._branch) if self._branch else ()

    async def _settle_on_branch(self) -> None:
        """Time travel starts from the current branch: make the one we talk on that."""
        if self._branch:
            await self._conversation.checkout(self._branch, keep_running=True)
            self._branch = None

    async def _go_to_branch(self, wanted: str) -> None:
        name = self._conversation.name
        if not wanted:
            await self._obey("conversation", "branches", name)
            return
        await self._settle_on_branch()
        if wanted not in [branch.name for branch in await self._conversation.branches()]:
            await self._conversation.fork(-1, wanted)
        await self._obey("conversation", "checkout", name, wanted)

    async def _obey(self, *words: str) -> None:
        await obey(words, self._session, self._engine, self._output.options)

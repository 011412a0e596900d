"""What goes wrong in systems of this kind, and must not here. Each number is the stable name of one promise.

Here stand the promises that no test of a single part can show; `test_index.py` says where each of the others is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from p2engine.domain.decisions import Delegate, Move, UseTool
from p2engine.domain.ids import AgentId, EffectId
from p2engine.domain.messages import ToolUse
from p2engine.domain.records import Event
from p2engine.domain.states import AgentCall, AgentResult, Finished
from p2engine.errors import UsageError
from p2engine.limits import TURN_STEPS_MAX
from p2engine.ports import AgentView, ToolContext
from p2engine.runtime.conversation import Conversation
from p2engine.runtime.engine import Engine
from p2engine.runtime.perform import view_of
from p2engine.testing.server import Answer, Fault, OpenAIServer, Reply, echo
from tests.cli.project import Project, Run
from tests.runtime.conftest import Gate, Stage, states_of

ANN, BOB = AgentId("ann"), AgentId("bob")
NASTY = "\x1b[31mred\x1b[0m [bold]bold[/bold] {{ 7*7 }} \x07\x9b1m\u202e"


def last(view: AgentView) -> tuple[str, str]:
    """Role and text of the newest message that an agent sees."""
    message = view.fragments[-1].message
    return message.role, message.text


def heard(view: AgentView) -> list[str]:
    """What an agent was ever told."""
    return [piece.message.text for piece in view.fragments if piece.message.role == "user"]


async def hello(view: AgentView) -> str:
    return f"heard {len(heard(view))}"


def passes_on(to: AgentId) -> Any:
    """An agent that hands its task on, and its answer back."""

    async def decide(view: AgentView) -> Sequence[Move] | str:
        role, text = last(view)
        return [Delegate(to, text)] if role == "user" else text

    return decide


ODD_TOOLS = """\
import asyncio
from p2engine import function_tool

@function_tool(timeout_s=0.05)
async def slow() -> str:
    "Never comes back."
    await asyncio.Event().wait()

@function_tool
def broken() -> str:
    "Breaks."
    raise KeyError("no such thing")
"""


def test_failure_04_a_turn_in_which_everything_fails_ends(project: Project, here: Run) -> None:
    """A provider that is busy, then down, then asks for what cannot be done: all is told, and gone on from."""
    project.write("tools/odd.py", ODD_TOOLS)
    project.write("config/agents.yml", "agents:\n  - id: alpha\n    tools: [slow, broken]\n")
    calls = (
        ToolUse("c1", "slow"),
        ToolUse("c2", "broken"),
        ToolUse("c3", "invented", {"a": 1}),
        ToolUse("c4", "broken", malformed="{oops"),
    )
    answers: list[Answer] = [Fault(status=429), Fault(status=500), Reply(calls=calls), "sorry", "fine"]
    with OpenAIServer(answers) as server:
        project.configure(llm={"api_base": server.base_url})
        done = here("chat", "with", "alpha", "--name", "demo", "-m", "go", "-m", "again")

    assert (done.status, done.out) == (0, "sorry\nfine\n")
    told = {m["tool_call_id"]: m["content"] for m in server.requests[-1].body["messages"] if m["role"] == "tool"}
    assert told["c1"].startswith("slow did not answer within 0.05 s")
    assert told["c2"] == "KeyError: 'no such thing'"
    assert told["c3"].startswith("no tool 'invented' for alpha")
    assert "not a JSON object" in told["c4"]
    rows = here("conversation", "stack", "demo", "--json").document
    statuses = [row["body"]["status"] for row in rows if row["state"] == "ToolResult"]
    assert sorted(statuses) == ["denied", "error", "error", "timeout"]


async def test_failure_07_two_hundred_trials_at_once_all_finish(stage: Stage) -> None:
    """Each of several steps with a tool and two delegates, all begun in the same moment: none waits for another."""

    async def look(arguments: Any, ctx: ToolContext) -> str:
        await asyncio.sleep(0)
        return "seen"

    async def boss(view: AgentView) -> Sequence[Move] | str:
        role, text = last(view)
        if role == "user":
            return [UseTool("look"), Delegate(ANN, text), Delegate(BOB, text)]
        return " ".join(sorted(piece.message.text for piece in view.fragments if piece.message.role == "tool"))

    async def helper(view: AgentView) -> Sequence[Move] | str:
        role, text = last(view)
        return [UseTool("look")] if role == "user" else f"{view.agent} has {text}"

    engine = stage.engine({"boss": boss, "ann": helper, "bob": helper}, {"look": look})

    async def trial(number: int) -> str:
        conversation = await engine.conversation(f"trial {number}", agent="boss")
        reply = await conversation.say(f"task {number}")
        assert reply.finished == "answered"
        return reply.text

    async with asyncio.timeout(60):
        replies = await asyncio.gather(*(trial(number) for number in range(200)))
    assert replies == ["ann has seen bob has seen seen"] * 200
    assert (await stage.store.stats()).owed == 0


async def test_failure_09_a_childs_end_is_not_the_turns(stage: Stage) -> None:
    """While a child has ended and its parent still thinks, nothing says finished: `say` waits on."""
    gate = Gate()

    async def boss(view: AgentView) -> Sequence[Move] | str:
        role, text = last(view)
        if role == "user":
            return [Delegate(ANN, "work")]
        await gate.pass_through()
        return f"so: {text}"

    engine = stage.engine({"boss": boss, "ann": hello})
    conversation = await engine.conversation("c", agent="boss")
    saying = asyncio.ensure_future(conversation.say("go"))
    await gate.reached.wait()

    child = next(branch for branch in await conversation.branches(delegates=True) if branch.delegate)
    assert isinstance((await engine.world.stacks.refresh(child.ref)).ground, Finished)
    assert not saying.done()
    assert not any(isinstance(state, Finished) for state in await states_of(conversation))

    gate.open.set()
    reply = await saying
    assert (reply.text, reply.finished) == ("so: heard 1", "answered")


async def test_failure_12_time_travel_through_nested_delegation(stage: Stage) -> None:
    """A fork before a delegation runs nothing again, and no delegate, however deep, knows what came after it."""
    ran: list[str] = []

    async def note(arguments: Any, ctx: ToolContext) -> str:
        ran.append(arguments["text"])
        return "noted"

    async def bob(view: AgentView) -> Sequence[Move] | str:
        role, text = last(view)
        return [UseTool("note", {"text": text})] if role == "user" else " ".join(heard(view))

    agents = {"boss": passes_on(ANN), "ann": passes_on(BOB), "bob": bob}
    engine = stage.engine(agents, {"note": note}, {"note": "never"})
    conversation = await engine.conversation("c", agent="boss")
    assert (await conversation.say("one")).text == "one"
    before = (await conversation.stack()).head
    assert (await conversation.say("two")).text == "one two"
    after = (await conversation.stack()).head

    await conversation.rewind(before - 1, name="before")
    assert (await conversation.say("three")).text == "one three"
    await conversation.checkout("main")
    entries = await states_of(conversation)
    inside = next(index for index, state in enumerate(entries) if index > before and isinstance(state, AgentCall))
    cut = await conversation.rewind(inside, name="inside")
    assert (cut.at, cut.asked) == (before + 1, inside + 1)
    assert (await conversation.say("four")).text.startswith("one ")
    await conversation.checkout("main")
    assert (await conversation.stack()).head == after
    assert (await conversation.say("five")).text == "one two five"
    assert ran == ["one", "two", "three", *ran[3:-1], "five"]
    assert ran.count("one") == ran.count("two") == 1


async def test_failure_13_400_turns_are_as_large_as_what_was_said(tmp_path: Path) -> None:
    """400 turns of a question and an answer of 1 KB each, through the engine: little more than their 800 KB."""
    path = tmp_path / "store.db"

    async def boss(view: AgentView) -> str:
        return "y" * 1024

    stage = await Stage.open(path)
    conversation = await stage.engine({"boss": boss}).conversation("c", agent="boss")
    for _ in range(400):
        await conversation.say("x" * 1024)
    await stage.aclose()
    assert path.stat().st_size < 1_500_000


async def test_failure_15_requests_are_not_stored(tmp_path: Path) -> None:
    """100 model calls over a history of 200,000 tokens add what was said, not what was sent; each can be rebuilt."""
    sent: dict[EffectId, bytes] = {}

    async def boss(view: AgentView) -> str:
        sent[view.effect] = view.fragments[-1].digest
        return "yes"

    path = tmp_path / "long.db"

    async def talk(*said: str) -> int:
        stage = await Stage.open(path)
        engine = stage.engine({"boss": boss})
        conversation = await engine.conversation("c", agent="boss")
        for text in said:
            await conversation.say(text)
        for effect in [*sent][:: len(sent) // 3 + 1]:
            assert (await view_of(engine.world, effect)).fragments[-1].digest == sent[effect]
        await stage.aclose()
        return path.stat().st_size

    before = await talk("word " * 160_000)
    after = await talk(*["and?"] * 100)

    assert len(sent) == 101
    assert before > 800_000
    assert after - before < 100_000


async def test_failure_16_agents_who_only_delegate_come_to_an_end(stage: Stage) -> None:
    """Two who hand everything to each other, in new words each time, spend no more than one turn's steps."""
    asked: list[str] = []

    def delegates(to: AgentId) -> Any:
        async def decide(view: AgentView) -> Sequence[Move]:
            asked.append(view.agent)
            return [Delegate(to, f"you do it, {len(asked)}"), Delegate(to, f"and this, {len(asked)}")]

        return decide

    engine = stage.engine({"ann": delegates(BOB), "bob": delegates(ANN)})
    conversation = await engine.conversation("c", agent="ann")
    reply = await conversation.say("go")

    assert reply.finished == "budget"
    assert "steps" in reply.detail or "model calls" in reply.detail
    assert len(asked) <= TURN_STEPS_MAX
    assert await stage.owed(conversation) == []
    assert any(isinstance(state, AgentResult) for state in await states_of(conversation))


async def test_failure_17_a_consumer_that_restarts_misses_nothing(tmp_path: Path) -> None:
    """Stopped in the middle of a commit, with its store closed and written to meanwhile, it goes on at its cursor."""

    async def follow(engine: Engine, after: Any, count: int) -> list[Event]:
        found: list[Event] = []
        events = engine.events(after)
        async for event in events:
            found.append(event)
            if len(found) == count:
                break
        await events.aclose()  # type: ignore[attr-defined]
        return found

    seen: list[Event] = []
    for life in range(4):
        stage = await Stage.open(tmp_path / "store.db")
        engine = stage.engine({"boss": hello})
        conversation = await engine.conversation("c", agent="boss")
        for _ in range(2):
            await conversation.say("hello")
        whole = [event.id for event in await stage.events()]
        left = len(whole) - len(seen)
        seen += await follow(engine, seen[-1].cursor if seen else 0, left if life == 3 else min(left, 4 + life))
        await stage.aclose()

    assert [event.id for event in seen] == whole


RECORDS = """\
from pathlib import Path
from p2engine import function_tool

@function_tool(requires_context=True)
def pay(ctx, to: str) -> str:
    "Pay somebody."
    with Path("paid.txt").open("a") as paid:
        paid.write(f"{ctx.agent} {ctx.conversation} {to}\\n")
    return f"paid {to}"
"""
FORGED = ("creator_id", "agent_id", "conversation_id", "ctx", "context", "agent", "branch", "idempotency_key")


@pytest.mark.parametrize("name", FORGED)
def test_failure_18_a_models_arguments_do_not_change_who_acts(name: str, project: Project, here: Run) -> None:
    """A call that names somebody else is refused by the name of that argument; the plain call is the agent's own."""
    project.write("tools/pay.py", RECORDS)
    project.write("config/agents.yml", "agents:\n  - id: alpha\n    tools: [pay]\n  - id: treasurer\n")
    forged = ToolUse("c1", "pay", {"to": "bob", name: "treasurer"})
    answers: list[Answer] = [Reply(calls=(forged,)), Reply(calls=(ToolUse("c2", "pay", {"to": "bob"}),)), "done"]
    with OpenAIServer(answers) as server:
        project.configure(llm={"api_base": server.base_url})
        done = here("chat", "with", "alpha", "--name", "demo", "-m", "pay bob")

    assert done.status == 0
    told = [request.body["messages"][-1]["content"] for request in server.requests]
    assert f"'{name}' is no argument" in told[1]
    uid = here("conversation", "show", "demo", "--json").document["id"]
    assert (project.folder / "paid.txt").read_text() == f"alpha {uid} bob\n"


@pytest.mark.parametrize("withdrawn", [False, True])
def test_failure_20_a_tool_that_is_not_the_agents_does_not_run(withdrawn: bool, project: Project, here: Run) -> None:
    """Whether it was never on the list or was taken off it: the model names it, reads why not, and nothing ran."""
    project.write("tools/pay.py", RECORDS)
    listed = "pay, get_weather" if withdrawn else "get_weather"
    project.write("config/agents.yml", f"agents:\n  - id: alpha\n    tools: [{listed}]\n")
    answers: list[Answer] = ["hello", Reply(calls=(ToolUse("c1", "pay", {"to": "bob"}),)), "I may not."]
    with OpenAIServer(answers) as server:
        project.configure(llm={"api_base": server.base_url})
        here("chat", "with", "alpha", "--name", "demo", "-m", "hello")
        if withdrawn:
            here("config", "set-tools", "demo", "get_weather")
        done = here("chat", "resume", "demo", "-m", "pay bob")

    assert done.out == "I may not.\n"
    assert server.requests[-1].body["messages"][-1]["content"] == "no tool 'pay' for alpha; its tools: get_weather"
    assert not (project.folder / "paid.txt").exists()


def plain(*texts: str) -> None:
    """No character in them moves a cursor, rings, or turns the line around."""
    for text in texts:
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(text), text


SAYS = f"""\
from p2engine import ToolError, function_tool

@function_tool
def says(what: str) -> str:
    {NASTY!r}
    return what

@function_tool
def fails() -> str:
    "Fail."
    raise ToolError({NASTY!r})
"""


def test_failure_25_what_tools_take_and_give_is_text(project: Project, here: Run) -> None:
    """Arguments, results, errors and descriptions of tools are shown on every stream and page as they are written."""
    project.write("tools/says.py", SAYS)
    project.write("config/agents.yml", "agents:\n  - id: alpha\n    tools: [says, fails]\n")
    calls = (ToolUse("c1", "says", {"what": NASTY}), ToolUse("c2", "fails", {}))
    with OpenAIServer([Reply(text=NASTY, calls=calls), "done"]) as server:
        project.configure(llm={"api_base": server.base_url})
        done = here("chat", "with", "alpha", "--name", "demo", "-m", "go")
    shown = [here(*words) for words in (("conversation", "stack", "demo"), ("artifact", "show", "demo", "--full"))]
    tools = here("config", "show-tools")

    plain(done.out, done.err, *(text for each in (*shown, tools) for text in each[1:]))
    written = "\\x1b[31mred\\x1b[0m [bold]bold[/bold] {{ 7*7 }}"
    assert written in done.err
    assert shown[0].out.count(written) >= 3


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config/agents.yml", 'agents:\n  - id: a\n    "\\e[31mx [bold]{{ 7*7 }}": 1\n'),
        ("config/agents.yml", 'agents:\n  - id: a\n    tools: ["\\e[31mx", "\\u202ex"]\n'),
        ("config/config.json", '{"mode": "\\u001b[31mx\\u202e [bold]{{ 7*7 }}"}'),
        ("tools/bad.py", f"raise ValueError({NASTY!r})\n"),
        ("tools/\x1b[31mbad.py", "def (\n"),
        ("templates/personas/bad.j2", "{{ nobody\x1b[31m }"),
        (".env", "LOG_LEVEL=\x1b[31mloud\n"),
    ],
)
def test_failure_25_what_files_say_is_text(file: str, text: str, project: Project, here: Run) -> None:
    """A wrong file cannot colour, move or fill in the line that names it."""
    project.write(file, text)
    done = here("config", "check")
    plain(done.out, done.err)
    assert "49" not in done.out + done.err


NAMES = ["../x", "/etc/passwd", "a\0b", "..", "x" * 10_000_000, "a/../../b", "C:\\x", "\ud800"]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
async def test_failure_26_names_stay_names(name: str, tmp_path: Path) -> None:
    """Whatever a conversation, branch, agent or artifact is called: kept as a name, or refused in a short line."""
    from p2engine.wiring import Engine as Wired

    outcomes: list[object] = []
    refusals: list[str] = []
    async with Wired.open(home=tmp_path / "inside" / "home") as engine:
        conversation = await engine.conversation("demo", agent="agent_alpha")
        await conversation.say("hello")
        tries = (
            lambda: engine.conversation(name, agent="agent_alpha"),
            lambda: engine.conversation("other", agent=name),
            lambda: conversation.fork(1, name),
            lambda: conversation.rewind(1, name=f"{name}'"),
            lambda: conversation.checkout(name),
            lambda: conversation.say(f"save 'x' as {name}" if len(name) < 100 else name),
        )
        for attempt in tries:
            try:
                outcomes.append(await attempt())
            except UsageError as refused:
                refusals.append(str(refused))
        for made in outcomes:
            if isinstance(made, Conversation) and made.name == name:
                assert (await engine.conversation(name)).record.id == made.record.id

    assert [text for text in refusals if len(text) > 300] == []

    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    assert [path.name for path in (tmp_path / "inside").iterdir()] == ["home"]
    assert {path.name for path in (tmp_path / "inside" / "home").iterdir()} <= {
        ".gitignore",
        "blobs",
        "format",
        "owners",
        "store.db",
    }


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config/agents.yml", "agents:\n  - id: alpha\n    tools: [fly]\n"),
        ("config/agents.yml", "agents:\n  - id: alpha\n    delegates_to: [nobody]\n"),
        ("config/agents.yml", ""),
        ("config/config.json", '{"lmm": {}}'),
        ("config/config.json", "\0\1"),
        (".env", "LOG_LEVEL=loud\n"),
    ],
)
def test_failure_27_nothing_is_started_on_a_wrong_file(file: str, text: str, project: Project, here: Run) -> None:
    """One line and exit status 2; no model is asked, and once the file is mended there is no conversation."""
    with OpenAIServer(echo) as server:
        project.configure(llm={"api_base": server.base_url})
        before = (project.folder / file).read_text() if (project.folder / file).exists() else None
        project.write(file, text)
        done = here("chat", "with", "agent_alpha", "--name", "demo", "-m", "hello")
        assert server.requests == []

    assert (done.status, done.out) == (2, "")
    assert len(done.err.splitlines()) <= 2
    if before is None:
        (project.folder / file).unlink()
    else:
        project.write(file, before)
    assert here("conversation", "list", "--json").document == []

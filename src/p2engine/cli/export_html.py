"""A conversation as one HTML page: its current branch turn by turn, delegations nested, then the other branches.

Puts together what the page shows; the template beside this file says how. Escaping is the template engine's, for
every value without exception.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from p2engine.cli.conversation_view import (
    Entry,
    arguments_text,
    cause_words,
    dollars,
    path_of,
    place_of,
    spent_in,
    status_of,
    summary_of,
    tokens_of,
    when,
    words_of,
)
from p2engine.cli.output import safe
from p2engine.cli.reading import all_events, branches_of, stretch_of
from p2engine.domain.ids import AgentId, EffectId, StackRef, effect_id
from p2engine.domain.records import Branch, Event, Query
from p2engine.domain.setup import Spent
from p2engine.domain.states import (
    AgentCall,
    AgentResult,
    AssistantMessage,
    ToolCall,
    ToolResult,
    UserMessage,
    Waiting,
    name_of,
    tag_of,
)
from p2engine.runtime.conversation import Conversation
from p2engine.wiring import Engine

TEMPLATE = Path(__file__).with_name("conversation.html.j2")


@dataclass(slots=True, kw_only=True)
class Shown:
    """One entry as the page shows it. anchor: of this entry; cause_anchor: of what caused it, where it is an entry."""

    anchor: str
    index: int
    at: str
    kind: str
    name: str
    head: str
    text: str
    cause: str
    cause_anchor: str | None
    usage: str
    verdicts: list[str]
    child: "Section | None" = None


@dataclass(slots=True, kw_only=True)
class Section:
    """A stack, or what one branch added to it."""

    title: str
    note: str
    spent: str
    entries: list[Shown] = field(default_factory=list)


async def page(engine: Engine, conversation: Conversation) -> str:
    """The whole page."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["safe_text"] = safe
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(**await _contents(engine, conversation))


async def _contents(engine: Engine, conversation: Conversation) -> dict[str, object]:
    known = await branches_of(conversation)
    current = await conversation.branch()
    stack = await conversation.stack()
    replies = Query(conversation=conversation.record.id, kinds=("model.reply",))
    spent = spent_in([event async for event in all_events(engine, replies)])
    facts = Query(conversation=conversation.record.id, kinds=("artifact.", "eval.", "branch.", "tool.", "effect."))
    beside = [event async for event in all_events(engine, facts)]
    sections = _Sections(engine, known, beside)
    others = [branch for branch in known.values() if branch.delegate is None and branch.ref != current.ref]
    return {
        "name": conversation.name,
        "facts": [
            ("agent", conversation.record.agent),
            ("id", conversation.record.id),
            ("branch", current.name),
            ("status", status_of(stack)),
            ("turns", stack.turn),
            ("begun", f"{when(conversation.record.created_at)} UTC"),
            ("all branches", f"{spent.tokens} tokens, {dollars(spent.cost_usd)}"),
        ],
        "main": await sections.section(current),
        "others": [await sections.section(branch) for branch in others],
        "beside": [_fact(event, known) for event in beside],
    }


def _fact(event: Event, known: Mapping[StackRef, Branch]) -> dict[str, object]:
    place = place_of(event.cause)
    return {
        "at": when(event.at),
        "kind": event.kind,
        "summary": summary_of(event, 2000),
        "cause": cause_words(event.cause, (), known),
        "cause_anchor": _anchor(place.ref, place.index) if place else None,
    }


def _anchor(ref: StackRef, index: int) -> str:
    return f"e-{ref}-{index}"


class _Sections:
    """Makes sections of one conversation's stacks. An entry that two stacks share is shown with the first of them."""

    def __init__(self, engine: Engine, known: Mapping[StackRef, Branch], beside: list[Event]) -> None:
        self._engine = engine
        self._known = known
        self._children: dict[EffectId, Branch] = {each.delegate: each for each in known.values() if each.delegate}
        self._done: set[str] = set()
        self._verdicts: dict[str, list[str]] = {}
        for event in beside:
            if event.kind == "eval.verdict":
                self._verdicts.setdefault(str(event.body.get("subject")), []).append(summary_of(event, 2000))

    async def section(self, branch: Branch) -> Section:
        """What the stack of a branch adds to the page."""
        part = await stretch_of(self._engine, branch)
        new = [entry for entry in part.entries if entry.id not in self._done]
        self._done.update(entry.id for entry in new)
        path = path_of(branch, self._known)
        spent = Spent()
        shown: list[Shown] = []
        calls: dict[str, Shown] = {}
        for entry in new:
            view = self._shown(entry, branch.agent, path)
            shown.append(view)
            if entry.usage is not None:
                spent = spent.plus(entry.usage.spent)
            if isinstance(entry.state, AgentResult):
                spent = spent.plus(replace(entry.state.spent, steps=0))
            if isinstance(entry.state, AgentCall):
                calls[entry.state.call_id] = view
            elif isinstance(entry.state, Waiting):
                await self._add_children(entry, entry.state, calls)
        return Section(
            title=f"{branch.agent} on {branch.name}" if branch.delegate is None else branch.agent,
            note=f"entries 0…{len(part.entries) - len(new) - 1} stand elsewhere on this page"
            if new != part.entries
            else "",
            spent=f"{spent.tokens} tokens, {dollars(spent.cost_usd)}",
            entries=shown,
        )

    async def _add_children(self, entry: Entry, waiting: Waiting, calls: Mapping[str, Shown]) -> None:
        for pending in waiting.on:
            child = self._children.get(effect_id(entry.ref, entry.index, pending.slot))
            if child is not None and pending.call_id in calls:
                calls[pending.call_id].child = await self.section(child)

    def _shown(self, entry: Entry, agent: AgentId, path: Mapping[StackRef, int]) -> Shown:
        place = place_of(entry.cause)
        usage = ""
        if entry.usage is not None:
            usage = f"{tokens_of(entry.usage)} tokens, {dollars(entry.usage.cost_usd)}, {entry.usage.model}"
        head, text = _parts(entry, agent)
        return Shown(
            anchor=_anchor(entry.ref, entry.index),
            index=entry.index,
            at=when(entry.at),
            kind=tag_of(entry.state),
            name=name_of(entry.state),
            head=head,
            text=text,
            cause=cause_words(entry.cause, path, self._known),
            cause_anchor=_anchor(place.ref, place.index) if place else None,
            usage=usage,
            verdicts=self._verdicts.get(entry.id, []),
        )


def _parts(entry: Entry, agent: str) -> tuple[str, str]:
    """What stands above an entry's text, and the text."""
    match entry.state:
        case UserMessage() as state:
            return state.sender, state.text
        case AssistantMessage() as state:
            return agent, state.text
        case ToolCall() as state:
            return f"calls {state.tool}", state.malformed or arguments_text(state.arguments)
        case ToolResult() as state:
            return f"{state.tool}: {state.status}", state.content
        case AgentCall() as state:
            return f"asks {state.agent}", state.message
        case AgentResult() as state:
            return f"{state.agent}: {state.status}", state.content
        case state:
            return name_of(state), words_of(state)

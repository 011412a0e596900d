"""The agents of one `agents.yml`, each with the line it stands on. Knows the file; resolves nothing into a setup."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from p2engine.agents.entries import AgentEntry, AgentsFile, ModelEntry, RuleAgentEntry
from p2engine.agents.moves import DELEGATE
from p2engine.documents import Document, did_you_mean, read_yaml, subject
from p2engine.domain.ids import AgentId
from p2engine.errors import ConfigError, NotAvailable
from p2engine.positions import Place, show

LLM = "llm"
RULE = "rule"


class Listed(NamedTuple):
    """One agent as it is written. source: `file:line`."""

    entry: AgentEntry
    place: Place
    source: str


class Listing(NamedTuple):
    """A whole file, in its order."""

    document: Document
    agents: Mapping[AgentId, Listed]

    def delegates(self, agent: AgentId) -> tuple[AgentId, ...]:
        """Whom an agent may ask: those it names, or everybody here but itself."""
        named = self.agents[agent].entry.delegates_to
        if named is not None:
            return tuple(AgentId(name) for name in named)
        return tuple(other for other in self.agents if other != agent)


def read_listing(path: Path, kinds: Collection[str]) -> Listing:
    """Every agent of the file. kinds: the types that a model or a plug-in decides for.

    Raises ConfigError, and NotAvailable for what this version does not have.
    """
    document = read_yaml(path)
    agents: dict[AgentId, Listed] = {}
    for index in range(len(document.check(AgentsFile).agents)):
        listed = read_agent(document, index, kinds, agents)
        agents[AgentId(listed.entry.id)] = listed
    return Listing(document, agents)


def read_agent(document: Document, index: int, kinds: Collection[str], before: Mapping[AgentId, Listed]) -> Listed:
    """One agent of the file. before: those above it. Raises ConfigError, NotAvailable."""
    place: Place = ("agents", index)
    entry = document.check(entry_model(document, place, kinds), place)
    if entry.id in before:
        first = before[AgentId(entry.id)].source
        raise document.error(f"{subject(place)}agent {entry.id!r} is there already ({first})", (*place, "id"))
    return Listed(entry, place, f"{document.file}:{document.line(place)}")


def check_names(
    listing: Listing, *, tools: Collection[str] | None, models: Collection[str], check_persona: Callable[[str], object]
) -> None:
    """Every name in the file must mean something. tools: None: any. models: none given: all. Raises ConfigError."""
    for problem in wrong_names(listing, tools=tools, models=models, check_persona=check_persona):
        raise problem


def wrong_names(
    listing: Listing,
    *,
    tools: Collection[str] | None,
    models: Collection[str],
    check_persona: Callable[[str], object],
    others: Collection[str] = (),
) -> Iterator[ConfigError]:
    """Every name in the file that means nothing. others: agents that are in the file and not in the listing."""
    known = {*listing.agents, *others}
    for agent, listed in listing.agents.items():
        entry, place = listed.entry, listed.place
        if tools is not None:
            yield from _unknown(listing, (*place, "tools"), "tool", entry.tools, tools)
        yield from _unknown(listing, (*place, "delegates_to"), "agent", entry.delegates_to or (), known)
        if isinstance(entry, RuleAgentEntry):
            yield from _wrong_rules(listing, agent, entry, place, others)
        if isinstance(entry, ModelEntry):
            if entry.llm_model and models:
                yield from _unknown(listing, (*place, "llm_model"), "supported model", (entry.llm_model,), models)
            if entry.behavior_template:
                yield from _wrong_persona(
                    listing, (*place, "behavior_template"), entry.behavior_template, check_persona
                )


def entry_model(document: Document, place: Place, kinds: Collection[str]) -> type[AgentEntry]:
    """What the entry at `place` is read as, by its type. Raises ConfigError, and NotAvailable for a later type."""
    value = document.at(place)
    kind = value.get("type", LLM) if isinstance(value, dict) else LLM
    if kind == RULE:
        return RuleAgentEntry
    if kind in kinds or not isinstance(kind, str):
        return ModelEntry
    line = document.line((*place, "type"))
    if kind == "human":
        raise NotAvailable("type: human", hint=f"{document.file}:{line}: take it out")
    near = did_you_mean(kind, {*kinds, RULE})
    raise document.error(f"{subject(place)}no type {show(kind)}{near}", (*place, "type"))


def _unknown(
    listing: Listing, place: Place, what: str, names: Iterable[str], known: Collection[str]
) -> Iterator[ConfigError]:
    for index, name in enumerate(names):
        if name not in known:
            message = f"{subject(place)}no {what} {show(name)}{did_you_mean(name, known)}"
            yield listing.document.error(message, (*place, index))


def _wrong_rules(
    listing: Listing, agent: AgentId, entry: RuleAgentEntry, place: Place, others: Collection[str]
) -> Iterator[ConfigError]:
    may_ask: Collection[str] = listing.delegates(agent) if DELEGATE in entry.tools else ()
    if may_ask and entry.delegates_to is None:
        may_ask = {*may_ask, *others}
    for index, rule in enumerate(entry.rules):
        here = (*place, "rules", index)
        if rule.tool is not None and rule.tool not in entry.tools:
            message = f"{subject(here)}tool {show(rule.tool)} is not among the tools of {agent}"
            yield listing.document.error(message, (*here, "tool"))
        if rule.delegate is not None and rule.delegate not in may_ask:
            message = f"{subject(here)}{agent} may not delegate to {show(rule.delegate)}"
            hint = "list the tool delegate, and the agent under delegates_to where that is given"
            yield listing.document.error(message, (*here, "delegate"), hint=hint)


def _wrong_persona(listing: Listing, place: Place, name: str, check: Callable[[str], object]) -> Iterator[ConfigError]:
    try:
        check(name)
    except ConfigError as error:
        yield error if error.file else listing.document.error(f"{subject(place)}{error.message}", place)

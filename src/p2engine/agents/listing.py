"""The agents of one `agents.yml`, each with the line it stands on. Knows the file; resolves nothing into a setup."""

from collections.abc import Callable, Collection, Iterable, Mapping
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
        place: Place = ("agents", index)
        entry = document.check(_model(document, place, kinds), place)
        if entry.id in agents:
            first = agents[AgentId(entry.id)].source
            raise document.error(f"{subject(place)}agent {entry.id!r} is there already ({first})", (*place, "id"))
        agents[AgentId(entry.id)] = Listed(entry, place, f"{document.file}:{document.line(place)}")
    return Listing(document, agents)


def check_names(
    listing: Listing, *, tools: Collection[str], models: Collection[str], check_persona: Callable[[str], object]
) -> None:
    """Every name in the file must mean something. models: those allowed; none given: all. Raises ConfigError."""
    for agent, listed in listing.agents.items():
        entry, place = listed.entry, listed.place
        _each_known(listing, (*place, "tools"), "tool", entry.tools, tools)
        _each_known(listing, (*place, "delegates_to"), "agent", entry.delegates_to or (), listing.agents)
        if isinstance(entry, RuleAgentEntry):
            _check_rules(listing, agent, entry, place)
        if isinstance(entry, ModelEntry):
            if entry.llm_model and models:
                _each_known(listing, (*place, "llm_model"), "supported model", (entry.llm_model,), models)
            if entry.behavior_template:
                _check_persona(listing, (*place, "behavior_template"), entry.behavior_template, check_persona)


def _model(document: Document, place: Place, kinds: Collection[str]) -> type[AgentEntry]:
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


def _each_known(
    listing: Listing, place: Place, what: str, names: Iterable[str], known: Collection[str] | Mapping[AgentId, Listed]
) -> None:
    for index, name in enumerate(names):
        if name not in known:
            message = f"{subject(place)}no {what} {show(name)}{did_you_mean(name, known)}"
            raise listing.document.error(message, (*place, index))


def _check_rules(listing: Listing, agent: AgentId, entry: RuleAgentEntry, place: Place) -> None:
    may_ask = listing.delegates(agent) if DELEGATE in entry.tools else ()
    for index, rule in enumerate(entry.rules):
        here = (*place, "rules", index)
        if rule.tool is not None and rule.tool not in entry.tools:
            message = f"{subject(here)}tool {show(rule.tool)} is not among the tools of {agent}"
            raise listing.document.error(message, (*here, "tool"))
        if rule.delegate is not None and rule.delegate not in may_ask:
            message = f"{subject(here)}{agent} may not delegate to {show(rule.delegate)}"
            hint = "list the tool delegate, and the agent under delegates_to where that is given"
            raise listing.document.error(message, (*here, "delegate"), hint=hint)


def _check_persona(listing: Listing, place: Place, name: str, check: Callable[[str], object]) -> None:
    try:
        check(name)
    except ConfigError as error:
        if error.file:
            raise
        raise listing.document.error(f"{subject(place)}{error.message}", place) from None

"""Who the agents are: `agents.yml` and personas, resolved under overrides into setups that are recorded on stacks.

Knows files, tools by their specs, and blobs. Runs no agent; what it resolves is judged by nobody here.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from p2engine.agents.entries import (
    AGENT_ID,
    AGENT_ID_WORDS,
    AgentEntry,
    Changes,
    ModelEntry,
    RuleAgentEntry,
    WalletTerms,
)
from p2engine.agents.listing import RULE, Listing, check_names, read_listing
from p2engine.agents.moves import DELEGATE, delegate_spec
from p2engine.agents.personas import PLAIN, SHIPPED, Personas, stamp
from p2engine.agents.rules import RuleAgent
from p2engine.documents import did_you_mean
from p2engine.domain.ids import AgentId, BlobRef, blob_ref
from p2engine.domain.messages import ToolSpec
from p2engine.domain.setup import Budget, DedupPolicy, RenderPolicy, Setup, ToolGrant
from p2engine.errors import ConfigError, CorruptEntry, NotLoaded, SetupError, UsageError
from p2engine.ports import Agent, BlobStore
from p2engine.positions import show

KEPT_MAX = 1024  # resolved setups, and bodies by their refs, in memory; the oldest go first
K = TypeVar("K")
V = TypeVar("V")

AgentFactory = Callable[[Setup], Agent]


class Defaults(NamedTuple):
    """What the settings say for every agent. supported: when given, no other model may be named."""

    model: str
    supported: Sequence[str] = ()
    budget: Budget = Budget()
    dedup: DedupPolicy = "none"
    conversation_usd: float | None = None


class Tools(NamedTuple):
    """The tools as the roster sees them.

    spec: of a loaded one. known: the names that may stand in a configuration, None: any. withheld: why no model gets
    it, None where one may. missing: whether another process may have it, and this one does not.
    """

    spec: Callable[[str], ToolSpec | None]
    known: Callable[[], Collection[str] | None]
    withheld: Callable[[str], str | None]
    missing: Callable[[str], bool] = lambda _: False


class AgentRow(msgspec.Struct, frozen=True, kw_only=True):
    """One agent as people see it. source: `file:line`. withheld: tool -> why its model does not get it."""

    id: AgentId
    source: str
    type: str
    model: str
    persona: str
    tools: tuple[str, ...]
    withheld: dict[str, str]
    delegates: tuple[AgentId, ...]
    render: RenderPolicy
    budget: Budget
    wallet: WalletTerms
    owner: str


class _Resolved(NamedTuple):
    """A setup before its bodies are stored. withheld: tool -> why its model does not get it."""

    setup: Setup
    instructions: str
    specs: tuple[ToolSpec, ...]
    withheld: dict[str, str]


class _Kept(NamedTuple):
    """A resolved setup, and the tools it came from: it holds while they are the same."""

    setup: Setup
    seen: tuple[tuple[str, ToolSpec | None], ...]


class FileRoster:
    """The port `Roster`, from `config/agents.yml` of a project, or the shipped agents where there is none.

    factories: agent type -> who decides under a setup of that type; `llm` is one of them, `rule` is built in.
    notes: what a person should be told of the files. Reads them at once; raises ConfigError or NotAvailable when they
    are wrong.
    """

    def __init__(
        self,
        *,
        project: Path | None,
        defaults: Defaults,
        tools: Tools,
        factories: Mapping[str, AgentFactory],
        blobs: BlobStore,
    ) -> None:
        self._own = project / "config" / "agents.yml" if project else None
        self._defaults = defaults
        self._tools = tools
        self._factories = factories
        self._blobs = blobs
        self._personas = Personas([*([project / "templates" / "personas"] if project else []), SHIPPED / "personas"])
        self._setups: dict[tuple[AgentId, bytes], _Kept] = {}
        self._bodies: dict[tuple[BlobRef | None, BlobRef | None], tuple[str, tuple[ToolSpec, ...]]] = {}
        self._deciders: dict[Setup, Agent] = {}
        self._broken: SetupError | None = None
        self._path = self._own if self._own and stamp(self._own) else SHIPPED / "agents.yml"
        self._stamp = stamp(self._path)
        self._listing = self._read()
        self.notes = list(self._warnings())

    # Who there is

    def agents(self) -> Sequence[AgentId]:
        """Every agent, in the order of the file."""
        return list(self._listing.agents)

    def personas(self) -> list[str]:
        """Every persona there is a file for, sorted."""
        return self._personas.names()

    def describe(self, agent: AgentId) -> AgentRow:
        """An agent as people see it. Raises UsageError for an unknown one."""
        entry = self._entry(agent, stand_in=False)
        resolved = self._resolve(entry, Changes(), lacks_raise=False)
        return AgentRow(
            id=agent,
            source=self._listing.agents[agent].source,
            type=entry.type,
            model=resolved.setup.model,
            persona=resolved.setup.persona,
            tools=tuple(grant.name for grant in resolved.setup.tools),
            withheld=resolved.withheld,
            delegates=resolved.setup.delegates,
            render=resolved.setup.render,
            budget=resolved.setup.budget,
            wallet=entry.wallet,
            owner=entry.owner,
        )

    def lacks(self, setup: Setup) -> tuple[str, ...]:
        """The tools that the persona of a setup speaks of and its agent does not have; withheld ones aside."""
        wants = self._personas.get(setup.persona).wants if setup.persona else ()
        return tuple(name for name in wants if not setup.grant(name) and self._tools.withheld(name) is None)

    # The port

    async def setup(self, agent: AgentId, changes: Mapping[str, Any], *, stand_in: bool = False) -> Setup:
        """The setup of `agent` under `changes`. Raises UsageError for an unknown agent, key, tool, persona or model.

        stand_in: an unknown agent is the tool-less default one instead. Raises NotLoaded for a tool that another
        process may have.
        """
        entry = self._entry(agent, stand_in=stand_in)
        key = agent, _canonical(changes)
        kept = self._setups.get(key)
        if kept is None or any(self._spec(name) != spec for name, spec in kept.seen):
            read = Changes.read(changes) if changes else Changes()
            names = entry.tools if read.tools is None else read.tools
            seen = tuple((name, self._spec(name)) for name in names)
            kept = _Kept(await self._stored(self._resolve(entry, read)), seen)
            _keep(self._setups, key, kept)
        return kept.setup

    def agent(self, setup: Setup) -> Agent:
        """The agent that decides under this setup. Raises UsageError when nobody of its type is here."""
        decider = self._deciders.get(setup)
        if decider is None:
            decider = self._decider(setup)
            _keep(self._deciders, setup, decider)
        return decider

    async def bodies(self, setup: Setup) -> tuple[str, tuple[ToolSpec, ...]]:
        """The instructions and tool specs that a recorded setup names. Raises StoreError when they are lost."""
        key = setup.instructions, setup.specs
        known = self._bodies.get(key)
        if known is None:
            instructions = (await self._blobs.get(setup.instructions)).decode() if setup.instructions else ""
            known = instructions, await self._specs(setup.specs) if setup.specs else ()
            _keep(self._bodies, key, known)
        return known

    # Following the files

    @property
    def problems(self) -> tuple[SetupError, ...]:
        """The files that broke since their last good version, which is still in force."""
        return (*([self._broken] if self._broken else []), *self._personas.problems.values())

    def refresh(self) -> list[str]:
        """Read again what changed: the files that were taken over. `problems` says what is wrong with those not.

        Never raises. Load tools first: an agent may name one that is as new as itself.
        """
        taken = self._personas.refresh()
        if self._own and self._path != self._own and stamp(self._own):
            self._path = self._own
        looked = stamp(self._path)
        if looked != self._stamp or self._broken:
            self._stamp = looked
            try:
                self._listing, self._broken = self._read(), None
                taken.insert(0, self._listing.document.file)
            except SetupError as problem:
                self._broken = problem
        if taken:
            self._setups.clear()
            self._deciders.clear()
            self.notes = list(self._warnings())
        return taken

    def _read(self) -> Listing:
        listing = read_listing(self._path, self._factories)
        check_names(
            listing,
            tools=self._tools.known(),
            models=self._defaults.supported,
            check_persona=self._personas.get,
        )
        return listing

    def _warnings(self) -> Iterator[str]:
        missing: set[str] = set()
        for agent, listed in self._listing.agents.items():
            entry = listed.entry
            persona = entry.behavior_template if isinstance(entry, ModelEntry) else None
            for tool in self._personas.get(persona).wants if persona else ():
                if tool not in entry.tools:
                    yield f"{listed.source}: persona {persona} wants the tool {tool}, which {agent} does not have"
            for tool in entry.tools:
                if tool not in missing and self._tools.missing(tool):
                    missing.add(tool)
                    yield (
                        f"{listed.source}: {agent} may use the tool {tool}, which is not loaded here: its calls are"
                        " left to workers that have it"
                    )
            if entry.delegates_to and DELEGATE not in entry.tools:
                yield f"{listed.source}: {agent} has delegates_to but not the tool {DELEGATE}"

    # Resolving

    def _entry(self, agent: AgentId, *, stand_in: bool) -> AgentEntry:
        listed = self._listing.agents.get(agent)
        if listed:
            return listed.entry
        if not stand_in:
            raise UsageError(f"no agent {show(agent)}{did_you_mean(agent, self._listing.agents)}")
        if not AGENT_ID.fullmatch(agent):
            raise UsageError(f"an agent's name has {AGENT_ID_WORDS}; this is {show(agent)}")
        return ModelEntry(id=agent)

    def _resolve(self, entry: AgentEntry, changes: Changes, *, lacks_raise: bool = True) -> _Resolved:
        agent = AgentId(entry.id)
        is_listed = agent in self._listing.agents
        if changes.tools and not is_listed:
            raise UsageError(f"agent {agent!r} is the default one, which has no tools", hint="list it in agents.yml")
        names = entry.tools if changes.tools is None else changes.tools
        delegates = self._listing.delegates(agent) if is_listed and DELEGATE in names else ()
        specs, withheld = self._granted(names, delegates, lacks_raise)
        budget = entry.budget.over(self._defaults.budget)
        setup = Setup(
            agent=agent,
            type=entry.type,
            tools=tuple(map(_grant, specs)),
            delegates=delegates,
            budget=budget if changes.budget is None else changes.budget.over(budget),
            dedup=self._defaults.dedup,
            conversation_usd=self._defaults.conversation_usd,
            book=changes.book or "",
            evaluations=tuple(changes.evaluations or ()),
        )
        if not isinstance(entry, ModelEntry):
            return _Resolved(setup, "", specs, withheld)
        setup = replace(setup, **self._model_part(entry, changes))
        return _Resolved(setup, self._instructions(setup, specs), specs, withheld)

    def _granted(
        self, names: Sequence[str], delegates: Sequence[AgentId], lacks_raise: bool
    ) -> tuple[tuple[ToolSpec, ...], dict[str, str]]:
        """The tools among `names` that a model gets, and why it does not get the others.

        lacks_raise: NotLoaded for one that another process may have, else it is one of the others.
        """
        specs: list[ToolSpec] = []
        withheld: dict[str, str] = {}
        for name in names:
            spec = delegate_spec(delegates) if name == DELEGATE else self._spec(name)
            if (why := self._tools.withheld(name)) is not None:
                withheld[name] = why
            elif name == DELEGATE and not delegates:
                withheld[name] = "there is no other agent to ask"
            elif spec is None and self._tools.missing(name):
                lacks = NotLoaded(name)
                if lacks_raise:
                    raise lacks
                withheld[name] = lacks.message
            elif spec is None:
                known = self._tools.known() or ()
                raise UsageError(f"no tool {show(name)}{'' if name in known else did_you_mean(name, known)}")
            else:
                specs.append(spec)
        return tuple(specs), withheld

    def _spec(self, name: str) -> ToolSpec | None:
        """What a model is told of a tool; None while it is withheld, or nowhere."""
        return None if self._tools.withheld(name) is not None else self._tools.spec(name)

    def _model_part(self, entry: ModelEntry, changes: Changes) -> dict[str, Any]:
        if changes.model and self._defaults.supported and changes.model not in self._defaults.supported:
            raise UsageError(
                f"no supported model {show(changes.model)}{did_you_mean(changes.model, self._defaults.supported)}"
            )
        return {
            "model": changes.model or entry.llm_model or self._defaults.model,
            "temperature": entry.temperature if changes.temperature is None else changes.temperature,
            "top_p": entry.top_p if changes.top_p is None else changes.top_p,
            "max_tokens": changes.max_tokens or entry.max_tokens,
            "seed": changes.seed,
            "persona": changes.behavior or entry.behavior_template or "",
            "render": changes.render_policy or entry.render_policy,
        }

    def _instructions(self, setup: Setup, specs: Sequence[ToolSpec]) -> str:
        if not setup.persona:
            return PLAIN.format(agent=setup.agent)
        try:
            return self._personas.get(setup.persona).render(setup.agent, specs, setup.delegates)
        except ConfigError as error:
            if error.file:
                raise
            raise UsageError(error.message) from None

    async def _stored(self, resolved: _Resolved) -> Setup:
        """The setup with its bodies in the blob store, where they are put once: many setups differ in a seed only."""
        instructions = resolved.instructions.encode()
        specs = msgspec.json.encode(resolved.specs, order="sorted") if resolved.specs else b""
        refs = blob_ref(instructions) if instructions else None, blob_ref(specs) if specs else None
        if refs not in self._bodies:
            for body in filter(None, (instructions, specs)):
                await self._blobs.put(body)
            _keep(self._bodies, refs, (resolved.instructions, resolved.specs))
        return replace(resolved.setup, instructions=refs[0], specs=refs[1])

    async def _specs(self, ref: BlobRef) -> tuple[ToolSpec, ...]:
        try:
            return msgspec.json.decode(await self._blobs.get(ref), type=tuple[ToolSpec, ...])
        except msgspec.DecodeError as error:
            raise CorruptEntry(f"the tool specs {ref} cannot be read: {error}") from error

    def _decider(self, setup: Setup) -> Agent:
        factory = self._factories.get(setup.type)
        if factory is not None:
            return factory(setup)
        listed = self._listing.agents.get(setup.agent)
        if setup.type != RULE:
            raise UsageError(f"agent {setup.agent!r}: no type {show(setup.type)} is installed here")
        if listed is None or not isinstance(listed.entry, RuleAgentEntry):
            raise UsageError(f"agent {setup.agent!r} has no rules any more")
        return RuleAgent(listed.entry)


def _grant(spec: ToolSpec) -> ToolGrant:
    return ToolGrant(spec.name, spec.repeat, spec.requires_approval, spec.dedup_ttl_s, spec.milestone)


def _canonical(changes: Mapping[str, Any]) -> bytes:
    if not changes:
        return b""
    try:
        return msgspec.json.encode(dict(changes), order="deterministic")
    except (TypeError, ValueError) as error:
        raise UsageError(f"override: {error}") from None


def _keep(kept: dict[K, V], key: K, value: V) -> None:
    """Add to a bounded dict; its oldest goes."""
    if len(kept) >= KEPT_MAX:
        del kept[next(iter(kept))]
    kept[key] = value

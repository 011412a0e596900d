"""Doubles at the edge of the world: agents, tools, evaluators from functions; a clock by hand; ids from a counter."""

import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from p2engine.domain.decisions import Decision, Move, Say, ToolOutcome
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId, ConversationId, StackRef
from p2engine.domain.messages import ToolSpec, Usage
from p2engine.domain.setup import Budget, DedupPolicy, Repeat, Setup, ToolGrant
from p2engine.domain.verdicts import Subject, Verdict
from p2engine.errors import UsageError
from p2engine.ports import Agent, AgentView, ToolContext
from p2engine.ports.judging import NONE_KNOWN

Decide = Callable[[AgentView], Awaitable[Sequence[Move] | Decision | str]]
ToolBody = Callable[[Mapping[str, Any], ToolContext], Awaitable[ToolOutcome | str]]
Judged = Callable[[Subject], Awaitable[Verdict | float | None]]


class FunctionAgent:
    """An agent that is one function of what it sees: text, moves, or a whole decision."""

    def __init__(self, decide: Decide) -> None:
        self._decide = decide

    async def decide(self, view: AgentView) -> Decision:
        answer = await self._decide(view)
        if isinstance(answer, Decision):
            return answer
        moves = (Say(answer),) if isinstance(answer, str) else tuple(answer)
        return Decision(moves, Usage(model="scripted/function", tokens_in=10, tokens_out=5, cost_usd=0.0, offline=True))


class FixedRoster:
    """A roster of agents given as functions. Every agent may use `tools` and delegate to every other agent.

    takes: the JSON schemas of what the tools take, as models are told.
    """

    def __init__(
        self,
        agents: Mapping[str, Decide],
        tools: Mapping[str, Repeat] | None = None,
        *,
        dedup: DedupPolicy = "none",
        budget: Budget | None = None,
        approval: Sequence[str] = (),
        evaluations: Sequence[Evaluation] = (),
        takes: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._takes = dict(takes or {})
        self._agents = {AgentId(name): FunctionAgent(decide) for name, decide in agents.items()}
        self._setups = {
            name: Setup(
                agent=name,
                model="scripted/function",
                tools=tuple(ToolGrant(tool, repeat, tool in approval) for tool, repeat in (tools or {}).items()),
                delegates=tuple(other for other in self._agents if other != name),
                budget=budget or Budget(),
                dedup=dedup,
                evaluations=tuple(evaluations),
            )
            for name in self._agents
        }

    def agents(self) -> Sequence[AgentId]:
        return list(self._agents)

    async def setup(self, agent: AgentId, changes: Mapping[str, Any], *, stand_in: bool = False) -> Setup:
        if agent not in self._setups:
            raise UsageError(f"no agent {agent!r}")
        setup = self._setups[agent]
        if "tools" in changes:
            setup = replace(setup, tools=tuple(t for t in setup.tools if t.name in changes["tools"]))
        plain = {key: changes[key] for key in ("model", "temperature", "max_tokens", "seed", "book") if key in changes}
        if "evaluations" in changes:
            plain["evaluations"] = msgspec.convert(changes["evaluations"], tuple[Evaluation, ...])
        return replace(setup, **plain) if plain else setup

    def agent(self, setup: Setup) -> Agent:
        return self._agents[setup.agent]

    async def bodies(self, setup: Setup) -> tuple[str, tuple[ToolSpec, ...]]:
        return "", tuple(
            ToolSpec(name=grant.name, parameters=dict(self._takes.get(grant.name, {})), repeat=grant.repeat)
            for grant in setup.tools
        )


class FunctionTools:
    """Tools that are plain functions of their arguments and context. takes: the JSON schemas of what they take."""

    def __init__(
        self, tools: Mapping[str, ToolBody] | None = None, takes: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        self.tools = dict(tools or {})
        self._takes = dict(takes or {})

    def spec(self, name: str) -> ToolSpec | None:
        return ToolSpec(name=name, parameters=dict(self._takes.get(name, {}))) if name in self.tools else None

    async def __call__(self, name: str, arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome:
        outcome = await self.tools[name](arguments, ctx)
        return ToolOutcome(content=outcome) if isinstance(outcome, str) else outcome


class FunctionJudges:
    """Evaluators that are functions of a subject: a score, or a whole verdict. asked: how often each was.

    models: those that count as models.
    """

    def __init__(self, evaluators: Mapping[str, Judged], *, models: Collection[str] = ()) -> None:
        self.evaluators = dict(evaluators)
        self.models = models
        self.asked: Counter[str] = Counter()

    def has(self, evaluation: Evaluation) -> bool:
        return evaluation.evaluator in self.evaluators

    def key(self, evaluation: Evaluation, subject: Subject) -> str:
        lines = [(line.kind, line.name, line.text) for line in subject.transcript]
        return repr((evaluation.evaluator, evaluation.params, lines, subject.answer))

    def asks_model(self, evaluation: Evaluation) -> bool:
        return evaluation.evaluator in self.models

    async def __call__(
        self, evaluation: Evaluation, subject: Subject, known: Mapping[int, Verdict] = NONE_KNOWN
    ) -> Verdict:
        """One sample as it is; of several the first, with all of them as its parts."""
        numbers = range(evaluation.first, evaluation.first + evaluation.repeats)
        parts = [known.get(n) or await self._sample(evaluation.evaluator, replace(subject, repeat=n)) for n in numbers]
        scores = tuple(part.score for part in parts)
        return parts[0] if len(parts) == 1 else replace(parts[0], samples=scores, parts=tuple(parts))

    async def _sample(self, name: str, subject: Subject) -> Verdict:
        self.asked[name] += 1
        said = await self.evaluators[name](subject)
        if isinstance(said, Verdict):
            return said
        status = "undecided" if said is None else "scored"
        return Verdict(evaluator=name, version="1", subject=subject.event, score=said, status=status)  # type: ignore[arg-type]


class CountingIds:
    """Ids in a row, so that two equal runs mint equal ids."""

    def __init__(self) -> None:
        self._next = itertools.count(1)

    def branch(self) -> StackRef:
        return StackRef(f"{next(self._next):012x}")

    def conversation(self) -> ConversationId:
        return ConversationId(f"c{next(self._next):011x}")

    def fact(self) -> str:
        return f"f{next(self._next):011x}"


class ManualClock:
    """Time that passes when it is told to. `time` is Unix seconds."""

    def __init__(self, time: float = 1_000_000.0) -> None:
        self.time = time

    def now(self) -> float:
        return self.time

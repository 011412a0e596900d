"""What the tests judge, and what with: subjects, a bench of all built-in evaluators, models that are scripts."""

from collections.abc import Mapping, Sequence
from typing import Any

from p2engine.agents.patterns import compile_pattern
from p2engine.agents.templates import fill, template
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId, ConversationId, StackRef
from p2engine.domain.messages import ModelReply, ModelRequest, Usage
from p2engine.domain.setup import Spent
from p2engine.domain.states import Reason
from p2engine.domain.verdicts import Holding, Line, Subject, Verdict
from p2engine.evals.checks import built_in
from p2engine.evals.function import Declared
from p2engine.evals.registry import Registry
from p2engine.evals.running import Evaluators
from p2engine.ports import Model, OnText
from p2engine.tools import json_types
from p2engine.tools.threads import Threads

JOKES = "- Funny? (0.6)\n- Creative/original? (0.3)\n- Followed instructions? (0.1)"

TRANSCRIPT = (
    Line(kind="user", text="What is the weather in Paris?"),
    Line(kind="call", name="get_weather", arguments={"location": "Paris", "days": 2}),
    Line(kind="result", name="get_weather", text='{"temperature": 22}'),
    Line(kind="assistant", text="It is 22 °C in Paris."),
)


def subject(
    answer: str | None = None,
    *,
    transcript: Sequence[Line] = TRANSCRIPT,
    reason: Reason | None = "answered",
    steps: int = 3,
    holdings: Mapping[str, Holding] | None = None,
    params: Mapping[str, Any] | None = None,
) -> Subject:
    """A judged turn. answer: said last, in place of the usual one."""
    lines = tuple(transcript) if answer is None else (*transcript[:-1], Line(kind="assistant", text=answer))
    said = [line.text for line in lines if line.kind == "assistant"]
    return Subject(
        event="ref:7",
        conversation=ConversationId("c-demo"),
        ref=StackRef("ref"),
        agent=AgentId("alpha"),
        transcript=lines,
        answer=said[-1] if said else "",
        reason=reason,
        spent=Spent(steps=steps),
        params=params or {},
        holdings=holdings or {},
    )


def filled(text: str, values: Mapping[str, Any]) -> str:
    return fill(template(text), **values)


def registry(*more: Declared) -> Registry:
    """All that comes with P2Engine, and these of a project."""
    made = built_in(fill=filled, compile_pattern=compile_pattern, validator=json_types.validator)
    assert made.exchange(more) == ()
    return made


class Says:
    """A model double that answers with one thing after the other, the last one for ever. `asked` is what it heard."""

    def __init__(self, *answers: str | BaseException, offline: bool = False) -> None:
        self.answers = answers
        self.asked: list[ModelRequest] = []
        self._offline = offline

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReply:
        self.asked.append(request)
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if isinstance(answer, BaseException):
            raise answer
        usage = Usage(model="gpt-4o-2024", tokens_in=100, tokens_out=10, cost_usd=0.01, offline=self._offline)
        return ModelReply(text=answer, usage=usage)


def judges(model: Model | None = None, *more: Declared, **options: Any) -> Evaluators:
    return Evaluators(registry(*more), model or Says("no"), Threads(), **options)


async def check(name: str, judged: Subject, **params: Any) -> Verdict:
    """What a built-in check says."""
    return await judges()(Evaluation(evaluator=name, params=params), judged)

"""Evaluators that ask a model: what they say to it, and what is made of its answer. Knows the port `Model`."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from p2engine.domain.messages import Fragment, Message, ModelReply, ModelRequest, fragment
from p2engine.domain.setup import Spent
from p2engine.domain.verdicts import Subject, Verdict
from p2engine.errors import EffectError, ModelError
from p2engine.evals.doors import Doors
from p2engine.evals.parsing import judgement
from p2engine.evals.record import record
from p2engine.evals.shaping import Result, plain, shaped
from p2engine.ports import Model

REPAIRS_MAX: Final = 2  # how often a judge is asked again whose answer is no verdict
QUOTED_CHARS_MAX: Final = 20_000  # of such an answer, when it is asked again

_TAKES_NO_SCHEMA: Final = frozenset({400, 404, 415, 422, 501})  # how providers refuse a request that asks for one

STAND_IN: Final = "no judge answered: the offline stand-in never judges"

Said = Mapping[str, Any] | Message
"""One message: `{"role": "system", "content": "…"}`, or a Message."""


class LLMEvaluator:
    """Asks a model for a verdict. Write `build_messages`, and `parse` where the answer is no JSON with a score.

        @evaluator(id="domain_expert", version="1.0")
        class DomainExpert(LLMEvaluator):
            model = "openai/gpt-4o"

            def build_messages(self, subject):
                return [{"role": "system", "content": "You are a judge …"}, {"role": "user", "content": subject.answer}]

    What was judged is data that may speak to the model: quote it as such, with `self.record(subject)`.
    model, temperature: what a verdict is asked with, unless the evaluation's params say otherwise. The model itself is
    handed in when it runs. No verdict comes of what the offline stand-in says.
    """

    model: str = "openai/gpt-4o"
    temperature: float | None = None
    max_tokens: int | None = None

    def build_messages(self, subject: Subject) -> Sequence[Said]:
        """What the model is asked. Called in a thread."""
        raise NotImplementedError(f"{type(self).__name__} needs build_messages(self, subject)")

    def record(self, subject: Subject) -> str:
        """What was said and done, quoted: lines of JSON in a fence that nothing inside can close."""
        return record(subject).text

    def answer_schema(self, subject: Subject) -> dict[str, Any] | None:
        """The JSON schema that answers shall have, for models that keep to one; None: none is asked for."""
        return None

    def parse(self, text: str, subject: Subject) -> Result:
        """What the answer means; as it stands, the JSON in it: `score`, `comment`, and any other number a metric.

        A ValueError or KeyError makes the model be asked again with its words, twice at most; then it is undecided.
        Called in a thread.
        """
        read = judgement(text, told(subject))
        metrics = {name: value for name, value in read.numbers.items() if not isinstance(value, str)}
        return {"score": read.score, "comment": read.comment, "metrics": metrics}


def model_of(evaluator: LLMEvaluator | type[LLMEvaluator], params: Mapping[str, Any]) -> str:
    """The model that is asked under these params."""
    return str(params.get("model") or evaluator.model)


def temperature_of(evaluator: LLMEvaluator | type[LLMEvaluator], params: Mapping[str, Any]) -> float | None:
    """The temperature that is asked for under these params."""
    given = params.get("temperature")
    return evaluator.temperature if given is None else float(given)


async def ask(evaluator: LLMEvaluator, id: str, version: str, subject: Subject, doors: Doors) -> Verdict:  # noqa: A002
    """Ask until there is a verdict, REPAIRS_MAX times more at most. Raises what the evaluator's own code raises.

    Of a turn that failed before it had an answer nobody is asked.
    """
    if subject.reason not in (None, "answered") and not subject.answer:
        why = (
            f"the turn ended without an answer: {': '.join(word for word in (subject.reason, subject.detail) if word)}"
        )
        return Verdict(evaluator=id, version=version, subject=subject.event, status="undecided", comment=why)
    instructions, fragments = written(await doors.run(partial(evaluator.build_messages, subject)))
    request = ModelRequest(
        model=model_of(evaluator, subject.params),
        instructions=instructions,
        temperature=temperature_of(evaluator, subject.params),
        max_tokens=evaluator.max_tokens,
        answer_schema=evaluator.answer_schema(subject),
        seed=subject.repeat or None,  # a sample of its own, also to a cache on the way that knows requests by content
        agent=id,
        conversation=subject.conversation,
    )
    verdict = Verdict(evaluator=id, version=version, subject=subject.event, status="undecided")
    spent, why = Spent(), ""
    for _ in range(REPAIRS_MAX + 1):
        try:
            request = msgspec.structs.replace(request, fragments=tuple(fragments))
            reply, request = await _answer(doors.model, request)
        except EffectError as error:
            return msgspec.structs.replace(verdict, status="error", comment=str(error), spent=spent)
        if reply.usage.offline:  # nobody was asked, so nothing was spent
            return msgspec.structs.replace(verdict, model=reply.usage.model, comment=STAND_IN)
        spent = spent.plus(reply.usage.spent)
        told_by = {"model": reply.usage.model, "provider": reply.usage.provider, "spent": spent}
        verdict = msgspec.structs.replace(verdict, **told_by)
        try:
            result = await doors.run(partial(evaluator.parse, reply.text, subject))
            found = shaped(result, id, version, subject)
        except (ValueError, LookupError) as error:
            why = _why(error)
            fragments = _again(fragments, reply.text, why)
            continue
        return msgspec.structs.replace(found, **told_by)
    return msgspec.structs.replace(verdict, comment=f"no verdict in {REPAIRS_MAX + 1} answers: {why}")


async def _answer(model: Model, request: ModelRequest) -> tuple[ModelReply, ModelRequest]:
    """The answer, and the request it was given to: who takes no schema is asked without one. Raises ModelError."""
    try:
        return await model.complete(request), request
    except ModelError as error:
        if request.answer_schema is None or error.status not in _TAKES_NO_SCHEMA:
            raise
    request = msgspec.structs.replace(request, answer_schema=None)
    return await model.complete(request), request


def told(subject: Subject) -> str:
    """Everything that others wrote of what is judged."""
    lines = [line.text for line in subject.transcript]
    arguments = [str(value) for line in subject.transcript for value in line.arguments.values()]
    return "\n".join((*lines, *arguments, subject.answer))


def written(messages: Sequence[Said]) -> tuple[str, list[Fragment]]:
    """Messages as a request has them: what the system says first, then the rest. Raises TypeError."""
    said = [_message(each) for each in messages]
    lead = 0
    while lead < len(said) and said[lead].role == "system":
        lead += 1
    fragments: list[Fragment] = []
    for message in said[lead:]:
        fragments.append(fragment(message, fragments[-1].digest if fragments else b""))
    if not fragments:
        raise TypeError("build_messages returned no message of a user")
    return "\n\n".join(message.text for message in said[:lead]), fragments


def _message(given: Said) -> Message:
    if isinstance(given, Message):
        return given
    match given:
        case {"role": "system" | "user" | "assistant" as role, "content": str(content)}:
            return Message(role=role, text=content)
    raise TypeError(f'a message is {{"role": "system" or "user" or "assistant", "content": TEXT}}, not {given!r:.200}')


def _again(fragments: list[Fragment], answer: str, why: str) -> list[Fragment]:
    mine = fragment(
        Message(role="assistant", text=plain(answer, QUOTED_CHARS_MAX) or "(nothing)"), fragments[-1].digest
    )
    words = f"That is no verdict: {why}. Answer again, with nothing but one JSON object as you were told."
    return [*fragments, mine, fragment(Message(role="user", text=words), mine.digest)]


def _why(error: Exception) -> str:
    said = f"{error.args[0]} is missing" if isinstance(error, KeyError) and error.args else str(error)
    return next(iter(said.splitlines()), "")[:300] or type(error).__name__

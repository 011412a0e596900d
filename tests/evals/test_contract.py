"""The judge, a check, and evaluators of a project are Evaluators."""

import asyncio
from typing import Any

import pytest

from p2engine.domain.verdicts import Subject, Verdict
from p2engine.evals.doors import Doors
from p2engine.evals.function import Declared
from p2engine.evals.llm import LLMEvaluator
from p2engine.ports import Evaluator
from p2engine.testing.contracts import EvaluatorContract
from tests.evals.subjects import JOKES, Says, registry, subject


async def in_a_thread(call: Any) -> Any:
    return await asyncio.to_thread(call)


def doors(*answers: str) -> Doors:
    return Doors(Says(*(answers or ('{"score": 0.7, "comment": "fine"}',))), in_a_thread)


class TestJudge(EvaluatorContract):
    """`gpt4_judge`, with a model double."""

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return registry().find("gpt4_judge").bind(doors())

    @pytest.fixture
    def subject(self) -> Subject:
        return subject(params={"rubric": JOKES})


class TestCheck(EvaluatorContract):
    """`contains`."""

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return registry().find("contains").bind(doors())

    @pytest.fixture
    def subject(self) -> Subject:
        return subject(params={"value": "Paris"})


class TestPython(EvaluatorContract):
    """`python`, which asks a plain function of a project."""

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        def brief(subject: Subject) -> float:
            return 1 / (1 + len(subject.answer))

        return registry(Declared(brief, id="python:brief", version="1")).find("python").bind(doors())

    @pytest.fixture
    def subject(self) -> Subject:
        return subject(params={"value": "brief"})


class OfAProject(EvaluatorContract):
    """A declared evaluator; a subclass says which."""

    body: Any = None

    @pytest.fixture
    def evaluator(self) -> Evaluator:
        return Declared(self.body, id="mine", version="1.0").bind(doors())

    @pytest.fixture
    def subject(self) -> Subject:
        return subject()


def said(subject: Subject) -> bool:
    return bool(subject.answer)


async def awaited(subject: Subject) -> dict[str, Any]:
    return {"score": 0.5, "label": "meh", "chars": len(subject.answer)}


class Own:
    async def evaluate(self, subject: Subject) -> Verdict:
        return Verdict(evaluator="another", version="9", subject="elsewhere", score=0.25, metrics={"n": 3})


class Asks(LLMEvaluator):
    def build_messages(self, subject: Subject) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.record(subject)}]


class TestFunction(OfAProject):
    """A `def`."""

    body = staticmethod(said)


class TestAsyncFunction(OfAProject):
    """An `async def`."""

    body = staticmethod(awaited)


class TestClass(OfAProject):
    """A class with `evaluate`, whose verdict names somebody else."""

    body = Own


class TestLLMEvaluator(OfAProject):
    """A subclass of LLMEvaluator."""

    body = Asks


del OfAProject

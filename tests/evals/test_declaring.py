"""The decorator, and the registry: what may be declared, and which of several is meant."""

import inspect
import re
from typing import Any

import pytest

import p2engine
from p2engine import LLMEvaluator, Subject, Verdict, evaluator
from p2engine.domain.evaluation import Evaluation
from p2engine.errors import ConfigError, UsageError
from p2engine.evals.function import Declared, declared_by
from p2engine.evals.registry import Registry, version_key
from tests.evals.subjects import registry


def judged(subject: Subject) -> float:
    """Say it is good."""
    return 1.0


def declared(id: str, version: str = "1") -> Declared:  # noqa: A002
    return Declared(judged, id=id, version=version)


def test_what_is_decorated_stays_as_it_is() -> None:
    """A function can be called, a class made; both carry their name, and a subclass carries none."""

    @evaluator(id="good", version="1.0")
    def good(subject: Subject) -> float:
        """Is it good? Yes."""
        return 1.0

    @evaluator("expert")
    class Expert(LLMEvaluator):
        def build_messages(self, payload: Subject) -> list[Any]:
            return []

    class Other(Expert):
        pass

    found = declared_by(good)
    assert found is not None
    assert (found.name, found.summary, found.asks_model) == ("good@1.0", "Is it good? Yes.", False)
    assert found.source.rpartition(":")[0].endswith("test_declaring.py")
    assert declared_by(Expert) is not None
    assert isinstance(Expert(), LLMEvaluator)
    assert declared_by(Other) is None
    assert good(None) == 1.0  # type: ignore[arg-type]


def test_the_names_are_public() -> None:
    """What a project's files import stands in the package."""
    assert {"evaluator", "LLMEvaluator", "Verdict", "Subject"} <= set(p2engine.__all__)
    assert Verdict.__module__ == "p2engine.domain.verdicts"


@pytest.mark.parametrize("id", ["", "two words", "a@1", "-a", "x" * 65, "ü"])
def test_an_id_that_cannot_be_named(id: str) -> None:  # noqa: A002
    """Refused where it is declared, with file and line."""
    with pytest.raises(ConfigError, match="an id has") as caught:
        declared(id)
    assert caught.value.file is not None
    assert caught.value.line is not None


@pytest.mark.parametrize("version", ["", "1 0", "1@2", "x" * 33])
def test_a_version_that_cannot_be_named(version: str) -> None:
    """Refused likewise."""
    with pytest.raises(ConfigError, match="a version has"):
        declared("a", version)


def test_what_is_no_evaluator_is_refused() -> None:
    """Numbers, a class without `evaluate`, an LLMEvaluator without messages, the decorator without its brackets."""
    with pytest.raises(TypeError, match="a class or a function"):
        evaluator("a")(3)
    with pytest.raises(ConfigError, match=r"evaluate\(self, subject\)"):
        evaluator("a")(type("Empty", (), {}))
    with pytest.raises(ConfigError, match="needs build_messages"):
        evaluator("a")(type("Silent", (LLMEvaluator,), {}))
    with pytest.raises(TypeError, match=r'write @evaluator\(id="NAME"'):
        evaluator(judged)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "ascending",
    [
        ["1", "2", "10"],
        ["1.9", "1.10", "2.0"],
        ["2.0-rc1", "2.0", "2.0.1"],
        ["v1", "v2"],
        ["2024-05-13", "2024-11-20"],
        ["1.0a", "1.0b", "1.0"],
    ],
)
def test_versions_are_ordered_as_people_mean_them(ascending: list[str]) -> None:
    """Numbers by size, a candidate before its release."""
    assert sorted({*ascending}, key=version_key) == ascending


def test_several_versions_live_side_by_side() -> None:
    """The newest is meant where none is said; `ID@VERSION` says one."""
    all_three = Registry()
    all_three.exchange([declared("a", version) for version in ("1.9", "1.10", "1.2")])
    newest = all_three.get("a")
    assert newest is not None
    assert newest.version == "1.10"
    assert all_three.find("a@1.2").version == all_three.find("a", "1.2").version == "1.2"
    assert [each.version for each in all_three.all()] == ["1.10", "1.9", "1.2"]
    with pytest.raises(UsageError, match=r"no version '3'; there is 1\.2, 1\.9, 1\.10"):
        all_three.find("a", "3")


def test_failure_27_an_unknown_evaluator_is_named_with_the_nearest() -> None:
    """And with the reason why it may not be there."""
    with pytest.raises(UsageError, match=r"no evaluator 'gpt4_jugde' \(did you mean gpt4_judge\?\)"):
        registry().find("gpt4_jugde")
    partial = Registry([declared("a")], partial="the project's own evaluators are not loaded")
    with pytest.raises(UsageError) as caught:
        partial.check(Evaluation(evaluator="b"))
    assert caught.value.hint == "the project's own evaluators are not loaded"


def test_a_name_is_taken_once() -> None:
    """A version twice, or a built-in name: the second is named and left out, the others are in."""
    bench = registry()
    refused = bench.exchange([declared("mine"), declared("mine"), declared("gpt4_judge", "2"), declared("other")])
    assert len(refused) == 2
    assert "version '1' is there twice" in str(refused[0])
    assert "the name is taken by" in str(refused[1])
    assert {"mine", "other"} <= set(bench.ids())
    assert bench.find("gpt4_judge").version == "1"
    assert bench.exchange([]) == ()
    assert "mine" not in bench.ids()


def test_a_function_for_python_alone_is_not_listed() -> None:
    """Functions that nobody declared have no name of their own."""
    bench = registry(Declared(judged, id="python:judged", version="1"))
    assert not any(name.startswith("python:") for name in bench.ids())
    assert bench.get("python:judged") is not None


def test_no_source_is_parsed_until_somebody_asks_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start has every built-in evaluator; where one is written is looked for when it is shown."""

    def parsed(_: object) -> None:
        raise AssertionError("a file was parsed")

    with monkeypatch.context() as patched:
        patched.setattr(inspect, "getsourcelines", parsed)
        found = registry().find("gpt4_judge")
    assert re.fullmatch(r".*judge\.py:\d+", found.source)

"""The deterministic checks: what passes, what fails and why, and which params they refuse."""

from typing import Any

import pytest

from p2engine.domain.evaluation import Evaluation
from p2engine.domain.verdicts import Holding, Line, Subject
from p2engine.errors import UsageError
from p2engine.evals.answers import numbers_in
from p2engine.evals.checks import check_names
from p2engine.evals.function import Declared
from tests.evals.subjects import TRANSCRIPT, check, judges, registry, subject

WALLETS = {"beta": Holding("112.5", "12.50", "0"), "alpha": Holding("87.5", "0", "12.5")}
FAILED = (*TRANSCRIPT[:2], Line(kind="result", name="get_weather", text="no such city", status="error"), TRANSCRIPT[-1])
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("name", "params", "judged", "passes"),
    [
        ("contains", {"value": "paris"}, subject(), True),
        ("contains", {"value": "paris", "case": True}, subject(), False),
        ("contains", {"value": ["Paris", "22"]}, subject(), True),
        ("contains", {"value": ["Paris", "London"]}, subject(), False),
        ("contains", {"value": ["Paris", "London"], "any": True}, subject(), True),
        ("contains", {"value": 22}, subject(), True),
        ("contains", {"expected": "Paris", "metric": "score"}, subject(), True),
        ("contains", {"value": "Paris"}, subject(""), False),
        ("equals", {"value": "It is  22 °C in Paris."}, subject(), True),
        ("equals", {"value": "it is 22 °c in paris."}, subject(), False),
        ("equals", {"value": "it is 22 °c in paris.", "case": False}, subject(), True),
        ("equals", {"value": 42}, subject(" 42.0 "), True),
        ("equals", {"value": 42}, subject("It is 42."), False),
        ("equals", {"value": {"a": [1, 2]}}, subject('```json\n{"a": [1, 2]}\n```'), True),
        ("equals", {"value": [1]}, subject("[1, 2]"), False),
        ("equals", {"value": True}, subject("true"), True),
        ("equals", {"value": True}, subject("1"), False),
        ("regex", {"value": r"\d+ °C"}, subject(), True),
        ("regex", {"value": r"^\d+"}, subject(), False),
        ("json_schema", {"value": SCHEMA}, subject('{"n": 3}'), True),
        ("json_schema", SCHEMA, subject('Here: {"n": 3}'), True),
        ("json_schema", {"schema": SCHEMA}, subject('{"n": "3"}'), False),
        ("json_schema", {"value": SCHEMA}, subject('{"m": 3}'), False),
        ("json_schema", {"value": SCHEMA}, subject("no JSON"), False),
        ("numeric", {"value": 22}, subject(), True),
        ("numeric", {"value": 20, "tolerance": 2}, subject(), True),
        ("numeric", {"value": 20, "tolerance": 1.9}, subject(), False),
        ("numeric", {"value": 21, "relative": 0.05}, subject(), True),
        ("numeric", {"value": "1234.5"}, subject("In 2024 it was 1,234.5 in all."), True),
        ("numeric", {"value": 2024}, subject("In 2024 it was 1,234.5 in all."), False),
        ("numeric", {"value": 2024, "which": "first"}, subject("In 2024 it was 1,234.5 in all."), True),
        ("numeric", {"value": 2024, "which": "any"}, subject("It was 1,234.5 in 2024, all told 3."), True),
        ("numeric", {"value": 0.1}, subject("0.1000000000000000055"), True),
        ("numeric", {"value": 5}, subject("none"), False),
        ("tool_called", {"value": "get_weather"}, subject(), True),
        ("tool_called", {"tool": "get_weather", "arguments": {"location": "PARIS", "days": "2"}}, subject(), True),
        ("tool_called", {"tool": "get_weather", "arguments": {"location": "London"}}, subject(), False),
        ("tool_called", {"tool": "get_weather", "times": 2}, subject(), False),
        ("tool_called", {"tool": "get_weather", "times": 1, "ok": True}, subject(), True),
        ("tool_called", {"tool": "get_weather", "ok": True}, subject(transcript=FAILED), False),
        ("tool_called", {"value": "delegate"}, subject(), False),
        ("tool_not_called", {"value": "delegate"}, subject(), True),
        ("tool_not_called", {"value": "get_weather"}, subject(), False),
        ("ledger_received", {"agent": "beta", "amount": 12.5}, subject(holdings=WALLETS), True),
        ("ledger_received", {"agent": "beta", "amount": "12"}, subject(holdings=WALLETS), False),
        ("ledger_received", {"agent": "beta", "at_least": 10, "at_most": 20}, subject(holdings=WALLETS), True),
        ("ledger_received", {"agent": "alpha", "amount": 0}, subject(holdings=WALLETS), True),
        ("ledger_received", {"agent": "gamma", "amount": 1}, subject(holdings=WALLETS), False),
        ("ledger_received", {"agent": "beta", "amount": 12.5}, subject(), None),
        ("balance", {"agent": "beta", "at_least": 112.5}, subject(holdings=WALLETS), True),
        ("balance", {"agent": "alpha", "value": "100"}, subject(holdings=WALLETS), False),
        ("no_error", {}, subject(), True),
        ("no_error", {}, subject(transcript=FAILED), False),
        ("no_error", {}, subject(reason="budget"), False),
        ("no_error", {}, subject(reason=None), True),
        ("max_steps", {"value": 3}, subject(steps=3), True),
        ("max_steps", {"value": 3}, subject(steps=4), False),
    ],
)
async def test_a_check_passes_or_fails_and_says_why(
    name: str, params: dict[str, Any], judged: Subject, passes: bool | None
) -> None:
    """1.0 or 0.0 with the reason; without a ledger nothing is said of wallets."""
    registry().check(Evaluation(evaluator=name, params=params))
    verdict = await check(name, judged, **params)
    assert verdict.status == ("undecided" if passes is None else "scored")
    assert verdict.score == (None if passes is None else float(passes)), verdict.comment
    assert verdict.label == {True: "pass", False: "fail", None: ""}[passes]
    assert verdict.comment
    assert (verdict.evaluator, verdict.version, verdict.spent.tokens) == (name, "1", 0)


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("contains", {}, "contains: the value to compare with is missing"),
        ("contains", {"value": ""}, "contains: the value is empty"),
        ("contains", {"value": True}, "the value is a text, not True"),
        ("contains", {"value": []}, "an empty list"),
        ("contains", {"value": "x", "cse": True}, "takes no 'cse' (did you mean case?)"),
        ("contains", {"value": "x", "case": 1}, "case is true or false"),
        ("regex", {"value": "("}, "not a regular expression"),
        ("regex", {"value": "(a+)+"}, "a repeat inside a repeat"),
        ("json_schema", {}, "expected a JSON schema"),
        ("json_schema", {"value": {"type": "thing"}}, "has type 'thing'"),
        ("json_schema", {"value": {"patternProperties": {}}}, "is not checked here"),
        ("numeric", {"value": "many"}, "the value is a number"),
        ("numeric", {"value": float("nan")}, "the value is a number"),
        ("numeric", {"value": 1, "tolerance": -1}, "not negative"),
        ("numeric", {"value": 1, "which": "best"}, "first, last or any"),
        ("tool_called", {}, "is missing"),
        ("tool_called", {"value": "x", "arguments": [1]}, "arguments are a mapping"),
        ("tool_called", {"value": "x", "times": 1.5}, "times is a whole number"),
        ("ledger_received", {"amount": 5}, "agent is a text"),
        ("ledger_received", {"agent": "beta"}, "needs amount, at_least or at_most"),
        ("balance", {"agent": "beta", "amount": "1e3"}, "amount: expected an amount"),
        ("no_error", {"value": 3}, "takes nothing"),
        ("max_steps", {"value": -1}, "a whole number"),
        ("python", {}, "is missing"),
        ("python", {"value": "nobody"}, "no function 'nobody'"),
        ("python", {"value": "python"}, "no function 'python'"),
    ],
)
async def test_wrong_params_are_refused_at_planning(name: str, params: dict[str, Any], said: str) -> None:
    """One line each; asked all the same, the verdict is an error with that line."""
    with pytest.raises(UsageError) as caught:
        registry().check(Evaluation(evaluator=name, params=params))
    assert said in str(caught.value)
    if "takes no '" not in said:
        verdict = await check(name, subject(holdings=WALLETS), **params)
        assert (verdict.status, verdict.score) == ("error", None)
        assert said in verdict.comment


def test_params_that_are_still_templates_are_left_for_later() -> None:
    """What a task fills in is checked when it is filled in."""
    registry().check(Evaluation(evaluator="numeric", params={"value": "{{ expected }}"}))
    registry().check(Evaluation(evaluator="balance", params={"agent": "beta", "amount": "{{ expected['n'] }}"}))
    with pytest.raises(UsageError, match="takes no"):
        registry().check(Evaluation(evaluator="numeric", params={"value": "{{ expected }}", "x": 1}))


async def test_python_asks_a_function_of_the_project() -> None:
    """Declared or not, by its name; the other params are its own; another that is named so wins over none."""

    def words(subject: Subject) -> dict[str, Any]:
        return {"score": 0.5, "words": len(subject.answer.split()), "most": subject.params["most"]}

    bench = judges(None, Declared(words, id="python:words", version="1"), Declared(words, id="own", version="2"))
    keys = set()
    for name in ("words", "own"):
        evaluation = Evaluation(evaluator="python", params={"value": name, "most": 9})
        bench.registry.check(evaluation)
        verdict = await bench(evaluation, subject())
        assert (verdict.evaluator, verdict.score) == ("python", 0.5)
        assert verdict.metrics == {"words": 6.0, "most": 9.0}
        keys.add(bench.key(evaluation, subject()))
    assert len(keys) == 2


def test_the_names_of_the_contract() -> None:
    """Every check that is promised is there, and needs no model."""
    assert set(check_names(registry())) == {
        "contains",
        "equals",
        "regex",
        "json_schema",
        "numeric",
        "tool_called",
        "tool_not_called",
        "ledger_received",
        "balance",
        "no_error",
        "max_steps",
        "python",
    }


def test_numbers_are_found_in_prose() -> None:
    """With signs, thousands and exponents; not within words or versions."""
    assert numbers_in("-3, then 1,234,567.5 or 2e3; not gpt-4o, v1.2.3 or 10th. −7 and .5!") == [
        -3,
        1234567.5,
        2000,
        -7,
        0.5,
    ]

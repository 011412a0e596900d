"""`eval …`, `conversation score` and `promote`: what is judged by hand is kept, ranked, compared and calibrated."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from p2engine.cli.eval_compare import _lone, _signed
from p2engine.testing.server import Answer, OpenAIServer, Reply
from tests.cli.project import Project, Run

EVALS = """\
from p2engine import evaluator

@evaluator(id="short", version="1.0")
def short(subject):
    return len(subject.answer) < 20

def words(subject):
    return {"score": 0.5, "words": len(subject.answer.split())}
"""


@pytest.fixture
def chatted(project: Project, here: Run) -> Project:
    """A project with evaluators of its own, and a conversation."""
    project.write("evals/own.py", EVALS)
    assert here("chat", "with", "agent_alpha", "--name", "one", "-m", "What's the weather in Paris?").status == 0
    return project


@pytest.fixture
def judge(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    """A model that scores 0.9 where the answer names Paris, and 0.2 elsewhere; as an agent it says where it is."""

    def answer(body: dict[str, Any]) -> Answer:
        system, last = body["messages"][0]["content"], body["messages"][-1]["content"]
        if not system.startswith("You are a judge."):
            return Reply(text=f"I am in {last.split()[-1]}.")
        if "which of two" in system:
            return '{"winner": "A", "comment": "it stands in front"}'
        score = 0.9 if "in Paris" in last else 0.2
        return Reply(text=json.dumps({"score": score, "comment": "so it is"}), model="gpt-4o-2024")

    with OpenAIServer(answer) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "k")
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        yield server


def test_the_evaluators_are_listed(chatted: Project, here: Run) -> None:
    """Built-in ones and the project's, and whether they ask a model; without its code only the former."""
    rows = {row["id"]: row for row in here("eval", "list", "--json").document}
    assert rows["gpt4_judge"]["asks_model"] is True
    assert (rows["short"]["version"], rows["short"]["built_in"], rows["short"]["newest"]) == ("1.0", False, True)
    assert rows["short"]["source"].endswith("own.py:3")
    assert "words" not in rows
    bare = {row["id"] for row in here("eval", "list", "--json", "--no-project-code").document}
    assert {"gpt4_judge", "contains"} <= bare
    assert "short" not in bare


def test_a_verdict_by_hand_is_kept(chatted: Project, here: Run) -> None:
    """It has its reason, is found again instead of asked again, and stands in the log with what caused it."""
    words = ("eval", "run", "contains", "one", "--param", "value=[Paris, 22]", "--json")
    first, second = here(*words).document, here(*words).document
    assert (first["score"], first["label"], first["status"], first["cached"]) == (1.0, "pass", "scored", False)
    assert {**first, "cached": True} == second
    assert (first["evaluator"], first["version"], first["conversation"], first["branch"]) == (
        "contains",
        "1",
        "one",
        "main",
    )
    assert here(*words, "--again").document["cached"] is False
    assert len(here("eval", "top", "one", "--json").document) == 1
    assert here("eval", "run", "python", "one", "--param", "value=words", "--json").document["metrics"] == {
        "words": 10.0
    }


def test_offline_no_judge_judges(chatted: Project, here: Run) -> None:
    """A dash and the reason, exit 0; checks score all the same; the table has no made-up number."""
    ran = here("eval", "run", "gpt4_judge", "one", "--rubric", "joke_quality")
    assert ran.status == 0
    assert ran.out.startswith("gpt4_judge@1: – (undecided)\n")
    assert "the offline stand-in never judges" in ran.out
    here("eval", "run", "short", "one")
    rows = here("eval", "top", "one", "--json").document
    assert [(row["rank"], row["evaluator"], row["value"]) for row in rows] == [
        (1, "short", 0.0),
        (2, "gpt4_judge", None),
    ]
    assert "– (undecided)" in here("eval", "top", "one").out


def test_a_judge_with_a_model(chatted: Project, judge: OpenAIServer, here: Run) -> None:
    """Score, model as returned, tokens; the rubric may stand in a file; the same is not paid for twice."""
    chatted.write("rubric.md", "```\n- Right? (0.5)\n- Short? (0.5)\n```\n")
    words = ("eval", "run", "gpt4_judge", "one", "--rubric", "@rubric.md", "--json")
    verdict = here(*words).document
    assert (verdict["score"], verdict["model"], verdict["comment"]) == (0.9, "gpt-4o-2024", "so it is")
    assert verdict["tokens"] > 0
    assert here(*words).document["cached"] is True
    assert len(judge.requests) == 1
    assert here(*words, "--model", "openai/gpt-5").document["cached"] is False
    assert judge.requests[-1].body["model"] == "gpt-5"


def test_only_the_samples_that_are_missing_are_asked_for(chatted: Project, judge: OpenAIServer, here: Run) -> None:
    """Three after one are two more, each a sample of its own; fewer than there are cost nothing; again asks for all."""
    words = ("eval", "run", "gpt4_judge", "one", "--rubric", "Is it warm?", "--json")
    one = here(*words).document
    three = here(*words, "--repeats", "3").document
    assert (three["samples"], three["score"], three["cached"]) == ([0.9, 0.9, 0.9], 0.9, False)
    assert [each.body.get("seed") for each in judge.requests] == [None, 1, 2]
    assert three["tokens"] > one["tokens"]  # the two that were asked for now
    fewer = here(*words, "--repeats", "2").document
    assert (fewer["samples"], fewer["cached"], len(judge.requests)) == ([0.9, 0.9, 0.9], True, 3)
    assert here(*words, "--again").document["samples"] is None
    assert len(judge.requests) == 4


def test_verdicts_on_other_terms_are_not_one_judge(chatted: Project, judge: OpenAIServer, here: Run) -> None:
    """By which rubric, model and temperature it was judged stands with the verdict, and tells it from others."""
    here("chat", "with", "agent_alpha", "--name", "two", "-m", "What's the weather in Oslo?")
    ways = (
        ("--rubric", "Is it warm?"),
        ("--rubric", "Is it cold?"),
        ("--param", "rubric=Is it cold?", "--param", "temperature=0.7"),
        ("--rubric", "joke_quality"),
        ("--rubric", "Is it cold?", "--model", "openai/gpt-5"),
    )
    terms = [here("eval", "run", "gpt4_judge", "one", *way, "--json").document["terms"] for way in ways]
    here("eval", "run", "gpt4_judge", "two", *ways[0])

    shown = [(each["rubric"], each["model"], each["temperature"]) for each in terms]
    assert shown == [
        ("'Is it warm?'", "openai/gpt-4o", 0.0),
        ("'Is it cold?'", "openai/gpt-4o", 0.0),
        ("'Is it cold?'", "openai/gpt-4o", 0.7),
        ("joke_quality", "openai/gpt-4o", 0.0),
        ("'Is it cold?'", "openai/gpt-5", 0.0),
    ]
    assert len({each["key"] for each in terms}) == 5
    assert (terms[0]["text"], len({each["prompt"] for each in terms[:3]})) == ("Is it warm?", 1)
    rows = here("eval", "diff", "one", "two", "--json").document["metrics"]
    sides = {row["terms"]: (row["a"]["n"], row["b"]["n"]) for row in rows if row["metric"] == "score"}
    assert sides == {each["words"]: (1, 1 if number == 0 else 0) for number, each in enumerate(terms)}
    ranked = here("eval", "top", "one").out
    assert all(each["words"] in ranked for each in terms)
    assert f"  on terms: 'Is it warm?', openai/gpt-4o, temperature 0, #{terms[0]['key']}" in (
        here("eval", "run", "gpt4_judge", "one", *ways[0]).out
    )


def test_branches_are_scored_and_the_best_is_promoted(project: Project, judge: OpenAIServer, here: Run) -> None:
    """The best first; promoting makes it current and says by which verdicts; a branch without an answer is named."""
    here("chat", "with", "agent_helper", "--name", "two", "-m", "go to Rome")
    here("conversation", "rewind", "two", "0", "--name", "empty")
    here("conversation", "checkout", "two", "main")
    here("conversation", "fork", "two", "-1", "paris")
    here("chat", "with", "agent_helper", "--name", "two", "--branch", "paris", "-m", "go to Paris")
    ran = here("conversation", "score", "two", "--rubric", "Be strict.", "--json")
    assert [(row["branch"], row["score"], row["current"]) for row in ran.document] == [
        ("paris", 0.9, False),
        ("main", 0.2, True),
    ]
    assert "nothing to judge on: empty" in ran.err
    promoted = here("conversation", "promote", "two", "paris", "--json").document
    assert (promoted["branch"], promoted["from"], promoted["verdicts"][0]["score"]) == ("paris", "main", 0.9)
    rows = here("conversation", "branches", "two", "--json").document
    assert [row["name"] for row in rows if row["current"]] == ["paris"]
    ranked = here("eval", "top", "two", "--json").document
    assert [(row["branch"], row["value"]) for row in ranked] == [("paris", 0.9), ("main", 0.2)]


def test_failure_32_custom_metrics_can_be_ranked_by(chatted: Project, here: Run) -> None:
    """Any metric of a verdict ranks; an unknown one is named with the nearest."""
    here("chat", "with", "agent_alpha", "--name", "two", "-m", "What's the weather in Paris and Tokyo?")
    for name in ("one", "two"):
        here("eval", "run", "python", name, "--param", "value=words")
        here("eval", "run", "short", name)
    (row,) = here("eval", "top", "two", "--metric", "words", "--json").document
    assert (row["metric"], row["evaluator"]) == ("words", "python")
    assert row["value"] > 10
    ran = here("eval", "top", "two", "--metric", "wrds")
    assert (ran.status, "did you mean words?" in ran.err) == (2, True)
    assert [row["evaluator"] for row in here("eval", "top", "two", "--evaluator", "short", "--json").document] == [
        "short"
    ]
    assert len(here("eval", "top", "two", "--k", "1", "--json").document) == 1


def test_two_conversations_side_by_side(chatted: Project, here: Run) -> None:
    """The means of each metric and the difference; one sample each decides nothing, and it is said."""
    here("chat", "with", "agent_alpha", "--name", "two", "-m", "What's the weather in Tokyo?")
    for name in ("one", "two"):
        here("eval", "run", "contains", name, "--param", "value=Paris")
    document = here("eval", "diff", "one", "two", "--json").document
    assert document["metrics"] == [
        {
            "evaluator": "contains@1",
            "terms": None,
            "metric": "score",
            "a": {"n": 1, "mean": 1.0},
            "b": {"n": 1, "mean": 0.0},
            "difference": -1.0,
        }
    ]
    assert document["preference"] is None
    ran = here("eval", "diff", "one", "two")
    assert "-1.000" in ran.out
    assert "one sample says nothing" in ran.err


def test_a_judge_that_prefers_what_stands_in_front_decides_nothing(
    chatted: Project, judge: OpenAIServer, here: Run
) -> None:
    """Asked in both orders, it named the first twice: undecided."""
    here("chat", "with", "agent_helper", "--name", "two", "-m", "go to Rome")
    preference = here("eval", "diff", "one", "two", "--rubric", "Be strict.", "--json").document["preference"]
    assert (preference["winner"], preference["status"]) == (None, "undecided")
    assert "changes with the order" in preference["comment"]
    told = here("eval", "diff", "one", "two", "--rubric", "Be strict.").out
    assert re.search(r"^  by gpt-4o\S*, [1-9][0-9]* tokens, \$0\.", told, re.MULTILINE)


def test_an_evaluator_is_calibrated_against_people(chatted: Project, here: Run) -> None:
    """Agreement, kappa, alpha and bias over what both decided; what is known is not asked again."""
    for name, city in (("two", "Tokyo"), ("three", "Paris"), ("four", "London")):
        here("chat", "with", "agent_alpha", "--name", name, "-m", f"What's the weather in {city}?")
    chatted.write("labels.csv", "conversation,label\none,good\ntwo,bad\nthree,good\nfour,good\n")
    chatted.write("evals/paris.py", "from p2engine import evaluator\n\n@evaluator(id='paris')\ndef p(subject):\n"
                  "    return 'Paris' in subject.answer\n")  # fmt: skip
    found = here("eval", "calibrate", "paris", "labels.csv", "--json").document
    assert (found["labelled"], found["n"], found["undecided"], found["agreement"]) == (4, 4, 0, 0.75)
    assert found["kappa"] == pytest.approx(0.5)
    assert (found["bias"], found["mean_absolute_error"]) == (-0.25, 0.25)
    assert [row["score"] for row in found["rows"]] == [1.0, 0.0, 1.0, 0.0]
    text = here("eval", "calibrate", "paris", "labels.csv").out
    assert "judged 4 of 4" in text
    assert "too few to say much" in text


def test_a_calibration_without_a_single_judgement_is_exit_1(chatted: Project, here: Run) -> None:
    """The errors are counted; one judgement among them is a result."""
    here("chat", "with", "agent_alpha", "--name", "two", "-m", "What's the weather in Tokyo?")
    chatted.write("evals/odd.py", "from p2engine import evaluator\n\n@evaluator(id='odd')\ndef odd(subject):\n"
                  "    return 7 if 'Paris' in subject.answer else 1\n")  # fmt: skip
    chatted.write("labels.csv", "conversation,label\none,good\n")
    none = here("eval", "calibrate", "odd", "labels.csv")
    assert (none.status, none.out.splitlines()[0]) == (1, "judged 0 of 1: 0 undecided, 1 errors")
    chatted.write("labels.csv", "conversation,label\none,good\ntwo,good\n")
    assert here("eval", "calibrate", "odd", "labels.csv").status == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("eval", "run", "gpt4_jugde", "one"), "did you mean gpt4_judge?"),
        (("eval", "run", "gpt4_judge@9", "one"), "has no version '9'; there is 1"),
        (("eval", "run", "gpt4_judge", "one"), "gpt4_judge needs a rubric"),
        (("eval", "run", "gpt4_judge", "one", "--rubric", "jok_quality"), "did you mean joke_quality?"),
        (("eval", "run", "gpt4_judge", "one", "--rubric", "@nowhere.md"), "nowhere.md: no such file"),
        (("eval", "run", "contains", "one", "--param", "valu"), "NAME=VALUE"),
        (("eval", "run", "contains", "one", "--param", "value=x", "--param", "cse=1"), "did you mean case?"),
        (("eval", "run", "short", "oen"), "no conversation 'oen'"),
        (("eval", "run", "short", "one", "--repeats", "0"), "--repeats"),
        (("eval", "top", "nothing"), "no conversation 'nothing'"),
        (("eval", "calibrate", "short", "labels.csv"), "labels.csv: no such file"),
        (("eval", "diff", "one", "nothing"), "no conversation 'nothing'"),
        (("conversation", "score", "one"), "gpt4_judge needs a rubric"),
        (("conversation", "promote", "one", "nowhere"), "no branch 'nowhere'"),
    ],
)
def test_failure_27_what_cannot_be_is_one_line(chatted: Project, here: Run, words: tuple[str, ...], said: str) -> None:
    """Exit 2, the nearest name, and no traceback."""
    ran = here(*words)
    assert ran.status == 2
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_a_label_that_is_no_known_word_is_an_error(chatted: Project, here: Run) -> None:
    """With file and line; nothing is judged and nothing dropped."""
    chatted.write("labels.csv", "conversation,label\none,splendid\n")
    ran = here("eval", "calibrate", "short", "labels.csv")
    assert ran.status == 2
    assert "labels.csv:2: no label 'splendid'" in ran.err


def test_what_rounds_to_nothing_has_no_minus() -> None:
    """Neither a bias nor a difference is shown as -0.000."""
    assert [_signed(value) for value in (-0.0001, -0.0, 0.0004, -0.25)] == ["+0.000", "+0.000", "+0.000", "-0.250"]


def test_only_what_stands_on_one_sample_is_warned_of() -> None:
    """Not a metric that one side does not have at all; where others have many samples, by name."""

    def row(metric: str, a: int, b: int) -> dict[str, Any]:
        gap = 0.1 if a and b else None
        return {"evaluator": "e@1", "metric": metric, "a": {"n": a}, "b": {"n": b}, "difference": gap}

    many, lone, absent = row("many", 54, 54), row("lone", 54, 1), row("absent", 54, 0)
    assert _lone([many, absent]) is None
    assert _lone([lone, absent]) == ""
    assert _lone([many, lone, absent]) == " (e@1 lone)"


def test_a_label_for_an_unknown_conversation_is_named_with_its_line(chatted: Project, here: Run) -> None:
    """File and line, and nothing was judged before."""
    chatted.write("labels.csv", "conversation,label\none,good\nnobody,good\n")
    ran = here("eval", "calibrate", "short", "labels.csv")
    assert ran.status == 2
    assert "labels.csv:3: no conversation 'nobody'" in ran.err
    assert here("eval", "top", "one", "--json").document == []


def test_an_evaluator_that_fails_is_exit_1(chatted: Project, here: Run) -> None:
    """The verdict is an error with its reason, and is kept."""
    chatted.write(
        "evals/bad.py", "from p2engine import evaluator\n\n@evaluator('bad')\ndef bad(subject):\n    return 7\n"
    )
    ran = here("eval", "run", "bad", "one", "--json")
    assert (ran.status, ran.document["status"], ran.document["score"]) == (1, "error", None)
    assert "the score is 7" in ran.document["comment"]


def test_a_project_file_with_an_old_import_is_named(chatted: Project, here: Run) -> None:
    """The others are loaded, and it is said what to write."""
    chatted.write("evals/old.py", "from infra.evals.registry import evaluator\n")
    ran = here("chat", "resume", "one", "-m", "hello")
    assert "write: from p2engine import evaluator, LLMEvaluator" in ran.err
    assert "short" in {row["id"] for row in here("eval", "list", "--json").document}


@pytest.mark.parametrize(
    "command",
    [("list",), ("run", "short", "one"), ("run", "nobody", "one"), ("calibrate", "short", "labels.csv")],
)
def test_what_could_not_be_loaded_is_said(command: tuple[str, ...], chatted: Project, here: Run) -> None:
    """A file that does not load, and one version that two files define, are named on standard error."""
    chatted.write("labels.csv", "conversation,score\none,1\n")
    chatted.write("evals/bad.py", "import nothing_of_that_name\n")
    chatted.write("evals/twice.py", EVALS)

    ran = here("eval", *command, "--json")

    assert "evals/bad.py:1: " in ran.err
    assert "version '1.0' is there twice" in ran.err
    assert "there twice" not in ran.out


def test_config_check_looks_at_evaluators(chatted: Project, here: Run) -> None:
    """A broken file is named with its line; without the project's code none is looked at."""
    chatted.write("evals/bad.py", "def broken(:\n")
    ran = here("config", "check")
    assert ran.status == 2
    assert "evals/bad.py:1" in ran.out + ran.err
    assert here("config", "check", "--no-project-code").status == 0

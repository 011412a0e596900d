"""Whether the checks of a rollout measure anything: a right agent must pass each of them, a useless one must not.

Knows scripted agents and asks the real evaluators; runs no conversation, asks no model, costs nothing.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from p2engine.domain.evaluation import Evaluation
from p2engine.domain.verdicts import Subject, Verdict
from p2engine.ports import Judges
from p2engine.rollouts import scripted
from p2engine.rollouts.plan import plan
from p2engine.rollouts.results import metric_names
from p2engine.rollouts.scripted import Scene
from p2engine.rollouts.spec import Spec, Task, Team, Trial
from p2engine.rollouts.templates import trial_evaluations, trial_message

TASKS_MAX = 200  # of a team that are tried; those beyond are not

Status = Literal["valid", "invalid", "skipped"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one check of one team. tried: tasks it was tried on. guards: it only looks for what must not be.

    echoes: an agent that repeats its order passes too, so that passing says little.
    """

    team: str
    check: str
    status: Status
    why: str = ""
    tried: int = 0
    guards: bool = False
    echoes: bool = False


class Place(NamedTuple):
    """Where a spec would run. asks_model: whether a model judges by an evaluation. wallets: agent -> its first balance.
    tools: team -> the tools that at least one of its variants has."""

    judges: Judges
    asks_model: Callable[[Evaluation], bool]
    wallets: Mapping[str, str]
    tools: Mapping[str, Collection[str]]


async def validity(spec: Spec, place: Place) -> list[Finding]:
    """Every evaluation of every team, and each team as a whole where a null agent passes all of its checks."""
    findings: list[Finding] = []
    for team in spec.teams:
        found = [await _checked(team, number, place) for number in range(len(team.evaluations))]
        findings += found
        evidence = [each for each in found if not each.guards]
        if found and not evidence:
            why = "all its checks only forbid: an agent that does nothing passes them"
            findings.append(Finding(team=team.id, check="all", status="invalid", why=why))
    return findings


def is_valid(findings: Iterable[Finding]) -> bool:
    return all(each.status != "invalid" for each in findings)


async def _checked(team: Team, number: int, place: Place) -> Finding:
    evaluation = team.evaluations[number]
    finding = Finding(team=team.id, check=metric_names(team.evaluations)[number], status="valid")
    if place.asks_model(evaluation):
        return replace(finding, status="skipped", why="a model judges: calibrate it with p2engine eval calibrate")
    trials = _trials(team)
    echoes, why_not = [], ""
    for tried, trial in enumerate(trials, 1):
        check = replace(trial_evaluations(team, trial.task)[number], when="finish", repeats=1)
        scene = _scene(team, trial, place)
        finding = replace(finding, guards=scripted.forbids(check), tried=tried)
        if why := _impossible(check, scene, place):
            return replace(finding, status="invalid", why=why)
        if why := await _passes_wrongly(check, scene, place.judges):
            return replace(finding, status="invalid", why=_of(trial.task, why))
        outcome = await _fails_wrongly(check, trial.task, scene, place.judges)
        if outcome is not None and outcome.is_known:
            return replace(finding, status="invalid", why=_of(trial.task, outcome.why))
        why_not = why_not or (outcome.why if outcome else "")
        if scripted.is_answer(check):
            echoes.append(_passed(await place.judges(check, scene.says(scene.message))))
    if why_not:
        return replace(finding, status="skipped", why=why_not)
    return replace(finding, echoes=bool(echoes) and all(echoes))


def _trials(team: Team) -> Sequence[Trial]:
    """A trial for each task, of the first variant."""
    alone = replace(team, variants=team.variants[:1], repeats=1, depends_on=())
    return plan(Spec(name="", teams=(alone,)), limit=TASKS_MAX)


def _scene(team: Team, trial: Trial, place: Place) -> Scene:
    try:
        message = trial_message(trial)
    except ValueError:  # it speaks of teams that have not run
        message = trial.message
    return Scene(team.variant(trial.variant).agent, message, place.wallets, place.tools.get(team.id, ()))


def _impossible(check: Evaluation, scene: Scene, place: Place) -> str:
    """Why nobody could pass."""
    tool, wallet = scripted.tool_of(check), scripted.wallet_of(check)
    if tool is not None and tool not in scene.tools:
        return f"no variant has the tool {tool!r}, so none can pass"
    if wallet is not None and wallet not in place.wallets:
        return f"{wallet!r} has no wallet"
    return ""


async def _passes_wrongly(check: Evaluation, scene: Scene, judges: Judges) -> str:
    """Why a check is worthless: somebody passes who must not."""
    for subject in scripted.wrong(check, scene):
        if _passed(await judges(check, subject)):
            if scripted.forbids(check):
                return "an agent that does what it forbids passes"
            return f"a null agent passes, which answers {subject.answer!r}"
    return ""


class _Failure(NamedTuple):
    """A right answer that fails. is_known: it is surely right; else nobody could make one up."""

    why: str
    is_known: bool


async def _fails_wrongly(check: Evaluation, task: Task | None, scene: Scene, judges: Judges) -> _Failure | None:
    """A right agent that fails, where none passes."""
    expected = task.expected if task else None
    first: tuple[Subject, Verdict] | None = None
    for subject in scripted.right(check, expected, scene):
        verdict = await judges(check, subject)
        if _passed(verdict):
            return None
        first = first or (subject, verdict)
    if first is None or (expected is None and not scripted.is_made_up(check)):
        return _Failure("no right answer could be made up: give the tasks an expected value", is_known=False)
    subject, verdict = first
    said = f", which answers {_short(subject.answer)}" if scripted.is_answer(check) else ""
    return _Failure(f"a gold agent fails{said}: {verdict.comment or verdict.status}", is_known=True)


def _passed(verdict: Verdict) -> bool:
    """A check passes with 1; a score of one's own evaluator with at least a half."""
    return verdict.score is not None and verdict.score >= 0.5


def _of(task: Task | None, why: str) -> str:
    return f"task {task.id}: {why}" if task else why


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 60 else line[:59] + "…")

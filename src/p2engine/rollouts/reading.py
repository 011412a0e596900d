"""A rollout file, read strictly into a Spec. Knows the file and who may be named in it; starts nothing."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from p2engine.agents.templates import TemplateFault
from p2engine.documents import Document, did_you_mean, read_yaml, subject
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.setup import Budget
from p2engine.errors import ConfigError, UsageError
from p2engine.limits import TRIALS_MAX
from p2engine.positions import Place, show
from p2engine.rollouts.arms import Arm, read_arms
from p2engine.rollouts.earlier import Misnamed, made_up
from p2engine.rollouts.entries import RolloutFile, TeamEntry, WholeBudgetEntry, name_from, team_name
from p2engine.rollouts.judging import ARGUMENT, CALL_CHECKS, WALLET_CHECKS, Judging, check_rubric, read_evaluations
from p2engine.rollouts.plan import circle
from p2engine.rollouts.spec import Spec, Task, Team, Trial, sealed
from p2engine.rollouts.tasks import not_plain, read_tasks
from p2engine.rollouts.templates import fill_params, names_in, teams_in, trial_message

MODEL_KEYS = ("model", "temperature", "top_p", "max_tokens", "behavior_template", "render_policy")
RULE = "rule"  # the type of agents that no model decides for


class Known(NamedTuple):
    """Who may be named in a rollout file, as the reader is told.

    agents: id -> type. tools, personas, wallets: None: any. models: none given: any. check_evaluator raises ConfigError
    or UsageError for an evaluation that cannot run: no such evaluator or version, wrong params. rubrics: the library.
    wallets: the agents that have one. own_models: agent -> its model. check_model raises UsageError for a model that
    cannot be meant. providers: those beside the ones that the file asks; None: any.
    """

    agents: Mapping[str, str]
    tools: Collection[str] | None
    check_evaluator: Callable[[Evaluation], object]
    models: Collection[str] = ()
    personas: Collection[str] | None = None
    rubrics: Collection[str] = ()
    wallets: Collection[str] | None = None
    own_models: Mapping[str, str] = {}
    check_model: Callable[[str], object] = str
    providers: Collection[str] | None = None


def read_rollout(path: Path, known: Known) -> Spec:
    """The rollout of a YAML file. Raises ConfigError with file and line, and NotAvailable for what is not built."""
    return read_document(read_yaml(path), path.parent, known, name_from(path.stem))


def read_document(document: Document, folder: Path, known: Known, title: str) -> Spec:
    """The same of a document that is read. folder: where its data sets lie. title: its name where it has none."""
    if found := not_plain(document.value):
        raise document.error(subject(found[0]) + found[1], found[0])
    entry = document.check(RolloutFile)
    texts = [_team(document, name, folder, known, entry.budget) for name in entry.teams]
    teams = tuple(each.team for each in texts)
    _bounded(document, ("teams",), teams)
    _dependencies(document, teams)
    for each in texts:
        each.check_earlier({team.id: team for team in teams})
    _check_providers(document, teams, entry.concurrency.providers, known)
    return sealed(
        Spec(
            name=entry.name or title,
            teams=teams,
            budget=Budget(usd=entry.budget.usd, tokens=entry.budget.tokens, seconds=entry.budget.seconds),
            seed=entry.seed,
            concurrency=entry.concurrency.trials,
            providers=entry.concurrency.providers,
        )
    )


def _team(document: Document, id_: str, folder: Path, known: Known, budget: WholeBudgetEntry) -> "_Texts":
    place = ("teams", id_)
    try:
        team_name(id_)
    except ValueError as error:
        raise document.error(f"teams: {error}", place) from None
    entry = document.check(TeamEntry, place)
    arms = read_arms(document, place, entry.initial_message, budget.trial)
    for arm in arms:
        for problem in _wrong_names(document, arm, known):
            raise problem
    judgings = tuple(read_evaluations(document, place))
    tasks = read_tasks(document, (*place, "tasks"), folder) if "tasks" in entry.model_fields_set else ()
    team = Team(
        id=id_,
        variants=tuple(arm.variant for arm in arms),
        tasks=tasks,
        evaluations=tuple(judging.evaluation for judging in judgings),
        repeats=entry.repeats,
        ledger=entry.ledger,
        depends_on=tuple(entry.depends_on),
        timeout_s=entry.timeout_sec,
    )
    _bounded(document, place, [team])
    texts = _Texts(document, team, arms)
    texts.check(judgings)
    for judging in judgings:
        check_rubric(document, judging, known.rubrics)
        _check_evaluation(document, judging, tasks, known)
        _check_names(document, judging, tasks, known)
    return texts


def _check_providers(document: Document, teams: Iterable[Team], bounds: Iterable[str], known: Known) -> None:
    """A bound must be of somebody who may be asked. Raises ConfigError."""
    if known.providers is None:
        return
    arms = [variant for team in teams for variant in team.variants]
    models = [str(each.changes.get("model") or known.own_models.get(each.agent, "")) for each in arms]
    names = {*known.providers, *(model.partition("/")[0] for model in models if "/" in model)}
    for name in bounds:
        if name not in names:
            here = ("concurrency", "providers", name)
            raise document.error(f"{subject(here)}no provider {show(name)}{did_you_mean(name, names)}", here)


def _bounded(document: Document, place: Place, teams: Iterable[Team]) -> None:
    size = sum(len(team.variants) * team.trials_each() for team in teams)
    if size > TRIALS_MAX:
        raise document.error(f"{subject(place)}{size} trials are more than {TRIALS_MAX}", place)


def _wrong_names(document: Document, arm: Arm, known: Known) -> Iterator[ConfigError]:
    """Every name in a variant that means nothing here."""
    variant = arm.variant

    def no(what: str, name: str, names: Iterable[str], place: Place) -> ConfigError:
        return document.error(f"{subject(place)}no {what} {show(name)}{did_you_mean(name, names)}", place)

    if variant.agent not in known.agents:
        yield no("agent", variant.agent, known.agents, arm.written["agent_id"])
    elif known.agents[variant.agent] == RULE:
        for key in MODEL_KEYS:
            if key in arm.written:
                here = arm.written[key]
                message = f"{subject(here)}{variant.agent} answers by rules; no model decides for it"
                yield document.error(message, here)
    for index, tool in enumerate(variant.changes.get("tools", ())):
        if known.tools is not None and tool not in known.tools:
            yield no("tool", tool, known.tools, (*arm.written["tools"], index))
    model = variant.changes.get("model")
    if model and known.models and model not in known.models:
        yield no("supported model", model, known.models, arm.written["model"])
    if model:
        yield from _wrong_model(document, arm.written["model"], model, known)
    elif own := known.own_models.get(variant.agent):
        yield from _wrong_model(document, arm.written["agent_id"], own, known, of=f"the model of {variant.agent}, ")
    persona = variant.changes.get("behavior")
    if persona and known.personas is not None and persona not in known.personas:
        yield no("persona", persona, known.personas, arm.written["behavior_template"])


def _wrong_model(document: Document, place: Place, model: str, known: Known, *, of: str = "") -> Iterator[ConfigError]:
    try:
        known.check_model(model)
    except UsageError as error:
        yield document.error(f"{subject(place)}{of}{show(model)}: {error.message}", place, hint=error.hint)


def _check_evaluation(document: Document, judging: Judging, tasks: Sequence[Task], known: Known) -> None:
    """What the first trial will ask for must be there."""
    filled = fill_params(judging.evaluation.params, tasks[0] if tasks else None)
    try:
        known.check_evaluator(replace(judging.evaluation, params=filled))
    except (ConfigError, UsageError) as error:
        raise _placed(document, judging.place, error) from None


def _check_names(document: Document, judging: Judging, tasks: Sequence[Task], known: Known) -> None:
    """Whose wallet is looked at, which call is looked for, which model judges. Raises ConfigError for none there is."""
    evaluation, here = judging.evaluation, judging.place
    for task in tasks or (None,):
        params = fill_params(evaluation.params, task)
        agent, tool, model = params.get("agent"), params.get("tool", params.get(ARGUMENT)), params.get("model")
        is_filled = params != evaluation.params  # else all tasks have the same
        said = subject(here) + (f"task {show(task.id)}: " if task and is_filled else "")
        if evaluation.evaluator in WALLET_CHECKS and isinstance(agent, str) and known.wallets is not None:
            if agent not in known.agents:
                raise document.error(f"{said}no agent {show(agent)}{did_you_mean(agent, known.wallets)}", here)
            if agent not in known.wallets:
                raise document.error(f"{said}{agent} has no wallet, as agents.yml has it", here)
        elif evaluation.evaluator in CALL_CHECKS and isinstance(tool, str) and known.tools is not None:
            if tool not in known.tools:
                raise document.error(f"{said}no tool {show(tool)}{did_you_mean(tool, known.tools)}", here)
        elif isinstance(model, str):
            for wrong in _wrong_model(document, (*here, "model"), model, known):
                raise wrong
        if not is_filled:
            return


def _placed(document: Document, place: Place, error: ConfigError | UsageError) -> ConfigError:
    """What others say of a name in this file; where it is wrong in a file of their own, that one is named."""
    if isinstance(error, ConfigError) and error.file:
        return error
    return document.error(f"{subject(place)}{error.message}", place, hint=error.hint)


def _dependencies(document: Document, teams: Sequence[Team]) -> None:
    names = [team.id for team in teams]
    for team in teams:
        here = ("teams", team.id, "depends_on")
        for index, name in enumerate(team.depends_on):
            if name not in names:
                message = f"{subject(here)}no team {show(name)}{did_you_mean(name, names)}"
                raise document.error(message, (*here, index))
    if found := circle({team.id: team.depends_on for team in teams}):
        here = ("teams", found.split(" ")[0], "depends_on")
        raise document.error(f"{subject(here)}teams wait for one another: {found}", here)


class _Texts:
    """The templates of a team against its tasks: every one is filled once, so that no trial fails for a name."""

    def __init__(self, document: Document, team: Team, arms: Iterable[Arm]) -> None:
        self.document = document
        self.team = team
        self.values = {name for task in team.tasks for name in task.values}
        self.messages = {
            arm.variant.message: arm.written.get("initial_message", ("teams", self.team.id, "initial_message"))
            for arm in arms
        }

    def check(self, judgings: Iterable[Judging]) -> None:
        """Raises ConfigError."""
        for text, place in self.messages.items():
            self._message(text, place)
        for judging in judgings:
            self._params(judging)

    def check_earlier(self, teams: Mapping[str, Team]) -> None:
        """What is said of earlier teams: whether their results have it, judged or not. teams: all, by id. Raises
        ConfigError.
        """
        ways = [{id_: made_up(teams[id_], scored=scored) for id_ in self.team.depends_on} for scored in (True, False)]
        for text, place in self.messages.items():
            for task in (self.team.tasks or (None,)) if "teams" in names_in(text) else ():
                trial = Trial(team="", variant="", number=1, repeat=1, seed=0, message=text, task=task)
                for earlier in ways:
                    try:
                        trial_message(trial, earlier)
                    except Misnamed as fault:
                        raise self._wrong(place, str(fault)) from None
                    except TemplateFault:  # what hangs on the results themselves is seen when they are there
                        continue

    def _message(self, text: str, place: Place) -> None:
        names = names_in(text)  # its syntax was read with its key
        if "expected" in names and "expected" not in self.values:
            raise self._wrong(place, "a message does not tell what is expected")
        self._known(names, place, ["teams"] if self.team.depends_on else [])
        for name in teams_in(text):
            if name not in self.team.depends_on:
                near = did_you_mean(name, self.team.depends_on)
                raise self._wrong(place, f"teams.{name}: {show(name)} is not under depends_on{near}")
        if "teams" not in names:
            for task in self.team.tasks or (None,):
                trial = Trial(team="", variant="", number=1, repeat=1, seed=0, message=text, task=task)
                self._filled(place, task, partial(trial_message, trial))

    def _params(self, judging: Judging) -> None:
        names: set[str] = set()
        for text in _texts(judging.evaluation.params):
            self._filled(judging.place, None, partial(_add_names, names, text))
        self._known(names, judging.place, ["expected"] if self.team.tasks else [])
        if not names:
            return
        for task in self.team.tasks:
            if "expected" in names and task.expected is None:
                raise self._wrong(judging.place, f"task {show(task.id)} has no expected value")
            self._filled(judging.place, task, partial(fill_params, judging.evaluation.params, task))

    def _known(self, names: Iterable[str], place: Place, also: Iterable[str]) -> None:
        known = {*self.values, *also, *(["task"] if self.team.tasks else [])}
        for name in sorted(names):
            if name == "teams" and "teams" not in known:
                raise self._wrong(place, "teams is there for teams with depends_on only")
            if name not in known:
                why = did_you_mean(name, known) if known else ": the team has no tasks"
                raise self._wrong(place, f"there is no {show(name)}{why}")

    def _filled(self, place: Place, task: Task | None, fill: Callable[[], object]) -> None:
        try:
            fill()
        except TemplateFault as fault:
            of = f"task {show(task.id)}: " if task else ""
            raise self._wrong(place, f"{of}{fault}") from None

    def _wrong(self, place: Place, message: str) -> ConfigError:
        return self.document.error(subject(place) + message, place)


def _add_names(names: set[str], text: str) -> None:
    names |= names_in(text)


def _texts(value: object) -> Iterator[str]:
    """Every text that may be a template."""
    if isinstance(value, str):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(each)

"""Rollouts of a project: its files read against its agents, tools and evaluators, started, gone on with, ended."""

import platform
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace

from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId
from p2engine.domain.money import BookId
from p2engine.errors import ConfigError, UsageError
from p2engine.evals.checks import PythonCheck, check_names
from p2engine.evals.llm import model_of
from p2engine.evals.rubrics import library
from p2engine.models.catalogue import OFFLINE, provider_of
from p2engine.rollouts import journal
from p2engine.rollouts.journal import Options, Rollout
from p2engine.rollouts.judging import JUDGE
from p2engine.rollouts.plan import extended, plan
from p2engine.rollouts.reading import Known, read_rollout
from p2engine.rollouts.results import TrialResult, further_name, metric_names
from p2engine.rollouts.run import Runner
from p2engine.rollouts.spec import Spec, Trial
from p2engine.rollouts.templates import fill_params
from p2engine.rollouts.trial import cut_off, trial_name
from p2engine.rollouts.validity import Finding, Place, validity
from p2engine.wiring.runners import Held, hold, place, runs
from p2engine.wiring.wallets import openings

if TYPE_CHECKING:
    from p2engine.rollouts.report import Report
    from p2engine.wiring.engine import Engine


def read(engine: "Engine", path: Path) -> Spec:
    """The rollout of a file: from the working folder, else from the project's. Raises ConfigError, NotAvailable."""
    project = engine.settings.project
    if project is not None and not path.exists() and (project / path).exists():
        path = project / path
    rows = [engine.roster.describe(agent) for agent in engine.roster.agents()]
    return read_rollout(
        path,
        Known(
            agents={row.id: row.type for row in rows},
            tools=None if engine.registry.partial else engine.registry.known(),
            check_evaluator=engine.evaluators.check,
            models=engine.settings.llm.models.supported_models,
            personas=engine.roster.personas(),
            rubrics=library(),
            wallets={row.id for row in rows if row.wallet.is_open},
            own_models={row.id: row.model for row in rows},
            check_model=engine.models.check_provider,
            providers={row.provider for row in engine.models.describe()},
        ),
    )


async def check_models(engine: "Engine", spec: Spec) -> bool:
    """Whether the stand-in answers all of it. Raises UsageError where it would answer some variants and not others, and
    where nobody would answer one.
    """
    by_kind: dict[bool, list[str]] = {}
    for team, variant in spec.arms():
        setup = await engine.roster.setup(AgentId(variant.agent), dict(variant.changes))
        if setup.type == "llm":
            by_kind.setdefault(stands_in(engine, setup.model), []).append(f"{team.id}/{variant.id}")
            need_answer(engine, setup.model, f"{team.id}/{variant.id}")
    if len(by_kind) == 2:
        raise UsageError(
            f"a rollout does not mix the offline stand-in with real models: {', '.join(by_kind[True])} would be "
            f"answered by the stand-in, {', '.join(by_kind[False])} not",
            hint="p2engine models shows what each provider lacks; llm.offline: always or never holds for all",
        )
    return True in by_kind


def stands_in(engine: "Engine", model: str) -> bool:
    """Whether the offline stand-in answers it; where workers do the asking, only if it was asked for."""
    if engine.elsewhere is not None and "llm.offline" not in engine.settings.sources:
        return provider_of(model) == OFFLINE
    return engine.models.is_offline(model)


def need_answer(engine: "Engine", model: str, whose: str) -> None:
    """Raises UsageError where nobody can answer a model: no key, no driver. What workers ask, they alone can say."""
    if engine.elsewhere is not None:
        return
    try:
        engine.models.resolve(model)
    except ConfigError as error:
        raise UsageError(f"nobody answers {model} for {whose}: {error.message}", hint=error.hint) from None


async def begin(engine: "Engine", spec: Spec, options: Options, file: Path | None = None) -> Rollout:
    """Write down that it begins. file: where it was read from. Raises UsageError for what could not be compared."""
    offline = await check_models(engine, spec)
    known = await provenance(engine, spec, offline=offline)
    if file is not None:
        known["file"] = str(file)
    return await journal.start(engine.world, spec, options, known)


async def provenance(engine: "Engine", spec: Spec, *, offline: bool) -> dict[str, Any]:
    """What whoever reads the results later must know: versions, and the hashes of prompts and tools of all variants."""
    from p2engine import __version__

    arms: dict[str, dict[str, str | None]] = {}
    for team, variant in spec.arms():
        setup = await engine.roster.setup(AgentId(variant.agent), dict(variant.changes))
        arms[f"{team.id}/{variant.id}"] = {
            "model": setup.model,
            "prompt": setup.instructions,
            "tools": setup.specs,
        }
    return {
        "p2engine": __version__,
        "python": platform.python_version(),
        "commit": _commit(engine.settings.project),
        "offline": offline,
        "arms": arms,
    }


async def run(
    engine: "Engine",
    rollout: Rollout,
    *,
    held: Held,
    on_result: Callable[[TrialResult], None] | None = None,
) -> Rollout:
    """Run what is left of a rollout, and what somebody adds to it meanwhile, to its end.

    held: the right to, which no other process of this machine has. on_result: told every trial, first those that had
    ended before; after an extension they are told again. Raises StoreError.
    """
    assert held.rollout == rollout.id
    await journal.take(engine.world, rollout, place(engine.settings.home))
    while True:
        ended = await runner(engine, rollout, on_result).run()
        now = await journal.find(engine.world, rollout.id)
        if ended.status != "finished" or (now.spec.hash, now.options) == (rollout.spec.hash, rollout.options):
            return ended
        rollout = now


async def run_file(engine: "Engine", path: Path, options: Options) -> "Report":
    """Run the rollout of a file to its end. Raises ConfigError, UsageError, StoreError."""
    from p2engine.rollouts.report import report_of

    spec = read(engine, path)
    usd = usual_budget(engine, spec, options.budget_usd)
    rollout = await begin(engine, spec, replace(options, budget_usd=usd), path)
    with hold(engine.settings.home, rollout.id) as held:
        ended = await run(engine, rollout, held=held)
    return report_of(ended, await journal.results(engine.world, ended))


async def check_money(engine: "Engine", rollout: Rollout, options: Options) -> frozenset[str]:
    """The keys of the trials that have run. Raises UsageError where others are left and no money is."""
    results = await journal.results(engine.world, rollout)
    done = frozenset(result.key for result in results)
    spent, whole = sum(result.cost.usd + result.lost.usd for result in results), rollout.spec.budget.usd
    usd = whole if options.budget_usd is None else options.budget_usd
    if usd is not None and spent >= usd and any(trial.key not in done for trial in planned(rollout.spec, options)):
        hint = f"p2engine rollout resume {rollout.id} --budget USD, with more than that"
        raise UsageError(f"{rollout.id} has spent ${spent:.4f} of ${usd:g}", hint=hint)
    return done


def usual_budget(engine: "Engine", spec: Spec, given: float | None) -> float | None:
    """What the rollout may spend beside what its file says: what was said, else what the configuration says."""
    if given is not None or spec.budget.usd is not None:
        return given
    return engine.settings.budget.rollout_usd


def runner(engine: "Engine", rollout: Rollout, on_result: Callable[[TrialResult], None] | None = None) -> Runner:
    """What runs the trials of a rollout that are not written down yet."""

    async def open_book(book: BookId) -> None:
        assert engine.world.ledger is not None
        await (await engine.world.ledger()).open_wallets(*openings(engine.roster, engine.settings, book=book))

    return Runner(engine, rollout, open_book=open_book if engine.world.ledger else None, on_result=on_result)


def grown(rollout: Rollout, more: Spec, options: Options) -> tuple[Spec, Options]:
    """A rollout with what another file adds. options: those not given stay. Raises UsageError where it adds nothing."""
    spec = extended(_repeated(rollout.spec, rollout.options.repeats), _repeated(more, options.repeats))
    now = replace(
        rollout.options,
        repeats=None,  # what was said once is each team's own from now on
        limit=options.limit or rollout.options.limit,
        budget_usd=rollout.options.budget_usd if options.budget_usd is None else options.budget_usd,
        parallel=options.parallel or rollout.options.parallel,
    )
    before = {trial.key for trial in planned(rollout.spec, rollout.options)}
    after = {trial.key for trial in planned(spec, now)}
    if missing := before - after:
        raise UsageError(f"{len(missing)} trials of {rollout.id} would fall away", hint="ask for no fewer than it had")
    if before == after:
        raise UsageError(f"that adds no trial to {rollout.id}", hint="more variants, --repeats or --limit would")
    return spec, now


def _repeated(spec: Spec, repeats: int | None) -> Spec:
    """With so many repeats in every team; None: as they stand."""
    return replace(spec, teams=tuple(replace(team, repeats=repeats or team.repeats) for team in spec.teams))


def planned(spec: Spec, options: Options) -> tuple[Trial, ...]:
    """All trials of a rollout, in their order. Raises UsageError."""
    return plan(spec, limit=options.limit, repeats=options.repeats, seed=options.seed)


def status(engine: "Engine", rollout: Rollout) -> str:
    """As it is written down; `running` where this machine runs it, `interrupted` where whoever ran it last is gone."""
    home = engine.settings.home
    here = runs(home, rollout.id)
    if here:
        return "running"
    is_ours = not rollout.place or rollout.place == place(home)
    is_left = here is False if is_ours else rollout.is_left
    return "interrupted" if is_left and rollout.status == "running" else rollout.status


async def cancel(engine: "Engine", rollout: Rollout) -> Rollout:
    """End a rollout: whoever runs it stops, and what nobody runs any more is ended too. Raises UsageError."""
    if rollout.status != "running":
        raise UsageError(f"{rollout.id} is {rollout.status} already")
    ended = await journal.end(engine.world, rollout, "cancelled", "cancelled by the user")
    if runs(engine.settings.home, rollout.id) is not True:
        done = {result.key for result in await journal.results(engine.world, rollout)}
        for trial in planned(rollout.spec, rollout.options):
            if trial.key not in done:
                await cut_off(engine, trial_name(rollout.id, trial))
    return ended


async def check(engine: "Engine", spec: Spec) -> list[Finding]:
    """Whether the checks of a rollout measure anything: tried on scripted agents, offline."""
    from p2engine.wiring.outlook import need_ledger

    need_ledger(engine, spec)
    rows = [engine.roster.describe(agent) for agent in engine.roster.agents()]
    usual = engine.settings.ledger.initial_balance
    tools: dict[str, Collection[str]] = {}
    for team in spec.teams:
        found: set[str] = set()
        for variant in team.variants:
            row = next(row for row in rows if row.id == variant.agent)
            found |= set(variant.changes.get("tools", (*row.tools, *row.withheld)))
        tools[team.id] = found
    judges = engine.world.judges
    assert judges is not None
    wallets = {str(row.id): str(row.wallet.initial or usual) for row in rows if row.wallet.is_open}
    return await validity(spec, Place(judges, lambda each: judge_model(engine, each) is not None, wallets, tools))


class Metrics(NamedTuple):
    """The numbers that trials will have. names: those that are known. others: for each evaluator that may give more,
    how their names begin and the words that name them; None: whatever it likes.
    """

    names: Collection[str] = frozenset()
    others: Collection[tuple[str, str | None]] = frozenset()

    def may_have(self, name: str) -> bool:
        """Whether one may be called so."""
        return name in self.names or any(
            name.startswith(prefix) and (words is None or name.removeprefix(prefix).casefold() in words)
            for prefix, words in self.others
        )


def metrics_of(engine: "Engine", spec: Spec) -> Metrics:
    """What the evaluators of all teams give, as far as that is known before they do."""
    found: set[str] = set()
    others: set[tuple[str, str | None]] = set()
    for team in spec.teams:
        found.update(names := metric_names(team.evaluations))
        for n, each in enumerate(team.evaluations):
            prefix = further_name(names, team.evaluations, n, "")
            if each.evaluator == JUDGE:
                judge = engine.evaluators.find(JUDGE, each.version).made()
                for params in [fill_params(each.params, task) for task in team.tasks or (None,)]:
                    criteria = judge.rubric(params).criteria
                    found.update(further_name(names, team.evaluations, n, one.metric) for one in criteria)
                    if not criteria:  # it is asked for the score alone, unless its rubric says otherwise
                        others.add((prefix, f"{judge.rubric(params).text} {params.get('prompts', '')}".casefold()))
            elif each.evaluator == PythonCheck.id or each.evaluator not in check_names(engine.evaluators):
                others.add((prefix, None))
    return Metrics(found, others)


def terms_of(engine: "Engine", spec: Spec, metric: str) -> dict[str, str]:
    """By team, what the judge of that metric is asked with; without teams that no model judges by it."""
    found: dict[str, str] = {}
    for team in spec.teams:
        names = metric_names(team.evaluations)
        each = team.evaluations[names.index(metric)] if metric in names else None
        declared = engine.evaluators.get(each.evaluator, each.version) if each else None
        if each is None or declared is None:
            continue
        terms = declared.terms(fill_params(each.params, team.tasks[0] if team.tasks else None))
        if terms is not None:
            found[team.id] = terms.words
    return found


def judge_model(engine: "Engine", evaluation: Evaluation) -> str | None:
    """The model that an evaluation asks; None for one that asks none. Raises UsageError for no evaluator."""
    found = engine.evaluators.find(evaluation.evaluator, evaluation.version)
    return model_of(found.body, evaluation.params) if found.asks_model else None  # type: ignore[arg-type]


def _commit(project: Path | None) -> str | None:
    """The commit that a project's folder stands on, as far as its files say; None where it is in no repository."""
    for folder in (project, *project.parents) if project else ():
        head = folder / ".git" / "HEAD"
        if not head.is_file():
            continue
        text = head.read_text("utf-8", "replace").strip()
        if not text.startswith("ref: "):
            return text[:40] or None
        ref = folder / ".git" / text.removeprefix("ref: ")
        return ref.read_text("utf-8", "replace").strip()[:40] if ref.is_file() else None
    return None

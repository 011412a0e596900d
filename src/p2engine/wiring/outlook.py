"""What a rollout will take with this project's agents, models and prices, and what a person should know before."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId
from p2engine.domain.messages import tokens_estimate
from p2engine.domain.setup import Setup, Spent
from p2engine.errors import UsageError
from p2engine.limits import TRIALS_AT_ONCE
from p2engine.models.catalogue import provider_of
from p2engine.rollouts import estimate, journal
from p2engine.rollouts.estimate import ArmEstimate, Cost, Detectable, Prompt
from p2engine.rollouts.journal import Options
from p2engine.rollouts.judging import WALLET_CHECKS
from p2engine.rollouts.results import metric_names
from p2engine.rollouts.spec import Spec, Team, Trial, Variant
from p2engine.wiring import experiments

if TYPE_CHECKING:
    from p2engine.wiring.engine import Engine

EARLIER_ROLLOUTS = 5  # of the same name, the newest, that an estimate looks at


class Outlook(NamedTuple):
    """A rollout before it runs. trials: those that are still to run; done: how many have run. budget_usd: None where
    nothing bounds it.

    setups: of every arm, in order. judges: the models that judge. notes: what may not be as it was meant.
    """

    spec: Spec
    options: Options
    trials: Sequence[Trial]
    done: int
    setups: Mapping[tuple[str, str], Setup]
    judges: Sequence[str]
    offline: bool
    paid: bool
    arms: Sequence[ArmEstimate]
    detectable: Sequence[Detectable]
    at_once: int
    budget_usd: float | None
    notes: Sequence[str]

    @property
    def cost(self) -> Cost:
        return estimate.whole(self.arms)


async def outlook(
    engine: "Engine", spec: Spec, options: Options, *, done: frozenset[str] = frozenset(), strict_tools: bool = False
) -> Outlook:
    """What it will take. done: the keys of trials that have run. strict_tools: a tool that is missing is an error.

    Raises UsageError for what could not be run or compared.
    """
    offline = await experiments.check_models(engine, spec)
    need_ledger(engine, spec)
    setups = {
        (team.id, variant.id): await engine.roster.setup(AgentId(variant.agent), dict(variant.changes))
        for team, variant in spec.arms()
    }
    notes = list(_missing_tools(engine, spec, setups))
    if strict_tools and notes:
        raise UsageError(notes[0], hint="leave out --strict-tools, or mend it")
    trials = [trial for trial in experiments.planned(spec, options) if trial.key not in done]
    judges = _judges(engine, spec)
    for model in judges:
        experiments.need_answer(engine, model, "the judge")
    is_real = {model: not experiments.stands_in(engine, model) for model in judges}
    asked = any(setup.type == "llm" for setup in setups.values())
    notes += _same_variants(spec, setups)
    notes += _shared_wallets(spec)
    notes += _odd_judges(is_real, offline=offline and asked)
    paid = (asked and not offline) or any(is_real.values())
    return Outlook(
        spec=spec,
        options=options,
        trials=trials,
        done=len(done),
        setups=setups,
        judges=judges,
        offline=offline,
        paid=paid,
        arms=await _arms(engine, spec, trials, setups) if paid else (),
        detectable=() if offline else list(_detectable(engine, spec, options)),
        at_once=max(1, min(places(spec, options), len(trials))),
        budget_usd=spec.budget.usd if options.budget_usd is None else options.budget_usd,
        notes=notes,
    )


def places(spec: Spec, options: Options) -> int:
    """How many trials may run at once: no more than were asked for, nor than the providers of all variants take."""
    asked = options.parallel or spec.concurrency or TRIALS_AT_ONCE
    providers = {str(variant.changes.get("model", "")).partition("/")[0] for _, variant in spec.arms()}
    if providers <= spec.providers.keys():
        asked = min(asked, sum(spec.providers[name] for name in providers))
    return asked


def _same_variants(spec: Spec, setups: Mapping[tuple[str, str], Setup]) -> Iterator[str]:
    """Those of a team whose agent, message and setup are the same, whatever the file calls it."""
    for team in spec.teams:
        alike: dict[tuple[str, bytes], list[str]] = {}
        for variant in team.variants:
            setup = msgspec.structs.replace(setups[team.id, variant.id], persona="")  # its text is in the instructions
            alike.setdefault((variant.message, msgspec.json.encode(setup)), []).append(variant.id)
        for names in alike.values():
            if len(names) > 1:
                listed = f"{', '.join(names[:-1])} and {names[-1]}"
                same = f"team {team.id}: variants {listed} are the same: they differ in nothing that is sent"
                yield f"{same}, so what differs in their results is chance"


def _shared_wallets(spec: Spec) -> Iterator[str]:
    for team in spec.teams:
        checks = [each.evaluator for each in team.evaluations if each.evaluator in WALLET_CHECKS]
        if team.ledger == "shared" and checks and team.trials_each() * len(team.variants) > 1:
            yield f"team {team.id}: its trials share their wallets, so {checks[0]} counts what all of them moved"


def need_ledger(engine: "Engine", spec: Spec) -> None:
    """Raises UsageError where checks can only pass with a ledger, and it is off."""
    if engine.world.ledger is not None:
        return
    for team in spec.teams:
        for check in team.evaluations:
            tool = check.params.get("tool") or check.params.get("value")
            pays = check.evaluator == "tool_called" and engine.registry.withheld(str(tool)) is not None
            if check.evaluator in WALLET_CHECKS or pays:
                what = f"{check.evaluator} {tool}" if pays else check.evaluator
                why = engine.settings.sources.get("ledger.enabled", "")
                raise UsageError(
                    f"team {team.id}: the check {what} needs the ledger, which is off" + (f" ({why})" if why else ""),
                    hint="set LEDGER_ENABLED=true, or ledger.enabled in config/config.json",
                )


def _missing_tools(engine: "Engine", spec: Spec, setups: Mapping[tuple[str, str], Setup]) -> Iterator[str]:
    for team, variant in spec.arms():
        setup, name = setups[team.id, variant.id], f"{team.id}/{variant.id}"
        for tool in engine.roster.lacks(setup):
            yield f"{name}: persona {setup.persona} wants the tool {tool}, which it does not have"
        for tool in variant.changes.get("tools", ()):
            if (why := engine.registry.withheld(tool)) is not None:
                yield f"{name} does not get the tool {tool}: {why}"


def _judges(engine: "Engine", spec: Spec) -> list[str]:
    """The models that judge, each once."""
    asked = (experiments.judge_model(engine, each) for team in spec.teams for each in team.evaluations)
    return list(dict.fromkeys(model for model in asked if model is not None))


def _odd_judges(is_real: Mapping[str, bool], *, offline: bool) -> Iterator[str]:
    for model, real in is_real.items():
        if not offline and not real:
            yield f"the judge {model} would be the offline stand-in, which never judges: its verdicts stay undecided"
        elif offline and real:
            yield f"the judge {model} is real, and costs; what it judges comes from the offline stand-in"


# Money


async def _arms(
    engine: "Engine", spec: Spec, trials: Sequence[Trial], setups: Mapping[tuple[str, str], Setup]
) -> list[ArmEstimate]:
    from p2engine.models import pricing

    await asyncio.to_thread(pricing.load)
    of_arm = estimate.by_arm(trials)
    earlier = await _earlier(engine, spec)

    def price(model: str, tokens_in: int, tokens_out: int) -> float | None:
        if experiments.stands_in(engine, model):
            return 0.0
        provider = provider_of(model)
        return pricing.cost_usd(provider, model.removeprefix(f"{provider}/"), tokens_in, tokens_out)

    def judge_of(evaluation: Evaluation) -> str | None:
        return experiments.judge_model(engine, evaluation)

    return [
        estimate.arm_estimate(
            team,
            variant,
            of_arm.get((team.id, variant.id), ()),
            await _prompt(engine, setups[team.id, variant.id]),
            judge_of,
            price,
            earlier.get((team.id, variant.id), ()),
        )
        for team, variant in spec.arms()
    ]


async def _prompt(engine: "Engine", setup: Setup) -> Prompt:
    if setup.type != "llm":
        return Prompt(model="")
    instructions, specs = await engine.roster.bodies(setup)
    tokens = tokens_estimate(instructions) + (tokens_estimate(msgspec.json.encode(specs).decode()) if specs else 0)
    return Prompt(model=setup.model, tokens=tokens, has_tools=bool(specs), max_tokens=setup.max_tokens)


async def _earlier(engine: "Engine", spec: Spec) -> dict[tuple[str, str], list[Spent]]:
    """What trials of the very same arms did cost, in the newest rollouts of this name that real models answered."""
    mine = {(team.id, variant.id): (team, variant) for team, variant in spec.arms()}
    found: dict[tuple[str, str], list[Spent]] = {}
    rollouts = [
        each
        for each in await journal.rollouts(engine.world, f"{spec.name}-")
        if each.spec.name == spec.name and not each.provenance.get("offline")
    ]
    for rollout in rollouts[-EARLIER_ROLLOUTS:]:
        same = {key for key, arm in mine.items() if _ran(rollout.spec, *arm)}
        for result in await journal.results(engine.world, rollout):
            if (result.team, result.variant) in same and result.status == "done":
                found.setdefault((result.team, result.variant), []).append(result.price)
    return found


def _ran(ran: Spec, team: Team, variant: Variant) -> bool:
    """Whether that rollout had this arm, judged in the same way."""
    theirs = next((each for each in ran.teams if each.id == team.id), None)
    return theirs is not None and variant in theirs.variants and theirs.evaluations == team.evaluations


# Chance


def _detectable(engine: "Engine", spec: Spec, options: Options) -> Iterator[Detectable]:
    """For each team by its first judge, or by its first check where nobody judges."""
    for team in spec.teams:
        judged = [experiments.judge_model(engine, each) is not None for each in team.evaluations]
        if not judged:
            continue
        place = judged.index(True) if any(judged) else 0
        each = team.trials_each(options.repeats)
        found = estimate.detectable(
            team,
            metric_names(team.evaluations)[place],
            min(each, options.limit or each),
            is_score=judged[place],
        )
        if found is not None:
            yield found

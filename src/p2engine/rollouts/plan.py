"""Which trials a rollout has, in which order, and how it may grow. Pure: the same spec gives the same plan."""

from collections.abc import Iterator, Mapping
from hashlib import blake2b

from msgspec.structs import replace

from p2engine.errors import UsageError
from p2engine.limits import TRIALS_MAX
from p2engine.rollouts.spec import Spec, Task, Team, Trial, Variant, sealed

SEED_MAX = 2**31 - 1  # what every provider takes


def plan(
    spec: Spec, *, limit: int | None = None, repeats: int | None = None, seed: int | None = None
) -> tuple[Trial, ...]:
    """Every trial, in the order in which they are to start: number by number, each for all arms in turn.

    So that whatever drifts while they run hits all arms alike. Teams come after those they depend on; within each such
    wave they take turns as well. limit: trials of each variant at most. repeats, seed: instead of the spec's. Raises
    UsageError for a number that cannot be, and for too many trials.
    """
    _checked(limit, repeats, seed)
    size = sum(len(team.variants) * team.trials_each(repeats) for team in spec.teams)
    if size > TRIALS_MAX:
        raise UsageError(f"{size} trials are more than {TRIALS_MAX}")
    trials: list[Trial] = []
    for wave in waves(spec):
        counts = {team.id: min(team.trials_each(repeats), limit or TRIALS_MAX) for team in wave}
        for number in range(1, max(counts.values()) + 1):
            for team in wave:
                if number <= counts[team.id]:
                    trials += _round(spec.seed if seed is None else seed, team, number)
    return tuple(trials)


def waves(spec: Spec) -> Iterator[tuple[Team, ...]]:
    """The teams in groups: each depends on earlier groups only. Raises UsageError where teams wait for one another."""
    left, done = list(spec.teams), set[str]()
    while left:
        ready = tuple(team for team in left if done.issuperset(team.depends_on))
        if not ready:
            raise UsageError(f"teams wait for one another: {circle({each.id: each.depends_on for each in left})}")
        yield ready
        done.update(team.id for team in ready)
        left = [team for team in left if team.id not in done]


def circle(depends_on: Mapping[str, tuple[str, ...]]) -> str:
    """`a → b → a` for the first circle there is; empty where there is none. Names that are no team are passed over."""
    safe: set[str] = set()
    for start in depends_on:
        path: list[str] = []
        ways: list[Iterator[str]] = [iter((start,))]
        while ways:
            name = next((each for each in ways[-1] if each not in safe and each in depends_on), None)
            if name is None:
                ways.pop()
                if path:
                    safe.add(path.pop())
            elif name in path:
                return " → ".join([*path[path.index(name) :], name])
            else:
                path.append(name)
                ways.append(iter(depends_on[name]))
    return ""


def trial_seed(seed: int, team: str, task: Task | None, repeat: int) -> int:
    """The seed that all variants of a team share in one repeat of one task. From 0 to 2**31 - 1."""
    text = "\0".join((str(seed), team, task.id if task else "", str(repeat)))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) & SEED_MAX


def _round(seed: int, team: Team, number: int) -> Iterator[Trial]:
    """One trial of each variant. All tasks come once before any comes again."""
    repeat, place = divmod(number - 1, max(1, len(team.tasks)))
    task = team.tasks[place] if team.tasks else None
    shared = trial_seed(seed, team.id, task, repeat + 1)
    for variant in team.variants:
        yield Trial(
            team=team.id,
            variant=variant.id,
            number=number,
            repeat=repeat + 1,
            seed=shared,
            message=variant.message,
            task=task,
        )


def _checked(limit: int | None, repeats: int | None, seed: int | None) -> None:
    for name, value, least in (("limit", limit, 1), ("repeats", repeats, 1), ("seed", seed, 0)):
        if value is not None and value < least:
            raise UsageError(f"{name}: expected a whole number of at least {least}, not {value}")


def extended(ran: Spec, more: Spec) -> Spec:
    """`ran` with the variants, repeats and teams that `more` adds. What ran keeps its name, content, task and seed.

    Whatever `more` leaves out stays; budget and concurrency are taken from `more`. Raises UsageError where `more` would
    change what ran.
    """
    teams = {team.id: team for team in ran.teams}
    for team in more.teams:
        teams[team.id] = _extended(teams[team.id], team) if team.id in teams else team
    grown = replace(
        ran,
        teams=tuple(teams.values()),
        budget=more.budget,
        concurrency=more.concurrency,
        providers=more.providers,
    )
    for _ in waves(grown):
        pass
    return sealed(grown)


_FIXED = ("tasks", "evaluations", "ledger", "depends_on", "timeout_s")


def _extended(ran: Team, more: Team) -> Team:
    for name in _FIXED:
        if getattr(ran, name) != getattr(more, name):
            raise UsageError(
                f"team {ran.id!r}: {name} is not what it was when its trials ran",
                hint="start a new rollout, or give the team another id",
            )
    variants: dict[str, Variant] = {variant.id: variant for variant in ran.variants}
    for variant in more.variants:
        if variants.setdefault(variant.id, variant) != variant:
            raise UsageError(
                f"team {ran.id!r}: variant {variant.id!r} is not what it was when its trials ran",
                hint="give the new one an id of its own",
            )
    return replace(ran, variants=tuple(variants.values()), repeats=max(ran.repeats, more.repeats))

"""What a rollout is: teams, variants, tasks and trials. Values only; knows no file, runs nothing."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Literal

import msgspec

from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId
from p2engine.domain.setup import Budget
from p2engine.errors import UsageError

Books = Literal["isolated", "shared"]


class Task(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One item of a data set. values: for the message. expected: what a right answer has; never in the message."""

    id: str
    values: dict[str, Any] = {}
    expected: Any = None


class Variant(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One arm. message: a template. changes: to the agent's setup, in the words of a runtime override; its `budget`
    is that of each trial."""

    id: str
    agent: AgentId
    message: str
    changes: dict[str, Any] = {}


class Team(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Variants that are compared on the same tasks. tasks: empty where there is no data set.

    evaluations: judges, then checks, as written; texts in their params are templates over the task. ledger: a book for
    each trial, or one for all of the rollout. depends_on: teams that have ended when this one starts. timeout_s: of one
    trial.
    """

    id: str
    variants: tuple[Variant, ...]
    tasks: tuple[Task, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    repeats: int = 1
    ledger: Books = "isolated"
    depends_on: tuple[str, ...] = ()
    timeout_s: float | None = None

    def variant(self, id: str) -> Variant:  # noqa: A002 — the word for it
        """Raises UsageError for an unknown one."""
        for variant in self.variants:
            if variant.id == id:
                return variant
        raise UsageError(f"team {self.id!r} has no variant {id!r}")

    def trials_each(self, repeats: int | None = None) -> int:
        """How many trials each variant has."""
        return (repeats or self.repeats) * max(1, len(self.tasks))


class Spec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A whole experiment, read and checked. budget: of all trials together, judges included; its `steps` is unused.

    seed: every trial's is derived from it. concurrency: trials at once; None: as many as the machine is set to.
    providers: provider -> trials at once that ask its models. hash: of the content, see `content_hash`.
    """

    name: str
    teams: tuple[Team, ...]
    budget: Budget = Budget()
    seed: int = 0
    concurrency: int | None = None
    providers: dict[str, int] = {}
    hash: str = ""

    def team(self, id: str) -> Team:  # noqa: A002 — the word for it
        """Raises UsageError for an unknown one."""
        for team in self.teams:
            if team.id == id:
                return team
        raise UsageError(f"the rollout has no team {id!r}")

    def arms(self) -> Iterator[tuple[Team, Variant]]:
        """Every variant with its team, in order."""
        return ((team, variant) for team in self.teams for variant in team.variants)


class Trial(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One run of one variant. number: from 1, within the variant. repeat: from 1. message: the variant's template.

    Trials of one team with the same number have the same task, repeat and seed: they are a pair.
    """

    team: str
    variant: str
    number: int
    repeat: int
    seed: int
    message: str
    task: Task | None = None

    @property
    def key(self) -> str:
        """`team/variant/number`: the name of this trial for ever, however the rollout grows."""
        return f"{self.team}/{self.variant}/{self.number}"


def content_hash(spec: Spec) -> str:
    """SHA-256, hex, of everything that decides what is run: data sets included, name, comments and layout not."""
    content = msgspec.structs.replace(spec, name="", hash="")
    return sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def sealed(spec: Spec) -> Spec:
    """The spec with its hash."""
    return msgspec.structs.replace(spec, hash=content_hash(spec))

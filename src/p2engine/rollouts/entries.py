"""What a rollout file may hold. Knows keys; no files, no agents, no evaluators."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from p2engine.agents.entries import (
    AgentName,
    BudgetEntry,
    Count,
    Entry,
    Name,
    Names,
    Positive,
    Render,
    Temperature,
    Template,
    TopP,
)
from p2engine.documents import Named
from p2engine.domain.evaluation import When
from p2engine.positions import show

ID_CHARS_MAX = 64
_TEAM_ID = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{ID_CHARS_MAX - 1}}}")
_VARIANT_ID = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.=,+:-]{{0,{ID_CHARS_MAX - 1}}}")
_EVALUATOR = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(?:@[A-Za-z0-9_.+-]{1,32})?")


def team_name(value: str) -> str:
    """`value`, if it can name a team. Raises ValueError."""
    if not _TEAM_ID.fullmatch(value):
        raise ValueError(f"a team's name has 1 to {ID_CHARS_MAX} letters, digits, _ . and -; this is {show(value)}")
    return value


def _rollout_name(value: str) -> str:
    if not _TEAM_ID.fullmatch(value):
        raise ValueError(f"a rollout's name has 1 to {ID_CHARS_MAX} letters, digits, _ . and -; this is {show(value)}")
    return value


def name_from(file: str) -> str:
    """What a rollout is called whose file does not say: the file's name, with what no name may have left out."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", file).lstrip(".-")[:ID_CHARS_MAX] or "rollout"


def _variant_id(value: str) -> str:
    if not _VARIANT_ID.fullmatch(value):
        words = f"1 to {ID_CHARS_MAX} letters, digits, _ . = , + : and -"
        raise ValueError(f"a variant's id has {words}; this is {show(value)}")
    return value


def evaluator_name(value: str) -> str:
    """`value`, if it can name an evaluator: `ID` or `ID@VERSION`. Raises ValueError."""
    if not _EVALUATOR.fullmatch(value):
        raise ValueError(f"an evaluator is named as ID or ID@VERSION; this is {show(value)}")
    return value


def _listed(value: object) -> object:
    """One name is a list of one."""
    return [value] if isinstance(value, str) else value


def _rubric(value: object) -> object:
    """Its criteria are read by the evaluator."""
    if isinstance(value, str):
        value = value.strip()
    if not value or not isinstance(value, str | list | dict):
        raise ValueError(f"expected a text, a list or weights by criterion, not {show(value)}")
    return value


def _joined(value: object) -> object:
    """A list of texts is a text with a line for each."""
    if isinstance(value, list) and value and all(isinstance(each, str) and each.strip() for each in value):
        return "\n".join(f"- {each.strip()}" for each in value)
    return value.strip() if isinstance(value, str) else value


def _trials_at_once(value: object) -> object:
    """A number is that of all trials."""
    return {"trials": value} if isinstance(value, int) else value


VariantName = Annotated[str, AfterValidator(_variant_id), Named("a variant's id")]
EvaluatorName = Annotated[str, AfterValidator(evaluator_name), Named("an evaluator's name")]
Listed = Annotated[Names, BeforeValidator(_listed), Named("a name or a list of names")]
Text = Annotated[str, Field(min_length=1), BeforeValidator(_joined), Named("a text or a list of texts")]
Rubric = Annotated[Any, AfterValidator(_rubric)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]

_LATER: Mapping[str, tuple[object, ...]] = {
    "enable_self_reflection": (True,),
    "reflection_agent_id": (),
    "human_in_loop": (),
    "human_in_the_loop": (),
    "requires_approval": (),
    "approval": (),
}


class ArmEntry(Entry):
    """What may differ between variants, and what `base` says for all of them."""

    agent_id: AgentName | None = Field(default=None, description="Who is asked.")
    model: Name | None = Field(default=None, description="`provider/model`; else the agent's own.")
    temperature: Temperature | None = Field(default=None, description="Else the agent's own.")
    top_p: TopP | None = Field(default=None, description="Else the agent's own.")
    max_tokens: Count | None = Field(default=None, description="Of one reply; else the agent's own.")
    tools: Names | None = Field(default=None, description="The tools it may use, and no others; else its own.")
    behavior_template: Name | None = Field(default=None, description="Its persona; else its own.")
    render_policy: Render | None = Field(default=None, description="How much of its stack the model is shown.")
    initial_message: Template | None = Field(default=None, description="Instead of the team's.")
    budget: BudgetEntry = Field(default=BudgetEntry(), description="What one trial may spend.")
    later = _LATER


class VariantEntry(ArmEntry):
    """One variant of a list."""

    id: VariantName | None = Field(default=None, description="Its name; else `v1`, `v2`, … by its place.")


class EvalEntry(Entry):
    """A judge, or any evaluator by its name."""

    evaluator_id: EvaluatorName = Field(description="`ID` or `ID@VERSION`, such as `gpt4_judge`.")
    judge_version: Name | None = Field(default=None, description="Else the newest.")
    rubric: Rubric | None = Field(
        default=None,
        description="What is good: a text, a list, weights by criterion, or the name of one of the library.",
    )
    metric: Name | None = Field(
        default=None, description="What its score is called; else `score` by a rubric, or the evaluator."
    )
    prompts: Text | None = Field(default=None, description="Further instructions to the judge.")
    model: Name | None = Field(default=None, description="The judge's; else its own.")
    temperature: Temperature | None = Field(default=None, description="The judge's; else its own.")
    expected: Any = Field(default=None, description="What it compares with: a value or a template.")
    params: dict[str, Any] = Field(default={}, description="Whatever else this evaluator takes.")
    evaluate: When = Field(default="finish", description="At the `finish`, after every `step`, or every `milestone`.")
    repeats: Count = Field(default=1, description="Samples of one verdict.")
    again: bool = Field(default=False, description="Ask the model also where it judged the same before.")
    timeout_sec: Positive | None = Field(default=None, description="Of a verdict, in seconds.")
    later = _LATER


class TasksEntry(Entry):
    """A data set in a file, with the names of its columns."""

    file: Name = Field(description="`.jsonl` or `.csv`, from the folder of the rollout file.")
    id: Name | None = Field(default=None, description="The column that names a task; else `id`.")
    expected: Listed | None = Field(
        default=None, description="The column, or columns, of what is right; else `expected`."
    )


class TeamEntry(Entry):
    """One team."""

    initial_message: Template | None = Field(default=None, description="What the agent is told. A template.")
    base: dict[str, Any] = Field(default={}, description="What all variants have.")
    variants: Any = Field(default=None, description="A list, or a grid: key -> list of values.")
    eval: Any = Field(default=None, description="One evaluator, or several.")
    checks: Annotated[list[Any], Named("a list of checks")] = Field(default=[], description="Deterministic ones.")
    tasks: Any = Field(default=None, description="A data set: a list, a file, or a file with its columns.")
    repeats: Count = Field(default=1, description="Trials of each variant and task.")
    ledger: Literal["isolated", "shared"] = Field(default="isolated", description="A book a trial, or one for all.")
    depends_on: Listed = Field(default=[], description="Teams that must have ended before.")
    timeout_sec: Positive | None = Field(default=None, description="Of one trial, in seconds.")
    later = _LATER


class WholeBudgetEntry(Entry):
    """What all trials may spend together, and `trial`: what each may."""

    usd: Positive | None = Field(default=None, description="US dollars, judges included.")
    tokens: Count | None = Field(default=None, description="Tokens, in and out, judges included.")
    seconds: Positive | None = Field(default=None, description="Wall time.")
    trial: BudgetEntry = Field(default=BudgetEntry(), description="What one trial may spend.")


_AT_ONCE = Named("a number, or {trials, providers}")


class ConcurrencyEntry(Entry):
    """Trials at once: of all, and by provider of their model."""

    trials: Count | None = None
    providers: dict[Name, Count] = Field(default={})


RolloutName = Annotated[str, AfterValidator(_rollout_name)]


class RolloutFile(Entry):
    """The file as a whole."""

    teams: Annotated[dict[str, Any], Field(min_length=1), Named("a mapping of teams")]
    name: RolloutName | None = Field(default=None, description="Else the name of the file.")
    seed: Seed = Field(default=0, description="Every trial's is derived from it.")
    budget: WholeBudgetEntry = Field(default=WholeBudgetEntry(), description="What it may spend.")
    concurrency: Annotated[ConcurrencyEntry, BeforeValidator(_trials_at_once), _AT_ONCE] = Field(
        default=ConcurrencyEntry(), description="Trials at once: a number, or `{trials, providers}`."
    )
    later = _LATER

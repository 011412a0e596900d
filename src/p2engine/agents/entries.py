"""What `config/agents.yml` may hold, and what a runtime override may change. Knows keys; no files and no tools."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import msgspec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from p2engine.agents.patterns import compile_pattern
from p2engine.agents.templates import template
from p2engine.documents import Named, faults, subject
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.money import Amount
from p2engine.domain.setup import Budget, RenderPolicy
from p2engine.errors import UsageError
from p2engine.positions import show


class WalletTerms(NamedTuple):
    """Whether a wallet is to be opened, and with what; None: what the configuration says."""

    is_open: bool = True
    initial: Amount | None = None


AGENT_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
AGENT_ID_WORDS = "1 to 64 letters, digits, _ . and -"


def _agent_id(value: str) -> str:
    if not AGENT_ID.fullmatch(value):
        raise ValueError(f"an agent's name has {AGENT_ID_WORDS}; this is {show(value)}")
    return value


def _once(values: list[str]) -> list[str]:
    twice = [each for n, each in enumerate(values) if each in values[:n]]
    if twice:
        raise ValueError(f"{show(twice[0])} is listed twice")
    return values


def _is_template(value: str) -> str:
    template(value)
    return value


def _is_pattern(value: str) -> str:
    compile_pattern(value)
    return value


def _render_policy(value: object) -> RenderPolicy:
    """`full`, `{last_n: N}` or `{token_budget: N}`; on a command line `last_n:N`."""
    if isinstance(value, RenderPolicy):
        return value
    if isinstance(value, str):
        kind, _, number = value.partition(":")
        value = {kind.strip(): int(number) if number.strip().isdecimal() else None}
    match value:
        case {"full": None, **more} if not more:
            return RenderPolicy()
        case {"last_n": int(n), **more} if n >= 1 and n is not True and not more:
            return RenderPolicy("last_n", n)
        case {"token_budget": int(n), **more} if n >= 1 and n is not True and not more:
            return RenderPolicy("token_budget", n)
    raise ValueError("expected full, {last_n: N} or {token_budget: N} with N of at least 1")


def _wallet(value: object) -> WalletTerms:
    """`true`, `false` or `{initial: AMOUNT}`."""
    match value:
        case WalletTerms():
            return value
        case bool():
            return WalletTerms(value)
        case {"initial": initial, **more} if not more:
            try:
                return WalletTerms(initial=Amount.parse(initial, zero=True))
            except UsageError as error:
                raise ValueError(str(error)) from None
    raise ValueError("expected true, false or {initial: AMOUNT}")


def _split(value: object) -> object:
    """A command line writes a list with commas."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


Name = Annotated[str, Field(min_length=1), Named("text")]
AgentName = Annotated[str, AfterValidator(_agent_id), Named("an agent's name")]
Names = Annotated[list[Name], AfterValidator(_once)]
Template = Annotated[str, AfterValidator(_is_template), Named("a template")]
Pattern = Annotated[str, AfterValidator(_is_pattern), Named("a regular expression")]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Wallet = Annotated[WalletTerms, BeforeValidator(_wallet), Named("true, false or {initial: AMOUNT}")]
Render = Annotated[RenderPolicy, BeforeValidator(_render_policy), Named("full, {last_n: N} or {token_budget: N}")]


class Entry(BaseModel):
    """Part of the file. `later`: keys, or values of keys, that this version refuses by name."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, arbitrary_types_allowed=True
    )
    later: ClassVar[Mapping[str, tuple[object, ...]]] = {}


class BudgetEntry(Entry):
    steps: Count | None = Field(default=None, description="Model replies and results in one turn, delegates included.")
    tokens: Count | None = Field(default=None, description="Tokens of one turn, in and out.")
    usd: Positive | None = Field(default=None, description="Model cost of one turn, in US dollars.")
    seconds: Positive | None = Field(default=None, description="Wall time of one turn, in seconds.")

    def over(self, default: Budget) -> Budget:
        """What is written here, and the default for the rest."""
        return Budget(
            steps=default.steps if self.steps is None else self.steps,
            tokens=default.tokens if self.tokens is None else self.tokens,
            usd=default.usd if self.usd is None else self.usd,
            seconds=default.seconds if self.seconds is None else self.seconds,
        )


class AgentEntry(Entry):
    """What every agent may have."""

    id: AgentName = Field(description="The agent's name.")
    type: Name = Field(default="llm", description="Who decides: `llm`, `rule`, or the name of a plug-in.")
    tools: Names = Field(default=[], description="The tools it may use, and no others.")
    delegates_to: Annotated[list[AgentName], AfterValidator(_once)] | None = Field(
        default=None, description="Whom it may `delegate` to; else every other agent here."
    )
    budget: BudgetEntry = Field(default=BudgetEntry(), description="What one turn may spend; else `budget.turn_…`.")
    wallet: Wallet = Field(
        default=WalletTerms(),
        description="Whether it has a wallet where there is a ledger; else opened with `initial`.",
    )
    owner: Name = Field(default="operator", description="Who answers for its wallet.")


class ModelEntry(AgentEntry):
    """An agent that a model, or a plug-in, decides for."""

    llm_model: Name | None = Field(default=None, description="`provider/model`; else `llm.models.default_model`.")
    temperature: Temperature | None = Field(default=None, description="Else the provider's own.")
    top_p: TopP | None = Field(default=None, description="Else the provider's own.")
    max_tokens: Count | None = Field(default=None, description="Of one reply; else the provider's own.")
    behavior_template: Name | None = Field(default=None, description="Its persona: `templates/personas/NAME.j2`.")
    render_policy: Render = Field(default=RenderPolicy(), description="How much of its stack the model is shown.")
    enable_self_reflection: Literal[False] = Field(default=False, description="Reflection is not in this version.")
    later = {"enable_self_reflection": (True,), "reflection_agent_id": ()}


class RuleEntry(Entry):
    """When the message is this, answer that: in words, by a tool, or by another agent."""

    match: str | None = Field(default=None, description="The whole message, spaces around it aside.")
    contains: Name | None = Field(default=None, description="A part of the message, in any case.")
    regex: Pattern | None = Field(default=None, description="A regular expression found in the message.")
    answer: Template | None = Field(default=None, description="What to say. A template, as are the next three.")
    tool: Name | None = Field(default=None, description="Or the tool to use,")
    arguments: dict[str, Any] = Field(default={}, description="with these; texts in them are templates.")
    delegate: AgentName | None = Field(default=None, description="Or the agent to ask,")
    message: Template = Field(default="{{ message }}", description="this; else the message itself.")
    then: Template | None = Field(default=None, description="What to say once the `results` are in; else the results.")

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        for names in (("match", "contains", "regex"), ("answer", "tool", "delegate")):
            if sum(getattr(self, name) is not None for name in names) != 1:
                raise ValueError(f"expected exactly one of {', '.join(names)}")
        belongs = {"arguments": "tool", "message": "delegate"}
        for name, other in belongs.items():
            if name in self.model_fields_set and getattr(self, other) is None:
                raise ValueError(f"{name} belongs to {other}, which is not there")
        if self.then is not None and self.answer is not None:
            raise ValueError("then belongs to tool or delegate, not to answer")
        return self


class RuleAgentEntry(AgentEntry):
    """An agent that answers by rules: the first that fits."""

    rules: list[RuleEntry] = Field(min_length=1, description="The first that fits is taken.")
    default: Template | None = Field(default=None, description="What to say when none fits; else the turn gives up.")


class AgentsFile(Entry):
    """The file as a whole. Each agent is read by its type."""

    agents: Annotated[list[Any], Field(min_length=1), Named("a list of agents")]


def _evaluation(value: object) -> object:
    try:
        return msgspec.convert(value, Evaluation)
    except msgspec.ValidationError as error:
        raise ValueError(f"expected an evaluation: {error}") from None


class Changes(BaseModel):
    """A runtime override of an agent's configuration. Texts from a command line are read as what they stand for."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, arbitrary_types_allowed=True)

    behavior: Name | None = None
    tools: Annotated[list[Name], BeforeValidator(_split), AfterValidator(_once)] | None = None
    model: Name | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_tokens: Count | None = None
    render_policy: Render | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    budget: BudgetEntry | None = None
    book: Name | None = None
    evaluations: list[Annotated[Evaluation, BeforeValidator(_evaluation)]] | None = None

    @classmethod
    def read(cls, changes: Mapping[str, Any]) -> Self:
        """Raises UsageError for an unknown key or a value that cannot be. `llm_model` is `model`."""
        given = dict(changes)
        if "llm_model" in given:
            model = given.pop("llm_model")
            if given.setdefault("model", model) != model:
                raise UsageError("override: model and llm_model are the same; set model")
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            fault = next(faults(cls, error))
            raise UsageError(f"override: {subject(fault.subject)}{fault.text}") from None

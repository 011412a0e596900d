"""What `config/config.json` may hold: every key with its type, default and effect, and the variables that set them.

Knows no file and reads no environment; `settings.py` does.
"""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from p2engine.documents import Named, expected
from p2engine.domain.setup import DedupPolicy


def _level(value: object) -> object:
    """Levels in any case; the seeds write `error`, Python says WARN and WARNING."""
    return {"WARN": "WARNING"}.get(value.upper(), value.upper()) if isinstance(value, str) else value


def address(value: str) -> str:
    """The base of an HTTP API, without a slash at its end. Raises ValueError."""
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
        raise ValueError("expected an address such as https://host/v1, without user, query or fragment")
    return value.rstrip("/")


Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_level)]
Address = Annotated[str, AfterValidator(address), Named("an http or https address")]
Filled = Annotated[str, Field(min_length=1), Named("text")]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Amount = Annotated[Decimal, Field(ge=0, strict=False), Named("an amount")]


DEDUP = (
    "What an equal tool call comes to: `none` runs it; `penalty` runs it, counts it and halves its reward each time;"
    " `strict` does not run one with side effects again."
)


class Section(BaseModel):
    """A group of keys. `later`: keys, or values of keys, that this version refuses by name."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
    later: ClassVar[Mapping[str, tuple[object, ...]]] = {}


class Models(Section):
    default_model: Filled = Field(default="openai/gpt-4o", description="The model of agents that name none.")
    supported_models: list[Filled] = Field(default=[], description="When given, agents may name no other model.")


class Llm(Section):
    api_base: Address | None = Field(
        default=None,
        description="Where the provider of `llm.models.default_model` is asked, if not at the vendor's own address.",
    )
    offline: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="When the offline stand-in answers. `auto`: where a provider has no key and `api_base` is the"
        " vendor's own. In `mode: production` the default is `never`.",
    )
    models: Models = Models()


class Logging(Section):
    log_dir: Filled = Field(default="logs", description="Folder of log files, from the project folder.")
    log_file: Filled = Field(default="main.log", description="The main log file in it.")
    level: Level = Field(default="INFO", description="What is logged.")
    model_level: Level = Field(default="ERROR", description="What model calls log; `debug` shows them.")
    console: bool = Field(default=False, description="Log to the terminal as well.")
    events_file: Filled | None = Field(
        default=None, description="A file in `logging.log_dir` that gets every event as a line of JSON."
    )


class Sqlite(Section):
    synchronous: Literal["full", "normal"] = Field(
        default="full",
        description="`full`: an acknowledged commit survives power loss; `normal`: it survives a crash of ours.",
    )


class Weather(Section):
    backend: Literal["table", "open-meteo"] = Field(
        default="table",
        description="Where `get_weather` looks: a small table that says it is one, or Open-Meteo over HTTP.",
    )


class TurnBudget(Section):
    turn_usd: Positive | None = Field(default=None, description="Model cost of one turn, in US dollars.")
    turn_tokens: Count | None = Field(default=None, description="Tokens of one turn, in and out.")
    turn_steps: Count | None = Field(default=None, description="Model replies and results in one turn.")
    turn_seconds: Positive | None = Field(default=None, description="Wall time of one turn, in seconds.")
    conversation_usd: Positive | None = Field(
        default=None,
        description="Model cost of one path of a conversation over all its turns, in US dollars; a fork inherits what"
        " its part of the path cost.",
    )
    later = {"rollout_usd": ()}


class Redis(Section):
    host: Filled = Field(default="localhost", description="Read when `store: redis` is built; no effect now.")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(default=6379, description="As `redis.host`.")
    db: Annotated[int, Field(ge=0)] = Field(default=0, description="As `redis.host`.")
    prefix: str = Field(default="p2engine", description="As `redis.host`.")


class Ledger(Section):
    enabled: bool = Field(default=False, description="The ledger is not in this version: `true` only says so at start.")
    json_api_url: Address = Field(
        default="http://localhost:7575", description="Read when the ledger is built; no effect now."
    )
    party_id: Filled = Field(default="p2engine::default", description="As `ledger.json_api_url`.")
    initial_balance: Amount = Field(default=Decimal("100.0"), description="As `ledger.json_api_url`.")
    later = {"driver": (), "caps": ()}


class Configuration(Section):
    """What `config/config.json` may hold."""

    mode: Literal["development", "production"] = Field(
        default="development", description="`production`: nothing is answered offline unless `llm.offline` says so."
    )
    store: Literal["sqlite"] = Field(default="sqlite", description="Where conversations are kept.")
    dispatch: Literal["inline"] = Field(default="inline", description="Who runs effects.")
    blobs: Literal["fs"] = Field(default="fs", description="Where large bodies are kept.")
    dedup: DedupPolicy = Field(default="none", description=DEDUP)
    llm: Llm = Llm()
    logging: Logging = Logging()
    sqlite: Sqlite = Sqlite()
    weather: Weather = Weather()
    budget: TurnBudget = TurnBudget()
    redis: Redis = Redis()
    ledger: Ledger = Ledger()
    later = {"store": ("redis",), "dispatch": ("celery",), "blobs": ("redis", "s3"), "limits": ()}


VARIABLES: Mapping[str, str] = {
    "P2ENGINE_OFFLINE": "llm.offline",
    "P2ENGINE_STORE": "store",
    "P2ENGINE_DISPATCH": "dispatch",
    "ARTIFACT_DRIVER": "blobs",
    "DEDUP_POLICY": "dedup",
    "WEATHER_BACKEND": "weather.backend",
    "LOG_LEVEL": "logging.level",
    "LITELLM_LOG_LEVEL": "logging.model_level",
    "LOG_TO_CONSOLE": "logging.console",
    "LEDGER_ENABLED": "ledger.enabled",
    "REDIS_HOST": "redis.host",
    "REDIS_PORT": "redis.port",
    "REDIS_DB": "redis.db",
}
"""Variables that set a key."""

PROVIDERS: Mapping[str, str] = {
    "OPENAI_API_KEY": "The key for models `openai/…`.",
    "OPENAI_BASE_URL": "Where models `openai/…` are asked, if not at the vendor's own address.",
    "…_API_KEY": "The key of another provider: `ANTHROPIC_API_KEY` for `anthropic/…`, and so on.",
}
"""Variables about providers of models."""

PLACES: Mapping[str, str] = {
    "P2ENGINE_PROJECT": "The project folder; not in `.env`, which lies in it.",
    "P2ENGINE_HOME": "The state folder; else `.p2engine` in the project folder.",
    "CONFIG_FILE": "The configuration file; else `config/config.json` in the project folder.",
}
"""Variables that say where things are. Relative ones start at the working folder, those in `.env` at the project."""

NOT_BUILT: Mapping[str, str] = {
    "OBS_BACKEND": "refused",
    "P2ENGINE_LEDGER_DRIVER": "refused",
    "OBS_ENABLED": "noted",
    "WORKER_LOG_LEVEL": "noted",
    "DAML_PACKAGE_ID": "noted",
    "LEDGER_DEV_MODE": "noted",
    "S3_BUCKET": "noted",
}
"""Known variables of features that this version does not have: refused where they choose one, else named in a note."""


class Key(NamedTuple):
    """One setting: its dotted name, what may stand there, its default and effect, and the variable that sets it."""

    name: str
    words: str
    default: Any
    variable: str
    effect: str


def all_keys(model: type[BaseModel] = Configuration, inside: str = "") -> Iterator[Key]:
    """Every key below `model`, in the order of the file."""
    variables = {key: name for name, key in VARIABLES.items()}
    for field_name, field in model.model_fields.items():
        name, annotation = inside + field_name, field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from all_keys(annotation, f"{name}.")
        else:
            words = expected(annotation, field.metadata)
            yield Key(name, words, field.default, variables.get(name, ""), field.description or "")

"""What `config/config.json` may hold: every key with its type, default and effect, and the variables that set them.

Knows no file and reads no environment; `settings.py` does.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from p2engine.documents import Named, expected
from p2engine.domain import money
from p2engine.domain.setup import DedupPolicy
from p2engine.errors import UsageError
from p2engine.limits import MODEL_CONCURRENCY_MAX
from p2engine.stores.redis_address import RedisAddress


def _level(value: object) -> object:
    """Levels in any case; the seeds write `error`, Python says WARN and WARNING."""
    return {"WARN": "WARNING"}.get(value.upper(), value.upper()) if isinstance(value, str) else value


def address(value: str) -> str:
    """The base of an HTTP API, without a slash at its end. Raises ValueError."""
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", value):
        raise ValueError("expected an address such as https://host/v1, without user, query or fragment")
    return value.rstrip("/")


def _host(value: str) -> str:
    """The name or IP address of a host, and nothing else. Raises ValueError."""
    try:
        if re.fullmatch(r"[\w.-]+", value, re.ASCII) or ipaddress.ip_address(value):
            return value
    except ValueError:
        pass
    raise ValueError("expected the name or the IP address of a host, without a scheme, port or user")


def _prefix(value: str) -> str:
    """What the names of keys start with. Raises ValueError."""
    if not re.fullmatch(r"[\w.:-]{1,60}", value, re.ASCII):  # no pattern of Redis, and nothing to quote
        raise ValueError("expected 1 to 60 letters, digits or _ . : -")
    return value


def _plain(value: object) -> object:
    """Text as amounts are written everywhere, without an exponent, and no number that may have lost digits.

    Raises ValueError.
    """
    if not isinstance(value, str | float):
        return value
    try:
        return money.Amount.parse(value, zero=True).value
    except UsageError as error:
        raise ValueError(str(error)) from None


def _amount(value: Decimal) -> Decimal:
    """What a ledger can hold. Raises ValueError."""
    try:
        return money.Amount.parse(value, zero=True).value
    except UsageError as error:
        raise ValueError(str(error)) from None


def _elsewhere(_: object) -> object:
    raise ValueError("is no setting of a file: put REDIS_PASSWORD into .env or the environment")


Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_level)]
Address = Annotated[str, AfterValidator(address), Named("an http or https address")]
Host = Annotated[str, AfterValidator(_host), Named("the name or the IP address of a host")]
Prefix = Annotated[str, AfterValidator(_prefix), Named("1 to 60 letters, digits or _ . : -")]
Filled = Annotated[str, Field(min_length=1), Named("text")]
QueueName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,60}$"), Named("1 to 60 letters, digits, - or _")]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Amount = Annotated[
    Decimal, Field(ge=0, strict=False), BeforeValidator(_plain), AfterValidator(_amount), Named("an amount")
]


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
    rollout_usd: Positive | None = Field(
        default=5.0,
        description="What one rollout may spend, judges included, in US dollars: once it is spent no trial begins. Its"
        " own file or `--budget` may say otherwise.",
    )


class Redis(Section):
    host: Host = Field(
        default="localhost",
        description="Where the Redis of `store: redis`, `blobs: redis` and `dispatch: celery` is: one primary, Redis 7"
        " or Valkey; no Cluster.",
    )
    port: Annotated[int, Field(ge=1, le=65535)] = Field(default=6379, description="Its port.")
    db: Annotated[int, Field(ge=0)] = Field(default=0, description="Which of its databases.")
    prefix: Prefix = Field(
        default="p2engine",
        description="What the names of all keys start with. Projects that share a database need one each.",
    )
    username: Filled | None = Field(
        default=None, description="Its user, where it has users. The password is only read from `REDIS_PASSWORD`."
    )
    tls: bool = Field(default=False, description="Speak TLS with it. Its certificate is checked.")
    ca: Filled | None = Field(
        default=None,
        description="A file of certificates to trust instead of the system's, from the project folder.",
    )
    durability: Literal["refuse", "warn"] = Field(
        default="refuse",
        description="What to do at a start where its settings can lose what it acknowledged (`appendonly`,"
        " `appendfsync`, `maxmemory-policy`): `refuse` to work, or `warn` and go on.",
    )
    password: Annotated[None, BeforeValidator(_elsewhere)] = Field(default=None, exclude=True)

    def address(self, password: SecretStr | None, folder: Path) -> RedisAddress:
        """Where it is, and as whom to speak to it. folder: where a relative path starts."""
        return RedisAddress(
            host=self.host,
            port=self.port,
            db=self.db,
            prefix=self.prefix,
            username=self.username,
            password=password.get_secret_value() if password else None,
            tls=self.tls,
            ca=str(folder / self.ca) if self.ca else None,
        )


class CeleryKeys(Section):
    queues: dict[Filled, QueueName] = Field(
        default={},
        description="Tool → queue: calls of this tool run on workers of that queue only. Others are on `tools` where"
        " they block, else on `ticks`.",
    )


class Limits(Section):
    concurrency: dict[Filled, Count] = Field(
        default={},
        description=f"Provider → calls of its models at once, {MODEL_CONCURRENCY_MAX} where nothing is said. With"
        " `store: redis`, those of all processes count.",
    )
    per_minute: dict[Filled, Count] = Field(
        default={},
        description="Provider → calls of its models that may start within any 60 seconds. With `store: redis`, those"
        " of all processes count.",
    )


class Caps(Section):
    per_transfer: Amount | None = Field(default=None, description="The most that an agent may pay at once.")
    per_turn: Amount | None = Field(
        default=None, description="The most that one turn may pay, the turns that it delegates included."
    )
    per_day: Amount | None = Field(default=None, description="The most that an agent may pay in a day (UTC).")
    per_agent: Amount | None = Field(default=None, description="The most that an agent may ever pay.")
    per_minute: Count | None = Field(default=60, description="How many payments an agent may make in a minute.")

    @property
    def amounts(self) -> money.Caps:
        """As the runtime reads them."""

        def amount(cap: Decimal | None) -> money.Amount | None:
            return None if cap is None else money.Amount.parse(cap, zero=True)

        return money.Caps(
            per_transfer=amount(self.per_transfer),
            per_turn=amount(self.per_turn),
            per_day=amount(self.per_day),
            per_agent=amount(self.per_agent),
            per_minute=self.per_minute,
        )


class Ledger(Section):
    enabled: bool = Field(
        default=True,
        description="Whether agents have wallets and tools to pay with. There is no ledger before its first use.",
    )
    driver: Literal["embedded"] = Field(
        default="embedded",
        description="Where the ledger is kept: `embedded`, in the state folder, or with `store: redis` in that Redis.",
    )
    json_api_url: Address = Field(
        default="http://localhost:7575", description="Of a Canton participant, which this version does not have."
    )
    party_id: Filled = Field(default="p2engine::default", description="As `ledger.json_api_url`.")
    initial_balance: Amount = Field(
        default=Decimal("100.0"), description="What a wallet is opened with, for agents that say nothing else."
    )
    caps: Caps = Caps()
    later = {"driver": ("canton",)}


class Configuration(Section):
    """What `config/config.json` may hold."""

    mode: Literal["development", "production"] = Field(
        default="development", description="`production`: nothing is answered offline unless `llm.offline` says so."
    )
    store: Literal["sqlite", "redis"] = Field(
        default="sqlite",
        description="Where conversations are kept: `sqlite`, in the state folder, for one machine; `redis`, for any"
        " number.",
    )
    dispatch: Literal["inline", "celery"] = Field(
        default="inline",
        description="Who runs effects: `inline`, the process that works on the conversation; `celery`, workers, with"
        " the Redis as their broker. Workers on one machine may share `store: sqlite`; those on several need"
        " `store: redis`.",
    )
    blobs: Literal["fs", "redis"] = Field(
        default="fs",
        description="Where large bodies are kept: `fs`, in the state folder; `redis`, which is the default with"
        " `store: redis`.",
    )
    blobs_shared: bool = Field(
        default=False,
        description="Says that every host sees the same folder under `blobs: fs`, by a network file system.",
    )
    dedup: DedupPolicy = Field(default="none", description=DEDUP)
    llm: Llm = Llm()
    logging: Logging = Logging()
    sqlite: Sqlite = Sqlite()
    weather: Weather = Weather()
    budget: TurnBudget = TurnBudget()
    limits: Limits = Limits()
    celery: CeleryKeys = CeleryKeys()
    redis: Redis = Redis()
    ledger: Ledger = Ledger()
    later = {"blobs": ("s3",)}


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
    "P2ENGINE_LEDGER_DRIVER": "ledger.driver",
    "REDIS_HOST": "redis.host",
    "REDIS_PORT": "redis.port",
    "REDIS_DB": "redis.db",
    "REDIS_USERNAME": "redis.username",
    "REDIS_TLS": "redis.tls",
}
"""Variables that set a key."""

PROVIDERS: Mapping[str, str] = {
    "OPENAI_API_KEY": "The key for models `openai/…`.",
    "OPENAI_BASE_URL": "Where models `openai/…` are asked, if not at the vendor's own address.",
    "…_API_KEY": "The key of another provider: `ANTHROPIC_API_KEY` for `anthropic/…`, and so on.",
}
"""Variables about providers of models."""

SECRETS: Mapping[str, str] = {"REDIS_PASSWORD": "The password of the Redis at `redis.host`; never shown."}
"""Variables that only `.env` and the environment may hold, keys of providers aside."""

PLACES: Mapping[str, str] = {
    "P2ENGINE_PROJECT": "The project folder; not in `.env`, which lies in it.",
    "P2ENGINE_HOME": "The state folder; else `.p2engine` in the project folder.",
    "CONFIG_FILE": "The configuration file; else `config/config.json` in the project folder.",
}
"""Variables that say where things are. Relative ones start at the working folder, those in `.env` at the project."""

NOT_BUILT: Mapping[str, str] = {
    "OBS_BACKEND": "refused",
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
        elif not field.exclude:
            words = expected(annotation, field.metadata)
            yield Key(name, words, field.default, variables.get(name, ""), field.description or "")

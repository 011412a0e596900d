"""Settings: where each comes from, which wins, what is refused, and that secrets stay secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from p2engine.configuration import NOT_BUILT, PLACES, PROVIDERS, SECRETS, VARIABLES
from p2engine.domain.setup import Budget
from p2engine.errors import ConfigError, NotAvailable, P2EngineError, UsageError
from p2engine.settings import Settings

NOWHERE: Mapping[str, str] = {}
NO_HOST = "expected the name or the IP address of a host, without a scheme, port or user"
NO_ADDRESS = "expected an address such as https://host/v1, without user, query or fragment"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, and the working folder in it."""
    folder = tmp_path / "project"
    (folder / "config").mkdir(parents=True)
    (folder / "config" / "config.json").write_text("{}")
    monkeypatch.chdir(folder)
    return folder


def load(environ: Mapping[str, str] = NOWHERE, **arguments: Any) -> Settings:
    return Settings.load(environ=environ, **arguments)


def write(project: Path, config: Any) -> None:
    (project / "config" / "config.json").write_text(config if isinstance(config, str) else json.dumps(config, indent=2))


def value_of(settings: Settings, key: str) -> Any:
    value: Any = settings
    for step in key.split("."):
        value = value[step] if isinstance(value, Mapping) else getattr(value, step)
    return value


# variable, value, key of the settings, what it comes to
EFFECTS: list[tuple[str, str, str, Any]] = [
    ("OPENAI_API_KEY", "sk-1", "provider_keys.openai", "sk-1"),
    ("ANTHROPIC_API_KEY", "key-2", "provider_keys.anthropic", "key-2"),
    ("OPENAI_BASE_URL", "http://127.0.0.1:9/v1/", "api_bases.openai", "http://127.0.0.1:9/v1"),
    ("LEDGER_ENABLED", "true", "ledger.enabled", True),
    ("P2ENGINE_LEDGER_DRIVER", "embedded", "ledger.driver", "embedded"),
    ("LOG_LEVEL", "debug", "logging.level", "DEBUG"),
    ("LITELLM_LOG_LEVEL", "error", "logging.model_level", "ERROR"),
    ("LOG_TO_CONSOLE", "1", "logging.console", True),
    ("REDIS_HOST", "redis.local", "redis.host", "redis.local"),
    ("REDIS_PORT", "6380", "redis.port", 6380),
    ("REDIS_DB", "2", "redis.db", 2),
    ("REDIS_USERNAME", "team", "redis.username", "team"),
    ("REDIS_PASSWORD", "p w\u20ac", "redis_password", "p w\u20ac"),
    ("REDIS_TLS", "1", "redis.tls", True),
    ("DEDUP_POLICY", "strict", "dedup", "strict"),
    ("ARTIFACT_DRIVER", "redis", "blobs", "redis"),
    ("WEATHER_BACKEND", "open-meteo", "weather.backend", "open-meteo"),
    ("P2ENGINE_STORE", "redis", "store", "redis"),
    ("P2ENGINE_DISPATCH", "celery", "dispatch", "celery"),
    ("P2ENGINE_OFFLINE", "always", "llm.offline", "always"),
]


@pytest.mark.parametrize(("variable", "text", "key", "value"), EFFECTS, ids=[row[0] for row in EFFECTS])
@pytest.mark.parametrize("place", ["environment", ".env"])
def test_failure_28_every_variable_has_its_effect(
    variable: str, text: str, key: str, value: Any, place: str, project: Path
) -> None:
    """A variable of the documents sets what it says, from the process environment and from `.env`."""
    environ = {variable: text} if place == "environment" else {}
    if place == ".env":
        (project / ".env").write_text(f"{variable}={text}\n")
    found = value_of(load(environ), key)
    assert (found.get_secret_value() if isinstance(found, SecretStr) else found) == value


def test_failure_28_every_variable_is_in_a_table() -> None:
    """The table above, and the tests of places and of what is not built, leave no documented variable out."""
    tested = {row[0] for row in EFFECTS} | set(PLACES) | set(NOT_BUILT) | {"…_API_KEY"}
    assert tested - {"ANTHROPIC_API_KEY"} == {*VARIABLES, *PROVIDERS, *SECRETS, *PLACES, *NOT_BUILT}


def test_failure_28_places_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P2ENGINE_PROJECT, P2ENGINE_HOME and CONFIG_FILE say where things are; arguments win over them."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.json").write_text(json.dumps({"dedup": "strict" if name == "one" else "penalty"}))
    environ = {"P2ENGINE_PROJECT": "one", "P2ENGINE_HOME": "state", "CONFIG_FILE": "one.json"}
    settings = load(environ)
    assert (settings.project, settings.home, settings.dedup) == (tmp_path / "one", tmp_path / "state", "strict")
    settings = load(environ, project="two", home=tmp_path / "other", config="two.json")
    assert (settings.project, settings.home, settings.dedup) == (tmp_path / "two", tmp_path / "other", "penalty")


def test_the_process_environment_is_read(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an environment of its own, `load` reads the process's."""
    monkeypatch.setenv("DEDUP_POLICY", "penalty")
    assert Settings.load().dedup == "penalty"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("DEDUP_POLICY", "strickt", "DEDUP_POLICY='strickt': expected none, penalty or strict (did you mean strict?)"),
        (
            "P2ENGINE_OFFLINE",
            "alway",
            "P2ENGINE_OFFLINE='alway': expected auto, always or never (did you mean always?)",
        ),
        ("REDIS_PORT", "70000", "REDIS_PORT='70000': expected a whole number from 1 to 65535"),
        ("REDIS_PORT", "x", "REDIS_PORT='x': expected a whole number from 1 to 65535"),
        ("REDIS_DB", "-1", "REDIS_DB='-1': expected a whole number of at least 0"),
        ("LOG_TO_CONSOLE", "maybe", "LOG_TO_CONSOLE='maybe': expected true or false"),
        ("LOG_LEVEL", "loud", "LOG_LEVEL='loud': expected debug, info, warning, error or critical"),
        (
            "OPENAI_BASE_URL",
            "localhost:11434",
            f"OPENAI_BASE_URL='localhost:11434': {NO_ADDRESS}",
        ),
        ("OPENAI_API_KEY", "sk-\u20ac", "OPENAI_API_KEY: holds a character that no key has"),
        ("P2ENGINE_PROJECT", "nowhere", "project nowhere: no such folder"),
        ("CONFIG_FILE", "nowhere.json", "nowhere.json: no such file"),
        ("P2ENGINE_STORE", "redi", "P2ENGINE_STORE='redi': expected sqlite or redis (did you mean redis?)"),
        ("P2ENGINE_DISPATCH", "threads", "P2ENGINE_DISPATCH='threads': expected inline or celery"),
        ("REDIS_HOST", "localhost:6380", f"REDIS_HOST='localhost:6380': {NO_HOST}"),
        ("REDIS_HOST", "redis://x:hidden@h", f"REDIS_HOST='***@h': {NO_HOST}"),
        ("REDIS_TLS", "maybe", "REDIS_TLS='maybe': expected true or false"),
        ("REDIS_PASSWORD", "hid\x01den", "REDIS_PASSWORD: holds a character that no password has"),
        ("ARTIFACT_DRIVER", "s3", "not available in this version: ARTIFACT_DRIVER=s3"),
        ("OBS_BACKEND", "rerun", "not available in this version: OBS_BACKEND=rerun"),
        ("P2ENGINE_LEDGER_DRIVER", "canton", "not available in this version: P2ENGINE_LEDGER_DRIVER=canton"),
    ],
)
def test_failure_27_a_bad_variable_is_one_line(name: str, text: str, says: str, project: Path) -> None:
    """A wrong value, or one of a feature that is not here, is refused in one line that names the variable."""
    with pytest.raises((ConfigError, NotAvailable, UsageError)) as raised:
        load({name: text})
    assert str(raised.value).endswith(says)
    assert "\n" not in str(raised.value)


BAD_CONFIGS: dict[str, str] = {
    '{\n"llm": {"ofline": "auto"}}': "config/config.json:2: llm: unknown key 'ofline' (did you mean offline?)",
    '{\n"stor": "sqlite"}': "config/config.json:2: unknown key 'stor' (did you mean store?)",
    '{\n\n"redis": {"port": "6379"}}': (
        "config/config.json:3: redis.port: expected a whole number from 1 to 65535, not '6379'"
    ),
    '{"mode": "prod"}': (
        "config/config.json:1: mode: expected development or production, not 'prod' (did you mean production?)"
    ),
    '{"llm": []}': "config/config.json:1: llm: expected a mapping, not []",
    '{"llm": {"api_base": "ftp://x"}}': (f"config/config.json:1: llm.api_base: {NO_ADDRESS}"),
    '{"llm": {"models": {"supported_models": ["a/b"],\n"default_model": "a/c"}}}': (
        "config/config.json:2: llm.models.default_model: 'a/c' is not among supported_models (did you mean a/b?)"
    ),
    '{"budget": {"turn_usd": 0}}': "config/config.json:1: budget.turn_usd: expected a number above 0, not 0",
    '{"budget": {"turn_steps": 1.5}}': (
        "config/config.json:1: budget.turn_steps: expected a whole number of at least 1, not 1.5"
    ),
    '{"store": "redsi"}': "config/config.json:1: store: expected sqlite or redis, not 'redsi' (did you mean redis?)",
    '{"blobs": "s3"}': "not available in this version: blobs: s3",
    '{"limits": {"per_minute":\n{"openai": 0}}}': (
        "config/config.json:2: limits.per_minute.openai: expected a whole number of at least 1, not 0"
    ),
    '{"limits": {"concurrency": 3}}': "config/config.json:1: limits.concurrency: expected a mapping, not 3",
    '{"redis": {"prefix": "a*"}}': ("config/config.json:1: redis.prefix: expected 1 to 60 letters, digits or _ . : -"),
    '{"redis": {"host": "x:hidden@h"}}': f"config/config.json:1: redis.host: {NO_HOST}",
    '{"redis": {\n"password": "hidden"}}': (
        "config/config.json:2: redis.password: is no setting of a file: put REDIS_PASSWORD into .env or the environment"
    ),
    '{"ledger": {"driver": "canton"}}': "not available in this version: ledger.driver: canton",
    "": "config/config.json: is empty",
    "{": "config/config.json:1: not JSON: expecting property name enclosed in double quotes",
}


@pytest.mark.parametrize(("config", "says"), BAD_CONFIGS.items(), ids=range(len(BAD_CONFIGS)))
def test_failure_27_a_bad_configuration_file_is_one_line(config: str, says: str, project: Path) -> None:
    """A wrong config.json stops everything with the file, the line and the nearest key."""
    write(project, config)
    with pytest.raises((ConfigError, NotAvailable)) as raised:
        load()
    assert str(raised.value) == says


def test_a_key_that_is_not_built_says_where_it_stands(project: Path) -> None:
    """The refusal's hint names file and line, or the variable."""
    write(project, '{\n"blobs": "s3"}')
    with pytest.raises(NotAvailable) as raised:
        load()
    assert raised.value.hint == "config/config.json:2: take it out"
    write(project, {})
    (project / ".env").write_text("\nARTIFACT_DRIVER=s3\n")
    with pytest.raises(NotAvailable) as raised:
        load()
    assert raised.value.hint == "unset it (.env:2: ARTIFACT_DRIVER)"


def test_precedence_runs_from_defaults_to_arguments(project: Path) -> None:
    """Defaults, then the file, then `.env`, then the environment, then arguments; key by key."""

    def levels(**arguments: Any) -> tuple[str, str]:
        settings = load(environ, **arguments)
        return settings.llm.offline, settings.logging.level

    environ: dict[str, str] = {}
    assert levels() == ("auto", "INFO")
    write(project, {"llm": {"offline": "always"}, "logging": {"level": "ERROR"}})
    assert levels() == ("always", "ERROR")
    (project / ".env").write_text("P2ENGINE_OFFLINE=never\n")
    assert levels() == ("never", "ERROR")
    environ = {"P2ENGINE_OFFLINE": "auto"}
    assert levels() == ("auto", "ERROR")
    assert levels(llm={"offline": "always"}) == ("always", "ERROR")


def test_every_setting_says_where_it_came_from(project: Path) -> None:
    """`sources` names the file and line, the variable, or the argument; defaults are not in it."""
    write(project, '{\n"llm": {\n"offline": "always"}}')
    (project / ".env").write_text("# ours\nLOG_LEVEL=DEBUG\n")
    settings = load({"DEDUP_POLICY": "strict"}, weather={"backend": "open-meteo"})
    assert settings.sources == {
        "llm.offline": "config/config.json:3",
        "logging.level": ".env:2: LOG_LEVEL",
        "dedup": "environment: DEDUP_POLICY",
        "weather.backend": "argument",
    }
    rows = {key: (value, source) for key, value, source in settings.rows()}
    assert rows["llm.offline"] == ("always", "config/config.json:3")
    assert rows["store"] == ("sqlite", "default")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"stor": "sqlite"}, "unknown key 'stor' (did you mean store?)"),
        ({"llm": {"offline": "x"}}, "llm.offline: expected auto, always or never, not 'x'"),
        ({"blobs": "s3"}, "not available in this version: blobs: s3"),
        (
            {"ledger": {"caps": {"per_turn": "1e3"}}},
            "ledger.caps.per_turn: expected an amount such as 12.5, not '1e3'",
        ),
        (
            {"ledger": {"initial_balance": 1234567.123456789012}},
            "ledger.initial_balance: write 1234567.123456789 as text: a number with so many digits may have lost some",
        ),
        ({"ledger": {"initial_balance": "NaN"}}, "ledger.initial_balance: expected an amount such as 12.5, not 'NaN'"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], says: str, project: Path) -> None:
    """An argument is judged like a key of the file."""
    with pytest.raises((UsageError, NotAvailable)) as raised:
        load(**arguments)
    assert str(raised.value) == says


def test_the_seeds_configuration_file_loads(project: Path) -> None:
    """The example with redis, llm and ledger blocks is taken as typed, on the embedded store."""
    write(
        project,
        {
            "redis": {"host": "localhost", "port": 6379, "db": 0},
            "llm": {"api_base": "https://api.openai.com/v1", "models": {"default_model": "openai/gpt-4o"}},
            "ledger": {
                "enabled": True,
                "json_api_url": "http://localhost:7575",
                "party_id": "p2engine::default",
                "initial_balance": 100.0,
            },
        },
    )
    settings = load()
    assert settings.store == "sqlite"
    assert settings.ledger.initial_balance == Decimal("100.0")
    assert settings.notes == []


SEEDS_ENV = """\
# Configuration file path (optional - defaults to config/config.json)
CONFIG_FILE=config/config.json
OPENAI_API_KEY="sk-your-api-key-here"
LEDGER_ENABLED=true
DAML_PACKAGE_ID=auto_generated_on_build

LOG_LEVEL=INFO              # Main application log level
WORKER_LOG_LEVEL=INFO       # Celery worker log level
LITELLM_LOG_LEVEL=error     # LLM library log level (set to debug for API traces)
LOG_TO_CONSOLE=0            # Set to 1 to see logs in console
REDIS_HOST=localhost
REDIS_PORT=6379
REDIS_DB=0
DEDUP_POLICY=none
ARTIFACT_DRIVER=fs
# LOG_TO_CONSOLE=1           # Show logs in terminal
OBS_ENABLED=true OBS_BACKEND=rerun ./scripts/run_project.sh
"""


def test_the_seeds_environment_file_loads_and_says_what_has_no_effect(project: Path) -> None:
    """The example `.env` starts; what it asks for beyond this version is named once, and its key is no key."""
    (project / ".env").write_text(SEEDS_ENV)
    settings = load()
    assert settings.logging.console is False
    assert settings.provider_keys == {}
    assert settings.notes == [
        ".env:17: this is a command, not a variable; type it in a shell",
        "no effect in this version: DAML_PACKAGE_ID, WORKER_LOG_LEVEL",
        ".env:3: OPENAI_API_KEY is the placeholder of the example, so there is no key",
    ]


def test_failure_28_a_ledger_switched_off_needs_nothing_and_says_nothing(project: Path) -> None:
    """LEDGER_ENABLED=false is quiet."""
    assert load({"LEDGER_ENABLED": "false", "OBS_ENABLED": "false"}).notes == []


@pytest.mark.parametrize("name", [name for name, what in NOT_BUILT.items() if what == "noted"])
def test_a_variable_without_effect_is_named(name: str, project: Path) -> None:
    """A known variable of a feature that is not here does not stop a start, and is not passed over in silence."""
    assert load({name: "yes"}).notes == [f"no effect in this version: {name}"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("A=1\nLOG_LEVEL\n", ".env:2: expected NAME=VALUE, not 'LOG_LEVEL'"),
        ("LOG_LEVEL='DEBUG\n", '.env:1: expected NAME=VALUE, not "LOG_LEVEL=\'DEBUG"'),
        ("LOG_LEVEL=DEBUG LOG_TO_CONSOLE=1\n", ".env:1: one variable a line"),
        ("\n\nDEDUP_POLICY=strickt\n", ".env:3: DEDUP_POLICY='strickt': expected none, penalty or strict"),
        ("P2ENGINE_PROJECT=x\n", ".env:1: P2ENGINE_PROJECT has no effect here: this file lies in the project"),
        ("XAI_API_KEY='a b'\n", ".env:1: XAI_API_KEY: holds a character that no key has"),
    ],
)
def test_failure_27_a_wrong_line_of_dotenv_is_one_line(text: str, says: str, project: Path) -> None:
    """A line of `.env` that means nothing is an error with its place."""
    (project / ".env").write_text(text)
    with pytest.raises(ConfigError) as raised:
        load()
    assert str(raised.value).startswith(says)


def test_dotenv_understands_quotes_exports_and_comments_and_expands_nothing(project: Path) -> None:
    """What people write into `.env` is read as they mean it; `$` is a character."""
    lines = ["export OPENAI_API_KEY='sk-$HOME'  # ours", 'LOG_LEVEL="debug"', "OTHER_PROGRAM=a b c", "EMPTY="]
    (project / ".env").write_text("\n".join(lines))
    settings = load()
    assert settings.provider_keys["openai"].get_secret_value() == "sk-$HOME"
    assert settings.logging.level == "DEBUG"
    assert settings.notes == []
    assert "OPENAI_API_KEY" not in os.environ


def test_an_empty_variable_counts_as_none_and_hides_that_of_dotenv(project: Path) -> None:
    """`OPENAI_API_KEY= p2engine …` runs without the key that `.env` has."""
    (project / ".env").write_text("OPENAI_API_KEY=sk-1\nLOG_LEVEL=\n")
    assert "openai" in load().provider_keys
    assert load({"OPENAI_API_KEY": ""}).provider_keys == {}


@pytest.mark.parametrize(
    ("name", "meant"), [("P2ENGINE_STROE", "P2ENGINE_STORE"), ("P2ENGINE_OFLINE", "P2ENGINE_OFFLINE")]
)
def test_a_misspelt_variable_is_named(name: str, meant: str, project: Path) -> None:
    """A variable that looks like ours and is not is said, with the one that was meant."""
    assert load({name: "x"}).notes == [f"environment: {name} is not a variable of P2Engine (did you mean {meant}?)"]
    (project / ".env").write_text("DEDUP_POLICI=strict\n")
    assert load().notes == [".env:1: DEDUP_POLICI is not a variable of P2Engine (did you mean DEDUP_POLICY?)"]


def test_variables_of_others_are_none_of_our_business(project: Path) -> None:
    """A variable that is near to none of ours is not commented on."""
    (project / ".env").write_text("DATABASE_URL=x\n")
    assert load({"P2ENGINE_REQUIRE": "redis", "STORE": "x"}).notes == []


def test_an_address_belongs_to_the_provider_it_was_set_for(project: Path) -> None:
    """`llm.api_base` is for the provider of the default model, OPENAI_BASE_URL for OpenAI; nothing else gets one."""
    assert load().api_bases == {}
    write(project, {"llm": {"api_base": "http://127.0.0.1:1/v1", "models": {"default_model": "groq/llama"}}})
    assert load().api_bases == {"groq": "http://127.0.0.1:1/v1"}
    assert load({"OPENAI_BASE_URL": "http://127.0.0.1:2/v1"}).api_bases == {
        "groq": "http://127.0.0.1:1/v1",
        "openai": "http://127.0.0.1:2/v1",
    }


def test_secrets_are_not_shown(project: Path) -> None:
    """No way of printing the settings shows a key, and neither does an error about one."""
    settings = load({"OPENAI_API_KEY": "sk-hidden", "GROQ_API_KEY": "gsk-hidden", "REDIS_PASSWORD": "hidden"})
    assert settings.redis_address.password == "hidden"
    address = settings.redis_address
    ways = [repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())]
    for shown in (*ways, repr(address), str(address), str(list(settings.rows()))):
        assert "hidden" not in shown
    with pytest.raises(ConfigError) as raised:
        load({"OPENAI_API_KEY": "sk-hidden key"})
    assert "hidden" not in str(raised.value)


def test_the_project_is_the_nearest_folder_upwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From deep inside, the nearest `config/agents.yml` or `config/config.json` decides; `.env` lies beside it."""
    outer, inner = tmp_path / "outer", tmp_path / "outer" / "a" / "inner"
    for folder, mark in ((outer, "config.json"), (inner, "agents.yml")):
        (folder / "config").mkdir(parents=True)
        (folder / "config" / mark).write_text("{}")
    (inner / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(inner / "deep" / "er")
    assert load().project == inner
    monkeypatch.chdir(outer / "a")
    assert load().project == outer
    assert load().home == outer / ".p2engine"


def test_without_a_project_there_are_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No project is no error: defaults, state below the working folder, logs inside the state."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("LOG_LEVEL=DEBUG\n")
    settings = load()
    assert (settings.project, settings.config) == (None, None)
    assert settings.home == tmp_path / ".p2engine"
    assert settings.log_path == tmp_path / ".p2engine" / "logs" / "main.log"
    assert settings.logging.level == "DEBUG"


def test_an_exported_relative_config_file_still_means_the_projects(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CONFIG_FILE=config/config.json exported from `.env` by a shell works from a folder inside the project."""
    write(project, {"dedup": "strict"})
    (project / "deep").mkdir()
    monkeypatch.chdir(project / "deep")
    assert load({"CONFIG_FILE": "config/config.json"}).dedup == "strict"


def test_production_never_answers_offline_unless_said(project: Path) -> None:
    """`mode: production` makes `never` the default of `llm.offline`, and no more than the default."""
    assert load(mode="production").llm.offline == "never"
    assert load({"P2ENGINE_OFFLINE": "auto"}, mode="production").llm.offline == "auto"


def test_large_bodies_follow_the_store_unless_said(project: Path) -> None:
    """With `store: redis` the default of `blobs` is redis, and no more than the default."""
    settings = load({"P2ENGINE_STORE": "redis"})
    assert (settings.blobs, settings.sources["blobs"]) == ("redis", "store: redis")
    assert load({"P2ENGINE_STORE": "redis", "ARTIFACT_DRIVER": "fs"}).blobs == "fs"
    assert load({"P2ENGINE_DISPATCH": "celery"}).blobs == "fs"


def test_the_address_of_redis_is_put_together(project: Path) -> None:
    """What the file, `.env` and the environment say of one Redis is one address, with a url for other libraries."""
    write(project, {"redis": {"host": "::1", "tls": True, "ca": "config/ca.pem"}})
    (project / ".env").write_text("REDIS_PASSWORD=p@ss/word\n")
    address = load({"REDIS_DB": "3", "REDIS_USERNAME": "me"}).redis_address
    assert str(address) == "rediss://[::1]:6379/3"
    assert address.ca == str(project / "config/ca.pem")
    assert address.url().startswith("rediss://me:p%40ss%2Fword@[::1]:6379/3?ssl_cert_reqs=required&ssl_ca_certs=%2F")
    assert load({"REDIS_PASSWORD": ""}, redis={"tls": False}).redis_address.url() == "redis://[::1]:6379/0"


def test_limits_of_providers_are_put_together_one_by_one(project: Path) -> None:
    """Arguments add to the file provider by provider, and each key says where its last word came from."""
    write(project, {"limits": {"per_minute": {"openai": 500, "groq": 30}, "concurrency": {"openai": 20}}})
    settings = load(limits={"per_minute": {"groq": 60}})
    assert settings.limits.per_minute == {"openai": 500, "groq": 60}
    assert settings.limits.concurrency == {"openai": 20}
    sources = {key: source for key, _, source in settings.rows()}
    assert sources["limits.per_minute"] == "argument"
    assert sources["limits.concurrency"] == "config/config.json:8"


def test_the_state_folder_has_its_places(project: Path) -> None:
    """`layout` and `log_path` say where everything lies; nothing is made."""
    settings = load(logging={"log_dir": "elsewhere"})
    assert settings.layout.store == project / ".p2engine" / "store.db"
    assert {path.name for path in settings.layout} == {
        "format",
        "store.db",
        "blobs",
        "keys",
        "owners",
        "ledger.db",
        "history",
        ".gitignore",
    }
    assert settings.log_path == project / "elsewhere" / "main.log"
    assert not settings.home.exists()


def test_budget_keys_become_the_budget_of_a_turn(project: Path) -> None:
    """`budget.turn_…` is what agents without a budget of their own may spend."""
    write(project, {"budget": {"turn_usd": 0.5, "turn_steps": 20}})
    assert load().turn_budget == Budget(usd=0.5, steps=20)


@pytest.mark.parametrize("name", ["a\0b", "x" * 10_000, "../../nowhere", "~nobody-here/x"])
def test_failure_26_odd_paths_are_refused(name: str, project: Path) -> None:
    """A path with NUL, a huge one and one that is not there: one line, no traceback of another kind."""
    for arguments in ({"project": name}, {"config": name}):
        with pytest.raises(P2EngineError) as raised:
            Settings.load(environ={}, **arguments)
        assert "\n" not in str(raised.value)


def test_reading_settings_loads_no_heavy_library(project: Path) -> None:
    """A command pays for pydantic and JSON, not for YAML, templates, HTTP or pydantic-settings."""
    heavy = ["aiohttp", "dotenv", "jinja2", "litellm", "prompt_toolkit", "pydantic_settings", "rich", "ruamel.yaml"]
    code = "import sys; from p2engine.settings import Settings; Settings.load(); print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(ran.stdout.split()).isdisjoint(heavy)

"""Where each setting comes from: defaults, the file, `.env`, the environment, arguments, put into one typed object.

The only place that reads the environment. Builds nothing from what it reads.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import SecretStr, ValidationError

from p2engine.configuration import NOT_BUILT, PLACES, PROVIDERS, SECRETS, VARIABLES, Configuration, address, all_keys
from p2engine.documents import Document, did_you_mean, faults, nearest, read_json, read_text, shown, subject
from p2engine.domain.setup import Budget
from p2engine.errors import ConfigError, NotAvailable, UsageError
from p2engine.positions import show
from p2engine.stores.redis_address import RedisAddress

PLACEHOLDER = "sk-your-"  # how the examples write a key that is none


class Layout(NamedTuple):
    """What lies where in the state folder."""

    format: Path
    store: Path
    blobs: Path
    keys: Path
    owners: Path
    ledger: Path
    history: Path
    gitignore: Path


class Settings(Configuration):
    """Everything P2Engine was told, resolved.

    project: the project folder, None without one. home: the state folder. config: the configuration file that was
    read. provider_keys: provider -> API key. api_bases: provider -> the address that was set for it. notes: what a
    person should be told once. sources: dotted key -> where its value came from; an absent one is a default.
    """

    project: Path | None
    home: Path
    config: Path | None
    provider_keys: Mapping[str, SecretStr]
    api_bases: Mapping[str, str]
    redis_password: SecretStr | None
    notes: list[str]
    sources: Mapping[str, str]

    @classmethod
    def load(
        cls,
        *,
        project: Path | str | None = None,
        home: Path | str | None = None,
        config: Path | str | None = None,
        environ: Mapping[str, str] | None = None,
        **overrides: Any,
    ) -> Self:
        """Read the settings of a project. Low to high: defaults, the file, `.env`, the environment, the arguments.

        overrides: keys as the file has them (`store="sqlite"`, `llm={"offline": "never"}`). environ: read instead of
        the process environment. Raises ConfigError, UsageError or NotAvailable for the first wrong thing.
        """
        said = _environment(os.environ if environ is None else environ)
        root = _project(project, said)
        folder = root or _working_folder()
        notes: list[str] = []
        said = {name: word for name, word in {**_dotenv(folder, notes), **said}.items() if word.value}
        path = _config(config, said, root)
        document = read_json(path) if path else None
        values, sources = _merged([_from_file(document), _from_variables(said), _from_arguments(overrides)])
        _check_models(values, document)
        notes += _notes(said, values)
        return cls(
            **values,
            project=root,
            home=_place(home, "P2ENGINE_HOME", said) or folder / ".p2engine",
            config=path,
            provider_keys=_provider_keys(said, notes),
            api_bases=_api_bases(said, values),
            redis_password=_redis_password(said),
            notes=notes,
            sources=sources,
        )

    @property
    def layout(self) -> Layout:
        """What lies where in the state folder; nothing of it need exist."""
        home = self.home
        return Layout(
            format=home / "format",
            store=home / "store.db",
            blobs=home / "blobs",
            keys=home / "keys",
            owners=home / "owners",
            ledger=home / "ledger.db",
            history=home / "history",
            gitignore=home / ".gitignore",
        )

    @property
    def log_path(self) -> Path:
        """The main log file: below the project folder, or below the state folder where there is no project."""
        return (self.project or self.home) / self.logging.log_dir / self.logging.log_file

    @property
    def redis_address(self) -> RedisAddress:
        """Where the Redis is, and as whom to speak to it; whether anything needs it, `store` and others say."""
        return self.redis.address(self.redis_password, self.project or _working_folder())

    def rows(self) -> Iterator[tuple[str, Any, str]]:
        """Every key of the configuration file with its value and where that came from."""
        for key in all_keys():
            value: Any = self
            for step in key.name.split("."):
                value = getattr(value, step)
            yield key.name, value, self.sources.get(key.name, "default")

    @property
    def events_path(self) -> Path | None:
        """The file that gets every event, beside the main log; None where none was asked for."""
        return self.log_path.with_name(self.logging.events_file) if self.logging.events_file else None

    @property
    def turn_budget(self) -> Budget:
        """What a turn may spend, for agents that have no budget of their own."""
        turn = self.budget
        return Budget(steps=turn.turn_steps, tokens=turn.turn_tokens, usd=turn.turn_usd, seconds=turn.turn_seconds)


class Said(NamedTuple):
    """A variable's value and who set it. folder: where a relative path in it starts."""

    value: str
    folder: Path
    file: str = ""
    line: int = 0

    def error(self, message: str) -> ConfigError:
        return ConfigError(message, file=self.file or None, line=self.line or None)

    def source(self, name: str) -> str:
        return f"{self.file}:{self.line}: {name}" if self.file else f"environment: {name}"


Layer = tuple[dict[str, Any], dict[str, str]]
"""Values as a nested mapping, and dotted key -> where it was said."""


def _environment(environ: Mapping[str, str]) -> dict[str, Said]:
    here = _working_folder()
    return {
        name: Said(value.strip(), here)
        for name, value in environ.items()
        if name in KNOWN or name.endswith("_API_KEY") or name.startswith("P2ENGINE_")
    }


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except OSError:
        raise UsageError("the working folder is gone", hint="cd to a folder that exists") from None


def _project(given: Path | str | None, said: Mapping[str, Said]) -> Path | None:
    """The folder that was named, or the nearest one upwards that looks like a project."""
    path = _place(given, "P2ENGINE_PROJECT", said)
    if path is None:
        here = _working_folder()
        marks = ("config/agents.yml", "config/config.json")
        return next((each for each in (here, *here.parents) if any(_exists(each / mark) for mark in marks)), None)
    if not _exists(path / "."):
        raise UsageError(f"project {shown(path)}: no such folder")
    return path


def _place(given: Path | str | None, name: str, said: Mapping[str, Said]) -> Path | None:
    """An absolute path from an argument or a variable."""
    if given is not None:
        return _working_folder() / _expanded(str(given))
    word = said.get(name)
    return word.folder / _expanded(word.value) if word and word.value else None


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # `~nobody`
        return Path(text)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _config(given: Path | str | None, said: Mapping[str, Said], root: Path | None) -> Path | None:
    """The configuration file to read. One that was named must exist; the project's own need not."""
    path = _place(given, "CONFIG_FILE", said)
    own = root / "config/config.json" if root else None
    if path is None:
        return own if own and _exists(own) else None
    if given is None and root and not _exists(path):
        # `.env` says `config/config.json`; exported by a shell that stands elsewhere, it still means the project's.
        return root / said["CONFIG_FILE"].value
    return path


SHELL_LINE = re.compile(r"\S*(?:\s+[A-Z_][A-Z0-9_]*=\S*)+(\s+\S+)*")


def _dotenv(folder: Path, notes: list[str]) -> dict[str, Said]:
    """The variables of `.env`. Nothing in it is expanded, and nothing is put into the process environment."""
    path = folder / ".env"
    if not _exists(path):
        return {}
    from io import StringIO

    from dotenv.parser import parse_stream

    file, found = shown(path), dict[str, Said]()
    for binding in parse_stream(StringIO(read_text(path))):
        text = binding.original.string
        line = binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
        if binding.error or (binding.key and binding.value is None):
            raise ConfigError(f"expected NAME=VALUE, not {show(text.strip())}", file=file, line=line)
        if not binding.key:
            continue
        quoted = text.partition("=")[2].lstrip()[:1] in ("'", '"')
        shell = None if quoted else SHELL_LINE.fullmatch(binding.value or "")
        if shell and shell[1]:
            notes.append(f"{file}:{line}: this is a command, not a variable; type it in a shell")
        elif shell:
            raise ConfigError("one variable a line", file=file, line=line)
        elif binding.key == "P2ENGINE_PROJECT":
            raise ConfigError(
                "P2ENGINE_PROJECT has no effect here: this file lies in the project", file=file, line=line
            )
        else:
            found[binding.key] = Said((binding.value or "").strip(), folder, file, line)
    return found


def _from_file(document: Document | None) -> Layer:
    if document is None:
        return {}, {}
    values = document.check(Configuration).model_dump(exclude_unset=True)
    places = [place for place, _ in _leaves(values)]
    return values, {".".join(place): f"{document.file}:{document.line(place)}" for place in places}


def _from_variables(said: Mapping[str, Said]) -> Layer:
    for name, word in said.items():
        if NOT_BUILT.get(name) == "refused":
            raise NotAvailable(f"{name}={word.value}", hint=f"unset it ({word.source(name)})")
    names = {tuple(VARIABLES[name].split(".")): name for name in said if name in VARIABLES}
    texts: dict[str, Any] = {}
    for place, name in names.items():
        inner = texts
        for step in place[:-1]:
            inner = inner.setdefault(step, {})
        inner[place[-1]] = said[name].value
    try:
        values = Configuration.model_validate_strings(texts).model_dump(exclude_unset=True)
    except ValidationError as error:
        fault = next(faults(Configuration, error))
        name = names[tuple(str(step) for step in fault.place)]
        word = said[name]
        if fault.later:
            raise NotAvailable(f"{name}={word.value}", hint=f"unset it ({word.source(name)})") from None
        raise word.error(f"{name}={show(_without_user(word.value))}: {fault.problem}{fault.near}") from None
    return values, {".".join(place): said[name].source(name) for place, name in names.items()}


def _from_arguments(overrides: Mapping[str, Any]) -> Layer:
    try:
        values = Configuration.model_validate(dict(overrides)).model_dump(exclude_unset=True)
    except ValidationError as error:
        fault = next(faults(Configuration, error))
        wrong = NotAvailable(fault.later) if fault.later else UsageError(subject(fault.subject) + fault.text)
        raise wrong from None
    return values, {".".join(place): "argument" for place, _ in _leaves(values)}


def _leaves(values: Mapping[str, Any], inside: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*inside, name))
        else:
            yield (*inside, name), value


def _merged(layers: list[Layer]) -> Layer:
    """Later layers win, key by key."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer, said in layers:
        for place, value in _leaves(layer):
            inner = values
            for step in place[:-1]:
                inner = inner.setdefault(step, {})
            inner[place[-1]] = value
            if place[0] in ("limits", "celery"):  # names of the user; `rows` asks for the key above
                sources[".".join(place[:2])] = said[".".join(place)]
        sources |= said
    llm = values.setdefault("llm", {})
    if values.get("mode") == "production" and "offline" not in llm:
        llm["offline"], sources["llm.offline"] = "never", "mode: production"
    if values.get("store") == "redis" and "blobs" not in values:
        values["blobs"], sources["blobs"] = "redis", "store: redis"
    return values, sources


def _check_models(values: Mapping[str, Any], document: Document | None) -> None:
    """Raises ConfigError when the default model is not among the supported ones."""
    models = Configuration.model_validate({"llm": values["llm"]}).llm.models
    if models.supported_models and models.default_model not in models.supported_models:
        message = f"llm.models.default_model: {models.default_model!r} is not among supported_models"
        message += did_you_mean(models.default_model, models.supported_models)
        raise document.error(message, ("llm", "models", "default_model")) if document else ConfigError(message)


def _provider_keys(said: Mapping[str, Said], notes: list[str]) -> dict[str, SecretStr]:
    """`X_API_KEY` is the key of provider `x`, whichever vendor that is."""
    keys: dict[str, SecretStr] = {}
    for name, word in said.items():
        if not name.endswith("_API_KEY") or name == "_API_KEY":
            continue
        if not (word.value.isascii() and word.value.isprintable() and " " not in word.value):
            if word.file or name == "OPENAI_API_KEY":
                raise word.error(f"{name}: holds a character that no key has")  # the value itself is never shown
        elif word.value.startswith(PLACEHOLDER):
            notes.append(f"{word.source(name)} is the placeholder of the example, so there is no key")
        else:
            keys[name.removesuffix("_API_KEY").lower()] = SecretStr(word.value)
    return keys


def _redis_password(said: Mapping[str, Said]) -> SecretStr | None:
    word = said.get("REDIS_PASSWORD")
    if word and not word.value.isprintable():
        raise word.error("REDIS_PASSWORD: holds a character that no password has")  # the value itself is never shown
    return SecretStr(word.value) if word else None


def _api_bases(said: Mapping[str, Said], values: Mapping[str, Any]) -> dict[str, str]:
    """The address in the file is for the provider of the default model beside it, OPENAI_BASE_URL is for OpenAI.

    An address may make a call to it need no key, so one that was set for a provider is never used for another.
    """
    llm = Configuration.model_validate({"llm": values["llm"]}).llm
    provider, slash, _ = llm.models.default_model.partition("/")
    bases = {provider if slash else "openai": llm.api_base} if llm.api_base else {}
    word = said.get("OPENAI_BASE_URL")
    if word:
        try:
            bases["openai"] = address(word.value)
        except ValueError as error:
            raise word.error(f"OPENAI_BASE_URL={show(_without_user(word.value))}: {error}") from None
    return bases


def _without_user(value: str) -> str:
    """An address without what stands before its last @, which may be a password."""
    *user, rest = value.split("@")
    return f"***@{rest}" if user else value


def _notes(said: Mapping[str, Said], values: Mapping[str, Any]) -> Iterator[str]:
    unused = [name for name, word in said.items() if NOT_BUILT.get(name) == "noted" and word.value not in OFF]
    if unused:
        yield f"no effect in this version: {', '.join(unused)}"
    for name, word in said.items():
        meant = _meant(name, word)
        if meant:
            yield f"{word.source(name)} is not a variable of P2Engine (did you mean {meant}?)"


def _meant(name: str, word: Said) -> str | None:
    """What a variable that means nothing was probably meant to be."""
    if name in KNOWN or name.endswith("_API_KEY"):
        return None
    if name.startswith(OURS):
        near = nearest(name.removeprefix(OURS), [each.removeprefix(OURS) for each in KNOWN if each.startswith(OURS)])
        return near and OURS + near
    return nearest(name, KNOWN, 0.85) if word.file else None


KNOWN = frozenset({*VARIABLES, *PLACES, *PROVIDERS, *SECRETS, *NOT_BUILT})
OURS = "P2ENGINE_"
OFF = ("0", "false", "False")

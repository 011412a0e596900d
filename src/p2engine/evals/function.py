"""Evaluators from classes and functions: the decorator, what it declares, and how that is run. Runs no policy."""

import inspect
import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import blake2b
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final, NamedTuple, TypeVar

from msgspec.structs import replace

from p2engine.domain.ids import ConversationId, StackRef
from p2engine.domain.verdicts import Subject, Terms, Verdict
from p2engine.errors import ConfigError, UsageError
from p2engine.evals.doors import Doors
from p2engine.evals.llm import LLMEvaluator, ask, model_of, temperature_of
from p2engine.evals.shaping import shaped
from p2engine.ports import Evaluator

T = TypeVar("T")

RUBRIC_SHOWN: Final = 4_000  # characters of a rubric that stand in a verdict
RUBRIC_WORDS: Final = 40  # of one without a name, in a line

MARK: Final = "__p2engine_evaluator__"
PLAIN: Final = "python:"  # how the ids begin of functions that nobody declared
_ID: Final = re.compile(r"(?:python:)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_VERSION: Final = re.compile(r"[A-Za-z0-9_.+-]{1,32}")


def evaluator(id: str, version: str = "1") -> Callable[[T], T]:  # noqa: A002 — the word for it
    """Declare an evaluator: a subclass of LLMEvaluator, a class with `evaluate(self, subject)`, or a function of the
    subject, `def` or `async def`. What is decorated stays as it is.

    It gives a score in 0..1, True or False, None for undecided, a mapping (`score`, `label`, `comment`, `metrics`), or
    a Verdict. Raise `version` when it judges otherwise than before: verdicts of two versions are not compared.
    Raises ConfigError, with file and line, for a declaration that cannot hold; TypeError for what is no evaluator.
    """
    if not isinstance(id, str) or id.startswith(PLAIN):
        raise TypeError('write @evaluator(id="NAME", version="1")')

    def declare(body: T) -> T:
        declared = Declared(body, id=id, version=str(version))
        try:
            setattr(body, MARK, declared)
        except AttributeError:
            raise TypeError(f"evaluator takes a class or a function, not {body!r}") from None
        return body

    return declare


class Declared:
    """An evaluator by its name: what it is made of, where it is written, and how it is bound to what it runs with."""

    def __init__(self, body: object, *, id: str, version: str) -> None:  # noqa: A002
        self.id = id
        self.version = version
        self.body = body
        self._made: object | None = None
        self.file = _file(body)
        self._digest = _digest(self.file)
        if not _ID.fullmatch(id):
            raise self.error("an id has 1 to 64 letters, digits, _ . and -, and begins with a letter, digit or _")
        if not _VERSION.fullmatch(version):
            raise self.error(f"a version has 1 to 32 letters, digits, _ . + and -; this is {version!r}")
        self._check()

    @property
    def name(self) -> str:
        """`ID@VERSION`."""
        return f"{self.id}@{self.version}"

    @property
    def line(self) -> int | None:
        """Where it begins in its file."""
        return _line(self.body)

    @property
    def source(self) -> str:
        """Where it is written, as `file:line`."""
        return ":".join(str(part) for part in (self.file, self.line) if part)

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        own = getattr(self.body, "summary", None)
        if not isinstance(own, str):
            own = inspect.cleandoc(getattr(_kind(self.body), "__doc__", None) or "")
        return next(iter(own.splitlines()), "")

    @property
    def asks_model(self) -> bool:
        """Whether a model judges, which costs money and is nothing offline."""
        kind = self.body if isinstance(self.body, type) else type(self.body)
        return issubclass(kind, LLMEvaluator)

    def error(self, message: str) -> ConfigError:
        """A ConfigError that says where it is declared."""
        return ConfigError(f"evaluator {self.id!r}: {message}", file=self.file, line=self.line)

    def made(self) -> Any:
        """The object that judges; of a class, one is made when it is first needed. Raises what its making raises."""
        if not isinstance(self.body, type):
            return self.body
        if self._made is None:
            self._made = self.body()
        return self._made

    def bind(self, doors: Doors) -> Evaluator:
        """The port, with what it needs in hand."""
        own = None if isinstance(self.body, type) else getattr(self.body, "bind", None)
        bound: Evaluator = own(self, doors) if own is not None else _Bound(self, doors)
        return bound

    def check_params(self, params: Mapping[str, Any]) -> None:
        """Raises UsageError where it cannot judge by these."""
        check = getattr(self.body, "check_params", None)
        if check is None or isinstance(self.body, type):
            return
        try:
            check(params)
        except UsageError:
            raise
        except (ValueError, LookupError, TypeError) as error:
            raise UsageError(f"{self.id}: {error}") from None

    def identity(self, params: Mapping[str, Any]) -> str:
        """Everything but the subject that a verdict depends on, in words. Raises UsageError for wrong params."""
        kind: Any = self.body
        words = [self.name, self._digest]
        if self.asks_model:
            words += [model_of(kind, params), f"temperature {temperature_of(kind, params)}"]
        if not isinstance(kind, type) and (traits := getattr(kind, "traits", None)) is not None:
            words.append(str(traits(params)))
        return " ".join(words)

    def shown(self, subject: Subject) -> object:
        """What it can see of a subject, wherever that stands: all but ids, unless it says itself that it sees less."""
        own = None if isinstance(self.body, type) else getattr(self.body, "shown", None)
        if own is not None:
            return own(subject)
        return replace(subject, event="", conversation=ConversationId(""), ref=StackRef(""), repeat=0)

    def terms(self, params: Mapping[str, Any]) -> Terms | None:
        """What a model is asked with under these params; None where none is asked, or could be."""
        try:
            return self._terms(params) if self.asks_model else None
        except (UsageError, ValueError, TypeError):  # asking it says what is wrong
            return None

    def _terms(self, params: Mapping[str, Any]) -> Terms:
        kind: Any = self.body
        rubric, words = params.get("rubric"), (self._digest, params.get("prompts"))
        own = None if isinstance(kind, type) else getattr(kind, "told_by", None)
        given = own(params) if own is not None else Told(rubric="", text=_text(rubric), words=words)
        return Terms(
            model=model_of(kind, params),
            temperature=temperature_of(kind, params),
            prompt=_hash(repr(given.words)),
            rubric=given.rubric or _beginning(given.text),
            text=given.text[:RUBRIC_SHOWN],
            digest=_hash(given.text) if given.text else "",
        )

    def _check(self) -> None:
        body = self.body
        if isinstance(body, type):
            if not issubclass(body, LLMEvaluator) and not callable(getattr(body, "evaluate", None)):
                raise self.error("a class needs evaluate(self, subject), or LLMEvaluator as its base")
            if issubclass(body, LLMEvaluator) and not _overrides(body):
                raise self.error("it needs build_messages(self, subject)")
        elif not (callable(body) or self.asks_model or hasattr(body, "evaluate") or hasattr(body, "bind")):
            raise TypeError(f"evaluator takes a class or a function, not {body!r}")


class Told(NamedTuple):
    """What a judge is told by an evaluation. rubric: its name, where it has one. words: those around it."""

    rubric: str
    text: str
    words: object


def _text(rubric: object) -> str:
    return rubric if isinstance(rubric, str) else json.dumps(rubric, ensure_ascii=False) if rubric is not None else ""


def _beginning(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= RUBRIC_WORDS else line[: RUBRIC_WORDS - 1] + "…") if line else ""


def _hash(text: str) -> str:
    return blake2b(text.encode("utf-8", "replace"), digest_size=6).hexdigest()


class _Bound:
    """A declared evaluator as the port has it."""

    def __init__(self, declared: Declared, doors: Doors) -> None:
        self._declared = declared
        self._doors = doors

    @property
    def id(self) -> str:
        return self._declared.id

    @property
    def version(self) -> str:
        return self._declared.version

    async def evaluate(self, subject: Subject) -> Verdict:
        body = (
            await self._doors.run(self._declared.made) if isinstance(self._declared.body, type) else self._declared.body
        )
        if isinstance(body, LLMEvaluator):
            return await ask(body, self.id, self.version, subject, self._doors)
        judge: Any = getattr(body, "evaluate", None) or body
        if inspect.iscoroutinefunction(judge):
            result = await judge(subject)
        else:
            result = await self._doors.run(partial(judge, subject))
            if inspect.isawaitable(result):
                result = await result
        return shaped(result, self.id, self.version, subject)


def _overrides(kind: type[LLMEvaluator]) -> bool:
    return kind.build_messages is not LLMEvaluator.build_messages


def _kind(body: object) -> Any:
    return body if isinstance(body, type) or inspect.isroutine(body) else type(body)


def _code(body: object) -> CodeType | None:
    return getattr(inspect.unwrap(body) if inspect.isroutine(body) else None, "__code__", None)


def _file(body: object) -> str | None:
    code = _code(body)
    try:
        return code.co_filename if code else inspect.getsourcefile(_kind(body))
    except TypeError:
        return None


def _line(body: object) -> int | None:
    """Of a class it takes parsing the file: only when somebody is told, not for each evaluator at each start."""
    code = _code(body)
    try:
        return code.co_firstlineno if code else inspect.getsourcelines(_kind(body))[1]
    except (OSError, TypeError):
        return None


def _digest(file: str | None) -> str:
    """Of the whole file as it was when it was loaded: what an evaluator calls there counts as well."""
    try:
        text = Path(file).read_bytes() if file else b""
    except (OSError, ValueError):
        text = b""
    return blake2b(text, digest_size=6).hexdigest()


def declared_by(value: object) -> Declared | None:
    """The evaluator that a decorated class or function is; None for anything else, a subclass of one included."""
    if isinstance(value, Declared):
        return value
    declared = vars(value).get(MARK) if isinstance(value, type) or inspect.isfunction(value) else None
    return declared if isinstance(declared, Declared) else None


def declared_in(module: ModuleType) -> list[Declared]:
    """The evaluators of a module, and its plain functions of a `subject`, for the check `python`."""
    found = []
    for name, value in vars(module).items():
        if (declared := declared_by(value)) is not None:
            found.append(declared)
        elif inspect.isfunction(value) and value.__module__ == module.__name__ and _takes_subject(name, value):
            found.append(Declared(value, id=f"{PLAIN}{name}", version="1"))
    return found


def _takes_subject(name: str, function: Callable[..., Any]) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return False
    return not name.startswith("_") and parameters == ["subject"]

"""The variants of a team: a list or a grid over what `base` says. Knows keys and values; not who is there."""

import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import product
from math import prod
from typing import Any, NamedTuple

import msgspec
from pydantic import ValidationError

from p2engine.agents.entries import BudgetEntry
from p2engine.documents import Document, subject
from p2engine.domain.ids import AgentId
from p2engine.domain.setup import Budget, RenderPolicy
from p2engine.errors import SetupError
from p2engine.limits import VARIANTS_MAX
from p2engine.positions import Place, show
from p2engine.rollouts.entries import ID_CHARS_MAX, ArmEntry, VariantEntry
from p2engine.rollouts.spec import Variant

ALONE = "base"
"""The variant of a team that lists none."""


class Arm(NamedTuple):
    """A variant, and where each of its keys is written: with the variant itself, or in `base`."""

    variant: Variant
    place: Place
    written: Mapping[str, Place]


class _Part(NamedTuple):
    """What is written of a variant: its keys, and where each stands."""

    values: Mapping[str, Any]
    places: Mapping[str, Place]

    def over(self, base: "_Part") -> "_Part":
        return _Part({**base.values, **self.values}, {**base.places, **self.places})


def read_arms(document: Document, place: Place, message: str | None, trial: BudgetEntry) -> list[Arm]:
    """The variants of the team at `place`. message: the team's. trial: what a trial may spend where nothing is said.

    Raises ConfigError and NotAvailable.
    """
    team = document.at(place)
    base = _part(document, ArmEntry, (*place, "base")) if team.get("base") is not None else _Part({}, {})
    arms: dict[str, Arm] = {}
    for id_, part, here in _written(document, (*place, "variants")):
        arm = _arm(document, id_, part.over(base), here, message, _budget(part, base, trial))
        if id_ in arms:
            line = document.line(arms[id_].place)
            near = (*here, "id") if "id" in part.places else here
            raise document.error(f"{subject(here)}variant {show(id_)} is there already (line {line})", near)
        arms[id_] = arm
    return list(arms.values())


def _written(document: Document, place: Place) -> Iterator[tuple[str, _Part, Place]]:
    written = document.at(place[:-1]).get("variants")
    match written:
        case None:
            yield ALONE, _Part({}, {}), place[:-1]
        case list() if written:
            if len(written) > VARIANTS_MAX:
                raise document.error(f"{subject(place)}{len(written)} variants are more than {VARIANTS_MAX}", place)
            for index in range(len(written)):
                part = _part(document, VariantEntry, (*place, index))
                yield part.values.get("id", f"v{index + 1}"), part, (*place, index)
        case dict() if written:
            yield from _grid(document, place, written)
        case _:
            message = "expected a list of variants, or a grid of lists (key: [value, …])"
            raise document.error(f"{subject(place)}{message}, not {show(written)}", place)


def _part(document: Document, model: type[ArmEntry], place: Place) -> _Part:
    entry = document.check(model, place)
    values = {name: value for name in model.model_fields if (value := _said(entry, name)) is not None}
    return _Part(values, {name: (*place, name) for name in values})


def _said(entry: ArmEntry, name: str) -> Any:
    return getattr(entry, name) if name in entry.model_fields_set else None


def _arm(
    document: Document, id_: str, part: _Part, place: Place, message: str | None, budget: Mapping[str, Any]
) -> Arm:
    said = part.values.get("initial_message", message)
    if "agent_id" not in part.values:
        raise document.error(f"{subject(place)}the key agent_id is missing, here and in base", place)
    if said is None:
        raise document.error(f"{subject(place)}the key initial_message is missing, here and in the team", place)
    changes = {_CHANGES[name]: _plain(value) for name, value in part.values.items() if name in _CHANGES}
    if budget:
        changes["budget"] = dict(budget)
    variant = Variant(id=id_, agent=AgentId(part.values["agent_id"]), message=said, changes=changes)
    return Arm(variant, place, part.places)


_CHANGES = {
    "model": "model",
    "temperature": "temperature",
    "top_p": "top_p",
    "max_tokens": "max_tokens",
    "tools": "tools",
    "behavior_template": "behavior",
    "render_policy": "render_policy",
}
"""Key in the file -> key of a runtime override."""


def _plain(value: Any) -> Any:
    """A value as a runtime override is written."""
    if isinstance(value, RenderPolicy):
        return {value.kind: value.n} if value.n else value.kind
    return value


def _budget(part: _Part, base: _Part, trial: BudgetEntry) -> dict[str, Any]:
    """Bound by bound: the variant's own, else that of `base`, else that of every trial."""
    nothing = BudgetEntry()
    whole: Budget = trial.over(Budget())
    for each in (base, part):
        whole = each.values.get("budget", nothing).over(whole)
    return {name: value for name, value in msgspec.structs.asdict(whole).items() if value is not None}


# Grids


def _grid(document: Document, place: Place, grid: Mapping[str, Any]) -> Iterator[tuple[str, _Part, Place]]:
    """Every combination, the last key changing fastest, named by what it is: `model=gpt-4o,temperature=0.3`."""
    for key, values in grid.items():
        if not isinstance(values, list) or not values or None in values:
            _value(document, place, key, None)  # an unknown key is the better news
            here = (*place, key)
            raise document.error(f"{subject(here)}expected a list of values, not {show(values)}", here)
    size = prod(len(values) for values in grid.values())
    if size > VARIANTS_MAX:
        raise document.error(f"{subject(place)}{size} combinations are more than {VARIANTS_MAX} variants", place)
    axes = [_axis(document, place, key, values) for key, values in grid.items()]
    for combination in product(*axes):
        id_ = _cut(",".join(f"{key}={label}" for key, label, *_ in combination))
        values = {key: value for key, _, value, _ in combination}
        yield id_, _Part(values, {key: here for key, _, _, here in combination}), place


def _axis(document: Document, place: Place, key: str, values: Sequence[Any]) -> list[tuple[str, str, Any, Place]]:
    """Key, label, value and place of every value. Raises ConfigError for a value that stands twice."""
    read = [_value(document, place, key, value) for value in values]
    short, full = [_label(value, whole=False) for value in read], [_label(value, whole=True) for value in read]
    labels = short if len(set(short)) == len(short) else full
    axis: dict[str, tuple[str, str, Any, Place]] = {}
    for index, (label, value) in enumerate(zip(labels, read, strict=True)):
        here = (*place, key, index)
        if label in axis:
            raise document.error(f"{subject(place)}{key} has the value {show(values[index])} twice", here)
        axis[label] = key, label, value, here
    return list(axis.values())


def _value(document: Document, place: Place, key: str, value: Any) -> Any:
    try:
        return getattr(ArmEntry.model_validate({key: value}), key)
    except ValidationError as error:
        wrong: SetupError = document.wrong(ArmEntry, error, place)
        raise wrong from None


def _label(value: Any, *, whole: bool) -> str:
    """A value in a variant's name: numbers and names as they are, lists with `+`, anything long by its hash.

    whole: a model with its provider.
    """
    match value:
        case float():
            text = f"{value:g}" if float(f"{value:g}") == value else repr(value)
        case list():
            text = "+".join(value) or "none"
        case str():
            text = value.replace("/", ":") if whole else value.rsplit("/", 1)[-1]
        case BudgetEntry():
            text = "+".join(f"{name}{amount:g}" for name, amount in value.model_dump(exclude_none=True).items())
        case RenderPolicy():
            text = f"{value.kind}{value.n or ''}"
        case _:
            text = str(value)
    return text if re.fullmatch(r"[A-Za-z0-9_.+:-]{1,40}", text) else _hash(str(value))


def _cut(id_: str) -> str:
    return id_ if len(id_) <= ID_CHARS_MAX else f"{id_[: ID_CHARS_MAX - 7]}:{_hash(id_)}"


def _hash(text: str) -> str:
    return blake2b(text.encode(), digest_size=3).hexdigest()

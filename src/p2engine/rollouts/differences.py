"""What the variants of a team were given that is not the same for all of them. Pure: knows variants; judges nothing."""

from collections.abc import Mapping
from typing import Any

import msgspec

from p2engine.rollouts.spec import Team, Variant

NAMES = {"agent": "agent_id", "message": "initial_message", "behavior": "behavior_template"}
"""Of a value in a variant -> as it is written in a file."""


class Difference(msgspec.Struct, frozen=True):
    """One key that differs. values: by variant; None where the variant leaves it to its agent."""

    key: str
    values: dict[str, Any]


def differences(team: Team, resolved: Mapping[str, Mapping[str, Any]]) -> tuple[Difference, ...]:
    """The keys whose values differ between the variants of a team, in the order in which they first appear.

    resolved: `team/variant` -> what was found when it began (`model`, …): it stands where a variant says nothing.
    """
    given = {variant.id: _given(variant) for variant in team.variants}
    for variant, values in given.items():
        found = resolved.get(f"{team.id}/{variant}", {})
        if values.get("model") is None and found.get("model"):
            values["model"] = found["model"]
    keys = dict.fromkeys(key for values in given.values() for key in values)
    rows = (Difference(key, {variant: values.get(key) for variant, values in given.items()}) for key in keys)
    return tuple(row for row in rows if len({msgspec.json.encode(value) for value in row.values.values()}) > 1)


def _given(variant: Variant) -> dict[str, Any]:
    given = {"agent": variant.agent, "message": variant.message, **variant.changes}
    return {NAMES.get(key, key): value for key, value in given.items()}

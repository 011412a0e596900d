"""The world of one scenario: instances of BFCL's classes, and what calls do to them. Knows no engine.

The same calls on the same scenario give the same results and the same state, so that a world need not be kept: it is
built again from what was called.
"""

import json
from collections.abc import Iterable
from copy import deepcopy
from typing import Any, Self

from bfcl_eval.constants.executable_backend_config import STATELESS_CLASSES

from bfcl_example.scenarios import Call, Scenario, classes, owners


class World:
    """instances: by class, fresh ones for this scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.instances: dict[str, Any] = {}
        for name in scenario.classes:
            self.instances[name] = classes()[name]()
            if name not in STATELESS_CLASSES:
                self.instances[name]._load_scenario(deepcopy(scenario.config.get(name, {})), long_context=False)

    @classmethod
    def after(cls, scenario: Scenario, calls: Iterable[Call]) -> Self:
        """The world in which these calls were made."""
        world = cls(scenario)
        for call in calls:
            world.call(call)
        return world

    def call(self, call: Call) -> str:
        """What the method returns, as the text that BFCL shows a model. Raises LookupError, and what it raises."""
        owner = owners()[call.method]
        if owner not in self.instances:
            raise LookupError(f"{self.scenario.id} has no {owner}, and so no {call.method}")
        return _text(getattr(self.instances[owner], call.method)(**deepcopy(call.arguments)))


def _text(result: Any) -> str:
    if isinstance(result, dict):
        try:
            return json.dumps(result)
        except TypeError:
            pass
    return str(result)

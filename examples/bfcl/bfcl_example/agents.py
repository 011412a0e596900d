"""Who plays: agents that know the expected calls, and one that does nothing. No model is asked.

Each reply holds one call, because each call of a scenario may need what the one before it did.
"""

import re
from collections.abc import Sequence
from hashlib import blake2b

from bfcl_example.scenarios import Call, Scenario, scenarios
from bfcl_example.tools import OPEN
from p2engine.domain.decisions import Decision, Say, UseTool
from p2engine.domain.setup import Setup
from p2engine.ports import AgentView

_ID = re.compile(r"multi_turn_base_\d+")


class Gold:
    """Makes the expected calls, one after the other."""

    async def decide(self, view: AgentView) -> Decision:
        messages = [fragment.message for fragment in view.fragments]
        named = _ID.search(messages[0].text)
        if named is None:
            return Decision((Say("There is no scenario in this message."),))
        script = [Call(OPEN, {"scenario": named[0]}), *self.calls(scenarios()[named[0]], view.setup)]
        made = sum(message.role == "tool" for message in messages)
        if made == len(script):
            return Decision((Say("Done."),))
        return Decision((UseTool(script[made].method, script[made].arguments),))

    def calls(self, scenario: Scenario, setup: Setup) -> Sequence[Call]:
        """What it makes of a scenario."""
        return scenario.expected


class Noisy(Gold):
    """Right with a known probability, and else without one of the calls. Its chance is the trial's seed and its name.

    Without a call there is a result too few, which no check of results lets pass.
    """

    def __init__(self, right: float) -> None:
        self.right = right

    def calls(self, scenario: Scenario, setup: Setup) -> Sequence[Call]:
        if is_right(self.right, setup.seed, setup.agent):
            return scenario.expected
        left_out = _drawn(setup.seed, setup.agent, "which") % len(scenario.expected)
        return [call for number, call in enumerate(scenario.expected) if number != left_out]


def is_right(probability: float, seed: int | None, agent: str) -> bool:
    """Whether the agent does the trial of this seed right. Agents of other names draw by themselves."""
    return _drawn(seed, agent, "whether") < probability * 2**64


def _drawn(seed: int | None, agent: str, what: str) -> int:
    """A number below 2**64, any as likely as any other."""
    return int.from_bytes(blake2b(f"{seed} {agent} {what}".encode(), digest_size=8).digest(), "big")


class Null:
    """Does nothing, and says so."""

    async def decide(self, view: AgentView) -> Decision:
        return Decision((Say("I did nothing."),))


def gold(setup: Setup) -> Gold:
    """`type: bfcl_gold`."""
    return Gold()


def noisy(setup: Setup) -> Noisy:
    """`type: bfcl_noisy`, with `llm_model: noisy/P`: right with the probability P."""
    return Noisy(float(setup.model.removeprefix("noisy/")))


def null(setup: Setup) -> Null:
    """`type: bfcl_null`."""
    return Null()

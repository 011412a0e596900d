"""What each agent remembers, by a model that copies everything: no branches, no numbers, no sharing.

A message is a plan: rounds of delegations, each with a plan of its own. An agent does its rounds, then answers with a
digest of all it remembers, so that one wrong memory anywhere below changes the answer. Knows nothing of the engine.
"""

import copy
import json
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

Said = tuple[str, str]  # role and text
Plan = dict[str, Any]  # tag: a number of its own; rounds: lists of (agent, plan)


def message(plan: Plan) -> str:
    """A plan as what is said to an agent."""
    return json.dumps(plan)


def plain(heard: list[Said]) -> list[Said]:
    """Results that stand together in one order: which of them came first means nothing."""
    ordered: list[Said] = []
    results: list[Said] = []
    for said in heard:
        if said[0] == "tool":
            results.append(said)
        else:
            ordered += [*sorted(results), said]
            results = []
    return ordered + sorted(results)


def answer(agent: str, heard: list[Said]) -> str:
    """What an agent says that remembers this."""
    return f"{agent} {blake2b(repr(plain(heard)).encode(), digest_size=6).hexdigest()}"


@dataclass
class Mind:
    """One agent at one place of the tree: what it heard, and the minds of its delegates as it last saw them."""

    agent: str
    heard: list[Said] = field(default_factory=list)
    known: dict[str, "Mind"] = field(default_factory=dict)


def live(mind: Mind, plan: Plan) -> str:
    """The mind lives through a plan; the last-decided delegation to an agent is the one that is remembered."""
    mind.heard.append(("user", message(plan)))
    for round_ in plan["rounds"]:
        delegate(mind, round_)
    mind.heard.append(("assistant", answer(mind.agent, mind.heard)))
    return mind.heard[-1][1]


def delegate(mind: Mind, round_: list[tuple[str, Plan]]) -> None:
    children = [copy.deepcopy(mind.known.get(agent) or Mind(agent)) for agent, _ in round_]
    mind.heard.append(("assistant", ""))
    for child, (agent, plan) in zip(children, round_, strict=True):
        mind.heard.append(("tool", live(child, plan)))
        mind.known[agent] = child


class Branch:
    """A path of the root agent: after how many entries it remembered what. None where something was open."""

    def __init__(self, past: list[Mind | None]) -> None:
        self.past = past

    @property
    def mind(self) -> Mind:
        """What it remembers in the end."""
        return self.at(len(self.past))

    def at(self, length: int) -> Mind:
        """What it remembered after `length` entries, or at the last place before where nothing was open."""
        found = next((mind for mind in reversed(self.past[:length]) if mind is not None), None)
        return copy.deepcopy(found) if found is not None else Mind("boss")

    def cut(self, length: int) -> int:
        """The greatest length up to `length` at which nothing is open."""
        return next((n for n in range(min(length, len(self.past)), 0, -1) if self.past[n - 1] is not None), 0)

    def fork(self, length: int) -> "Branch":
        return Branch(copy.deepcopy(self.past[: self.cut(length)]))

    def say(self, plan: Plan) -> str:
        """A whole turn, entry by entry."""
        mind = self.mind
        if not self.past:
            self._entry(mind)  # the agent's setup
        mind.heard.append(("user", message(plan)))
        self._entry(mind)
        self._entry(None)
        for round_ in plan["rounds"]:
            delegate(mind, round_)
            for _ in range(2 * len(round_)):  # the calls, their wait, and all results but the last
                self._entry(None)
            self._entry(mind)
            self._entry(None)
        mind.heard.append(("assistant", answer(mind.agent, mind.heard)))
        self._entry(mind)
        self._entry(mind)
        return mind.heard[-1][1]

    def _entry(self, mind: Mind | None) -> None:
        self.past.append(copy.deepcopy(mind))

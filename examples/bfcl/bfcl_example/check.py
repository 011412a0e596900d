"""Whether a scenario was done: the check `bfcl`. Knows worlds and transcripts.

What is compared, and how, is BFCL's own code: `state_checker` and `response_checker`. When it is compared is not: here
at the end of the scenario, there after each turn.
"""

from collections.abc import Iterator
from typing import Any

from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import response_checker, state_checker

from bfcl_example.scenarios import Call, owners, scenarios
from bfcl_example.world import World
from p2engine import Subject, evaluator


@evaluator(id="bfcl", version="1")
async def bfcl(subject: Subject) -> dict[str, Any]:
    """The world is as the expected calls leave it, and each of their results was seen.

    `{bfcl: SCENARIO}`. Metrics: `state` and `results`, the two parts; `rebuilt`: whether every result that is in the
    log is the one that the same calls give in a world of their own, so that nothing came from another trial.
    """
    scenario = scenarios()[subject.params["value"]]
    made = list(_made(subject))
    world, expected = World(scenario), World(scenario)
    again = [world.call(call) for call, _ in made]
    wanted = [expected.call(call) for call in scenario.expected]
    told = [text for _, text in made]
    state = state_checker(world.instances, expected.instances)
    results = response_checker(told, wanted, 0)
    wrong = [part["error_message"] for part in (state, results) if not part["valid"]]
    return {
        "score": float(not wrong),
        "label": "fail" if wrong else "pass",
        "comment": " ".join(wrong) or f"{len(made)} calls",
        "metrics": {
            "state": float(state["valid"]),
            "results": float(results["valid"]),
            "rebuilt": float(again == told),
        },
    }


def _made(subject: Subject) -> Iterator[tuple[Call, str]]:
    """Each call of a method that did not fail, with its result: those of one name come in the order of their calls."""
    results: dict[str, list[Any]] = {}
    for line in subject.transcript:
        if line.kind == "result":
            results.setdefault(line.name, []).append(line)
    for line in subject.transcript:
        if line.kind == "call" and line.name in owners() and results.get(line.name):
            result = results[line.name].pop(0)
            if result.status == "ok":
                yield Call(line.name, line.arguments), result.text

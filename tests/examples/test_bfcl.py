"""The example on BFCL, where its package is installed: gold passes, null does not, worlds are what BFCL makes them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from p2engine import ToolContext, ToolError
from p2engine.domain.ids import AgentId, ConversationId, StackRef, blob_ref, effect_id
from p2engine.domain.records import Artifact
from p2engine.domain.setup import Setup
from p2engine.domain.verdicts import Line, Subject

pytest.importorskip("bfcl_eval", reason="bfcl-eval is not installed: see examples/bfcl/README.md")
pytest.importorskip("mpmath", reason="mpmath is not installed: see examples/bfcl/README.md")

EXAMPLE = Path(__file__).parents[2] / "examples" / "bfcl"
STACK = StackRef("0123456789ab")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """The command of the README."""
    return subprocess.run(
        [sys.executable, str(EXAMPLE / "run.py"), *words], capture_output=True, text=True, timeout=100, check=False
    )


def test_gold_passes_and_null_does_not(tmp_path: Path) -> None:
    """A few scenarios through the command: every agent comes out as it was meant to, every result is reproduced."""
    ran = run("--project", str(tmp_path), "--limit", "3")
    assert ran.returncode == 0, ran.stderr
    rows = {line.split("  ")[0].strip(): line for line in ran.stdout.splitlines()}
    assert "3 of 3" in rows["gold"]
    assert "0 of 3" in rows["null"]
    assert "18 of 18 trials came out as their agent meant them to" in ran.stdout
    assert "18 of 18 trials have the results that their calls give in a world of their own" in ran.stdout
    assert "This measures the engine, not a model" in ran.stdout


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Asks for a module of the example by its name."""
    monkeypatch.syspath_prepend(str(EXAMPLE))

    def module(name: str) -> Any:
        return import_module(f"bfcl_example.{name}")

    return module


def test_expected_calls_do_what_they_do_in_bfcl(example: Any) -> None:
    """All 1,142 expected calls: our world gives the results and ends in the state that BFCL's own executor gives."""
    theirs = import_module("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils")
    checker = import_module("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker")
    made = 0
    for scenario in example("scenarios").scenarios().values():
        world = example("world").World(scenario)
        ours = [world.call(call) for call in scenario.expected]
        words = [
            f"{call.method}({', '.join(f'{k}={v!r}' for k, v in call.arguments.items())})" for call in scenario.expected
        ]
        results, instances = theirs.execute_multi_turn_func_call(
            words, scenario.config, list(scenario.classes), "expected", scenario.id
        )
        assert (scenario.id, ours) == (scenario.id, results)
        assert checker.state_checker(world.instances, instances)["valid"]
        made += len(ours)
    assert made == 1142


def test_tools_take_every_expected_call(example: Any) -> None:
    """No argument of an expected call is refused or becomes another, though one breaks BFCL's own description."""
    tools = {tool.spec.name: tool.tool for tool in example("tools").TOOLS}
    assert len(tools) == 129
    ctx = Caller(()).context(0)
    for scenario in example("scenarios").scenarios().values():
        for call in scenario.expected:
            taken = tools[call.method].prepare(call.arguments, ctx).run.keywords
            assert {**call.arguments, "ctx": ctx} == taken


def test_noisy_is_right_as_often_as_it_says(example: Any) -> None:
    """It leaves out one call where it draws to be wrong; an agent of another name, and another seed, draw anew."""
    agents = example("agents")
    scenario = example("scenarios").scenarios()["multi_turn_base_0"]

    def wrong(agent: str, right: float) -> list[int]:
        noisy = agents.noisy(Setup(agent=AgentId(agent), model=f"noisy/{right}"))
        made = {seed: noisy.calls(scenario, Setup(agent=AgentId(agent), seed=seed)) for seed in range(2000)}
        assert {len(calls) for calls in made.values()} <= {len(scenario.expected), len(scenario.expected) - 1}
        return [seed for seed, calls in made.items() if len(calls) < len(scenario.expected)]

    assert (len(wrong("a", 0.0)), len(wrong("a", 1.0))) == (2000, 0)
    assert abs(len(wrong("a", 0.8)) - 400) < 5 * (2000 * 0.8 * 0.2) ** 0.5
    assert wrong("a", 0.8) != wrong("b", 0.8)
    assert set(wrong("a", 0.9)) < set(wrong("a", 0.8))


class Kept:
    """Artifacts as the calls of one reply see them: what was saved before it. A double at the edge."""

    def __init__(self) -> None:
        self.before: dict[str, bytes] = {}
        self.saved: dict[str, bytes] = {}

    async def save(self, name: str, content: str | bytes, *, media: str = "text/plain") -> Artifact:
        self.saved[name] = content.encode() if isinstance(content, str) else content
        return self._artifact(name, self.saved[name])

    async def read(self, name: str) -> bytes:
        return self.before[name]

    async def list(self, prefix: str = "") -> Sequence[Artifact]:
        return [self._artifact(name, body) for name, body in sorted(self.before.items()) if name.startswith(prefix)]

    def settle(self) -> None:
        """The reply is over: what its calls saved is there for the next."""
        self.before |= self.saved

    def _artifact(self, name: str, body: bytes) -> Artifact:
        return Artifact(name=name, blob=blob_ref(body), bytes=len(body))


class Caller:
    """Calls tools of the example in one conversation, a reply at a time."""

    def __init__(self, tools: Sequence[Any]) -> None:
        self.tools = {tool.spec.name: tool.tool for tool in tools}
        self.kept = Kept()
        self.replies = 0

    async def reply(self, *calls: tuple[str, dict[str, Any]]) -> list[str]:
        """The results of calls that stand in one reply."""
        self.replies += 1
        results = []
        for slot, (name, arguments) in enumerate(calls):
            results.append((await self.tools[name](arguments, self.context(slot))).content)
        self.kept.settle()
        return results

    def context(self, slot: int) -> ToolContext:
        """Of the call at this place of the reply."""
        return ToolContext(
            conversation=ConversationId("c"),
            agent=AgentId("a"),
            branch=STACK,
            call_id=f"{self.replies}.{slot}",
            idempotency_key=effect_id(STACK, self.replies, slot),
            artifacts=self.kept,
        )


async def test_calls_of_one_reply_all_count(example: Any) -> None:
    """Each sees the world before the reply; the next reply sees what all of them did."""
    caller = Caller(example("tools").TOOLS)
    await caller.reply(("open_scenario", {"scenario": "multi_turn_base_0"}))
    before = await caller.reply(("pwd", {}))
    await caller.reply(("mkdir", {"dir_name": "one"}), ("mkdir", {"dir_name": "two"}))
    assert before == await caller.reply(("pwd", {}))
    (listed,) = await caller.reply(("ls", {}))
    assert {"one", "two"} <= set(json.loads(listed)["current_directory_content"])


async def test_conversations_share_nothing(example: Any) -> None:
    """What one does to its world is not there in another's, though both are of one scenario."""
    one, other = Caller(example("tools").TOOLS), Caller(example("tools").TOOLS)
    for caller in (one, other):
        await caller.reply(("open_scenario", {"scenario": "multi_turn_base_0"}))
    await one.reply(("mkdir", {"dir_name": "mine"}))
    assert "mine" not in (await other.reply(("ls", {})))[0]
    assert "mine" in (await one.reply(("ls", {})))[0]


async def test_no_world_is_there_before_it_is_opened(example: Any) -> None:
    """Tools say what to call first; a scenario is opened once, and has only its own classes."""
    caller = Caller(example("tools").TOOLS)
    with pytest.raises(ToolError, match="call open_scenario first"):
        await caller.reply(("ls", {}))
    await caller.reply(("open_scenario", {"scenario": "multi_turn_base_0"}))
    with pytest.raises(ToolError, match="open already"):
        await caller.reply(("open_scenario", {"scenario": "multi_turn_base_1"}))
    with pytest.raises(LookupError, match="has no TradingBot"):
        await caller.reply(("get_current_time", {}))


def transcript(calls: Sequence[tuple[str, dict[str, Any], str]]) -> Subject:
    """A turn in which these calls had these results."""
    lines = []
    for name, arguments, text in calls:
        lines += [Line(kind="call", name=name, arguments=arguments), Line(kind="result", name=name, text=text)]
    return Subject(
        event=f"{STACK}:1",
        conversation=ConversationId("c"),
        ref=STACK,
        agent=AgentId("a"),
        transcript=tuple(lines),
        params={"value": "multi_turn_base_0"},
    )


async def test_the_check_fails_what_is_not_done(example: Any) -> None:
    """Right calls pass. Not so: without any one of them, with one that changes more, with another's result."""
    scenario = example("scenarios").scenarios()["multi_turn_base_0"]
    check = example("check").bfcl

    def played(calls: Sequence[Any]) -> list[tuple[str, dict[str, Any], str]]:
        world = example("world").World(scenario)
        return [(call.method, call.arguments, world.call(call)) for call in calls]

    whole = played(scenario.expected)
    assert (await check(transcript(whole)))["score"] == 1
    for left_out in range(len(whole)):
        calls = [call for number, call in enumerate(scenario.expected) if number != left_out]
        assert (await check(transcript(played(calls))))["score"] == 0
    more = [*scenario.expected, example("scenarios").Call("mkdir", {"dir_name": "more"})]
    found = await check(transcript(played(more)))
    assert (found["score"], found["metrics"]["state"], found["metrics"]["results"]) == (0, 0, 1)
    forged = [(*whole[0][:2], "another world's result"), *whole[1:]]
    found = await check(transcript(forged))
    assert (found["score"], found["metrics"]["rebuilt"]) == (0, 0)

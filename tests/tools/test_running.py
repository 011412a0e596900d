"""From arguments to an outcome: the edge between the engine and code of others."""

import asyncio
import contextvars
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from p2engine.domain.decisions import ToolOutcome
from p2engine.domain.messages import ToolSpec
from p2engine.errors import ToolError
from p2engine.limits import TOOL_RESULT_BYTES_MAX
from p2engine.ports import ToolContext, ToolRunner
from p2engine.testing import virtual_time
from p2engine.testing.doubles import ManualClock
from p2engine.tools.function import FunctionTool, agent_call, function_tool
from p2engine.tools.function import save_artifact as save_after
from p2engine.tools.registry import Registry
from p2engine.tools.running import Runner
from p2engine.tools.threads import Threads
from tests.tools.tool_context import MemoryArtifacts, context


class Waits:
    """A double of `asyncio.sleep` that notes how long it was to take."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def runner(*tools: FunctionTool[..., Any], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> Runner:
    return Runner(Registry(tools), now=ManualClock().now, sleep=sleep)


async def test_a_call_runs_and_answers() -> None:
    """`def` and `async def` give the same outcome; the runner fits the port."""

    @function_tool
    def blocking(a: int) -> str:
        return f"{a} {threading.current_thread().name}"

    @function_tool
    async def awaited(a: int) -> str:
        return f"{a} {threading.current_thread().name}"

    run: ToolRunner = runner(blocking, awaited)

    assert (spec := run.spec("blocking")) is not None
    assert spec.name == "blocking"
    assert run.spec("gone") is None
    assert (await run("blocking", {"a": 1}, context())).content == "1 p2engine-tool"
    assert (await run("awaited", {"a": 1}, context())).content == f"1 {threading.current_thread().name}"


async def test_a_tool_that_is_not_here_is_an_outcome() -> None:
    """A name that went between the question and the call is no crash."""
    outcome = await runner()("gone", {}, context())

    assert (outcome.status, outcome.content) == ("error", "tool 'gone' is not loaded here")


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize(
    ("error", "content"),
    [
        (ToolError("closed on Sundays"), "closed on Sundays"),
        (ValueError("bad\nmore"), "ValueError: bad"),
        (SystemExit(2), "SystemExit: 2"),
        (StopIteration(), "RuntimeError: coroutine raised StopIteration"),
        (TimeoutError("the other side"), "TimeoutError: the other side"),
        (asyncio.CancelledError("of something else"), "CancelledError: of something else"),
    ],
)
async def test_whatever_a_tool_raises_is_an_outcome(error: BaseException, content: str, blocking: bool) -> None:
    """An exception ends the call, never the process: the model reads its first line."""
    if blocking:

        def body() -> None:
            raise error
    else:

        async def body() -> None:  # type: ignore[misc]
            raise error

    outcome = await runner(function_tool(name="broken")(body))("broken", {}, context())

    assert (outcome.status, outcome.content) == ("error", content)


async def test_the_traceback_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The whole story is in the log at DEBUG, and nothing of it above."""

    @function_tool
    def broken() -> None:
        raise ValueError("bad")

    with caplog.at_level(logging.DEBUG, logger="p2engine.tools.running"):
        await runner(broken)("broken", {}, context())

    record = caplog.records[-1]
    assert record.levelno == logging.DEBUG
    assert "broken" in record.getMessage()
    assert record.exc_info is not None


async def test_cancelling_the_call_cancels_it() -> None:
    """Cancellation from outside is no outcome: it passes through the tool and the runner."""
    began, cancelled = asyncio.Event(), asyncio.Event()

    @function_tool
    async def slow() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    task = asyncio.ensure_future(runner(slow)("slow", {}, context()))
    await began.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()


@pytest.mark.parametrize(
    ("options", "unknown"),
    [({}, True), ({"idempotent": True}, True), ({"side_effect_free": True}, False)],
)
def test_a_time_out_says_what_is_known(options: dict[str, Any], unknown: bool) -> None:
    """After how many seconds; and for a tool with side effects, that nobody knows whether it had them."""

    @function_tool(timeout_s=7, **options)
    async def slow() -> None:
        await asyncio.Event().wait()

    outcome = virtual_time.run(runner(slow)("slow", {}, context()))

    assert outcome.status == "timeout"
    assert outcome.content.startswith("slow did not answer within 7 s")
    assert ("outcome unknown" in outcome.content) == unknown


def test_an_error_while_giving_up_is_still_a_time_out() -> None:
    """A tool that fails in its clean-up after the time-out has timed out."""

    @function_tool(timeout_s=1)
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("while closing")

    assert virtual_time.run(runner(slow)("slow", {}, context())).status == "timeout"


async def test_a_blocking_tool_times_out() -> None:
    """The call is given up while its thread goes on; what it comes to later disturbs nothing."""
    release = threading.Event()

    @function_tool(timeout_s=0.01)
    def slow() -> None:
        release.wait()

    run = runner(slow)
    try:
        assert (await run("slow", {}, context())).status == "timeout"
    finally:
        release.set()


async def test_seam_01_waiting_for_a_thread_is_no_part_of_the_time_out() -> None:
    """The clock of a call starts with its thread: one that waits its turn behind others does not time out for it."""
    release = threading.Event()
    clocks: list[str] = []
    threads = Threads(1)

    async def run(name: str) -> Any:
        async def within(ended: Awaitable[Any]) -> Any:
            clocks.append(name)
            return await ended

        return await threads.run(release.wait, within=within)

    one, two = asyncio.ensure_future(run("one")), asyncio.ensure_future(run("two"))
    while not clocks:
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    before = list(clocks)
    release.set()

    assert [await one, await two] == [True, True]
    assert (before, clocks) == (["one"], ["one", "two"])


async def test_calls_that_never_end_do_not_starve_the_others() -> None:
    """Each place comes back at the time-out; when too many threads are lost, calls fail and say so."""
    release = threading.Event()

    @function_tool(timeout_s=0.01)
    def stuck() -> None:
        release.wait()

    run = Runner(Registry([stuck]), now=ManualClock().now, threads=Threads(2))
    try:
        first = await asyncio.gather(*(run("stuck", {}, context()) for _ in range(2)))
        then = await run("stuck", {}, context())
    finally:
        release.set()

    assert [one.status for one in first] == ["timeout", "timeout"]
    assert then.status == "error"
    assert "2 earlier calls of blocking tools never ended" in then.content


async def test_a_thread_sees_the_context_variables_of_the_call() -> None:
    """What the caller set for logs and traces is there in a `def` tool."""
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")
    name.set("mine")

    @function_tool
    def which() -> str:
        return name.get()

    assert (await runner(which)("which", {}, context())).content == "mine"


FAULTS: list[BaseException] = [ToolError("busy", retryable=True), ConnectionError("reset")]


@pytest.mark.parametrize("options", [{"idempotent": True}, {"side_effect_free": True}])
@pytest.mark.parametrize("fault", FAULTS)
async def test_what_may_be_repeated_is_tried_again(fault: BaseException, options: dict[str, Any]) -> None:
    """Errors that may pass are tried again with growing waits, as often as the tool says."""
    tries: list[int] = []
    waits = Waits()

    @function_tool(retries=3, **options)
    async def flaky() -> str:
        tries.append(1)
        if len(tries) < 4:
            raise fault
        return "at last"

    outcome = await runner(flaky, sleep=waits)("flaky", {}, context())

    assert (outcome.status, outcome.content, len(tries)) == ("ok", "at last", 4)
    assert waits.seconds == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("fault", "tried", "waited"),
    [
        (ToolError("no such city"), 1, []),
        (ToolError("busy", retryable=True, retry_after_s=9), 3, [9, 9]),
        (ToolError("busy", retryable=True, retry_after_s=3600), 1, []),
        (ToolError("busy", retryable=True), 3, [0.5, 1.0]),
    ],
)
async def test_retries_end(fault: ToolError, tried: int, waited: list[float]) -> None:
    """What will not pass is not tried again; the last error is the outcome; a wait that is asked for is kept."""
    tries: list[int] = []
    waits = Waits()

    @function_tool(retries=2, idempotent=True)
    async def flaky() -> None:
        tries.append(1)
        raise fault

    outcome = await runner(flaky, sleep=waits)("flaky", {}, context())

    assert (outcome.status, len(tries), waits.seconds) == ("error", tried, waited)


async def test_wrong_arguments_are_not_tried_again() -> None:
    """The same arguments would be as wrong the second time; the function does not run."""
    ran: list[int] = []

    @function_tool(retries=2, idempotent=True)
    async def pay(amount: int) -> None:
        ran.append(amount)

    outcome = await runner(pay, sleep=Waits())("pay", {"amount": "much"}, context())

    assert outcome.status == "error"
    assert "'amount'" in outcome.content
    assert ran == []


def test_a_time_out_of_what_may_be_repeated_is_tried_again() -> None:
    """A second attempt may answer where the first did not."""
    tries: list[int] = []

    @function_tool(retries=1, side_effect_free=True, timeout_s=5)
    async def slow() -> str:
        tries.append(1)
        if len(tries) == 1:
            await asyncio.Event().wait()
        return "now"

    assert virtual_time.run(runner(slow)("slow", {}, context())).content == "now"


async def test_what_has_run_is_not_run_again_for_its_result() -> None:
    """A result that cannot be used does not repeat the call, and the model is told that it ran."""
    ran: list[int] = []

    @function_tool(retries=2, idempotent=True)
    async def pay() -> bytes:
        ran.append(1)
        return b"receipt"

    outcome = await runner(pay, sleep=Waits())("pay", {}, context())

    assert ran == [1]
    assert outcome.status == "error"
    assert outcome.content.startswith("pay has run, but its result cannot be shown as JSON: bytes")


async def test_a_post_effect_that_fails_keeps_the_result() -> None:
    """The model gets what the tool gave, and is told that what was to follow failed."""
    ran: list[int] = []
    artifacts = MemoryArtifacts()

    @function_tool(
        retries=2, idempotent=True, post_effects=[lambda result: agent_call("a", result["gone"]), save_after("x", "y")]
    )
    async def pay() -> dict[str, Any]:
        ran.append(1)
        return {"receipt": 7}

    outcome = await runner(pay, sleep=Waits())("pay", {}, context(artifacts=artifacts))

    assert (ran, outcome.status, outcome.then, artifacts.bodies) == ([1], "error", (), {})
    assert outcome.content.startswith('{"receipt": 7}\n[pay has run and gave the above')
    assert "KeyError: 'gone'" in outcome.content


async def test_a_long_result_is_cut_and_says_so() -> None:
    """No result is longer than a model may be shown, whichever kind of tool gave it."""

    class Loud:
        """A tool that is no function."""

        spec = ToolSpec(name="loud", repeat="free")

        async def __call__(self, arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome:
            return ToolOutcome(content="x" * (TOOL_RESULT_BYTES_MAX + 1))

    outcome = await Runner(Registry([Loud()]), now=ManualClock().now)("loud", {}, context())

    assert len(outcome.content.encode()) <= TOOL_RESULT_BYTES_MAX
    assert outcome.content.endswith(f"of {TOOL_RESULT_BYTES_MAX + 1} bytes left out]")


async def test_failure_33_a_tool_that_failed_is_recorded_as_failed() -> None:
    """A result that reports failure comes out with status error and no reward of its own."""

    @function_tool
    def transfer() -> dict[str, Any]:
        return {"status": "failed", "error": "no funds"}

    outcome = await runner(transfer)("transfer", {}, context())

    assert (outcome.status, outcome.reward) == ("error", None)


class Prose:
    """A tool by class that returns text where an outcome is wanted."""

    spec = ToolSpec(name="prose")

    async def __call__(self, arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome:
        return "just text"  # type: ignore[return-value]


async def test_a_tool_that_returns_no_outcome_has_failed() -> None:
    """A class-based tool that returns something else has run and failed, and its result says so."""
    outcome = await Runner(Registry([Prose()]), now=ManualClock().now)("prose", {}, context())

    assert outcome.status == "error"
    assert "has run" in outcome.content
    assert "str" in outcome.content

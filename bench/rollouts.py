"""What running a rollout adds to the time that its models take, and whether its memory stays flat."""

import asyncio
import resource
import sys
import tempfile
import time
from pathlib import Path

from bench.rows import Row
from bench.work import engine
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId
from p2engine.domain.verdicts import Subject
from p2engine.rollouts import journal
from p2engine.rollouts.journal import Options
from p2engine.rollouts.run import Runner
from p2engine.rollouts.spec import Spec, Team, Variant, sealed
from p2engine.testing.doubles import FunctionJudges

CALLS = 3  # of the model, in one trial; two tool calls lie between them
AT_ONCE = 16
SCORED = Evaluation(evaluator="even")


async def rollout_overhead(*, quick: bool) -> list[Row]:
    """64 trials of three model calls of 200 ms, 16 at once, each judged, against the time that the calls take alone."""
    latency_s, trials_n = (0.02, 32) if quick else (0.2, 64)
    ideal_s = trials_n / AT_ONCE * CALLS * latency_s
    ratios = [await _run(trials_n, latency_s) / ideal_s for _ in range(2 if quick else 5)]
    what = f"{trials_n} trials of {CALLS} model calls at {latency_s * 1000:g} ms, {AT_ONCE} at once"
    return [Row(bench="rollout_overhead", what=what, unit="wall / ideal", values=ratios, target=1.10)]


async def rollout_memory(*, quick: bool) -> list[Row]:
    """1,000 trials at 20 ms: what the process has grown by from the first hundred to the last."""
    first, whole = (50, 200) if quick else (100, 1000)
    await _run(first, 0.02)
    before = _rss_mb()
    wall_s = await _run(whole, 0.02)
    return [
        Row(bench="rollout_memory", what=f"{whole:,} trials at 20 ms", unit="wall s", values=[wall_s]),
        Row(
            bench="rollout_memory",
            what=f"peak memory of {whole:,} trials over that of {first}",
            unit="MB",
            values=[_rss_mb() - before],
        ),
    ]


async def _run(trials_n: int, latency_s: float) -> float:
    """The wall time of one rollout, in seconds."""
    with tempfile.TemporaryDirectory(prefix="p2engine-bench-") as name:
        async with engine(Path(name), tools=CALLS - 1, latency_s=latency_s) as made:
            made.world.judges = FunctionJudges({SCORED.evaluator: _even})
            rollout = await journal.start(made.world, _spec(trials_n), Options(parallel=AT_ONCE), {})
            began = time.perf_counter()
            await Runner(made, rollout).run()
            return time.perf_counter() - began


async def _even(subject: Subject) -> float:
    await asyncio.sleep(0)
    return 1.0 if subject.answer else 0.0


def _spec(trials_n: int) -> Spec:
    team = Team(
        id="team",
        variants=tuple(Variant(id=f"v{n}", agent=AgentId("alpha"), message="What is the weather?") for n in range(2)),
        evaluations=(SCORED,),
        repeats=trials_n // 2,
    )
    return sealed(Spec(name="bench", teams=(team,)))


def _rss_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)

"""`eval …`: which evaluators there are, a verdict by hand, and the best verdicts of a conversation or a rollout."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from p2engine.cli import eval_compare
from p2engine.cli.arguments import ConversationName, conversation_of
from p2engine.cli.options import group
from p2engine.cli.output import Output, one_line
from p2engine.cli.session import run_with_engine
from p2engine.errors import UsageError

if TYPE_CHECKING:
    from p2engine.cli.verdicts import Seen
    from p2engine.rollouts.journal import Rollout
    from p2engine.wiring import Engine

EvaluatorName = Annotated[
    str, typer.Argument(metavar="EVALUATOR", help="`ID` or `ID@VERSION`, as `eval list` shows them.")
]
SessionName = Annotated[
    str, typer.Argument(metavar="SESSION", help="A rollout's id or a conversation, or a unique beginning of it.")
]
RubricText = Annotated[
    str | None,
    typer.Option("--rubric", metavar="TEXT", help="What is good: a text, @FILE, or a name such as joke_quality."),
]
ModelName = Annotated[str | None, typer.Option("--model", metavar="ID", help="Who judges; else the evaluator's own.")]
Params = Annotated[
    list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="What the evaluator takes. May be repeated.")
]
Repeats = Annotated[int, typer.Option("--repeats", min=1, max=100, metavar="N", help="Samples of the verdict.")]
BranchName = Annotated[str | None, typer.Option("--branch", metavar="B", help="Else the current one.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    evals = group("Judge what agents did, and look at the verdicts.")
    evals.command("list")(list_all)
    evals.command("run")(run)
    evals.command("top")(top)
    eval_compare.register(evals)
    app.add_typer(evals, name="eval")


def list_all(ctx: typer.Context) -> None:
    """List the evaluators that are loaded."""

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.cli.verdicts import tell_broken

        tell_broken(engine, output)
        known = engine.evaluators
        rows = [
            {
                "id": each.id,
                "version": each.version,
                "newest": known.get(each.id) is each,
                "asks_model": each.asks_model,
                "built_in": known.is_built_in(each.id),
                "source": None if known.is_built_in(each.id) else each.source,
                "summary": each.summary,
            }
            for each in known.all()
        ]
        cells = [
            (row["id"], row["version"], "model" if row["asks_model"] else "", one_line(row["summary"], 100))
            for row in rows
        ]
        output.table("", ("id", "version", "asks", "what"), cells, rows)
        output.next("p2engine eval run EVALUATOR CONVERSATION")

    run_with_engine(ctx, body)


def run(
    ctx: typer.Context,
    evaluator: EvaluatorName,
    name: ConversationName,
    rubric: RubricText = None,
    model: ModelName = None,
    params: Params = None,
    repeats: Repeats = 1,
    branch: BranchName = None,
    again: Annotated[
        bool, typer.Option("--again", help="Ask, also where the same was judged the same way before.")
    ] = False,
) -> None:
    """Have the last answer of a conversation judged. What is known already is not asked again."""

    async def body(engine: "Engine", output: Output) -> int:
        from p2engine.cli.verdicts import evaluation_of, tell_broken, verdict_lines, verdict_row
        from p2engine.runtime.judging import judge_now

        tell_broken(engine, output)
        conversation = await conversation_of(engine, name)
        target = await conversation.branch(branch)
        asked = (await conversation.stack(branch=branch)).setup.evaluations
        evaluation = evaluation_of(evaluator, params or (), rubric=rubric, model=model, repeats=repeats, asked=asked)
        engine.evaluators.check(evaluation)
        verdict, was_known = await judge_now(engine.world, target.ref, evaluation, again=again)
        document = {"conversation": conversation.name, "branch": target.name, **verdict_row(verdict)}
        output.document({**document, "cached": was_known}, "\n".join(verdict_lines(verdict)))
        if was_known:
            output.note("judged before; --again asks once more")
        output.next(f"p2engine eval top {shlex.quote(conversation.name)}")
        return 1 if verdict.status == "error" else 0

    run_with_engine(ctx, body)


def top(
    ctx: typer.Context,
    session: SessionName,
    k: Annotated[int, typer.Option("--k", min=1, max=100_000, metavar="N", help="How many.")] = 10,
    metric: Annotated[str, typer.Option("--metric", metavar="NAME", help="What to rank by.")] = "score",
    evaluator: Annotated[
        str | None, typer.Option("--evaluator", metavar="ID", help="Only its verdicts: `ID` or `ID@VERSION`.")
    ] = None,
) -> None:
    """List the verdicts of a rollout's trials, or of a conversation's branches and turns, the best first.

    What was not decided comes last, without a number.
    """

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.cli.verdicts import COMMENT_WIDTH, records_of, rollout_of, score_words, seen_row, verdicts_in

        rollout = await rollout_of(engine, session)
        if rollout is not None and evaluator is None:
            await _top_trials(engine, output, rollout, metric, k)
            return
        records = await records_of(engine, session)
        found = await verdicts_in(engine, records, evaluator or "")
        if not found and not output.is_json:
            output.note(f"no verdicts yet on {session!r}" + (f" by {evaluator}" if evaluator else ""))
            output.next(f"p2engine eval run gpt4_judge {shlex.quote(records[0].name)} --rubric answer_quality")
            return
        _check_metric(found, metric)
        measuring = {seen.name for seen in found if metric == "score" or metric in seen.verdict.metrics}
        ranked = sorted((seen for seen in found if seen.name in measuring), key=lambda seen: _rank(seen, metric))[:k]
        rows = [{"rank": place, **seen_row(seen, metric)} for place, seen in enumerate(ranked, 1)]
        shows_terms = any(seen.by for seen in ranked)
        cells = [
            (
                place,
                seen.record.name,
                seen.event.branch,
                seen.name,
                *([seen.by] if shows_terms else []),
                score_words(seen.value(metric), seen.verdict),
                one_line(seen.verdict.comment, COMMENT_WIDTH),
            )
            for place, seen in enumerate(ranked, 1)
        ]
        judged = ("evaluator", *(["terms"] if shows_terms else []))
        output.table("", ("", "conversation", "branch", *judged, metric, "comment"), cells, rows)
        if ranked:
            output.next(f"p2engine conversation stack {shlex.quote(ranked[0].record.name)}")

    run_with_engine(ctx, body)


async def _top_trials(engine: "Engine", output: Output, rollout: "Rollout", metric: str, k: int) -> None:
    """The trials of a rollout by one of its metrics."""
    from p2engine.documents import did_you_mean
    from p2engine.rollouts import journal
    from p2engine.wiring import experiments

    results = await journal.results(engine.world, rollout)
    known = dict.fromkeys(name for result in results for name in result.metrics)
    if results and metric not in known:
        raise UsageError(f"no trial has the metric {metric[:40]!r}{did_you_mean(metric, known)}")
    ranked = sorted(results, key=lambda each: (_last(each.metrics.get(metric)), each.conversation))[:k]
    rows = [
        {
            "rank": place,
            "conversation": each.conversation,
            "team": each.team,
            "variant": each.variant,
            "trial": each.number,
            "metric": metric,
            "value": each.metrics.get(metric),
            "status": each.status,
        }
        for place, each in enumerate(ranked, 1)
    ]
    columns = ("rank", "conversation", "variant", "trial", "value", "status")
    cells = [tuple(row[name] for name in columns) for row in rows]
    output.table("", ("", "conversation", "variant", "trial", metric, "status"), cells, rows)
    terms = experiments.terms_of(engine, rollout.spec, metric)
    if len(set(terms.values())) > 1:
        each = "; ".join(f"{team}: {words}" for team, words in terms.items())
        output.note(f"{metric} is not the same measurement in all teams: {each}")
    if ranked:
        best = ranked[0]
        output.next(f"p2engine rollout show {rollout.id} {shlex.quote(best.variant)} {best.number}")


def _last(value: float | None) -> tuple[bool, float]:
    """So that the highest comes first, and nothing comes last."""
    return value is None, -(value or 0.0)


def _rank(seen: "Seen", metric: str) -> tuple[bool, float, str, str]:
    value = seen.value(metric)
    return value is None, -(value or 0.0), seen.record.name, seen.event.id


def _check_metric(found: "list[Seen]", metric: str) -> None:
    """Raises UsageError for a metric that no verdict has, with the nearest one."""
    from p2engine.cli.verdicts import SCORE
    from p2engine.documents import did_you_mean

    known = {SCORE, *(name for seen in found for name in seen.verdict.metrics)}
    if found and metric not in known:
        raise UsageError(f"no verdict has the metric {metric[:40]!r}{did_you_mean(metric, known)}")

"""`eval diff · calibrate`: two sessions side by side, and an evaluator beside people."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2engine.cli.output import Output, one_line
from p2engine.cli.session import run_with_engine
from p2engine.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from p2engine.cli.verdicts import Seen
    from p2engine.domain.evaluation import Evaluation
    from p2engine.domain.ids import StackRef
    from p2engine.domain.verdicts import Verdict
    from p2engine.evals.calibration import Labelled
    from p2engine.evals.pairwise import Preference
    from p2engine.wiring import Engine

RubricText = Annotated[
    str | None, typer.Option("--rubric", metavar="TEXT", help="A text, @FILE, or a name such as joke_quality.")
]
ModelName = Annotated[str | None, typer.Option("--model", metavar="ID", help="Who judges; else the evaluator's own.")]


def register(evals: typer.Typer) -> None:
    """Add these commands to the group `eval`."""
    evals.command("diff")(diff)
    evals.command("calibrate")(calibrate)


def diff(
    ctx: typer.Context,
    one: Annotated[str, typer.Argument(metavar="A", help="A rollout's id or a conversation.")],
    other: Annotated[str, typer.Argument(metavar="B", help="The other.")],
    rubric: Annotated[
        str | None,
        typer.Option("--rubric", metavar="TEXT", help="Have gpt4_judge compare two conversations, in both orders."),
    ] = None,
    model: ModelName = None,
) -> None:
    """Compare the verdicts of two conversations or rollouts: the mean of each metric, and what is between them."""

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.cli.verdicts import records_of, spent_words, verdicts_in

        records = [await records_of(engine, session) for session in (one, other)]
        sides = [await verdicts_in(engine, each) for each in records]
        rows = _differences(*map(_newest, sides))
        preference = None
        if rubric is not None:
            if any(len(each) != 1 for each in records):
                raise UsageError("--rubric compares two conversations")
            preference = await _preference(engine, [each[0].current for each in records], rubric, model)
        if output.is_json:
            output.document({"a": one, "b": other, "metrics": rows, "preference": _shown(preference)})
            return
        named = ("evaluator", *(["terms"] if any(row["terms"] for row in rows) else []), "metric")
        cells = [
            (*(row[name] for name in named), _mean(row["a"]), _mean(row["b"]), _signed(row["difference"]))
            for row in rows
        ]
        output.table("", (*named, one, other, "B - A"), cells, rows)
        if preference is not None:
            winner = {"first": one, "second": other, "tie": "neither"}.get(preference.winner or "", "undecided")
            output.line(f"better: {winner}. {one_line(preference.comment, 500)}")
            if preference.model:
                output.line(f"  by {preference.model}, {spent_words(preference.spent)}")
        elif (lone := _lone(rows)) is not None:
            output.note(f"one sample says nothing about which is better{lone}; repeats and rollout compare do")

    run_with_engine(ctx, body)


def _lone(rows: list[dict[str, Any]]) -> str | None:
    """Which of the metrics that both sides have stand on one sample: in words, nothing where all do; None: none."""
    compared = [row for row in rows if row["difference"] is not None]
    lone = [f"{row['evaluator']} {row['metric']}" for row in compared if min(row["a"]["n"], row["b"]["n"]) < 2]
    if not lone:
        return None
    more = f" and {len(lone) - 3} more" if len(lone) > 3 else ""
    return "" if len(lone) == len(compared) else f" ({', '.join(lone[:3])}{more})"


async def _preference(engine: "Engine", refs: list[Any], rubric: str, model: str | None) -> "Preference":
    from p2engine.cli.verdicts import evaluation_of
    from p2engine.evals.judge import ID
    from p2engine.runtime.judging import subject_of

    evaluation = evaluation_of(ID, rubric=rubric, model=model)
    engine.evaluators.check(evaluation)
    subjects = [
        await subject_of(engine.world, ref, (await engine.world.stacks.refresh(ref)).head, evaluation) for ref in refs
    ]
    return await engine.prefer(subjects[0], subjects[1], evaluation.params)


def _shown(preference: "Preference | None") -> dict[str, Any] | None:
    if preference is None:
        return None
    return {
        "winner": {"first": "a", "second": "b"}.get(preference.winner or "", preference.winner),
        "status": preference.status,
        "comment": preference.comment or None,
        "model": preference.model or None,
        "tokens": preference.spent.tokens,
        "cost_usd": preference.spent.cost_usd,
    }


def _newest(found: "list[Seen]") -> "list[Seen]":
    """Of each conversation's stack and each evaluator on its terms, the verdicts on what it judged last."""
    last = {(seen.record.id, seen.event.ref, seen.name, seen.by): seen.verdict.subject for seen in found}
    return [seen for seen in found if last[seen.record.id, seen.event.ref, seen.name, seen.by] == seen.verdict.subject]


def _differences(one: "list[Seen]", other: "list[Seen]") -> list[dict[str, Any]]:
    sides = [_values(each) for each in (one, other)]
    rows = []
    for key in dict.fromkeys((*sides[0], *sides[1])):
        means = [_summary(side.get(key, [])) for side in sides]
        a, b = (each["mean"] for each in means)
        gap = None if a is None or b is None else round(b - a, 12)
        names = {"evaluator": key[0], "terms": key[1] or None, "metric": key[2]}
        rows.append({**names, "a": means[0], "b": means[1], "difference": gap})
    return rows


def _values(found: "list[Seen]") -> dict[tuple[str, str, str], list[float | None]]:
    """By evaluator, its terms, and metric."""
    values: dict[tuple[str, str, str], list[float | None]] = {}
    for seen in found:
        values.setdefault((seen.name, seen.by, "score"), []).append(seen.verdict.score)
        for metric, value in seen.verdict.metrics.items():
            values.setdefault((seen.name, seen.by, metric), []).append(value)
    return values


def _summary(values: list[float | None]) -> dict[str, Any]:
    decided = [value for value in values if value is not None]
    return {"n": len(decided), "mean": sum(decided) / len(decided) if decided else None}


def _mean(side: dict[str, Any]) -> str | None:
    return None if side["mean"] is None else f"{side['mean']:.3f} (n={side['n']})"


def _signed(value: float | None) -> str | None:
    return None if value is None else f"{_unsigned_zero(value):+.3f}"


def _unsigned_zero(value: float) -> float:
    """To three places, without the sign of what rounds to nothing."""
    return round(value, 3) + 0.0


def calibrate(
    ctx: typer.Context,
    evaluator: Annotated[str, typer.Argument(metavar="EVALUATOR", help="`ID` or `ID@VERSION`.")],
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="CSV or JSON lines: `conversation`, and `score` (0..1) or `label`."),
    ],
    rubric: RubricText = None,
    model: ModelName = None,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0.0, max=1.0, metavar="X", help="A score from here on is a pass.")
    ] = 0.5,
) -> None:
    """Judge conversations that people have labelled, and say how far the evaluator agrees with them.

    What is known already is not asked again. Exit 1 where all its judgements are errors.
    """

    async def body(engine: "Engine", output: Output) -> int:
        from p2engine.cli.verdicts import evaluation_of, tell_broken, verdict_row
        from p2engine.evals.calibration import read_labels

        tell_broken(engine, output)
        labels = read_labels(file)
        evaluation = evaluation_of(evaluator, rubric=rubric, model=model)
        engine.evaluators.check(evaluation)
        refs = [await _meant(engine, each, file) for each in labels]  # all of them, before any is paid for
        judged = [
            (each, await _judged(engine, ref, each, evaluation, file)) for each, ref in zip(labels, refs, strict=True)
        ]
        found = _agreement(judged, threshold)
        rows = [{"conversation": each.conversation, "human": each.score, **verdict_row(v)} for each, v in judged]
        output.document({"evaluator": evaluator, **found, "rows": rows}, "\n".join(_agreement_lines(found)))
        return 1 if found["errors"] == found["labelled"] else 0

    run_with_engine(ctx, body)


async def _meant(engine: "Engine", labelled: "Labelled", file: Path) -> "StackRef":
    from p2engine.cli.arguments import conversation_of

    try:
        return (await conversation_of(engine, labelled.conversation)).record.current
    except UsageError as error:
        raise _in_file(error, labelled, file) from None


async def _judged(
    engine: "Engine", ref: "StackRef", labelled: "Labelled", evaluation: "Evaluation", file: Path
) -> "Verdict":
    from p2engine.runtime.judging import judge_now

    try:
        return (await judge_now(engine.world, ref, evaluation))[0]
    except UsageError as error:
        raise _in_file(error, labelled, file) from None


def _in_file(error: UsageError, labelled: "Labelled", file: Path) -> ConfigError:
    from p2engine.documents import shown

    return ConfigError(error.message, hint=error.hint, file=shown(file), line=labelled.line)


def _agreement(judged: "list[tuple[Labelled, Verdict]]", threshold: float) -> dict[str, Any]:
    """How far two raters agree, over what both decided."""
    from p2engine.rollouts.agreement import cohen_kappa, krippendorff_alpha, quadratic_kappa

    both = [(each.score, v.score) for each, v in judged if v.score is not None]
    people, machine = [one for one, _ in both], [other for _, other in both]
    passes = [[score >= threshold for score in scores] for scores in (people, machine)]
    alike = sum(one == other for one, other in zip(*passes, strict=True))
    gaps = [other - one for one, other in both]
    return {
        "labelled": len(judged),
        "n": len(both),
        "undecided": sum(verdict.status == "undecided" for _, verdict in judged),
        "errors": sum(verdict.status == "error" for _, verdict in judged),
        "threshold": threshold,
        "agreement": alike / len(both) if both else None,
        "kappa": cohen_kappa(*passes),
        "weighted_kappa": quadratic_kappa(people, machine),
        "alpha": krippendorff_alpha([people, machine], "interval"),
        "bias": sum(gaps) / len(gaps) if gaps else None,
        "mean_absolute_error": sum(map(abs, gaps)) / len(gaps) if gaps else None,
    }


def _agreement_lines(found: dict[str, Any]) -> list[str]:
    def number(name: str, signed: bool = False) -> str:
        value = found[name]
        if value is None:
            return "–"
        return f"{_unsigned_zero(value):+.3f}" if signed else f"{_unsigned_zero(value):.3f}"

    lines = [
        f"judged {found['n']} of {found['labelled']}: {found['undecided']} undecided, {found['errors']} errors",
        f"same side of {found['threshold']:g}: {number('agreement')}, beyond chance (Cohen's kappa) {number('kappa')}",
        f"on the scale: weighted kappa {number('weighted_kappa')}, Krippendorff's alpha {number('alpha')}",
        f"off by {number('mean_absolute_error')} on average, bias {number('bias', signed=True)}",
    ]
    return lines + (["too few to say much: label 30 or more"] if found["n"] < 30 else [])

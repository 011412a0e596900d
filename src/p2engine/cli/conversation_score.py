"""`conversation score · promote`: have every branch judged, and go on with the best."""

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2engine.cli.arguments import ConversationName, conversation_of
from p2engine.cli.output import Output, one_line
from p2engine.cli.session import run_with_engine
from p2engine.errors import UsageError

if TYPE_CHECKING:
    from p2engine.domain.evaluation import Evaluation
    from p2engine.domain.records import Branch
    from p2engine.domain.verdicts import Verdict
    from p2engine.runtime.conversation import Conversation
    from p2engine.wiring import Engine


def register(conversation: typer.Typer) -> None:
    """Add these commands to the group `conversation`."""
    conversation.command("score")(score)
    conversation.command("promote")(promote)


def score(
    ctx: typer.Context,
    name: ConversationName,
    evaluator: Annotated[
        str | None,
        typer.Option("--evaluator", metavar="ID", help="Who judges; else those that the conversation is set up with."),
    ] = None,
    rubric: Annotated[
        str | None, typer.Option("--rubric", metavar="TEXT", help="For the judge: a text, @FILE, or a name.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="ID", help="Who judges; else its own.")] = None,
    params: Annotated[
        list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="What it takes. May be repeated.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Ask, also where it was judged before.")] = False,
) -> None:
    """Have the last answer of every branch judged, the best first."""

    async def body(engine: "Engine", output: Output) -> int:
        from p2engine.cli.verdicts import evaluation_of, score_words, tell_broken, verdict_row

        tell_broken(engine, output)
        conversation = await conversation_of(engine, name)
        asked = (await conversation.stack()).setup.evaluations
        if evaluator is None and rubric is None and asked:
            wanted = list(asked)
        else:
            chosen = evaluator or "gpt4_judge"
            wanted = [evaluation_of(chosen, params or (), rubric=rubric, model=model, asked=asked)]
        for each in wanted:
            engine.evaluators.check(each)
        judged, passed_over = await _judged(engine, conversation, wanted, again)
        current = (await conversation.branch()).ref
        judged.sort(key=lambda pair: (pair[1].score is None, -(pair[1].score or 0.0), pair[0].name))
        rows = [{"branch": b.name, "current": b.ref == current, **verdict_row(v)} for b, v in judged]
        cells = [
            ("*" if b.ref == current else "", b.name, f"{v.evaluator}@{v.version}", score_words(v.score, v), v.comment)
            for b, v in judged
        ]
        cells = [(*cell[:4], one_line(cell[4], 80)) for cell in cells]
        output.table("", ("", "branch", "evaluator", "score", "comment"), cells, rows)
        if passed_over:
            output.note(f"nothing to judge on: {', '.join(passed_over)}")
        if judged:
            output.next(f"p2engine conversation promote {shlex.quote(name)} {shlex.quote(judged[0][0].name)}")
        return int(any(verdict.status == "error" for _, verdict in judged))

    run_with_engine(ctx, body)


async def _judged(
    engine: "Engine", conversation: "Conversation", wanted: "list[Evaluation]", again: bool
) -> "tuple[list[tuple[Branch, Verdict]], list[str]]":
    """A verdict of each evaluator on each branch, and the branches that have no answer yet."""
    from p2engine.runtime.judging import judge_now

    judged: list[tuple[Branch, Verdict]] = []
    passed_over = []
    for branch in await conversation.branches():
        try:
            found = [await judge_now(engine.world, branch.ref, each, again=again) for each in wanted]
        except UsageError:
            passed_over.append(branch.name)
            continue
        judged += ((branch, verdict) for verdict, _ in found)
    return judged, passed_over


def promote(
    ctx: typer.Context,
    name: ConversationName,
    branch: Annotated[str, typer.Argument(metavar="BRANCH", help="The branch, or a unique beginning of its name.")],
) -> None:
    """Make a branch the current one, and record that it was chosen and by which verdicts."""

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.cli.verdicts import verdict_row
        from p2engine.runtime.promotion import promote as promoted

        conversation = await conversation_of(engine, name)
        before = await conversation.branch()
        target, verdicts = await promoted(engine.world, conversation, branch)
        document: dict[str, Any] = {"conversation": conversation.name, "branch": target.name, "from": before.name}
        document["verdicts"] = [verdict_row(verdict) for verdict in verdicts]
        by = f", by {len(verdicts)} verdicts" if verdicts else "; nothing has judged it"
        output.document(document, f"{conversation.name} is now on branch {target.name}{by}")
        output.next(f"p2engine chat resume {shlex.quote(conversation.name)}")

    run_with_engine(ctx, body)

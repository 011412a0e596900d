"""One trial: a conversation that is opened once, told once and judged once, however often somebody begins it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from p2engine.agents.templates import TemplateFault
from p2engine.domain.draft import Step
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import ConversationId, StackRef
from p2engine.domain.machine import hear
from p2engine.domain.money import AccountName, BookId
from p2engine.domain.records import Event, Query
from p2engine.domain.stack import Stack
from p2engine.domain.states import AnyState, Finished, Override, UserMessage
from p2engine.errors import StoreError, UsageError
from p2engine.limits import EVALUATION_TIMEOUT_S, NAME_BYTES_MAX, QUERY_EVENTS_MAX
from p2engine.rollouts.news import News
from p2engine.rollouts.results import KINDS, TIMED_OUT, TrialResult, result_of, verdicts_on
from p2engine.rollouts.spec import Team, Trial, Variant
from p2engine.rollouts.templates import trial_evaluations, trial_message
from p2engine.runtime.conversation import Conversation
from p2engine.runtime.engine import Engine
from p2engine.runtime.turn import commit, hand_out
from p2engine.runtime.world import World
from p2engine.tools.registry import NO_LEDGER, WITHHELD

log = logging.getLogger("p2engine.rollouts")

OpenBook = Callable[[BookId], Awaitable[None]]
"""Opens the wallets of the project's agents in a book of its own; those that are open stay as they are."""

SEE_MONEY = frozenset({"ledger_received", "balance", "python"})  # checks that look at wallets, or may
NOBODY = "a trial has nobody who could answer a question"
VERDICTS_LATE_S = 30.0  # beyond its own bound, before a verdict that is owed is not waited for any longer


class Scene(NamedTuple):
    """Where trials are played. open_book: None where there is no ledger. rollout: its id."""

    engine: Engine
    rollout: str
    news: News
    open_book: OpenBook | None = None


def trial_name(rollout: str, trial: Trial) -> str:
    """What a trial's conversation is called: `ROLLOUT/TEAM/VARIANT/NUMBER`, with a hash for what would be too long."""
    name = f"{rollout}/{trial.key}"
    if len(name.encode()) <= NAME_BYTES_MAX:
        return name
    return f"{rollout}/{blake2b(trial.key.encode(), digest_size=8).hexdigest()}"


async def play(
    scene: Scene, trial: Trial, team: Team, earlier: Mapping[str, Any], *, usd: float | None = None
) -> TrialResult:
    """Begin a trial or go on with it, wait for its end and its verdicts, and say what came of it.

    earlier: what the teams that this one depends on came to. usd: what it may cost at most. Raises StoreError; whatever
    else goes wrong is its row.
    """
    variant, name = team.variant(trial.variant), trial_name(scene.rollout, trial)
    try:
        conversation = await scene.engine.conversation(name, agent=variant.agent, group=scene.rollout)
        return await _played(scene, trial, team, conversation, trial_message(trial, earlier), usd)
    except StoreError:
        raise
    except (TemplateFault, UsageError) as error:
        return _fallen(trial, variant, name, str(error))
    except Exception as error:  # a fault in one trial is a row of the table; the others go on
        log.warning("trial %s failed", name, exc_info=error)
        return _fallen(trial, variant, name, f"{type(error).__name__}: {error}")


async def _played(
    scene: Scene, trial: Trial, team: Team, conversation: Conversation, text: str, usd: float | None
) -> TrialResult:
    variant, root = team.variant(trial.variant), conversation.record.current
    evaluations = trial_evaluations(team, trial.task)
    changes = {**variant.changes, "seed": trial.seed, "evaluations": msgspec.to_builtins(evaluations)}
    book = await _book(scene, team, variant, conversation.name)
    if book is not None:
        changes["book"] = book
    if usd is not None:
        own = variant.changes.get("budget", {})
        changes["budget"] = {**own, "usd": min(usd, own.get("usd") or usd)}
    await _tell(scene.engine.world, root, text, changes)
    await _ended(conversation, team.timeout_s)
    events = await _judged(scene, conversation.record.id, root, evaluations)
    result = result_of(
        trial,
        variant.agent,
        conversation.name,
        root,
        team.evaluations,
        events,
        started_at=conversation.record.created_at,
    )
    if book is None or team.ledger == "shared" or scene.engine.world.ledger is None:
        return result
    account = await (await scene.engine.world.ledger()).account(AccountName(result.agent), book=book)
    if account is None:
        return result
    return msgspec.structs.replace(result, received=str(account.received), sent=str(account.sent))


async def _book(scene: Scene, team: Team, variant: Variant, name: str) -> BookId | None:
    """The book of a trial, with its wallets; None where neither its agent, nor a delegate, nor a check sees money."""
    if scene.open_book is None:
        return None
    setup = await scene.engine.world.roster.setup(variant.agent, variant.changes)
    pays = any(WITHHELD.get(grant.name) == NO_LEDGER for grant in setup.tools)
    if not (pays or setup.delegates or any(each.evaluator in SEE_MONEY for each in team.evaluations)):
        return None
    book = BookId(name if team.ledger == "isolated" else scene.rollout)
    await scene.open_book(book)
    return book


async def _tell(world: World, ref: StackRef, text: str, changes: dict[str, Any]) -> None:
    """Configure the agent and give it the message, in one commit, unless that was done before. Raises UsageError."""
    branch = await world.stacks.branch(ref)
    setup = await world.roster.setup(branch.agent, changes)
    said: list[AnyState] = [Override(changes=changes, setup=setup, source="rollout"), UserMessage(text=text)]

    def decide(stack: Stack, at: float) -> Step:
        return hear(stack, () if stack.head else said, at)

    step = await commit(world, ref, decide, cause="rollout")
    await hand_out(world, step.effects)


async def _ended(conversation: Conversation, timeout_s: float | None) -> None:
    """Wait until the turn is over, which it is after `timeout_s` at the latest."""
    try:
        async with asyncio.timeout(timeout_s):
            await conversation.resume()
    except TimeoutError:
        await conversation.cancel(why=f"{TIMED_OUT} {timeout_s:g} s")
    if not isinstance((await conversation.stack()).ground, Finished):
        await conversation.cancel(why=NOBODY)


async def _judged(
    scene: Scene, conversation: ConversationId, root: StackRef, evaluations: Sequence[Evaluation]
) -> Sequence[Event]:
    """The events of a trial that has ended, once all verdicts are in, or are too late."""
    wanted = sum(evaluation.when == "finish" for evaluation in evaluations)
    patience = VERDICTS_LATE_S + sum(each.timeout_s or EVALUATION_TIMEOUT_S for each in evaluations)
    query = Query(conversation=conversation, kinds=KINDS, limit=QUERY_EVENTS_MAX)
    with scene.news.verdicts(conversation) as came:
        until = asyncio.get_running_loop().time() + patience
        while True:
            came.clear()
            events = await scene.engine.world.store.events(query)
            found = sum(verdict is not None for verdict in verdicts_on(root, evaluations, events))
            if found >= wanted or _is_cancelled(root, events):
                return events
            try:
                async with asyncio.timeout_at(until):
                    await came.wait()
            except TimeoutError:
                return events


def _is_cancelled(root: StackRef, events: Sequence[Event]) -> bool:
    """What was cancelled is not judged."""
    return any(
        each.kind == "state.finished" and each.ref == root and each.body["reason"] == "cancelled" for each in events
    )


def _fallen(trial: Trial, variant: Variant, conversation: str, why: str) -> TrialResult:
    """The row of a trial that has no end in the log."""
    return TrialResult(
        team=trial.team,
        variant=trial.variant,
        number=trial.number,
        agent=variant.agent,
        conversation=conversation,
        status="error",
        task=trial.task.id if trial.task else "",
        repeat=trial.repeat,
        seed=trial.seed,
        detail=why,
    )

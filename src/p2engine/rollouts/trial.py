"""One trial: a conversation that is opened once, told once and judged once, however often somebody begins it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from itertools import count
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from p2engine.agents.templates import TemplateFault
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import ConversationId, StackRef
from p2engine.domain.money import AccountName, Amount, BookId
from p2engine.domain.records import Query
from p2engine.domain.setup import Spent
from p2engine.domain.states import AnyState, Finished, Override, Reason, UserMessage
from p2engine.errors import StoreError, UsageError
from p2engine.evals.running import NAMED
from p2engine.limits import EVALUATION_TIMEOUT_S, NAME_BYTES_MAX, QUERY_EVENTS_MAX
from p2engine.rollouts.news import News
from p2engine.rollouts.results import KINDS, TIMED_OUT, TrialResult, result_of
from p2engine.rollouts.spec import Team, Trial, Variant
from p2engine.rollouts.templates import trial_evaluations, trial_message
from p2engine.runtime.conversation import Conversation, begin
from p2engine.runtime.engine import Engine
from p2engine.tools.registry import NO_LEDGER, WITHHELD

log = logging.getLogger("p2engine.rollouts")

OpenBook = Callable[[BookId], Awaitable[None]]
"""Opens the wallets of the project's agents in a book of its own; those that are open stay as they are."""

SEE_MONEY = frozenset({"ledger_received", "balance", "python"})  # checks that look at wallets, or may
NOBODY = "a trial has nobody who could answer a question"
CUT_OFF = "the rollout was cancelled"  # how the turn of a trial ended that is to be run again
ATTEMPT_BYTES = 4  # of a name, for `~2` and those after it
VERDICTS_LATE_S = 30.0  # beyond its own bound, before a verdict that is owed is not waited for any longer
LOOK_AGAIN_S = 5.0  # whether a verdict is owed still, where none has come


class Scene(NamedTuple):
    """Where trials are played. open_book: None where there is no ledger. rollout: its id."""

    engine: Engine
    rollout: str
    news: News
    open_book: OpenBook | None = None


def trial_name(rollout: str, trial: Trial) -> str:
    """What a trial's conversation is called: `ROLLOUT/TEAM/VARIANT/NUMBER`, with a hash for what would be too long.

    Where the rollout was cancelled meanwhile and gone on with, the trial begins anew in `…/NUMBER~2`.
    """
    name = f"{rollout}/{trial.key}"
    if len(name.encode()) <= NAME_BYTES_MAX - ATTEMPT_BYTES:
        return name
    return f"{rollout}/{blake2b(trial.key.encode(), digest_size=8).hexdigest()}"


async def cut_off(engine: Engine, name: str) -> None:
    """End a trial because its rollout is cancelled, so that it can be run again. name: see `trial_name`."""
    for tried in _attempts(name):
        found = [each for each in await engine.conversations(tried) if each.name == tried]
        if not found:
            return
        await Conversation(engine.world, found[0]).cancel(why=CUT_OFF)


def _attempts(name: str) -> Iterator[str]:
    """What the conversations of a trial are called, one after another, without end."""
    yield name
    yield from (f"{name}~{number}" for number in count(2))


def is_cut_off(result: TrialResult) -> bool:
    """Whether a row is not the trial's own end."""
    return result.status == "cancelled" and result.detail == CUT_OFF


async def play(
    scene: Scene, trial: Trial, team: Team, earlier: Mapping[str, Any], *, usd: float | None = None
) -> TrialResult:
    """Begin a trial or go on with it, wait for its end and its verdicts, and say what came of it.

    earlier: what the teams that this one depends on came to. usd: what it may cost at most. Raises StoreError; whatever
    else goes wrong is its row.
    """
    variant, name = team.variant(trial.variant), trial_name(scene.rollout, trial)
    try:
        begun_at = scene.engine.world.clock.now()
        conversation, ended, lost = await _opened(scene, trial, team, name)
        result = await _played(scene, trial, team, conversation, trial_message(trial, earlier), usd)
        return replace(result, lost=lost, resumed=not ended and conversation.record.created_at < begun_at)
    except StoreError:
        raise
    except (TemplateFault, UsageError) as error:
        return _fallen(trial, variant, name, str(error))
    except Exception as error:  # a fault in one trial is a row of the table; the others go on
        log.warning("trial %s failed", name, exc_info=error)
        return _fallen(trial, variant, name, f"{type(error).__name__}: {error}")


async def _opened(scene: Scene, trial: Trial, team: Team, name: str) -> tuple[Conversation, bool, Spent]:
    """The conversation of a trial: the first that was not cut off; whether it has ended; what those cost that were."""
    agent, lost = team.variant(trial.variant).agent, Spent()
    for tried in _attempts(name):
        found = await scene.engine.conversation(tried, agent=agent, group=scene.rollout)
        ground = (await scene.engine.world.stacks.refresh(found.record.current)).ground
        if not isinstance(ground, Finished) or (ground.reason, ground.detail) != ("cancelled", CUT_OFF):
            return found, isinstance(ground, Finished), lost
        lost = lost.plus((await _row(scene, trial, team, found, found.record.current)).cost)
    raise AssertionError("there is always a further attempt")


async def _row(scene: Scene, trial: Trial, team: Team, conversation: Conversation, root: StackRef) -> TrialResult:
    """What its events say of a trial that has ended."""
    query = Query(conversation=conversation.record.id, kinds=KINDS, limit=QUERY_EVENTS_MAX)
    return result_of(
        trial,
        team.variant(trial.variant).agent,
        conversation.name,
        root,
        team.evaluations,
        await scene.engine.world.store.events(query),
        started_at=conversation.record.created_at,
    )


async def _played(
    scene: Scene, trial: Trial, team: Team, conversation: Conversation, text: str, usd: float | None
) -> TrialResult:
    variant, root = team.variant(trial.variant), conversation.record.current
    evaluations = _sampled(trial_evaluations(team, trial.task), trial)
    changes = {**variant.changes, "seed": trial.seed, "evaluations": msgspec.to_builtins(evaluations)}
    book = await _book(scene, team, variant, conversation.name)
    if book is not None:
        changes["book"] = book
    if usd is not None:
        own = variant.changes.get("budget", {})
        changes["budget"] = {**own, "usd": min(usd, own.get("usd") or usd)}
    setup = await scene.engine.world.roster.setup(conversation.record.agent, changes)
    said = (Override(changes=changes, setup=setup, source="rollout"), UserMessage(text=text))
    limits = [each for each in (team.timeout_s, changes.get("budget", {}).get("seconds")) if each is not None]
    if await _ended(conversation, said, min(limits, default=None)) is not None and evaluations:
        await _judged(scene, conversation.record.id, root, evaluations)
    result = await _row(scene, trial, team, conversation, root)
    if book is None or team.ledger == "shared" or scene.engine.world.ledger is None:
        return result
    ledger = await scene.engine.world.ledger()
    branches = await scene.engine.world.store.branches(conversation.record.id, delegates=True)
    wallets = [await ledger.account(AccountName(agent), book=book) for agent in {branch.agent for branch in branches}]
    there = [wallet for wallet in wallets if wallet is not None]
    if not there:
        return result
    received, sent = (sum(each.received.units for each in there), sum(each.sent.units for each in there))
    return replace(result, received=str(Amount(received)), sent=str(Amount(sent)))


def _sampled(evaluations: Sequence[Evaluation], trial: Trial) -> list[Evaluation]:
    """Repeats of a task have samples of their own, and so have two judges that are the same."""
    found = []
    for place, each in enumerate(evaluations):
        alike = [one.repeats if _judges_like(one, each) else 0 for one in evaluations]
        found.append(replace(each, first=(trial.repeat - 1) * sum(alike) + sum(alike[:place])))
    return found


def _judges_like(one: Evaluation, other: Evaluation) -> bool:
    """Whatever their scores are called."""
    params = [{name: value for name, value in each.params.items() if name != NAMED} for each in (one, other)]
    return (one.evaluator, one.version, params[0]) == (other.evaluator, other.version, params[1])


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


async def _ended(conversation: Conversation, said: Sequence[AnyState], timeout_s: float | None) -> Reason | None:
    """Configure the agent and give it the message, in one commit, unless that was done before; then wait until the
    turn is over, which it is after `timeout_s` at the latest, and say why. None: it had no time to begin.
    """
    reply = None
    try:
        async with asyncio.timeout(timeout_s):
            reply = await begin(conversation, said, cause="rollout")
    except TimeoutError:
        await conversation.cancel(why=f"{TIMED_OUT} {timeout_s:g} s")
    if reply is not None and reply.finished is not None:
        return reply.finished
    if not isinstance((await conversation.stack()).ground, Finished):
        await conversation.cancel(why=NOBODY)
    ground = (await conversation.stack()).ground
    return ground.reason if isinstance(ground, Finished) else None


async def _judged(
    scene: Scene, conversation: ConversationId, root: StackRef, evaluations: Sequence[Evaluation]
) -> None:
    """Wait until no verdict is owed any more, of the end of the turn or of its steps, or until that is too late."""
    patience = VERDICTS_LATE_S + sum(each.timeout_s or EVALUATION_TIMEOUT_S for each in evaluations)
    with scene.news.verdicts(conversation) as came, suppress(TimeoutError):
        async with asyncio.timeout(patience):
            while True:
                came.clear()
                if not await scene.engine.world.store.owed(root):
                    return
                with suppress(TimeoutError):  # what is owed may be something else, which nobody tells of
                    await asyncio.wait_for(came.wait(), LOOK_AGAIN_S)


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

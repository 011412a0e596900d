"""Making the best branch the one that people talk to, and recording why. Knows verdicts; judges nothing."""

from collections.abc import Sequence

import msgspec

from p2engine.domain.ids import StackRef
from p2engine.domain.records import Batch, Branch, Fact, Query
from p2engine.domain.verdicts import Verdict
from p2engine.limits import QUERY_EVENTS_MAX
from p2engine.runtime.conversation import Conversation
from p2engine.runtime.judging import VERDICT
from p2engine.runtime.world import World

PROMOTED = "branch.promoted"


async def promote(
    world: World, conversation: Conversation, name: str, *, keep_running: bool = False
) -> tuple[Branch, Sequence[Verdict]]:
    """Check a branch out, and record that it was chosen and by which verdicts. Raises UsageError for no such branch."""
    before = await conversation.branch()
    target = await conversation.checkout(name, keep_running=keep_running)
    verdicts = await verdicts_on(world, conversation, target.ref)
    told = [{"evaluator": v.evaluator, "version": v.version, "subject": v.subject, "score": v.score} for v in verdicts]
    fact = Fact(
        id=world.ids.fact(),
        kind=PROMOTED,
        cause=verdicts[-1].subject if verdicts else "user",
        at=world.clock.now(),
        conversation=conversation.record.id,
        ref=target.ref,
        body={"name": target.name, "from": before.name, "verdicts": told},
    )
    await world.store.write(Batch(conversation=conversation.record.id, facts=(fact,)))
    return target, verdicts


async def verdicts_on(world: World, conversation: Conversation, ref: StackRef) -> Sequence[Verdict]:
    """The verdicts on a branch that are written by now, oldest first."""
    query = Query(conversation=conversation.record.id, ref=ref, kinds=(VERDICT,), limit=QUERY_EVENTS_MAX, newest=True)
    return [msgspec.convert(event.body, Verdict) for event in await world.store.events(query)]

"""Which entries of a conversation survive when its side branches go. Pure: knows branches and commits, no store.

What survives stands on what it needs: its parents below the highest fork, and the stacks of the delegates it opened.
"""

from collections.abc import Mapping, Sequence

from p2engine.domain.ids import EffectId, StackRef, ref_of, wait_key
from p2engine.domain.records import NO_END, Branch, Placed
from p2engine.domain.states import AgentResult


def survivors(
    branches: Sequence[Branch], current: StackRef, own: Mapping[StackRef, Sequence[Placed]]
) -> dict[StackRef, int]:
    """The branches that stay when nobody needs more than `current`, each with the length from which its entries go.

    own: the commits that each branch wrote itself, oldest first. NO_END for a branch that stays as it is.
    """
    known = {branch.ref: branch for branch in branches}
    children = [(branch.ref, ref_of(branch.delegate), branch.delegate) for branch in branches if branch.delegate]
    keeps: dict[StackRef, int] = {}
    unread: list[StackRef] = []

    def need(ref: StackRef, length: int) -> None:
        if ref not in known:
            return
        length = _end(own[ref], length, known[ref].at)
        if length > keeps.get(ref, -1):
            keeps[ref] = length
            unread.append(ref)

    need(current, NO_END)
    while unread:
        ref = unread.pop()
        branch, length = known[ref], keeps[ref]
        if branch.parent is not None:
            need(branch.parent, branch.at)
        for child, opener, effect in children:
            if opener == ref and wait_key(effect)[0] < length:
                need(child, NO_END)
        for child in _remembered(own[ref], length):
            need(child, NO_END)
    return keeps


def _end(commits: Sequence[Placed], length: int, at: int) -> int:
    """Where the entries of a branch may end that needs so many: at the end of a row, with nothing open there."""
    if length <= at:
        return at if commits else NO_END
    for place, placed in enumerate(commits):
        count = len(placed.commit.states)
        if placed.seq + count >= length and count in placed.commit.safe:
            return placed.seq + count if place + 1 < len(commits) else NO_END
    return NO_END


def _remembered(commits: Sequence[Placed], length: int) -> list[StackRef]:
    """The stacks of delegates that these entries name."""
    return [
        state.child[0]
        for placed in commits
        for index, state in enumerate(placed.commit.states, placed.seq)
        if index < length and isinstance(state, AgentResult) and state.child is not None
    ]


def entry_of(cause: str) -> tuple[StackRef, int] | None:
    """The entry that a cause names: an effect (`ref:seq.slot`) or an event (`ref:seq`); None where it is neither."""
    ref, _, place = cause.partition(":")
    if not place.replace(".", "", 1).isdigit() or place.startswith("."):
        return None
    return StackRef(ref), wait_key(EffectId(cause))[0] if "." in place else int(place)

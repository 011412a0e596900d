"""Which entries survive when side branches go: those that the current branch stands on, and its delegates' memory."""

from collections.abc import Sequence

import pytest

from p2engine.domain.ids import AgentId, ConversationId, EffectId, StackRef, effect_id
from p2engine.domain.pruning import entry_of, survivors
from p2engine.domain.records import NO_END, Branch, Commit, Placed
from p2engine.domain.states import AgentResult, AnyState, UserMessage

ROOT = StackRef("root")


def _branch(name: str, parent: str | None = None, at: int = 0, delegate: EffectId | None = None) -> Branch:
    return Branch(
        ref=StackRef(name),
        conversation=ConversationId("c"),
        agent=AgentId("a"),
        name=name,
        parent=StackRef(parent) if parent else None,
        at=at,
        delegate=delegate,
    )


def _rows(name: str, at: int, *rows: tuple[Sequence[AnyState], bool]) -> list[Placed]:
    """Commits one after the other; each says whether nothing is open at its end."""
    found = []
    for states, is_safe in rows:
        safe = (len(states),) if is_safe else ()
        found.append(Placed(StackRef(name), at, Commit(1.0, "x", tuple(states), len(states), safe=safe)))
        at += len(states)
    return found


def _said(count: int = 1) -> list[AnyState]:
    return [UserMessage(text="x")] * count


def test_seam_25_a_trunk_ends_after_its_highest_fork() -> None:
    """At the first end of a row from there on where nothing is open; a fork inside a row leaves that row whole."""
    rows = _rows("root", 0, (_said(), False), (_said(3), True), (_said(), False), (_said(), True), (_said(2), True))
    for at, kept in ((0, 0), (1, 4), (2, 4), (4, 4), (5, 6), (6, 6), (7, NO_END), (8, NO_END)):
        branches = [_branch("root"), _branch("side", "root", at)]
        own = {ROOT: rows, StackRef("side"): _rows("side", at, (_said(), True))}
        assert survivors(branches, StackRef("side"), own) == {"root": kept, "side": NO_END}


def test_seam_25_of_several_forks_the_highest_counts() -> None:
    """Of those that survive: what nobody stands on goes, with what it was standing on."""
    rows = [(_said(), True)] * 9
    branches = [
        _branch("root"),
        _branch("low", "root", 2),
        _branch("high", "root", 7),
        _branch("leaf", "low", 4),
        _branch("below", "leaf", 1),
    ]
    own = {branch.ref: _rows(branch.ref, branch.at, *rows) for branch in branches}
    assert survivors(branches, StackRef("high"), own) == {"root": 7, "high": NO_END}
    assert survivors(branches, StackRef("leaf"), own) == {"root": 2, "low": 4, "leaf": NO_END}
    # A fork below where its parent begins: nothing of that one's own stays, and the lineage still leads through it.
    assert survivors(branches, StackRef("below"), own) == {"root": 2, "low": 4, "leaf": 4, "below": NO_END}
    assert survivors(branches, ROOT, own) == {"root": NO_END}


def test_seam_25_delegates_of_what_survives_survive() -> None:
    """Those that surviving entries opened or name, with what they remember; those of entries that go do not."""
    first, second, third = (effect_id(ROOT, seq, 0) for seq in (1, 4, 7))
    named = AgentResult(call_id="c", agent=AgentId("b"), child=(StackRef("named"), 3))
    branches = [
        _branch("root"),
        _branch("ann", delegate=first),
        _branch("ann2", "ann", 2, second),
        _branch("bob", delegate=third),
        _branch("deep", delegate=effect_id(StackRef("ann2"), 3, 0)),
        _branch("named"),
        _branch("side", "root", 6),
    ]
    rows = (_said(3), True), ([*_said(2), named], True), (_said(3), True)
    own = {branch.ref: _rows(branch.ref, branch.at, *[(_said(), True)] * 5) for branch in branches}
    own[ROOT] = _rows("root", 0, *rows)
    whole = ("side", "ann2", "deep", "named")
    expected = {**dict.fromkeys(whole, NO_END), "root": 6, "ann": NO_END}
    assert survivors(branches, StackRef("side"), own) == expected


@pytest.mark.parametrize(
    ("cause", "entry"),
    [
        ("0123456789ab:4.1", ("0123456789ab", 4)),
        ("0123456789ab:17", ("0123456789ab", 17)),
        ("user", None),
        ("rollout:x", None),
        ("a:1.2.3", None),
        ("a:.5", None),
        ("", None),
    ],
)
def test_a_cause_may_name_an_entry(cause: str, entry: tuple[str, int] | None) -> None:
    """By the id of an effect or of an event; anything else names none."""
    assert entry_of(cause) == entry

"""Typed names. An effect is named by where it was decided, so a replay yields the same ids.

A branch has a random uid, minted when it is made; names are aliases and never enter an id, so that a reused name
never repeats an idempotency key.
"""

from hashlib import blake2b
from typing import NewType

from p2engine import limits

ConversationId = NewType("ConversationId", str)
AgentId = NewType("AgentId", str)
StackRef = NewType("StackRef", str)  # the uid of a branch: 12 hex digits. One branch is one agent's stack.
EffectId = NewType("EffectId", str)  # `ref:seq.slot`
OwnerId = NewType("OwnerId", str)  # one incarnation of one process
BlobRef = NewType("BlobRef", str)  # `b2:` and 32 hex digits of BLAKE2b

WaitKey = tuple[int, int]  # (seq, slot): unique along a lineage, whichever branch wrote it

MAIN = "main"  # the name of a conversation's first branch


def effect_id(ref: StackRef, seq: int, slot: int) -> EffectId:
    """Name an effect by the branch that emits it, the entry that owes it, and its place there."""
    return EffectId(f"{ref}:{seq}.{slot}")


def wait_key(effect: EffectId) -> WaitKey:
    """The position inside an effect id."""
    seq, _, slot = effect[effect.index(":") + 1 :].partition(".")
    return int(seq), int(slot)


def ref_of(effect: EffectId) -> StackRef:
    """The branch inside an effect id."""
    return StackRef(effect[: effect.index(":")])


def is_beginning(begun: str, whole: str) -> bool:
    """Whether a reference may be cut short so. Too few letters mean nothing: half of all words begin like some uid."""
    return len(begun) >= limits.REFERENCE_LETTERS_MIN and whole.startswith(begun)


def child_ref(effect: EffectId) -> StackRef:
    """The branch a delegation opens: a hash of its effect, so that opening twice opens the same."""
    return StackRef(blake2b(effect.encode(), digest_size=6).hexdigest())


def blob_ref(body: bytes) -> BlobRef:
    """The name of a body by its content."""
    return BlobRef("b2:" + blake2b(body, digest_size=16).hexdigest())

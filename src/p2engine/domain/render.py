"""Which of a stack's messages a model is shown. Never splits a call from its results, nor reads what it leaves out."""

from collections.abc import Callable, Sequence

from p2engine.domain.messages import Fragment, chained
from p2engine.domain.setup import RenderPolicy
from p2engine.domain.stack import Stack

_BYTES_A_TOKEN = 4  # of the wire form, its frame included: an estimate, high for English, low for some scripts


def select(fragments: Sequence[Fragment], policy: RenderPolicy) -> Sequence[Fragment]:
    """The fragments a policy shows, digests chained anew where some are left out.

    full: all. last_n: the last n messages. token_budget: the first user message, and as many of the last as fit in
    n tokens (roughly counted). A cut never falls between a call and its results; the newest group is always shown.
    """
    kept = _shown(fragments, policy)
    return fragments if len(kept) == len(fragments) else _chained(kept)


def prompt_tokens(stack: Stack) -> int:
    """Roughly what the stack's messages take in the next prompt: a token for every four bytes of JSON, rounded up.

    Instructions and tools are not in it: the record holds their names alone. 0 for an agent that asks no model.
    """
    if not stack.setup.model:
        return 0
    policy = stack.setup.render
    if policy.kind == "full":
        bytes_n = stack.wire_n
    else:
        bytes_n = sum(len(piece.wire) for piece in _shown(stack.fragments, policy))
    return -(-bytes_n // _BYTES_A_TOKEN)


def _shown(fragments: Sequence[Fragment], policy: RenderPolicy) -> Sequence[Fragment]:
    """The fragments a policy shows, as they stand in the history."""
    if policy.kind == "full":
        return fragments
    if policy.kind == "last_n":
        return fragments[_start(fragments, policy.n, lambda _: 1) :]
    first = next((number for number, piece in enumerate(fragments) if piece.role == "user"), None)
    if first is None:
        return fragments[_start(fragments, policy.n, _tokens) :]
    start = _start(fragments, policy.n - _tokens(fragments[first]), _tokens)
    return fragments[start:] if start <= first else [fragments[first], *fragments[start:]]


def _start(fragments: Sequence[Fragment], room: int, size: Callable[[Fragment], int]) -> int:
    """Where the newest groups that fit in `room` begin, the newest of all in any case.

    A group is what stands or falls together: calls with the results that follow them.
    """
    start = len(fragments)
    awaited: set[str] = set()  # results whose calls stand further up
    for number in range(len(fragments) - 1, -1, -1):
        piece = fragments[number]
        room -= size(piece)
        if room < 0 and start < len(fragments):
            break
        if piece.role == "tool":
            awaited.add(piece.message.call_id)
        elif awaited:
            awaited.difference_update([call.call_id for call in piece.message.calls])
        if not awaited:
            start = number
    return start


def _tokens(piece: Fragment) -> int:
    return max(1, len(piece.wire) // _BYTES_A_TOKEN)


def _chained(pieces: Sequence[Fragment]) -> list[Fragment]:
    anew: list[Fragment] = []
    for piece in pieces:
        anew.append(chained(piece.role, piece.wire, anew[-1].digest if anew else b""))
    return anew

"""Which of a stack's messages a model is shown. Never splits a call from its results."""

from collections.abc import Callable, Sequence

from p2engine.domain.messages import Fragment, fragment, tokens_estimate
from p2engine.domain.setup import RenderPolicy


def select(fragments: Sequence[Fragment], policy: RenderPolicy) -> Sequence[Fragment]:
    """The fragments a policy shows, digests chained anew where some are left out.

    full: all. last_n: the last n messages. token_budget: the first user message, and as many of the last as fit in
    n tokens (roughly counted). A cut never falls between a call and its results; the newest group is always shown.
    """
    if policy.kind == "full":
        return fragments
    groups = _groups(fragments)
    if policy.kind == "last_n":
        kept = _last(groups, policy.n, lambda _: 1)
        chosen = [piece for group in kept for piece in group]
    else:
        first = next((piece for piece in fragments if piece.message.role == "user"), None)
        pinned = _tokens(first) if first else 0
        kept = _last(groups, policy.n - pinned, _tokens)
        chosen = [piece for group in kept for piece in group]
        if first is not None and all(piece is not first for piece in chosen):
            chosen = [first, *chosen]
    return fragments if len(chosen) == len(fragments) else _chained(chosen)


def _groups(fragments: Sequence[Fragment]) -> list[list[Fragment]]:
    """Messages that stand or fall together: calls with the results that follow them."""
    groups: list[list[Fragment]] = []
    open_calls: set[str] = set()
    for piece in fragments:
        message = piece.message
        if groups and open_calls:
            groups[-1].append(piece)
        else:
            groups.append([piece])
        if message.calls:
            open_calls |= {call.call_id for call in message.calls}
        open_calls.discard(message.call_id)
    return groups


def _last(groups: Sequence[list[Fragment]], room: int, size: Callable[[Fragment], int]) -> list[list[Fragment]]:
    kept: list[list[Fragment]] = []
    for group in reversed(groups):
        room -= sum(size(piece) for piece in group)
        if kept and room < 0:
            break
        kept.append(group)
    return kept[::-1]


def _tokens(piece: Fragment) -> int:
    return tokens_estimate(piece.wire.decode())


def _chained(pieces: Sequence[Fragment]) -> list[Fragment]:
    chained: list[Fragment] = []
    for piece in pieces:
        chained.append(fragment(piece.message, chained[-1].digest if chained else b""))
    return chained

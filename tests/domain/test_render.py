"""Rendering: what a model is shown, under every policy, of every stack."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from p2engine.domain.messages import Fragment, Message, ToolUse, fragment, tokens_estimate
from p2engine.domain.render import select
from p2engine.domain.setup import RenderPolicy
from tests.domain.test_machine_walks import TAPE, stroll
from tests.domain.walking import ROOT, Tape

POLICY = st.one_of(
    st.just(RenderPolicy()),
    st.builds(RenderPolicy, st.just("last_n"), st.integers(1, 12)),
    st.builds(RenderPolicy, st.just("token_budget"), st.integers(1, 400)),
)


def conversation(*sizes: int) -> list[Fragment]:
    """A user's message and a reply with so many calls and their results, for each size."""
    messages: list[Message] = []
    for number, size in enumerate(sizes):
        messages.append(Message(role="user", text=f"question {number} " + "x" * 40))
        if size:
            calls = tuple(ToolUse(f"c{number}.{n}", "look") for n in range(size))
            messages.append(Message(role="assistant", calls=calls))
            messages += [Message(role="tool", text="seen", call_id=call.call_id) for call in calls]
        messages.append(Message(role="assistant", text=f"answer {number}"))
    return chain(messages)


def chain(messages: Sequence[Message]) -> list[Fragment]:
    """The messages as fragments, each digest standing for all before it."""
    pieces: list[Fragment] = []
    for message in messages:
        pieces.append(fragment(message, pieces[-1].digest if pieces else b""))
    return pieces


def whole(pieces: Sequence[Fragment]) -> None:
    """Every call has its result and every result its call, results right behind their calls."""
    open_calls: set[str] = set()
    for piece in pieces:
        message = piece.message
        if message.role == "tool":
            assert message.call_id in open_calls, "a result without its call"
            open_calls.discard(message.call_id)
        elif message.role == "assistant":
            assert not open_calls, "a call without its result"
        open_calls |= {call.call_id for call in message.calls}
    assert not open_calls, "a call without its result"


def chained(pieces: Sequence[Fragment]) -> bool:
    return list(pieces) == chain([piece.message for piece in pieces])


@given(TAPE, POLICY)
def test_no_policy_splits_a_call_from_its_results(tape: Tape, policy: RenderPolicy) -> None:
    """Of any stack that may be thought about, calls and results are shown together or not at all, chained anew."""
    walk = stroll(tape)
    for stack in walk.stacks.values():
        if any(pending.what != "think" for pending in stack.open.values()):
            continue
        shown = select(stack.fragments, policy)
        whole(shown)
        assert chained(shown)
        if stack.fragments:
            assert shown[-1].message == stack.fragments[-1].message


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), POLICY)
def test_what_is_shown_is_the_newest_in_order(sizes: list[int], policy: RenderPolicy) -> None:
    """A policy leaves out from the beginning only, but for the first message that token_budget pins."""
    pieces = conversation(*sizes)
    shown = [piece.message for piece in select(pieces, policy)]
    messages = [piece.message for piece in pieces]
    pinned = shown[:1] if policy.kind == "token_budget" else []
    rest = shown[len(pinned) :]
    assert rest == messages[len(messages) - len(rest) :] or shown == messages[len(messages) - len(shown) :]
    assert not pinned or pinned == messages[:1] or shown == messages


def test_full_shows_everything_and_copies_nothing() -> None:
    """The fragments themselves, so that a long history costs nothing to select."""
    pieces = conversation(1, 0, 2)
    assert select(pieces, RenderPolicy()) is pieces
    assert select(pieces, RenderPolicy("last_n", 100)) is pieces


def test_last_n_counts_messages() -> None:
    """The last four messages; a group of calls and results that would not fit whole is left out, unless it is last."""
    pieces = conversation(2, 2)  # question, calls, result, result, answer, twice
    assert [piece.message.role for piece in select(pieces, RenderPolicy("last_n", 4))] == [
        "assistant",
        "tool",
        "tool",
        "assistant",
    ]
    assert [piece.message.role for piece in select(pieces, RenderPolicy("last_n", 3))] == ["assistant"]
    assert len(select(pieces[:4], RenderPolicy("last_n", 1))) == 3  # the newest group is always shown


def test_token_budget_pins_the_first_user_message() -> None:
    """The task stays in sight however long the conversation grows; the rest is as many of the last as fit."""
    pieces = conversation(0, 1, 0, 0, 0)
    policy = RenderPolicy("token_budget", 60)
    shown = select(pieces, policy)
    assert shown[0].message.text.startswith("question 0")
    assert shown[-1].message.text == "answer 4"
    assert sum(tokens_estimate(piece.wire.decode()) for piece in shown) <= policy.n
    assert len(shown) < len(pieces)


def test_token_budget_shows_the_newest_however_small_it_is() -> None:
    """A budget that nothing fits shows the task and the newest group."""
    pieces = conversation(0, 2)[:-1]
    shown = select(pieces, RenderPolicy("token_budget", 1))
    assert [piece.message.role for piece in shown] == ["user", "assistant", "tool", "tool"]


def test_a_note_inside_a_group_stays_in_it() -> None:
    """What a post-effect's agent says while other calls are open does not end their group."""
    pieces = chain(
        [
            Message(role="user", text="go"),
            Message(role="assistant", calls=(ToolUse("a", "look"), ToolUse("b", "look"))),
            Message(role="tool", text="seen", call_id="a"),
            Message(role="user", text="[ann] filed"),
            Message(role="tool", text="seen", call_id="b"),
            Message(role="assistant", text="done"),
        ]
    )
    assert len(select(pieces, RenderPolicy("last_n", 2))) == 1
    assert len(select(pieces, RenderPolicy("last_n", 5))) == 5


def test_the_root_of_a_walk_is_rendered() -> None:
    """The walks above show something: they are not empty by mistake."""
    assert stroll(Tape(list(range(200)))).stacks[ROOT].fragments

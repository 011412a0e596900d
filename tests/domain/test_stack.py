"""The stack as a fold: what it derives, what versions of it share, and what costs nothing with a longer history."""

import gc
import sys
from typing import Any

import msgspec
import pytest

from p2engine.domain.decisions import Delegate, Say, ToolOutcome, UseTool
from p2engine.domain.ids import AgentId, StackRef, child_ref
from p2engine.domain.machine import hear
from p2engine.domain.messages import Message, ToolUse, fragment
from p2engine.domain.records import Commit, Placed
from p2engine.domain.stack import Stack, call_digest
from p2engine.domain.states import AssistantMessage, Finished, Override, UserMessage
from p2engine.errors import IllegalTransition
from tests.domain.walking import NOON, ROOT, Walk, facts, setup_of, texts


def spoken(turns: int) -> Walk:
    """A conversation of so many finished turns."""
    walk = Walk(setup_of("boss"))
    for number in range(turns):
        walk.say(f"question {number}")
        walk.decide(Say(f"answer {number}"))
    return walk


def test_versions_share_one_list_of_messages() -> None:
    """A step appends in place where its version owns the tip, so that it costs the same at any length."""
    walk = spoken(3)
    before = walk.stacks[ROOT]
    walk.say("one more")
    assert walk.stacks[ROOT].messages is before.messages
    assert texts(before)[-1] == "answer 2"  # the older version still sees what it saw


def test_a_version_that_does_not_own_the_tip_copies_once() -> None:
    """Two branches from one stack never see each other's messages."""
    stack = spoken(1).stacks[ROOT]
    one = hear(stack.fork(StackRef("one")), [UserMessage(text="left")], NOON).stack
    two = hear(stack.fork(StackRef("two")), [UserMessage(text="right")], NOON).stack
    assert texts(one)[2:] == ["left"]
    assert texts(two)[2:] == ["right"]
    assert texts(stack) == ["question 0", "answer 0"]
    assert one.messages is stack.messages
    assert two.messages is not stack.messages


def test_a_step_leaves_the_stack_it_came_from_as_it_was() -> None:
    """Deciding works on a copy: a step that is never written changes nothing."""
    walk = Walk(setup_of("boss"))
    walk.say("hello")
    walk.decide(UseTool("look"), Delegate(AgentId("ann"), "go"))
    before = facts(walk.stacks[ROOT])
    stack = walk.stacks[ROOT]
    walk.settle(walk.due()[0], ToolOutcome())
    walk.say("late")
    walk.cancel()
    assert facts(stack) == before


def test_the_prompts_digest_is_a_chain_over_all_messages() -> None:
    """Each fragment's digest stands for all up to it, so that a prompt's hash costs the same at any length."""
    fragments = spoken(3).stacks[ROOT].fragments
    before = b""
    for one in fragments:
        assert one == fragment(one.message, before)
        before = one.digest
    swapped = fragment(fragments[0].message, fragment(fragments[1].message).digest)
    assert swapped.digest != fragments[1].digest


@pytest.mark.parametrize(
    "message",
    [
        Message(role="system", text="be brief"),
        Message(role="user", text='"quoted" \n € 🌍'),
        Message(role="assistant", text=""),
        Message(
            role="assistant", text="I look", calls=(ToolUse("c1", "look", {"b": [1, 2.5, None], "a": {"é": True}}),)
        ),
        Message(role="assistant", calls=(ToolUse("c1", "look"), ToolUse("c2", "weather", {"city": "Paris"}))),
        Message(role="tool", text="{}", call_id="c1"),
    ],
)
def test_a_message_is_read_back_from_the_bytes_that_are_sent(message: Message) -> None:
    """Of a message only its bytes are kept, and they say all of it."""
    kept = fragment(message)
    assert kept.message == message
    assert kept.role == message.role


def test_what_is_kept_by_the_thousand_is_no_business_of_the_collector() -> None:
    """Messages and states refer to values alone, so they are in no cycle, and Python need not look for one in them."""
    stack = spoken(1).stacks[ROOT]
    kept = [*stack.messages, *(one.message for one in stack.messages), stack.ground, stack.setup, stack.spent]
    assert not [one for one in kept if gc.is_tracked(one)]


@pytest.mark.parametrize("text", ["hi", "a long answer " * 100, "ein längerer Satz über Grüße " * 20], ids=len)
@pytest.mark.parametrize("calls", [False, True])
def test_the_size_of_a_stack_is_about_what_it_takes_in_memory(text: str, calls: bool) -> None:
    """Whoever bounds memory by it is not wrong by more than a third, whatever the messages are like."""
    walk, sizes = Walk(setup_of("boss")), []
    for number in range(60):
        walk.say(f"{text} {number}")
        if calls:
            walk.decide(UseTool("look", {"at": number}))
            walk.settle(walk.due()[0], ToolOutcome(content=f"{text} {number}"))
        walk.decide(Say(f"{text} {number}"))
        if number in (19, 59):
            sizes.append((taken(walk.stacks[ROOT], set()), walk.stacks[ROOT].bytes_n))
    really, counted = (after - before for before, after in zip(*sizes, strict=True))
    assert 0.67 * really < counted < 1.5 * really


def test_messages_that_a_fork_shares_are_counted_once() -> None:
    """A hundred forks of a long stack take little, and are counted so; what one adds is its own."""
    stack = spoken(50).stacks[ROOT]
    fork = stack.fork(StackRef("one")).fork(StackRef("two"))
    assert stack.bytes_n > 10_000
    assert fork.bytes_n == 0
    grown = hear(fork, [UserMessage(text="more")], NOON).stack
    assert grown.bytes_n == len(grown.messages[-1].wire) + 200


def taken(value: Any, seen: set[int]) -> int:
    """Bytes of a value and of all that it refers to, each counted once."""
    if id(value) in seen or value is None or isinstance(value, type):
        return 0
    seen.add(id(value))
    parts: list[Any] = []
    if isinstance(value, msgspec.Struct):
        parts = [getattr(value, name) for name in value.__struct_fields__]
    elif isinstance(value, dict):
        parts = [*value, *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = [*value]
    return sys.getsizeof(value) + sum(taken(part, seen) for part in parts)


def test_an_inherited_message_has_no_caller() -> None:
    """Below `base` the entries are the parent's: whoever called that agent there does not wait for this branch."""
    walk = Walk(setup_of("boss"))
    walk.say("hello")
    walk.decide(Delegate(AgentId("ann"), "go"))
    child = child_ref(walk.open().id)
    own = walk.stacks[child]
    fork = Stack(StackRef("fork"), own.agent, base=own.head).place_all(walk.placed(child))
    assert own.caller is not None
    assert fork.caller is None


def test_a_commit_in_the_wrong_place_is_a_fault() -> None:
    """Rows fold in order, each where it stands."""
    stack = Stack(ROOT, AgentId("boss"))
    with pytest.raises(IllegalTransition, match="commit at 3 of 'root' folded onto a stack of 0 entries"):
        stack.place(Placed(ROOT, 3, Commit(NOON, "user", (UserMessage(text="x"),), 1)))


def test_a_turn_may_be_cut_right_after_a_message_or_a_reply() -> None:
    """Nothing is open there: the branch rests, and a message may stand directly on either."""
    walk = Walk(setup_of("boss"))
    walk.say("hello")
    walk.decide(Say("hi"))
    for length, last in ((2, UserMessage), (4, AssistantMessage), (5, Finished)):
        cut = walk.fold(ROOT, length)
        assert isinstance(cut.ground, last)
        assert cut.is_resting
        assert cut.safe == length
        assert texts(hear(cut.fork(StackRef("f")), [UserMessage(text="on")], NOON).stack)[-1] == "on"


def test_equal_calls_have_equal_digests() -> None:
    """By what is called with what; the order of keys means nothing, the names of tools do."""
    assert call_digest("pay", {"a": 1, "b": 2}) == call_digest("pay", {"b": 2, "a": 1})
    assert call_digest("pay", {"a": 1}) != call_digest("pay", {"a": 2})
    assert call_digest("pay", {}) != call_digest("look", {})
    assert call_digest("ann", "go") != call_digest("ann", {"go": 1})


def test_overrides_gather_and_the_setup_is_the_newest() -> None:
    """Each override adds its keys and locks; the setup it recorded holds from there on."""
    stack = Stack(ROOT, AgentId("boss"))
    stack.push(Override(changes={"model": "a", "tools": ["x"]}, locks=("model",), setup=setup_of("boss")), at=NOON)
    stack.push(Override(changes={"model": "b"}, setup=setup_of("boss", model="b")), at=NOON)
    stack.push(Override(setup=setup_of("boss", model="c"), source="roster"), at=NOON)
    assert stack.overrides == {"model": "b", "tools": ["x"]}
    assert stack.locks == {"model"}
    assert stack.setup.model == "c"
    assert stack.ground is None


def test_an_assistant_message_is_one_with_its_calls() -> None:
    """Text and calls of one reply are one message, whatever stands between them and the results."""
    walk = Walk(setup_of("boss"))
    walk.say("hello")
    walk.decide(Say("let me see"), UseTool("look", {"n": 1}, "a"), Delegate(AgentId("ann"), "go", "b"))
    (message,) = (one.message for one in walk.stacks[ROOT].fragments if one.message.role == "assistant")
    assert message == Message(role="assistant", text="let me see", calls=message.calls)
    assert [(use.call_id, use.name, use.arguments) for use in message.calls] == [
        ("a", "look", {"n": 1}),
        ("b", "delegate", {"agent_id": "ann", "message": "go"}),
    ]

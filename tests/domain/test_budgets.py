"""Budgets: parts add up, what is not used comes back, and every bound ends the turn by its name."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2engine.domain.budgets import carve, limit_of, remaining
from p2engine.domain.decisions import CallAgentAfter, Decision, Delegate, Failure, Move, Say, ToolOutcome, UseTool
from p2engine.domain.effects import CallAgent, CallTool, Think
from p2engine.domain.ids import AgentId, StackRef, child_ref
from p2engine.domain.messages import Fragment, Usage
from p2engine.domain.render import prompt_tokens, select
from p2engine.domain.setup import Budget, RenderPolicy, Spent
from p2engine.domain.states import AgentResult, Finished, ToolResult
from p2engine.limits import FAN_OUT_MAX, TURN_STEPS_MAX
from tests.domain.walking import ROOT, Tape, Walk, setup_of

ANN, BOB = AgentId("ann"), AgentId("bob")


def begun(budget: Budget, **changes: object) -> Walk:
    walk = Walk(setup_of("boss", budget=budget, **changes))
    walk.say("hello")
    return walk


def reply(walk: Walk, *moves: Move, ref: StackRef = ROOT, cost: Usage | None = None) -> None:
    """The model call of that stack comes back, and has cost something."""
    think = next(effect for effect in walk.owed.values() if isinstance(effect, Think) and effect.ref == ref)
    walk.settle(think, Decision(moves, cost or Usage(model="m", tokens_in=5, tokens_out=5, cost_usd=0.01)))


def ending(walk: Walk, ref: StackRef = ROOT) -> Finished:
    state = walk.states(ref)[-1]
    assert isinstance(state, Finished)
    return state


@given(
    st.integers(0, 1000),
    st.integers(0, 100_000),
    st.floats(0, 100),
    st.integers(0, 64),
    st.integers(0, FAN_OUT_MAX),
)
def test_seam_10_carved_parts_add_up(steps: int, tokens: int, usd: float, tools: int, delegates: int) -> None:
    """What all delegates may spend, with a step for each result, is never more than there was."""
    calls = tools + delegates
    part = carve(Budget(steps=steps, tokens=tokens, usd=usd, seconds=5.0), calls, delegates)
    assert part.steps is not None
    assert part.tokens is not None
    assert part.usd is not None
    assert delegates * part.tokens <= tokens
    assert delegates * part.usd <= usd * (1 + 1e-9)
    assert part.steps == 0 or calls + delegates * part.steps <= steps
    assert part.seconds == 5.0  # time runs for all alike


def test_seam_10_what_is_unbounded_stays_so() -> None:
    """A bound that nobody set is not made up."""
    assert carve(Budget(), 3, 2) == Budget()
    assert remaining(Budget(), Spent(9, 9, 9, 9.0), 9.0) == Budget()


def test_seam_10_delegates_get_equal_parts_and_their_caller_keeps_one() -> None:
    """Two delegates of a caller with 31 steps left: 31 less two results, in three parts."""
    walk = begun(Budget(steps=32, tokens=100))
    reply(walk, Delegate(ANN, "one"), Delegate(BOB, "two"))
    grants = [effect.grant for effect in walk.due() if isinstance(effect, CallAgent)]
    assert grants == [Budget(steps=9, tokens=30)] * 2


def test_seam_10_what_a_delegate_did_not_use_comes_back() -> None:
    """Only what was spent is taken off; the rest is there for the next delegation."""
    walk = begun(Budget(steps=40, tokens=1000))
    reply(walk, Delegate(ANN, "one"))
    child = child_ref(walk.open().id)
    reply(walk, Say("done"), ref=child)
    walk.deliver_all()
    result = next(state for state in walk.states(ROOT) if isinstance(state, AgentResult))
    assert result.spent == Spent(1, 5, 5, 0.01)
    assert walk.stacks[ROOT].spent == Spent(3, 10, 10, 0.02)  # two replies and a result

    reply(walk, Delegate(ANN, "two"))
    assert walk.open().grant.tokens == (1000 - 30) // 2


def test_seam_10_a_post_effect_takes_nothing_that_is_promised_already() -> None:
    """A delegate of a tool's post-effect gets its part of what the open delegates have left over."""
    walk = begun(Budget(steps=60, tokens=3000))
    reply(walk, UseTool("look"), Delegate(ANN, "work"))
    (promised,) = (effect.grant for effect in walk.due() if isinstance(effect, CallAgent))
    look = next(effect for effect in walk.due() if isinstance(effect, CallTool))
    walk.settle(look, ToolOutcome(then=(CallAgentAfter(BOB, "file it"),)))
    after = next(effect.grant for effect in walk.due() if isinstance(effect, CallAgent) and effect.agent == BOB)
    assert promised.tokens is not None
    assert after.tokens is not None
    assert 10 + promised.tokens + 2 * after.tokens <= 3000


def test_a_delegate_spends_no_more_than_its_own_setup_allows() -> None:
    """The grant and the agent's own budget both hold: the smaller one counts."""
    walk = begun(Budget(steps=100))
    reply(walk, Delegate(ANN, "one"))
    walk.setup = setup_of("boss", budget=Budget(steps=2))
    child = child_ref(walk.open().id)
    assert limit_of(walk.stacks[child]).steps == 2


def test_a_call_beyond_the_budget_does_not_run() -> None:
    """With three steps left of one reply's five tools three run; the others are told why."""
    walk = begun(Budget(steps=4))
    reply(walk, *(UseTool("look", {"n": n}) for n in range(5)))
    assert len([effect for effect in walk.due() if isinstance(effect, CallTool)]) == 3
    refused = [state.content for state in walk.states(ROOT) if isinstance(state, ToolResult)]
    assert refused == ["too little of this turn's budget is left to run it"] * 2


def test_a_delegation_without_budget_is_refused() -> None:
    """Where no step would be left for the delegate, it is not opened."""
    walk = begun(Budget(steps=2))
    reply(walk, Delegate(ANN, "one"))
    (result,) = (state for state in walk.states(ROOT) if isinstance(state, AgentResult))
    assert result.content == "too little of this turn's budget is left to delegate"


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        (Budget(steps=1), "1 steps in one turn"),
        (Budget(tokens=10), "10 tokens in one turn"),
        (Budget(usd=0.01), "0.01 USD in one turn"),
        (Budget(seconds=60.0), "60 seconds in one turn"),
    ],
)
def test_every_bound_ends_the_turn_by_its_name(budget: Budget, says: str) -> None:
    """Reaching a bound ends the turn with `budget` and says which, before another model call is made."""
    walk = begun(budget)
    walk.at += 60.0
    reply(walk, UseTool("nope"))
    assert ending(walk) == Finished(reason="budget", detail=says)


def test_seconds_are_counted_by_recorded_times() -> None:
    """Time that no commit recorded does not count; a clock that goes back gives nothing back."""
    walk = begun(Budget(seconds=60.0))
    walk.at += 59.0
    reply(walk, UseTool("nope"))
    walk.at -= 3600.0
    reply(walk, UseTool("nope"))
    assert not isinstance(walk.stacks[ROOT].ground, Finished)
    walk.at += 3601.0
    reply(walk, UseTool("nope"))
    assert ending(walk).detail == "60 seconds in one turn"


def test_seam_33_a_turns_budget_starts_anew_with_each_message() -> None:
    """A conversation does not die of a turn that used its budget up: the next message has all of it."""
    walk = begun(Budget(tokens=100))
    reply(walk, UseTool("nope"), cost=Usage(model="m", tokens_in=90, tokens_out=10))
    assert ending(walk).reason == "budget"
    walk.say("again")
    assert walk.stacks[ROOT].spent == Spent()
    reply(walk, Say("fine"))
    assert ending(walk).reason == "answered"


def test_seam_33_a_conversation_has_a_cap_of_its_own() -> None:
    """Over all its turns it may cost so much; the end says how to raise that, and a raised cap lets it go on."""
    walk = begun(Budget(), conversation_usd=0.02)
    for _ in range(2):
        reply(walk, Say("fine"))
        walk.say("again")
    assert ending(walk).detail == "0.02 USD in this conversation; raise budget.conversation_usd to go on"
    walk.setup = setup_of("boss", conversation_usd=1.0)
    walk.say("and now?")
    reply(walk, Say("fine"))
    assert ending(walk).reason == "answered"


def test_seam_33_a_delegates_past_does_not_count_against_the_conversations_cap() -> None:
    """Its caller's stack has it all in its own sum: a delegate that has worked before is not stopped for that."""
    walk = begun(Budget(), conversation_usd=1.0)
    for number in range(2):
        reply(walk, Delegate(ANN, f"part {number}"))
        child = child_ref(walk.open().id)
        walk.setup = setup_of("boss", conversation_usd=0.02)
        assert [type(effect) for effect in walk.due() if effect.ref == child] == [Think]
        reply(walk, Say("done"), ref=child, cost=Usage(model="m", cost_usd=0.03))
        walk.deliver_all()
    assert walk.stacks[child].total.usd == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("budget", "says"),
    [(Budget(tokens=60), "25 tokens in one turn"), (Budget(usd=0.03), "0.01 USD in one turn")],
)
def test_a_grant_ends_the_delegates_turn(budget: Budget, says: str) -> None:
    """What its caller granted is its limit, by its name."""
    walk = begun(budget)
    reply(walk, Delegate(ANN, "go"))
    walk.setup = setup_of("boss")
    child = child_ref(walk.open().id)
    reply(walk, UseTool("nope"), ref=child, cost=Usage(model="m", tokens_in=20, tokens_out=5, cost_usd=0.01))
    assert ending(walk, child).detail == says


def test_time_runs_for_a_delegate_too() -> None:
    """It has as many seconds as its caller had left when it was decided."""
    walk = begun(Budget(seconds=60.0))
    walk.at += 20.0
    reply(walk, Delegate(ANN, "go"))
    walk.setup = setup_of("boss")
    child = child_ref(walk.open().id)
    walk.at += 39.0
    reply(walk, UseTool("nope"), ref=child)
    assert not isinstance(walk.stacks[child].ground, Finished)
    walk.at += 1.0
    reply(walk, UseTool("nope"), ref=child)
    assert ending(walk, child).detail == "40 seconds in one turn"


def asked(walk: Walk, ref: StackRef = ROOT) -> Think:
    """The model call that this stack waits for."""
    return next(effect for effect in walk.owed.values() if isinstance(effect, Think) and effect.ref == ref)


def prompt_of(walk: Walk) -> int:
    """A token for every four bytes of what the root's model is shown, counted from the messages themselves."""
    stack = walk.stacks[ROOT]
    return -(-sum(len(piece.wire) for piece in select(stack.fragments, stack.setup.render)) // 4)


def test_seam_10_a_model_call_reserves_its_prompt_and_its_reply() -> None:
    """What is left of the turn's tokens, less what the prompt takes, bounds the reply; a longer prompt leaves less."""
    walk = begun(Budget(tokens=1000))
    assert asked(walk).max_tokens == 1000 - prompt_of(walk)
    reply(walk, UseTool("nope"))
    assert prompt_of(walk) > 40
    assert asked(walk).max_tokens == 990 - prompt_of(walk)


def test_seam_10_a_prompt_that_would_overshoot_is_not_sent() -> None:
    """A call whose prompt alone takes all that is left is not made: the turn ends and says by how much."""
    walk = begun(Budget(tokens=300))
    reply(walk, Say("to the first"), UseTool("nope", {"text": "x" * 1200}))
    assert walk.due() == []
    assert ending(walk) == Finished(
        reason="budget",
        detail=f"300 tokens in one turn: the next prompt takes about {prompt_of(walk)}, and 290 are left",
    )


@pytest.mark.parametrize(("more", "ends"), [(-1, True), (0, True), (1, False)])
def test_seam_10_a_reply_has_room_for_a_token_at_least(more: int, ends: bool) -> None:
    """A prompt that takes exactly what is left leaves no reply, so it is not sent; one token more, and it is."""
    probe = begun(Budget())
    walk = begun(Budget(tokens=prompt_of(probe) + more))
    assert isinstance(walk.stacks[ROOT].ground, Finished) is ends
    assert [effect.max_tokens for effect in walk.due() if isinstance(effect, Think)] == ([] if ends else [more])


def test_seam_10_what_was_said_meanwhile_is_part_of_the_prompt() -> None:
    """The reply just given and a message that came during it are counted, though they were not rendered before."""
    walk = begun(Budget(tokens=2000))
    walk.say("y" * 400)
    reply(walk, Say("z" * 400))
    assert prompt_of(walk) > 200
    assert asked(walk).max_tokens == 1990 - prompt_of(walk)
    walk.say("y" * 8000)
    reply(walk, Say("more"))
    assert ending(walk).detail == (
        f"2000 tokens in one turn: the next prompt takes about {prompt_of(walk)}, and 1980 are left"
    )


@pytest.mark.parametrize("policy", [RenderPolicy("last_n", 3), RenderPolicy("token_budget", 60)])
def test_seam_10_only_what_is_shown_is_counted(policy: RenderPolicy) -> None:
    """A long conversation of which the model is shown a part does not run out of tokens for the rest of it."""
    walk = begun(Budget(tokens=500), render=policy)
    for number in range(30):
        reply(walk, Say(f"answer {number} " + "x" * 100))
        walk.say(f"question {number}")
    assert walk.stacks[ROOT].bytes_n > 4000
    assert asked(walk).max_tokens == 500 - prompt_of(walk)


def test_seam_10_counting_a_prompt_reads_no_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the history, what it takes is known without looking at any message; with a cut, at those shown."""
    touched: list[int] = []

    class Watched(list[Fragment]):
        """Messages that note when one is looked at."""

        def __getitem__(self, at: Any) -> Any:
            touched.append(1)
            return super().__getitem__(at)

        def __iter__(self) -> Any:
            raise AssertionError("the history was walked through")

    for policy in (RenderPolicy(), RenderPolicy("last_n", 6)):
        walk = begun(Budget(tokens=10**6), render=policy)
        for number in range(200):
            reply(walk, Say(f"answer {number}"))
            walk.say(f"question {number}")
        stack = walk.stacks[ROOT].copy()
        stack.messages = Watched(stack.messages)
        touched.clear()
        assert prompt_tokens(stack) == prompt_of(walk)
        assert len(touched) <= (0 if policy.kind == "full" else 10)


def test_an_agent_without_a_model_has_no_prompt() -> None:
    """Rules cost no tokens: a budget of few of them does not stop an agent that asks no model."""
    walk = begun(Budget(tokens=5), model="")
    assert asked(walk).max_tokens == 5


def test_what_a_failed_call_cost_is_spent() -> None:
    """A model that failed after it was paid is counted in the turn."""
    walk = begun(Budget())
    walk.settle(walk.due()[0], Failure("cut off", Usage(model="m", tokens_in=9, cost_usd=0.5)))
    assert walk.stacks[ROOT].spent == Spent(1, 9, 0, 0.5)
    assert walk.stacks[ROOT].total == Spent(1, 9, 0, 0.5)


def test_a_price_that_is_not_known_is_not_nothing() -> None:
    """A turn with an unpriced call has no cost to show, its delegates' calls included."""
    walk = begun(Budget())
    reply(walk, Delegate(ANN, "one"))
    child = child_ref(walk.open().id)
    reply(walk, Say("done"), ref=child, cost=Usage(model="m", tokens_in=1))
    walk.deliver_all()
    assert walk.stacks[ROOT].spent.cost_usd is None


NUMBERS = st.lists(st.integers(0, 1000), max_size=150).map(Tape)


@given(NUMBERS, st.sampled_from([1, 3, 7, 20, 60, None]), st.sampled_from([None, 30, 400]))
def test_seam_10_nobody_spends_more_steps_than_there_are(tape: Tape, steps: int | None, tokens: int | None) -> None:
    """However agents delegate and call, in any order of outcomes: steps spent, children included, stay within each
    limit, and grants within what the caller has left."""
    walk = begun(Budget(steps=steps, tokens=tokens))
    while walk.due() and tape.left:
        match effect := tape.pick(walk.due()):
            case CallAgent():
                walk.open_child(effect)
            case CallTool():
                then = (CallAgentAfter(BOB, f"after {tape.below(99)}"),) * tape.pick((0, 0, 1))
                walk.settle(effect, ToolOutcome(then=then))
            case Think():
                moves: list[Move] = [UseTool("look", {"n": n}) for n in range(tape.below(5))]
                moves += [Delegate(tape.pick((ANN, BOB)), f"part {tape.below(99)}") for _ in range(tape.below(4))]
                usage = Usage(model="m", tokens_in=1, tokens_out=1)
                walk.settle(effect, Decision(tuple(moves) or (Say("done"),), usage))
            case _:
                walk.deliver_all()
        for stack in walk.stacks.values():
            limit = limit_of(stack)
            assert stack.spent.steps <= (limit.steps or 0)
            open_calls = [call for call, _ in stack.calls.values()]
            promised = sum(call.grant.steps or 0 for call in open_calls if hasattr(call, "grant"))
            assert stack.spent.steps + len(open_calls) + promised <= (limit.steps or 0)
            if limit.tokens is not None:
                granted = sum(call.grant.tokens or 0 for call in open_calls if hasattr(call, "grant"))
                assert granted <= limit.tokens
    assert walk.stacks[ROOT].spent.steps <= TURN_STEPS_MAX

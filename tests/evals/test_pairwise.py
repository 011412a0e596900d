"""Which of two is better: asked in both orders, decided where both say the same."""

import asyncio
import re
from typing import Any

import pytest

from p2engine.domain.messages import ModelReply, ModelRequest, Usage
from p2engine.errors import ModelError, UsageError
from p2engine.evals.pairwise import Preference
from p2engine.ports import OnText
from tests.evals.subjects import Says, judges, subject

GOOD, BAD = subject("It is 22 °C in Paris, sunny."), subject("No idea.")


async def prefer(*answers: str | BaseException, offline: bool = False) -> tuple[Preference, Says]:
    model = Says(*answers, offline=offline)
    return await judges(model).prefer(GOOD, BAD, {"rubric": "Be strict."}), model


def winner(name: str) -> str:
    return f'{{"winner": "{name}", "comment": "so"}}'


@pytest.mark.parametrize(
    ("answers", "won", "orders"),
    [
        (("A", "B"), "first", ("first", "first")),
        (("B", "A"), "second", ("second", "second")),
        (("tie", "tie"), "tie", ("tie", "tie")),
        (("A", "A"), None, ("first", "second")),
        (("B", "B"), None, ("second", "first")),
        (("A", "tie"), None, ("first", "tie")),
    ],
)
async def test_a_winner_wins_in_both_orders(answers: tuple[str, str], won: str | None, orders: tuple[str, str]) -> None:
    """A judge that always names the one in front has decided nothing."""
    found, model = await prefer(*map(winner, answers))
    assert (found.winner, found.orders) == (won, orders)
    assert found.status == ("undecided" if won is None else "decided")
    assert len(model.asked) == 2
    assert (found.spent.tokens, found.model) == (220, "gpt-4o-2024")


async def test_the_two_are_shown_in_both_orders() -> None:
    """Each as a record of its own, with a mark of its own."""
    _, model = await prefer(winner("A"), winner("B"))
    texts = [request.messages[0].text for request in model.asked]
    assert [text.index("sunny") < text.index("No idea") for text in texts] == [True, False]
    marks = [re.findall(r"<<<RECORD (\w+)", text) for text in texts]
    assert marks[0] == marks[1][::-1]
    assert len(set(marks[0])) == 2
    assert all(mark in model.asked[0].instructions for mark in marks[0])
    assert model.asked[0].instructions.startswith("You are a judge.")


async def test_what_names_no_winner_is_asked_again_and_then_undecided() -> None:
    """Prose, another word, two winners: no winner is made up."""
    for nothing in ("the first one", winner("C"), winner("A") + winner("B")):
        found, model = await prefer(nothing)
        assert (found.winner, found.status, len(model.asked)) == (None, "undecided", 6)


async def test_neither_the_stand_in_nor_a_model_that_fails_decides() -> None:
    """Undecided and an error, with the reason."""
    offline, _ = await prefer(winner("A"), offline=True)
    assert (offline.winner, offline.status) == (None, "undecided")
    assert "offline" in offline.comment
    broken, _ = await prefer(winner("A"), ModelError("it is down"))
    assert (broken.winner, broken.status, broken.comment) == (None, "error", "it is down")


async def test_a_rubric_is_needed() -> None:
    """The same rubrics as of the judge."""
    with pytest.raises(UsageError, match="needs a rubric"):
        await judges(Says(winner("A"))).prefer(GOOD, BAD, {})


class ByContent:
    """A model double that knows which is better, wherever it stands."""

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReply:
        text = request.messages[0].text
        name = "A" if text.index("sunny") < text.index("No idea") else "B"
        return ModelReply(text=winner(name), usage=Usage(model="m", cost_usd=0.0))


async def test_an_honest_judge_is_heard_whatever_the_order() -> None:
    """Swapping the subjects swaps the answer."""
    bench, params = judges(ByContent()), {"rubric": "answer_quality"}
    found: Any = await asyncio.gather(bench.prefer(GOOD, BAD, params), bench.prefer(BAD, GOOD, params))
    assert [each.winner for each in found] == ["first", "second"]

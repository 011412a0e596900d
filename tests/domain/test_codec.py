"""Bytes and back: every state, effect and fact, versions that were and versions to come."""

from contextlib import suppress
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2engine.domain.codec import CODEC, Upcast, decode_commit, decode_effect, decode_fact, encode
from p2engine.domain.effects import AnyEffect, Think
from p2engine.domain.ids import EffectId
from p2engine.domain.records import Commit, Fact
from p2engine.domain.states import STATES, Finished, UserMessage
from p2engine.errors import CorruptEntry, NewerFormat, StoreError

# What msgpack holds exactly: integers of 64 bits, numbers that equal themselves, text without lone surrogates.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
WHOLE = st.integers(-(2**63), 2**63 - 1)
NUMBER = st.floats(allow_nan=False)
VALUE = st.recursive(
    st.none() | st.booleans() | WHOLE | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a field's type, or of a struct."""
    return _values(msgspec.inspect.type_info(kind))


def _values(info: msgspec.inspect.Type) -> st.SearchStrategy[Any]:
    match info:
        case msgspec.inspect.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: _values(field.type) for field in fields})
        case msgspec.inspect.UnionType(types=types):
            return st.one_of([_values(one) for one in types])
        case msgspec.inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case msgspec.inspect.VarTupleType(item_type=item):
            return st.lists(_values(item), max_size=3).map(tuple)
        case msgspec.inspect.TupleType(item_types=items):
            return st.tuples(*map(_values, items))
        case msgspec.inspect.DictType():
            return st.dictionaries(TEXT, VALUE, max_size=3)
        case msgspec.inspect.StrType():
            return TEXT
        case msgspec.inspect.IntType():
            return WHOLE
        case msgspec.inspect.FloatType():
            return NUMBER
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.NoneType():
            return st.none()
    raise AssertionError(f"no values for {info}")


COMMIT = Commit(1.5, "user", (UserMessage(text="hello"), Finished()), 1)
EFFECT = Think(id=EffectId("abc:1.0"), max_tokens=9)
FACT = Fact(id="f", kind="test.noted", cause="test", at=1.5, body={"n": 1})


@given(values_of(Commit))
def test_a_commit_comes_back(commit: Commit) -> None:
    """Whatever a commit holds, its bytes give an equal one, and the same bytes again."""
    raw = encode(commit)
    again = decode_commit(raw, "here")
    assert again == commit
    assert [type(state) for state in again.states] == [type(state) for state in commit.states]
    assert encode(again) == raw


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_every_state_comes_back(state: Any) -> None:
    """Each kind of state survives by itself, so that none hides behind the others."""

    @given(values_of(state))
    def comes_back(value: Any) -> None:
        commit = Commit(0.0, "x", (value,), 0)
        assert decode_commit(encode(commit), "here") == commit

    comes_back()


@pytest.mark.parametrize("effect", get_args(AnyEffect), ids=lambda effect: effect.__name__)
def test_every_effect_comes_back(effect: Any) -> None:
    """Each kind of effect survives by itself."""

    @given(values_of(effect))
    def comes_back(value: Any) -> None:
        assert decode_effect(encode(value), "here") == value

    comes_back()


@given(values_of(Fact))
def test_a_fact_comes_back(fact: Fact) -> None:
    """Whatever a fact holds, its bytes give an equal one."""
    assert decode_fact(encode(fact), "here") == fact


@given(st.binary(max_size=60) | st.sampled_from([encode(COMMIT), encode(EFFECT), encode(FACT)]), st.data())
def test_bytes_that_are_none_are_an_error(raw: bytes, data: st.DataObject) -> None:
    """Whatever bytes lie there, cut anywhere and changed anywhere, reading gives a value or one of two errors."""
    end = data.draw(st.integers(0, len(raw)))
    changed = bytearray(raw[:end])
    if changed:
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    for decode in (decode_commit, decode_effect, decode_fact):
        with suppress(CorruptEntry, NewerFormat):
            decode(bytes(changed), "row 7")


@pytest.mark.parametrize("codec", [0, 1, 200])
def test_failure_14_a_later_version_is_named(codec: int) -> None:
    """A body of a later version says which, and which is the last that can be read here, whatever its shape."""
    for decode, body in ((decode_commit, COMMIT), (decode_effect, EFFECT), (decode_fact, FACT)):
        for shape in (msgspec.msgpack.decode(encode(body))[1], None, "another shape altogether"):
            raw = msgspec.msgpack.encode([CODEC + 1 + codec, shape])
            with pytest.raises(NewerFormat, match=rf"row 7 .* \(format {CODEC + 1 + codec}; .* up to {CODEC}\)"):
                decode(raw, "row 7")


def test_seam_28_an_older_version_is_raised_step_by_step() -> None:
    """A body of two versions ago passes through both upcasts in order; newer ones through what they need."""

    def greeted(commit: list[Any]) -> list[Any]:
        return [*commit[:2], [{**state, "text": state.pop("words")} for state in commit[2]], *commit[3:]]

    def doubled(commit: list[Any]) -> list[Any]:
        return [*commit[:2], [{**state, "text": state["text"] * 2} for state in commit[2]], *commit[3:]]

    upcasts = {1: Upcast(commit=greeted), 2: Upcast(commit=doubled)}
    old = msgspec.msgpack.encode([1, [1.5, "user", [{"k": "user_message", "words": "ab"}], 1]])
    newer = msgspec.msgpack.encode([2, [1.5, "user", [{"k": "user_message", "text": "ab"}], 1]])
    for raw in (old, newer):
        commit = decode_commit(raw, "here", codec=3, upcasts=upcasts)
        assert commit == Commit(1.5, "user", (UserMessage(text="abab"),), 1)


def test_seam_28_effects_and_facts_have_upcasts_of_their_own() -> None:
    """One version may change one kind of body and leave the others as they are."""
    upcasts = {
        1: Upcast(
            effect=lambda effect: {**effect, "max_tokens": effect["max_tokens"] + 1},
            fact=lambda fact: {**fact, "kind": "test.renamed"},
        )
    }
    assert decode_effect(encode(EFFECT), "here", codec=2, upcasts=upcasts) == msgspec.structs.replace(
        EFFECT, max_tokens=10
    )
    assert decode_fact(encode(FACT), "here", codec=2, upcasts=upcasts).kind == "test.renamed"
    assert decode_commit(encode(COMMIT), "here", codec=2, upcasts=upcasts) == COMMIT


def test_a_version_with_no_way_up_is_named() -> None:
    """A body of a version that nothing raises is a corrupt entry, not a guess."""
    with pytest.raises(CorruptEntry, match=r"row 7 .* format 1"):
        decode_commit(encode(COMMIT), "row 7", codec=2, upcasts={})


def test_an_upcast_that_does_not_fit_is_named() -> None:
    """What an upcast made and the types refuse is a corrupt entry."""
    with pytest.raises(StoreError, match="row 7"):
        decode_commit(encode(COMMIT), "row 7", codec=2, upcasts={1: Upcast(commit=lambda commit: commit[:2])})

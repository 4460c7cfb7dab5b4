from __future__ import annotations

import copy

import dspy
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.execution.inputs import (
    LONG,
    inputs_key,
    inputs_of,
    is_lasting,
    is_long,
    lasting_name,
    own_inputs,
)
from tests import hostile

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


class Paint(pydantic.BaseModel):
    name: str


@given(plain)
def test_equal_inputs_have_equal_keys_that_last(value):

    key = inputs_key(value)
    assert key == inputs_key(copy.deepcopy(value)) and hash(key) == hash(inputs_key(value))
    assert is_lasting(key)


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (1, 1.0), ("1", 1), ("a", b"a"), (["a"], {"a": None}), ("a", "a ")]
)
def test_nothing_is_normalised(one, other):
    assert inputs_key(one) != inputs_key(other)


def test_models_and_examples_are_known_by_what_they_hold():
    assert inputs_key(Paint(name="red")) == inputs_key(Paint(name="red")) != inputs_key(Paint(name="blue"))
    assert inputs_key(dspy.Example(a=1)) == inputs_key(dspy.Example(a=1)) != inputs_key(dspy.Example(a=2))


def test_other_objects_are_known_by_identity_for_this_process_only():
    one, other = object(), object()
    assert inputs_key([one]) == inputs_key([one]) != inputs_key([other])
    assert not is_lasting(inputs_key({"deep": [one]}))


def test_lasting_names_take_any_text():
    assert lasting_name("a", "\ud800") == lasting_name("a", "\ud800") != lasting_name("a", "b")


def test_inputs_of_examples_and_dicts():
    assert inputs_of(dspy.Example(question="q", answer="a").with_inputs("question")) == {"question": "q"}
    given_ = {"question": "q"}
    assert inputs_of(given_) == given_ and inputs_of(given_) is not given_
    with pytest.raises(TypeError, match=r"^examples must be dspy.Example objects with inputs, or dicts, got int$"):
        inputs_of(3)


def test_each_sample_writes_into_a_history_of_its_own():
    history = dspy.History(messages=[{"question": "q", "answer": "a"}])
    kwargs, args = own_inputs({"history": history, "n": 1}), own_inputs((history,))
    kwargs["history"].messages.append("mine")
    args[0].messages.append("mine")
    assert len(history.messages) == 1 and kwargs["n"] == 1


def test_long_inputs():
    assert is_long(("x" * LONG,)) and not is_long(("x",))


@given(hostile.makers)
def test_any_inputs_have_a_key_and_never_raise(make):
    value = make()
    key = inputs_key(((value,), {"value": value}))
    assert hash(key) == hash(key) and key == key and repr(key)
    is_long(((value,), {"value": value}))
    own_inputs({"value": value})
    if is_lasting(key):
        assert lasting_name(key)


def test_equal_objects_of_unknown_classes_are_not_the_same_input_and_keep_their_place():
    assert len({inputs_key(object()) for _ in range(100)}) == 100


def test_names_of_several_types_are_told_apart():
    assert inputs_key({1: "a"}) != inputs_key({"1": "a"})


@pytest.mark.parametrize("name", hostile.HUGE)
def test_inputs_that_never_end_are_known_by_identity(name):
    value = hostile.HUGE[name]()
    assert not is_lasting(inputs_key(value))
    assert is_long(hostile.bomb())

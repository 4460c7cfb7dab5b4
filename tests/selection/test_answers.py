from __future__ import annotations

import dataclasses
import enum

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.selection.answers import UnreadableAnswer, canonical
from tests import hostile


class Color(enum.Enum):
    RED = 1
    GREEN = 2


class Person(pydantic.BaseModel):
    name: str
    age: int


@dataclasses.dataclass
class Point:
    x: int
    y: int


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("42", "42.0"),
        ("42", 42),
        (42, 42.0),
        ("1,000", 1000),
        ("1e3", "1000"),
        (0.1, "0.1"),
        ("+5", "5"),
        ("\u22125", "-5"),
        ("A", "A."),
        ("  Paris ", "paris"),
        ("new   york", "New York"),
        ([1, 2], (1.0, "2")),
        ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}),
        ({1, 2}, {2, 1}),
        (Person(name="Ann", age=3), {"name": "ann", "age": 3}),
        (Point(1, 2), {"x": 1, "y": 2}),
        (np.float64(1.5), 1.5),
        (np.array([1, 2]), [1, 2]),
        (Color.RED, Color.RED),
    ],
)
def test_same_answer(one, other):
    assert canonical(one) == canonical(other)
    assert hash(canonical(one)) == hash(canonical(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (True, 1),
        (False, 0),
        (True, "True"),
        ("-5", "5"),
        ("1.5", "15"),
        ("C++", "C"),
        ("C#", "C"),
        ("5²", "52"),
        ("1/2", "12"),
        ("12,34", "1234"),
        ("007", "7"),
        ("$5", "5"),
        ("a b", "ab"),
        ([1, 2], [2, 1]),
        ([1, 2], {1, 2}),
        (Color.RED, Color.GREEN),
        (Color.RED, "RED"),
        ({"a": None}, {}),
        (1, 1.0000001),
    ],
)
def test_different_answers(one, other):
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize("nothing", [None, "", "   ", "\n"])
def test_no_answer(nothing):
    assert canonical(nothing) is None


def test_an_absurd_number_is_text_and_costs_nothing():
    assert canonical("1e999") == canonical("1E999")
    assert canonical("9" * 5000) == canonical("9" * 5000)
    assert canonical(float("nan")) == canonical(float("nan"))


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(nested)
def test_every_value_has_a_stable_hashable_key(value):
    assert hash(canonical(value)) == hash(canonical(value))
    assert canonical(value) == canonical(value)


@given(st.integers(-(10**20), 10**20))
def test_integers_agree_with_their_texts(number):
    assert canonical(number) == canonical(str(number)) == canonical(f"{number:,}") == canonical(f" {number}. ")


@given(st.text(alphabet="abcxyz+-#/%$^", min_size=1, max_size=6), st.text(alphabet="abcxyz+-#/%$^", min_size=1))
def test_punctuation_tells_answers_apart(one, other):
    assert (canonical(one) == canonical(other)) == (one == other)


@given(hostile.makers)
def test_any_value_has_a_key_that_never_raises_or_is_unreadable(make):
    value = make()
    try:
        key = canonical(value)
    except UnreadableAnswer as error:
        assert hostile.SECRET not in str(error)
        return
    assert hash(key) == hash(key) and (key == key) and {key: 1}[key]
    assert (key == canonical("a")) in (True, False)


@pytest.mark.parametrize("name", hostile.HUGE)
def test_an_answer_that_never_ends_is_unreadable(name):
    with pytest.raises(UnreadableAnswer, match="has more than 100,000 parts"):
        canonical(hostile.HUGE[name]())


def test_answers_nested_as_deep_as_can_be_compared_vote():
    assert canonical(hostile.deep(99)) == canonical(hostile.deep(99)) != canonical(hostile.deep(98))

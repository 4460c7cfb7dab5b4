from __future__ import annotations

from dataclasses import dataclass

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.selection.blends import LISTS, TEXTS, Average, ByValue, SameVote, fields_of, similarity_under
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.selection.similarity import Equal, Similarity, TokenF1

values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "Paris", "paris, France", "42"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


class Place(pydantic.BaseModel):
    city: str
    year: int = 0


@dataclass
class Point:
    x: int
    y: int


def alike(similarity, one, other):
    return similarity.between(similarity.prepare(one), similarity.prepare(other))


@pytest.mark.parametrize("similarity", [TEXTS, LISTS, ByValue(), SameVote(Plurality())], ids=repr)
@given(one=values, other=values)
def test_the_same_both_ways_round_from_0_to_1_and_1_for_the_same(similarity, one, other):
    assert isinstance(similarity, Similarity)
    assert alike(similarity, one, other) == alike(similarity, other, one)
    assert 0 <= alike(similarity, one, other) <= 1 == alike(similarity, one, one)


def test_lists_that_are_the_same_in_order_too_are_more_alike():
    assert alike(LISTS, [1, 2, 3], [3, 2, 1]) == 0.5
    assert alike(LISTS, [1, 2], [1, 2]) == 1
    assert alike(LISTS, [1, 2], [1, 3]) == 0.25


def test_texts_that_mean_the_same_number_are_the_same_half():
    assert alike(TEXTS, "**1,000**", "1000") == 0.5  # no word in common
    assert alike(TEXTS, "Paris.", "Paris") == 1


def test_an_average_with_a_part_that_casts_no_vote_casts_none():
    class Odd(Equal):
        def prepare(self, answer):
            return None

    assert Average((Equal(), Odd())).prepare("a") is None
    with pytest.raises(ValueError, match=r"^parts must be similarities such as \(Equal\(\), TokenF1\(\)\), got \(\)$"):
        Average(())


def test_values_are_compared_by_what_they_are():
    similarity = ByValue()
    assert alike(similarity, {"a": 1, "b": 2}, {"a": 1, "c": 2}) == pytest.approx(1 / 3, abs=1e-5)
    assert alike(similarity, Place(city="Rome", year=1), Place(city="Rome", year=2)) == 0.5
    assert alike(similarity, Point(1, 2), Point(1, 3)) == 0.5
    assert alike(similarity, [1], {"a": 1}) == 0 == alike(similarity, "1", 1)
    assert alike(similarity, {"a": {"b": ["x", "y"]}}, {"a": {"b": ["x", "z"]}}) == 0.25


def test_deep_records_are_compared_by_equality():
    one = other = "leaf"
    for _ in range(6):
        one, other = {"a": one, "b": 1}, {"a": other, "b": 2}
    assert alike(ByValue(), one, other) == 0


def test_votes_are_compared_as_their_selector_does():
    exact = SameVote(Plurality(without="case"))
    assert alike(exact, "Paris", "paris") == 0 and alike(SameVote(Plurality()), "Paris", "paris") == 1
    assert similarity_under(Medoid(TokenF1())) == TokenF1() and similarity_under(Plurality()) == SameVote(Plurality())


def test_only_records_have_fields():
    assert fields_of(Place(city="Rome")) == {"city": "Rome", "year": 0} and fields_of(Point(1, 2)) == {"x": 1, "y": 2}
    assert fields_of(Point) is None and fields_of("text") is None and fields_of([1]) is None

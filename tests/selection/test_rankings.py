from __future__ import annotations

import itertools
import json
from typing import Annotated

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.selection.base import Composed, Selector, composed_of
from dynscale_dspy.selection.default import told
from dynscale_dspy.selection.fieldwise import Fieldwise
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.rankings import Ranking, SameOrder
from dynscale_dspy.selection.saved import dump, load
from dynscale_dspy.testing import SelectorLaws

whole = st.permutations("abcdef").map(list)
partial = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6)


def alike(one, other):
    order = SameOrder()
    return order.between(order.prepare(one), order.prepare(other))


def selected(selector, answers, weights=None):
    selection = selector.empty()
    for place, answer in enumerate(answers):
        weight = 1.0 if weights is None else weights[place]
        selection = selection.add(selector.read(answer), sample=place, weight=weight)
    return selection


class TestRanking(SelectorLaws):
    def selector(self):
        return Ranking()

    def answers(self):
        return (["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"])

    def alike(self):
        return (["a", "b", "c"], ["a", "c", "b"], ["c", "b", "a"], ["b", "a"])


class TestComposedRanking(TestRanking):
    def selector(self):
        return Ranking(compose=True)


# ---- how alike two orders are


@given(partial, partial)
def test_it_is_the_share_of_pairs_that_both_put_in_one_order(one, other):
    items = {*one, *other}

    def sign(ranking, first, second):
        at = [ranking.index(item) if item in ranking else len(ranking) for item in (first, second)]
        return (at[0] > at[1]) - (at[0] < at[1])

    pairs = list(itertools.combinations(items, 2))
    counted = [
        0.5 if 0 in (signs := (sign(one, *pair), sign(other, *pair))) else float(signs[0] == signs[1]) for pair in pairs
    ]
    if one and other and pairs:
        assert alike(one, other) == pytest.approx(sum(counted) / len(pairs), abs=1e-6)
    else:
        assert alike(one, other) == float(one == other)


@given(partial, partial)
def test_it_is_the_same_both_ways_and_one_for_the_same(one, other):
    assert 0 <= alike(one, other) == alike(other, one) <= 1
    assert alike(one, one) == 1


@given(whole)
def test_an_order_is_nothing_like_its_reverse(order):
    assert alike(order, order[::-1]) == 0


def test_items_are_compared_as_elements_of_lists_are():
    assert alike(["Salt ", "2", "Egg"], ("salt", 2.0, "egg")) == 1
    assert alike(["a", "b", "a"], ["a", "b"]) == 1  # where it stands first
    assert alike("a", ["a"]) == 1 and alike(None, []) == 1 and alike(None, ["a", "b"]) == 0
    assert alike(["a"], ["a", "b", "c"]) == pytest.approx(5 / 6, abs=1e-6)  # of b and c the first does not say


# ---- which one wins


@given(st.lists(partial, max_size=7))
def test_the_sample_wins_that_the_medoid_elects(answers):
    one, other = selected(Ranking(), answers), selected(Medoid(SameOrder()), answers)
    assert one.winner() == other.winner() and one.groups() == other.groups() and composed_of(one) is None


@given(st.lists(whole, min_size=3, max_size=7))
def test_the_composed_order_is_by_mean_places_and_ties_go_as_the_nearest_has_them(answers):
    selection = selected(Ranking(compose=True), answers)
    winner = selection.winner()
    assert winner is not None
    nearest = answers[winner]
    expected = sorted(nearest, key=lambda item: np.mean([answer.index(item) for answer in answers]).round(9))
    assert composed_of(selection) == (None if expected == nearest else Composed(expected, winner))


def test_items_of_half_of_the_samples_are_kept():
    answers = [["a", "b"], ["a", "x", "b", "y"], ["b", "x", "a"], None]
    assert composed_of(selected(Ranking(compose=True), answers)) == Composed(["a", "b", "x"], 1)
    assert composed_of(selected(Ranking(compose=True), [None, None, None])) is None


def test_weights_count():
    answers = [["a", "b", "c"], ["b", "a", "c"], ["c", "b", "a"]]
    assert composed_of(selected(Ranking(compose=True), answers)) is None  # b, a, c is what the second says
    weighed = selected(Ranking(compose=True), answers, weights=[1, 1, 2.5])
    assert composed_of(weighed) == Composed(["b", "c", "a"], 2)


def test_two_samples_put_nothing_together():
    assert composed_of(selected(Ranking(compose=True), [["a", "b"], ["b", "a"]])) is None


def test_what_the_type_refuses_is_not_put_together():
    answers = [["a", "c", "b", "d"], ["b", "a", "c", "d"], ["a", "b", "d", "c"]]
    assert composed_of(selected(Ranking(compose=True), answers)) == Composed(["a", "b", "c", "d"], 0)
    refused = Annotated[list[str], pydantic.AfterValidator(lambda value: value if value[1] == "c" else 1 / 0)]
    assert composed_of(selected(Ranking(compose=True).typed({"ranks": refused}), answers)) is None
    as_tuples = selected(Ranking(compose=True), [tuple(answer) for answer in answers])
    assert composed_of(as_tuples) == Composed(("a", "b", "c", "d"), 0)


# ---- where it is named


def test_it_serves_as_the_rule_of_a_field():
    fields = told(Fieldwise({"ranks": Ranking(compose=True)}), {"ranks": list[str], "why": int})
    answers = [
        {"ranks": ["a", "c", "b", "d"], "why": 1},
        {"ranks": ["b", "a", "c", "d"], "why": 1},
        {"ranks": ["a", "b", "d", "c"], "why": 1},
    ]
    made = composed_of(selected(fields, answers))
    assert made is not None and made.answer == {"ranks": ["a", "b", "c", "d"], "why": 1}


@pytest.mark.parametrize("selector", [Ranking(), Ranking(compose=True), Medoid(SameOrder())], ids=repr)
def test_it_is_saved_by_name(selector):
    assert isinstance(selector, Selector)
    assert load(json.loads(json.dumps(dump(selector)))) == selector


def test_settings():
    with pytest.raises(TypeError, match=r"^compose must be True or False, got 'sometimes'$"):
        Ranking(compose="sometimes")  # type: ignore[arg-type]

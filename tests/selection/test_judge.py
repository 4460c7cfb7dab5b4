"""A language model that chooses between answers: what it is shown, and what its verdicts come to."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.selection.fieldwise import Fieldwise
from dynscale_dspy.selection.judge import Judge
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.saved import dump, load
from dynscale_dspy.testing import SelectorLaws


class TestJudge(SelectorLaws):
    def selector(self):
        return Judge()


def groups_of(answers, judge):
    selection = judge.empty()
    for answer in answers:
        selection = selection.add(judge.read(answer))
    return selection.groups()


ANSWERS = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=12)


@given(ANSWERS, st.integers(2, 6), st.sampled_from([0.5, 1.0, 3.0]))
def test_it_is_asked_only_where_it_can_change_who_wins(answers, most, weight):
    judge = Judge(most=most, weight=weight)
    groups = groups_of(answers, judge)
    orders = judge.orders(groups)
    shown = range(min(most, len(groups)))
    can = {judge.elected(groups, [at, at]) for at in shown}
    if not orders:
        assert can == {0}
    else:
        assert sorted(orders[0]) == list(shown) and orders[1] == orders[0][::-1]


@given(ANSWERS, st.lists(st.none() | st.integers(0, 5), max_size=2))
def test_without_verdicts_the_vote_stands_and_two_for_one_of_single_votes_elect_it(answers, verdicts):
    judge = Judge()
    groups = groups_of(answers, judge)
    assert judge.elected(groups, [None, None]) == 0
    given_to = [None if at is None else at % len(groups) for at in verdicts]
    elected = judge.elected(groups, given_to)
    weights = [group.weight + given_to.count(at) for at, group in enumerate(groups)]
    assert weights[elected] == max(weights)


def test_two_verdicts_for_different_answers_leave_it_to_the_vote():
    judge = Judge()
    groups = groups_of(["a", "b", "b", "c"], judge)
    assert judge.elected(groups, [1, 2]) == judge.elected(groups, [1, None]) == 0
    assert judge.elected(groups, [1, 1]) == 1


@pytest.mark.parametrize("most", [1, 0, 2.5, True])
def test_there_is_something_to_choose_between(most):
    with pytest.raises(ValueError, match="most must be at least 2"):
        Judge(most=most)


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), "1"])
def test_a_verdict_counts_something(weight):
    with pytest.raises(ValueError, match="weight must be above 0"):
        Judge(weight=weight)


def test_it_is_saved_with_what_votes_before_it():
    judge = Judge(selector=Medoid(), most=3, weight=2.0)
    assert load(dump(judge)) == pickle.loads(pickle.dumps(judge)) == judge


@pytest.mark.parametrize("wrong", [{"program": "gpt"}, {"program": dict}, {"selector": Judge()}])
def test_what_cannot_judge_is_refused(wrong):
    with pytest.raises(TypeError, match="must"):
        Judge(**wrong)


def test_a_field_has_no_judge_of_its_own():
    with pytest.raises(TypeError, match=r"'poem' must compare its values.*selector=Judge\(selector=...\)"):
        Fieldwise({"poem": Judge()})

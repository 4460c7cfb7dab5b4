from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.evidence import Detail
from dynscale_dspy.selection.base import Selector
from dynscale_dspy.selection.numbers import Near, Numbers
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.testing import SelectorLaws

said = st.lists(st.sampled_from([0, 1, 2, 2.5, 7, 30, "about 3", None]), max_size=12)


def selected(selector, answers, **options):
    selection = selector.empty()
    for answer in answers:
        selection = selection.add(selector.read(answer), **options)
    return selection


def winner(selector, *answers):
    return answers[selected(selector, answers).winner()]


class TestValues(SelectorLaws):
    def selector(self):
        return Numbers(tolerance=5)

    def answers(self):
        return (0, 1000, 2000.5)


class TestExactValues(SelectorLaws):
    def selector(self):
        return Numbers()

    def answers(self):
        return (0, 1, 2, "n/a")


class TestScores(SelectorLaws):
    def selector(self):
        return Numbers(kind="score")

    def answers(self):
        return (1, 5, 9)

    def test_names_of_answers_do_not_matter(self):
        """They do: the mean of 1, 5 and 9 is none of the outer ones, whoever says them."""
        assert winner(self.selector(), 1, 5, 9) == winner(self.selector(), 5, 9, 1) == 5


# ---- values


def test_numbers_within_the_tolerance_vote_together():
    assert winner(Numbers(tolerance=0.05), 12, 9.81, 12, 9.8, 9.78) == 9.81  # the first of those said once
    assert winner(Numbers(tolerance=0.01), 12, 9.81, 12, 9.8, 9.78) == 12


def test_the_most_frequent_number_speaks_for_its_cluster_and_not_the_middle_one():
    assert winner(Numbers(tolerance=3), 12, 10, 10, 11, 10, 13) == 10


@pytest.mark.parametrize(("one", "other", "tolerance"), [(0.3, 0.2, 0.1), (1.03, 1.0, 0.03), ("1,000", 1000.5, 0.5)])
def test_the_bound_itself_is_within(one, other, tolerance):
    assert winner(Numbers(tolerance=tolerance), 99, one, 98, other) == one
    near = Near(tolerance)
    assert near.between(near.prepare(one), near.prepare(other)) == 1


def test_what_is_no_number_votes_too():
    assert winner(Numbers(tolerance=1), 3, "n/a", 9, "n/a") == "n/a"
    assert winner(Numbers(), 3, None, None) is None


@given(said, st.booleans())
def test_without_a_tolerance_it_is_plurality(answers, favour):
    ours, theirs = selected(Numbers(), answers), selected(Plurality().typed({"answer": float}), answers)
    assert ours.winner(favour_conditioned=favour) == theirs.winner(favour_conditioned=favour)
    assert [group.samples for group in ours.groups()] == [group.samples for group in theirs.groups()]
    assert ours.evidence() == theirs.evidence()


@given(said, st.sampled_from([0.5, 1, 5]), st.sampled_from(["value", "score"]), st.randoms())
def test_the_order_of_samples_does_not_matter(answers, tolerance, kind, shuffled: random.Random):
    selector, places = Numbers(tolerance, kind), list(range(len(answers)))
    shuffled.shuffle(places)
    one, other = selected(selector, answers), selector.empty()
    for place in places:
        other = other.add(selector.read(answers[place]), sample=place)
    assert one.winner() == other.winner() and one.groups() == other.groups()


@given(said, st.sampled_from([0.5, 1, 5]), st.lists(st.sampled_from([0, 1, 2, 2.25, 6, 8, "no"]), max_size=4))
def test_settled_holds_also_where_later_numbers_lie_between_clusters(answers, tolerance, later):
    selector = Numbers(tolerance)
    before = selected(selector, answers)
    if later and before.is_settled(len(later)):
        after = before
        for answer in later:
            after = after.add(selector.read(answer))
        keys = [vote.vote.key for vote in after.votes]
        assert keys[before.winner()] == keys[after.winner()]


@given(said, st.sampled_from([0, 1, 5]))
def test_the_bandit_sees_clusters_and_every_vote_once(answers, tolerance):
    selection = selected(Numbers(tolerance), answers)
    evidence = selection.evidence()
    assert evidence.detail == Detail.ORDER
    assert sorted(evidence.votes.values(), reverse=True) == [group.weight for group in selection.groups()]


# ---- scores


def test_the_score_nearest_to_the_mean_wins():
    assert winner(Numbers(kind="score"), 9, 9, 3, 5, 4) == 5  # the mean is 6
    assert winner(Numbers(kind="score"), 2, 4) == 2  # both are as near


def test_weights_move_the_mean():
    selector = Numbers(kind="score")
    selection = selector.empty().add(selector.read(1), weight=3).add(selector.read(10)).add(selector.read(4))
    assert selection.winner() == 2  # (3 + 10 + 4) / 5 = 3.4


def test_no_score_wins_where_more_samples_give_none():
    assert winner(Numbers(kind="score"), None, 3, None, None, 4) is None
    assert winner(Numbers(kind="score"), None, 3, 4) == 3


# ---- settings


def test_it_is_a_selector_with_settings_that_are_checked():
    assert isinstance(Numbers(), Selector) and Numbers(1.0) == Numbers(1)
    with pytest.raises(ValueError, match=r"^tolerance must be at least 0, got -1$"):
        Numbers(-1)
    with pytest.raises(ValueError, match=r"^kind must be 'value' or 'score', got 'mean'$"):
        Numbers(kind="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^weight must be positive, got 0$"):
        Numbers().empty().add(Numbers().read(3), weight=0)

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from dynscale_dspy.tuning.paired import Gain, better, paired_gain

SCORES = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(SCORES)
def test_the_interval_holds_the_mean_and_turns_round_with_the_sides(pairs):
    ours, theirs = [list(map(float, side)) for side in zip(*pairs, strict=True)]
    there, back = paired_gain(ours, theirs), paired_gain(theirs, ours)
    assert there.mean == pytest.approx(statistics.fmean(ours) - statistics.fmean(theirs))
    assert there.low <= there.mean + 1e-12 and there.mean - 1e-12 <= there.high
    assert (-back.mean, -back.high, -back.low) == pytest.approx((there.mean, there.low, there.high))


@given(SCORES)
def test_it_is_scipys_with_one_more_question_on_which_both_do_alike(pairs):
    ours, theirs = [[*map(float, side), 1.0] for side in zip(*pairs, strict=True)]
    gain = paired_gain(ours[:-1], theirs[:-1])
    if len({a - b for a, b in zip(ours, theirs, strict=True)}) > 1:
        expected = ttest_rel(ours, theirs).confidence_interval(0.95)
        assert (gain.low, gain.high) == pytest.approx((expected.low, expected.high))


def test_a_handful_of_questions_proves_nothing_and_a_few_more_that_all_agree_do():
    assert not paired_gain([1, 1], [0, 0]).is_sure
    assert paired_gain([1] * 6, [0] * 6).is_sure


def test_where_both_do_alike_there_is_no_gain():
    gain = paired_gain([1, 0, 1], [1, 0, 1])
    assert gain == Gain(0, 0, 0) and not gain.is_sure


def test_of_equal_ways_the_first_is_the_better():
    assert better({"plain": [1, 0], "greedy": [0, 1]}) == "plain"
    assert better({"plain": [1, 0], "greedy": [1, 1]}) == "greedy"


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1, 0], [1])])
def test_scores_of_different_questions_are_refused(ours, theirs):
    words = f"^scores of the same questions are needed, at least of one, got {len(ours)} and {len(theirs)}$"
    with pytest.raises(ValueError, match=words):
        paired_gain(ours, theirs)

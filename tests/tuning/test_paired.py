from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dynscale_dspy.tuning.paired import better, gain, paired_gain

SCORES = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(SCORES)
def test_the_mean_is_of_the_pairs_and_the_interval_turns_round_with_the_sides(pairs):
    ours, theirs = [list(map(float, side)) for side in zip(*pairs, strict=True)]
    there, back = paired_gain(ours, theirs), paired_gain(theirs, ours)
    assert there.mean == pytest.approx(statistics.fmean(ours) - statistics.fmean(theirs))
    assert there.low < there.high
    assert (-back.mean, -back.high, -back.low) == pytest.approx((there.mean, there.low, there.high))


@given(SCORES, st.integers(1, 20))
def test_scores_in_another_unit_gain_the_same_in_it(pairs, scale):
    ours, theirs = [[*map(float, side), 0.0, 1.0] for side in zip(*pairs, strict=True)]
    plain = paired_gain(ours, theirs)
    there = paired_gain([scale * each for each in ours], [scale * each for each in theirs])
    assert there == pytest.approx([scale * each for each in plain])


@pytest.mark.parametrize("count", [1, 2, 5, 40, 400])
def test_it_is_students_with_two_more_pairs(count):
    differences = np.random.default_rng(count).choice([-1.0, 0.0, 1.0], count)
    found = gain(differences.tolist())
    padded, spread = (
        count + 2,
        math.sqrt((float(differences @ differences) + 1) / (count + 2) - (differences.sum() / (count + 2)) ** 2),
    )
    low, high = stats.t.interval(0.95, count + 1, loc=differences.sum() / padded, scale=spread / math.sqrt(padded))
    assert (found.low, found.high) == pytest.approx((max(low, -1), min(high, 1)))


def test_a_handful_of_questions_proves_nothing_and_a_few_more_that_all_agree_do():
    assert not paired_gain([1, 1], [0, 0]).is_sure
    assert paired_gain([1] * 6, [0] * 6).is_sure


def test_where_both_do_alike_there_is_no_gain_as_far_as_so_few_show():
    few, many = paired_gain([1, 0, 1], [1, 0, 1]), paired_gain([1, 0, 1] * 100, [1, 0, 1] * 100)
    assert few.mean == many.mean == 0 and few.low < many.low < 0 < many.high < few.high and not few.is_sure


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=60), st.integers(1, 8))
def test_intervals_hold_their_mean_and_grow_with_the_number_of_comparisons(differences, comparisons):
    one, several = gain(differences), gain(differences, comparisons=comparisons)
    assert several.low <= one.low <= one.high <= several.high
    assert several.low - 1e-9 <= several.mean <= several.high + 1e-9 or len(differences) < 5
    turned = gain([-each for each in differences], comparisons=comparisons)
    assert turned == pytest.approx((-several.mean, -several.high, -several.low))


def test_intervals_of_gains_hold_as_often_as_they_say():
    generator = np.random.default_rng(2)
    held = 0
    for _ in range(1000):
        base = generator.random(40) < 0.7
        other = np.where(generator.random(40) < 0.8, base, generator.random(40) < 0.5)
        true = 0.2 * (0.5 - 0.7)
        found = gain((other.astype(float) - base).tolist())
        held += found.low <= true <= found.high
    assert held >= 940 and not math.isnan(held)


def test_of_equal_ways_the_first_is_the_better():
    assert better({"plain": [1, 0], "greedy": [0, 1]}) == "plain"
    assert better({"plain": [1, 0], "greedy": [1, 1]}) == "greedy"


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1, 0], [1])])
def test_scores_of_different_questions_are_refused(ours, theirs):
    words = f"^scores of the same questions are needed, at least of one, got {len(ours)} and {len(theirs)}$"
    with pytest.raises(ValueError, match=words):
        paired_gain(ours, theirs)

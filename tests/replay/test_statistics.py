import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.replay import Pool, Question, replay
from dynscale_dspy.replay.statistics import area, bootstrap_interval, bootstrap_weights, reach
from tests.replay.support import simulated


def test_area_of_a_flat_curve_is_its_height():
    assert area([1, 2, 4, 8, 16, 32], [0.7] * 6) == pytest.approx(0.7)


def test_area_needs_the_whole_range():
    assert area([1, 2, 4], [0.1, 0.2, 0.3]) is None


def test_reach_is_between_points_by_the_logarithm():
    assert reach([1, 2, 8], [0.5, 0.6, 0.8], 0.7) == pytest.approx(4)


def test_reach_may_be_never():
    assert reach([1, 2], [0.5, 0.6], 0.7) is None


def test_reach_may_be_at_once():
    assert reach([1, 2], [0.5, 0.6], 0.4) == 1


def test_weights_draw_the_same_questions_for_pools_that_share_them():
    one, two = (bootstrap_weights(simulated(name=name), 4, 0).reshape(-1, 4, 12).sum(axis=1) for name in "ab")
    assert np.allclose(one, two)
    assert np.allclose(one.sum(axis=1), 1)


def test_bootstrap_error_is_about_right():
    generator = np.random.default_rng(0)
    questions = [Question(str(i), ("A" if generator.random() < 0.5 else "B",) * 8, frozenset("A")) for i in range(400)]
    result = replay(Pool("p", tuple(questions)), ["uniform"], budgets=[1], replicates=3, with_bounds=False)
    assert result.records[0].se == pytest.approx(0.5 / 20, rel=0.2)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30))
def test_an_interval_is_around_the_mean_and_turns_with_the_sign(differences):
    mean, low, high = bootstrap_interval(differences)
    assert min(differences) - 1e-9 <= low <= mean + 1e-9 <= high + 2e-9 <= max(differences) + 3e-9
    assert bootstrap_interval([-each for each in differences]) == pytest.approx((-mean, -high, -low), abs=1e-9)


def test_an_interval_is_as_wide_as_students_where_there_are_many():
    differences = np.random.default_rng(1).normal(0.1, 1, 2000)
    mean, low, high = bootstrap_interval(differences)
    assert mean == pytest.approx(differences.mean())
    assert high - low == pytest.approx(2 * 1.96 * differences.std() / np.sqrt(2000), rel=0.1)

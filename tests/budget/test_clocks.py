"""Deadlines go by a clock that nobody sets."""

from __future__ import annotations

import time

import pytest

from dynscale_dspy import BudgetPool
from dynscale_dspy.budget.clocks import steady


@pytest.mark.parametrize("step", [-3600, 3600])
def test_a_deadline_comes_when_it_was_to_come_though_the_systems_clock_is_set(step, monkeypatch):
    real, off = time.time, [0]
    monkeypatch.setattr(time, "time", lambda: real() + off[0])
    pool = BudgetPool(samples=5, deadline=1000, clock=time.time)
    with pool.scope(deadline=500) as scope:
        off[0] = step
        assert 900 < pool.statistics().seconds_left <= 1000 and 400 < scope.statistics().seconds_left <= 500
        with scope.scope(deadline=200) as inner:
            assert 100 < inner.statistics().seconds_left <= 200


def test_a_clock_of_the_users_own_is_taken_as_it_is():
    now = [5.0]
    pool = BudgetPool(samples=5, deadline=10, clock=lambda: now[0])
    now[0] = 9.0
    assert pool.statistics().seconds_left == 6.0
    assert steady(time.monotonic) is time.monotonic


def test_a_deadline_that_has_passed_does_not_come_again():
    now = [5.0]
    pool = BudgetPool(samples=5, deadline=10, clock=lambda: now[0])
    with pool.scope(deadline=2) as scope:
        now[0] = 16.0
        assert pool.statistics().seconds_left == scope.statistics().seconds_left == 0
        now[0] = 6.0
        assert pool.statistics().seconds_left == scope.statistics().seconds_left == 0
        now[0] = 17.0
        assert pool.admission.is_late and scope.admission.is_late

"""What can be told without a cluster."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace

import dspy
import pytest

from dynscale_dspy import BudgetPool, Cost
from dynscale_dspy.distributed.client import _LeasedPacing
from dynscale_dspy.distributed.coordinator import Keeper
from dynscale_dspy.distributed.lease_book import Holder, Report


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: BudgetPool(samples=5, period="day"), "has a period"),
        (lambda: BudgetPool(samples=5, warn_at=0.5), "has warn_at="),
        (lambda: BudgetPool(samples=5, clock=lambda: 0.0), "clock of its own"),
        (lambda: BudgetPool(samples=5).share(MODULE, 0.5), "shares of modules"),
    ],
)
def test_what_cannot_be_shared_is_refused(make, problem):
    with pytest.raises(ValueError, match=problem):
        make().share("name")


def test_a_pool_with_open_calls_cannot_be_shared():
    pool = BudgetPool(samples=5)
    arm = pool.open(3)
    with pytest.raises(ValueError, match="open calls"):
        pool.share("name")
    assert arm is not None
    arm.close()


def test_a_scope_cannot_be_shared():
    with BudgetPool(samples=5).scope(samples=2) as scope, pytest.raises(ValueError, match="is a scope"):
        scope.share("name")


@pytest.mark.parametrize("name", ["", "a/b"])
def test_the_name_is_looked_at(name):
    with pytest.raises(ValueError, match="name of a shared pool"):
        BudgetPool(samples=5).share(name)


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ImportError, match=r"dynscale-dspy\[ray\]"):
        BudgetPool(samples=5).share("name")
    with pytest.raises(ImportError, match=r"dynscale-dspy\[ray\]"):
        BudgetPool.connect("name")


MODULE = dspy.Predict("question -> answer")


class Short(BudgetPool):
    """A pool whose budget is always on its way."""

    def _short(self, *, first=False):
        return True


def test_a_call_that_waits_for_its_first_sample_counts_once_however_often_it_looks():
    pool = Short(samples=1)
    arm = pool.open(1)
    assert arm is not None
    for _ in range(3):  # woken by whatever else happens, it looks again
        waiting = [pool.open_or_wait(1) for _ in range(2)]
        assert all(isinstance(future, Future) for future in waiting)
        assert pool._without_first == 2
        with pool._locked():
            pool._freed()
    assert pool._without_first == 0
    arm.close()


def test_calls_under_way_leave_first_samples_to_those_that_wait():
    pool = BudgetPool(samples=12)
    pool._own_pacing = pacing = _LeasedPacing(pool, 6.0)
    pacing.holder = Holder("lease", {}, pacing)
    arm = pool.open(1)
    assert arm is not None
    assert pacing.credit(arm) > 4
    room = 12 - pool.statistics().reserved.samples
    pool._promised = room - 3  # the latest answer brought them for calls that waited
    assert pacing.credit(arm) == 3
    assert pacing.credit(arm, opening=1) > 4  # a first sample is what they are for
    other = pool.open(1)
    assert other is not None
    assert pool._promised == room - 4
    for opened in (arm, other):
        opened.close()


def test_a_keeper_that_starts_again_near_the_end_takes_up_where_it_was(tmp_path):
    path = str(tmp_path / "budget.sqlite")
    first = Keeper(BudgetPool(samples=12, requests=100, path=path), path, 10, False)
    limits = {"samples": 0, "requests": 0, "tokens": None, "nanodollars": None}
    report = Report("a", 1, Cost(), Cost(), limits, want=Cost(samples=2, requests=2), need=Cost(samples=2, requests=2))
    report = replace(report, waiting=4, counts={"samples": (6.0, 0.0, 0.0, 0.0), "requests": (6.0, 0.0, 0.0, 0.0)})
    granted = first.renew(report).grant
    assert granted.limits["samples"] > 2  # what is free then would not do for ten calls
    again = Keeper(BudgetPool(samples=12, requests=100, path=path), path, 10, False)
    now = again.statistics()
    assert now.reserved.samples == granted.limits["samples"]
    for unit in ("samples", "requests"):
        was, there = (keeper._pacing.allowances[unit] for keeper in (first, again))
        assert (there.per_call, there.expected, there.counts) == (was.per_call, was.expected, was.counts)
    assert again._pacing.allowances.keys() == first._pacing.allowances.keys()
    assert again._book.renew(replace(report, number=2), 0.0).number == 2

"""What can be told without a cluster."""

from __future__ import annotations

import dspy
import pytest

from dynscale_dspy import BudgetPool


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

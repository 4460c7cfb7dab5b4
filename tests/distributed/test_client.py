"""What can be told of publishing without a cluster. :mod:`tests.distributed.test_ray` has one."""

from __future__ import annotations

import dspy
import pytest

from dynscale_dspy import BudgetPool
from dynscale_dspy.budget.stores.memory import MemoryStore
from dynscale_dspy.distributed.client import publish
from dynscale_dspy.distributed.lease_supply import LeaseSupply
from tests.support import open_call

MODULE = dspy.Predict("question -> answer")


def moved() -> BudgetPool:
    pool = BudgetPool(samples=5)
    pool.admission.moved("elsewhere")
    return pool


def of_a_client() -> BudgetPool:
    supply = LeaseSupply("name", "lease", renew=lambda report: pytest.fail(), sweep=lambda: None)
    return BudgetPool.made(BudgetPool(samples=5).settings, supply=supply)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: BudgetPool(samples=5, period="day"), "has a period"),
        (lambda: BudgetPool(samples=5, warn_at=0.5), "has warn_at="),
        (lambda: BudgetPool(samples=5, clock=lambda: 0.0), "has a clock of its own"),
        (lambda: BudgetPool(samples=5, store=MemoryStore()), "has a store of its own: give it path= instead"),
        (lambda: BudgetPool(samples=5).reserve_for(MODULE, 0.5), "has parts reserved for modules"),
        (moved, "was published before"),
        (of_a_client, "is itself a client"),
    ],
)
def test_what_cannot_be_published_is_refused(make, problem):
    with pytest.raises(ValueError, match=f"^this pool cannot be published as 'name': it {problem}"):
        make().publish("name")


def test_a_pool_with_open_calls_cannot_be_published():
    pool = BudgetPool(samples=5)
    arm = open_call(pool, 3)
    with pytest.raises(ValueError, match="open calls"):
        pool.publish("name")
    assert arm is not None
    arm.close()


def test_a_scope_cannot_be_published():
    with BudgetPool(samples=5).scope(samples=2) as scope, pytest.raises(ValueError, match="is a scope"):
        scope.publish("name")


@pytest.mark.parametrize(("name", "error"), [("", ValueError), ("a/b", ValueError), (3, TypeError), (None, TypeError)])
def test_the_name_is_looked_at(name, error):
    with pytest.raises(error, match="the name of a published pool must be a text without '/', got "):
        BudgetPool(samples=5).publish(name)


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ImportError, match=r"dynscale-dspy\[ray\]"):
        BudgetPool(samples=5).publish("name")
    with pytest.raises(ImportError, match=r"dynscale-dspy\[ray\]"):
        BudgetPool.connect("name")
    with pytest.raises(ImportError, match=r"dynscale-dspy\[ray\]"):
        publish(BudgetPool(samples=5), "name")

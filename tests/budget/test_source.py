from __future__ import annotations

import dspy

from dynscale_dspy import BudgetPool, DynScaling
from dynscale_dspy.budget.source import BudgetSource
from dynscale_dspy.distributed import LeasedPool


class Elsewhere:
    """A budget that is somewhere else and has a pool in this process."""

    def __init__(self, pool: BudgetPool) -> None:
        self.pool = pool

    def active(self) -> BudgetPool:
        return self.pool.active()


def test_pools_scopes_and_clients_are_sources_and_numbers_are_not():
    pool = BudgetPool(samples=5)
    assert isinstance(pool, BudgetSource)
    assert issubclass(LeasedPool, BudgetSource)
    assert not isinstance(8, BudgetSource)
    with pool.scope(samples=2) as scope:
        assert isinstance(scope, BudgetSource)


def test_a_module_spends_from_whatever_pool_its_source_has_at_that_moment():
    source = Elsewhere(BudgetPool(samples=5))
    qa = DynScaling(dspy.Predict("question -> answer"), budget=source)
    assert qa.pool is source.pool
    with source.pool.scope(samples=2) as scope:
        assert qa.pool is scope
    source.pool = BudgetPool(samples=1)
    assert qa.pool is source.pool

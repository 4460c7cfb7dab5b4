from __future__ import annotations

import gc

import pytest

from dynscale_dspy import BudgetPool
from dynscale_dspy.budget.under_way import UnderWay


def test_a_thing_is_listed_while_its_block_runs_however_that_ends():
    things = UnderWay[str]()
    with things.during("outer") as listed, pytest.raises(KeyboardInterrupt), things.during("inner"):
        assert listed == "outer"
        assert things.now() == ["outer", "inner"]
        raise KeyboardInterrupt
    assert things.now() == []


def test_a_thing_listed_twice_is_listed_until_both_blocks_have_ended():
    things = UnderWay[str]()
    with things.during("one"):
        with things.during("one"):
            assert things.now() == ["one", "one"]
        assert things.now() == ["one"]


def test_stopping_a_pool_cuts_off_what_runs_in_it_and_in_its_scopes_and_a_scope_only_its_own():
    pool, cut = BudgetPool(samples=9), []
    with pool.cancellable(lambda: cut.append("pool")), pool.scope(samples=5) as scope:
        with scope.cancellable(lambda: cut.append("scope")):
            scope.stop(cancel=True)
            assert cut == ["scope"]
            pool.stop(cancel=True)
            assert cut == ["scope", "pool", "scope"]
        pool.stop()
        scope.stop(cancel=True)
        assert cut == ["scope", "pool", "scope"]


def test_scopes_are_parts_while_they_are_open():
    pool = BudgetPool(samples=9)
    with pool.scope(samples=5), pool.scope(samples=3):
        assert [part.limits["samples"] for part in pool.parts()] == [5]  # the second is within the first
    assert pool.parts() == []


def test_in_the_child_of_a_fork_only_some_are_under_way():
    things = UnderWay()
    with things.during("ours"), things.during("theirs"):
        things.keep(("ours", "another"))
        assert things.now() == ["ours"]
    assert things.now() == []


def test_a_block_whose_end_was_interrupted_is_listed_no_more_once_nobody_has_it():
    things = UnderWay[str]()
    block = things.during("one")
    block.__enter__()
    assert things.now() == ["one"]
    del block
    gc.collect()
    assert things.now() == []

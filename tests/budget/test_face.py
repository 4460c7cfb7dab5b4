from __future__ import annotations

import copy
from typing import Any

import pytest

from dynscale_dspy import BudgetPool, Price, Uniform
from dynscale_dspy.budget.face import Face
from dynscale_dspy.config import PoolSettings
from dynscale_dspy.distributed import LeasedPool
from dynscale_dspy.reporting.pool_report import PoolReport
from tests.support import open_call

GIVEN = {
    "policy": Uniform(first=2),
    "on_empty": "run_once",
    "strict": True,
    "prices": {"a": Price(1, 2)},
    "seed": 7,
    "min_per_call": 2,
    "max_per_call": 3,
}


@pytest.mark.parametrize("name", GIVEN)
def test_a_setting_is_read_by_its_name_and_said_once(name):
    pool = BudgetPool(samples=5, **GIVEN)  # type: ignore[arg-type]
    assert getattr(pool, name) == getattr(pool.settings, name) == GIVEN[name]
    with pytest.raises(
        AttributeError, match=f"^{name} is said when a pool is made, and cannot be assigned afterwards$"
    ):
        setattr(pool, name, GIVEN[name])
    with pool.scope(samples=5) as scope:
        assert getattr(scope, name) == (None if name == "max_per_call" else GIVEN[name])


def test_both_that_users_hold_have_this_face():
    assert issubclass(BudgetPool, Face) and issubclass(LeasedPool, Face)
    assert set(GIVEN) <= set(PoolSettings.model_fields)
    public = {name for name in dir(BudgetPool) if not name.startswith("_")}
    # What calls and the library's parts ask of a pool is asked of the client's local one.
    inner = {"arrive", "is_durable", "is_scope", "made", "cancellable", "note", "record", "store"}
    assert public - inner - {"connect"} <= set(dir(LeasedPool))


def test_copies_are_the_pool_itself():
    pool = BudgetPool(samples=5)
    assert copy.copy(pool) is copy.deepcopy(pool) is pool


def test_words_come_from_the_report_once_there_is_something_to_tell():
    pool = BudgetPool(samples=5)
    assert str(pool) == repr(pool)
    arm = open_call(pool)
    assert arm is not None
    assert str(pool).startswith("BudgetPool: 0 calls answered, 1 open")
    assert isinstance(pool.report(), PoolReport)
    printed: list[Any] = []

    class Printer:
        text = printed.append

    pool._repr_pretty_(Printer(), cycle=False)
    assert printed == [str(pool)]
    assert "BudgetPool" in pool._repr_html_()
    arm.close()


def test_the_interval_of_a_live_view_is_looked_at():
    with pytest.raises(ValueError, match="interval must be a positive, finite number of seconds, got 0"):
        BudgetPool(samples=5).watch(interval=0)

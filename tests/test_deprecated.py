"""Names of version 0.1 work, and say once where they are used what to write instead."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import dspy
import pytest

from dynscale_dspy import BudgetPool, Cost, _deprecated
from dynscale_dspy._deprecated import alias, renamed, warn
from dynscale_dspy.distributed import LeasedPool
from tests.support import open_call


def warned(message: str, use: Callable[[], Any]) -> Any:
    """What an old name gives; it must warn exactly once, at this file's line."""
    with pytest.warns(DeprecationWarning, match=f"^{re.escape(message)}$") as told:
        found = use()
    assert [warning.filename for warning in told] == [__file__]
    return found


def scoped(pool: BudgetPool, **limits: Any) -> BudgetPool:
    with pool.scope(**limits) as scope:
        return scope


CALLS = "calls= is deprecated: use requests="
UNIT = "the unit 'calls' is deprecated: use 'requests'"


def test_requests_of_a_pool_and_of_a_scope_were_named_calls():
    old: Any = BudgetPool
    pool = warned(CALLS, lambda: old(samples=5, calls=7))
    assert pool.statistics().limits["requests"] == 7
    scope = warned(CALLS, lambda: pool.scope(calls=3))
    with scope as inner:
        assert inner.available("requests") == 3


def test_requests_left_were_named_calls():
    pool: Any = BudgetPool(requests=7)
    assert warned(UNIT, lambda: pool.available("calls")) == 7
    limits: Any = pool.statistics().limits
    assert warned(UNIT, lambda: limits["calls"]) == 7
    assert warned(UNIT, lambda: limits.get("calls")) == 7
    assert limits.get("words", 3) == 3
    with pytest.raises(KeyError, match="words"):
        limits["words"]
    with pytest.raises(ValueError, match="unit must be 'samples', 'requests', 'tokens' or 'dollars', got 'words'"):
        pool.available("words")


def test_requests_of_a_cost_were_named_calls():
    assert warned(CALLS, lambda: Cost(samples=1, calls=2)) == Cost(samples=1, requests=2)
    cached = "cached_calls= is deprecated: use cached_requests="
    assert warned(cached, lambda: Cost(cached_calls=2)) == Cost(cached_requests=2)
    pool = BudgetPool(samples=5)
    arm = open_call(pool)
    assert arm is not None
    lease = arm.take()
    lease.start()
    lease.charge(Cost(requests=3))
    lease.settle()
    spent: Any = pool.statistics().spent
    assert warned(".calls is deprecated: use .requests", lambda: spent.calls) == 3
    assert warned(".cached_calls is deprecated: use .cached_requests", lambda: spent.cached_calls) == 0


@pytest.mark.parametrize(
    ("make", "both"),
    [
        (BudgetPool, {"calls": 3, "requests": 3}),
        (lambda **given: scoped(BudgetPool(samples=5), **given), {"calls": 3, "requests": 3}),
        (Cost, {"calls": 3, "requests": 3}),
        (Cost, {"cached_calls": 3, "cached_requests": 3}),
    ],
)
def test_an_argument_is_given_under_one_of_its_names(make, both):
    old, new = both
    with pytest.raises(TypeError, match=f"^{new}= was given twice: as {old}=, its old name, as well$"):
        make(**both)


def test_new_names_warn_of_nothing_and_unknown_ones_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cost = Cost(1, 2, 3, 4, 5, 6, 7)
        assert Cost(1, requests=2) + cost - cost == Cost(1, 2)
        with BudgetPool(requests=5).scope(requests=3) as scope:
            assert scope.statistics().limits["requests"] == 3
    for make in (Cost, BudgetPool):
        unknown: Any = make
        with pytest.raises(TypeError, match="unexpected keyword argument 'sample'"):
            unknown(sample=3)


def test_a_part_of_a_pool_was_shared_with_a_module():
    module, pool = dspy.Predict("question -> answer"), BudgetPool(samples=10)
    message = "share(module, fraction) is deprecated: use reserve_for(module, fraction)"
    assert warned(message, lambda: pool.share(module, 0.5)) is pool
    assert pool.parts()[0].limits["samples"] == 5
    with pytest.raises(TypeError, match="fraction must be a number, got None"), pytest.warns(DeprecationWarning):
        pool.share(module)


def test_a_pool_was_shared_under_a_name():
    def share() -> None:
        with pytest.raises(ValueError, match="has a period"):  # published, as far as that goes without a cluster
            BudgetPool(samples=5, period="day").share("name")

    warned("share(name) is deprecated: use publish(name)", share)
    assert LeasedPool.share is BudgetPool.share is _deprecated.OldPoolNames.share


def test_a_warning_is_shown_to_who_runs_a_script():
    code = "from dynscale_dspy import Cost\nCost(calls=3)\n"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert told.startswith("<string>:2: DeprecationWarning: calls= is deprecated: use requests=")


# ---- what makes an old name work


@renamed(calls="requests", dollar="dollars")
def cap(requests: int | None = None, *, dollars: float | None = None) -> tuple[int | None, float | None]:
    """What is capped."""
    return requests, dollars


class Pool:
    """One with an attribute that was renamed."""

    lasting = alias("lasting", "is_durable")

    def __init__(self) -> None:
        self.is_durable = True


def test_an_old_argument_goes_where_the_new_one_does_and_warns():
    with pytest.warns(DeprecationWarning) as told:
        assert cap(calls=3, dollar=0.5) == (3, 0.5)
    assert [str(warning.message) for warning in told] == [
        "calls= is deprecated: use requests=",
        "dollar= is deprecated: use dollars=",
    ]


def test_new_arguments_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cap(3, dollars=0.5) == cap(requests=3, dollars=0.5) == (3, 0.5)
        assert cap() == (None, None)


def test_an_old_argument_that_is_none_is_passed_on_too():
    with pytest.warns(DeprecationWarning, match="^calls= is deprecated"):
        assert cap(calls=None) == (None, None)


def test_one_argument_under_both_names_is_refused():
    with pytest.raises(TypeError, match="^requests= was given twice: as calls=, its old name, as well$"):
        cap(requests=1, calls=2)


def test_a_wrapped_function_keeps_its_name_words_and_signature():
    assert (cap.__name__, cap.__doc__) == ("cap", "What is capped.")
    assert list(inspect.signature(cap).parameters) == ["requests", "dollars"]


def test_an_old_attribute_gives_the_new_one_and_cannot_be_set():
    pool = Pool()
    with pytest.warns(DeprecationWarning, match=r"^\.lasting is deprecated: use \.is_durable$"):
        assert pool.lasting is True
    pool.is_durable = False
    with pytest.warns(DeprecationWarning):
        assert pool.lasting is False
    with pytest.raises(AttributeError):
        pool.lasting = True
    assert Pool.lasting.__doc__ == "Deprecated: use :attr:`is_durable`."


def test_the_warning_points_at_the_line_that_used_the_old_name():
    def old() -> None:
        warn("old()", "new()")

    for use in (old, lambda: cap(calls=1), lambda: Pool().lasting):
        with pytest.warns(DeprecationWarning) as told:
            use()
        assert [warning.filename for warning in told] == [__file__]

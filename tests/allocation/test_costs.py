from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.costs import NOTHING, UNITS, Cost, CostRecord, expected_cost, relative_cost

amounts = st.floats(0, 1e9)


def test_an_arm_without_samples_costs_what_its_module_does():
    assert expected_cost(0, 0, module_mean=120) == 120


@given(amounts, st.integers(1, 1000), amounts)
def test_the_expectation_lies_between_the_arms_mean_and_the_modules(total, samples, module_mean):
    low, high = sorted((total / samples, module_mean))
    assert low - 1e-6 * high <= expected_cost(total, samples, module_mean) <= high * (1 + 1e-9)


def test_many_samples_outweigh_the_prior():
    assert expected_cost(300 * 1000, 1000, module_mean=100) == pytest.approx(300, rel=0.01)


def test_the_exponent_dampens():
    assert relative_cost(400, 100, gamma=0.5) == 2
    assert relative_cost(400, 100, gamma=0) == 1
    assert relative_cost(0, 100) == relative_cost(100, 0) == 1


def test_cached_samples_teach_nothing():
    record = CostRecord()
    record.add(Cost(samples=1, requests=1, prompt_tokens=100))
    record.add(Cost(samples=1, requests=1, cached_requests=1))
    assert (record.samples, record.mean("tokens")) == (1, 100)
    assert record.expected("tokens", CostRecord()) == pytest.approx(100 / 3)


def test_choices_that_came_from_the_cache_with_another_samples_teach_nothing():
    record = CostRecord()
    record.add(Cost(samples=1, requests=1, prompt_tokens=90, completion_tokens=10))
    record.add(Cost(samples=1, completion_tokens=10))  # a further choice of the same request
    record.add(Cost(samples=1))  # one of a request that the cache has answered
    assert (record.samples, record.mean("tokens")) == (2, 55)


costs = st.builds(
    Cost, prompt_tokens=st.integers(0, 99), completion_tokens=st.integers(0, 99), nanodollars=st.integers(0, 99)
)


@given(costs, costs)
def test_what_a_cache_saved_counts_as_if_it_had_been_paid(paid: Cost, saved: Cost) -> None:
    """A sample whose requests a cache has answered, all or some, is worth what it would cost without."""
    whole, hit = CostRecord(), CostRecord()
    paid = replace(paid, samples=1, requests=2, cached_requests=0)
    whole.add(paid + saved)
    hit.add(replace(paid, cached_requests=1), saved)
    if saved.tokens or saved.nanodollars:
        assert (hit.samples, hit.total) == (whole.samples, whole.total)
    else:
        assert hit.samples == 0


amounts_of_all = st.builds(Cost, *[st.integers(0, 5)] * 7)


@given(amounts_of_all, amounts_of_all)
def test_nothing_changes_no_sum_and_what_covers_another_lacks_none_of_it(one, other):
    assert one + NOTHING == NOTHING + one == one - NOTHING == one + Cost() == one.at_least(NOTHING) == one
    assert NOTHING.at_least(one) == one and one.at_least(other) == other.at_least(one)
    assert one.covers(other) == all(getattr(one, unit) >= getattr(other, unit) for unit in UNITS)

from __future__ import annotations

import pytest

from dynscale_dspy import BudgetPool, Cost
from dynscale_dspy.allocation.costs import FREE, Tariff
from dynscale_dspy.allocation.requests import PricedSizes, RequestSizes
from tests.support import Known, opened


def test_a_sample_that_costs_no_money_counts_next_to_nothing_beside_one_that_does():
    pool = BudgetPool(dollars=1.0).expect(4)
    arm = opened(pool)
    for name, price in (("local", 0), ("dear", 1000)):
        record = arm.learned.of(name)
        record.tariff, record.is_usual = Tariff(price, price), bool(price)
        cost = Cost(samples=1, requests=1, prompt_tokens=10, nanodollars=10 * price)
        arm.learned.costed(name, cost)
    assert arm.relative_cost("local") == arm.counts_as("local") == FREE
    assert arm.counts_as("dear") == 1 and arm.has_models
    arm.close()


def test_an_arm_sets_aside_what_a_sample_of_its_sampler_is_known_to_need():
    pool, program = BudgetPool(samples=9, tokens=1000), Known()
    for sampler, tokens in (("independent", 20), ("conditioned", 70)):
        arm = opened(pool, program=program)
        lease = arm.take()
        lease.sampler = sampler
        assert lease.start()
        charge = lease.charge(Cost(requests=2, prompt_tokens=tokens))
        assert charge is not None
        lease.answered(charge, charge.bound)
        lease.settle()
        arm.close()
    arm = opened(pool, program=program)
    arm.take()  # a first sample
    before = pool.statistics().reserved
    assert arm.pull("conditioned")
    held = pool.statistics().reserved - before
    assert (held.requests, held.tokens) == (2, 70)
    arm.close()
    assert pool.statistics().reserved == Cost()


def test_until_a_sample_has_finished_a_guess_of_its_requests_is_set_aside():
    pool = BudgetPool(requests=9)
    arm = opened(pool, program=Known(), requests=3)
    assert (arm.is_measured, arm.requests_each(), arm.each("requests"), arm.each("tokens")) == (False, 3, 3, 0)
    lease = arm.take()
    assert lease.start() and lease.charge(Cost(requests=1)) is not None
    lease.settle()
    assert (arm.is_measured, arm.requests_each()) == (True, 1)
    arm.close()


def test_sizes_of_requests_are_known_where_tokens_or_dollars_run_out_and_samples_share():
    pool = BudgetPool(tokens=10_000, samples=1000)
    arm = opened(pool, program=Known())
    assert arm.request_sizes(["independent"], 8) is None  # nothing is known
    arm.learned.costed("independent", Cost(samples=1, requests=1, prompt_tokens=160, completion_tokens=20))
    lease = arm.take()
    assert lease.start()
    charge = lease.charge(Cost(requests=1, prompt_tokens=160, completion_tokens=40))
    assert charge is not None
    lease.answered(charge, Cost(requests=1, prompt_tokens=160, completion_tokens=20))
    lease.settle()
    assert arm.request_sizes(["independent"], 1) is None
    assert arm.request_sizes([], 8) is None
    sizes = arm.request_sizes(["independent"], 8)
    assert sizes is not None and sizes.setup == 8
    arm.close()


@pytest.mark.parametrize("per_call", [None, 8])
def test_where_calls_are_given_samples_and_costs_do_not_last_each_is_weighed_by_itself(per_call):
    pool = BudgetPool(tokens=100_000, per_call=per_call)
    arm = opened(pool, program=Known())
    arm.learned.costed("independent", Cost(samples=1, requests=1, prompt_tokens=160, completion_tokens=20))
    assert (arm.request_sizes(["independent"], 8) is None) is (per_call is not None)
    arm.close()


@pytest.mark.parametrize("prompt", [39, 40, 4000])
@pytest.mark.parametrize("limits", [{"per_call": 8}, {"per_call": 8, "tokens": 10**6}, {"per_call": 8, "requests": 99}])
def test_where_calls_are_given_samples_a_prompt_of_two_of_them_or_more_counts_as_two(limits, prompt):
    arm = opened(BudgetPool(**limits), program=Known())
    arm.learned.costs_last = True
    arm.learned.costed("independent", Cost(samples=1, requests=1, prompt_tokens=prompt, completion_tokens=20))
    sizes = arm.request_sizes(["independent"], 8)
    assert sizes == (PricedSizes(RequestSizes.of(2), 2, 8 / 11) if prompt >= 40 else None)
    assert arm.request_sizes(["independent"], 1) is None
    # Beside others that share a request, one that does not has to be worth more.
    assert arm.share_alone(1) == 1
    arm.learned.needed("independent", Cost(completion_tokens=20), index=1)
    told_by_costs = prompt < 40 or "tokens" in limits
    assert arm.share_alone(1) == (1 if told_by_costs else pytest.approx(11 / 24))
    assert arm.share_alone(8) == 1
    arm.close()


def test_where_samples_are_capped_prompts_do_not_count():
    arm = opened(BudgetPool(samples=100), program=Known())
    arm.learned.costs_last = True
    arm.learned.costed("independent", Cost(samples=1, requests=1, prompt_tokens=400, completion_tokens=20))
    arm.learned.needed("independent", Cost(completion_tokens=20), index=1)
    assert arm.request_sizes(["independent"], 8) is None
    assert arm.share_alone(1) == 1
    arm.close()


@pytest.mark.parametrize(("tokens", "sized"), [(100 * 900, True), (100 * 2000, False)])
def test_where_tokens_last_for_all_announced_calls_each_sample_is_weighed_by_itself(tokens, sized):
    """A call may draw 8 samples on average; at 180 tokens each it runs out of these first, or of tokens."""
    pool = BudgetPool(tokens=tokens)
    pool.expect(100)
    arm = opened(pool, program=Known())
    arm.learned.costed("independent", Cost(samples=1, requests=1, prompt_tokens=160, completion_tokens=20))
    assert (arm.request_sizes(["independent"], 8) is not None) is sized
    arm.close()

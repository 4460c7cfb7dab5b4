"""A call, from its first samples to its winner."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import UCB, BudgetExhausted, BudgetPool, Cost, Integrated, KnowledgeGradient, Parallel, Uniform
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.sampling.play import FIRST
from tests.sampling.support import TwoThenAsk, call_steps, finish, make_plan, play
from tests.support import open_call

policies = st.sampled_from([KnowledgeGradient(), KnowledgeGradient(first=2), UCB(), Uniform()])


@given(policies, st.lists(st.one_of(st.none(), st.sampled_from("ABC")), min_size=64, max_size=64), st.integers(1, 12))
def test_a_call_stays_within_its_budget_and_leaves_nothing_reserved(policy, answers, per_call):
    pool = BudgetPool(per_call=per_call, policy=policy)
    plan = make_plan()
    play(pool, plan, answers.__getitem__)
    now = pool.statistics()
    assert 1 <= now.spent.samples == len(plan.samples) <= per_call
    assert now.reserved == Cost()
    assert now.open_calls == 0


def test_if_all_fail_the_first_one_tells_why():
    pool = BudgetPool(per_call=3, policy=Uniform())
    errors = [KeyError("first"), ValueError("second"), ValueError("third")]
    assert play(pool, make_plan(), errors.__getitem__).error is errors[0]
    assert pool.statistics().spent.samples == 3  # they were paid
    assert pool.statistics().reserved == Cost()


def test_one_good_sample_is_enough():
    pool = BudgetPool(per_call=3, policy=Uniform())
    answers = [RuntimeError("down"), "A", RuntimeError("down")]
    assert play(pool, make_plan(), answers.__getitem__).key == "A"


def test_an_empty_pool_raises_or_runs_once():
    pool = BudgetPool(samples=1)
    play(pool, make_plan(), lambda i: "A")
    with pytest.raises(BudgetExhausted, match=r"nothing is left for a first sample: 1 of 1 samples of the pool"):
        play(pool, make_plan(1), lambda i: "A")
    generous = BudgetPool(samples=1, on_empty="run_once")
    play(generous, make_plan(), lambda i: "A")
    assert play(generous, make_plan(1), lambda i: "B").key == "B"
    assert generous.statistics().unscaled_runs == 1
    assert generous.statistics().spent.samples == 1


def test_an_interrupted_call_gives_back_what_it_did_not_start():
    pool = BudgetPool(per_call=4, policy=Uniform())
    plan = make_plan(strategy=Integrated(width=1, independent=1))
    steps = call_steps(pool, plan)
    step = next(steps)
    finish(step.jobs[0], "A")
    steps.close()
    assert pool.statistics().reserved == Cost()
    assert pool.statistics().open_calls == 0


def test_a_call_is_over_when_its_strategy_wants_no_more():
    for answers, drawn in ((["A", "A"], 2), (["A", "B", "A", "B"], 4)):
        pool = BudgetPool(per_call=4, policy=Uniform())
        plan = make_plan(strategy=TwoThenAsk())
        assert play(pool, plan, answers.__getitem__).key == "A"
        assert len(plan.samples) == drawn
        assert pool.statistics().reserved == Cost() and pool.statistics().open_calls == 0


def test_many_samples_are_bought_at_one_price_whatever_is_proposed_at_a_time():
    answers = "AABABBABAA" * 7

    def drawn(play_call):
        pool = BudgetPool(samples=180, policy=UCB()).expect(30)
        return [play_call(pool, key) for key in range(4)]

    def by_steps(pool, key):
        plan = make_plan(key)
        play(pool, plan, answers.__getitem__)
        return len(plan.samples)

    def at_once(pool, key):
        arm, taken = open_call(pool, 64), 0
        while arm.waiting:
            for _ in range(arm.waiting):
                lease = arm.take()
                assert lease.start() and lease.charge()
                lease.settle()
                taken += 1
            arm.request(Tally.of(answers[:taken]), ["independent"] * (64 - taken))
        arm.close()
        return taken

    assert drawn(by_steps) == drawn(at_once)
    assert max(drawn(by_steps)) > 2 * FIRST


@pytest.mark.parametrize("at_least", [1, FIRST, FIRST + 1, 3 * FIRST + 5, 200])
def test_a_call_draws_its_minimum_at_once_whatever_is_proposed_at_a_time(at_least):
    pool = BudgetPool(samples=10_000, min_per_call=at_least)
    steps = call_steps(pool, make_plan(max_samples=100))
    step = next(steps)
    assert len(step.jobs) >= min(at_least, 100)
    if at_least > FIRST:  # more than samples without a vote are worth
        assert len(step.jobs) == min(at_least, 100)
    steps.close()
    assert pool.statistics().reserved == Cost()


def test_a_strategy_that_wants_no_first_sample_is_told():
    class Never(Parallel):
        def propose(self, view, learned, rng):
            return None

    pool = BudgetPool(per_call=4, policy=Uniform())
    with pytest.raises(ValueError, match=r"wants no first sample, and a call needs one: propose\(\) must return"):
        play(pool, make_plan(strategy=Never()), lambda i: "A")
    assert pool.statistics().open_calls == 0


def test_a_permanent_failure_ends_the_call():
    pool = BudgetPool(per_call=6, policy=Uniform())
    plan = make_plan(strategy=Integrated(width=1, independent=1))
    steps = call_steps(pool, plan)
    [job] = next(steps).jobs
    with pytest.raises(StopIteration):
        steps.send([replace(finish(job, None, ValueError("wrong key")), permanent=True)])
    assert pool.statistics().reserved == Cost()

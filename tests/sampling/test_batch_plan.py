from __future__ import annotations

import random
from collections import deque
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import UCB, BudgetPool, Cost, KnowledgeGradient, Uniform
from dynscale_dspy.execution.desk import BatchDesk
from dynscale_dspy.sampling.batch_plan import coordinate
from dynscale_dspy.sampling.sample import Sample
from tests.sampling.support import asking, finish, make_plan, play
from tests.support import vote

policies = st.sampled_from([KnowledgeGradient(), KnowledgeGradient(first=2), UCB(), Uniform()])


def known_steps(pool, plans, *, window, program=None, requests=1):
    """What a driver has to do for a known set of calls of a pool."""
    desk = BatchDesk(pool, len(plans), program=program, requests=requests, keys=None)
    return asking(coordinate(plans, desk.known, pool.policy, window=window), desk)


def run_known(pool, streams, window, *, shuffle=None, fail=lambda call, index: False):
    """Drive a known set. With ``shuffle``, outstanding samples finish in a random order before they are handed back."""
    plans = [make_plan(i) for i in range(len(streams))]
    steps = known_steps(pool, plans, window=window)
    outstanding: deque = deque()
    trail = []
    try:
        jobs = next(steps)
        while True:
            outstanding.extend(jobs)
            assert len(outstanding) <= max(window, 1)
            job = outstanding.popleft()
            error = RuntimeError("down") if fail(job.call, job.draw.index) else None
            trail.append((job.call, job.draw.index))
            key = None if error else streams[job.call][job.draw.index]
            jobs = steps.send([(job, finish(job, key, error))])
    except StopIteration:
        pass
    return plans, trail


@given(
    policies,
    st.integers(1, 12),
    st.integers(1, 60),
    st.integers(1, 20),
    st.integers(0, 2**16),
)
def test_a_known_set_spends_its_budget_exactly_and_serves_everyone(policy, calls, extra, window, seed):
    random_ = random.Random(seed)
    streams = [[random_.choice("ABC") for _ in range(64)] for _ in range(calls)]
    pool = BudgetPool(samples=calls + extra, policy=policy)
    plans, _ = run_known(pool, streams, window)
    now = pool.statistics()
    assert now.spent.samples == min(calls + extra, 64 * calls)
    assert now.reserved == Cost()
    assert min(len(plan.samples) for plan in plans) >= 1


def test_a_known_set_is_decided_by_answers_alone():
    random_ = random.Random(5)
    streams = [[random_.choice("ABC") for _ in range(64)] for _ in range(10)]
    trails = [run_known(BudgetPool(samples=80), streams, 8)[1] for _ in range(2)]
    assert trails[0] == trails[1]


def test_contested_calls_get_more_than_settled_ones():
    streams = [["A"] * 64, ["A", "B"] * 32]
    plans, _ = run_known(BudgetPool(samples=20), streams, 1)
    assert len(plans[0].samples) < 8 < len(plans[1].samples)


def test_uniform_splits_evenly():
    streams = [["A"] * 64, ["A", "B"] * 32, [None] * 64]
    plans, _ = run_known(BudgetPool(samples=12, policy=Uniform()), streams, 4)
    assert [len(plan.samples) for plan in plans] == [4, 4, 4]


def test_failures_cost_and_the_rest_goes_on():
    streams = [["A"] * 64 for _ in range(4)]
    plans, _ = run_known(BudgetPool(samples=16), streams, 4, fail=lambda call, index: call == 0)
    assert plans[0].selection.evidence().lead == 0 and plans[0].samples
    assert all(plan.winner().key == "A" for plan in plans[1:])


def test_a_private_pool_gives_a_known_set_its_average():
    streams = [["A", "B", "C"] * 22 for _ in range(6)]
    pool = BudgetPool(per_call=5)
    run_known(pool, streams, 3)
    assert pool.statistics().spent.samples == 30


def test_no_call_passes_its_own_maximum():
    plans = [make_plan(i, max_samples=3) for i in range(3)]
    pool = BudgetPool(samples=100)
    steps = known_steps(pool, plans, window=4)
    outstanding = deque(next(steps))
    with pytest.raises(StopIteration):
        while True:
            job = outstanding.popleft()
            outstanding.extend(steps.send([(job, finish(job, "A"))]))
    assert [len(plan.samples) for plan in plans] == [3, 3, 3]


def test_every_policy_works_online_and_on_a_known_set():
    from dynscale_dspy.allocation.policies.registry import POLICIES

    random_ = random.Random(3)
    streams = [[random_.choice(["A", "B", "C", None]) for _ in range(64)] for _ in range(6)]
    for make in POLICIES.values():
        pool = BudgetPool(samples=40, policy=make())
        plans, _ = run_known(pool, streams, 4)
        assert 6 <= pool.statistics().spent.samples <= 40
        assert all(plan.samples for plan in plans)
        online = BudgetPool(samples=40, policy=make()).expect(6)
        for call, stream in enumerate(streams):
            play(online, make_plan(call), stream.__getitem__)
        assert online.statistics().closed_calls == 6


@given(st.integers(0, 2**16))
def test_under_a_cap_on_calls_a_known_set_does_not_depend_on_when_samples_finish(seed):
    streams = [[random.Random(call).choice("ABC") for _ in range(64)] for call in range(5)]

    def trail(order: random.Random):
        pool = BudgetPool(requests=90)
        plans = [make_plan(i) for i in range(5)]
        program = make_plan  # anything that can be referred to weakly
        steps = known_steps(pool, plans, window=12, program=program)
        outstanding, finished, seen = deque(next(steps)), {}, []
        while outstanding:
            # Any number of those outstanding finish, the oldest among them, with one to three calls.
            waiting = [job for job in outstanding if (job.call, job.draw.index) not in finished]
            if waiting and waiting[0] is outstanding[0]:
                finishing = [waiting[0], *order.sample(waiting[1:], order.randint(0, len(waiting) - 1))]
            else:
                finishing = []
            for job in finishing:
                assert job.lease.start()
                assert all(job.lease.charge() for _ in range(1 + (job.call + job.draw.index) % 3))
                cost = job.lease.settle()
                key = streams[job.call][job.draw.index]
                sample = Sample(job.draw, prediction=key, answer=key, vote=vote(key), cost=cost)
                finished[job.call, job.draw.index] = sample
            job = outstanding.popleft()
            try:
                jobs = steps.send([(job, finished[job.call, job.draw.index])])
            except StopIteration:
                break
            outstanding.extend(jobs)
            seen.append([(job.call, job.draw.index) for job in jobs])  # what is decided on each completion
        assert pool.statistics().spent.requests <= 90
        return seen

    assert trail(random.Random(seed)) == trail(random.Random(seed + 1))


def test_a_call_that_fails_for_good_is_not_sampled_again():
    plans = [make_plan(i) for i in range(2)]
    pool = BudgetPool(samples=12)
    steps = known_steps(pool, plans, window=1)
    drawn = [0, 0]
    [job] = next(steps)
    with pytest.raises(StopIteration):
        while True:
            drawn[job.call] += 1
            error = ValueError("wrong key") if job.call == 0 else None
            sample = replace(finish(job, None if error else "A", error), permanent=error is not None)
            [job] = steps.send([(job, sample)])
    assert drawn == [1, 11]

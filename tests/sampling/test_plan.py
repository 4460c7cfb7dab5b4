from __future__ import annotations

import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import UCB, BudgetExhausted, BudgetPool, Cost, Integrated, KnowledgeGradient, Parallel, Uniform
from dynscale_dspy.sampling.plan import Plan, Round, Wait, conduct, coordinate
from dynscale_dspy.sampling.sample import Draw, Sample

policies = st.sampled_from([KnowledgeGradient(), KnowledgeGradient(first=2), UCB(), Uniform()])


def make_plan(key=0, strategy=None, max_samples=64):
    return Plan(strategy or Parallel(), seed=0, key=key, max_samples=max_samples)


def finish(job, key, error=None):
    """What a driver does with a job, without a program."""
    cost = Cost()
    if job.ticket is not None:
        assert job.ticket.start()
        job.ticket.call()
        cost = job.ticket.settle()
    problem = "failed" if error else "" if key is not None else "no answer"
    prediction = None if error else key
    return Sample(job.draw, prediction=prediction, answer=key, key=key, problem=problem, error=error, cost=cost)


def play(pool, plan, answer, key=None):
    """Drive one call; ``answer(index)`` is the index-th sample's key, or an exception."""
    steps = conduct(pool, plan, key=key)
    try:
        step = next(steps)
        while True:
            assert isinstance(step, Round)
            samples = []
            for job in step.jobs:
                value = answer(job.draw.index)
                failed = isinstance(value, Exception)
                samples.append(finish(job, None if failed else value, value if failed else None))
            step = steps.send(samples)
    except StopIteration as stop:
        return stop.value[0]


# ---- one call


@given(policies, st.lists(st.one_of(st.none(), st.sampled_from("ABC")), min_size=64, max_size=64), st.integers(1, 12))
def test_a_call_stays_within_its_budget_and_leaves_nothing_reserved(policy, answers, per_call):
    pool = BudgetPool(per_call=per_call, policy=policy)
    plan = make_plan()
    play(pool, plan, answers.__getitem__)
    now = pool.statistics()
    assert 1 <= now.spent.samples == len(plan.samples) <= per_call
    assert now.reserved == Cost()
    assert now.open_calls == 0


@given(st.lists(st.sampled_from("ABC"), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_winner_does_not_depend_on_the_order_of_arrival(answers, random_):
    def tell_all(order):
        plan = make_plan()
        draws = [plan.draw() for _ in answers]
        for i in order:
            plan.tell(Sample(draws[i], prediction=i, answer=answers[i], key=answers[i]))
        return plan.winner().prediction

    order = list(range(len(answers)))
    random_.shuffle(order)
    assert tell_all(order) == tell_all(range(len(answers)))


@given(st.lists(st.sampled_from("ABC"), min_size=1, max_size=12), st.permutations("ABC"))
def test_renaming_answers_renames_the_winner(answers, renamed):
    names = dict(zip("ABC", renamed, strict=True))

    def winner(keys):
        plan = make_plan()
        for key in keys:
            plan.tell(Sample(plan.draw(), prediction=key, answer=key, key=key))
        return plan.winner().key

    assert winner([names[key] for key in answers]) == names[winner(answers)]


def tell(plan, *keys, conditioned=False):
    for key in keys:
        draw = plan.draw()
        if conditioned:
            draw = Draw(draw.index, draw.round, shown=(0,), chain={1: "text"})
        problem = "" if key is not None else "no answer"
        plan.tell(Sample(draw, prediction=(draw.index, key), answer=key, key=key, problem=problem))


def test_most_votes_win_and_the_first_sample_with_that_answer_speaks():
    plan = make_plan()
    tell(plan, "A", "B", "B")
    assert plan.winner().prediction == (1, "B")


def test_ties_go_to_the_answer_with_more_independent_votes_then_to_the_earlier():
    plan = make_plan()
    tell(plan, "A", "B")
    assert plan.winner().key == "A"
    plan = make_plan()
    tell(plan, "A", "B", "B")
    tell(plan, "A", conditioned=True)
    assert plan.winner().key == "B"


def test_samples_without_a_vote_do_not_win_while_anyone_votes():
    plan = make_plan()
    tell(plan, None, None, "A")
    assert plan.winner().key == "A"


def test_a_call_without_votes_returns_what_it_has():
    plan = make_plan()
    tell(plan, None, None)
    assert plan.winner().prediction == (0, None)


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
    with pytest.raises(BudgetExhausted, match=r"nothing is left for a first sample: BudgetPool\(1 of 1 samples"):
        play(pool, make_plan(1), lambda i: "A")
    generous = BudgetPool(samples=1, on_empty="run_once")
    play(generous, make_plan(), lambda i: "A")
    assert play(generous, make_plan(1), lambda i: "B").key == "B"
    assert generous.statistics().unscaled_runs == 1
    assert generous.statistics().spent.samples == 1


def test_the_same_call_in_flight_twice_is_paid_once():
    pool = BudgetPool(per_call=4, policy=Uniform())
    first = conduct(pool, make_plan(), key="same")
    step = next(first)
    second = conduct(pool, make_plan(), key="same")
    wait = next(second)
    assert isinstance(wait, Wait) and not wait.future.done()
    with pytest.raises(StopIteration) as stopped:
        first.send([finish(job, "A") for job in step.jobs])
    winner, own = stopped.value.value
    assert own
    with pytest.raises(StopIteration) as joined:
        second.send(True)
    assert joined.value.value == (winner, False)
    assert pool.statistics().spent.samples == 4
    assert next(conduct(pool, make_plan(), key="same")).jobs  # afterwards it is a call like any other


def test_a_call_that_cannot_wait_goes_alone():
    pool = BudgetPool(per_call=2, policy=Uniform())
    first = conduct(pool, make_plan(), key="same")
    next(first)
    second = conduct(pool, make_plan(), key="same")
    next(second)
    assert isinstance(second.send(False), Round)


def test_if_the_first_of_two_is_interrupted_the_second_takes_over():
    pool = BudgetPool(per_call=2, policy=Uniform())
    first = conduct(pool, make_plan(), key="same")
    next(first)
    second = conduct(pool, make_plan(), key="same")
    next(second)
    first.close()
    assert isinstance(second.send(True), Round)


def test_an_error_of_the_first_reaches_the_second():
    pool = BudgetPool(per_call=1)
    first = conduct(pool, make_plan(), key="same")
    step = next(first)
    second = conduct(pool, make_plan(), key="same")
    next(second)
    with pytest.raises(StopIteration) as stopped:
        first.send([finish(job, None, ZeroDivisionError()) for job in step.jobs])
    with pytest.raises(StopIteration) as joined:
        second.send(True)
    assert isinstance(stopped.value.value[0].error, ZeroDivisionError)
    assert joined.value.value == (stopped.value.value[0], False)


def test_an_interrupted_call_gives_back_what_it_did_not_start():
    pool = BudgetPool(per_call=4, policy=Uniform())
    plan = make_plan(strategy=Integrated(width=1, independent=1))
    steps = conduct(pool, plan, key=None)
    step = next(steps)
    finish(step.jobs[0], "A")
    steps.close()
    assert pool.statistics().reserved == Cost()
    assert pool.statistics().open_calls == 0


# ---- a known set of calls


def run_known(pool, streams, window, *, shuffle=None, fail=lambda call, index: False):
    """Drive a known set. With ``shuffle``, outstanding samples finish in a random order before they are handed back."""
    plans = [make_plan(i) for i in range(len(streams))]
    arms, limit, requests = pool.open_known(len(streams))
    steps = coordinate(plans, arms, pool.policy, limit=limit, window=window, requests=requests)
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
    for arm in arms:
        arm.close()
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
    assert plans[0].tally.valid == 0 and plans[0].samples
    assert all(plan.winner().key == "A" for plan in plans[1:])


def test_a_private_pool_gives_a_known_set_its_average():
    streams = [["A", "B", "C"] * 22 for _ in range(6)]
    pool = BudgetPool(per_call=5)
    run_known(pool, streams, 3)
    assert pool.statistics().spent.samples == 30


def test_no_call_passes_its_own_maximum():
    plans = [make_plan(i, max_samples=3) for i in range(3)]
    pool = BudgetPool(samples=100)
    arms, limit, _ = pool.open_known(3)
    steps = coordinate(plans, arms, pool.policy, limit=limit, window=4)
    outstanding = deque(next(steps))
    with pytest.raises(StopIteration):
        while True:
            job = outstanding.popleft()
            outstanding.extend(steps.send([(job, finish(job, "A"))]))
    assert [len(plan.samples) for plan in plans] == [3, 3, 3]


def test_samples_are_numbered_and_rounds_follow_what_was_known():
    plan = make_plan()
    draws = [plan.draw(), plan.draw()]
    assert [(d.index, d.round) for d in draws] == [(0, 0), (1, 0)]
    plan.tell(Sample(draws[0], key="A", prediction="A"))
    assert plan.draw().round == 1
    assert plan.pending == 2


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
        arms, limit, requests = pool.open_known(5, program=program, requests=1)
        steps = coordinate(plans, arms, pool.policy, limit=limit, window=12, requests=requests)
        outstanding, finished, seen = deque(next(steps)), {}, []
        while outstanding:
            # Any number of those outstanding finish, the oldest among them, with one to three calls.
            waiting = [job for job in outstanding if (job.call, job.draw.index) not in finished]
            if waiting and waiting[0] is outstanding[0]:
                finishing = [waiting[0], *order.sample(waiting[1:], order.randint(0, len(waiting) - 1))]
            else:
                finishing = []
            for job in finishing:
                assert job.ticket.start()
                assert all(job.ticket.call() for _ in range(1 + (job.call + job.draw.index) % 3))
                cost = job.ticket.settle()
                key = streams[job.call][job.draw.index]
                sample = Sample(job.draw, prediction=key, answer=key, key=key, cost=cost)
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

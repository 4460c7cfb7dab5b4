from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import UCB, BudgetPool, Cost, KnowledgeGradient, Parallel, Uniform
from dynscale_dspy.allocation.costs import FREE, Tariff
from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.allocation.requests import PricedSizes, RequestSizes
from dynscale_dspy.execution.desk import BatchDesk
from dynscale_dspy.sampling import batch_plan
from dynscale_dspy.sampling.batch_plan import KnownSet, coordinate
from dynscale_dspy.sampling.escalate import Escalate
from dynscale_dspy.sampling.models import Choosing
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.sample import Sample
from dynscale_dspy.sampling.samplers import ALONE
from dynscale_dspy.sampling.steps import Fits, Look, ReserveFor, Standing
from dynscale_dspy.sampling.ways import INDEPENDENT
from tests.sampling.models import MODELS
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


class AtMost(Parallel):
    """Wants so many samples of a call; more than two only once the first two are finished."""

    most = 3

    def propose(self, view, learned, rng):
        finished = view.evidence.samples
        return ALONE if view.next_index < (self.most if finished >= 2 else 2) else None


@pytest.mark.parametrize("window", [1, 4, 12])
@pytest.mark.parametrize("policy", [KnowledgeGradient(), KnowledgeGradient(first=3), UCB(), Uniform()])
def test_calls_whose_strategy_wants_no_more_leave_the_budget_to_the_others(policy, window):
    pool = BudgetPool(samples=40, policy=policy)
    plans = [make_plan(i, strategy=AtMost() if i % 2 else Parallel(), max_samples=14) for i in range(4)]
    steps = known_steps(pool, plans, window=window)
    outstanding = deque(next(steps))
    with pytest.raises(StopIteration):
        while True:
            job = outstanding.popleft()
            outstanding.extend(steps.send([(job, finish(job, "AB"[job.draw.index % 2]))]))
    assert [len(plan.samples) for plan in plans] == [14, 3, 14, 3]
    assert pool.statistics().reserved == Cost()


def contested(job):
    """The sample of a job, of a call whose answers are A and B in turn."""
    key = "AB"[job.draw.index % 2]
    cost = Cost(samples=1, requests=1, completion_tokens=1, nanodollars=1)
    return Sample(job.draw, answer=key, vote=vote(key), cost=cost)


class TestSeveralModels:
    """A set of calls that draw from language models of unlike price."""

    CHEAP, DEAR = MODELS[:2]

    def plans(self, escalate, *, calls):
        """So many calls that escalate from the cheap to the dear model."""
        learned = Learned()
        strategy = Choosing(escalate, (self.CHEAP, self.DEAR))
        return [Plan(strategy, seed=0, key=call, max_samples=64, learned=learned) for call in range(calls)]

    def run(self, strategy, streams, *, count, prices=(1, 20), learned=None):
        """The calls and samplers of so many samples, none of them outstanding beside another."""
        learned = learned or Learned()
        plans = [Plan(strategy, seed=0, key=call, max_samples=64, learned=learned) for call in range(len(streams))]
        price = dict(zip((self.CHEAP.name, self.DEAR.name), prices, strict=True))
        known = KnownSet((1,) * len(plans), measured=True, metered=True)
        steps = coordinate(plans, known, KnowledgeGradient(), window=1, narrowing=False)
        trail, answer = [], None
        while len(trail) < count:
            step = steps.send(answer)
            if isinstance(step, list):
                [job] = step
                name = job.draw.sampler.model
                trail.append((job.call, name))
                key = streams[job.call][job.draw.index]
                cost = Cost(samples=1, requests=1, completion_tokens=1, nanodollars=price[name])
                learned.costed(name, cost)
                answer = [(job, Sample(job.draw, answer=key, vote=vote(key), cost=cost))]
            else:
                answer = Standing(unit="nanodollars") if isinstance(step, Look) else step
        return plans, trail

    def test_an_index_is_weighed_by_what_the_next_sampler_costs(self):
        """Once a dear sample has been metered, a less contested call with cheap samples left comes before it."""
        ladder = Escalate(first=2, upfront=0, beside=0, learn=False, ways=INDEPENDENT).over([self.CHEAP, self.DEAR])
        streams = ["AB" + "A" * 60, "AB" + "A" * 60, "A" * 62]
        _, trail = self.run(ladder, streams, count=8)
        dear = [place for place, (_, name) in enumerate(trail) if name == self.DEAR.name]
        assert trail[dear[0] + 1 :].count((2, self.CHEAP.name)) == 0 or trail.index((2, self.CHEAP.name)) < dear[1]
        settled = [place for place, told in enumerate(trail) if told == (2, self.CHEAP.name)]
        assert settled[1] < dear[1], "the settled call's second sample is cheap: it comes before another dear one"

    def test_samples_that_cost_nothing_come_before_any_that_cost_something(self):
        learned = Learned()
        learned.of(self.CHEAP.name).tariff = Tariff(prompt=0, completion=0)
        ladder = Escalate(first=2, upfront=0, beside=0, learn=False, ways=INDEPENDENT).over([self.CHEAP, self.DEAR])
        streams = ["AB" + "A" * 60, "AB" + "A" * 60, "A" * 62]
        _, trail = self.run(ladder, streams, count=8, prices=(0, 20), learned=learned)
        assert trail[:6].count((2, self.CHEAP.name)) == 2, "also the settled call's second one"
        assert [name for _, name in trail] == [self.CHEAP.name] * 6 + [self.DEAR.name] * 2

    def test_a_free_model_does_not_make_others_look_alike(self):
        costs = batch_plan._Costs(weighs=True)
        costs.unit = "nanodollars"
        for name, price in (("free", 0), ("cheap", 10), ("dear", 40)):
            for call in range(4):
                costs.tell(call, name, Cost(samples=1, requests=1, nanodollars=price))
        assert costs.relative(0, "cheap") == 1
        assert costs.relative(0, "dear") == pytest.approx(4)
        assert costs.relative(0, "free", is_free=True) == FREE
        costs.unit = "tokens"
        assert costs.relative(0, "free", is_free=True) == 1, "it has tokens as others"

    def test_a_dear_sample_does_not_make_the_calls_cheap_ones_look_dear(self):
        costs = batch_plan._Costs(weighs=True)
        costs.unit = "nanodollars"
        for call, name, price in ((0, "cheap", 1), (1, "cheap", 1), (0, "dear", 40)):
            costs.tell(call, name, Cost(samples=1, nanodollars=price))
        assert costs.relative(0, "cheap") == costs.relative(1, "cheap")
        assert costs.relative(0, "dear") == pytest.approx(40 * costs.relative(0, "cheap"))
        assert costs.relative(0, "another") > 0

    @pytest.mark.parametrize("ever", [False, True])
    def test_a_dear_sample_is_waited_for_only_where_the_money_for_it_may_come_back(self, ever):
        """What costs more than all that is left is done without at once: the wire stays full of cheap samples."""
        plans = self.plans(Escalate(first=1, upfront=0, beside=3, learn=False, ways=INDEPENDENT), calls=4)
        known = KnownSet((1,) * len(plans), measured=True, metered=True)
        steps = coordinate(plans, known, KnowledgeGradient(), window=16, narrowing=False)
        outstanding, answer, least, asked = [], None, len(plans), 0
        for _ in range(200):
            step = steps.send(answer)
            if isinstance(step, list):
                outstanding += step
                least = min(least, len(outstanding))
                job = outstanding.pop(0)
                answer = [(job, contested(job))]
            elif isinstance(step, ReserveFor):
                answer = step if step.sampler == self.CHEAP.name else None
            elif isinstance(step, Fits):
                assert step.sampler == self.DEAR.name
                answer, asked = ever, asked + 1
            else:
                assert isinstance(step, Look)
                answer = Standing(unit="nanodollars", holds_elsewhere=bool(outstanding))
        assert asked
        assert least == (1 if ever else len(plans))

    @pytest.mark.parametrize("window", [1, 16])
    def test_a_call_none_of_whose_models_can_be_asked_leaves_the_rest_to_the_others(self, window):
        """The cheap model fails for one call for good, and nobody can pay the dear one."""
        plans = self.plans(Escalate(first=2, upfront=0, learn=False, ways=INDEPENDENT), calls=3)
        known = KnownSet((1,) * len(plans), measured=True, metered=True)
        steps = coordinate(plans, known, KnowledgeGradient(), window=window, narrowing=False)
        outstanding, answer, drawn = [], None, [0] * len(plans)
        with pytest.raises(StopIteration):
            while sum(drawn) < 1000:
                step = steps.send(answer)
                if isinstance(step, list):
                    outstanding += step
                    job = outstanding.pop(0)
                    drawn[job.call] += 1
                    if job.call == 1 and drawn[1] > 4:
                        lost = Sample(job.draw, error=ValueError("no such model"), permanent=True)
                        answer = [(job, lost)]
                        continue
                    answer = [(job, contested(job))]
                elif isinstance(step, ReserveFor):
                    answer = step if step.sampler == self.CHEAP.name else None
                elif isinstance(step, Fits):
                    answer = step.sampler == self.CHEAP.name
                else:
                    answer = Standing(unit="nanodollars", holds_elsewhere=bool(outstanding))
        assert drawn[0] == drawn[2] == 64
        assert 4 < drawn[1] <= 4 + window

    def test_once_the_dear_model_does_not_stand_every_call_is_weighed_anew(self):
        learned = Learned()
        strategy = Escalate(first=2, upfront=0, beside=0, ways=INDEPENDENT).over([self.CHEAP, self.DEAR])
        streams = ["AB" + "C" * 60, "AB" + "C" * 60, "AB" + "C" * 60]
        plans, trail = self.run(strategy, streams, count=9, learned=learned)
        assert trail[-1][1] == self.DEAR.name
        for _ in range(9):
            learned.peers.tell_second(self.DEAR.name, repeats=False)
        for plan in plans:
            plan.propose()
            assert max(plan.selection.evidence().votes.values()) <= 2


class TestSizesOfRequests:
    def costs(self, *, each_has, most=math.inf, prompt=200):
        costs = batch_plan._Costs(weighs=True, shares=True, each_has={"tokens": each_has, "samples": most}, calls=50)
        costs.stand("tokens")
        self.tell(costs, prompt)
        return costs

    def tell(self, costs, prompt):
        costs.tell(0, "", Cost(samples=1, requests=1, prompt_tokens=prompt, completion_tokens=20))

    def test_they_are_forgotten_while_samples_or_requests_run_out_first(self):
        costs = self.costs(each_has=400)
        assert costs.sizes is not None and costs.room == 10
        costs.stand(None)
        assert (costs.sizes, costs.room) == (None, math.inf)
        assert costs.first_size(1, most=math.inf) is None
        costs.stand("tokens")
        self.tell(costs, 200)
        assert costs.sizes is not None and costs.room == 10

    def test_where_two_requests_pay_for_all_samples_of_a_call_these_run_out(self):
        short = self.costs(each_has=2 * 200 + 8 * 20 - 1, most=8)
        assert short.sizes is RequestSizes.of(10) and short.room < 18
        ample = self.costs(each_has=2 * 200 + 8 * 20, most=8)
        assert ample.sizes is None and ample.first_size(1, most=8) is None

    def test_of_what_all_have_the_last_first_request_finds_its_upper_bound(self):
        costs = self.costs(each_has=400)
        costs.stand("tokens", bound=1220)
        assert costs.room == 9  # 1000 tokens beyond what a request for one costs, of 50 calls
        costs.stand("tokens", bound=9999)
        assert costs.room == 9  # later samples change nothing, so that no timing decides

    def test_what_is_left_is_for_the_calls_of_other_sets_too(self):
        costs = self.costs(each_has=600)
        assert costs.room == 20
        costs.stand("tokens", others=25)
        assert costs.room == 10
        costs.stand("tokens")  # that set has ended, and has spent its part
        self.tell(costs, 200)
        assert costs.room == 10

    def test_what_was_drawn_before_that_was_known_is_counted(self):
        costs = batch_plan._Costs(weighs=True, shares=True, each_has={"tokens": 400}, calls=50)
        costs.stand("tokens")
        costs.drew_unpriced(59)
        self.tell(costs, 200)
        assert costs.room == 9  # ten for each of 50 calls, less 59, for 49

    def test_samples_that_are_given_out_do_not_pay_a_prompt_each_either(self):
        costs = batch_plan._Costs(weighs=False, shares=True, counts_prompts=True, each_has={"samples": 8.0}, calls=50)
        costs.stand(None)
        costs.tell(0, "", Cost(samples=1, requests=1, cached_requests=1))
        assert costs.first_size(1, most=8) is None  # what DSPy's cache gives says nothing by itself
        costs.tell(0, "", Cost(samples=1, requests=1, cached_requests=1), Cost(prompt_tokens=40, completion_tokens=20))
        assert costs.sizes is RequestSizes.of(2)
        assert costs.first_size(1, most=8) == PricedSizes(RequestSizes.of(2), 2, 8 / 11).first(8)
        assert 1 < costs.request_size(2, 2) < RequestSizes.of(16).size(2, 2, None)
        self.tell(costs, 0)
        assert costs.sizes is RequestSizes.of(2)  # once is not the average

    def test_where_samples_that_were_to_share_a_request_each_ask_they_are_weighed_one_by_one(self):
        costs = self.costs(each_has=400)
        shared, alone = Cost(samples=1, completion_tokens=20), Cost(samples=1, requests=1, prompt_tokens=200)
        costs.came([alone])
        costs.came([alone, shared, alone, Cost()])
        self.tell(costs, 200)
        assert not costs.are_alone and costs.sizes is not None
        costs.came([shared, alone])
        self.tell(costs, 200)
        assert costs.are_alone and (costs.sizes, costs.room) == (None, math.inf)
        costs.came([alone, shared])
        self.tell(costs, 200)
        assert not costs.are_alone and costs.room == 10

    def test_one_long_prompt_in_the_beginning_does_not_make_requests_small_for_long(self):
        costs = self.costs(each_has=400, prompt=20_000)
        for _ in range(16):
            assert costs.first_size(1, most=math.inf) == 1
        for _ in range(199):
            self.tell(costs, 200)
        sizes = [costs.first_size(1, most=math.inf) for _ in range(4)]
        assert max(sizes) > 2

from __future__ import annotations

import copy
import pickle
import random
import threading

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from dynscale_dspy import UCB, BudgetExhausted, BudgetPool, Cost, KnowledgeGradient, Uniform
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.pool import Arm, Ticket

tallies = st.lists(st.none() | st.integers(0, 3), min_size=1, max_size=6).map(Tally.of)


class PoolMachine(RuleBasedStateMachine):
    """Calls open, draw, nest, fail, are cancelled and close in any order; no cap is passed and nothing leaks."""

    arms = Bundle("arms")
    tickets = Bundle("tickets")

    @initialize(
        samples=st.none() | st.integers(1, 25),
        calls=st.none() | st.integers(1, 40),
        per_call=st.none() | st.integers(1, 6),
        policy=st.sampled_from([KnowledgeGradient(), KnowledgeGradient(first=2), UCB(), Uniform()]),
    )
    def start(self, samples, calls, per_call, policy):
        if samples is calls is per_call is None:
            samples = 10
        self.pool = BudgetPool(samples, calls=calls, per_call=per_call, policy=policy)
        self.open_arms: set[Arm] = set()
        self.running: set[Ticket] = set()
        self.ran = Cost()
        self.opened = 0

    @rule(target=arms, room=st.integers(1, 8))
    def open(self, room):
        arm = self.pool.open(room)
        if arm is None:
            assert self.pool._ledger.remaining("samples") < 1 or self.pool._ledger.remaining("calls") < 1
            return multiple()
        # The fair floor: whoever is let in has its first sample, whatever others do.
        assert arm.waiting >= 1
        self.open_arms.add(arm)
        self.opened += 1
        return arm

    @rule(target=arms, outer=tickets, room=st.integers(1, 3))
    def open_nested(self, outer, room):
        if outer not in self.running:
            return multiple()
        arm = self.pool.open(room, outer=outer)
        if arm is None:
            return multiple()
        self.open_arms.add(arm)
        return arm

    @rule(target=tickets, arm=arms)
    def start_sample(self, arm):
        if not arm.waiting:
            return multiple()
        ticket = arm.take()
        assert ticket.start()
        self.running.add(ticket)
        return ticket

    @rule(arm=arms)
    def take_and_be_cancelled(self, arm):
        if arm.waiting:
            ticket = arm.take()
            arm.close()
            self.open_arms.discard(arm)
            assert not ticket.start()

    @rule(ticket=tickets)
    def call_model(self, ticket):
        if ticket in self.running and not ticket.call():
            assert self.pool._ledger.remaining("calls") < 1

    @rule(ticket=consumes(tickets), tokens=st.integers(0, 100))
    def finish_sample(self, ticket, tokens):
        self.running.discard(ticket)
        ticket.settle()

    @rule(arm=arms, tally=tallies, room=st.integers(0, 5))
    def request(self, arm, tally, room):
        if arm in self.open_arms:
            granted = arm.request(tally, room)
            assert granted <= room

    @rule(arm=arms)
    def close(self, arm):
        # Also twice, and also with samples in flight: a cancelled call.
        arm.close()
        self.open_arms.discard(arm)

    @rule()
    def look(self):
        assert "BudgetPool(" in repr(self.pool)

    @invariant()
    def never_over(self):
        now = self.pool.statistics()
        for unit, limit in now.limits.items():
            if limit is not None:
                assert getattr(now.spent, unit) + getattr(now.reserved, unit) <= limit
        assert now.open_calls == len(self.open_arms)

    @invariant()
    def per_call_is_met_on_average(self):
        if self.pool._per_call is not None:
            now = self.pool.statistics()
            # Each call is due its average; a nested one, whose enclosing call answers for it, only its first sample.
            due = self.pool._per_call * self.opened + now.closed_calls + now.open_calls
            assert now.spent.samples + now.reserved.samples <= due

    def teardown(self):
        if not hasattr(self, "pool"):
            return
        for ticket in self.running:
            ticket.settle()
        for arm in self.open_arms:
            arm.close()
        now = self.pool.statistics()
        assert now.reserved == Cost()
        assert now.open_calls == 0


TestPool = PoolMachine.TestCase


@pytest.mark.parametrize("threads", [1, 8, 32])
def test_threads_cannot_overspend_or_leak(threads):
    pool = BudgetPool(samples=300, calls=500, policy=Uniform())
    seen_over = []

    def work(seed: int) -> None:
        random_ = random.Random(seed)
        for _ in range(40):
            arm = pool.open(4)
            if arm is None:
                continue
            while arm.waiting:
                ticket = arm.take()
                ticket.start()
                for _ in range(random_.randint(0, 4)):
                    ticket.call()
                interrupted = random_.random() < 0.1
                now = pool.statistics()
                if now.spent.samples + now.reserved.samples > 300 or now.spent.calls + now.reserved.calls > 500:
                    seen_over.append(now)
                ticket.settle()
                if interrupted:
                    break
                arm.request(Tally.of("AB"), 2)
            arm.close()

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    now = pool.statistics()
    assert not seen_over
    assert now.reserved == Cost()
    assert now.open_calls == 0
    assert now.spent.samples == sum(n * count for n, count in now.samples_per_call.items())


def draw_one(arm):
    ticket = arm.take()
    assert ticket.start()
    ticket.call()
    ticket.settle()


def test_early_calls_cannot_drain_a_pool_that_knows_how_many_come():
    pool = BudgetPool(samples=100).expect(50)
    served = []
    for _ in range(50):
        arm = pool.open(64)
        assert arm is not None, "an expected call found the pool empty"
        drawn = 0
        while arm.waiting:
            draw_one(arm)
            drawn += 1
            arm.request(Tally.of("ABCD" * drawn), 64)  # everyone is contested, everyone wants more
        arm.close()
        served.append(drawn)
    assert sum(served) <= 100
    assert max(served[:5]) < 20


def test_a_private_pool_lets_hard_calls_use_what_easy_ones_left():
    pool = BudgetPool(per_call=4)
    for _ in range(10):
        arm = pool.open(64)
        draw_one(arm)
        arm.close()  # easy: one sample
    arm = pool.open(64)
    draw_one(arm)
    while arm.waiting or arm.request(Tally.of("AB"), 1):
        draw_one(arm)
    arm.close()
    assert max(pool.statistics().samples_per_call) > 4
    assert pool.statistics().spent.samples <= 4 * 11


def test_uniform_gives_every_call_its_share_at_once():
    pool = BudgetPool(per_call=5, policy=Uniform())
    for _ in range(7):
        arm = pool.open(64)
        assert arm.waiting == 5
        while arm.waiting:
            draw_one(arm)
        assert arm.request(Tally.of("AB"), 64) == 0
        arm.close()


def test_the_price_moves_until_spending_meets_the_allowance():
    pool = BudgetPool(per_call=4)
    random_ = random.Random(1)
    for _ in range(400):
        arm = pool.open(64)
        answers = []
        p = random_.choice([0.95, 0.5])
        while arm.waiting:
            draw_one(arm)
            answers.append("A" if random_.random() < p else random_.choice("BCD"))
            if not arm.waiting:
                arm.request(Tally.of(answers), 64 - len(answers))
        arm.close()
    now = pool.statistics()
    assert 0.9 * 4 * 400 <= now.spent.samples <= 4 * 400


def test_a_call_that_finds_nothing_is_not_opened():
    pool = BudgetPool(samples=1)
    first = pool.open(4)
    assert pool.open(4) is None
    draw_one(first)
    first.close()
    assert pool.open(4) is None
    assert pool.statistics().open_calls == 0


def test_an_unstarted_sample_of_a_closed_call_never_starts():
    pool = BudgetPool(samples=4, policy=Uniform(), per_call=4)
    arm = pool.open(4)
    ticket = arm.take()
    arm.close()
    assert pool.statistics().reserved == Cost()
    assert not ticket.start()


def test_a_nested_call_is_charged_once_at_the_leaf():
    pool = BudgetPool(samples=3)
    outer = pool.open(1)
    sample = outer.take()
    sample.start()
    inner = pool.open(1, outer=sample)
    draw_one(inner)
    inner.close()
    cost = sample.settle()
    outer.close()
    assert pool.statistics().spent.samples == 1
    assert cost.samples == 1  # and it is seen from outside


def test_a_nested_call_can_use_its_enclosing_samples_own_reservation():
    pool = BudgetPool(samples=1)
    outer = pool.open(1)
    sample = outer.take()
    sample.start()
    inner = pool.open(1, outer=sample)
    assert inner is not None
    draw_one(inner)
    inner.close()
    sample.settle()
    outer.close()
    assert pool.statistics().spent == Cost(samples=1, calls=1)


def test_a_known_set_needs_a_sample_for_each_call():
    pool = BudgetPool(samples=9)
    with pytest.raises(BudgetExhausted, match="9 samples are left, which cannot give each of the 10 calls one"):
        pool.open_known(10)
    assert pool.statistics().reserved == Cost()
    assert pool.statistics().open_calls == 0


def test_copies_spend_from_the_same_pool_and_a_saved_one_starts_anew():
    pool = BudgetPool(samples=5, calls=9, policy=UCB(exploration=0.5), seed=3)
    assert copy.deepcopy(pool) is pool
    assert copy.copy(pool) is pool
    draw_one(pool.open(1))
    loaded = pickle.loads(pickle.dumps(pool))
    assert loaded is not pool
    assert loaded.statistics().limits == pool.statistics().limits
    assert loaded.policy == pool.policy
    assert loaded.statistics().spent == Cost()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "a pool needs a limit: give samples=, calls= or per_call="),
        ({"samples": 0}, ValueError, "samples must be at least 1, got 0"),
        ({"samples": -5}, ValueError, "samples must be at least 1, got -5"),
        ({"samples": 1.5}, TypeError, "samples must be an integer, got 1.5"),
        ({"samples": True}, TypeError, "samples must be an integer, got True"),
        ({"calls": 0}, ValueError, "calls must be at least 1, got 0"),
        ({"per_call": 0.5}, ValueError, "per_call must be a finite number of at least 1, got 0.5"),
        ({"per_call": float("nan")}, ValueError, "per_call must be a finite number"),
        ({"per_call": "8"}, TypeError, "per_call must be a number of samples, got '8'"),
        ({"samples": 5, "policy": "ucb"}, TypeError, "policy must be a Policy"),
        ({"samples": 5, "on_empty": "ignore"}, ValueError, "on_empty must be 'raise' or 'run_once', got 'ignore'"),
        ({"samples": 5, "seed": None}, TypeError, "seed must be an integer, got None"),
    ],
)
def test_bad_limits(arguments, error, message):
    with pytest.raises(error, match=message):
        BudgetPool(**arguments)


def test_expecting_more_calls_than_samples():
    with pytest.raises(ValueError, match="5 samples are left, which cannot give each of the 6 expected calls one"):
        BudgetPool(samples=5).expect(6)
    with pytest.raises(ValueError, match="calls must be at least 1, got 0"):
        BudgetPool(samples=5).expect(0)


def test_statistics_are_a_snapshot():
    pool = BudgetPool(samples=5)
    before = pool.statistics()
    draw_one(pool.open(1))
    assert before.spent.samples == 0
    with pytest.raises(TypeError):
        before.limits["samples"] = 7  # type: ignore[index]

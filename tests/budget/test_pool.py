from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import os
import pickle
import random
import re
import subprocess
import sys
import tempfile
import threading
import warnings
from concurrent.futures import Future
from pathlib import Path

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from dynscale_dspy import UCB, BudgetExhausted, BudgetPool, Cost, DynScaling, KnowledgeGradient, Uniform
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.budget.arms import Arm
from dynscale_dspy.budget.leases import Lease
from dynscale_dspy.budget.stores.memory import MemoryStore
from dynscale_dspy.budget.stores.sqlite import SQLiteStore
from tests.support import forked, open_call, open_or_wait

tallies = st.lists(st.none() | st.integers(0, 3), min_size=1, max_size=6).map(Tally.of)


class PoolMachine(RuleBasedStateMachine):
    """Calls open, draw, nest, fail, are cancelled and close in any order, in scopes of a pool or in itself, which is
    paused, stopped and resumed: no cap is passed, nothing leaks, and every scope's spending is its pool's too."""

    arms = Bundle("arms")
    leases = Bundle("leases")

    @initialize(
        samples=st.none() | st.integers(1, 25),
        requests=st.none() | st.integers(1, 40),
        tokens=st.none() | st.integers(1, 2000),
        dollars=st.none() | st.sampled_from([1e-9, 1e-6, 2e-6]),
        per_call=st.none() | st.integers(1, 6),
        policy=st.sampled_from([KnowledgeGradient(), KnowledgeGradient(first=2), UCB(), Uniform()]),
        scopes=st.lists(
            st.fixed_dictionaries({"samples": st.integers(1, 12)}, optional={"tokens": st.integers(1, 500)}), max_size=2
        ),
        share=st.none() | st.floats(0.3, 1),
        durable=st.sampled_from([False, False, False, True]),
    )
    def start(self, samples, requests, tokens, dollars, per_call, policy, scopes, share, durable):
        if samples is requests is tokens is dollars is per_call is None:
            samples = 10
        self.folder = tempfile.TemporaryDirectory()
        path = os.path.join(self.folder.name, "budget.sqlite") if durable else None
        self.pool = BudgetPool(
            samples,
            requests=requests,
            tokens=tokens,
            dollars=dollars,
            per_call=per_call,
            policy=policy,
            path=path,
            max_failures=5,
        )
        self.pools = [self.pool]
        self.scopes = contextlib.ExitStack()
        for limits in scopes:
            self.pools.append(self.scopes.enter_context(self.pools[-1].scope(**limits)))
        self.program = Program()
        if share is not None and (samples or 99) * share >= 1 and samples and samples * share >= 1:
            with contextlib.suppress(ValueError):  # a share of next to nothing is refused
                self.pool.reserve_for(self.program, share)
        self.open_arms: set[Arm] = set()
        self.running: dict[Lease, list] = {}
        self.opened = 0

    @rule(target=arms, room=st.integers(1, 8), which=st.integers(0, 2), shared=st.booleans())
    def open(self, room, which, shared):
        pool = self.pools[which % len(self.pools)]
        arm = open_call(pool, room, program=self.program if shared else None)
        if arm is None:
            return multiple()
        # The fair floor: whoever is let in has its first sample, whatever others do.
        assert arm.waiting >= 1
        self.open_arms.add(arm)
        self.opened += 1
        return arm

    @rule(target=arms, outer=leases, room=st.integers(1, 3), which=st.integers(0, 2))
    def open_nested(self, outer, room, which):
        if outer not in self.running:
            return multiple()
        arm = open_call(self.pools[which % len(self.pools)], room, outer=outer)
        if arm is None:
            return multiple()
        self.open_arms.add(arm)
        return arm

    @rule(target=leases, arm=arms)
    def start_sample(self, arm):
        if not arm.waiting:
            return multiple()
        lease = arm.take()
        if not lease.start():
            assert lease.payer.is_halted
            return multiple()
        self.running[lease] = []
        return lease

    @rule(arm=arms)
    def take_and_be_cancelled(self, arm):
        if arm.waiting:
            lease = arm.take()
            arm.close()
            self.open_arms.discard(arm)
            assert not lease.start()

    @rule(lease=leases, tokens=st.integers(0, 100), price=st.integers(0, 300))
    def call_model(self, lease, tokens, price):
        if lease in self.running:
            bound = Cost(requests=1, prompt_tokens=tokens, completion_tokens=tokens, nanodollars=price)
            charge = lease.charge(bound)
            if charge is None:
                ledgers = (node.accounts.ledger for node in lease.payer.chain)
                assert any(limit is not None for ledger in ledgers for limit in ledger.limits.values())
            else:
                self.running[lease].append(charge)

    @rule(lease=leases, share=st.floats(0, 1))
    def answer_call(self, lease, share):
        if self.running.get(lease):
            charge = self.running[lease].pop()
            most = charge.bound
            used = Cost(
                requests=1, completion_tokens=int(most.tokens * share), nanodollars=int(most.nanodollars * share)
            )
            lease.answered(charge, used)
            lease.answered(charge, used)  # twice changes nothing

    @rule(lease=consumes(leases), failed=st.booleans())
    def finish_sample(self, lease, failed):
        self.running.pop(lease, None)
        lease.settle(ValueError() if failed else None)
        assert lease.settle() == Cost()  # twice changes nothing

    @rule(arm=arms, tally=tallies, room=st.integers(0, 5))
    def request(self, arm, tally, room):
        if arm in self.open_arms:
            granted = arm.request(tally, ["independent"] * room)
            assert granted <= room

    @rule(arm=arms)
    def close(self, arm):
        # Also twice, and also with samples in flight: a cancelled call.
        arm.close()
        self.open_arms.discard(arm)

    @rule(act=st.sampled_from(["pause", "stop", "resume", "resume"]), which=st.integers(0, 2))
    def switch(self, act, which):
        getattr(self.pools[which % len(self.pools)], act)()

    @rule()
    def look(self):
        for pool in self.pools:
            assert "BudgetPool(" in repr(pool)

    @invariant()
    def never_over(self):
        for pool in getattr(self, "pools", ()):
            for unit, limit in pool.admission.accounts.ledger.limits.items():
                if limit is not None:
                    assert pool.admission.accounts.ledger.booked(unit) <= limit

    @invariant()
    def what_a_scope_spends_its_pool_spends(self):
        for pool in getattr(self, "pools", ())[1:]:
            own, around = (node.accounts.ledger for node in pool.admission.chain[:2])
            for inner, outer in ((own.spent, around.spent), (own.reserved, around.reserved)):
                assert inner.at_least(outer) == outer

    @invariant()
    def open_calls_are_counted(self):
        if hasattr(self, "pool"):
            assert self.pool.statistics().open_calls == len(self.open_arms)

    @invariant()
    def per_call_is_met_on_average(self):
        if hasattr(self, "pool") and self.pool.settings.per_call is not None:
            now = self.pool.statistics()
            # Each call is due its average; a nested one, whose enclosing call answers for it, only its first sample.
            due = self.pool.settings.per_call * self.opened + now.closed_calls + now.open_calls
            assert now.spent.samples + now.reserved.samples <= due

    def teardown(self):
        if not hasattr(self, "pool"):
            return
        for lease in self.running:
            lease.settle()
        for arm in self.open_arms:
            arm.close()
        self.scopes.close()
        for pool in self.pools:
            now = pool.statistics()
            assert now.reserved == Cost()
            assert now.open_calls == 0
        self.pool.store.close()
        self.folder.cleanup()


class Program:
    """Something to be known by."""


# Longer than others where many more examples are asked for.
TestPool = pytest.mark.timeout(1800)(PoolMachine.TestCase)
TestPool.settings = settings(stateful_step_count=30)


@pytest.mark.parametrize("threads", [1, 8, 32])
def test_threads_cannot_overspend_or_leak(threads):
    pool = BudgetPool(samples=300, requests=500, policy=Uniform())
    seen_over = []

    def work(seed: int) -> None:
        random_ = random.Random(seed)
        for _ in range(40):
            arm = open_call(pool, 4)
            if arm is None:
                continue
            while arm.waiting:
                lease = arm.take()
                lease.start()
                for _ in range(random_.randint(0, 4)):
                    lease.charge()
                interrupted = random_.random() < 0.1
                now = pool.statistics()
                if now.spent.samples + now.reserved.samples > 300 or now.spent.requests + now.reserved.requests > 500:
                    seen_over.append(now)
                lease.settle()
                if interrupted:
                    break
                arm.request(Tally.of("AB"), ["conditioned"] * 2)
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
    lease = arm.take()
    assert lease.start()
    lease.charge()
    lease.settle()


def test_early_calls_cannot_drain_a_pool_that_knows_how_many_come():
    pool = BudgetPool(samples=100).expect(50)
    served = []
    for _ in range(50):
        arm = open_call(pool, 64)
        assert arm is not None, "an expected call found the pool empty"
        drawn = 0
        while arm.waiting:
            draw_one(arm)
            drawn += 1
            arm.request(Tally.of("ABCD" * drawn), ["conditioned"] * 64)  # everyone is contested, everyone wants more
        arm.close()
        served.append(drawn)
    assert sum(served) <= 100
    assert max(served[:5]) < 20


@given(
    calls=st.integers(2, 8),
    bound=st.integers(300, 900),
    cost=st.integers(100, 200),
    grows=st.integers(0, 120),
    spare=st.integers(0, 3000),
    at_once=st.integers(1, 8),
    data=st.data(),
)
def test_every_announced_call_finds_its_first_sample_however_dear_those_that_see_earlier_ones(
    calls, bound, cost, grows, spare, at_once, data
):
    """What a sample costs and may cost at most grows with what it is shown; the cap lets all calls begin."""
    pool = BudgetPool(tokens=(calls - 1) * cost + bound + spare, policy=KnowledgeGradient()).expect(calls)
    program, coming, running = Program(), calls, []
    while coming or running:
        if coming and len(running) < at_once:
            arm = open_or_wait(pool, 64, program=program)
            if isinstance(arm, Arm):
                coming -= 1
                running.append((arm, []))
                continue
            assert arm is not None and running, "an announced call found the pool empty"
        # One of the calls under way goes on: it begins a sample, or its oldest finishes.
        arm, flying = data.draw(st.sampled_from(running))
        if arm.waiting and (not flying or data.draw(st.booleans())):
            lease = arm.take()
            assert lease.start()
            more = grows * lease.index
            charge = lease.charge(Cost(requests=1, prompt_tokens=bound + more))
            if charge is None:
                lease.settle(BudgetExhausted(""))
            else:
                flying.append((lease, charge, Cost(requests=1, prompt_tokens=cost + more // 4)))
        elif flying:
            lease, charge, used = flying.pop(0)
            lease.answered(charge, used)
            lease.settle()
        if not flying and not arm.waiting and not arm.request(Tally.of("AB"), ["conditioned"] * 4):
            arm.close()
            running.remove((arm, flying))


def test_a_private_pool_lets_hard_calls_use_what_easy_ones_left():
    pool = BudgetPool(per_call=4)
    for _ in range(10):
        arm = open_call(pool, 64)
        draw_one(arm)
        arm.close()  # easy: one sample
    arm = open_call(pool, 64)
    draw_one(arm)
    while arm.waiting or arm.request(Tally.of("AB"), ["conditioned"] * 1):
        draw_one(arm)
    arm.close()
    assert max(pool.statistics().samples_per_call) > 4
    assert pool.statistics().spent.samples <= 4 * 11


def test_uniform_gives_every_call_its_share_at_once():
    pool = BudgetPool(per_call=5, policy=Uniform())
    for _ in range(7):
        arm = open_call(pool, 64)
        assert arm.waiting == 5
        while arm.waiting:
            draw_one(arm)
        assert arm.request(Tally.of("AB"), ["conditioned"] * 64) == 0
        arm.close()


def test_the_price_moves_until_spending_meets_the_allowance():
    pool = BudgetPool(per_call=4)
    random_ = random.Random(1)
    for _ in range(400):
        arm = open_call(pool, 64)
        answers = []
        p = random_.choice([0.95, 0.5])
        while arm.waiting:
            draw_one(arm)
            answers.append("A" if random_.random() < p else random_.choice("BCD"))
            if not arm.waiting:
                arm.request(Tally.of(answers), ["conditioned"] * (64 - len(answers)))
        arm.close()
    now = pool.statistics()
    assert 0.9 * 4 * 400 <= now.spent.samples <= 4 * 400


def test_a_call_that_finds_nothing_is_not_opened():
    pool = BudgetPool(samples=1)
    first = open_call(pool, 4)
    assert open_call(pool, 4) is None
    draw_one(first)
    first.close()
    assert open_call(pool, 4) is None
    assert pool.statistics().open_calls == 0


def test_an_unstarted_sample_of_a_closed_call_never_starts():
    pool = BudgetPool(samples=4, policy=Uniform(), per_call=4)
    arm = open_call(pool, 4)
    lease = arm.take()
    arm.close()
    assert pool.statistics().reserved == Cost()
    assert not lease.start()


def test_a_nested_call_is_charged_once_at_the_leaf():
    pool = BudgetPool(samples=3)
    outer = open_call(pool, 1)
    sample = outer.take()
    sample.start()
    inner = open_call(pool, 1, outer=sample)
    draw_one(inner)
    inner.close()
    cost = sample.settle()
    outer.close()
    assert pool.statistics().spent.samples == 1
    assert cost.samples == 1  # and it is seen from outside


def test_a_nested_call_can_use_its_enclosing_samples_own_reservation():
    pool = BudgetPool(samples=1)
    outer = open_call(pool, 1)
    sample = outer.take()
    sample.start()
    inner = open_call(pool, 1, outer=sample)
    assert inner is not None
    draw_one(inner)
    inner.close()
    sample.settle()
    outer.close()
    assert pool.statistics().spent == Cost(samples=1, requests=1)


def test_a_known_set_needs_a_sample_for_each_call():
    pool = BudgetPool(samples=9)
    with pytest.raises(BudgetExhausted, match="9 samples are left, which cannot give each of the 10 calls one"):
        pool.admission.open_known(10)
    assert pool.statistics().reserved == Cost()
    assert pool.statistics().open_calls == 0


def test_copies_spend_from_the_same_pool_and_a_saved_one_starts_anew():
    pool = BudgetPool(samples=5, requests=9, policy=UCB(exploration=0.5), seed=3)
    assert copy.deepcopy(pool) is pool
    assert copy.copy(pool) is pool
    draw_one(open_call(pool, 1))
    loaded = pickle.loads(pickle.dumps(pool))
    assert loaded is not pool
    assert loaded.statistics().limits == pool.statistics().limits
    assert loaded.policy == pool.policy
    assert loaded.statistics().spent == Cost()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "a pool needs a limit: give samples=, requests= or per_call="),
        ({"samples": 0}, ValueError, "samples must be at least 1, got 0"),
        ({"samples": -5}, ValueError, "samples must be at least 1, got -5"),
        ({"samples": 1.5}, TypeError, "samples must be an integer, got 1.5"),
        ({"samples": True}, TypeError, "samples must be an integer, got True"),
        ({"requests": 0}, ValueError, "requests must be at least 1, got 0"),
        ({"per_call": 0.5}, ValueError, "per_call must be a finite number of at least 1, got 0.5"),
        ({"per_call": float("nan")}, ValueError, "per_call must be a finite number"),
        ({"per_call": "8"}, TypeError, "per_call must be a number of samples, got '8'"),
        ({"samples": 5, "policy": "ucb"}, TypeError, "policy must be a Policy"),
        ({"samples": 5, "on_empty": "ignore"}, ValueError, "on_empty must be 'raise' or 'run_once', got 'ignore'"),
        ({"tokens": 0}, ValueError, "tokens must be at least 1, got 0"),
        ({"tokens": 2**62}, ValueError, "tokens must be below 2"),
        ({"dollars": 0}, ValueError, "dollars must be at least 0.000000001"),
        ({"dollars": float("nan")}, ValueError, "dollars must be a finite number, got nan"),
        ({"dollars": float("inf")}, ValueError, "dollars must be a finite number, got inf"),
        ({"dollars": "5"}, TypeError, "dollars must be a number, got '5'"),
        ({"deadline": 0}, ValueError, "deadline must be a positive, finite number of seconds, got 0"),
        ({"deadline": "1s"}, TypeError, "deadline must be a number of seconds, got '1s'"),
        ({"samples": 5, "min_per_call": 0}, ValueError, "min_per_call must be at least 1, got 0"),
        (
            {"samples": 5, "min_per_call": 3, "max_per_call": 2},
            ValueError,
            "at least min_per_call=3, got 2",
        ),
        ({"samples": 5, "strict": 1}, TypeError, "strict must be True or False, got 1"),
        ({"samples": 5, "prices": {"a": 3}}, TypeError, "prices must map model names to Price"),
        ({"samples": 5, "prices": 3}, TypeError, "prices must map model names to Price"),
        (
            {"samples": 5, "period": "week"},
            ValueError,
            "period must be 'hour', 'day' or a number of seconds",
        ),
        ({"samples": 5, "period": -1}, ValueError, "period must be a positive, finite number of seconds"),
        ({"samples": 5, "warn_at": 1.5}, ValueError, "warn_at must be between 0 and 1, got 1.5"),
        ({"samples": 5, "warn_at": "x"}, TypeError, "warn_at must be a number between 0 and 1, got 'x'"),
        ({"samples": 5, "on_warning": print}, ValueError, "on_warning needs warn_at="),
        ({"samples": 5, "warn_at": 0.5, "on_warning": 3}, TypeError, "on_warning must be callable, got 3"),
        ({"samples": 5, "clock": 3}, TypeError, "clock must be callable, got 3"),
        ({"samples": 5, "max_failures": 0}, ValueError, "max_failures must be at least 1, got 0"),
        ({"samples": 5, "store": 3}, TypeError, "store must be a store, with the methods of .*, got 3"),
        ({"samples": 5, "store": MemoryStore}, TypeError, "store must be a store, with the methods of"),
        (
            {"samples": 5, "store": MemoryStore(), "path": "budget.sqlite"},
            ValueError,
            "path= and store= both say where to keep the budget: give one of them",
        ),
        *(
            (
                {"samples": 5, "path": path},
                ValueError,
                "path must be the path of a file that processes can share, .*got",
            )
            for path in (
                *(":memory:", ":MEMORY:", Path(":memory:"), "file::memory:", "file:b?mode=memory&cache=shared"),
                *("file:///tmp/b.sqlite", "sqlite:///b.sqlite", Path("sqlite:///b"), "https://host/b.sqlite"),
            )
        ),
        ({"samples": 5, "path": ""}, ValueError, "path must be the path of a file, got ''"),
        ({"samples": 5, "path": 3}, TypeError, "path must be a file's path, text or a pathlib.Path, got 3"),
        ({"samples": 5, "seed": None}, TypeError, "seed must be an integer, got None"),
    ],
)
def test_bad_limits(arguments, error, message):
    with pytest.raises(error, match=message):
        BudgetPool(**arguments)


def test_a_budget_is_kept_in_a_store_of_the_users():
    class Elsewhere(MemoryStore):
        is_durable = True

    store = Elsewhere()
    pool, other = (BudgetPool(samples=3, store=store) for _ in range(2))
    assert pool.store is store and pool.is_durable
    draw_one(open_call(pool, 1))
    with other.scope(samples=5) as scope:
        draw_one(open_call(scope, 1))
        assert scope.is_durable and scope.store is not store
    assert store.totals() == (Cost(samples=2, requests=2), Cost())
    assert pool.statistics().spent == other.statistics().spent == Cost(samples=2, requests=2)
    waiting = open_call(other, 1)
    assert waiting is not None
    assert open_call(pool, 1) is None
    waiting.close()


def test_expecting_more_calls_than_samples():
    with pytest.raises(ValueError, match="5 samples are left, which cannot give each of the 6 expected calls one"):
        BudgetPool(samples=5).expect(6)
    with pytest.raises(ValueError, match="calls must be at least 1, got 0"):
        BudgetPool(samples=5).expect(0)


def test_statistics_are_a_snapshot():
    pool = BudgetPool(samples=5)
    before = pool.statistics()
    draw_one(open_call(pool, 1))
    assert before.spent.samples == 0
    with pytest.raises(TypeError):
        before.limits["samples"] = 7  # type: ignore[index]


# ---- scopes


def test_scopes_charge_every_pool_around_and_end_at_the_tightest():
    pool = BudgetPool(samples=10)
    with pool.scope(samples=6) as stage:
        with pool.scope(samples=2) as step:
            assert pool.active() is stage.active() is step.active() is step
            draw_one(open_call(step, 1))
            draw_one(open_call(step, 1))
            assert open_call(step, 1) is None
        assert pool.active() is stage
        for _ in range(4):
            draw_one(open_call(stage, 1))
        assert open_call(stage, 1) is None
        assert stage.available("samples") == 0 and pool.available("samples") == 4
    assert pool.active() is pool
    assert (step.statistics().spent, stage.statistics().spent) == (
        Cost(samples=2, requests=2),
        Cost(samples=6, requests=6),
    )
    assert pool.statistics().spent == Cost(samples=6, requests=6)
    assert pool.statistics().open_calls == 6


def test_a_scope_larger_than_its_pool_ends_with_the_pool():
    pool = BudgetPool(samples=2)
    with pool.scope(samples=100) as scope:
        draw_one(open_call(scope, 1))
        draw_one(open_call(scope, 1))
        assert open_call(scope, 1) is None
        assert scope.available("samples") == 0


def test_scopes_of_two_pools_do_not_mix():
    one, other = BudgetPool(samples=5), BudgetPool(samples=5)
    with one.scope(samples=1) as inside, other.scope(samples=2) as outside:
        assert one.active() is inside and other.active() is outside
        draw_one(open_call(one.active(), 1))
        assert other.statistics().spent == Cost()


def test_a_scope_without_a_pace_of_its_own_keeps_its_pools():
    pool = BudgetPool(samples=100).expect(50)
    for _ in range(50):
        with pool.scope(samples=20) as scope:
            arm = open_call(scope, 64)
            assert arm is not None, "an expected call found the pool empty"
            drawn = 0
            while arm.waiting:
                draw_one(arm)
                drawn += 1
                arm.request(Tally.of("ABCD" * drawn), ["conditioned"] * 64)
            arm.close()
    assert pool.statistics().spent.samples <= 100


def test_a_nested_call_in_a_scope_of_its_own_is_charged_once():
    pool = BudgetPool(samples=3)
    outer = open_call(pool, 1)
    sample = outer.take()
    sample.start()
    with pool.scope(samples=1) as scope:
        inner = open_call(scope, 1, outer=sample)
        draw_one(inner)
        inner.close()
        assert open_call(scope, 1, outer=sample) is None
    sample.settle()
    outer.close()
    assert pool.statistics().spent == Cost(samples=1, requests=1)
    assert pool.statistics().reserved == Cost()


# ---- limits that users expect


def test_a_share_leaves_the_rest_to_others():
    greedy, other = Program(), Program()
    pool = BudgetPool(samples=10).reserve_for(greedy, 0.3)
    for _ in range(3):
        draw_one(open_call(pool, 1, program=greedy))
    assert open_call(pool, 1, program=greedy) is None
    for _ in range(7):
        draw_one(open_call(pool, 1, program=other))
    assert pool.statistics().spent.samples == 10


@pytest.mark.parametrize(
    ("pool", "fraction", "error", "message"),
    [
        ({"samples": 10}, 0, ValueError, "fraction must be above 0 and at most 1, got 0"),
        ({"samples": 10}, 1.5, ValueError, "fraction must be above 0 and at most 1, got 1.5"),
        ({"samples": 10}, "half", TypeError, "fraction must be a number, got 'half'"),
        ({"samples": 10}, 0.01, ValueError, "fraction=0.01 of the caps is less than one"),
        ({"per_call": 10}, 0.5, ValueError, "this pool has no cap to share"),
    ],
)
def test_bad_shares(pool, fraction, error, message):
    with pytest.raises(error, match=message):
        BudgetPool(**pool).reserve_for(Program(), fraction)


def test_every_call_draws_its_minimum_and_none_more_than_its_maximum():
    pool = BudgetPool(samples=100, min_per_call=3, max_per_call=5)
    arm = open_call(pool, 64)
    assert arm.waiting >= 3
    assert pool.admission.most_per_call == 5
    with pool.scope(samples=50, max_per_call=2) as scope:
        assert scope.admission.most_per_call == 2


def test_a_deadline_ends_spending_at_once():
    now = [1000.0]
    pool = BudgetPool(samples=10, deadline=60, clock=lambda: now[0])
    arm = open_call(pool, 1)
    lease = arm.take()
    assert lease.start()
    assert lease.charge()
    waiting = open_call(pool, 1).take()
    now[0] += 59
    assert pool.statistics().seconds_left == 1
    assert lease.charge()
    now[0] += 1
    assert not lease.charge()
    assert not waiting.start()
    assert open_call(pool, 1) is None
    with pytest.raises(BudgetExhausted, match="the deadline of the pool has passed"):
        raise pool.admission.exhausted()
    with pool.scope(samples=3) as scope:
        assert open_call(scope, 1) is None


def test_a_scopes_deadline_is_its_own():
    now = [0.0]
    pool = BudgetPool(samples=10, clock=lambda: now[0])
    with pool.scope(deadline=5) as scope:
        now[0] = 6
        assert open_call(scope, 1) is None
        assert open_call(pool, 1) is not None


def test_paused_stopped_and_resumed():
    pool = BudgetPool(samples=10)
    lease = open_call(pool, 1).take()
    pool.pause()
    assert not lease.start()
    waiting = open_or_wait(pool, 1)
    assert isinstance(waiting, Future) and not waiting.done()
    assert pool.statistics().state == "paused"
    pool.resume()
    assert waiting.done()
    assert lease.start() and lease.charge()
    pool.stop()
    assert lease.charge()  # what is under way finishes
    assert open_or_wait(pool, 1) is None
    with pytest.raises(BudgetExhausted, match="the pool was stopped"):
        raise pool.admission.exhausted()
    pool.pause()  # a stopped pool stays stopped
    assert pool.statistics().state == "stopped"
    with pool.scope(samples=2) as scope:
        assert open_call(scope, 1) is None


def test_caps_begin_anew_with_each_period():
    now = [86400.0 * 100 + 5]
    pool = BudgetPool(samples=2, period="day", clock=lambda: now[0])
    draw_one(open_call(pool, 1))
    running = open_call(pool, 1).take()
    running.start()
    assert open_call(pool, 1) is None
    now[0] += 86400
    assert pool.statistics().spent == Cost()
    assert pool.statistics().reserved.samples == 1  # what was in flight counts in the new period
    draw_one(open_call(pool, 1))
    assert open_call(pool, 1) is None
    running.settle()
    now[0] += 3600
    assert open_call(pool, 1) is None


@settings(max_examples=40, deadline=None)
@given(
    in_a_file=st.booleans(),
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 40]), st.sampled_from([-20, 0, 20])),
        min_size=5,
        max_size=40,
    ),
)
def test_no_period_has_more_than_its_cap_however_the_clocks_step(in_a_file, steps):
    """Clocks go forth and step back over the border; in a file each of three pools has a clock of its own."""
    true, shown = 3600.0 * 1000 - 30, [0.0] * 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "budget.sqlite" if in_a_file else None
        shown[:] = [true] * 3
        pools = [
            BudgetPool(samples=3, period="hour", clock=lambda i=i: shown[i], path=path)
            for i in range(3 if in_a_file else 1)
        ]
        seen, drawn = {int(true // 3600)}, 0
        for number, passes, off in steps:
            pool = pools[number % len(pools)]
            true += passes
            shown[number % len(pools)] = true + off
            seen.add(int((true + off) // 3600))
            while (arm := open_call(pool, 1)) is not None:
                draw_one(arm)
                arm.close()
                drawn += 1
        assert drawn <= 3 * len(seen)
        assert all(pool.statistics().reserved == Cost() for pool in pools)


def test_a_warning_comes_once_for_each_cap():
    warnings = []
    pool = BudgetPool(samples=10, requests=1000, warn_at=0.5, on_warning=warnings.append)
    for _ in range(8):
        draw_one(open_call(pool, 1))
    assert [str(warning) for warning in warnings] == ["5 of 10 samples are spent"]
    assert warnings[0].pool is pool


def test_a_warning_that_fails_or_asks_the_pool_does_no_harm(caplog):
    def careless(warning):
        assert warning.pool.statistics().spent.samples == 1  # outside the lock
        raise KeyError("secret prompt")

    pool = BudgetPool(samples=2, warn_at=0.5, on_warning=careless)
    with caplog.at_level(logging.ERROR, "dynscale_dspy"):
        draw_one(open_call(pool, 1))
    assert "KeyError" in caplog.text and "secret" not in caplog.text
    assert pool.statistics().spent.samples == 1


def test_a_pool_whose_samples_all_fail_stops_itself():
    pool = BudgetPool(samples=100, max_failures=3)
    cause = ConnectionError("secret: no route to host")
    for number in range(5):
        lease = open_call(pool, 1).take()
        lease.start()
        lease.settle(cause if number != 1 else None)
    assert pool.statistics().state == "stopped"
    assert open_call(pool, 1) is None
    error = pool.admission.exhausted()
    assert error.__cause__ is cause
    assert "3 samples in a row failed, the last with ConnectionError" in str(error)
    assert "secret" not in str(error) + repr(pool)
    pool.resume()
    assert open_call(pool, 1) is not None


def test_a_first_sample_waits_for_what_others_hold_but_never_inside_another():
    pool, program = BudgetPool(tokens=100), Program()
    first = open_call(pool, 1, program=program)
    lease = first.take()
    lease.start()
    charge = lease.charge(Cost(requests=1, prompt_tokens=90))
    waiting = open_or_wait(pool, 1, program=program)
    assert isinstance(waiting, Future) and not waiting.done()
    assert open_or_wait(pool, 1, program=program, outer=lease) is not None
    lease.answered(charge, Cost(requests=1, prompt_tokens=5))
    lease.settle()
    assert waiting.done()
    assert isinstance(open_or_wait(pool, 1, program=program), Arm)


def test_two_pools_of_an_optimizers_copies_are_one_and_dollars_survive_exactly():
    pool = BudgetPool(dollars=0.1, tokens=7, strict=True, min_per_call=2, period="hour", warn_at=0.5)
    loaded = pickle.loads(pickle.dumps(pool))
    assert loaded.statistics().limits == pool.statistics().limits
    assert loaded.admission.accounts.ledger.limits["nanodollars"] == 100_000_000
    assert (loaded.strict, loaded.min_per_call, loaded.settings.period_seconds) == (True, 2, 3600)


@pytest.mark.parametrize("depth", [1, 30, 1500])
def test_scopes_nest_to_any_depth(depth):
    pool = BudgetPool(samples=9, per_call=1, tokens=1000).expect(5)
    with contextlib.ExitStack() as stack:
        for _ in range(depth):
            innermost = stack.enter_context(pool.scope(samples=5))
        assert innermost.available("samples") == 5 and pool.active() is innermost
        arm = open_call(innermost)
        assert pool.statistics().open_calls == 1 and pool.statistics().reserved.samples == 1
        draw_one(arm)
        arm.close()
        assert innermost.available("samples") == 4 and innermost.statistics().spent.samples == 1
    assert pool.statistics().spent.samples == 1
    assert pool.statistics().reserved == Cost() and pool.statistics().open_calls == 0


# ---- other processes

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
ANOTHER = "a BudgetPool in memory is used in another process: .* per process, .*path= .* publish\\(\\) it on Ray"


def ask(pool, question="q"):
    """A call of a program that needs no language model."""
    return DynScaling(Constant(), pool, max_samples=1)(question=question)


class Constant(dspy.Module):
    def forward(self, question):
        return dspy.Prediction(answer="42")


@forks
@pytest.mark.parametrize("durable", [False, True])
def test_what_is_under_way_in_the_parent_is_not_in_a_forked_child(durable, tmp_path):
    """Nobody waits, no call is open, no lock is held, and the same question is a new one; the parent goes on."""
    path = tmp_path / "budget.sqlite" if durable else None
    pool = BudgetPool(samples=9, per_call=3, max_concurrency=1, path=path)
    with pool.scope(samples=5) as scope:
        arm = open_call(scope)
        assert arm is not None
        lease = arm.take()
        assert lease.start()
        future, mine = scope.flights.join("same")
        waiting = pool.admission.change()
        throttle = pool.admission.throttle
        assert mine and throttle is not None
        held, ended = threading.Event(), threading.Event()
        request = threading.Thread(target=throttle.run, args=(lambda: (held.set(), ended.wait(30)),))
        request.start()
        assert held.wait(10)

        def child():
            now = scope.statistics()
            assert scope.flights.join("same")[1] and not pool.admission.change().done()
            assert (now.open_calls, pool.statistics().open_calls) == (0, 0)
            assert now.reserved == Cost()
            assert pool.statistics().reserved.samples == (1 if durable else 0)  # the file's
            assert pool.admission.throttle.run(lambda: "through") == "through"
            lease.settle()  # the parent's, as its call is: nothing is settled or closed here
            arm.close()
            assert pool.statistics().reserved.samples == (1 if durable else 0)
            assert pool.statistics().spent == Cost()
            assert scope.statistics().open_calls == pool.statistics().open_calls == 0
            assert ask(pool).answer == "42"
            assert pool.statistics().closed_calls == 1 and pool.parts()[0].name == "scope"
            return True

        assert forked(child) == 1
        assert not future.done() and not scope.flights.join("same")[1]
        assert scope.statistics().open_calls == 1 and scope.statistics().reserved.samples > 0
        ended.set()
        request.join(10)
        lease.settle()
        arm.close()
        assert waiting.result(10) is None
    assert pool.statistics().open_calls == 0 and pool.statistics().reserved == Cost()
    assert pool.statistics().spent.samples == (2 if durable else 1)


@forks
@pytest.mark.parametrize("durable", [False, True])
def test_a_child_forked_at_any_moment_answers(durable, tmp_path):
    """Calls of the parent begin and end in threads all the while."""
    pool = BudgetPool(
        per_call=2, samples=10**6, max_concurrency=2, path=tmp_path / "budget.sqlite" if durable else None
    )
    ended = threading.Event()

    def work(number):
        with pool:
            i = 0
            while not ended.is_set():
                with pool.scope(samples=5):
                    ask(pool, f"{number} {i % 3}")
                i += 1

    threads = [threading.Thread(target=work, args=(number // 2,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        for i in range(12):

            def child(i=i):
                assert not pool.statistics().open_calls and not pool.parts()
                for number in range(2):
                    assert ask(pool, f"{number} {i % 3}").answer == "42"
                    assert asyncio.run(DynScaling(Constant(), pool, max_samples=1).acall(question="q")).answer == "42"
                return not pool.statistics().open_calls

            assert forked(child) == 1
    finally:
        ended.set()
        for thread in threads:
            thread.join(30)
    assert pool.statistics().open_calls == 0 and pool.statistics().reserved == Cost()


@forks
def test_a_pool_in_memory_says_once_in_a_forked_child_that_its_caps_are_per_process():
    pool = BudgetPool(samples=9, per_call=1)

    def said(pool):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for question in "abc":
                with pool.scope(requests=5):
                    ask(pool, question)
        return len([one for one in caught if re.match(ANOTHER, str(one.message)) and one.category is UserWarning])

    assert said(pool) == 0
    assert forked(lambda: said(pool)) == 1
    assert forked(lambda: forked(lambda: said(pool)) * 10 + said(pool)) == 11
    assert said(pool) == 0


@forks
@pytest.mark.parametrize("where", ["path", "store", "uncapped"])
def test_a_pool_that_processes_share_or_that_has_no_cap_says_nothing(where, tmp_path):
    options = {
        "path": {"samples": 9, "path": tmp_path / "budget.sqlite"},
        "store": {"samples": 9, "store": SQLiteStore(tmp_path / "budget.sqlite")},
        "uncapped": {"per_call": 2},
    }
    pool = BudgetPool(**options[where])

    def child():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ask(pool)
            if where != "store":
                pickle.dumps(pool)
        return True

    assert forked(child) == 1


@forks
def test_a_warning_that_is_an_error_costs_nothing():
    pool = BudgetPool(samples=9)

    def child():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UserWarning, match=ANOTHER):
                ask(pool)
            assert pool.statistics().reserved == Cost() and not pool.statistics().open_calls
            return ask(pool).answer == "42"

    assert forked(child) == 1


def test_a_pickled_pool_in_memory_says_so_here_and_where_it_is_loaded():
    pool = BudgetPool(samples=9)
    with pytest.warns(UserWarning, match="a BudgetPool in memory is pickled: .* per process") as caught:
        sent = [pickle.dumps(pool) for _ in range(3)]
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(pickle.loads(sent[0]))  # in the same process: a pool made anew, and it was said already
    code = "import sys, pickle; from tests.budget.test_pool import ask; pool = pickle.load(sys.stdin.buffer)\n"
    run = subprocess.run(
        [sys.executable, "-c", code + "print('loaded', file=sys.stderr); ask(pool, 'a'); ask(pool, 'b')"],
        input=sent[0],
        capture_output=True,
        timeout=60,
        check=True,
    )
    before, after = run.stderr.decode().split("loaded", 1)
    assert not re.search(ANOTHER, before) and len(re.findall(ANOTHER, after)) == 1

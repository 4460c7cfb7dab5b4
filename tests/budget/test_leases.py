from __future__ import annotations

import sys
import threading
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import BudgetPool, Cost, Uniform
from dynscale_dspy.budget.alerts import CapPassed
from dynscale_dspy.budget.leases import Lease
from dynscale_dspy.budget.stores.memory import MemoryStore
from tests.support import Known, open_call, opened


def started(pool: BudgetPool, **options) -> Lease:
    lease = opened(pool, **options).take()
    assert lease.start()
    return lease


def test_a_lease_is_charged_request_by_request_and_settled_at_what_was_used():
    pool = BudgetPool(samples=3, tokens=100)
    lease = started(pool)
    charge = lease.charge(Cost(requests=1, prompt_tokens=30))
    assert charge is not None
    assert pool.statistics().reserved == Cost(samples=1, requests=1, prompt_tokens=30)
    lease.answered(charge, Cost(requests=1, prompt_tokens=10, completion_tokens=5))
    assert lease.settle() == Cost(samples=1, requests=1, prompt_tokens=10, completion_tokens=5)
    now = pool.statistics()
    assert (now.spent.tokens, now.reserved) == (15, Cost())


def test_a_request_without_an_outcome_is_charged_at_its_bound():
    pool = BudgetPool(samples=3, tokens=100)
    lease = started(pool)
    assert lease.charge(Cost(requests=1, prompt_tokens=30)) is not None
    assert lease.settle(ConnectionError()) == Cost(samples=1, requests=1, prompt_tokens=30)


def test_a_request_that_does_not_fit_is_refused_and_its_sample_teaches_nothing_of_what_one_needs():
    pool, program = BudgetPool(tokens=100), Known()
    lease = started(pool, program=program)
    assert lease.charge(Cost(requests=1, prompt_tokens=101)) is None
    assert lease.charge(Cost(requests=1, prompt_tokens=99)) is not None
    lease.settle()
    assert not lease.arm.is_measured
    assert pool.admission.program(program).learned.need is None


def test_beyond_a_bound_that_nobody_knew_is_paid_for_and_said_so_in_the_books():
    pool = BudgetPool(samples=3, tokens=100)
    lease = started(pool)
    charge = lease.charge(Cost(requests=1, prompt_tokens=10))
    assert charge is not None
    lease.answered(charge, Cost(requests=1, completion_tokens=150))
    lease.settle()
    assert pool.statistics().spent.tokens == 150
    assert pool.available("tokens") == 0


def test_what_is_used_beyond_any_bound_is_seen_by_the_next_reservation_at_once():
    pool = BudgetPool(samples=9, tokens=100)
    with pool.scope(samples=9) as scope:
        lease = started(scope)
        charge = lease.charge(Cost(requests=1, prompt_tokens=10))
        assert charge is not None
        lease.answered(charge, Cost(requests=1, completion_tokens=150))
        assert pool.statistics().reserved.tokens == scope.statistics().reserved.tokens == 150
        assert lease.charge(Cost(requests=1, prompt_tokens=1)) is None
        assert pool.available("tokens") == 0
        with pytest.warns(CapPassed, match="a cap of 100 tokens is passed by 50"):
            lease.settle()


def test_a_cap_that_is_passed_is_said_outside_the_lock():
    pool, seen = BudgetPool(dollars=0.01), []
    lease = started(pool)
    charge = lease.charge(Cost(requests=1))
    assert charge is not None
    lease.answered(charge, Cost(requests=1, nanodollars=30_000_000))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: seen.append((str(message), pool.statistics().spent.dollars))
        lease.settle()
    ((said, spent),) = seen
    assert said.startswith("a cap of 0.01 dollars is passed by 0.02")
    assert spent == 0.03


USED = st.builds(
    Cost,
    requests=st.integers(0, 9),
    prompt_tokens=st.integers(0, 10**7),
    completion_tokens=st.integers(0, 10**7),
    nanodollars=st.integers(0, 10**13),
)


@given(
    st.lists(st.tuples(USED, USED), max_size=4),
    st.fixed_dictionaries({}, optional={"tokens": st.integers(1, 10**6), "dollars": st.floats(0.001, 10)}),
    st.sampled_from(["settle", "close"]),
)
def test_whatever_a_provider_says_was_used_is_booked(requests, caps, end):
    pool, owed = BudgetPool(samples=5, **caps), Cost()
    arm = opened(pool)
    lease = arm.take()
    if end == "settle":
        assert lease.start()
    for bound, used in requests:
        charge = lease.charge(bound)
        if charge is not None:
            lease.answered(charge, used)
            owed += used
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CapPassed)
        if end == "settle":
            lease.settle()
            owed += Cost(samples=1)
        arm.close()
    state = pool.statistics()
    assert (state.spent, state.reserved, state.open_calls) == (owed, Cost(), 0)
    for unit in caps:
        assert pool.available(unit) >= 0
        passed = getattr(owed, unit) > state.limits[unit]
        assert not passed or open_call(pool, 1) is None


@pytest.mark.parametrize("end", ["settle", "close"])
def test_nothing_is_charged_to_a_lease_that_is_over(end):
    pool = BudgetPool(samples=3)
    arm = opened(pool)
    lease = arm.take()
    lease.settle() if end == "settle" else arm.close()
    assert lease.charge() is None
    assert not lease.start()
    assert lease.settle() == Cost()
    arm.close()
    assert (pool.statistics().spent, pool.statistics().reserved) == (Cost(), Cost())
    assert pool.statistics().open_calls == 0


def test_an_answer_that_came_for_a_sample_that_never_began_is_paid_when_its_call_closes():
    pool = BudgetPool(samples=3)
    arm = opened(pool)
    lease = arm.take()
    charge = lease.charge()  # the request of another sample brings this one's answer too
    assert charge is not None
    lease.answered(charge, Cost(requests=1, completion_tokens=8))
    arm.close()
    assert pool.statistics().spent == Cost(requests=1, completion_tokens=8)


def test_a_lease_that_a_nested_call_takes_over_pays_only_its_own_requests():
    pool = BudgetPool(samples=1)
    outer = started(pool)
    assert outer.charge() is not None
    inner = started(pool, outer=outer)
    assert inner.arm.is_nested
    assert inner.charge() is not None
    assert inner.settle() == Cost(samples=1, requests=1)
    inner.arm.close()
    assert outer.settle() == Cost(samples=1, requests=2)
    outer.arm.close()
    assert pool.statistics().spent == Cost(samples=1, requests=2)


def test_what_a_cache_has_saved_is_known_of_the_sample_and_of_the_one_around():
    pool = BudgetPool(samples=2)
    outer = started(pool)
    inner = started(pool, outer=outer)
    saved = Cost(requests=1, completion_tokens=5)
    for lease, count in ((inner, 2), (outer, 1)):
        for _ in range(count):
            charge = lease.charge()
            assert charge is not None
            lease.answered(charge, Cost(requests=1, cached_requests=1), saved)
            lease.answered(charge, Cost(requests=1, cached_requests=1), saved)  # it is over already
    assert inner.settle().tokens == 0 and inner.saved == saved + saved
    assert outer.settle().tokens == 0 and outer.saved == saved + saved + saved
    inner.arm.close()
    outer.arm.close()


def test_what_a_store_refused_to_settle_can_be_settled_again():
    class Failing(MemoryStore):
        fails = True

        def settle(self, handle, used, sample=None):
            if self.fails:
                raise KeyboardInterrupt
            super().settle(handle, used, sample)

    store = Failing()
    pool = BudgetPool(samples=3, store=store)
    arm = opened(pool, 2)
    lease, other = arm.take(), arm.take()
    assert lease.start()
    for end in (lease.settle, arm.close):
        with pytest.raises(KeyboardInterrupt):
            end()
    store.fails = False
    assert lease.settle() == Cost(samples=1)
    arm.close()
    assert not other.start()
    now = pool.statistics()
    assert (now.spent.samples, now.reserved, now.open_calls) == (1, Cost(), 0)


def test_after_a_permanent_failure_no_other_sample_of_its_call_begins():
    pool = BudgetPool(samples=9, policy=Uniform(first=3))
    arm, other = opened(pool, 3), opened(pool, 3)
    lease = arm.take()
    assert lease.start()
    lease.settle(ValueError("too long"), permanent=True)
    assert not arm.take().start()
    assert other.take().start()


bounds = st.builds(Cost, requests=st.just(1), prompt_tokens=st.integers(0, 60), nanodollars=st.integers(0, 40))


@given(
    charges=st.lists(st.lists(st.tuples(bounds, st.floats(0, 1) | st.none()), max_size=6), min_size=2, max_size=4),
    end=st.sampled_from(["settle", "close", "pass on", "none"]),
    caps=st.fixed_dictionaries({"requests": st.integers(4, 30), "tokens": st.integers(50, 900)}),
)
def test_threads_that_charge_one_lease_never_have_it_hold_less_than_is_charged(charges, end, caps):
    pool = BudgetPool(samples=3, **caps)
    arm = opened(pool)
    lease = arm.take()
    if end != "close":
        assert lease.start()
    booked: list[Cost] = []  # what is charged for certain
    problems: list[str] = []

    def charge(wanted):
        for bound, share in wanted:
            charged = lease.charge(bound)
            if charged is None:
                continue
            booked.append(bound)
            look(len(booked))
            if share is not None:
                lease.answered(charged, Cost(requests=1, completion_tokens=int(bound.tokens * share)))

    def look(requests):
        now = pool.statistics()
        whole = now.reserved + now.spent
        for unit, cap in caps.items():
            if getattr(whole, unit) > cap:
                problems.append(f"{whole} is over {caps}")
        if whole.requests < requests:
            problems.append(f"{whole} is less than {requests} requests")

    threads = [threading.Thread(target=charge, args=(wanted,)) for wanted in charges]
    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        if end == "settle":
            lease.settle()
        elif end == "close":
            arm.close()
        elif end == "pass on":
            inner = open_call(pool, 1, outer=lease)
            if inner is not None:
                inner.close()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switching)
    lease.settle()
    arm.close()
    now = pool.statistics()
    assert problems == []
    assert now.reserved == Cost() and now.open_calls == 0
    assert now.spent.requests <= caps["requests"] and now.spent.tokens <= caps["tokens"]
    assert now.spent.requests == len(booked)  # whenever it ended, what was charged is paid

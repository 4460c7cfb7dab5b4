from __future__ import annotations

from concurrent.futures import Future

import pytest

from dynscale_dspy import BudgetExhausted, BudgetPool
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.budget.supply import OwnCaps, Supply
from tests.support import open_call, open_or_wait


class Scripted(OwnCaps):
    """A supply that says what a test wants, and remembers what it was asked."""

    def __init__(self) -> None:
        self.short = self.first_comes = False
        self.reason = ""
        self.left = float("inf")
        self.tended = 0
        self.prepared: list[tuple[int, int]] = []

    def is_short(self, *, first: bool = False) -> bool:
        return self.short or (first and self.first_comes)

    def tend(self) -> None:
        self.tended += 1

    def ended(self) -> str:
        return self.reason

    def spare(self) -> float:
        return self.left

    def prepare(self, calls: int, requests: int) -> None:
        self.prepared.append((calls, requests))


def pool_of(supply: Supply, **limits) -> BudgetPool:
    return BudgetPool.made(BudgetPool(**limits).settings, supply=supply)


def test_a_pool_that_has_its_own_caps_waits_for_nothing():
    supply = OwnCaps()
    assert not supply.is_short() and not supply.is_short(first=True)
    assert supply.ended() == ""
    assert supply.spare() == float("inf")
    pool = BudgetPool(samples=1)
    assert open_call(pool) is not None
    assert open_or_wait(pool) is None


def test_a_call_without_a_first_sample_waits_for_what_is_on_its_way_and_counts_once_however_often_it_looks():
    supply = Scripted()
    supply.short = True
    pool = pool_of(supply, samples=1)
    arm = open_call(pool)
    assert arm is not None
    queue = pool.admission.shared.queue
    for _ in range(3):  # woken by whatever else happens, it looks again
        waiting = [open_or_wait(pool) for _ in range(2)]
        assert all(isinstance(future, Future) for future in waiting)
        assert queue.without_first == 2
        pool.admission.wake()
    assert queue.without_first == 0
    arm.close()


def test_a_first_sample_is_worth_a_longer_wait_than_a_further_one():
    supply = Scripted()
    pool = pool_of(supply, samples=1)
    arm = open_call(pool)
    supply.first_comes = True
    assert isinstance(open_or_wait(pool), Future)
    assert pool.admission.gate() is None
    supply.short = True
    gate = pool.admission.gate()
    assert gate is not None
    assert arm is not None
    arm.close()
    assert gate.done()


def test_calls_under_way_take_only_what_the_supply_can_spare():
    supply = Scripted()
    pool = pool_of(supply, per_call=8)
    arm = open_call(pool, 1)
    assert arm is not None
    for spare in (3, 0):
        supply.left = spare
        assert arm.request(Tally.of("AB"), ["independent"] * 8) == spare
    assert open_call(pool, 1) is not None  # a first sample is what it is spared for
    arm.close()


def test_a_supply_that_has_ended_ends_spending_with_its_own_words():
    supply = Scripted()
    pool = pool_of(supply, samples=5)
    arm = open_call(pool)
    assert arm is not None
    supply.reason = "the well is dry"
    assert not arm.take().start()
    assert open_or_wait(pool) is None
    with pytest.raises(BudgetExhausted, match="^the well is dry$"):
        raise pool.admission.exhausted()
    pool.pause()  # nobody waits for a resume() that could bring nothing
    assert open_or_wait(pool) is None
    assert pool.admission.gate() is None


def test_each_step_tends_to_the_supply_and_a_known_set_prepares_it_first():
    supply = Scripted()
    pool = pool_of(supply, samples=9)
    before = supply.tended
    pool.statistics()
    assert supply.tended == before + 1
    with pool.scope(samples=5) as scope:
        arms, _, _ = scope.admission.open_known(2, requests=3)
    assert supply.prepared == [(2, 3)]
    for arm in arms:
        arm.close()

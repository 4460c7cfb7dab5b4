from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from dynscale_dspy import BudgetExhausted, BudgetPool, Cost, KnowledgeGradient, Uniform
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.budget.arms import Arm
from dynscale_dspy.budget.stores.memory import MemoryStore
from dynscale_dspy.budget.supply import OwnCaps
from tests.support import Known, open_call, open_or_wait, opened


class Program:
    """Something to be known by."""


def draw(arm: Arm, *, tokens: int = 0) -> None:
    cost = Cost(requests=1, prompt_tokens=tokens)
    lease = arm.take()
    assert lease.start()
    charge = lease.charge(cost)
    assert charge is not None
    lease.answered(charge, cost)
    lease.settle()


def test_a_call_is_opened_with_its_guaranteed_samples_but_no_more_than_it_can_use():
    pool = BudgetPool(samples=20, policy=Uniform(first=3))
    for room, reserved in ((1, 1), (2, 2), (9, 3)):
        arm = open_call(pool, room)
        assert arm is not None
        assert arm.waiting >= reserved
        assert arm.waiting <= room
        arm.close()


def test_the_first_of_a_program_is_waited_for_where_tokens_are_capped_and_then_no_more():
    pool, program = BudgetPool(tokens=1000), Program()
    first = open_call(pool, 1, program=program)
    assert first is not None
    waiting = open_or_wait(pool, 1, program=program)
    assert isinstance(waiting, Future) and not waiting.done()
    draw(first, tokens=40)
    assert waiting.done()
    second = open_call(pool, 1, program=program)
    assert second is not None
    assert pool.statistics().reserved.tokens == 40
    second.close()
    first.close()


def test_who_waits_is_told_of_a_change_and_of_the_gate():
    pool = BudgetPool(samples=5)
    assert pool.admission.gate() is None
    change = pool.admission.change()
    arm = open_call(pool)
    assert arm is not None
    assert not change.done()
    draw(arm)
    assert change.done()
    pool.pause()
    gate = pool.admission.gate()
    assert gate is not None and not gate.done()
    pool.resume()
    assert gate.done()
    arm.close()


def test_how_a_known_set_stands_in_one_look():
    pool = BudgetPool(samples=5, tokens=100)
    assert pool.admission.standing() == (None, False, "tokens", False, 0)
    arm = open_call(pool)
    assert arm is not None
    assert pool.admission.standing() == (None, False, "tokens", True, 0)  # what samples hold may come back
    arm.close()
    pool.stop()
    assert pool.admission.standing() == (None, True, "tokens", False, 0)
    pool.resume()
    pool.pause()
    wait, halted, _, _, _ = pool.admission.standing()
    assert wait is not None and halted


def test_a_known_set_is_opened_as_a_whole_or_not_at_all():
    pool = BudgetPool(samples=10, policy=Uniform(first=2))
    arms, samples, requests = pool.admission.open_known(4)
    assert [arm.waiting for arm in arms] == [2, 2, 2, 2]
    assert (samples, requests) == (10, float("inf"))
    assert pool.statistics().open_calls == 4
    with pytest.raises(BudgetExhausted, match="2 samples are left, which cannot give each of the 3 calls one"):
        pool.admission.open_known(3)
    assert pool.statistics().open_calls == 4
    for arm in arms:
        arm.close()
    assert pool.statistics().reserved == Cost()


def test_a_paused_pool_opens_a_known_set_which_then_waits_and_a_stopped_one_does_not():
    pool = BudgetPool(samples=10)
    pool.pause()
    arms, _, _ = pool.admission.open_known(2)
    assert arms[0].obtain("independent", 1) is None
    pool.stop()
    with pytest.raises(BudgetExhausted, match="the pool was stopped"):
        pool.admission.open_known(2)


def test_why_nothing_is_left_is_said_of_the_pool_that_is_empty_or_of_all():
    pool = BudgetPool(samples=1)
    with pool.scope(samples=3) as scope:
        arm = open_call(scope)
        assert arm is not None
        draw(arm)
        arm.close()
        error = scope.admission.exhausted()
    assert "first sample: 1 of 1 samples of the pool are spent, 0 reserved" in str(error)
    with BudgetPool(samples=2).scope(samples=3) as scope:  # what was in the way is gone when the error is made
        error = scope.admission.exhausted()
    assert "BudgetPool(0 of 3 samples" in str(error) and "within BudgetPool(0 of 2 samples" in str(error)


def test_a_sample_that_is_cut_off_is_told_by_what():
    now = [0.0]
    pool = BudgetPool(samples=5, deadline=10, clock=lambda: now[0])
    assert "could not pay the next language-model call" in str(pool.admission.cut_off())
    now[0] = 10
    assert "the deadline of the pool passed" in str(pool.admission.cut_off())


def test_a_deadline_is_that_of_any_pool_around_and_a_stop_too():
    now = [0.0]
    pool = BudgetPool(samples=5, deadline=10, clock=lambda: now[0])
    with pool.scope(samples=2) as scope:
        assert scope.admission.root is pool.admission
        assert not scope.admission.is_halted
        pool.stop()
        assert scope.admission.is_stopped and scope.admission.is_halted
        pool.resume()
        now[0] = 10
        assert scope.admission.is_late and scope.admission.is_halted


def test_a_whole_budget_that_was_published_is_not_spent_here():
    pool = BudgetPool(samples=5)
    pool.admission.moved("there")
    assert open_or_wait(pool) is None
    with pytest.raises(BudgetExhausted, match="published as 'there': spend from what publish"):
        raise pool.admission.exhausted()


def test_what_was_announced_is_spread_over_the_calls():
    pool = BudgetPool(samples=12).expect(3)
    assert pool.admission.pacing.allowances["samples"].per_call == 4
    with pool.scope(samples=6) as scope:
        assert scope.admission.pacing is pool.admission.pacing  # a scope leaves its calls to the pace around
        assert scope.admission.own_pacing is None
    with pool.scope(per_call=2) as scope:
        assert scope.admission.pacing is scope.admission.own_pacing is not pool.admission.pacing


def test_a_known_set_draws_nothing_that_announced_calls_lend():
    pool = BudgetPool(samples=240).expect(60)
    arms, limit, _ = pool.admission.open_known(6)
    assert limit == 24
    for arm in arms:
        arm.close()
    assert BudgetPool(samples=240).admission.open_known(6)[1] == 240  # nobody has said that more will come
    assert BudgetPool(samples=240).expect(6).admission.open_known(6)[1] == 240


def test_a_known_set_gets_its_first_samples_where_calls_before_it_drew_what_was_lent():
    pool = BudgetPool(samples=40).expect(10)
    arm = open_call(pool, 40)
    assert arm is not None
    while arm.waiting < 20:
        assert arm.reserve(["independent"])  # its own 4, and what is lent
    _, limit, _ = pool.admission.open_known(2)
    assert limit == 2 * pool.policy.first


def test_only_the_root_asks_its_supply_where_a_price_opens():
    class Elsewhere(OwnCaps):
        def __init__(self):
            self.asked = 0

        def priced(self, price):
            self.asked += 1

    supply = Elsewhere()
    pool = BudgetPool.made(BudgetPool(samples=50).settings, supply=supply)
    with pool.scope(per_call=2) as scope:
        arm = open_call(scope, 5)
        assert arm is not None
        arm.close()
    assert supply.asked == 0
    arm = open_call(pool, 5)
    assert arm is not None
    arm.close()
    assert supply.asked == 1


def test_a_report_of_usage_that_is_not_believed_is_counted_and_said_once(caplog):
    pool = BudgetPool(samples=5)
    with pool.scope(samples=2) as scope:
        for _ in range(3):
            scope.admission.distrust("negative tokens")
    assert scope.statistics().distrusted == pool.statistics().distrusted == {"negative tokens": 3}
    assert [record for record in caplog.messages if "negative tokens" in record] == [
        "a language model reported negative tokens; such requests are charged at their upper bound"
    ]


# ---- interrupts


class Bomb:
    """Interrupts the n-th thing of the user's that is called."""

    def __init__(self) -> None:
        self.left = -1

    def tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


class FragileStore(MemoryStore):
    def __init__(self, bomb: Bomb) -> None:
        super().__init__()
        self._bomb = bomb

    def __getattribute__(self, name: str) -> Any:
        if name in ("totals", "reserve", "amend", "settle", "roll", "paid"):
            object.__getattribute__(self, "_bomb").tick()
        return super().__getattribute__(name)


class FragilePolicy(KnowledgeGradient):
    bomb = Bomb()

    def index(self, *arguments: Any, **named: Any) -> float:
        self.bomb.tick()
        return super().index(*arguments, **named)


def everything(pool: BudgetPool) -> None:
    """All that is done with a pool in its life."""
    arm = open_call(pool, 4)
    if arm is None:
        return
    try:
        lease = arm.take()
        lease.start()
        charge = lease.charge(Cost(requests=1, prompt_tokens=10))
        lease.charge(Cost(requests=2, prompt_tokens=90))
        if charge is not None:
            lease.answered(charge, Cost(requests=1, completion_tokens=7))
        lease.settle()
        arm.request(Tally.of("AB"), ["independent"] * 3)
        pool.statistics()
        pool.expect(2)
    finally:
        arm.close()
    pool.reserve_for(Program, 0.5)
    arms, _, _ = pool.admission.open_known(2)
    for known in arms:
        known.obtain("independent", 1)
        known.close()


@pytest.mark.parametrize("where", ["store", "policy", "clock", "on_warning"])
def test_an_interrupt_inside_any_step_lets_go_of_the_lock_and_passes_no_cap(where):
    bomb = Bomb()

    def tick_and(result: Any) -> Callable[..., Any]:
        def call(*_: Any) -> Any:
            bomb.tick()
            return result

        return call

    policy = FragilePolicy()
    object.__setattr__(policy, "bomb", bomb)
    options: dict[str, dict[str, Any]] = {
        "store": {"store": FragileStore(bomb)},
        "policy": {"policy": policy},
        "clock": {"clock": tick_and(100.0), "deadline": 60.0, "period": "hour"},
        "on_warning": {"warn_at": 0.05, "on_warning": tick_and(None)},
    }
    interrupted = 0
    for at in range(1, 200):
        pool = BudgetPool(samples=9, tokens=900, **options[where])
        bomb.left = at
        try:
            everything(pool)
        except KeyboardInterrupt:
            interrupted += 1
        finished = bomb.left > 0
        bomb.left = -1
        assert not pool.admission.lock.mutex.locked()
        everything(pool)  # it goes on
        for unit in ("samples", "tokens"):
            ledger = pool.admission.accounts.ledger
            assert ledger.booked(unit) <= (ledger.limits[unit] or 0)
        if where == "store":
            options["store"] = {"store": FragileStore(bomb)}
        if finished:
            break
    assert interrupted >= 1
    assert bomb.left <= 0


def test_calls_of_known_sets_are_counted_while_they_are_open():
    pool = BudgetPool(tokens=1000, samples=5)
    opened(pool).close()
    one, _, _ = pool.admission.open_known(2)
    with pytest.raises(BudgetExhausted):
        pool.admission.open_known(9)
    with pytest.raises(ZeroDivisionError):
        pool.admission.open_known(1, hold=lambda arm: 1 / 0)
    other, _, _ = pool.admission.open_known(1)
    assert pool.admission.standing()[-1] == 3
    for arm in one:
        arm.close()
    assert pool.admission.standing()[-1] == 1
    other[0].close()
    assert pool.admission.standing()[-1] == 0


def test_nobody_waits_for_a_change_in_a_pool_that_has_ended():
    now = [0.0]
    pool = BudgetPool(samples=5, dollars=1, deadline=10, clock=lambda: now[0])
    assert not pool.admission.change().done()
    pool.pause()
    assert not pool.admission.change().done()
    pool.stop()
    assert pool.admission.change().done()
    pool.resume()
    now[0] = 10
    assert pool.admission.change().done()


def test_a_pool_may_change_while_something_is_held():
    pool = BudgetPool(requests=1, dollars=1)
    assert not pool.admission.may_change()
    arm = open_call(pool)
    assert arm is not None and pool.admission.may_change()
    arm.close()
    assert not pool.admission.may_change()


def test_what_is_asked_for_beside_samples_is_spent_here_and_around_or_nowhere():
    pool, program = BudgetPool(requests=3), Program()
    with pool.scope(requests=2) as scope:
        assert scope.admission.pay(Cost(requests=1), program)
        assert pool.statistics().spent == scope.statistics().spent == Cost(requests=1)
        assert scope.admission.pay(Cost(requests=1), program)
        assert not scope.admission.pay(Cost(requests=1), program)
    assert pool.admission.pay(Cost(requests=1), program) and not pool.admission.pay(Cost(requests=1), program)
    assert pool.statistics().spent == Cost(requests=3) and pool.admission.accounts.ledger.reserved == Cost()


def test_an_interrupt_between_reserving_and_booking_leaves_nothing_reserved(monkeypatch):
    pool = BudgetPool(requests=3)
    ledger = pool.admission.accounts.ledger
    settle, interrupts = ledger.settle, [KeyboardInterrupt()]

    def interrupted(reservation, used):
        if interrupts:
            raise interrupts.pop()
        settle(reservation, used)

    monkeypatch.setattr(ledger, "settle", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.admission.pay(Cost(requests=1), None)
    assert ledger.reserved == Cost() and ledger.spent == Cost(requests=1)


def test_a_call_waits_for_nothing_that_nobody_holds():
    """A program of two requests, and one left: it waited for ever for a request that nothing would give back."""
    pool, program = BudgetPool(tokens=1000, requests=3), Known()
    arm = opened(pool, program=program, requests=2)
    lease = arm.take()
    assert lease.start()
    for _ in range(2):
        charge = lease.charge(Cost(requests=1, prompt_tokens=10))
        assert charge is not None
        lease.answered(charge, Cost(requests=1, prompt_tokens=10))
    lease.settle()
    arm.close()
    assert pool.admission.open(["independent"], program=program, requests=2) is None


def test_a_call_waits_for_tokens_that_a_sample_in_flight_may_give_back():
    pool, program = BudgetPool(tokens=100), Known()
    arm = opened(pool, program=program)
    lease = arm.take()
    assert lease.start()
    charge = lease.charge(Cost(requests=1, prompt_tokens=60))
    assert charge is not None
    lease.answered(charge, Cost(requests=1, prompt_tokens=20))
    lease.settle()
    arm.close()
    other = opened(pool, program=program)
    waits = pool.admission.open(["independent"], program=program)
    assert isinstance(waits, Future) and not waits.done()
    other.close()
    assert waits.done()
    opened(pool, program=program).close()


def test_what_is_firmly_left_for_a_program_is_what_its_quota_leaves():
    pool = BudgetPool(tokens=1000)
    pool.reserve_for(Program, 0.25)
    assert pool.admission.firmly_left() == {"tokens": 1000}
    assert pool.admission.firmly_left(Program) == {"tokens": 250}
    assert BudgetPool(tokens=1000, period="day").admission.firmly_left() == {}

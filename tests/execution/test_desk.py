"""The desks: what a plan asks of the pool, for one call and for a known set."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import BudgetExhausted, BudgetPool, Cost, Uniform
from dynscale_dspy.allocation.costs import Tariff
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.budget.stores.memory import MemoryStore
from dynscale_dspy.budget.supply import OwnCaps
from dynscale_dspy.execution.desk import BatchDesk, CallDesk
from dynscale_dspy.reporting.history import CallRecord
from dynscale_dspy.sampling.steps import (
    Change,
    Close,
    Empty,
    Fits,
    Gate,
    Insist,
    Look,
    Open,
    Record,
    Reserve,
    ReserveFor,
    Standing,
    Wait,
)

INDEPENDENT = ("independent",)


def desk_of(pool, *, outer=None, program=None, key=None):
    return CallDesk(pool, outer=outer, program=program or dspy.Predict("a -> b"), requests=1, key=key)


def assert_nothing_held(pool):
    now = pool.statistics()
    assert (now.reserved, now.open_calls) == (Cost(), 0)


# ---- one call


def test_opening_reserves_the_first_samples_and_reserving_more_of_them():
    pool = BudgetPool(samples=10, per_call=5, policy=Uniform(first=2))
    desk = desk_of(pool)
    first = desk.carry_out(Open(INDEPENDENT * 8))
    assert len(first.leases) == pool.statistics().reserved.samples >= 2
    assert [lease.index for lease in first.leases] == list(range(len(first.leases)))
    assert (first.unit, first.may_insist) == (None, False)
    more = desk.carry_out(Reserve(Tally.of("AB"), INDEPENDENT * 8, pending=len(first.leases)))
    assert len(first.leases) + len(more.leases) == pool.statistics().reserved.samples <= 10
    desk.close()
    assert_nothing_held(pool)


def test_what_is_granted_tells_what_runs_out_first_and_whether_a_call_may_insist():
    pool, program = BudgetPool(tokens=100), dspy.Predict("a -> b")
    desks = [desk_of(pool), desk_of(pool, program=program)]  # a call ends when nobody has its desk any more
    assert desks[0].carry_out(Open(INDEPENDENT)).unit == "tokens"
    outer = desks[1].carry_out(Open(INDEPENDENT)).leases[0]
    assert outer.start()
    desks += [desk_of(pool, program=program, outer=outer), desk_of(pool)]
    assert desks[2].carry_out(Open(INDEPENDENT)).may_insist is False
    assert desks[3].carry_out(Open(INDEPENDENT)).may_insist is True


def test_a_call_whose_desk_is_lost_is_closed_by_the_next_step():
    pool = BudgetPool(samples=1)
    assert len(desk_of(pool).carry_out(Open(INDEPENDENT)).leases) == 1
    gc.collect()
    assert_nothing_held(pool)


def test_a_call_may_insist_as_far_as_the_caps_allow():
    pool = BudgetPool(samples=2, per_call=1)
    desk = desk_of(pool)
    assert len(desk.carry_out(Open(INDEPENDENT * 2)).leases) == 1
    assert len(desk.carry_out(Insist("independent")).leases) == 1
    assert desk.carry_out(Insist("independent")).leases == ()


def test_closing_frees_what_has_not_begun_and_that_does_not_begin():
    pool = BudgetPool(samples=10, per_call=5, policy=Uniform(first=3))
    desk = desk_of(pool)
    begun, *others = desk.carry_out(Open(INDEPENDENT * 3)).leases
    assert begun.start()
    assert desk.carry_out(Close()) is None
    assert pool.statistics().reserved.samples == 1 and pool.statistics().open_calls == 0
    assert [lease.start() for lease in others] == [False] * len(others)
    begun.settle()
    desk.close()
    desk.close()
    assert_nothing_held(pool)
    assert pool.statistics().spent.samples == 1


def test_an_empty_pool_says_what_the_call_ends_with():
    error = desk_of(BudgetPool(samples=1)).carry_out(Empty())
    assert isinstance(error, BudgetExhausted)
    lenient = BudgetPool(samples=1, on_empty="run_once")
    assert desk_of(lenient).carry_out(Empty()) is None
    assert lenient.statistics().unscaled_runs == 1


def test_nothing_is_opened_where_nothing_is_left_and_a_paused_pool_is_waited_for():
    pool = BudgetPool(samples=1)
    first = desk_of(pool)
    assert len(first.carry_out(Open(INDEPENDENT)).leases) == 1
    assert desk_of(pool).carry_out(Open(INDEPENDENT)) is None
    other = BudgetPool(samples=1)
    desk = desk_of(other)
    assert desk.carry_out(Gate()) is None
    other.pause()
    futures = [desk.carry_out(step) for step in (Open(INDEPENDENT), Gate(), Change())]
    assert all(isinstance(future, Future) and not future.done() for future in futures)
    other.resume()
    assert all(future.done() for future in futures)


def test_a_call_is_recorded_and_other_steps_are_not_a_calls():
    pool = BudgetPool(samples=1)
    desk = desk_of(pool)
    record = CallRecord("program", (0, 0), 1.0, 0.9, Cost(samples=2))
    assert desk.carry_out(Record(record)) is None
    assert pool.history.calls == (record,)
    for step in (Look(), ReserveFor(0, "independent", 1), Wait(Future())):
        with pytest.raises(TypeError, match=r"^a single call has no step "):
            desk.carry_out(step)


def test_only_a_pool_in_a_file_may_block(tmp_path):
    assert desk_of(BudgetPool(samples=1)).may_block is False
    pool = BudgetPool(samples=1, path=tmp_path / "budget.sqlite")
    assert desk_of(pool).may_block is True
    assert BatchDesk(pool, 1, program=None, requests=1, keys=None).may_block is True


class Gated(MemoryStore):
    """A store that sets nothing aside, and changes nothing, until it is let."""

    is_durable = True

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()

    def reserve(self, amount, limits):
        self.reached.set()
        assert self.gate.wait(10)
        return super().reserve(amount, limits)


@pytest.mark.parametrize("opened", [False, True], ids=["opening", "reserving"])
def test_closed_while_a_step_is_carried_out_nothing_stays_reserved(opened):
    store = Gated()
    pool = BudgetPool(samples=10, per_call=5, policy=Uniform(first=1), store=store)
    desk = desk_of(pool)
    step = Open(INDEPENDENT * 4)
    if opened:
        desk.carry_out(step)
        step = Insist("independent")
    store.gate.clear()
    store.reached.clear()
    with ThreadPoolExecutor(2) as threads:
        carried_out = threads.submit(desk.carry_out, step)
        assert store.reached.wait(10)
        closed = threads.submit(desk.close)
        assert not closed.done()
        store.gate.set()
        leases = carried_out.result(10).leases
        closed.result(10)
    assert leases and [lease.start() for lease in leases] == [False] * len(leases)
    assert_nothing_held(pool)
    # What comes later comes to nobody.
    assert [desk.carry_out(late) for late in (Open(INDEPENDENT), Insist("independent"), Close())] == [None] * 3
    assert_nothing_held(pool)


STEPS = st.sampled_from(
    [Reserve(Tally.of("AB"), INDEPENDENT * 3), Insist("independent"), Gate(), Change(), Close(), Empty()]
)


@given(st.lists(STEPS, max_size=12), st.lists(st.booleans(), max_size=12))
def test_whatever_was_asked_for_a_closed_call_holds_nothing(steps, begun):
    pool = BudgetPool(samples=20, per_call=6)
    desk = desk_of(pool)
    leases = []
    for step in (Open(INDEPENDENT * 3), *steps):
        leases += getattr(desk.carry_out(step), "leases", ())
        if step == Close():
            break
    started = [lease for lease, begins in zip(leases, begun, strict=False) if begins and lease.start()]
    desk.close()
    assert pool.statistics().reserved.samples == len(started)
    for lease in started:
        lease.settle()
    assert_nothing_held(pool)
    assert pool.statistics().spent.samples == len(started)


# ---- a known set


def batch_desk(pool, count=3):
    return BatchDesk(pool, count, program=dspy.Predict("a -> b"), requests=2, keys=None)


def test_a_known_set_is_opened_with_a_sample_for_each_call():
    pool = BudgetPool(samples=5, policy=Uniform(first=1))
    desk = batch_desk(pool)
    assert desk.known.guaranteed == (1, 1, 1)
    assert (desk.known.limit, desk.known.each) == (5, 2)
    assert (desk.known.measured, desk.known.metered) == (False, False)
    assert (pool.statistics().open_calls, pool.statistics().reserved.samples) == (3, 3)
    desk.close()
    desk.close()
    assert_nothing_held(pool)


def test_a_known_set_whose_desk_is_lost_is_closed_by_the_next_step():
    pool = BudgetPool(samples=50)
    desk = BatchDesk(pool, 3, program=dspy.Predict("a -> b"), requests=1, keys=None)
    assert pool.statistics().open_calls == 3
    del desk  # as by an interrupt before anybody could close it
    gc.collect()
    now = pool.statistics()
    assert (now.open_calls, now.reserved) == (0, Cost())


def test_where_not_each_call_can_have_a_sample_nothing_is_opened():
    pool = BudgetPool(samples=2)
    with pytest.raises(BudgetExhausted, match=r"2 samples are left, which cannot give each of the 3 calls one"):
        batch_desk(pool)
    assert_nothing_held(pool)


def test_samples_of_a_call_are_those_guaranteed_and_then_further_ones():
    pool = BudgetPool(samples=4, policy=Uniform(first=1))
    desk = batch_desk(pool)
    leases = [desk.carry_out(ReserveFor(1, "independent", 2)) for _ in range(3)]
    assert [lease and lease.index for lease in leases] == [0, 1, None]
    assert [lease.sampler for lease in leases[:2]] == ["independent"] * 2
    pool.stop()
    assert desk.carry_out(ReserveFor(0, "independent", 2)) is None
    desk.close()
    assert_nothing_held(pool)


class Lease(OwnCaps):
    """What a published pool's holder has of it."""

    grows = True


def test_a_refused_sample_may_fit_later_if_what_is_in_flight_costs_nothing():
    pool = BudgetPool(samples=9, tokens=100, policy=Uniform(first=1))
    program = dspy.Predict("a -> b")
    for name, tokens in (("cheap", 60), ("dear", 101)):
        record = pool.admission.program(program).learned.of(name)
        record.tariff, record.need = Tariff(prompt=1, completion=1), Cost(requests=1, prompt_tokens=tokens)
    desk = BatchDesk(pool, 3, program=program, requests=1, keys=None)
    lease = desk.carry_out(ReserveFor(0, "cheap", 1))
    assert lease is not None
    assert desk.carry_out(ReserveFor(1, "cheap", 1)) is None
    assert desk.carry_out(ReserveFor(1, "dear", 1)) is None
    assert desk.carry_out(Fits(1, "cheap")) is True
    assert desk.carry_out(Fits(1, "dear")) is False
    assert lease.start()
    lease.answered(lease.charge(Cost(requests=1, prompt_tokens=60)), Cost(requests=1, prompt_tokens=41))
    lease.settle()
    assert desk.carry_out(Fits(1, "cheap")) is False, "59 tokens are left for good"
    pool.admission.shared.supply = Lease()
    assert desk.carry_out(Fits(1, "cheap")) is True, "more tokens may come"
    desk.close()
    assert_nothing_held(pool)


def test_a_refused_sample_may_fit_in_the_next_period():
    pool = BudgetPool(samples=9, tokens=100, policy=Uniform(first=1), period="day")
    program = dspy.Predict("a -> b")
    record = pool.admission.program(program).learned.of("dear")
    record.tariff, record.need = Tariff(prompt=1, completion=1), Cost(requests=1, prompt_tokens=101)
    desk = BatchDesk(pool, 1, program=program, requests=1, keys=None)
    assert desk.carry_out(ReserveFor(0, "dear", 1)) is None
    assert desk.carry_out(Fits(0, "dear")) is True
    desk.close()
    assert_nothing_held(pool)


def test_how_a_pool_stands_is_told_as_of_one_moment():
    pool = BudgetPool(samples=9, tokens=9_000)
    desk = batch_desk(pool)
    assert desk.carry_out(Look()) == Standing(None, False, "tokens", False)
    assert desk.carry_out(ReserveFor(0, "independent", 2)) is not None
    assert desk.carry_out(Look()).holds_elsewhere is True
    change = desk.carry_out(Change())
    pool.pause()
    standing = desk.carry_out(Look())
    assert standing.halted and isinstance(standing.wait, Future)
    pool.resume()
    assert change.done() and standing.wait.done()
    desk.close()
    assert_nothing_held(pool)


def test_other_steps_are_not_a_known_sets():
    desk = batch_desk(BudgetPool(samples=5))
    for step in (Open(INDEPENDENT), Close(), Gate(), Empty()):
        with pytest.raises(TypeError, match=r"^a known set of calls has no step "):
            desk.carry_out(step)

"""Laws that any store must keep. Inherit them in a test, and pytest runs them on yours.

Example::

    from dynscale_dspy.testing import StoreLaws


    class TestMyStore(StoreLaws):
        def store(self):
            return MyStore(new_address())

        def other(self, store):  # only if several processes can share it
            return MyStore(store.address)
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Literal

import numpy as np

from dynscale_dspy.allocation.costs import UNITS, Cost
from dynscale_dspy.budget.stores.base import Limits, Store, fits

SEED = 20260101
THREADS = 8

Operation = Literal["reserve", "amend", "settle", "settle_again", "overspend", "roll", "roll_back", "reconcile", "note"]
Step = tuple[Operation, int, Cost]
"""What to do, which of the open reservations to do it to (counted round), and with which amount."""

_ONE = Cost(samples=1, requests=2, prompt_tokens=30, completion_tokens=5, cached_tokens=3, nanodollars=7)
_NOTHING = Cost()


class StoreLaws:
    """What ledgers and pools rely on in a store.

    Override :meth:`store`, and :meth:`other` for a store that can be opened twice. Each law closes what it opened.
    """

    def store(self) -> Store:
        """Return a store of a new, empty budget."""
        raise NotImplementedError("override store() to return the store under test")

    def other(self, store: Store) -> Store | None:
        """Open the budget of a store a second time, as another process would; None if that cannot be done."""
        return None

    # ---- the protocol

    def test_store_has_the_whole_protocol(self) -> None:
        """Pools ask for each method without looking first."""
        store = self.store()
        assert isinstance(store, Store)
        assert isinstance(store.is_durable, bool)
        store.close()

    def test_new_budget_is_empty(self) -> None:
        """Nothing is spent, reserved, paid or noted."""
        store = self.store()
        assert store.totals() == (_NOTHING, _NOTHING)
        assert store.paid(b"call") == frozenset()
        assert store.notes() == {}
        store.close()

    # ---- reservations

    def test_sums_agree_with_a_simple_model(self) -> None:
        """Over long random walks, step by step, and so that a limit is never passed."""
        generator = np.random.default_rng(SEED)
        for length in (5, 20, 60, 60):
            store = self.store()
            check_walk(store, _limits(generator), [_step(generator) for _ in range(length)])
            store.close()

    def test_every_unit_is_kept(self) -> None:
        """Also those that cannot be limited, such as cached tokens."""
        store = self.store()
        for unit in fields(Cost):
            amount = Cost(**{unit.name: 3})
            spent = store.totals()[0]
            handle = _reserved(store, amount)
            assert store.totals() == (spent, amount)
            store.settle(handle, amount)
            assert store.totals() == (spent + amount, _NOTHING)
        store.close()

    def test_large_amounts_are_exact(self) -> None:
        """Money is counted in billionths of a dollar: a store must not turn it into floating-point numbers."""
        store, amount = self.store(), Cost(nanodollars=2**61 + 1)
        store.settle(_reserved(store, amount), amount)
        assert store.totals() == (amount, _NOTHING)
        store.close()

    def test_limit_is_met_exactly(self) -> None:
        """The last unit can be reserved, and not one more; in each unit that can be limited."""
        for unit in UNITS:
            name = "prompt_tokens" if unit == "tokens" else unit
            store, limits = self.store(), {unit: 3}
            handle = store.reserve(Cost(**{name: 2}), limits)
            assert handle is not None
            assert store.reserve(Cost(**{name: 2}), limits) is None
            assert not store.amend(handle, Cost(**{name: 4}), limits)
            assert store.totals() == (_NOTHING, Cost(**{name: 2}))
            assert store.amend(handle, Cost(**{name: 3}), limits)
            assert store.reserve(Cost(**{name: 1}), limits) is None
            assert store.totals() == (_NOTHING, Cost(**{name: 3}))
            store.close()

    def test_limit_that_is_passed_stops_only_what_adds_to_it(self) -> None:
        """Where no bound is known more may be settled than was reserved. What takes none of that unit still fits."""
        store, limits = self.store(), {"samples": 5, "tokens": 10}
        store.settle(_reserved(store, Cost(samples=1)), Cost(samples=1, prompt_tokens=50))
        assert store.reserve(Cost(samples=1, prompt_tokens=1), limits) is None
        handle = store.reserve(Cost(samples=2), limits)
        assert handle is not None
        assert store.amend(handle, Cost(samples=1), limits)
        store.close()

    def test_unit_without_a_limit_is_free(self) -> None:
        """None, and no entry at all, mean the same."""
        store = self.store()
        assert store.reserve(Cost(samples=10**6), {"samples": None}) is not None
        assert store.reserve(Cost(samples=10**6), {}) is not None
        store.close()

    def test_handle_is_settled_once(self) -> None:
        """A handle that was settled, or never given out, changes nothing, and cannot be amended."""
        store = self.store()
        closed = _reserved(store, _ONE)
        store.settle(closed, _ONE)
        held = [_reserved(store, _ONE) for _ in range(3)]  # handles are not given out again
        assert len({closed, *held}) == 4
        before = store.totals()
        for handle in (closed, -1):
            store.settle(handle, _ONE, (b"call", 7))
            assert not store.amend(handle, _ONE + _ONE, {})
            assert store.totals() == before
            assert store.paid(b"call") == frozenset()
        store.close()

    # ---- paid samples

    def test_paid_samples_are_known_if_the_store_is_durable(self) -> None:
        """A run that is taken up again does not pay for them twice. Other stores may know none."""
        store = self.store()
        for call, sample in ((b"a", 0), (b"a", 3), (b"b", 1), (b"a", 3)):
            store.settle(_reserved(store, _ONE), _ONE, (call, sample))
        store.settle(_reserved(store, _ONE), _ONE)
        for call, samples in ((b"a", {0, 3}), (b"b", {1}), (b"c", set())):
            assert store.paid(call) == (samples if store.is_durable else frozenset())
        store.close()

    # ---- periods

    def test_period_begins_once_and_time_does_not_go_back(self) -> None:
        """A clock that steps back over the beginning of a period, and forth again, must not free what was spent."""
        store = self.store()
        store.settle(_reserved(store, _ONE), _ONE)
        store.roll(10)
        assert store.totals()[0] == _ONE  # it was spent in the first period
        for period in (10, 9, 10, -1, 10):
            store.roll(period)
            assert store.totals()[0] == _ONE
        store.roll(11)
        assert store.totals()[0] == _NOTHING
        store.close()

    def test_what_is_reserved_stays_so_in_the_next_period(self) -> None:
        """It counts against that period, and is spent in it."""
        store = self.store()
        store.roll(1)
        handle = _reserved(store, _ONE)
        store.roll(2)
        assert store.totals() == (_NOTHING, _ONE)
        store.settle(handle, _ONE)
        assert store.totals() == (_ONE, _NOTHING)
        store.close()

    # ---- notes

    def test_notes_are_kept_as_they_are(self) -> None:
        """Whatever is in them; an empty one is deleted, and others stay."""
        store = self.store()
        texts = {"a": "x", "b": 'a "quoted"\nline', "lease ω": "ü\u2028" * 1000, "": "without a name"}
        store.note(texts)
        assert store.notes() == texts
        store.note({"a": "y", "b": "", "never there": ""})
        assert store.notes() == {"a": "y", "lease ω": texts["lease ω"], "": "without a name"}
        store.notes().clear()  # a copy
        assert store.notes()["a"] == "y"
        store.close()

    # ---- owners

    def test_living_owner_keeps_what_it_reserved(self) -> None:
        """Without dead owners there is nothing to reconcile."""
        store = self.store()
        handle = _reserved(store, _ONE)
        for refund in (False, True):
            assert store.reconcile(refund=refund) == _NOTHING
            assert store.totals() == (_NOTHING, _ONE)
        store.settle(handle, _ONE)
        assert store.totals() == (_ONE, _NOTHING)
        store.close()

    # ---- threads

    def test_threads_never_pass_a_limit(self) -> None:
        """Reserving, amending and settling at once; nothing is lost, and nothing is counted twice."""
        store = self.store()
        _check_threads([store] * THREADS)
        store.close()

    # ---- shared and durable stores

    def test_second_opening_sees_and_keeps_the_same_budget(self) -> None:
        """Sums, limits, periods, paid samples and notes are the budget's, not the process's."""
        store = self.store()
        other = self.other(store)
        if other is None:
            store.close()
            return
        limits = {"samples": 3}
        handle = store.reserve(Cost(samples=2), limits)
        assert handle is not None
        assert other.totals() == (_NOTHING, Cost(samples=2))
        assert other.reserve(Cost(samples=2), limits) is None
        assert other.reconcile() == _NOTHING  # the first opening lives
        second = other.reserve(Cost(samples=1), limits)
        assert second is not None and second != handle
        assert store.reserve(Cost(samples=1), limits) is None
        store.settle(handle, Cost(samples=1), (b"call", 1))
        other.settle(second, Cost(samples=1), (b"call", 2))
        store.note({"name": "text"})
        store.roll(3)
        other.roll(2)
        for opening in (store, other):
            assert opening.totals() == (Cost(samples=2), _NOTHING)
            assert opening.notes() == {"name": "text"}
            if opening.is_durable:
                assert opening.paid(b"call") == {1, 2}
        other.roll(4)
        assert store.totals() == (_NOTHING, _NOTHING)
        store.close()
        other.close()

    def test_openings_together_never_pass_a_limit(self) -> None:
        """Several processes spend from one budget."""
        store = self.store()
        other = self.other(store)
        if other is not None:
            _check_threads([store, other] * (THREADS // 2))
            other.close()
        store.close()

    def test_what_a_closed_store_left_is_reconciled_once(self) -> None:
        """It is spent, or given back if the caller knows that it was never used; what is open elsewhere stays."""
        for refund in (False, True):
            store = self.store()
            other = self.other(store)
            if other is None:
                store.close()
                return
            _reserved(store, _ONE)
            _reserved(other, Cost(samples=5))
            store.close()
            assert other.totals() == (_NOTHING, _ONE + Cost(samples=5))
            assert other.reconcile(refund=refund) == _ONE
            assert other.totals() == (_NOTHING if refund else _ONE, Cost(samples=5))
            assert other.reconcile(refund=refund) == _NOTHING
            other.close()


def check_walk(store: Store, limits: Limits, steps: Sequence[Step]) -> None:
    """Take steps in a new store and compare it with a simple model after each.

    Args:
        store: The store, of an empty budget.
        limits: The limits of every step.
        steps: The steps. What they settle is at most what is held, but for ``"overspend"``.

    Raises:
        AssertionError: If the store and the model differ.
    """
    spent, reserved, passed, period = _NOTHING, _NOTHING, False, 0
    held: dict[Hashable, Cost] = {}
    closed: list[Hashable] = []
    notes: dict[str, str] = {}
    store.roll(period)
    for operation, which, amount in steps:
        handle = list(held)[which % len(held)] if held else None
        if operation == "reserve":
            new = store.reserve(amount, limits)
            assert (new is not None) == fits(amount, limits, spent, reserved), f"reserve({amount}) gave {new!r}"
            if new is not None:
                assert new not in held and new not in closed, f"handle {new!r} was given out twice"
                held[new] = amount
        elif operation == "amend" and handle is not None:
            change = amount - held[handle]
            done = store.amend(handle, amount, limits)
            assert done == fits(change, limits, spent, reserved), f"amend({held[handle]} to {amount}) gave {done!r}"
            if done:
                held[handle] = amount
        elif operation in ("settle", "overspend") and handle is not None:
            had = held.pop(handle)
            used = had + amount if operation == "overspend" else had - (had - amount).at_least(_NOTHING)
            passed = passed or operation == "overspend"
            store.settle(handle, used, (b"call", which))
            spent += used
            closed.append(handle)
        elif operation == "settle_again" and closed:
            store.settle(closed[which % len(closed)], amount)
        elif operation == "roll":
            period += 1
            store.roll(period)
            spent = _NOTHING
        elif operation == "roll_back":
            store.roll(period - which)
        elif operation == "reconcile":
            assert store.reconcile() == _NOTHING, "reconcile() settled what a living owner holds"
        elif operation == "note":
            notes[str(which)] = str(amount)
            store.note({str(which): str(amount)})
            assert store.notes() == notes
        reserved = sum(held.values(), _NOTHING)
        assert store.totals() == (spent, reserved), f"after {operation} the sums are not those of the model"
        for unit, limit in limits.items():
            if limit is not None and not passed:
                assert getattr(spent, unit) + getattr(reserved, unit) <= limit, f"{operation} passed {limit} {unit}"


def _reserved(store: Store, amount: Cost) -> Hashable:
    handle = store.reserve(amount, {})
    assert handle is not None, f"{amount} was refused without a limit"
    return handle


def _check_threads(stores: Sequence[Store]) -> None:
    """Let one thread for each store reserve until nothing is left."""
    cap, each = 60, Cost(samples=1, requests=1)
    limits, together = {"samples": cap, "requests": cap + 10}, threading.Barrier(len(stores))

    def work(store: Store) -> tuple[int, bool]:
        taken, kept = 0, True
        together.wait(30)
        for _ in range(3 * cap):  # more than fit; a store without limits would never refuse
            handle = store.reserve(each, limits)
            if handle is None:
                break
            spent, reserved = store.totals()
            kept = kept and all(getattr(spent + reserved, unit) <= limit for unit, limit in limits.items())
            store.amend(handle, each + Cost(requests=1), limits)
            # Every third one is given back, for another to reserve.
            taken += 1
            store.settle(handle, each if taken % 3 else _NOTHING)
        return taken - taken // 3, kept

    with ThreadPoolExecutor(len(stores)) as threads:
        results = [future.result() for future in [threads.submit(work, store) for store in stores]]
    spent, reserved = stores[0].totals()
    assert all(kept for _, kept in results), "spent and reserved together passed a limit"
    total = sum(used for used, _ in results)
    assert (spent, reserved) == (Cost(samples=total, requests=total), _NOTHING), f"{total} were settled, not {spent}"
    assert total <= cap


def _limits(generator: np.random.Generator) -> dict[str, int | None]:
    return {unit: None if generator.random() < 0.3 else int(generator.integers(5, 60)) for unit in UNITS}


def _step(generator: np.random.Generator) -> Step:
    operations: tuple[Operation, ...] = (
        "reserve", "reserve", "reserve", "amend", "amend", "settle", "settle", "settle_again", "overspend", "roll",
        "roll_back", "reconcile", "note",
    )  # fmt: skip
    amount = Cost(*(int(number) for number in generator.integers(0, 6, size=len(fields(Cost)))))
    return operations[generator.integers(len(operations))], int(generator.integers(8)), amount

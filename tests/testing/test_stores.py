"""The laws of stores: kept by ours and by a toy, and broken by stores with a fault each."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
import threading
from collections.abc import Hashable, Mapping
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynscale_dspy.allocation.costs import UNITS, Cost
from dynscale_dspy.budget.stores.base import Limits, Store
from dynscale_dspy.budget.stores.memory import MemoryStore
from dynscale_dspy.budget.stores.sqlite import SQLiteStore
from dynscale_dspy.testing import StoreLaws
from dynscale_dspy.testing.stores import check_walk


class TestMemoryStore(StoreLaws):
    def store(self) -> Store:
        return MemoryStore()


class TestSQLiteStore(StoreLaws):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.paths = (tmp_path / f"{number}.sqlite" for number in itertools.count())
        yield
        # What is closed, and has nothing left to reconcile, is nothing but its file.
        for path in tmp_path.glob("*.sqlite"):
            store = SQLiteStore(path)
            store.reconcile()
            store.close()
        assert {path.suffix for path in tmp_path.iterdir()} <= {".sqlite"}

    def store(self) -> Store:
        self.path = next(self.paths)
        return SQLiteStore(self.path)

    def other(self, store: Store) -> Store:
        return SQLiteStore(self.path)


# ---- somebody else's store


class Budget:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.spent = Cost()
        self.held: dict[Hashable, tuple[Cost, object]] = {}
        self.paid: set[tuple[bytes, int]] = set()
        self.notes: dict[str, str] = {}
        self.period: int | None = None
        self.numbers = itertools.count()


class ToyStore:
    """A dict behind a lock, which several owners share."""

    is_durable = True

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.me = object()

    def totals(self) -> tuple[Cost, Cost]:
        with self.budget.lock:
            return self.budget.spent, self._reserved()

    def _reserved(self) -> Cost:
        return sum((amount for amount, _ in self.budget.held.values()), Cost())

    def _fits(self, more: Cost, limits: Limits) -> bool:
        total = self.budget.spent + self._reserved() + more
        return all(
            limit is None or getattr(more, unit) <= 0 or getattr(total, unit) <= limit for unit, limit in limits.items()
        )

    def reserve(self, amount: Cost, limits: Limits) -> Hashable | None:
        with self.budget.lock:
            if not self._fits(amount, limits):
                return None
            handle = f"toy-{next(self.budget.numbers)}"
            self.budget.held[handle] = (amount, self.me)
            return handle

    def amend(self, handle: Hashable, amount: Cost, limits: Limits) -> bool:
        with self.budget.lock:
            if handle not in self.budget.held or not self._fits(amount - self.budget.held[handle][0], limits):
                return False
            self.budget.held[handle] = (amount, self.budget.held[handle][1])
            return True

    def settle(self, handle: Hashable, used: Cost, sample: tuple[bytes, int] | None = None) -> None:
        with self.budget.lock:
            if self.budget.held.pop(handle, None) is not None:
                self.budget.spent += used
                if sample is not None:
                    self.budget.paid.add(sample)

    def paid(self, call: bytes) -> frozenset[int]:
        with self.budget.lock:
            return frozenset(sample for of, sample in self.budget.paid if of == call)

    def roll(self, period: int) -> None:
        with self.budget.lock:
            begun = self.budget.period
            if begun is None or begun < period:
                self.budget.period = period
                if begun is not None:
                    self.budget.spent = Cost()

    def reconcile(self, *, refund: bool = False) -> Cost:
        with self.budget.lock:
            left = {handle: amount for handle, (amount, owner) in self.budget.held.items() if owner is None}
            for handle in left:
                del self.budget.held[handle]
            total = sum(left.values(), Cost())
            self.budget.spent += Cost() if refund else total
            return total

    def note(self, notes: Mapping[str, str]) -> None:
        with self.budget.lock:
            self.budget.notes |= notes
            for name in [name for name, text in self.budget.notes.items() if not text]:
                del self.budget.notes[name]

    def notes(self) -> dict[str, str]:
        with self.budget.lock:
            return dict(self.budget.notes)

    def close(self) -> None:
        with self.budget.lock:
            for handle, (amount, owner) in self.budget.held.items():
                if owner is self.me:
                    self.budget.held[handle] = (amount, None)


class TestToyStore(StoreLaws):
    def store(self) -> Store:
        return ToyStore(Budget())

    def other(self, store: Store) -> Store:
        return ToyStore(store.budget)


# ---- stores that break a law


class ForgetsReservations(MemoryStore):
    def totals(self):
        return super().totals()[0], Cost()


class IgnoresLimits(MemoryStore):
    def reserve(self, amount, limits):
        return super().reserve(amount, {})


class AmendsBeyondLimits(MemoryStore):
    def amend(self, handle, amount, limits):
        return super().amend(handle, amount, {})


class KeepsPartOfARefusedAmendment(MemoryStore):
    def amend(self, handle, amount, limits):
        done = super().amend(handle, amount, limits)
        if not done:
            super().amend(handle, Cost(samples=1), limits)
        return done


class SpendsUnknownHandles(MemoryStore):
    def settle(self, handle, used, sample=None):
        super().settle(super().reserve(Cost(), {}) if handle == -1 else handle, used, sample)


class GivesHandlesOutAgain(ToyStore):
    def reserve(self, amount, limits):
        if not self._fits(amount, limits):
            return None
        handle = next(number for number in itertools.count() if number not in self.budget.held)
        self.budget.held[handle] = (amount, self.me)
        return handle


class RollsBack(MemoryStore):
    def roll(self, period):
        self._period = min(self._period or period, period - 1)
        super().roll(period)


class RefundsWhatLives(ToyStore):
    def reconcile(self, *, refund=False):
        self.budget.held = {handle: (amount, None) for handle, (amount, _) in self.budget.held.items()}
        return super().reconcile(refund=refund)


class ForgetsWhatIsPaid(ToyStore):
    def paid(self, call):
        return frozenset()


class ForgetsNotes(MemoryStore):
    def note(self, notes):
        self._notes = dict(notes)


class CountsInFloats(MemoryStore):
    def totals(self):
        spent, reserved = super().totals()
        return Cost(*(int(float(getattr(spent, unit.name))) for unit in fields(Cost))), reserved


class HasNoLock(ToyStore):
    """Lets another thread come between the question and the answer."""

    def reserve(self, amount, limits):
        with self.budget.lock:
            fitting = self._fits(amount, limits)
        self.meet()
        return super().reserve(amount, {}) if fitting else None

    def meet(self):
        with contextlib.suppress(threading.BrokenBarrierError):
            self.budget.barrier.wait(0.2)


def laws_broken(make, other=None) -> set[str]:
    laws = type(
        "Laws", (StoreLaws,), {"store": lambda self: make(), "other": lambda self, store: other and other(store)}
    )
    broken = set()
    for name in dir(laws):
        if name.startswith("test_"):
            try:
                getattr(laws(), name)()
            except AssertionError:
                broken.add(name.removeprefix("test_"))
    return broken


@pytest.mark.parametrize(
    ("make", "law"),
    [
        (ForgetsReservations, "sums_agree_with_a_simple_model"),
        (IgnoresLimits, "limit_is_met_exactly"),
        (AmendsBeyondLimits, "limit_is_met_exactly"),
        (KeepsPartOfARefusedAmendment, "limit_is_met_exactly"),
        (SpendsUnknownHandles, "handle_is_settled_once"),
        (lambda: GivesHandlesOutAgain(Budget()), "handle_is_settled_once"),
        (RollsBack, "period_begins_once_and_time_does_not_go_back"),
        (lambda: RefundsWhatLives(Budget()), "living_owner_keeps_what_it_reserved"),
        (lambda: ForgetsWhatIsPaid(Budget()), "paid_samples_are_known_if_the_store_is_durable"),
        (ForgetsNotes, "notes_are_kept_as_they_are"),
        (CountsInFloats, "large_amounts_are_exact"),
        (object, "store_has_the_whole_protocol"),
    ],
)
def test_broken_store_fails(make, law):
    if make is object:
        with pytest.raises(AssertionError):
            type("Laws", (StoreLaws,), {"store": lambda self: object()})().test_store_has_the_whole_protocol()
        return
    assert law in laws_broken(make)


def test_store_without_a_lock_fails():
    def make() -> ToyStore:
        budget = Budget()
        budget.barrier = threading.Barrier(2)
        return HasNoLock(budget)

    laws = type("Laws", (StoreLaws,), {"store": lambda self: make()})
    with pytest.raises(AssertionError, match="passed a limit"):
        laws().test_threads_never_pass_a_limit()


def test_store_that_does_not_share_fails():
    broken = laws_broken(MemoryStore, other=lambda store: MemoryStore())
    assert "second_opening_sees_and_keeps_the_same_budget" in broken


# ---- walks that nobody thought of

costs = st.builds(Cost, *(st.integers(0, 20) for _ in fields(Cost)))
operations = st.sampled_from(
    ["reserve", "amend", "settle", "settle_again", "overspend", "roll", "roll_back", "reconcile", "note"]
)
walks = st.lists(st.tuples(operations, st.integers(0, 9), costs), max_size=40)
caps = st.fixed_dictionaries({}, optional={unit: st.none() | st.integers(1, 60) for unit in UNITS})


@given(caps, walks)
def test_any_walk_agrees_in_memory(limits, steps):
    check_walk(MemoryStore(), limits, steps)


@settings(max_examples=25, deadline=None)
@given(caps, walks)
def test_any_walk_agrees_in_a_file(limits, steps):
    folder = Path(tempfile.mkdtemp())
    store = SQLiteStore(folder / "budget.sqlite")
    check_walk(store, limits, steps)
    store.close()
    shutil.rmtree(folder)

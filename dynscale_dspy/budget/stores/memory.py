"""A budget kept in this process."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Hashable, Mapping

from dynscale_dspy.allocation.costs import NOTHING, Cost
from dynscale_dspy.budget.stores.base import Limits, fits
from dynscale_dspy.budget.stores.forks import ForkGuard


class MemoryStore:
    """A store in the memory of this process.

    After a fork, parent and child each go on with a copy of what is spent. What is reserved is the parent's alone.

    Example:
        >>> store = MemoryStore()
        >>> handle = store.reserve(Cost(samples=2), {"samples": 3})
        >>> store.reserve(Cost(samples=2), {"samples": 3}) is None
        True
        >>> store.settle(handle, Cost(samples=1))
        >>> store.totals() == (Cost(samples=1), Cost())
        True
    """

    is_durable = False

    def __init__(self) -> None:
        self._spent = self._reserved = NOTHING
        self._held: dict[Hashable, Cost | None] = {}
        self._handles = itertools.count()
        self._period: int | None = None
        self._notes: dict[str, str] = {}
        self._lock = threading.Lock()
        _stores.add(self)

    # Each change is computed first, then stored in one statement of plain assignments: CPython looks for no signal
    # within, so that an interrupt leaves all or nothing.

    def totals(self) -> tuple[Cost, Cost]:
        """Return what is spent and what is reserved."""
        with self._lock:
            return self._spent, self._reserved

    def reserve(self, amount: Cost, limits: Limits) -> Hashable | None:
        """Set an amount aside and return a handle, or None if that would pass a limit."""
        handle = next(self._handles)
        try:
            with self._lock:
                if not fits(amount, limits, self._spent, self._reserved):
                    return None
                reserved = self._reserved + amount
                self._held[handle], self._reserved = amount, reserved
                return handle
        except BaseException:  # an interrupt: nobody has the handle
            self.settle(handle, Cost())
            raise

    def amend(self, handle: Hashable, amount: Cost, limits: Limits) -> bool:
        """Change what a handle holds; False if that would pass a limit, or if the handle is not open."""
        with self._lock:
            held = self._held.get(handle)
            if held is None:
                return False
            change = amount - held
            if not fits(change, limits, self._spent, self._reserved):
                return False
            reserved = self._reserved + change
            self._held[handle], self._reserved = amount, reserved
            return True

    def put_back(self, handle: Hashable, amount: Cost) -> None:
        """Have a handle hold an earlier amount again, whatever the limits."""
        self.amend(handle, amount, {})

    def settle(self, handle: Hashable, used: Cost, sample: tuple[bytes, int] | None = None) -> None:
        """Release a handle and spend what was used. The sample is not remembered: no later run can resume this one."""
        with self._lock:
            held = self._held.get(handle)
            if held is None:
                return
            reserved, spent = self._reserved - held, self._spent + used
            self._held[handle], self._reserved, self._spent = None, reserved, spent
            del self._held[handle]

    def paid(self, call: bytes) -> frozenset[int]:
        """Return the empty set: a budget in memory has no earlier run."""
        return frozenset()

    def roll(self, period: int) -> None:
        """Begin a period, unless it is not later than the present one."""
        nothing = Cost()
        with self._lock:
            begun = self._period
            if begun is not None and begun < period:
                self._period = period
                self._spent = nothing
            elif begun is None:
                self._period = period

    def reconcile(self, *, refund: bool = False) -> Cost:
        """Return nothing: the only owner is this process, and it lives."""
        return Cost()

    def note(self, notes: Mapping[str, str]) -> None:
        """Keep texts under their names; an empty text deletes its name."""
        with self._lock:
            kept = {**self._notes, **notes}
            for name, text in notes.items():
                if not text:
                    del kept[name]
            self._notes = kept

    def notes(self) -> dict[str, str]:
        """Return all texts that are kept, by name."""
        with self._lock:
            return dict(self._notes)

    def close(self) -> None:
        """Do nothing: there is no file to let go of."""

    # A copy is the same store. One that is loaded, with a program or a pool, begins empty: memory is not saved.
    def __copy__(self) -> MemoryStore:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> MemoryStore:
        return self

    def __reduce__(self) -> tuple[type[MemoryStore], tuple[()]]:
        return MemoryStore, ()


def _before_fork(store: MemoryStore) -> None:
    store._lock.acquire()


def _after_fork(store: MemoryStore, in_child: bool) -> None:
    if in_child:
        store._lock, store._held, store._reserved = threading.Lock(), {}, Cost()
    else:
        store._lock.release()


_stores = ForkGuard(_before_fork, _after_fork)

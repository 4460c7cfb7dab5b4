"""A budget kept in this process."""

from __future__ import annotations

import itertools
from collections.abc import Hashable

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.budget.stores.base import Limits, fits


class MemoryStore:
    """Keeps a ledger's sums in this process. Not thread safe on its own: the pool holds one lock around each use."""

    def __init__(self) -> None:
        self._spent = Cost()
        self._reserved = Cost()
        self._held: dict[Hashable, Cost] = {}
        self._handles = itertools.count()
        self._period: int | None = None

    def totals(self) -> tuple[Cost, Cost]:
        """What is spent, and what is reserved."""
        return self._spent, self._reserved

    def reserve(self, amount: Cost, limits: Limits) -> Hashable | None:
        """Set an amount aside, or return None."""
        if not fits(amount, limits, self._spent, self._reserved):
            return None
        handle = next(self._handles)
        self._held[handle] = amount
        self._reserved += amount
        return handle

    def amend(self, handle: Hashable, amount: Cost, limits: Limits) -> bool:
        """Hold another amount, or return False."""
        change = amount - self._held[handle]
        if not fits(change, limits, self._spent, self._reserved):
            return False
        self._held[handle] = amount
        self._reserved += change
        return True

    def settle(self, handle: Hashable, used: Cost, sample: tuple[bytes, int] | None = None) -> None:
        """Release a handle and spend what was used. Which sample it was is forgotten with the process."""
        self._reserved -= self._held.pop(handle)
        self._spent += used

    def paid(self, call: bytes) -> frozenset[int]:
        """None: a pool in memory has no earlier run to resume."""
        return frozenset()

    def roll(self, period: int) -> None:
        """Begin a period."""
        begun, self._period = self._period, period
        if begun != period:
            self._spent = Cost()

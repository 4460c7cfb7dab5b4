"""What a place to keep a budget has to offer."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Protocol

from dynscale_dspy.allocation.costs import Cost

Limits = Mapping[str, "int | None"]


class Store(Protocol):
    """Where a ledger keeps its sums. Each method is atomic, also between the processes that share a store.

    The whole of what another place to keep a budget has to offer: :class:`MemoryStore` here,
    :class:`dynscale_dspy.budget.stores.sqlite.SQLiteStore` for the processes of one machine.
    """

    def totals(self) -> tuple[Cost, Cost]:
        """What is spent, and what is reserved."""
        ...

    def reserve(self, amount: Cost, limits: Limits) -> Hashable | None:
        """Set an amount aside and return a handle to it; None, and nothing changes, if it would pass a limit."""
        ...

    def amend(self, handle: Hashable, amount: Cost, limits: Limits) -> bool:
        """Hold another amount under a handle; False, and nothing changes, if a unit that grows would pass a limit."""
        ...

    def settle(self, handle: Hashable, used: Cost, sample: tuple[bytes, int] | None = None) -> None:
        """Release a handle and spend what was used; also note which sample of which call this paid for."""
        ...

    def paid(self, call: bytes) -> frozenset[int]:
        """The samples of a call that are paid already."""
        ...

    def roll(self, period: int) -> None:
        """Begin a period, unless it has begun: nothing is spent then, and what is reserved stays so."""
        ...


def fits(change: Cost, limits: Limits, spent: Cost, reserved: Cost) -> bool:
    """Whether a change of what is reserved stays within the limits, in every unit that it lets grow."""
    for unit, limit in limits.items():
        if limit is None:
            continue
        more = getattr(change, unit)
        if more > 0 and getattr(spent, unit) + getattr(reserved, unit) + more > limit:
            return False
    return True

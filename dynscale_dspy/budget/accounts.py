"""The ledger: what is reserved, what is spent, and what may still be. It never lets a cap be passed."""

from __future__ import annotations

from collections.abc import Hashable

from dynscale_dspy.allocation.costs import METERED, UNITS, Cost
from dynscale_dspy.budget.stores.base import Store
from dynscale_dspy.budget.stores.memory import MemoryStore


class Reservation:
    """Budget set aside for one sample, in a ledger and in all above it. It is settled exactly once."""

    __slots__ = ("amount", "handle", "open", "outer")

    def __init__(self, amount: Cost, handle: Hashable, outer: Reservation | None) -> None:
        self.amount = amount
        self.handle = handle
        self.outer = outer
        self.open = True


class Ledger:
    """Reserves before, settles after: spent + reserved stays within every cap at every moment.

    Ledgers form a chain: what is charged to one is charged to all above it, or to none of them.

    Not thread safe on its own: the pool that owns it holds one lock around each operation.

    Args:
        samples: Cap on samples, or None for no cap.
        requests: Cap on language-model requests, or None.
        tokens: Cap on prompt and completion tokens together, or None.
        nanodollars: Cap on money, or None.
        parent: The ledger above.
        store: Where the sums are kept; in memory by default.

    Example:
        >>> day = Ledger(samples=1)
        >>> request = Ledger(samples=5, parent=day)
        >>> reservation = request.reserve(Cost(samples=1, requests=1))
        >>> request.reserve(Cost(samples=1)) is None
        True
        >>> request.settle(reservation, Cost(samples=1, requests=1, prompt_tokens=50))
        >>> day.spent.samples, day.spent.tokens
        (1, 50)
    """

    def __init__(
        self,
        *,
        samples: int | None = None,
        requests: int | None = None,
        tokens: int | None = None,
        nanodollars: int | None = None,
        parent: Ledger | None = None,
        store: Store | None = None,
    ) -> None:
        self.limits: dict[str, int | None] = {
            "samples": samples,
            "requests": requests,
            "tokens": tokens,
            "nanodollars": nanodollars,
        }
        self.parent = parent
        self.store: Store = store or MemoryStore()

    @property
    def spent(self) -> Cost:
        """What finished samples cost."""
        return self.store.totals()[0]

    @property
    def reserved(self) -> Cost:
        """What samples in flight hold."""
        return self.store.totals()[1]

    def capped(self, unit: str) -> bool:
        """Whether this ledger or one above it caps a unit."""
        return self.limits[unit] is not None or (self.parent is not None and self.parent.capped(unit))

    def remaining(self, unit: str) -> float:
        """What may still be reserved of a unit, here and in every ledger above; infinite without a cap."""
        above = self.parent.remaining(unit) if self.parent is not None else float("inf")
        limit = self.limits[unit]
        if limit is None:
            return above
        spent, reserved = self.store.totals()
        return min(above, max(limit - getattr(spent, unit) - getattr(reserved, unit), 0))

    def unspent(self, unit: str) -> float:
        """What would remain of a unit if everything in flight turned out to cost nothing."""
        above = self.parent.unspent(unit) if self.parent is not None else float("inf")
        limit = self.limits[unit]
        return above if limit is None else min(above, max(limit - getattr(self.spent, unit), 0))

    def used_share(self, unit: str) -> float:
        """The largest share of a cap on a unit that is spent, here or above; 0 without a cap."""
        above = self.parent.used_share(unit) if self.parent is not None else 0.0
        limit = self.limits[unit]
        return above if limit is None else max(above, getattr(self.spent, unit) / limit)

    def reserve(self, amount: Cost) -> Reservation | None:
        """Set an amount aside, or return None and change nothing if it would pass a cap here or above."""
        handle = self.store.reserve(amount, self.limits)
        if handle is None:
            return None
        outer = None
        if self.parent is not None:
            outer = self.parent.reserve(amount)
            if outer is None:
                self.store.settle(handle, Cost())
                return None
        return Reservation(amount, handle, outer)

    def amend(self, reservation: Reservation, amount: Cost) -> bool:
        """Hold another amount under an open reservation; False, and nothing changes, if it would pass a cap."""
        self._require_open(reservation)
        before = reservation.amount
        if not self.store.amend(reservation.handle, amount, self.limits):
            return False
        if (
            self.parent is not None
            and reservation.outer is not None
            and not self.parent.amend(reservation.outer, amount)
        ):
            self.store.amend(reservation.handle, before, {})
            return False
        reservation.amount = amount
        return True

    def extend(self, reservation: Reservation, more: Cost) -> bool:
        """Set more aside under an open reservation; False, and nothing changes, if it would pass a cap."""
        return self.amend(reservation, reservation.amount + more)

    def settle(
        self,
        reservation: Reservation,
        used: Cost,
        *,
        beyond: bool = False,
        sample: tuple[bytes, int] | None = None,
    ) -> None:
        """Close a reservation: what was used is spent, the rest is free again.

        Args:
            reservation: An open one.
            used: What it came to.
            beyond: Whether tokens and dollars may be more than was reserved, because no bound was known.
            sample: Which sample of which call this pays for, for stores that remember it.

        Raises:
            ValueError: If it was closed before, or if more was used than it holds.
        """
        self._require_open(reservation)
        for unit in UNITS:
            # Tokens and dollars that nobody caps are recorded, not reserved.
            free = unit in METERED and (beyond or not self.capped(unit))
            if getattr(used, unit) > getattr(reservation.amount, unit) and not free:
                raise ValueError(f"cannot settle {used}: only {reservation.amount} was reserved")
        reservation.open = False
        self.store.settle(reservation.handle, used, sample)
        if self.parent is not None and reservation.outer is not None:
            self.parent.settle(reservation.outer, used, beyond=True, sample=sample)

    def refund(self, reservation: Reservation) -> None:
        """Close a reservation of which nothing was used."""
        self.settle(reservation, Cost())

    @staticmethod
    def _require_open(reservation: Reservation) -> None:
        if not reservation.open:
            raise ValueError("this reservation is already settled")

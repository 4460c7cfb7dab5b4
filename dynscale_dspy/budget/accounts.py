"""The ledger: what is reserved, what is spent, and what may still be. It lets nothing in that would pass a cap."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

from dynscale_dspy._naming import name_of
from dynscale_dspy.allocation.costs import METERED, UNITS, Cost, CostRecord
from dynscale_dspy.budget.stores.backlog import Backlog
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
    """Reserves before, settles after: nothing is reserved that would take spent + reserved past a cap.

    What was used is booked whatever was reserved for it. If that passes a cap, the next reservation sees it.
    Ledgers form a chain: what is charged to one is charged to all above it, or to none of them.

    Not thread safe on its own: the pool that owns it holds one lock around each operation.

    Args:
        samples: Cap on samples, or None for no cap.
        requests: Cap on language-model requests, or None.
        tokens: Cap on prompt and completion tokens together, or None.
        nanodollars: Cap on money, or None.
        parent: The ledger above.
        store: Where the sums are kept; in memory by default.
        name: What has these caps, as messages call it.
        remedy: What raises a cap, with a place for its unit.

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
        name: str = "the pool",
        remedy: str = "raise {unit}=",
    ) -> None:
        self.name = name
        self.remedy = remedy
        self.limits: dict[str, int | None] = {
            "samples": samples,
            "requests": requests,
            "tokens": tokens,
            "nanodollars": nanodollars,
        }
        self.parent = parent
        # Memory does not fail; what any other store cannot settle is kept until it can.
        kept: Store = store or MemoryStore()
        self.store: MemoryStore | Backlog = (
            kept if type(kept) is MemoryStore or isinstance(kept, Backlog) else Backlog(kept)
        )

    @property
    def spent(self) -> Cost:
        """What finished samples cost."""
        return self.store.totals()[0]

    @property
    def reserved(self) -> Cost:
        """What samples in flight hold."""
        return self.store.totals()[1]

    def booked(self, unit: str) -> int:
        """What is spent or reserved of a unit."""
        spent, reserved = self.store.totals()
        return getattr(spent, unit) + getattr(reserved, unit)

    @property
    def chain(self) -> Iterator[Ledger]:
        """This ledger and all above it, the uppermost last."""
        ledger: Ledger | None = self
        while ledger is not None:
            yield ledger
            ledger = ledger.parent

    # Scopes may be nested a thousand deep: loops, where recursion would end at Python's limit.

    def capped(self, unit: str) -> bool:
        """Whether this ledger or one above it caps a unit."""
        ledger: Ledger | None = self
        while ledger is not None:
            if ledger.limits[unit] is not None:
                return True
            ledger = ledger.parent
        return False

    def remaining(self, unit: str) -> float:
        """What may still be reserved of a unit, here and in every ledger above; infinite without a cap."""
        left = float("inf")
        for ledger in self.chain:
            limit = ledger.limits[unit]
            if limit is not None:
                left = min(left, max(limit - ledger.booked(unit), 0))
        return left

    def unspent(self, unit: str) -> float:
        """What would remain of a unit if everything in flight turned out to cost nothing."""
        left = float("inf")
        for ledger in self.chain:
            limit = ledger.limits[unit]
            if limit is not None:
                left = min(left, max(limit - getattr(ledger.spent, unit), 0))
        return left

    def used_share(self, unit: str) -> float:
        """The largest share of a cap on a unit that is spent, here or above; 0 without a cap."""
        share = 0.0
        for ledger in self.chain:
            limit = ledger.limits[unit]
            if limit is not None:
                share = max(share, getattr(ledger.spent, unit) / limit if limit else 1.0)
        return share

    def reserve(self, amount: Cost) -> Reservation | None:
        """Set an amount aside, or return None and change nothing if it would pass a cap here or above.

        Raises:
            StorageError: If a store fails; nothing has changed then.
        """
        handles: list[tuple[Ledger, Hashable | None]] = []
        try:
            for ledger in self.chain:
                handles.append((ledger, ledger.store.reserve(amount, ledger.limits)))
                if handles[-1][1] is None:
                    _give_back(handles)
                    return None
            reservation: Reservation | None = None
            for _, handle in reversed(handles):
                reservation = Reservation(amount, handle, reservation)
            return reservation
        except BaseException:  # the store of one above has failed, or an interrupt came
            _give_back(handles)
            raise

    def amend(self, reservation: Reservation, amount: Cost) -> bool:
        """Hold another amount under an open reservation; False, and nothing changes, if it would pass a cap.

        Raises:
            StorageError: If a store fails; nothing has changed then.
        """
        return self._amend(reservation, amount, within=True)

    def hold_at_least(self, reservation: Reservation, used: Cost) -> None:
        """Hold what has been used already, though it may pass a cap: so the next reservation sees it.

        Raises:
            StorageError: If a store fails; nothing has changed then.
        """
        self._amend(reservation, reservation.amount.at_least(used), within=False)

    def exceeds(self, reservation: Reservation, used: Cost) -> bool:
        """Whether more was used than is held, of a unit that is capped here or above."""
        held = reservation.amount
        for unit in UNITS:  # noqa: SIM110  # asked twice a sample: a loop is quicker than a generator
            if getattr(used, unit) > getattr(held, unit) and self.capped(unit):
                return True
        return False

    def _amend(self, reservation: Reservation, amount: Cost, *, within: bool) -> bool:
        amended: list[tuple[Ledger, Reservation, Cost]] = []
        refused = True
        try:
            for ledger, held in self._held(reservation):
                self._require_open(held)
                if not ledger.store.amend(held.handle, amount, ledger.limits if within else {}):
                    return False
                amended.append((ledger, held, held.amount))
            for _, held, _ in amended:
                held.amount = amount
            refused = False
            return True
        finally:
            if refused:  # or the store of one above has failed, or an interrupt came
                for below, held, before in amended:
                    below.store.put_back(held.handle, before)
                    held.amount = before

    def extend(self, reservation: Reservation, more: Cost) -> bool:
        """Set more aside under an open reservation; False, and nothing changes, if it would pass a cap."""
        return self.amend(reservation, reservation.amount + more)

    def settle(
        self,
        reservation: Reservation,
        used: Cost,
        *,
        sample: tuple[bytes, int] | None = None,
    ) -> None:
        """Close a reservation: what was used is spent, more than it holds too; what was not is free again.

        Args:
            reservation: An open one.
            used: What it came to.
            sample: Which sample of which call this pays for, for stores that remember it.

        Raises:
            ValueError: If it was closed before.
        """
        self._require_open(reservation)
        # Stores settle a handle once, whatever they are told afterwards: after an interrupt this can be done again.
        settled: list[Reservation] = []
        for ledger, held in self._held(reservation):
            if held.open:
                ledger.store.settle(held.handle, used, sample)
                settled.append(held)
        for held in reversed(settled):
            held.open = False

    def refund(self, reservation: Reservation) -> None:
        """Close a reservation of which nothing was used."""
        self.settle(reservation, Cost())

    def _held(self, reservation: Reservation) -> Iterator[tuple[Ledger, Reservation]]:
        """Each ledger from here up, and what is held in it."""
        held: Reservation | None = reservation
        for ledger in self.chain:
            if held is None:
                return
            yield ledger, held
            held = held.outer

    @staticmethod
    def _require_open(reservation: Reservation) -> None:
        if not reservation.open:
            raise ValueError("this reservation is already settled")


def _give_back(handles: Sequence[tuple[Ledger, Hashable | None]]) -> None:
    for ledger, handle in handles:
        if handle is not None:
            ledger.store.settle(handle, Cost())


class Accounts:
    """The caps of one pool or scope, and what is reserved, spent and usual under them.

    Args:
        limits: Caps by unit; None for no cap.
        store: Where the sums are kept.
        around: The accounts of the pool around a scope: what is charged here is charged there too.
        name: What has these caps, as messages call it.
        remedy: What raises a cap, with a place for its unit.

    Attributes:
        ledger: Everything spent under these caps, by whatever process.
        local: What this process spends of it: the same, unless the store is shared with others.
        record: What samples cost on average.
    """

    def __init__(
        self,
        limits: Mapping[str, int | None],
        *,
        store: Store | None = None,
        around: Accounts | None = None,
        name: str = "the pool",
        remedy: str = "raise {unit}=",
    ) -> None:
        parent = around.local if around is not None else None
        self.ledger = Ledger(**limits, parent=parent, store=store, name=name, remedy=remedy)
        # Several processes may spend from one file; each paces its own calls by what they alone have drawn.
        self.local = Ledger(parent=self.ledger) if self.ledger.store.is_durable else self.ledger
        self.record = CostRecord()
        self.usual = CostRecord()
        self._period: int | None = None
        self._quotas: weakref.WeakKeyDictionary[Any, tuple[Store, dict[str, int | None]]] = weakref.WeakKeyDictionary()

    def committed(self, unit: str) -> float:
        """What this process has spent or will: samples in flight count what they usually cost."""
        spent, reserved = self.local.store.totals()
        if unit in METERED:
            return getattr(spent, unit) + reserved.samples * self.record.mean(unit)
        return getattr(spent, unit) + getattr(reserved, unit)

    def booked(self, unit: str) -> int:
        """What this process has spent or reserved: samples in flight count what they may cost at most."""
        return self.local.booked(unit)

    @property
    def metered(self) -> bool:
        """Whether tokens or dollars are capped, here or in a pool around."""
        return self.ledger.capped("tokens") or self.ledger.capped("nanodollars")

    @property
    def binding_unit(self) -> str | None:
        """``"tokens"`` or ``"nanodollars"``, if that is the cap of which most is spent; None otherwise."""
        shares = {unit: self.ledger.used_share(unit) for unit in UNITS if self.ledger.capped(unit)}
        if not any(unit in shares for unit in METERED):
            return None
        # Of equal shares, as in the beginning, what costs money counts.
        unit = max(shares, key=lambda unit: (shares[unit], UNITS.index(unit)))
        return unit if unit in METERED else None

    # ---- quotas of modules

    def set_quota(self, module: Any, fraction: float) -> None:
        """Let a module spend at most a part of the caps. What it has spent of an earlier quota counts in the new one.

        Raises:
            ValueError: If there is no cap, or a part would be nothing.
        """
        limits = {
            unit: None if limit is None else math.floor(limit * fraction) for unit, limit in self.ledger.limits.items()
        }
        if all(limit is None for limit in limits.values()):
            raise ValueError("this pool has no cap to share: make it with samples=, requests=, tokens= or dollars=")
        if 0 in limits.values():
            raise ValueError(f"fraction={fraction!r} of the caps is less than one: raise the caps or the fraction")
        store = self._quotas[module][0] if module in self._quotas else MemoryStore()
        if self._period is not None:
            store.roll(self._period)
        self._quotas[module] = (store, limits)

    def under_quota(self, module: Any, ledger: Ledger) -> Ledger:
        """The ledger of the module's quota, below the given one; the given one if it has none."""
        quota = self._quotas.get(module)
        if quota is None:
            return ledger
        name, remedy = f"the share of {name_of(module)}", "raise its fraction with reserve_for()"
        return Ledger(**quota[1], parent=ledger, store=quota[0], name=name, remedy=remedy)

    def quotas(self) -> list[tuple[Any, Cost, dict[str, int | None]]]:
        """Each module with a quota, what it has spent of it, and its limits."""
        return [(module, store.totals()[0], limits) for module, (store, limits) in self._quotas.items()]

    def roll(self, period: int) -> None:
        """Begin a period, the first or a later one: what was spent in an earlier one no longer counts."""
        self._period = period
        self.ledger.store.roll(period)
        for store in (self.local.store, *(store for store, _ in self._quotas.values())):
            store.roll(period)


class Periods:
    """Tells when a period begins.

    Args:
        seconds: The length of a period; None for one that never ends.
        clock: Seconds since the epoch.
        roll: Called with the number of a period that begins, and whether it is the first this object has seen.
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float], roll: Callable[[int, bool], object]) -> None:
        self.seconds = seconds
        self._clock = clock
        self._roll = roll
        self._number: int | None = None

    def seconds_left(self) -> float:
        """Seconds to the next one; infinite where there is none."""
        return float("inf") if self.seconds is None else self.seconds - self._clock() % self.seconds

    def look(self) -> None:
        """Begin the period that the clock is in, unless it has begun. A clock that steps back begins none."""
        if self.seconds is None:
            return
        number = int(self._clock() // self.seconds)
        if self._number is None or number > self._number:
            # Only what has been rolled counts as begun: a file that was locked is tried again at the next look.
            self._roll(number, self._number is None)
            self._number = number

"""The ledger: what is reserved, what is spent, and what may still be. It never lets a cap be passed."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Protocol

NANO = 10**9
"""Nanodollars in a dollar: money is counted in integers, so that a thousand small prices add up exactly."""


@dataclass(frozen=True)
class Cost:
    """An amount in every unit at once. Everything is an integer: sums are exact, and a cap is met to the last one.

    Args:
        samples: Runs of a wrapped program.
        calls: Language-model requests those runs made, retries included. An answer from DSPy's cache counts as a call,
            so that a warm cache changes no decision.
        prompt_tokens: Tokens read, as reported; 0 for cached answers.
        completion_tokens: Tokens written, hidden reasoning included.
        cached_tokens: Those of the prompt tokens that the provider's prompt cache held.
        nanodollars: Price in billionths of a dollar, where the language model's is known.
        cached_calls: Those of the calls that DSPy's cache answered: they cost no token and no dollar.

    Example:
        >>> cost = Cost(samples=1, calls=2, prompt_tokens=30, completion_tokens=12, nanodollars=1_500_000)
        >>> cost.tokens, cost.dollars
        (42, 0.0015)
    """

    samples: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    nanodollars: int = 0
    cached_calls: int = 0

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def dollars(self) -> float:
        """Price in dollars."""
        return self.nanodollars / NANO

    def __add__(self, other: Cost) -> Cost:
        # Written out: this runs a dozen times a sample.
        return Cost(
            self.samples + other.samples,
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.nanodollars + other.nanodollars,
            self.cached_calls + other.cached_calls,
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.samples - other.samples,
            self.calls - other.calls,
            self.prompt_tokens - other.prompt_tokens,
            self.completion_tokens - other.completion_tokens,
            self.cached_tokens - other.cached_tokens,
            self.nanodollars - other.nanodollars,
            self.cached_calls - other.cached_calls,
        )

    def at_least(self, other: Cost) -> Cost:
        """The larger amount, unit by unit."""
        return Cost(
            max(self.samples, other.samples),
            max(self.calls, other.calls),
            max(self.prompt_tokens, other.prompt_tokens),
            max(self.completion_tokens, other.completion_tokens),
            max(self.cached_tokens, other.cached_tokens),
            max(self.nanodollars, other.nanodollars),
            max(self.cached_calls, other.cached_calls),
        )


UNITS = ("samples", "calls", "tokens", "nanodollars")
"""What a ledger can cap."""
METERED = ("tokens", "nanodollars")
"""Units whose amount is known only when a request has been answered; before, there is an upper bound at best."""

Limits = Mapping[str, "int | None"]


class Store(Protocol):
    """Where a ledger keeps its sums. Each method is atomic, also between the processes that share a store.

    The whole of what another place to keep a budget has to offer: :class:`MemoryStore` here,
    :class:`dynscale_dspy.storage.SQLiteStore` for the processes of one machine.
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


def fits(change: Cost, limits: Limits, spent: Cost, reserved: Cost) -> bool:
    """Whether a change of what is reserved stays within the limits, in every unit that it lets grow."""
    for unit, limit in limits.items():
        if limit is None:
            continue
        more = getattr(change, unit)
        if more > 0 and getattr(spent, unit) + getattr(reserved, unit) + more > limit:
            return False
    return True


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
        calls: Cap on language-model requests, or None.
        tokens: Cap on prompt and completion tokens together, or None.
        nanodollars: Cap on money, or None.
        parent: The ledger above.
        store: Where the sums are kept; in memory by default.

    Example:
        >>> day = Ledger(samples=1)
        >>> request = Ledger(samples=5, parent=day)
        >>> reservation = request.reserve(Cost(samples=1, calls=1))
        >>> request.reserve(Cost(samples=1)) is None
        True
        >>> request.settle(reservation, Cost(samples=1, calls=1, prompt_tokens=50))
        >>> day.spent.samples, day.spent.tokens
        (1, 50)
    """

    def __init__(
        self,
        *,
        samples: int | None = None,
        calls: int | None = None,
        tokens: int | None = None,
        nanodollars: int | None = None,
        parent: Ledger | None = None,
        store: Store | None = None,
    ) -> None:
        self.limits: dict[str, int | None] = {
            "samples": samples,
            "calls": calls,
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

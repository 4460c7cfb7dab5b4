"""The ledger: what is reserved, what is spent, and what may still be. It never lets a cap be passed."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Cost:
    """An amount in every unit at once.

    Args:
        samples: Runs of a wrapped program.
        calls: Language-model calls those runs made. An answer from DSPy's cache counts as a call, so that a warm
            cache changes no decision; the transport's own retries inside a call do not.
        tokens: Prompt and completion tokens, as reported; 0 for cached answers.
        dollars: Price, where the language model's is known.
    """

    samples: int = 0
    calls: int = 0
    tokens: int = 0
    dollars: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, unit) + getattr(other, unit) for unit in UNITS))

    def __sub__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, unit) - getattr(other, unit) for unit in UNITS))


UNITS = tuple(unit.name for unit in fields(Cost))


class Reservation:
    """Budget set aside for one sample. It is settled exactly once; see :class:`Ledger`."""

    __slots__ = ("amount", "open")

    def __init__(self, amount: Cost) -> None:
        self.amount = amount
        self.open = True


class Ledger:
    """Reserves before, settles after: spent + reserved stays within every cap at every moment.

    Not thread safe on its own: the pool that owns it holds one lock around each operation.

    Args:
        samples: Cap on samples, or None for no cap.
        calls: Cap on language-model calls, or None.

    Example:
        >>> ledger = Ledger(samples=1)
        >>> reservation = ledger.reserve(Cost(samples=1, calls=1))
        >>> ledger.reserve(Cost(samples=1)) is None
        True
        >>> ledger.settle(reservation, Cost(samples=1, calls=1, tokens=50))
        >>> ledger.spent
        Cost(samples=1, calls=1, tokens=50, dollars=0.0)
    """

    def __init__(self, *, samples: int | None = None, calls: int | None = None) -> None:
        # Tokens and dollars are recorded, not capped: capping them needs an upper bound before each sample.
        self.limits: dict[str, int | None] = {"samples": samples, "calls": calls}
        self.spent = Cost()
        self.reserved = Cost()

    def remaining(self, unit: str) -> float:
        """What may still be reserved of a unit; infinite without a cap."""
        limit = self.limits.get(unit)
        if limit is None:
            return float("inf")
        return limit - getattr(self.spent, unit) - getattr(self.reserved, unit)

    def reserve(self, amount: Cost) -> Reservation | None:
        """Set an amount aside, or return None and change nothing if it would pass a cap."""
        if not self._fits(amount):
            return None
        self.reserved += amount
        return Reservation(amount)

    def extend(self, reservation: Reservation, amount: Cost) -> bool:
        """Set more aside under an open reservation; False, and nothing changes, if it would pass a cap."""
        self._require_open(reservation)
        if not self._fits(amount):
            return False
        self.reserved += amount
        reservation.amount += amount
        return True

    def shrink(self, reservation: Reservation, amount: Cost) -> None:
        """Keep only ``amount`` of an open reservation; the rest is free again."""
        self._require_open(reservation)
        self.reserved -= reservation.amount - amount
        reservation.amount = amount

    def settle(self, reservation: Reservation, used: Cost) -> None:
        """Close a reservation: what was used is spent, the rest is free again.

        Raises:
            ValueError: If it was closed before, or if more samples or calls were used than it holds.
        """
        self._require_open(reservation)
        for unit in self.limits:
            if getattr(used, unit) > getattr(reservation.amount, unit):
                raise ValueError(f"cannot settle {used}: only {reservation.amount} was reserved")
        reservation.open = False
        self.reserved -= reservation.amount
        self.spent += used

    def refund(self, reservation: Reservation) -> None:
        """Close a reservation of which nothing was used."""
        self.settle(reservation, Cost())

    def _fits(self, amount: Cost) -> bool:
        return all(getattr(amount, unit) <= self.remaining(unit) for unit in self.limits)

    @staticmethod
    def _require_open(reservation: Reservation) -> None:
        if not reservation.open:
            raise ValueError("this reservation is already settled")

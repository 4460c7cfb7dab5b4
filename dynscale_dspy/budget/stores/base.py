"""The protocol of a store: the place where a ledger keeps what is spent and what is reserved."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Protocol, runtime_checkable

from dynscale_dspy.allocation.costs import Cost

Limits = Mapping[str, "int | None"]
"""The most that may be spent and reserved together, by unit; None, or no entry, where there is no limit."""


@runtime_checkable
class Store(Protocol):
    """A place to keep a budget: what is spent, what is reserved, and by whom.

    Every method is atomic, and may be called from any thread at any time; a store that several processes share keeps
    that promise between them too. Stores take their limits as arguments and remember none.

    :class:`~dynscale_dspy.budget.stores.memory.MemoryStore` keeps a budget in this process,
    :class:`~dynscale_dspy.budget.stores.sqlite.SQLiteStore` in a file. To write another one, implement these methods
    and run :class:`dynscale_dspy.testing.StoreLaws` on it.
    """

    @property
    def is_durable(self) -> bool:
        """Whether the budget outlives this process.

        Others may share such a store and free budget without telling this process. Its methods touch a file or a
        network and may block, so an event loop should call them in a thread.
        """
        ...

    def totals(self) -> tuple[Cost, Cost]:
        """Return what is spent and what is reserved, as of one moment."""
        ...

    def reserve(self, amount: Cost, limits: Limits) -> Hashable | None:
        """Set an amount aside, unless that would pass a limit.

        Args:
            amount: What to reserve.
            limits: The limits that spent and reserved amounts must keep together.

        Returns:
            A handle to the reservation, never given out twice; None if a limit would be passed, and then nothing
            changes. A limit that is passed already stops only what would add to its unit.
        """
        ...

    def amend(self, handle: Hashable, amount: Cost, limits: Limits) -> bool:
        """Change the amount that a handle holds, unless a unit that grows would pass its limit.

        Returns:
            True if the handle now holds the amount. False if a limit would be passed or the handle is not open, and
            then nothing changes.
        """
        ...

    def settle(self, handle: Hashable, used: Cost, sample: tuple[bytes, int] | None = None) -> None:
        """Release what a handle holds and spend what was used. A handle that is not open changes nothing.

        Args:
            handle: What :meth:`reserve` returned.
            used: What to spend; it may be more than the handle holds.
            sample: The sample that this paid for, as the key of its call and its number, for :meth:`paid`.
        """
        ...

    def paid(self, call: bytes) -> frozenset[int]:
        """Return the numbers of a call's samples that are paid. A store that is not durable may forget them."""
        ...

    def roll(self, period: int) -> None:
        """Begin a period: spent amounts go back to zero, reserved ones stay.

        A period that is not later than the present one changes nothing, so a clock may step back. In a store that had
        no period before, what was spent so far counts as spent in the first one.
        """
        ...

    def reconcile(self, *, refund: bool = False) -> Cost:
        """Settle what dead owners left reserved, and return how much that was.

        Args:
            refund: Whether nothing of it was used. By default it counts as spent.
        """
        ...

    def note(self, notes: Mapping[str, str]) -> None:
        """Keep texts under their names, all of them or none. An empty text deletes its name."""
        ...

    def notes(self) -> dict[str, str]:
        """Return all texts that are kept, by name."""
        ...

    def close(self) -> None:
        """Let go of files and connections. What is still reserved is then left to :meth:`reconcile`."""
        ...


def fits(change: Cost, limits: Limits, spent: Cost, reserved: Cost) -> bool:
    """Return whether a change of what is reserved keeps the limits of all units that it increases."""
    for unit, limit in limits.items():
        if limit is None:
            continue
        more = getattr(change, unit)
        if more > 0 and getattr(spent, unit) + getattr(reserved, unit) + more > limit:
            return False
    return True

"""Warnings when a share of a cap is spent."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dynscale_dspy.allocation.costs import NANO
from dynscale_dspy.budget.accounts import Ledger

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BudgetWarning:
    """A pool has spent the share of a cap at which it was to say so.

    Args:
        pool: The :class:`BudgetPool`.
        unit: ``"samples"``, ``"requests"``, ``"tokens"`` or ``"dollars"``.
        spent: What is spent of it.
        limit: The cap.
    """

    pool: Any
    unit: str
    spent: float
    limit: float

    def __str__(self) -> str:
        return f"{self.spent:g} of {self.limit:g} {self.unit} are spent"


class CapAlerts:
    """Tells once for each cap that a share of it is spent.

    Args:
        pool: The pool, for the warnings.
        share: The share of a cap at which to tell, between 0 and 1; None for never.
        tell: Called with each warning; by default it is logged.
    """

    def __init__(self, pool: Any, share: float | None, tell: Callable[[BudgetWarning], object] | None = None) -> None:
        self.share = share
        self.tell = tell
        self._pool = pool
        self._told: set[str] = set()

    def due(self, ledger: Ledger) -> list[BudgetWarning]:
        """The warnings that have become due, each once; they are then to be handed to :meth:`send`."""
        if self.share is None:
            return []
        spent, found = ledger.spent, []
        for unit, limit in ledger.limits.items():
            if limit is None or unit in self._told or getattr(spent, unit) < self.share * limit:
                continue
            self._told.add(unit)
            scale, name = (NANO, "dollars") if unit == "nanodollars" else (1, unit)
            found.append(BudgetWarning(self._pool, name, getattr(spent, unit) / scale, limit / scale))
        return found

    def send(self, warning: BudgetWarning) -> None:
        """Tell. Called outside the pool's lock: the user's function may ask the pool."""
        if self.tell is None:
            logger.warning("%s", warning)
            return
        try:
            self.tell(warning)
        except Exception as error:  # a sample that was paid for must not be lost to a faulty callback
            logger.error("on_warning failed with %s", type(error).__name__)

    def reset(self) -> None:
        """A period has begun: caps are warned of anew."""
        self._told.clear()

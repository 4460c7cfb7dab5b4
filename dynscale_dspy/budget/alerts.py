"""Warnings when a share of a cap is spent, and when one is passed."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dynscale_dspy.allocation.costs import NANO, Cost
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


class CapPassed(RuntimeWarning):
    """What providers say was used has passed a cap: nobody could know before. Nothing more is let in under it."""


class CapNotSure(RuntimeWarning):
    """Nothing bounds what a request can cost, so that a cap may be passed before anybody knows."""


def warn(words: str, category: type[Warning]) -> None:
    """Log something, and warn of it, so that it is on the screen of a user who configures no logging."""
    logger.warning("%s", words)
    with contextlib.suppress(Exception):  # a filter makes it an error: no sample that was paid is lost to that
        warnings.warn(words, category, stacklevel=3)


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
        self._passed: dict[tuple[object, str], int] = {}

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

    def passed(self, of: object, spent: Cost, limits: Mapping[str, int | None]) -> list[str]:
        """What there is to say of caps that are passed: first when one is, then each time the excess has doubled.

        The texts are to be handed to :meth:`say`.

        Args:
            of: What has the caps: None for the pool itself, or what names a module that has a share of it.
            spent: What is spent under them.
            limits: The caps.
        """
        found = []
        for unit, limit in limits.items():
            excess = getattr(spent, unit) - limit if limit is not None else 0
            if limit is None or excess <= 0 or excess < 2 * self._passed.get((of, unit), 0):
                continue
            self._passed[of, unit] = excess
            scale, name = (NANO, "dollars") if unit == "nanodollars" else (1, unit)
            found.append(
                f"a cap of {limit / scale:.12g} {name} is passed by {excess / scale:.12g}: language models report more "
                f"than could be set aside before, {getattr(spent, unit) / scale:.12g} in all. No further sample is let "
                "in under this cap; strict=True refuses requests that nothing bounds"
            )
        return found

    @staticmethod
    def say(passed: str) -> None:
        """Log that a cap is passed, and warn of it. Called outside the pool's lock."""
        warn(passed, CapPassed)

    def reset(self) -> None:
        """A period has begun: caps are warned of anew."""
        self._told.clear()
        self._passed.clear()

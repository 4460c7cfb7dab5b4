"""What a measurement of several runs may spend: one budget, of which each run's pool gets what is left."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.budget.arms import Arm
from dynscale_dspy.budget.pool import BudgetPool
from dynscale_dspy.config import PoolSettings
from dynscale_dspy.errors import BudgetExhausted
from dynscale_dspy.tuning.verdict import Spending

CAPS = ("samples", "requests", "tokens", "dollars", "deadline")
_OWN = ("policy", "seed", "per_call", "min_per_call", "max_per_call", "path", "store", "period", "on_empty")
"""Arguments of a pool that a run sets, or that make no sense for one."""


class Funds:
    """The budget of several runs, one after the other.

    Args:
        budget: A number of samples, or caps by name and other arguments of a pool; None for no cap.

    Raises:
        TypeError: If it is neither.
        ValueError: If a cap is out of range, or an argument is for the runs to set.

    Example:
        >>> funds = Funds({"samples": 10, "dollars": 0.5})
        >>> funds.left("samples"), funds.left("tokens")
        (10.0, inf)
    """

    def __init__(self, budget: int | Mapping[str, Any] | None = None) -> None:
        if budget is not None and (isinstance(budget, bool) or not isinstance(budget, (int, Mapping))):
            raise TypeError(
                f'budget must be a number of samples, or caps by name such as {{"dollars": 0.5}}, got {budget!r}'
            )
        arguments = dict(budget) if isinstance(budget, Mapping) else {} if budget is None else {"samples": budget}
        own = [name for name in _OWN if name in arguments]
        if own:
            raise ValueError(f"budget cannot have {own[0]!r}: the check sets that itself")
        self._caps = {unit: arguments.pop(unit) for unit in CAPS if arguments.get(unit) is not None}
        self._others = arguments
        if self._caps or arguments:
            PoolSettings(**{"samples": 1, **self._caps, **arguments})  # refused before anything is spent
        self._began = time.monotonic()
        self.spent = Cost()

    def left(self, unit: str) -> float:
        """What is left of a unit, or in seconds of the deadline; infinite without a cap."""
        gone = time.monotonic() - self._began if unit == "deadline" else getattr(self.spent, unit)
        return max(float(self._caps.get(unit, math.inf)) - gone, 0.0)

    def shortage(self, each: Spending, samples: int) -> str:
        """Why there is not enough for so many samples of this cost; empty if there is, as far as is known."""
        needs = {"samples": 1.0, "requests": each.requests, "tokens": each.tokens, "dollars": each.dollars}
        for unit, one in needs.items():
            needed = (one or 0.0) * samples
            if self.left(unit) < needed:
                return f"it takes about {needed:,.6g} {unit}, and {self.left(unit):,.6g} are left"
        return "" if self.left("deadline") else "the deadline has passed"

    def pool(self, samples: int, **arguments: Any) -> BudgetPool:
        """A pool of at most so many samples and what is left of each cap.

        Args:
            samples: What the run may draw.
            **arguments: Further settings of the pool.

        Raises:
            BudgetExhausted: If nothing is left of a cap.
        """
        caps: dict[str, Any] = {unit: self.left(unit) for unit in self._caps}
        for unit, left in caps.items():
            if not left:
                raise BudgetExhausted(f"the budget of the check has no {unit} left: raise {unit}= of budget=")
            caps[unit] = left if unit in ("dollars", "deadline") else int(left)
        caps["samples"] = min(samples, caps.get("samples", samples))
        return BudgetPool.made(PoolSettings(**{**caps, **arguments, **self._others}))

    def book(self, pool: BudgetPool, program: object, samples: int) -> None:
        """A run is over.

        Args:
            pool: Its pool.
            program: The module that was called.
            samples: What it might have drawn.

        Raises:
            BudgetExhausted: If it drew fewer, and a cap allows no further one.
        """
        spent = pool.statistics().spent
        self.spent += spent
        lacking = "" if spent.samples >= samples else Arm(pool.admission, program=program).lacking()
        if lacking or not self.left("deadline"):
            raise BudgetExhausted(
                f"the budget of the check ended before it was through: {lacking or 'the deadline has passed'}"
            )

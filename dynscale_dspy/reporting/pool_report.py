"""All that text, HTML and the live view show of a pool."""

from __future__ import annotations

from dataclasses import dataclass

from dynscale_dspy.reporting.history import History, Part
from dynscale_dspy.reporting.statistics import PoolStatistics


@dataclass(frozen=True)
class PoolReport:
    """A pool at one moment and how it came there; made by :meth:`BudgetPool.report`.

    Args:
        statistics: Spending, caps and state.
        history: The latest calls, and what each program has spent.
        parts: Shares of modules, and open scopes.
        title: What to call the pool.
    """

    statistics: PoolStatistics
    history: History
    parts: tuple[Part, ...] = ()
    title: str = "BudgetPool"

"""The figures of a pool at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dynscale_dspy import _deprecated
from dynscale_dspy.allocation.costs import NANO, Cost

STATISTIC_UNITS = ("samples", "requests", "tokens", "dollars")
"""Units in which a pool states its spending and its caps."""


@dataclass(frozen=True)
class PoolStatistics:
    """A snapshot of a pool, for people and tests.

    Args:
        spent: What finished samples cost.
        reserved: What samples in flight hold. Their tokens are not split into kinds.
        limits: Hard caps by unit; None where there is none.
        seconds_left: Until the deadline; None without one.
        open_calls: Calls being answered now.
        closed_calls: Calls answered, or failed.
        unscaled_runs: Calls answered by one run outside the budget (``on_empty="run_once"``).
        price: The online shadow price: a sample worth less is refused. None before the first call asks for it.
        samples_per_call: How many closed calls drew how many samples.
        distrusted: Number of implausible usage reports, by reason; those requests are charged at their bound.
        state: ``"open"``, ``"paused"`` or ``"stopped"``.
        cause: Name of the error for which the pool stopped itself; empty if it did not.
        concurrency: Requests that may be under way now; None without a limit.
    """

    spent: Cost
    reserved: Cost
    limits: Mapping[str, float | None]
    seconds_left: float | None
    open_calls: int
    closed_calls: int
    unscaled_runs: int
    price: float | None
    samples_per_call: Mapping[int, int]
    distrusted: Mapping[str, int] = field(default_factory=dict)
    state: Literal["open", "paused", "stopped"] = "open"
    cause: str = ""
    concurrency: int | None = None

    def metrics(self) -> dict[str, float]:
        """As plain numbers by name, for a tracker: ``mlflow.log_metrics(pool.statistics().metrics())``.

        Example:
            >>> from dynscale_dspy import BudgetPool
            >>> BudgetPool(samples=100).statistics().metrics()["dynscale.left.samples"]
            100.0
        """
        values: dict[str, float] = {}
        for unit in STATISTIC_UNITS:
            spent, limit = getattr(self.spent, unit), self.limits.get(unit)
            values[f"dynscale.spent.{unit}"] = float(spent)
            if limit is not None:
                values[f"dynscale.left.{unit}"] = float(limit) - spent - getattr(self.reserved, unit)
        if self.seconds_left is not None:
            values["dynscale.left.seconds"] = self.seconds_left
        values["dynscale.calls.answered"] = float(self.closed_calls)
        values["dynscale.calls.open"] = float(self.open_calls)
        values["dynscale.calls.unscaled"] = float(self.unscaled_runs)
        if self.price is not None:
            values["dynscale.price"] = self.price
        return values


def limits_in_dollars(limits: Mapping[str, int | None]) -> Limits:
    """A ledger's caps, with money in dollars instead of ``nanodollars``.

    Example:
        >>> limits_in_dollars({"samples": 10, "nanodollars": 2_500_000_000})
        {'samples': 10, 'dollars': 2.5}
    """
    nanodollars = limits["nanodollars"]
    others: dict[str, float | None] = {unit: limit for unit, limit in limits.items() if unit != "nanodollars"}
    return Limits({**others, "dollars": None if nanodollars is None else nanodollars / NANO})


class Limits(dict[str, "float | None"]):
    """Caps by unit. Version 0.1 named requests ``"calls"``, which still finds them and warns."""

    def get(self, unit: str, default: Any = None) -> Any:
        """The cap on a unit."""
        if unit == "calls":
            _deprecated.warn("the unit 'calls'", "'requests'")
            unit = "requests"
        return super().get(unit, default)

    def __missing__(self, unit: str) -> float | None:
        if unit != "calls":
            raise KeyError(unit)
        _deprecated.warn("the unit 'calls'", "'requests'")
        return self["requests"]

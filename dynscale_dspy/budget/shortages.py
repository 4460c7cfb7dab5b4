"""Why something cannot be paid, in words: which cap, its size, what is spent, reserved and needed, and what to do."""

from __future__ import annotations

from dynscale_dspy.allocation.costs import METERED, NANO, UNITS, Cost
from dynscale_dspy.budget.accounts import Ledger

NO_COST = Cost()


def lacking(ledger: Ledger, need: Cost, needing: str, *, held: Cost = NO_COST) -> str:
    r"""Each cap, here and above, that would be passed by what is needed; empty if none would be.

    Args:
        ledger: Where it would be reserved.
        need: What is needed.
        needing: Who needs it, with a place for how much: ``"a first sample needs {}"``.
        held: What of it is reserved already.

    Example:
        >>> ledger = Ledger(samples=1)
        >>> ledger.settle(ledger.reserve(Cost(samples=1)), Cost(samples=1))
        >>> print(lacking(ledger, Cost(samples=1), "a first sample needs {}").replace(", ", "\n"))
        1 of 1 samples of the pool are spent
        0 reserved by others under way
        0 left
        and a first sample needs 1: raise samples=
    """
    said = []
    for each in ledger.chain:
        all_spent, all_reserved = each.store.totals()
        for unit in UNITS:
            limit, needed, spent = each.limits[unit], getattr(need, unit), getattr(all_spent, unit)
            others = getattr(all_reserved, unit) - getattr(held, unit)
            if limit is None or not needed or spent + others + needed <= limit:
                continue
            name = "dollars" if unit == "nanodollars" else unit
            cap = exactly(limit, unit) + ("" if name == "dollars" else f" {name}")
            left = exactly(max(limit - spent - others, 0), unit)
            remedies = [each.remedy.format(unit=name)]
            if unit in METERED:
                remedies.append("give the language model a lower max_tokens")
            if spent + needed <= limit:
                remedies.append("ask again when the others are done")
            said.append(
                f"{exactly(spent, unit)} of {cap} of {each.name} are spent, {exactly(others, unit)} reserved by others "
                f"under way, {left} left, and {needing.format(exactly(needed, unit))}: {' or '.join(remedies)}"
            )
    return "; ".join(said)


def exactly(value: float, unit: str) -> str:
    """An amount of a ledger's unit with as many digits as it takes to tell it from the next one.

    Example:
        >>> exactly(412_370, "nanodollars"), exactly(1200, "tokens")
        ('$0.00041237', '1,200')
    """
    if unit != "nanodollars":
        return f"{value:,.0f}"
    return f"${value / NANO:,.9f}".rstrip("0").rstrip(".")

"""How the samples of a pool are spread over its calls: an allowance in each unit, and a price."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

from dynscale_dspy.allocation.costs import METERED, Cost
from dynscale_dspy.allocation.policies import Policy
from dynscale_dspy.allocation.pricing import Allowance, ShadowPrice
from dynscale_dspy.allocation.requests import LaterDemand

DEFAULT_PER_CALL = 8
"""Samples a call is allowed on average where nothing says how many calls will come."""


class Needs(Protocol):
    """What samples of one program take of a budget, as far as known."""

    def each(self, unit: str) -> float:
        """What one sample takes of a unit on average, requests at most; 0 if that is not known yet."""
        ...

    @property
    def has_models(self) -> bool:
        """Whether its samples are drawn from several language models."""
        ...

    @property
    def beyond_usual(self) -> float:
        """What the samples of the call count as, less their number: one of a dear language model counts as several."""
        ...

    def bounds(self, unit: str) -> tuple[float, float]:
        """The most that the first sample of a call, and any sample, takes of tokens or nanodollars."""
        ...


class Spending(Protocol):
    """What is spent of the budget that is paced."""

    def committed(self, unit: str) -> float:
        """What is spent or will be: samples in flight count what they usually cost."""
        ...

    def booked(self, unit: str) -> int:
        """What is spent or reserved: samples in flight count what they may cost at most."""
        ...


class Pacing:
    """Spreads what a pool may spend over its calls, as they come or as they were announced.

    Args:
        policy: What a sample is worth.
        spending: What is spent.
        per_call: Samples a call may draw on average; None to leave it to the caps, or to :data:`DEFAULT_PER_CALL`.
        expected: The number of calls announced; None if unknown.
        left: What each cap leaves, by unit, to be spread over the announced calls.
        priced: Told the online price when it is opened.

    Attributes:
        allowances: What may be spent so far, by unit.
        price: The online price; None before the first call asks for it.
        paced: Whether the user said how many samples a call may draw on average.
        expected: The number of calls announced.
    """

    def __init__(
        self,
        policy: Policy,
        spending: Spending,
        *,
        per_call: float | None = None,
        expected: int | None = None,
        left: Mapping[str, float] | None = None,
        priced: Callable[[ShadowPrice], object] = lambda price: None,
    ) -> None:
        self.policy = policy
        self.paced = per_call is not None or expected is not None
        self.expected = expected
        self.price: ShadowPrice | None = None
        self._spending = spending
        self._tell_price = priced
        self._is_default = False
        each: dict[str, float] = {}
        if expected is not None:
            each = {unit: amount / expected for unit, amount in (left or {}).items() if amount < math.inf}
        if not any(unit not in METERED for unit in each):
            each["samples"] = per_call or DEFAULT_PER_CALL
            self._is_default = per_call is None
        self.allowances = {
            unit: Allowance(
                amount, first=policy.first, expected=expected, committed=math.ceil(spending.committed(unit))
            )
            for unit, amount in each.items()
        }

    def price_for(self, needs: Needs, *, at_least: int) -> ShadowPrice:
        """The online price, opened when the first call asks for it: a known set of calls needs none."""
        if self.price is None:
            first = self.first(needs, at_least=at_least)
            self.price = ShadowPrice.opening(self.policy, self.per_call_of(needs), first=first)
            self._tell_price(self.price)
        return self.price

    def first(self, needs: Needs, *, at_least: int) -> int:
        """Guaranteed samples of a call: never more than its average, unless a minimum asks for more.

        Args:
            needs: What a sample takes.
            at_least: The pool's minimum.
        """
        return max(1, min(self.policy.first, int(self.per_call_of(needs))), at_least)

    def per_call_of(self, needs: Needs) -> float:
        """Samples a call may draw on average, by the tightest unit."""
        return min(allowance.per_call / each for _, allowance, each in self._priced(needs))

    def tightest(self, needs: Needs) -> str:
        """The unit of which a call may draw fewest samples on average."""
        return min(self._priced(needs), key=lambda entry: entry[1].per_call / entry[2])[0]

    def credit(self, needs: Needs, *, opening: int = 0, lent: bool = True) -> int:
        """Samples that may be drawn now, by the tightest unit.

        Args:
            needs: What a sample takes.
            opening: Calls about to open, counted as if they had.
            lent: Whether the announced calls that are to come lend any.
        """
        credits = []
        for unit, allowance, each in self._priced(needs):
            allowance.first = max(allowance.first, math.ceil(self.policy.first * each))
            committed = math.ceil(self._spending.committed(unit))
            credit: float = allowance.credit(committed, opening=opening, lent=lent)
            if self.expected is not None and unit in METERED:
                # The last of the expected calls must find the upper bound of a first sample, not just what one costs,
                # even if this one and all that is in flight come to their own bounds: those that see earlier ones
                # cost more than most.
                beyond = sum(max(0.0, bound - each) for bound in needs.bounds(unit))
                at_most = math.ceil(self._spending.booked(unit) + beyond)
                credit = max(0.0, min(credit, allowance.headroom(at_most, opening=opening)))
            credits.append(int(credit // each))
        return min(credits)

    def opened(self, needs: Needs, *, paid: int = 0) -> None:
        """A call has arrived.

        Args:
            needs: What a sample takes.
            paid: Samples of it that an earlier run has paid for; they come out of its allowance.
        """
        for allowance in self.allowances.values():
            allowance.open()
        if paid:
            for _, allowance, each in self._priced(needs):
                allowance.excuse(-math.ceil(paid * each))

    def closed(
        self, needs: Needs, used: Cost, *, known: bool, paid: int, at_least: int, later: LaterDemand | None = None
    ) -> None:
        """A call has ended.

        Args:
            needs: What a sample takes.
            used: What the call was charged.
            known: Whether it was one of a known set, which is not bought at the price and must not move it.
            paid: Samples of it that an earlier run had paid for.
            at_least: The pool's minimum of samples a call.
            later: What it was to draw after its first request, if the size of that was chosen.
        """
        targets = []
        for unit, allowance, each in self._priced(needs):
            if known and not self.paced:
                allowance.excuse(getattr(used, unit))
            else:
                targets.append(allowance.close(getattr(used, unit) + math.ceil(paid * each)) / each)
        if known:
            return
        first: float = self.first(needs, at_least=at_least)
        drawn = used.samples + needs.beyond_usual
        if later is not None:
            unit = self.tightest(needs)
            first, drawn = later.opening, getattr(used, unit) / needs.each(unit)
        self.price_for(needs, at_least=at_least).closed(
            max(min(targets) - first, 0),
            per_call=self.per_call_of(needs),
            used=max(drawn - first, 0),
            curve=later,
            fair=max(self.per_call_of(needs) - first, 0.0) if later is not None else None,
        )

    def has_room_beside(self, needs: Needs) -> bool:
        """Whether one more sample may be drawn for a call that has its own, such as a judge's.

        It may come out of what the next call may draw, but not out of the first samples of announced ones. Where the
        user has said nothing of how much a call may draw, the caps alone decide.

        Args:
            needs: What the sample takes.
        """
        if not self.paced:
            return True
        amounts = {unit: each for unit, _, each in self._priced(needs)}
        return self.credit(needs, opening=1) >= 1 and self.leaves_first(amounts)

    def leaves_first(self, amounts: Mapping[str, float]) -> bool:
        """Whether so much may be spent and the announced calls still have their first samples.

        Args:
            amounts: How much, by unit.
        """
        return all(
            allowance.headroom(math.ceil(self._spending.committed(unit))) >= amounts.get(unit, 0)
            for unit, allowance in self.allowances.items()
        )

    def closed_beside(self, used: Cost) -> None:
        """What was drawn beside the calls is over; where they are paced, they have that much less.

        Args:
            used: What it was charged.
        """
        for unit, allowance in self.allowances.items():
            if self.paced:
                allowance.count((0, 0, getattr(used, unit), 0))
            else:
                allowance.excuse(getattr(used, unit))

    def excuse(self, used: Cost) -> None:
        """Something was spent that no call of this pace has to answer for."""
        for unit, allowance in self.allowances.items():
            allowance.excuse(getattr(used, unit))

    def _priced(self, needs: Needs) -> list[tuple[str, Allowance, float]]:
        """The allowances, and what a sample takes of each; without those of which that is not known yet."""
        priced = [(unit, allowance, needs.each(unit)) for unit, allowance in self.allowances.items()]
        known = [entry for entry in priced if entry[2] > 0]
        if self._is_default and needs.has_models:
            # Where nobody has said how many samples, but how much money, that pays for dear ones, too.
            return [entry for entry in known if entry[0] in METERED] or known
        return known

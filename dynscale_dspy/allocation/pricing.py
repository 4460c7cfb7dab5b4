"""The online price of a sample: how calls that arrive one by one share a budget nobody has seen the end of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy import random  # here, so that nothing is imported while a pool is locked

from dynscale_dspy.allocation.policies import Policy


class Demand(Protocol):
    """How many samples beyond its first ones a call draws at a price, on average."""

    def demand(self, price: float) -> float:
        """The samples, by the price."""
        ...

    def price(self, demand: float) -> float:
        """The price, by the samples."""
        ...


class DemandCurve:
    r"""How many samples a call would draw at a price, under a policy, on questions of all kinds.

    .. math:: D(\lambda) = \mathbb{E}\, \#\{n \ge n_0 : \min_{m \le n} \mathrm{index}_m > \lambda\}

    estimated on simulated calls whose answers follow a sparse Dirichlet law: from unanimous to hopelessly scattered.
    It knows what a straight line does not: that easy calls take one more sample only for a price ten times lower.
    Real traffic is easier or harder by a factor, which :class:`ShadowPrice` learns.

    Args:
        policy: What a sample is worth; its index must not depend on other calls.

    Example:
        >>> from dynscale_dspy.allocation.policies import KnowledgeGradient
        >>> curve = DemandCurve.of(KnowledgeGradient())
        >>> curve.demand(0.001) > curve.demand(0.01) > curve.demand(0.1)
        True
    """

    CALLS, SAMPLES = 128, 64
    ANSWERS, CONCENTRATION = 5, 0.3
    SMOOTHING = 0.5
    """Most that the logarithm of the price moves within a jump of demand; with 0 a budget that ends inside one leaves
    nothing for a harder call. 0.2 to 1.5 were alike on recorded samples (jhu-temp)."""

    def __init__(self, policy: Policy) -> None:
        generator = random.default_rng(0)  # the same curve in every process
        levels = []
        for _ in range(self.CALLS):
            shares = generator.dirichlet(np.full(self.ANSWERS, self.CONCENTRATION))
            tally, level = policy.tally(), math.inf
            for answer in generator.choice(self.ANSWERS, size=self.SAMPLES, p=shares).tolist():
                tally = tally.add(answer)
                if tally.samples >= policy.first:
                    level = min(level, policy.index(tally))
                    levels.append(level)
        self._levels = np.sort(np.array(levels))[::-1]
        # Where demand jumps, and between which prices each jump is spread.
        jumps, sizes = np.unique(-np.log(np.maximum(self._levels, 1e-300)), return_counts=True)
        halfway = np.diff(jumps) / 2
        self._jumps = jumps
        self._through = np.cumsum(sizes)
        self._above = np.minimum(np.concatenate(([math.inf], halfway)), self.SMOOTHING / 2)
        self._below = np.minimum(np.concatenate((halfway, [math.inf])), self.SMOOTHING / 2)

    @staticmethod
    @lru_cache(maxsize=32)
    def of(policy: Policy) -> DemandCurve:
        """The curve of a policy, computed once for equal policies."""
        return DemandCurve(policy)

    def demand(self, price: float) -> float:
        """Samples beyond the first ones that a call draws at this price, on average."""
        return float(np.searchsorted(-self._levels, -price, side="left")) / self.CALLS

    def price(self, demand: float) -> float:
        """The price at which a call draws so many samples beyond the first ones.

        Many states share one index (every lone vote does), so demand jumps there. A demand inside a jump gets a price
        just above or just below it, the nearer the end the further: as it moves, some calls draw there and some do
        not, about as many as the budget has room for.
        """
        position = demand * self.CALLS
        jump = int(np.searchsorted(self._through, position, side="right"))
        if jump == len(self._jumps):
            return 0.0
        before = self._through[jump - 1] if jump else 0
        share = (position - before) / (self._through[jump] - before)
        spread = share * (self._above[jump] + self._below[jump]) - self._above[jump]
        return math.exp(-(self._jumps[jump] + spread))


class ShadowPrice:
    r"""The index below which a pull is refused, moved so that spending meets the allowance.

    Each granted sample raises the price, each call that ends lowers it by what that call was allowed:

    .. math:: \lambda = \lambda_0\, e^{\eta (\mathrm{granted} - \mathrm{allowed}) / B}

    with B the allowance a call. This is multiplicative dual descent on the budget constraint, as in online linear
    programming and bandits with knapsacks: at the best fixed price one more sample is worth the same everywhere.
    Counting grants as they are made, not when calls end, keeps a burst of concurrent calls from all buying at a stale
    price.

    With a :class:`DemandCurve` the base :math:`\lambda_0` is no constant: whenever a call ends, it becomes the price at
    which the calls to come, as hungry as those so far, would draw what is left for them. That finds its way from hard
    traffic to easy in a few calls, where steps alone would take hundreds.

    Args:
        value: The opening price; see :meth:`Policy.opening_price`.
        rate: The step η; 0 fixes the price.
        curve: How demand depends on the price, or None to move by steps alone.
        fair: With a curve: samples beyond its first ones that a call is allowed on average.

    Example:
        >>> price = ShadowPrice(0.01)
        >>> price.granted(8, per_call=8)
        >>> price.value > 0.01
        True
    """

    LOWEST, HIGHEST = 1e-9, 10.0
    # Chosen on simulated questions of mixed difficulty and recorded GPQA and AIME samples, in shuffled and sorted
    # orders, 1 to 64 calls at a time: steps from 0.05 to 0.15 were alike there.
    RATE = 0.1
    DRIFT = 0.1
    """Share of a lasting backlog that steps work off as well: the base alone leaves some unspent where calls are easy.
    From 0.1 on, 99% of the allowance is spent; more costs accuracy where many calls are in flight (jhu-temp)."""
    MEMORY = 40
    """About how many calls the learned factor of demand remembers."""
    PRIOR = 40
    """Calls' worth of belief that real calls are as hungry as simulated ones."""

    def __init__(
        self, value: float, rate: float = RATE, *, curve: DemandCurve | None = None, fair: float = 0.0
    ) -> None:
        self.value = value
        self.rate = rate
        self._base = value
        self._curve = curve if rate else None
        self._fair = fair
        self._excess = 0.0
        self._drawn = self._foreseen = 0.0
        self._follows = False

    @classmethod
    def opening(cls, policy: Policy, per_call: float, *, first: int) -> ShadowPrice:
        """The price with which a pool opens.

        Args:
            policy: What a sample is worth.
            per_call: Average samples a call.
            first: Samples every call is guaranteed.
        """
        if not policy.adaptive:
            return cls(policy.opening_price(per_call), 0.0)
        if policy.depends_on_total:
            return cls(policy.opening_price(per_call))
        curve, fair = DemandCurve.of(policy), max(per_call - first, 0.0)
        return cls(max(curve.price(fair), cls.LOWEST), curve=curve, fair=fair)

    def granted(self, samples: float, *, per_call: float) -> None:
        """Samples beyond a call's first ones were granted."""
        self._excess += samples / per_call
        self._settle()

    def follow(self, curve: Demand, fair: float) -> None:
        """A call comes whose demand depends on the price otherwise than of those the price was opened for.

        At the first one the price is what such calls would pay; from then on :meth:`closed` keeps it there.

        Args:
            curve: How its demand depends on the price.
            fair: What it is allowed beyond its first samples on average.
        """
        if not self._follows and self._curve is not None:
            self._follows = True
            self._base = curve.price(fair)
            self._settle()

    def closed(
        self,
        allowed: float,
        *,
        per_call: float,
        used: float | None = None,
        curve: Demand | None = None,
        fair: float | None = None,
    ) -> None:
        """A call has ended.

        Args:
            allowed: Samples beyond the first ones that each call to come may draw for the allowance to be met.
            per_call: Average samples a call.
            used: Samples beyond the first ones that this call drew; without it the curve does not learn.
            curve: How demand of such calls depends on the price, if otherwise than of those it was opened for.
            fair: What such a call is allowed beyond its first samples on average, if other than that.
        """
        if self._curve is None:
            self._excess -= allowed / per_call
            self._settle()
            return
        curve, fair = curve or self._curve, self._fair if fair is None else fair
        self._excess -= (fair + self.DRIFT * (allowed - fair)) / per_call
        if used is not None:
            fading = 1 - 1 / self.MEMORY
            self._foreseen = fading * self._foreseen + curve.demand(self.value)
            self._drawn = fading * self._drawn + used
        prior = self.PRIOR * max(fair, 0.25)
        hunger = (self._drawn + prior) / (self._foreseen + prior)
        self._base = curve.price(allowed / hunger)
        self._settle()

    @property
    def position(self) -> tuple[float, ...]:
        """Where the price stands, as numbers that may be averaged between several that follow one budget.

        Empty for a fixed price.
        """
        if not self.rate:
            return ()
        return math.log(max(self._base, self.LOWEST)), self._excess, self._drawn, self._foreseen

    def move(self, by: Sequence[float]) -> None:
        """Move by a difference of two positions."""
        if not self.rate:
            return
        base, excess, drawn, foreseen = (now + step for now, step in zip(self.position, by, strict=True))
        self._base, self._excess = math.exp(base), excess
        self._drawn, self._foreseen = max(drawn, 0.0), max(foreseen, 0.0)
        self._settle()

    def _settle(self) -> None:
        # The exponent stays where a price can be: a million idle calls must not take a million calls to undo.
        low, high = (math.log(bound / max(self._base, self.LOWEST)) for bound in (self.LOWEST, self.HIGHEST))
        if self.rate:
            self._excess = min(max(self._excess, low / self.rate), high / self.rate)
        self.value = max(self._base, self.LOWEST) * math.exp(self.rate * self._excess)


class Allowance:
    """How many samples the calls seen so far may draw together.

    Each call that opens adds ``per_call`` samples of credit; what easy calls leave, harder ones may use. With an
    announced number of calls the credit may run ahead of the accrual by :data:`OVERDRAFT` calls' worth, for then it is
    known to come, but never into the first samples of the calls still expected.

    Args:
        per_call: Average samples a call.
        first: Samples every call is guaranteed.
        expected: The announced number of calls, or None if unknown.
        committed: Samples spent or reserved before, which this allowance does not account for.

    Example:
        >>> allowance = Allowance(4, first=1)
        >>> allowance.open(); allowance.credit(committed=1)
        3
    """

    OVERDRAFT = 32
    """Calls' worth of credit an announced horizon may lend."""
    PATIENCE = 20
    """Without a horizon, unspent credit is offered to about this many coming calls."""
    RESERVE_SHARE = 0.008
    """Without a horizon, the share of the allowance to keep for a hard call: spending stays within 1% ..."""
    RESERVE_SAMPLES = 8
    """... but at least so many samples, for without any a hard call could never draw more than an easy one leaves."""

    def __init__(self, per_call: float, *, first: int, expected: float | None = None, committed: float = 0) -> None:
        self.per_call = per_call
        self.first = first
        self.expected = expected
        # Parts of an allowance may be fractions.
        self._excused: float = committed
        self._opened: float = 0
        self._closed: float = 0
        self._used_by_closed: float = 0

    def open(self) -> None:
        """A call has arrived."""
        self._opened += 1

    def credit(self, committed: int, *, opening: int = 0, lent: bool = True) -> int:
        """Samples that may be drawn now.

        Args:
            committed: Samples spent or reserved so far, in all.
            opening: Calls about to open, counted as if they had.
            lent: Whether an announced horizon lends any.
        """
        accrued = self.per_call * (self._opened + opening)
        if lent and self._coming(opening):
            accrued += self.OVERDRAFT * self.per_call
        left = math.floor(accrued + 1e-9) - (committed - self._excused)
        return max(0, math.floor(min(left, self.headroom(committed, opening=opening)) + 1e-9))

    def headroom(self, committed: int, *, opening: int = 0) -> float:
        """What an announced horizon leaves beside the first samples of the calls still to come; infinite without any.

        Args:
            committed: What is spent or reserved so far, in all.
            opening: Calls about to open, counted as if they had.
        """
        coming = self._coming(opening)
        if not coming:
            return math.inf
        assert self.expected is not None
        return self.per_call * self.expected - self.first * coming - (committed - self._excused)

    def _coming(self, opening: int) -> float:
        """Announced calls that have not come."""
        return 0 if self.expected is None else max(0, self.expected - self._opened - opening)

    def close(self, used: int) -> float:
        """A call has ended with ``used`` samples; returns what each to come may use for the allowance to be met."""
        self._closed += 1
        self._used_by_closed += used
        backlog = self.per_call * self._closed - self._used_by_closed
        if self.expected is not None:
            coming = max(1, self.expected - self._closed)
        else:
            coming = self.PATIENCE
            backlog -= max(self.RESERVE_SAMPLES, self.RESERVE_SHARE * self.per_call * self._closed)
        return max(self.per_call + backlog / coming, min(1.0, self.per_call))

    def excuse(self, used: float) -> None:
        """Samples were drawn that no call's allowance is to pay for."""
        self._excused += used

    @property
    def counts(self) -> tuple[float, float, float, float]:
        """Calls opened, calls closed, what the closed ones used, and what no call answers for."""
        return self._opened, self._closed, self._used_by_closed, self._excused

    def count(self, more: Sequence[float]) -> None:
        """Add a difference of two :attr:`counts`: what happened elsewhere."""
        opened, closed, used, excused = more
        self._opened += opened
        self._closed += closed
        self._used_by_closed += used
        self._excused += excused

    def part(self, holders: int, committed: float) -> Allowance:
        """An even part of what is left and of the calls to come, for one of several that spend side by side.

        Everything is divided by their number. The part counts what is committed from 0.

        Args:
            holders: How many they are.
            committed: What all of them have spent or reserved so far.

        Example:
            >>> whole = Allowance(4, first=1, expected=100)
            >>> half = whole.part(2, committed=0)
            >>> half.expected, half.headroom(0), whole.headroom(0)
            (50.0, 150.0, 300)
        """
        expected = None if self.expected is None else self.expected / holders
        part = Allowance(self.per_call, first=self.first, expected=expected)
        opened, closed, used, excused = self.counts
        part.count([amount / holders for amount in (opened, closed, used, excused - committed)])
        return part

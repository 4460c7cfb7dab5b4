r"""Rules that say when a query has had enough.

Their index is ``1 / (n + 1)`` while a query goes on and 0 once it stops: where several go on, the one with fewest
samples comes first, as if each ran on its own at the same pace. They may leave budget unspent.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

from dynscale_dspy.allocation.evidence import Detail, Evidence
from dynscale_dspy.allocation.policies.base import (
    OrderedTally,
    Policy,
    check_first,
    check_positive,
    check_share,
    tally_of,
)
from dynscale_dspy.allocation.tables import leader_confidence, mode_probability
from dynscale_dspy.allocation.tally import Tally


class StoppingPolicy(Policy):
    """A rule that only says when to stop."""

    @abstractmethod
    def stops(self, evidence: Evidence, *, pending: int = 0) -> bool:
        """Whether a query with these votes has had enough, or will have if its samples in flight agree."""

    def index(self, evidence: Evidence, *, pending: int = 0, total: int = 0) -> float:
        """``1 / (n + 1)``, or 0 to stop."""
        return 0.0 if self.stops(evidence, pending=pending) else 1 / (evidence.samples + pending + 1)

    def opening_price(self, per_call: float) -> float:
        """The price at which a query that never stops by itself gets twice its allowance."""
        return 1 / (2 * per_call + 0.5)


@dataclass(frozen=True)
class AdaptiveConsistency(StoppingPolicy):
    r"""Stop once the leader is the more likely answer with enough confidence (Aggarwal et al., arXiv 2305.11860).

    .. math:: \text{beta: } h(a, b) = \frac{\int_{1/2}^1 x^a (1-x)^b dx}{\int_0^1 x^a (1-x)^b dx} \ge \tau,
              \qquad \text{dirichlet: } P(\mathrm{mode} = 1 \mid \mathrm{counts} + 1) \ge \tau

    Samples that cast no vote do not count. The Dirichlet form looks at the five most frequent answers, as its
    authors' does, by quadrature instead of Monte Carlo; with fewer than three answers the two forms are one.

    Args:
        first: Samples every call gets before the rule is asked.
        threshold: The confidence τ.
        criterion: ``"beta"``, the authors' default, or ``"dirichlet"``.

    Example:
        >>> rule = AdaptiveConsistency()
        >>> rule.index(Tally.of("AAA")) > 0, rule.index(Tally.of("AAAA"))
        (True, 0.0)
    """

    first: int = 1
    threshold: float = 0.95
    criterion: Literal["beta", "dirichlet"] = "beta"

    TOP: ClassVar[int] = 5

    def __post_init__(self) -> None:
        check_first(self.first)
        check_share(threshold=self.threshold)
        if self.criterion not in ("beta", "dirichlet"):
            raise ValueError(f"criterion must be 'beta' or 'dirichlet', got {self.criterion!r}")

    def stops(self, evidence: Evidence, *, pending: int = 0) -> bool:
        """Whether the leader's confidence has reached the threshold."""
        return self.confidence(tally_of(evidence, self), pending=pending) >= self.threshold

    def confidence(self, tally: Tally, *, pending: int = 0) -> float:
        """The posterior probability that the rule compares."""
        counts = tally.counts
        if self.criterion == "beta" or len(counts) < 3:
            return leader_confidence(tally.lead + pending, tally.rival)
        return _mode_confidence((counts[0] + pending, *counts[1 : self.TOP]), 0.0)


@dataclass(frozen=True)
class EarlyStopping(StoppingPolicy):
    r"""Draw windows of samples, stop at the first that is unanimous: ESC (Li et al., arXiv 2401.10480).

    .. math:: \text{stop at } n = m w \text{ if samples } n - w + 1, \ldots, n \text{ all gave one answer}

    Which window was unanimous depends on the order of the samples, so this rule reads an
    :class:`~dynscale_dspy.allocation.policies.base.OrderedTally`. From counts alone it stops when they prove that some
    window was unanimous: when fewer samples dissent from the leader than windows are complete. That is never sooner.

    Args:
        first: Samples every call gets before the rule is asked; the first window is drawn in any case.
        window: Samples a window, w.

    Example:
        >>> from dynscale_dspy.allocation.policies import OrderedTally
        >>> rule = EarlyStopping(window=3)
        >>> rule.index(OrderedTally.of("ABA")) > 0, rule.index(OrderedTally.of("ABAAAA"))
        (True, 0.0)
    """

    first: int = 1
    window: int = 5
    needs: ClassVar[Detail] = Detail.ORDER

    def __post_init__(self) -> None:
        if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 2:
            raise ValueError(f"window must be an integer of at least 2, got {self.window!r}")
        check_first(self.first)

    def stops(self, evidence: Evidence, *, pending: int = 0) -> bool:
        """Whether the last window was unanimous; while a whole window is in flight, its outcome is waited for."""
        drawn = evidence.samples + pending
        if drawn == 0 or drawn % self.window:
            return False
        if pending:
            return True
        if isinstance(evidence, OrderedTally):
            return evidence.streak >= self.window
        return evidence.samples - evidence.lead < evidence.samples // self.window


@dataclass(frozen=True)
class BestOfInfinity(StoppingPolicy):
    r"""Stop once the data say strongly enough that the leader is the vote of infinitely many samples.

    .. math:: \mathrm{BF} = K \frac{P(\mathrm{mode} = 1 \mid D)}{1 - P(\mathrm{mode} = 1 \mid D)} \ge B

    The Bayes factor of Best-of-∞ (arXiv 2509.21091). The posterior is Dirichlet, one more than its count for each
    answer seen and ``unseen`` for a new one, K answers in all; P(mode) by quadrature.

    Args:
        first: Samples every call gets before the rule is asked.
        threshold: The factor B.
        unseen: Dirichlet mass of an answer nobody has given yet.

    Example:
        >>> rule = BestOfInfinity()
        >>> rule.index(Tally.of("AB")) > 0, rule.index(Tally.of("A" * 10))
        (True, 0.0)
    """

    first: int = 1
    threshold: float = 50.0
    unseen: float = 0.3

    def __post_init__(self) -> None:
        check_first(self.first)
        check_positive(threshold=self.threshold, unseen=self.unseen)

    def stops(self, evidence: Evidence, *, pending: int = 0) -> bool:
        """Whether the Bayes factor has reached the threshold."""
        return self.bayes_factor(tally_of(evidence, self), pending=pending) >= self.threshold

    def bayes_factor(self, tally: Tally, *, pending: int = 0) -> float:
        """Evidence that the leader is the mode; 0 before any vote, 1 on a tie."""
        counts = tally.counts
        if not counts:
            return 0.0
        if not pending and tally.lead == tally.rival:
            return 1.0
        p = _mode_confidence((counts[0] + pending, *counts[1:]), self.unseen)
        return (len(counts) + 1) * p / (1 - p) if p < 1 else math.inf


@dataclass(frozen=True)
class SPRT(StoppingPolicy):
    r"""Sequential test of "leader and runner-up are equally likely" against "the leader is more likely".

    .. math:: \Lambda = \frac{\int_{1/2}^1 p^a (1-p)^b\, \pi(p)\, dp}{2^{-(a+b)}}, \qquad
              \pi = \mathrm{Beta}(c, c) \text{ on } (\tfrac12, 1], \qquad
              \text{stop when } \Lambda \ge \frac{1-\beta}{\alpha} \text{ or } \Lambda \le \frac{\beta}{1-\alpha}

    The mixture test of ConSol (arXiv 2503.17587), after Wald (1945) and Robbins (1970). Its prior is centred at one
    half; ConSol's own settings are ``concentration=1e6`` with ``miss`` within 1e-4 of ``1 - false_alarm``, a
    boundary so near that a handful of votes crosses it.

    Args:
        first: Samples every call gets before the rule is asked.
        false_alarm: The error α of seeing a leader where there is none.
        miss: The error β of giving up on a true leader.
        concentration: The prior's c; 1 is uniform.

    Example:
        >>> rule = SPRT()
        >>> rule.index(Tally.of("AAB")) > 0, rule.index(Tally.of("A" * 10))
        (True, 0.0)
    """

    first: int = 1
    false_alarm: float = 0.05
    miss: float = 0.05
    concentration: float = 1.0
    needs: ClassVar[Detail] = Detail.TOP_TWO

    def __post_init__(self) -> None:
        check_first(self.first)
        check_share(false_alarm=self.false_alarm, miss=self.miss)
        check_positive(concentration=self.concentration)
        if self.false_alarm + self.miss >= 1:
            raise ValueError(f"false_alarm + miss must be below 1, got {self.false_alarm + self.miss!r}")

    def stops(self, evidence: Evidence, *, pending: int = 0) -> bool:
        """Whether either boundary is crossed."""
        ratio = _log_likelihood_ratio(evidence.lead + pending, evidence.rival, self.concentration)
        return ratio >= math.log((1 - self.miss) / self.false_alarm) or ratio <= math.log(
            self.miss / (1 - self.false_alarm)
        )


@lru_cache(maxsize=262144)
def _mode_confidence(counts: tuple[float, ...], unseen: float) -> float:
    rest = tuple(float(count + 1) for count in counts[1:])
    return mode_probability((counts[0] + 1, *rest, unseen) if unseen else (counts[0] + 1, *rest))


@lru_cache(maxsize=65536)
def _log_likelihood_ratio(a: float, b: float, c: float) -> float:
    from scipy.special import betainc, betaln

    # The prior's mass above one half is 1/2 by symmetry.
    posterior_mass = float(betainc(b + c, a + c, 0.5))
    return float(
        betaln(a + c, b + c) - betaln(c, c) + math.log(2 * max(posterior_mass, 1e-300)) + (a + b) * math.log(2)
    )

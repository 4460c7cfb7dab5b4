"""Policies: what one more sample of an arm is worth, from its tally alone.

A policy is a value without state. It sees counts, never answers' text, and decides the same in a live program, in a
replay and in a simulation.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from dynscale_dspy.allocation.tables import knowledge_gradient
from dynscale_dspy.allocation.tally import Tally


class Policy(ABC):
    """Gives each arm an index: the worth of one more sample per sample's cost.

    Attributes:
        first: Samples every call is guaranteed before its index counts.
        adaptive: Whether answers change the index. Where they do not, the online price stays where it opened.
        depends_on_total: Whether drawing a sample anywhere moves every arm's index.
    """

    first: int = 1
    adaptive: ClassVar[bool] = True
    depends_on_total: ClassVar[bool] = False

    @abstractmethod
    def index(self, tally: Tally, *, pending: int = 0, total: int = 0) -> float:
        """The worth of one more sample.

        Args:
            tally: What the arm's finished samples said.
            pending: Samples of this arm in flight, whose answers are not known yet.
            total: Samples drawn so far over all arms; only rules with a growing exploration bonus use it.

        Returns:
            A number at least 0; the largest goes first, and 0 means "no more".
        """

    @abstractmethod
    def opening_price(self, per_call: float) -> float:
        """A first guess of the index at which a call that may take ``per_call`` samples on average should stop.

        Online pools start from it and learn the rest.
        """


@dataclass(frozen=True)
class KnowledgeGradient(Policy):
    r"""KG\*·ρ, the default: expected gain in the chance of a right vote, per sample.

    .. math:: \mathrm{index} = \nu(a, b) \cdot \rho, \qquad \rho = \frac{a + b + 2}{n + \kappa}

    :math:`\nu` is KG* (:func:`~dynscale_dspy.allocation.tables.knowledge_gradient`). :math:`\rho` is the posterior
    chance that the next sample falls on one of the two leading answers, which keeps hopeless questions with many
    scattered answers from swallowing the budget. Samples in flight are taken to vote for the leader (the "constant
    liar" of Ginsbourger, Le Riche and Carraro, 2010), so that a busy scheduler spreads its bets.

    On recorded samples of reasoning models (24 pools of the Best-of-Infinity release, arXiv 2509.21091) this rule
    was within 0.1 to 0.7 points of a Lagrangian bound at up to four samples a query.

    Args:
        first: Samples every call gets before its index counts.
        kappa: Prior weight against the tail of other answers, in samples.

    Example:
        >>> policy = KnowledgeGradient()
        >>> contested, settled = Tally.of("AB"), Tally.of("AAAA")
        >>> policy.index(contested) > policy.index(settled)
        True
    """

    first: int = 1
    kappa: float = 2.0

    def __post_init__(self) -> None:
        _check_first(self.first)
        if not self.kappa > 0:
            raise ValueError(f"kappa must be positive, got {self.kappa!r}")

    def index(self, tally: Tally, *, pending: int = 0, total: int = 0) -> float:
        """KG* of the state, times the chance that the next vote concerns the leaders."""
        a, b = tally.leader + pending, tally.runner_up
        relevance = (a + b + 2) / (tally.samples + pending + self.kappa)
        return knowledge_gradient(a, b) * min(1.0, relevance)

    def opening_price(self, per_call: float) -> float:
        """``0.08 / per_call``, fitted by eye on recorded AIME samples of reasoning models."""
        return 0.08 / per_call


@dataclass(frozen=True)
class UCB(Policy):
    r"""Upper confidence bound on the uncertainty of a call's answers: DynScaling's bandit, reconstructed.

    .. math:: \mathrm{index} = u(\mathrm{tally}) + c \sqrt{\frac{2 \ln t}{n}}

    with t the samples drawn over all arms and n those of this arm, in flight included. arXiv 2506.16043 is public as
    an abstract only, which says "multi-armed bandit", "uncertainty of the responses", and no more. Every unknown is
    an option here, and no figure of ours is a reproduction of theirs.

    Args:
        first: Independent samples every call gets before its index counts.
        exploration: The constant c.
        uncertainty: The measure u. ``"normalized_entropy"``: Shannon entropy of the votes over ln n;
            ``"disagreement"``: 1 minus the leader's share; ``"entropy"``: Shannon entropy in nats, which on recorded
            samples did worse than uniform sampling.
    """

    first: int = 2
    exploration: float = 0.3
    depends_on_total: ClassVar[bool] = True
    uncertainty: Literal["normalized_entropy", "disagreement", "entropy"] = "normalized_entropy"

    def __post_init__(self) -> None:
        _check_first(self.first)
        if not self.exploration >= 0:
            raise ValueError(f"exploration must be at least 0, got {self.exploration!r}")
        if self.uncertainty not in ("normalized_entropy", "disagreement", "entropy"):
            raise ValueError(
                f"uncertainty must be 'normalized_entropy', 'disagreement' or 'entropy', got {self.uncertainty!r}"
            )

    def index(self, tally: Tally, *, pending: int = 0, total: int = 0) -> float:
        """Uncertainty so far plus the exploration bonus."""
        n = tally.samples + pending
        if n == 0:
            return math.inf
        return self._uncertainty(tally) + self.exploration * math.sqrt(2 * math.log(max(total, n, 1)) / n)

    def _uncertainty(self, tally: Tally) -> float:
        # A sample without an answer is no agreement: it stands as an answer of its own kind.
        counts = tally.counts + (1,) * tally.empty
        n = len(counts) and sum(counts)
        if not n:
            return 0.0
        if self.uncertainty == "disagreement":
            return 1 - max(counts) / n
        entropy = -sum(count / n * math.log(count / n) for count in counts)
        if self.uncertainty == "entropy":
            return entropy
        return entropy / math.log(n) if n > 1 else 0.0

    def opening_price(self, per_call: float) -> float:
        """The bonus of a settled arm at its allowance: contested arms go on, settled ones stop near it."""
        return self.exploration * math.sqrt(2 * math.log(max(per_call, 2)) / per_call) + 0.1


@dataclass(frozen=True)
class Uniform(Policy):
    """The same number of samples for every call: plain self-consistency (Wang et al., arXiv 2203.11171).

    Args:
        first: Samples every call gets at once, before its allowance is looked at.
    """

    first: int = 1
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_first(self.first)

    def index(self, tally: Tally, *, pending: int = 0, total: int = 0) -> float:
        """``1 / (n + 1)``: whoever has fewest samples goes first."""
        return 1 / (tally.samples + pending + 1)

    def opening_price(self, per_call: float) -> float:
        """The price at which exactly ``per_call`` samples are worth drawing."""
        return 1 / (per_call + 0.5)


def _check_first(first: int) -> None:
    if isinstance(first, bool) or not isinstance(first, int) or first < 1:
        raise ValueError(f"first must be an integer of at least 1, got {first!r}")

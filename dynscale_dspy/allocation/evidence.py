"""What a policy sees of one call's votes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, runtime_checkable

from dynscale_dspy.allocation.tables import leader_confidence


class Detail(IntEnum):
    """How much of the votes a policy reads, and evidence offers. Each level includes those before it."""

    TOP_TWO = 1
    """The weights of the two leading answers, samples and blanks: :class:`Evidence`."""
    COUNTS = 2
    """Also the votes of every answer: :class:`~dynscale_dspy.allocation.tally.Tally`."""
    ORDER = 3
    """Also the order of the latest votes: :class:`~dynscale_dspy.allocation.policies.OrderedTally`."""


@runtime_checkable
class Evidence(Protocol):
    """What the bandit sees of a selection. Weights are votes where each counts one, and real numbers in general."""

    @property
    def lead(self) -> float:
        """Weight of the leading answer."""
        ...

    @property
    def rival(self) -> float:
        """Weight of the second answer."""
        ...

    @property
    def samples(self) -> int:
        """Samples drawn and finished, blanks included."""
        ...

    @property
    def blanks(self) -> int:
        """Samples that cast no vote: failed, truncated, or without a readable answer. They were paid all the same."""
        ...

    @property
    def confidence(self) -> float:
        """Posterior probability that the leader is ahead of the rival in the long run; 0 when nobody voted.

        About the vote, not about the truth. Where votes are compared by equality a call's own confidence is
        :func:`~dynscale_dspy.allocation.confidence.chance_right`; elsewhere it is this one.
        """
        ...

    @property
    def detail(self) -> Detail:
        """How much it offers; see :class:`Detail`."""
        ...


def confidence_of(lead: float, rival: float, blanks: int) -> float:
    """Posterior probability that the leader is ahead of the rival in the long run; 0 when nobody voted.

    A sample that cast no vote may have stood for either: it counts half a vote for each. As a forecast of the vote of
    all other samples of a question (8 of each of 5,895 recorded ones) this is about as good as leaving such samples
    out, off by 0.024 against 0.023. Where 5 or more are blank its mean is 0.65 and not 0.73, and 61% stay ahead.

    Args:
        lead: Weight of the leading answer.
        rival: Weight of the second answer.
        blanks: Samples that cast no vote.

    Example:
        >>> confidence_of(3, 1, 0), confidence_of(1, 0, 0), round(confidence_of(1, 0, 7), 2), confidence_of(0, 0, 8)
        (0.8125, 0.75, 0.63, 0.0)
    """
    return leader_confidence(lead + blanks / 2, rival + blanks / 2) if lead else 0.0


def falls_short(confidence: float, asked: float) -> bool:
    """Whether a confidence is below what is asked for; that of no votes always is."""
    return confidence < asked or confidence == 0


@dataclass(frozen=True)
class TopTwo:
    """Evidence of a selection that only knows a leader and a rival.

    Args:
        lead: Weight of the leading answer.
        rival: Weight of the second answer, at most ``lead``.
        samples: Samples drawn and finished.
        blanks: Those of them that cast no vote.

    Example:
        >>> TopTwo(lead=3, rival=1, samples=4).confidence
        0.8125
    """

    lead: float = 0.0
    rival: float = 0.0
    samples: int = 0
    blanks: int = 0

    @property
    def confidence(self) -> float:
        """Posterior probability that the leader is ahead of the rival in the long run; see :func:`confidence_of`."""
        return confidence_of(self.lead, self.rival, self.blanks)

    @property
    def detail(self) -> Detail:
        """The least: two weights."""
        return Detail.TOP_TWO

    # What policies written for version 0.1 read of a tally.
    @property
    def leader(self) -> float:
        """The same as :attr:`lead`."""
        return self.lead

    @property
    def runner_up(self) -> float:
        """The same as :attr:`rival`."""
        return self.rival

r"""What the bandit sees where answers are more or less alike: the leading one against each other one.

The leader is the answer of greatest similarity to all. Whether another answer j will overtake it depends on the mean
difference :math:`m_j` of their similarities to further samples, which is taken to be normal. With n votes and the
differences :math:`d_{jk} = s_{wk} - s_{jk}`,

.. math:: m_j = \frac{1}{n} \sum_k d_{jk}, \qquad
          v_j = \frac{\sum_{k \ne w, j} d_{jk}^2 + 2 (1 - s_{wj})^2}{n - 2 + 2}

k samples more move it by a standard deviation of :math:`\sigma = \sqrt{v_j k / (n (n + k))}`, and the similarity of the
answer that wins to the next sample is expected to grow by

.. math:: \max_{j, k} \frac{\sigma}{k} f\left(\frac{-m_j}{\sigma}\right), \qquad f(z) = z \Phi(z) + \phi(z)

a sample, times the share of samples that voted: the knowledge gradient of Frazier, Powell and Dayanik (2008) for a
difference of means, with the look-ahead of Frazier and Powell (2010). Votes of 2 at the distance of the two answers
stand for what is not known of the variance, so that two different answers are worth a third sample, and answers that no
sample tells apart are soon worth nothing.

The gain is in similarity, that of a vote between equal answers in chances of a right vote. Where answers are either
equal or not the two can be compared: 1.5 times the first is the second on average (recorded short answers; 0.163
against 0.188 for one vote each, 0.018 against 0.031 for two against one), so a pool has one price for both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dynscale_dspy.allocation.evidence import TopTwo

PRIOR = 2.0
"""Votes at the distance of two answers that stand for what is not known of how samples tell them apart."""
CHANCE = 1.5
"""Chances of a right vote to a similarity of 1."""
STEPS = (1, 2, 4, 8)
"""Samples to come that are looked ahead to."""


@dataclass(frozen=True)
class Contest:
    """The leader against one other answer.

    Args:
        ahead: By how much more all votes are like the leader: the sum of differences of similarities.
        apart: The sum of squares of those differences, over votes but the two answers' own.
        others: The weight of those votes.
        stake: How unlike the two answers are.
    """

    ahead: float
    apart: float
    others: float
    stake: float


@dataclass(frozen=True)
class Likeness(TopTwo):
    """Evidence of answers that are more or less alike.

    Args:
        lead: The leader's similarity to all votes, its own included: among equal and unequal answers, its votes.
        rival: The largest such sum of another answer, times how unlike it is to the leader: among equal and unequal
            answers, the second answer's votes.
        samples: Samples drawn and finished.
        blanks: Those of them that cast no vote.
        valid: The weight of all votes.
        contests: The leader against each other answer.
        told: By how much the latest vote tells the earlier ones apart, from 0 to 1: the square of the difference
            between its largest and its smallest similarity to them. None if there were not two before it, or it is
            blank.
        is_flat: Whether no vote tells two others apart, as far as pairs of votes show.
        first: How alike the call's first two samples are, by their indices; None if one of them has not voted.

    Example:
        >>> contested = Likeness(1.5, 0.75, 2, valid=2, contests=(Contest(0, 0, 0, 0.5),))
        >>> settled = Likeness(2.9, 0.2, 3, valid=3, contests=(Contest(0.2, 0.01, 1, 0.1),))
        >>> round(contested.gain(), 3), round(settled.gain(), 3), Likeness(1, 0, 1, valid=1).gain()
        (0.122, 0.0, 0.0)
    """

    valid: float = 0.0
    contests: tuple[Contest, ...] = ()
    told: float | None = None
    is_flat: bool = True
    first: float | None = None

    @property
    def voters(self) -> int:
        """Samples that cast a vote."""
        return self.samples - self.blanks

    def gain(self, pending: int = 0) -> float:
        """The expected gain of one more sample, in chances of a right vote; 0 while there are not two answers.

        Args:
            pending: Samples in flight, which are taken to say what the leader says.
        """
        if not self.contests:
            return 0.0
        votes = self.valid + pending
        casts_a_vote = votes / (votes + self.blanks)
        return CHANCE * casts_a_vote * max(_gain(contest, self.valid, pending) for contest in self.contests)


def _gain(contest: Contest, valid: float, pending: int) -> float:
    votes, so_far = valid + pending, contest.ahead / valid
    mean = so_far + pending / votes * max(0.0, contest.stake - so_far)
    variance = (contest.apart + PRIOR * contest.stake**2) / (contest.others + PRIOR)
    best = 0.0
    for steps in STEPS:
        moved = math.sqrt(variance * steps / (votes * (votes + steps)))
        if moved > 0:
            best = max(best, moved * _expected_above(-mean / moved) / steps)
    return best


def _expected_above(z: float) -> float:
    """The mean of what a standard normal number plus z is above 0."""
    return max(0.0, z * math.erfc(-z / math.sqrt(2)) / 2 + math.exp(-z * z / 2) / math.sqrt(2 * math.pi))

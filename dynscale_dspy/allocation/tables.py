r"""Index tables for a majority vote, computed once per state and kept.

Notation, as in the crowdsourcing and ranking-and-selection literature: the leader has :math:`a` votes, the runner-up
:math:`b \le a`; the leader's share among the two, :math:`p`, has a uniform prior, so its posterior is
:math:`\mathrm{Beta}(a+1, b+1)`. For any Dirichlet prior over answers the pair's share is Beta distributed, so the
other answers do not matter here.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

HORIZON = 64
"""Longest look-ahead, in samples, of :func:`knowledge_gains`."""

_STATE_CAP = 256


@lru_cache(maxsize=65536)
def leader_confidence(a: int, b: int) -> float:
    r"""Probability that the leader beats the runner-up: :math:`h(a, b) = P(p > 1/2) = I_{1/2}(b+1, a+1)`.

    Args:
        a: Votes of one answer.
        b: Votes of the other.

    Returns:
        A probability; 1/2 on a tie.

    Example:
        >>> leader_confidence(0, 0), leader_confidence(1, 0), leader_confidence(3, 1)
        (0.5, 0.75, 0.8125)
    """
    from scipy.special import betainc  # loaded on first use: importing the package stays light

    return float(betainc(b + 1, a + 1, 0.5))


@lru_cache(maxsize=1)
def _confidence_of_best() -> NDArray[np.float64]:
    """``S[i, j] = max(h(i, j), h(j, i))`` for all states that :func:`knowledge_gains` can reach from its cap."""
    from scipy.special import betainc

    size = _STATE_CAP + HORIZON + 1
    votes = np.arange(size)
    h = betainc(votes[None, :] + 1, votes[:, None] + 1, 0.5)
    return np.maximum(h, h.T)


@lru_cache(maxsize=65536)
def knowledge_gains(a: int, b: int) -> NDArray[np.float64]:
    r"""Expected gain in the probability of a right vote from 0, 1, ..., :data:`HORIZON` more votes among the top two.

    .. math:: G_k(a, b) = \sum_{j=0}^{k} \mathrm{BetaBin}(j; k, a+1, b+1)\, S(a+j, b+k-j) - S(a, b),
              \qquad S = \max(h, 1-h).

    :math:`G_k` is zero while :math:`k \le a - b`: no outcome could change the vote. It never decreases in k.
    Source: the knowledge gradient of Frazier, Powell and Dayanik (2008) with the multi-step look-ahead "KG*" of
    Frazier and Powell (2010), on the Beta-Bernoulli state of Chen, Lin and Zhou (ICML 2013).

    Args:
        a: Votes of the leader.
        b: Votes of the runner-up.

    Returns:
        Read-only array of shape ``(HORIZON + 1,)``; entry k is :math:`G_k`.

    Example:
        >>> [round(float(g), 4) for g in knowledge_gains(1, 0)[:3]]
        [0.0, 0.0, 0.0625]
    """
    from scipy.special import betaln, gammaln

    # Beyond the cap the gains are below 1e-3 even on a tie; scale the state down rather than grow the table.
    if a > _STATE_CAP:
        a, b = _STATE_CAP, round(b * _STATE_CAP / a)
    best = _confidence_of_best()
    k = np.arange(HORIZON + 1)[:, None]
    j = np.minimum(np.arange(HORIZON + 1)[None, :], k)
    reachable = np.arange(HORIZON + 1)[None, :] <= k
    log_choose = gammaln(k + 1) - gammaln(j + 1) - gammaln(k - j + 1)
    log_probability = log_choose + betaln(a + 1 + j, b + 1 + k - j) - betaln(a + 1, b + 1)
    expected = np.where(reachable, np.exp(log_probability) * best[a + j, b + k - j], 0.0).sum(axis=1)
    gains = np.maximum(expected - best[a, b], 0.0)
    # h is a martingale: until a tie can be passed the gain is exactly 0, and rounding must not say otherwise.
    gains[: a - b + 1] = 0.0
    gains = np.maximum.accumulate(gains)
    gains.setflags(write=False)
    return gains


@lru_cache(maxsize=65536)
def knowledge_gradient(a: int, b: int) -> float:
    r"""KG*: the largest expected gain per sample over all batch sizes.

    .. math:: \nu(a, b) = \max_{k \ge 1} G_k(a, b) / k

    The one-step gain :math:`G_1` is 0 as soon as there is a leader, so it would stop there; KG* looks as far ahead as
    it takes for the vote to change. Source: Frazier and Powell, "Paradoxes in learning and the marginal value of
    information", Decision Analysis 7(4), 2010.

    Args:
        a: Votes of the leader.
        b: Votes of the runner-up, at most ``a``.

    Returns:
        The index, in probability of a right vote per sample.

    Example:
        >>> round(knowledge_gradient(1, 0), 4), round(knowledge_gradient(2, 2), 4)
        (0.0312, 0.1563)
    """
    gains = knowledge_gains(a, b)
    return float(np.max(gains[1:] / np.arange(1, HORIZON + 1)))

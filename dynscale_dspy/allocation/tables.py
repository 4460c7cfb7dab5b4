r"""Index tables for a majority vote, computed once and kept.

Notation, as in the crowdsourcing and ranking-and-selection literature: the leader has :math:`a` votes, the runner-up
:math:`b \le a`; the leader's share among the two, :math:`p`, has a uniform prior, so its posterior is
:math:`\mathrm{Beta}(a+1, b+1)`. For any Dirichlet prior over answers the pair's share is Beta distributed, so the
other answers do not matter here.

Votes may have real weights: every function takes real numbers, and gives at whole ones what the tables hold.

The value of a state is :math:`S(a,b) = \max(h, 1-h)`, the posterior chance that the vote is right between the two.
Since :math:`h` is a martingale, expected gains of :math:`S` are expected values of :math:`W = S - h = (1 - 2h)^+`,
which is exactly 0 while the leader leads. Everything below sums such non-negative terms: no gain is lost to
cancellation, and a gain that is 0 comes out as 0.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

HORIZON = 64
"""Longest look-ahead, in samples, of :func:`knowledge_gains`; states led by as many votes are settled."""

_TABLE = 160  # states with a, b up to here are tabulated together, others computed one by one
_STOPPING_VOTES = 192  # a + b up to here are in the table of optimal stopping ...
_STOPPING_HORIZON = 288  # ... which looks ahead until a + b is this
_NODES = 64


@lru_cache(maxsize=65536)
def leader_confidence(a: float, b: float) -> float:
    r"""Probability that the leader beats the runner-up: :math:`h(a, b) = P(p > 1/2) = I_{1/2}(b+1, a+1)`.

    A closed form, for whole and for real votes.

    Args:
        a: Votes of one answer.
        b: Votes of the other.

    Returns:
        A probability; 1/2 on a tie.

    Example:
        >>> leader_confidence(0, 0), leader_confidence(1, 0), leader_confidence(3, 1)
        (0.5, 0.75, 0.8125)
    """
    i, j = int(a), int(b)
    if i == a and j == b and 0 <= i <= _TABLE and 0 <= j <= _TABLE:
        return float(_whole_h()[i, j])
    return float(_h(np.float64(a), np.float64(b)))


def tie_density(a: float, b: float) -> float:
    r"""Posterior density of the leader's share at one half, the statistic of PPR-1v1 and of mixture tests.

    .. math:: f(a, b) = \frac{(a+b+1)!}{a!\, b!} 2^{-(a+b)}

    For real votes the factorials are gamma functions.

    Example:
        >>> round(tie_density(1, 1), 9), round(tie_density(4, 0), 9)
        (1.5, 0.3125)
    """
    return math.exp(math.lgamma(a + b + 2) - math.lgamma(a + 1) - math.lgamma(b + 1) - (a + b) * math.log(2))


def optimistic_gain(a: float, b: float) -> float:
    r"""Gain in the leader's confidence if the next vote is for it.

    .. math:: R^+(a, b) = h(a+1, b) - h(a, b) = \frac{f(a, b)}{4 (a+1)}

    A closed form, for whole and for real votes.

    Example:
        >>> [round(optimistic_gain(a, b), 6) for a, b in ((0, 0), (1, 0), (1, 1))]
        [0.25, 0.125, 0.1875]
    """
    return tie_density(a, b) / (4 * (a + 1))


def knowledge_gains(a: float, b: float) -> NDArray[np.float64]:
    r"""Expected gain in the probability of a right vote from 0, 1, ..., :data:`HORIZON` more votes among the top two.

    .. math:: G_k(a, b) = \sum_{j=0}^{k} \mathrm{BetaBin}(j; k, a+1, b+1)\, W(a+j, b+k-j) - W(a, b)

    :math:`G_k` is zero while :math:`k \le a - b`: no outcome could change the vote. It never decreases in k.
    Source: the knowledge gradient of Frazier, Powell and Dayanik (2008) with the multi-step look-ahead "KG*" of
    Frazier and Powell (2010), on the Beta-Bernoulli state of Chen, Lin and Zhou (ICML 2013).

    Votes so far may be real; votes to come count one each.

    Args:
        a: Votes of the leader.
        b: Votes of the runner-up, at most ``a``.

    Returns:
        Read-only array of shape ``(HORIZON + 1,)``; entry k is :math:`G_k`.

    Example:
        >>> [round(float(g), 4) for g in knowledge_gains(1, 0)[:3]]
        [0.0, 0.0, 0.0625]
    """
    return _gains_of_state(a, b, 1.0)


def knowledge_gradient(a: float, b: float, prior: float = 1.0) -> float:
    r"""KG*: the largest expected gain per sample over all batch sizes.

    .. math:: \nu(a, b) = \max_{k \ge 1} G_k(a, b) / k

    The one-step gain :math:`G_1` is 0 as soon as there is a leader, so it would stop there; KG* looks as far ahead as
    it takes for the vote to change. Source: Frazier and Powell, "Paradoxes in learning and the marginal value of
    information", Decision Analysis 7(4), 2010.

    Whole votes up to 160 are looked up in a table. Others are computed when first asked for, in a millisecond or two:
    the index falls with ``a``, rises with ``b`` and has no jumps.

    Args:
        a: Votes of the leader.
        b: Votes of the runner-up, at most ``a``.
        prior: Votes that each of the two is taken to have had before: the leader's share is
            :math:`\mathrm{Beta}(\mathrm{prior}, \mathrm{prior})` at first. 1 is uniform; more expects closer races.

    Returns:
        The index, in probability of a right vote per sample; 0 for a lead of :data:`HORIZON` or more.

    Example:
        >>> round(knowledge_gradient(1, 0), 4), round(knowledge_gradient(2, 2), 4)
        (0.0312, 0.1562)
    """
    i, j = int(a), int(b)
    if i == a and j == b and i <= _TABLE and j <= _TABLE:
        return _knowledge_table(prior)[i][j]
    return _knowledge_of_state(a, b, prior)


def stopping_index(a: float, b: float) -> float:
    r"""The price a vote at which it is just worth going on, if one may stop at any time.

    .. math:: V_\lambda(a,b) = \max\{W(a,b),\; -\lambda + \hat p V_\lambda(a+1,b) + (1-\hat p) V_\lambda(a,b+1)\},
              \quad \hat p = \tfrac{a+1}{a+b+2}, \quad
              \mathrm{index}(a,b) = \sup\{\lambda : \text{going on is optimal}\}

    An index of the kind of Gittins (1979) and Whittle (1988) for the Lagrangian relaxation of Hu and Frazier
    (arXiv 1512.09204), by backward induction. At least KG*, whose "k more, then stop" is one of the plans it may take;
    beyond 192 votes among the top two, where the table ends, it is KG*.

    Between whole votes it is interpolated, linearly in the lead :math:`a - b` and in :math:`b` (not in a and b: the
    index has a ridge along ties, which must not be cut off), and is KG* where that is larger.

    Args:
        a: Votes of the leader.
        b: Votes of the runner-up, at most ``a``.

    Example:
        >>> [round(stopping_index(a, b), 3) for a, b in ((1, 0), (1, 1), (2, 0))]
        [0.047, 0.188, 0.016]
    """
    i, j = int(a), int(b)
    if i == a and j == b:
        return _stopping_table()[i][j] if i + j <= _STOPPING_VOTES else knowledge_gradient(i, j)
    return _stopping_between(a, b)


def mode_probability(alpha: tuple[float, ...]) -> float:
    r"""Probability that the first of some answers is the most likely one, under a Dirichlet posterior.

    .. math:: P(\mathrm{mode} = 1 \mid \alpha) = \int_0^1 \prod_{j \ne 1} G_{\alpha_j}(G^{-1}_{\alpha_1}(u))\, du

    with :math:`G_\alpha` the distribution function of Gamma(α, 1): a Dirichlet vector is Gamma variables over their
    sum. Gauss-Legendre quadrature with 64 nodes, good to 5 digits.

    Args:
        alpha: Dirichlet parameters, all positive, the answer in question first.

    Example:
        >>> round(mode_probability((2, 1)), 4), round(mode_probability((1, 1, 1, 1)), 4)
        (0.75, 0.25)
    """
    _, weights = _nodes()
    log_product = np.zeros(_NODES)
    groups: dict[float, int] = {}
    for other in alpha[1:]:
        groups[other] = groups.get(other, 0) + 1
    for other, count in groups.items():
        log_product = log_product + count * _log_gamma_cdf(alpha[0], other)
    return float(np.exp(log_product) @ weights)


def _h(
    a: NDArray[np.float64] | np.float64, b: NDArray[np.float64] | np.float64, prior: float = 1.0
) -> NDArray[np.float64]:
    from scipy.special import betainc  # it takes a third of a second: not on the way of calls whose votes are whole

    return betainc(b + prior, a + prior, 0.5)


def crossings(surplus: NDArray[np.float64], prices: NDArray[np.float64]) -> NDArray[np.float64]:
    """The prices at which going on is worth no more than stopping; 0 where it never is worth more.

    Args:
        surplus: What going on is worth beyond stopping, of shape ``(states, prices)``; it falls with the price.
        prices: In rising order, 0 first.

    Example:
        >>> crossings(np.array([[2.0, 1.0, -1.0], [-1.0, -2.0, -3.0]]), np.array([0.0, 0.1, 0.2])).round(6).tolist()
        [0.15, 0.0]
    """
    row = np.arange(len(surplus))
    above = np.maximum((surplus > 0).sum(axis=1), 1)
    below = np.minimum(above, len(prices) - 1)
    s0, s1 = surplus[row, above - 1], surplus[row, below]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(s0 > s1, s0 / (s0 - s1), 0.0)
    crossing = prices[above - 1] + np.clip(share, 0, 1) * (prices[below] - prices[above - 1])
    return np.where(surplus[:, 0] > 0, crossing, 0.0)


@lru_cache(maxsize=1)
def _whole_h() -> NDArray[np.float64]:
    """``h`` of all whole votes that the table of KG* needs: each is the mean of its neighbours with one vote less."""
    size = _TABLE + HORIZON + 1
    h = np.zeros((size + 1, size + 1))  # from -1 votes on: without a vote of one, the other has won
    h[1:, 0] = 1.0
    for votes in range(2 * size - 1):
        a = np.arange(max(0, votes - size + 1), min(votes, size - 1) + 1)
        b = votes - a
        h[a + 1, b + 1] = (h[a, b + 1] + h[a + 1, b]) / 2
    return h[1:, 1:]


def _regret(a: NDArray[np.float64], b: NDArray[np.float64], prior: float = 1.0) -> NDArray[np.float64]:
    """``W(a, b) = (1 - 2 h)^+``, exactly 0 for ``a >= b``."""
    return np.where(b > a, np.maximum(1 - 2 * _h(a, b, prior), 0.0), 0.0)


@lru_cache(maxsize=4096)
def _gains_of_state(a: float, b: float, prior: float) -> NDArray[np.float64]:
    # Forward over the votes to come: reach[j] is the chance that j of the first k are for the leader.
    gains = np.zeros(HORIZON + 1)
    reach = np.ones(1)
    for k in range(1, HORIZON + 1):
        j = np.arange(k, dtype=float)
        up = (a + j + prior) / (a + b + k - 1 + 2 * prior)
        wider = np.zeros(k + 1)
        wider[1:] = reach * up
        wider[:-1] += reach * (1 - up)
        reach = wider
        if k > a - b:
            j = np.arange(k + 1, dtype=float)
            gains[k] = reach @ _regret(a + j, b + k - j, prior)
    if b > a:  # not a state of a leader and a runner-up, but well defined
        already = float(_regret(np.float64(a), np.float64(b), prior))  # type: ignore[arg-type]
        gains = np.maximum(gains - already, 0.0)
    gains = np.maximum.accumulate(gains)
    gains.setflags(write=False)
    return gains


@lru_cache(maxsize=4096)
def _knowledge_of_state(a: float, b: float, prior: float) -> float:
    return float(np.max(_gains_of_state(a, b, prior)[1:] / np.arange(1, HORIZON + 1)))


@lru_cache(maxsize=65536)
def _stopping_between(a: float, b: float) -> float:
    lead, rival = max(a - b, 0.0), b
    l, r = int(lead), int(rival)
    x, y = lead - l, rival - r
    along = [
        (1 - x) * stopping_index(k + l, k) + (x * stopping_index(k + l + 1, k) if x else 0.0)
        for k in ((r, r + 1) if y else (r,))
    ]
    interpolated = (1 - y) * along[0] + (y * along[1] if y else 0.0)
    return max(interpolated, knowledge_gradient(a, b))


@lru_cache(maxsize=8)
def _knowledge_table(prior: float) -> list[list[float]]:
    """KG* for all states up to the cap at once: one backward step is one array operation over all of them."""
    votes = np.arange(_TABLE + HORIZON + 1, dtype=float)
    a, b = votes[:, None], votes[None, :]
    start = _regret(a, b, prior) if prior != 1 else np.where(b > a, np.maximum(1 - 2 * _whole_h(), 0.0), 0.0)
    expected = start.copy()
    up = (a + prior) / (a + b + 2 * prior)
    best = np.zeros((_TABLE + 1, _TABLE + 1))
    for k in range(1, HORIZON + 1):
        size = _TABLE + HORIZON + 1 - k
        expected = (
            up[:size, :size] * expected[1 : size + 1, :size] + (1 - up[:size, :size]) * expected[:size, 1 : size + 1]
        )
        gain = expected[: _TABLE + 1, : _TABLE + 1] - start[: _TABLE + 1, : _TABLE + 1]
        best = np.maximum(best, gain / k)
    return best.tolist()  # plain floats: one lookup a decision


@lru_cache(maxsize=1)
def _stopping_table() -> list[list[float]]:
    prices = np.concatenate(([0.0], np.geomspace(1e-10, 0.5, 260)))
    last = _STOPPING_HORIZON
    a = np.arange(last + 1, dtype=float)
    value = np.repeat(_regret(a, last - a)[:, None], len(prices), axis=1)
    index = np.zeros((_STOPPING_VOTES + 1, _STOPPING_VOTES + 1))
    for n in range(last - 1, -1, -1):
        a = np.arange(n + 1, dtype=float)
        up = ((a + 1) / (n + 2))[:, None]
        stop = _regret(a, n - a)[:, None]
        go_on = up * value[1:] + (1 - up) * value[:-1] - prices
        value = np.maximum(stop, go_on)
        if n <= _STOPPING_VOTES:
            row = a.astype(int)
            index[row, n - row] = crossings(go_on - stop, prices)
    size = min(_TABLE, _STOPPING_VOTES) + 1
    index[:size, :size] = np.maximum(index[:size, :size], np.asarray(_knowledge_table(1.0))[:size, :size])
    return index.tolist()


@lru_cache(maxsize=1)
def _nodes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return (nodes + 1) / 2, weights / 2


@lru_cache(maxsize=4096)
def _gamma_quantiles(alpha: float) -> NDArray[np.float64]:
    from scipy.special import gammaincinv

    return gammaincinv(alpha, _nodes()[0])


@lru_cache(maxsize=65536)
def _log_gamma_cdf(of: float, other: float) -> NDArray[np.float64]:
    """``log G_other`` at the quantiles of Gamma(of, 1)."""
    from scipy.special import gammainc

    with np.errstate(divide="ignore"):
        return np.log(gammainc(other, _gamma_quantiles(of)))

"""What no policy, or no count-based policy, can pass. Not policies: they look at right answers.

Each gives, for some average budgets, an accuracy to hold others against. See the class of allocation that each bounds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dynscale_dspy.replay.streams import Floats, Streams

HINDSIGHT = "hindsight (not a policy)"
STATIC = "static gold (not a policy)"
LAGRANGIAN = "lagrangian (not a policy)"


def hindsight(streams: Streams, budgets: Sequence[float]) -> list[Floats]:
    """Per-question credit when each stream is stopped where it happens to be right; very loose.

    Knows every sample to come. Allocates by largest gain per sample over the concave hull of each stream's credit.

    Returns:
        For each budget, credit of shape ``(replicates, questions)``.
    """
    credit = np.where(_open(streams), streams.credit, 0.0)[:, :, 1:]
    results = [np.zeros(credit.shape[:2]) for _ in budgets]
    for r in range(streams.replicates):
        for result, row in zip(results, _greedy_on_hulls(credit[r], budgets), strict=True):
            result[r] = credit[r][np.arange(streams.questions), row]
    return results


def static_gold(streams: Streams, budgets: Sequence[float]) -> list[Floats]:
    """Per-question credit of the best allocation fixed in advance by each question's true accuracy curve.

    Bounds allocations that do not look at answers, not adaptive policies. The curves are means over the same
    replicates that are then scored, which flatters it a little.

    Returns:
        For each budget, credit of shape ``(replicates, questions)``.
    """
    credit = np.where(_open(streams), streams.credit, 0.0)[:, :, 1:]
    rows = _greedy_on_hulls(credit.mean(axis=0), budgets)
    return [credit[:, np.arange(streams.questions), row] for row in rows]


def lagrangian(pools: Sequence[Streams], budgets: Sequence[float]) -> list[float]:
    r"""Accuracy that no rule seeing only (samples, leader, runner-up) can pass, one average budget over all pools.

    .. math:: \min_{\lambda \ge 0} \big[ \lambda (B - 1) + \mathrm{mean}_q\, V_\lambda(q) \big]

    with :math:`V_\lambda` by backward induction on transitions and rewards counted from the pools themselves. Fitted
    on the samples that it bounds, so optimistic, and more so at large budgets where a state gives its question away.

    Args:
        pools: Streams of one or several pools; their states are counted together.
        budgets: Average samples a question.
    """
    cap = max(streams.cap for streams in pools)
    width = cap + 1
    states, following, reward, weight = [], [], [], []
    for streams in pools:
        n = np.broadcast_to(np.arange(streams.cap + 1), streams.leader.shape)
        key = ((n.astype(np.int64) * width) + streams.leader) * width + streams.runner_up
        open_ = _open(streams)[..., 1:]
        share = np.full(open_.shape, 1.0 / streams.replicates)
        states.append(key[..., 1:][open_])
        reward.append(streams.credit[..., 1:][open_])
        weight.append(share[open_])
        after = np.full(open_.shape, -1, dtype=np.int64)
        after[..., :-1] = np.where(open_[..., 1:], key[..., 2:], -1)
        following.append(after[open_])
    state, nxt = np.concatenate(states), np.concatenate(following)
    distinct, ids = np.unique(state, return_inverse=True)
    mass = np.bincount(ids, weights=np.concatenate(weight))
    value_of_stop = np.bincount(ids, weights=np.concatenate(weight) * np.concatenate(reward)) / mass
    went_on = nxt >= 0
    edge_from, edge_to = ids[went_on], np.searchsorted(distinct, nxt[went_on])
    pair = edge_from.astype(np.int64) * len(distinct) + edge_to
    pairs, inverse = np.unique(pair, return_inverse=True)
    flow = np.bincount(inverse, weights=np.concatenate(weight)[went_on])
    source, target = pairs // len(distinct), pairs % len(distinct)
    outflow = np.bincount(source, weights=flow, minlength=len(distinct))
    chance = flow / outflow[source]
    samples = distinct // width**2
    start = mass * (samples == 1)
    start = start / start.sum()
    prices = np.concatenate(([0.0], np.geomspace(1e-5, 1.0, 120)))
    value = np.zeros((len(distinct), len(prices)))
    for n in range(cap, 0, -1):
        here = np.flatnonzero(samples == n)
        if not len(here):
            continue
        edges = slice(*np.searchsorted(source, [here[0], here[-1] + 1]))
        ahead = np.zeros((len(here), len(prices)))
        np.add.at(ahead, source[edges] - here[0], chance[edges, None] * value[target[edges]])
        ahead = np.where(outflow[here, None] > 0, ahead - prices, -np.inf)
        value[here] = np.maximum(value_of_stop[here, None], ahead)
    dual = start @ value
    return [float(np.min(prices * (budget - 1) + dual)) for budget in budgets]


def _open(streams: Streams) -> NDArray[np.bool_]:
    allowed = np.arange(streams.cap + 1)[None, :] <= streams.room[:, None]
    return np.broadcast_to(allowed, streams.credit.shape)


def _greedy_on_hulls(curves: Floats, budgets: Sequence[float]) -> list[NDArray[np.int64]]:
    """For each budget, the entry of each curve to stop at; entry i costs i more than the first."""
    steps: list[tuple[float, int, int, int]] = []
    for q, curve in enumerate(curves):
        hull = _hull(curve)
        for left, right in itertools.pairwise(hull):
            gain = (curve[right] - curve[left]) / (right - left)
            if gain > 1e-12:
                steps.append((-gain, q, right, right - left))
    steps.sort()
    results = []
    for budget in budgets:
        left = budget * len(curves) - len(curves) + 1e-9
        at = np.zeros(len(curves), dtype=np.int64)
        skipped: set[int] = set()
        for _, q, right, cost in steps:
            if q in skipped:
                continue
            if cost <= left:
                at[q], left = right, left - cost
            else:
                skipped.add(q)
        results.append(at)
    return results


def _hull(curve: Floats) -> list[int]:
    """Corners of the least concave function above a curve, up to its first maximum."""
    top = int(np.argmax(curve))
    corners = [0]
    for i in range(1, top + 1):
        while len(corners) > 1:
            a, b = corners[-2], corners[-1]
            if (curve[b] - curve[a]) * (i - a) <= (curve[i] - curve[a]) * (b - a):
                corners.pop()
            else:
                break
        if curve[i] > curve[corners[0]]:
            corners.append(i)
    return corners

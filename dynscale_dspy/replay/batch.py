"""A known set of queries: always the largest index, until the budget ends.

Where an arm's index changes only with its own samples, the greedy order is one nested sequence: an arm keeps being
pulled while its index stays above the level that it was picked at, so pulls come in order of the *running minimum* of
their indices. One sort therefore answers all budgets of a replicate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynscale_dspy.allocation.policies import ExploringPolicy, Policy
from dynscale_dspy.replay.streams import Floats, Ints, Streams

COST_PRIOR = 2.0
"""Samples' worth of prior in an arm's mean cost, at the mean of all first samples."""


@dataclass(frozen=True)
class Allocation:
    """Who was sampled how often.

    Args:
        samples: Samples of each replicate and question, shape ``(replicates, questions)``.
        spent: What each replicate spent a query, in the budget's unit.
        rounds: How many times samples were waited for before more were drawn, on average.
    """

    samples: Ints
    spent: Floats
    rounds: float


def allocate(
    streams: Streams,
    policy: Policy,
    budgets: Sequence[float],
    *,
    unit: str = "samples",
    rounds: int | None = None,
    cost_exponent: float = 1.0,
) -> list[Allocation]:
    """Replay a policy over a known set of queries.

    Args:
        streams: What samples would say.
        policy: Whom to sample next.
        budgets: Average budget a query, in samples or in mean samples' worth of tokens.
        unit: ``"samples"`` or ``"tokens"``. In tokens, a rule whose index is a gain divides it by the arm's expected
            cost; the first samples of all are always drawn, and the sample that would pass the budget is cut off there.
        rounds: Most rounds of samples drawn side by side, or None to decide after each sample.
        cost_exponent: How strongly cost counts, 0 for not at all.

    Returns:
        One allocation a budget.
    """
    if unit == "tokens":
        return _by_tokens(streams, policy, budgets, cost_exponent)
    totals = [math.floor(budget * streams.questions + 1e-9) for budget in budgets]
    results: list[Allocation | None] = [None] * len(totals)
    if rounds is not None:
        return [_in_rounds(streams, policy, total, rounds) for total in totals]
    # A policy's first samples are drawn for all if the budget has them for all, else one each.
    for first in {_first(policy, streams, total) for total in totals}:
        chosen = [i for i, total in enumerate(totals) if _first(policy, streams, total) == first]
        wanted = [totals[i] for i in chosen]
        if policy.depends_on_total:
            samples = _explore(streams, policy, wanted, first)
        else:
            samples = _nested(streams, policy, wanted, first)
        for i, drawn in zip(chosen, samples, strict=True):
            spent = drawn.sum(axis=1)
            waits = 1.0 if not policy.adaptive else 1.0 + float(spent.mean()) - drawn.shape[1] * first
            results[i] = Allocation(drawn, spent / streams.questions, max(waits, 1.0))
    return [result for result in results if result is not None]


def _first(policy: Policy, streams: Streams, total: int) -> int:
    return policy.first if total >= policy.first * streams.questions else 1


def _opening(streams: Streams, first: int) -> Ints:
    return np.broadcast_to(np.minimum(first, streams.room), (streams.replicates, streams.questions)).copy()


def _closed(streams: Streams) -> NDArray[np.bool_]:
    """Where a question has no sample left to draw."""
    return np.arange(streams.cap)[None, :] >= streams.room[:, None]


def _nested(streams: Streams, policy: Policy, totals: Sequence[int], first: int) -> list[Ints]:
    views = streams.views(policy)
    values = views.table(lambda tally: policy.index(tally, total=0))
    distinct, rank = np.unique(values, return_inverse=True)
    rank = rank - int((distinct <= 0).sum()) + 1  # 0 and below: stop
    ranks = np.maximum(rank, 0)[views.ids[:, :, first : streams.cap]]
    ranks[:, _closed(streams)[:, first:]] = 0
    order = _greedy_keys(ranks, _tie_order(streams), first)
    order.sort(axis=1)
    stopped = np.iinfo(np.int64).max
    worth = (order < stopped).sum(axis=1)
    arms = order // (streams.cap + 1) % streams.questions
    opening = _opening(streams, first)
    back = streams.arrival
    results = []
    for total in totals:
        take = np.minimum(total - opening.sum(axis=1), worth)
        picked = np.arange(order.shape[1])[None, :] < take[:, None]
        row, column = np.nonzero(picked)
        flat = row * streams.questions + back[row, arms[row, column]]
        pulls = np.bincount(flat, minlength=opening.size).reshape(opening.shape)
        results.append(opening + pulls)
    return results


def _tie_order(streams: Streams) -> Ints:
    """Each question's position in its replicate's random order."""
    return np.argsort(streams.arrival, axis=1)


def _greedy_keys(ranks: Ints, position: Ints, first: int) -> Ints:
    """Integers that sort pulls as a greedy scheduler would make them, of shape ``(replicates, pulls)``.

    Largest running minimum first. Among equals, the arm with fewer samples when it came to that level, then the
    earlier in the random order; and an arm goes on while its index is above the level.
    """
    replicates, questions, depth = ranks.shape
    width = first + depth + 1
    level = np.minimum.accumulate(ranks, axis=2)
    n = np.arange(first, first + depth)
    since = np.maximum.accumulate(np.where(ranks == level, n, 0), axis=2)
    keys = int(ranks.max(initial=0)) - level
    keys = ((keys * width + since) * questions + position[:, :, None]) * width + n
    return np.where(level > 0, keys, np.iinfo(np.int64).max).reshape(replicates, -1)


def _explore(streams: Streams, policy: Policy, totals: Sequence[int], first: int) -> list[Ints]:
    """Rules whose every index moves with every sample: step by step, all replicates at once."""
    arms = _Rescored(streams, policy, _opening(streams, first))
    total = int(arms.drawn[0].sum())
    snapshots: dict[int, Ints] = {}
    for target in sorted(set(totals)):
        while total < target:
            arm, open_ = arms.best(total)
            if not open_.any():
                break
            arms.pull(arm, open_)
            total += 1
        snapshots[target] = arms.samples()
    return [snapshots[total] for total in totals]


class _Rescored:
    """All arms of all replicates, each replicate's in its random order, whose indices depend on the total."""

    def __init__(self, streams: Streams, policy: Policy, opening: Ints) -> None:
        self.streams = streams
        self.policy = policy
        self.views = streams.views(policy)
        self.every = np.arange(streams.replicates)
        arrival = streams.arrival
        self._ids = np.take_along_axis(self.views.ids, arrival[:, :, None], axis=1)
        self._room = streams.room[arrival]
        self.drawn = np.take_along_axis(opening, arrival, axis=1)
        self._terms = None
        if isinstance(policy, ExploringPolicy):
            terms = [policy.terms(tally) if tally.samples else (0.0, 0.0) for tally in self.views.tallies]
            self._terms = np.array(terms, dtype=float)
            now = self._terms[np.take_along_axis(self._ids, self.drawn[:, :, None], axis=2)[:, :, 0]]
            self._score = np.where(self.drawn < self._room, now[..., 0], -np.inf)
            self._weight = now[..., 1].copy()

    def best(self, total: int) -> tuple[Ints, NDArray[np.bool_]]:
        """Each replicate's best arm, by position, and whether it is worth anything."""
        if self._terms is not None:
            assert isinstance(self.policy, ExploringPolicy)
            index = self._weight * self.policy.growth(total)
            index += self._score
        else:
            ids = np.take_along_axis(self._ids, self.drawn[:, :, None], axis=2)[:, :, 0]
            states, inverse = np.unique(ids, return_inverse=True)
            values = [self.policy.index(self.views.tallies[state], total=total) for state in states.tolist()]
            index = np.where(self.drawn < self._room, np.array(values)[inverse.reshape(ids.shape)], -np.inf)
        arm = index.argmax(axis=1)
        return arm, index[self.every, arm] > 0

    def pull(self, arm: Ints, which: NDArray[np.bool_]) -> None:
        """Draw one sample of each of these arms, in those replicates."""
        rows, arm = self.every[which], arm[which]
        self.drawn[rows, arm] += 1
        if self._terms is not None:
            n = self.drawn[rows, arm]
            now = self._terms[self._ids[rows, arm, n]]
            self._score[rows, arm] = np.where(n < self._room[rows, arm], now[:, 0], -np.inf)
            self._weight[rows, arm] = now[:, 1]

    def samples(self) -> Ints:
        """Samples drawn, by question."""
        drawn = np.empty_like(self.drawn)
        np.put_along_axis(drawn, self.streams.arrival, self.drawn, axis=1)
        return drawn


def _in_rounds(streams: Streams, policy: Policy, total: int, rounds: int) -> Allocation:
    """A few rounds of samples drawn side by side, those of a round supposed to agree with the leader."""
    first = _first(policy, streams, total)
    drawn = _opening(streams, first)
    views = streams.views(policy)
    spent = int(drawn[0].sum())
    done = 1
    memo: dict[int, Ints] = {}
    for remaining in range(rounds - 1, 0, -1):
        size = math.ceil((total - spent) / remaining)
        if size <= 0:
            break
        depth = int(min(streams.cap, max(8, 4 * math.ceil(size / streams.questions))))
        if policy.depends_on_total or depth not in memo:
            values = np.array(
                [[policy.index(tally, pending=k, total=spent + k) for k in range(depth)] for tally in views.tallies]
            )
            distinct, rank = np.unique(values, return_inverse=True)
            rank = np.maximum(rank.reshape(values.shape) - int((distinct <= 0).sum()) + 1, 0)
            if not policy.depends_on_total:
                memo[depth] = rank
        else:
            rank = memo[depth]
        state = np.take_along_axis(views.ids, drawn[:, :, None], axis=2)[:, :, 0]
        ranks = rank[state]
        ranks[np.arange(depth)[None, None, :] + drawn[:, :, None] >= streams.room[None, :, None]] = 0
        keys = _greedy_keys(ranks, _tie_order(streams), 0)
        keys.sort(axis=1)
        keys = keys[:, :size]
        row, column = np.nonzero(keys < np.iinfo(np.int64).max)
        if not len(row):
            break
        arm = streams.arrival[row, keys[row, column] // (depth + 1) % streams.questions]
        drawn += np.bincount(row * streams.questions + arm, minlength=drawn.size).reshape(drawn.shape)
        spent = int(drawn.sum(axis=1).max())
        done += 1
    return Allocation(drawn, drawn.sum(axis=1) / streams.questions, float(done))


def _by_tokens(streams: Streams, policy: Policy, budgets: Sequence[float], cost_exponent: float) -> list[Allocation]:
    tokens = streams.tokens
    assert tokens is not None
    mean = streams.pool.tokens_per_sample
    limits = [budget * mean * streams.questions for budget in budgets]
    results: dict[float, Allocation] = {}
    # A policy's first samples are drawn for all where the budget has them in every replicate, else one each.
    left = sorted(set(limits))
    for first in sorted({policy.first, 1}, reverse=True):
        opening = _opening(streams, first)
        opened = np.take_along_axis(tokens, opening[:, :, None], axis=2)[:, :, 0].sum(axis=1)
        chosen = [limit for limit in left if first == 1 or opened.max() <= limit]
        left = [limit for limit in left if limit not in chosen]
        if policy.depends_on_total:
            found = _explore_tokens(streams, policy, chosen, opening, opened)
        else:
            found = _nested_tokens(streams, policy, chosen, opening, opened, cost_exponent)
        for limit, (drawn, spent) in zip(chosen, found, strict=True):
            waits = 1.0 if not policy.adaptive else max(1.0, 1.0 + float((drawn - opening).sum(axis=1).mean()))
            results[limit] = Allocation(drawn, spent / (mean * streams.questions), waits)
    return [results[limit] for limit in limits]


def _nested_tokens(
    streams: Streams, policy: Policy, limits: Sequence[float], opening: Ints, opened: Floats, cost_exponent: float
) -> list[tuple[Ints, Floats]]:
    tokens = streams.tokens
    assert tokens is not None
    views = streams.views(policy)
    first = int(opening.max())
    index = views.table(lambda tally: policy.index(tally, total=0))[views.ids[:, :, first : streams.cap]]
    if policy.is_gain and cost_exponent:
        index = index / expected_cost(streams)[:, :, first : streams.cap] ** cost_exponent
    index[:, _closed(streams)[:, first:]] = 0.0
    level = np.minimum.accumulate(index, axis=2)
    n = np.arange(first, streams.cap)
    since = np.maximum.accumulate(np.where(index == level, n, 0), axis=2)
    position = np.broadcast_to(_tie_order(streams)[:, :, None], level.shape)
    price = np.diff(tokens[:, :, first:], axis=2)
    results = [(opening.copy(), opened.copy()) for _ in limits]
    columns = np.broadcast_to(np.arange(streams.questions)[:, None], level.shape[1:]).ravel()
    for r in range(streams.replicates):
        order = np.lexsort(
            (np.broadcast_to(n, level.shape[1:]).ravel(), position[r].ravel(), since[r].ravel(), -level[r].ravel())
        )
        order = order[level[r].ravel()[order] > 0]
        running = opened[r] + np.cumsum(price[r].ravel()[order])
        for (drawn, spent), limit in zip(results, limits, strict=True):
            take = int(np.searchsorted(running, limit + 1e-6, side="right"))
            drawn[r] += np.bincount(columns[order[:take]], minlength=streams.questions)
            if take < len(order):
                spent[r] = max(limit, opened[r])  # the next sample was begun and cut off where the budget ends
            elif take:
                spent[r] = running[take - 1]
    return results


def expected_cost(streams: Streams) -> Floats:
    """Each arm's expected tokens a sample over that of all: its own mean, with a prior at that of all first samples."""
    tokens = streams.tokens
    assert tokens is not None
    common = tokens[:, :, 1].mean(axis=1)[:, None, None]
    n = np.arange(streams.cap + 1)
    return (tokens + COST_PRIOR * common) / (n + COST_PRIOR) / common


def _explore_tokens(
    streams: Streams, policy: Policy, limits: Sequence[float], opening: Ints, opened: Floats
) -> list[tuple[Ints, Floats]]:
    tokens = streams.tokens
    assert tokens is not None
    arms = _Rescored(streams, policy, opening)
    spent, every = opened.copy(), arms.every
    results: dict[float, tuple[Ints, Floats]] = {}
    total = int(arms.drawn[0].sum())
    ordered = np.take_along_axis(tokens, streams.arrival[:, :, None], axis=1)
    for limit in sorted(set(limits)):
        cut = np.zeros(streams.replicates, dtype=bool)
        while True:
            arm, open_ = arms.best(total)
            now = arms.drawn[every, arm]
            cost = ordered[every, arm, np.minimum(now + 1, streams.cap)] - ordered[every, arm, now]
            cut |= open_ & (spent + cost > limit + 1e-6)
            pull = open_ & ~cut
            if not pull.any():
                break
            arms.pull(arm, pull)
            spent += np.where(pull, cost, 0)
            total += 1
        results[limit] = (arms.samples(), np.where(cut, np.maximum(limit, opened), spent))
    return [results[limit] for limit in limits]

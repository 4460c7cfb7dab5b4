"""Uncertainty of replayed accuracies, and the scalars that sum up a curve."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynscale_dspy.replay.pools import Pool

DRAWS = 200
"""Bootstrap draws; a standard error from so many is itself good to about 5%."""
INTERVAL_DRAWS = 1000
"""Bootstrap draws of an interval."""


def bootstrap_weights(pool: Pool, replicates: int, seed: int) -> NDArray[np.float32]:
    """How often each (replicate, question) counts in each draw of a two-level bootstrap; rows sum to 1.

    Questions are drawn with replacement, and for each drawn question its replicates. One set of weights serves all
    policies and budgets, which pairs them; and pools over the same questions draw the same questions, so that models
    are resampled jointly.

    Returns:
        Array of shape ``(DRAWS, replicates * questions)``.
    """
    questions = len(pool.questions)
    same_questions = zlib.crc32("\n".join(question.id for question in pool.questions).encode())
    picked = np.random.default_rng([seed, same_questions]).integers(questions, size=(DRAWS, questions))
    own = np.random.default_rng([seed, same_questions, zlib.crc32(pool.name.encode())])
    weights = np.empty((DRAWS, replicates * questions), dtype=np.float32)
    for draw in range(DRAWS):
        rows = own.integers(replicates, size=(replicates, questions))
        flat = rows * questions + picked[draw]
        weights[draw] = np.bincount(flat.ravel(), minlength=weights.shape[1])
    return (weights / (replicates * questions)).astype(np.float32)


def bootstrap_interval(differences: Sequence[float] | NDArray[Any], *, seed: int = 0) -> tuple[float, float, float]:
    """The mean of paired differences, and the ends of its 95% interval, by a bootstrap over questions.

    Args:
        differences: One a question.
        seed: Seeds the draws.

    Example:
        >>> bootstrap_interval([0.5, 0.5, 0.5])
        (0.5, 0.5, 0.5)
    """
    each = np.asarray(differences, dtype=float)
    picked = np.random.default_rng(seed).integers(len(each), size=(INTERVAL_DRAWS, len(each)))
    low, high = np.quantile(each[picked].mean(axis=1), (0.025, 0.975))
    return float(each.mean()), float(low), float(high)


def area(budgets: Sequence[float], accuracies: Sequence[float], *, low: float = 1, high: float = 32) -> float | None:
    """Mean accuracy over the logarithm of the budget from ``low`` to ``high``; None if the curve ends inside.

    Example:
        >>> area([1, 2, 32], [0.5, 0.6, 0.6])
        0.59
    """
    x, y = np.log2(budgets), np.asarray(accuracies, dtype=float)
    if len(x) < 2 or budgets[0] > low or budgets[-1] < high:
        return None
    inside = [np.log2(low), *x[(x > np.log2(low)) & (x < np.log2(high))], np.log2(high)]
    values = np.interp(inside, x, y)
    return float(round(np.sum(np.diff(inside) * (values[1:] + values[:-1]) / 2) / (inside[-1] - inside[0]), 12))


def reach(spent: Sequence[float], accuracies: Sequence[float], target: float) -> float | None:
    """The spend at which a curve first reaches an accuracy, between points by the logarithm; None if never.

    Example:
        >>> reach([1, 4, 16], [0.5, 0.7, 0.9], 0.8)
        8.0
    """
    for i, value in enumerate(accuracies):
        if value >= target - 1e-12:
            if i == 0 or accuracies[i] == accuracies[i - 1]:
                return float(spent[i])
            share = (target - accuracies[i - 1]) / (value - accuracies[i - 1])
            low, high = np.log2(spent[i - 1]), np.log2(spent[i])
            return float(round(2 ** (low + share * (high - low)), 6))
    return None

"""How much better one way to answer the same questions is than another, with an interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

Name = TypeVar("Name")


@dataclass(frozen=True)
class Gain:
    """How much better one way to answer is than another, on the same questions.

    Args:
        mean: Mean difference of the scores.
        low: Lower end of its interval.
        high: Upper end.
    """

    mean: float
    low: float
    high: float

    @property
    def is_sure(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low > 0

    def __str__(self) -> str:
        return f"{100 * self.mean:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def paired_gain(ours: ArrayLike, theirs: ArrayLike, *, confidence: float = 0.95) -> Gain:
    """Return the mean difference of two lists of scores, question by question, with its t interval.

    The interval is SciPy's, for the differences and one more question on which both do alike: a handful of questions
    that all differ in the same way would have an interval without width, and prove everything. With a hundred questions
    the one more changes nothing to speak of.

    Args:
        ours: The score of each question, answered in one way.
        theirs: The score of each question, in the same order, answered in the other.
        confidence: How often such an interval holds the true mean.

    Raises:
        ValueError: If the lengths differ or there is nothing.

    Example:
        >>> print(paired_gain([1, 1, 1, 0, 1, 1, 1, 1], [1, 0, 0, 0, 1, 0, 0, 1]), "points")
        +50.0 [+3.9, +85.0] points
    """
    from scipy import stats

    mine, others = np.asarray(ours, float), np.asarray(theirs, float)
    if mine.shape != others.shape or mine.ndim != 1 or not mine.size:
        raise ValueError(f"scores of the same questions are needed, at least of one, got {mine.size} and {others.size}")
    differences = mine - others
    mean = float(differences.mean())
    shrunk = np.append(differences, 0.0)
    if not shrunk.any():  # both do alike on every question
        return Gain(mean, mean, mean)
    low, high = stats.t.interval(confidence, len(differences), loc=shrunk.mean(), scale=stats.sem(shrunk))
    return Gain(mean, float(low), float(high))


def better(scores: Mapping[Name, ArrayLike]) -> Name:
    """Return the name of the list with the largest mean; of equal ones the first.

    Args:
        scores: The scores of each way to answer, by its name: the plain program first, then it at temperature 0.

    Example:
        >>> better({"plain": [0, 1, 0], "temperature 0": [1, 1, 0]})
        'temperature 0'
    """
    return max(scores, key=lambda name: float(np.asarray(scores[name], float).mean()))

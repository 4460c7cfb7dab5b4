"""How much better one way to answer the same questions is than another, with an interval: one rule for every table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95
"""Probability with which an interval holds; where several are compared, with which all of them hold together."""

Name = TypeVar("Name")


class Interval(NamedTuple):
    """An estimate, and the bounds between which the true value lies with probability :data:`LEVEL`."""

    mean: float
    low: float
    high: float

    @property
    def is_sure(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low > 0

    def __str__(self) -> str:
        return f"{100 * self.mean:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def paired_gain(ours: ArrayLike, theirs: ArrayLike) -> Interval:
    """Return the mean difference of two lists of scores, question by question, with its interval (:func:`gain`).

    Args:
        ours: The score of each question, answered in one way.
        theirs: The score of each question, in the same order, answered in the other.

    Raises:
        ValueError: If the lengths differ or there is nothing.

    Example:
        >>> print(paired_gain([1, 1, 1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 1, 0, 0, 0]), "points")
        +75.0 [+18.3, +100.0] points
    """
    mine, others = np.asarray(ours, float), np.asarray(theirs, float)
    if mine.shape != others.shape or mine.ndim != 1 or not mine.size:
        raise ValueError(f"scores of the same questions are needed, at least of one, got {mine.size} and {others.size}")
    low, high = range_of([*mine, *others])
    return gain((mine - others).tolist(), width=high - low)


def gain(differences: Sequence[float], *, width: float = 1.0, comparisons: int = 1) -> Interval:
    """The mean of paired differences, with an interval that is one of several which hold together.

    Student's interval over the differences and two more: half of one at each end of the range, and one of 0 (Agresti
    and Min, Statistics in Medicine 24, 2005, for pairs of right and wrong). Where few pairs differ, or none, it is as
    wide as it should be.

    Args:
        differences: At least one, each between ``-width`` and ``width``.
        width: The range of scores.
        comparisons: How many intervals are to hold together (Bonferroni).

    Example:
        >>> [round(bound, 3) for bound in gain([1.0] * 9 + [0.0] * 31)]
        [0.225, 0.078, 0.351]
        >>> [round(bound, 3) for bound in gain([0.0] * 40)]
        [0.0, -0.048, 0.048]
    """
    count = len(differences)
    padded = count + 2
    centre = sum(differences) / padded
    error = deviation(differences, width) / math.sqrt(padded)
    reach = error * quantile(1 - (1 - LEVEL) / (2 * comparisons), count + 1)
    mean = sum(differences) / count
    return Interval(mean, max(centre - reach, -width), min(centre + reach, width))


def better(scores: Mapping[Name, ArrayLike]) -> Name:
    """Return the name of the list with the largest mean; of equal ones the first.

    Args:
        scores: The scores of each way to answer, by its name: the plain program first, then it at temperature 0.

    Example:
        >>> better({"plain": [0, 1, 0], "temperature 0": [1, 1, 0]})
        'temperature 0'
    """
    return max(scores, key=lambda name: float(np.asarray(scores[name], float).mean()))


def range_of(scores: Sequence[float]) -> tuple[float, float]:
    """The range of a metric: 0 to 1 if all scores are within, else from the least to the greatest."""
    low, high = min(scores, default=0.0), max(scores, default=1.0)
    return (0.0, 1.0) if low >= 0 and high <= 1 else (min(low, 0.0), high)


def deviation(differences: Sequence[float], width: float) -> float:
    """The standard deviation of differences and the two that :func:`gain` adds."""
    padded = len(differences) + 2
    centre = sum(differences) / padded
    return math.sqrt((sum(each * each for each in differences) + width * width) / padded - centre * centre)


def quantile(probability: float, freedom: float = math.inf) -> float:
    """The value below which Student's distribution has this probability; by default the normal distribution."""
    from scipy.special import stdtrit  # slow to import, and the rest of the package does without

    return float(stdtrit(freedom, probability))

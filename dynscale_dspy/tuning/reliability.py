"""How far confidence can be trusted: reliability and risk-coverage, where it is known which answers are right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Bin:
    """Answers of about the same confidence.

    Args:
        confidence: Their mean confidence.
        accuracy: The share of them that is right.
        error: Its standard error.
        count: How many they are.
    """

    confidence: float
    accuracy: float
    error: float
    count: int


def reliability(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 10) -> tuple[Bin, ...]:
    """Return accuracy by confidence, in bins of equal width over 0 to 1; empty ones are left out.

    Args:
        confidence: Of each answer, 0 to 1.
        correct: Whether it is right, or a score of 0 to 1.
        bins: How many.

    Raises:
        ValueError: If the lengths differ, there is nothing, or a confidence is out of range.

    Example:
        >>> [(round(b.confidence, 2), b.accuracy, b.count) for b in reliability([0.55, 0.95, 0.95], [0, 1, 1])]
        [(0.55, 0.0, 1), (0.95, 1.0, 2)]
    """
    sure, right = _checked(confidence, correct)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins!r}")
    place = np.minimum((sure * bins).astype(int), bins - 1)
    found = []
    for number in np.unique(place):
        inside = right[place == number]
        accuracy = float(inside.mean())
        error = float(np.sqrt(accuracy * (1 - accuracy) / len(inside)))
        found.append(Bin(float(sure[place == number].mean()), accuracy, error, len(inside)))
    return tuple(found)


def calibration_error(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 10) -> float:
    """Return the expected calibration error: the mean of |accuracy - confidence| over the bins, weighted by count.

    Source: Naeini et al., 2015.

    Example:
        >>> round(calibration_error([0.9] * 10, [1] * 8 + [0] * 2), 3)
        0.1
    """
    parts = reliability(confidence, correct, bins=bins)
    return sum(part.count * abs(part.accuracy - part.confidence) for part in parts) / sum(part.count for part in parts)


def auroc(confidence: ArrayLike, correct: ArrayLike) -> float | None:
    """Return how often a right answer has more confidence than a wrong one: the area under the ROC curve.

    Equal confidence counts half. 1/2 tells nothing, 1 tells right from wrong. Source: Fawcett, 2006.

    Args:
        confidence: Of each answer, 0 to 1.
        correct: Whether it is right.

    Returns:
        The area; None if all answers are right, or none is.

    Raises:
        ValueError: If the lengths differ, there is nothing, or a confidence is out of range.

    Example:
        >>> auroc([0.9, 0.8, 0.8, 0.3], [1, 1, 0, 0])
        0.875
    """
    sure, score = _checked(confidence, correct)
    right, wrong = sure[score >= 0.5], np.sort(sure[score < 0.5])
    if not (len(right) and len(wrong)):
        return None
    below, up_to = (np.searchsorted(wrong, right, side=side).sum() for side in ("left", "right"))
    return float(below + up_to) / (2 * len(right) * len(wrong))


def risk_coverage(
    confidence: ArrayLike, correct: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the error rate of the answers whose confidence reaches a threshold, for every threshold.

    Answers of equal confidence are kept or left together. Source: El-Yaniv and Wiener, 2010.

    Returns:
        Thresholds from high to low; the share of answers kept at each; the share of those that is wrong.

    Example:
        >>> thresholds, coverage, risk = risk_coverage([0.9, 0.9, 0.6, 0.6], [1, 1, 1, 0])
        >>> coverage.tolist(), risk.tolist()
        ([0.5, 1.0], [0.0, 0.25])
    """
    sure, right = _checked(confidence, correct)
    order = np.argsort(-sure, kind="stable")
    sure, wrong = sure[order], np.cumsum(1 - right[order])
    ends = np.append(np.flatnonzero(np.diff(sure)), len(sure) - 1)
    return sure[ends], (ends + 1) / len(sure), wrong[ends] / (ends + 1)


def threshold_for(risk: float, confidence: ArrayLike, correct: ArrayLike) -> float | None:
    """Return the ``min_confidence`` that keeps most answers, of which at most the given share is wrong.

    Measure it on labelled examples like those to come, with the budget they will have.

    Args:
        risk: The share of wrong answers to allow, 0 to 1.
        confidence: Of each answer.
        correct: Whether it is right.

    Returns:
        The threshold; None if even the surest answers are wrong more often.

    Raises:
        ValueError: If the lengths differ, there is nothing, or ``risk`` is out of range.

    Example:
        >>> threshold_for(0.1, [0.9, 0.9, 0.6, 0.6], [1, 1, 1, 0])
        0.9
    """
    if not 0 <= risk <= 1:
        raise ValueError(f"risk must be between 0 and 1, got {risk!r}")
    thresholds, _, risks = risk_coverage(confidence, correct)
    within = np.flatnonzero(risks <= risk)
    return float(thresholds[within[-1]]) if len(within) else None


def _checked(confidence: ArrayLike, correct: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    sure, right = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    if sure.shape != right.shape or sure.ndim != 1:
        raise ValueError(f"confidence and correct must have one length, got {sure.shape} and {right.shape}")
    if not len(sure):
        raise ValueError("there is nothing to measure: confidence is empty")
    if not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError("confidence must be between 0 and 1")
    return sure, right

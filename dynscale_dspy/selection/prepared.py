"""Votes that are compared by similarity: what is compared of each, and what its comparisons came to, kept."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import replace
from fractions import Fraction
from typing import Any
from weakref import WeakKeyDictionary

from dynscale_dspy.selection.base import Vote
from dynscale_dspy.selection.similarity import UNITS, Similarity


class Prepared:
    """What is compared of one answer. It keeps what its comparisons came to: votes of a call are counted several times.

    Args:
        value: What :meth:`~dynscale_dspy.selection.similarity.Similarity.prepare` made of the answer.
    """

    __slots__ = ("__weakref__", "_known", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self._known: WeakKeyDictionary[Prepared, tuple[Similarity, int]] = WeakKeyDictionary()

    def __reduce__(self) -> Any:
        return Prepared, (self.value,)  # what was compared in this process stays in it

    def alike(self, other: Prepared, similarity: Similarity) -> int:
        """How alike it is to another, in parts of :data:`~dynscale_dspy.selection.similarity.UNITS`."""
        known = self._known.get(other)
        if known is None or known[0] is not similarity:
            known = self._known[other] = similarity, _units(similarity, self.value, other.value)
        return known[1]


def _units(similarity: Similarity, one: Any, other: Any) -> int:
    """A similarity in parts; 0 if it fails or is none."""
    try:
        said = float(similarity.between(one, other))
    except Exception:
        return 0  # of a class of the user's: it costs its comparison, and not the call
    return round(said * UNITS) if 0 <= said <= 1 else 0


def prepared(answer: Any, key: Hashable, similarity: Similarity) -> Vote | None:
    """The vote of an answer that is compared by this similarity; None if it casts none."""
    value = similarity.prepare(answer)
    return None if value is None else replace(Vote(answer, key), features=Prepared(value))


def exact_weight(weight: float) -> int | Fraction:
    """A weight as a number whose sums do not depend on their order.

    Raises:
        ValueError: If the weight is not a finite number above 0.
    """
    if not 0 < weight < math.inf:
        raise ValueError(f"weight must be positive, got {weight!r}")
    return int(weight) if weight == int(weight) else Fraction(weight)

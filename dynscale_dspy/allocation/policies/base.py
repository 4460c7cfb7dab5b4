"""What a policy is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from dynscale_dspy.allocation.tally import AnswerKey, Tally


class Policy(ABC):
    """Gives each arm an index: the worth of one more sample per sample's cost.

    Attributes:
        first: Samples every call is guaranteed before its index counts.
        adaptive: Whether answers change the index. Where they do not, the online price stays where it opened.
        depends_on_total: Whether drawing a sample anywhere moves every arm's index.
        ordered: Whether the index depends on the order of an arm's samples. Such a rule reads an
            :class:`OrderedTally`; on a plain tally it makes do with what the counts prove.
        top_two: Whether the index depends on the tally only through ``leader``, ``runner_up`` and ``samples``.
            Replays and large pools then compute it once for each such state.
        is_gain: Whether the index is a gain in the answer, so that over an expected cost it is worth per token or
            dollar. Other rules rank by something else and ignore cost.
    """

    first: int = 1
    adaptive: ClassVar[bool] = True
    depends_on_total: ClassVar[bool] = False
    ordered: ClassVar[bool] = False
    top_two: ClassVar[bool] = False
    is_gain: ClassVar[bool] = False

    @abstractmethod
    def index(self, tally: Tally, *, pending: int = 0, total: int = 0) -> float:
        """The worth of one more sample.

        Args:
            tally: What the arm's finished samples said.
            pending: Samples of this arm in flight, whose answers are not known yet.
            total: Samples drawn so far over all arms; only rules with a growing exploration bonus use it.

        Returns:
            A number at least 0; the largest goes first, and 0 means "no more".
        """

    @abstractmethod
    def opening_price(self, per_call: float) -> float:
        """A first guess of the index at which a call that may take ``per_call`` samples on average should stop.

        Online pools start from it and learn the rest.
        """

    def tally(self) -> Tally:
        """An empty tally of the kind this rule reads."""
        return OrderedTally() if self.ordered else Tally()


class ExploringPolicy(Policy):
    r"""A rule with an exploration bonus that grows with the samples drawn anywhere.

    .. math:: \mathrm{index} = \mathrm{score} + \mathrm{growth}(t) \cdot \mathrm{weight}

    Score and weight belong to the arm, growth to the pool. Told apart, a replay need not ask for the index of every
    arm after every sample.
    """

    depends_on_total: ClassVar[bool] = True

    @abstractmethod
    def terms(self, tally: Tally, *, pending: int = 0) -> tuple[float, float]:
        """The arm's score and the weight of its bonus; at least one sample is drawn or pending."""

    @abstractmethod
    def growth(self, total: int) -> float:
        """How the bonus grows with the samples drawn over all arms."""

    def index(self, tally: Tally, *, pending: int = 0, total: int = 0) -> float:
        """Score plus bonus; an arm never sampled comes before all others."""
        n = tally.samples + pending
        if n == 0:
            return UNSAMPLED
        score, weight = self.terms(tally, pending=pending)
        return score + self.growth(max(total, n)) * weight


UNSAMPLED = 1e9
"""The index of an arm without samples under rules that are not defined there: before all others, and finite."""


@dataclass(frozen=True)
class OrderedTally(Tally):
    """A tally that also knows how many of its latest samples gave the same answer.

    Args:
        votes: For each answer key, the number of samples that gave it.
        empty: Samples that cast no vote.
        latest: The last sample's answer, None if it had none.
        streak: Samples in a row, up to the last, that gave this answer; 0 if the last one had none.

    Example:
        >>> OrderedTally.of("ABB").streak, OrderedTally.of(["A", None]).streak
        (2, 0)
    """

    latest: AnswerKey | None = None
    streak: int = 0

    @classmethod
    def of(cls, keys: Iterable[AnswerKey | None]) -> OrderedTally:
        """The tally of some answers in order; ``None`` stands for a sample that cast no vote."""
        tally = cls()
        for key in keys:
            tally = tally.add(key)
        return tally

    def add(self, key: AnswerKey | None) -> OrderedTally:
        """This tally and one more sample, ``None`` if that cast no vote."""
        if key is None:
            return OrderedTally(self.votes, self.empty + 1)
        votes: Mapping[AnswerKey, int] = MappingProxyType({**self.votes, key: self.votes.get(key, 0) + 1})
        streak = self.streak + 1 if self.streak and key == self.latest else 1
        return OrderedTally(votes, self.empty, key, streak)


def check_first(first: int) -> None:
    """Raise ValueError unless this is a number of first samples."""
    if isinstance(first, bool) or not isinstance(first, int) or first < 1:
        raise ValueError(f"first must be an integer of at least 1, got {first!r}")


def check_positive(**values: Any) -> None:
    """Raise ValueError unless each value is a positive, finite number."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive, got {value!r}")


def check_share(**values: Any) -> None:
    """Raise ValueError unless each value is strictly between 0 and 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value!r}")

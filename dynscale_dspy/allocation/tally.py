"""Votes of one call, answer by answer: who leads, by how much, and how sure that makes us."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from dynscale_dspy.allocation.evidence import Detail, confidence_of

AnswerKey = Hashable

_SUM_OF_VOTES = -1


@dataclass(frozen=True)
class Tally:
    """Votes per answer key, and the samples that cast none. An immutable value: adding a vote makes a new tally.

    It is :class:`~dynscale_dspy.allocation.evidence.Evidence` of detail
    :attr:`~dynscale_dspy.allocation.evidence.Detail.COUNTS`. Where every vote counts one, votes are integers; votes may
    also have real weights.

    Args:
        votes: For each answer key, the weight of the samples that gave it, above 0.
        empty: Samples that cast no vote: failed, truncated, or without a readable answer. They were paid all the same.
        voters: Samples that cast a vote. By default the sum of the votes, which must then be whole numbers.
        is_spread: Whether votes are spread over several answers, by what the language model thought of each.
        probability: What the language model gives the answer that wins, where every vote is its whole opinion; None
            where it has to be told from votes.

    Raises:
        ValueError: If a weight is not a finite number above 0, a number of samples is below 0, or votes are no whole
            numbers and ``voters`` is not given.

    Example:
        >>> tally = Tally.of(["A", "B", "A", None])
        >>> tally.lead, tally.rival, tally.samples
        (2, 1, 4)
        >>> tally.agreement
        0.5
        >>> weighted = tally.add("B", weight=1.5)
        >>> weighted.lead, weighted.rival, weighted.samples
        (2.5, 2, 5)
    """

    votes: Mapping[Any, float] = field(default_factory=lambda: MappingProxyType({}))
    empty: int = 0
    voters: int = field(default=_SUM_OF_VOTES, kw_only=True)
    is_spread: bool = field(default=False, kw_only=True)
    probability: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        counts = sorted(self.votes.values(), reverse=True)
        total = sum(counts)
        if self.empty < 0 or (counts and not (counts[-1] > 0 and total < math.inf)):
            raise ValueError(f"a tally counts votes: got votes={dict(self.votes)!r}, empty={self.empty!r}")
        voters = self.voters
        if voters == _SUM_OF_VOTES:
            if any(count != int(count) for count in counts):
                raise ValueError(f"a tally of real weights needs voters=: got votes={dict(self.votes)!r}")
            voters = int(total)
        elif (voters < len(counts) and not self.is_spread) or bool(voters) != bool(counts):
            raise ValueError(f"voters must be at least one for each answer, got {voters!r} for {dict(self.votes)!r}")
        # Derived once: policies read these for every decision.
        object.__setattr__(self, "voters", voters)
        object.__setattr__(self, "_counts", tuple(counts))
        object.__setattr__(self, "_valid", total)

    @classmethod
    def of(cls, keys: Iterable[AnswerKey | None]) -> Tally:
        """The tally of some answers; ``None`` stands for a sample that cast no vote."""
        votes: dict[AnswerKey, float] = {}
        empty = 0
        for key in keys:
            if key is None:
                empty += 1
            else:
                votes[key] = votes.get(key, 0) + 1
        return cls(MappingProxyType(votes), empty)

    @property
    def counts(self) -> tuple[float, ...]:
        """Weight of each answer's votes, largest first."""
        return self._counts  # type: ignore[attr-defined]

    @property
    def valid(self) -> float:
        """Weight of all votes: where each counts one, the samples that cast one."""
        return self._valid  # type: ignore[attr-defined]

    @property
    def samples(self) -> int:
        """Samples drawn and finished, voters or not."""
        return self.voters + self.empty

    @property
    def blanks(self) -> int:
        """Samples that cast no vote; the same as :attr:`empty`."""
        return self.empty

    @property
    def lead(self) -> float:
        """Weight of the leading answer, 0 when nobody voted."""
        return self.counts[0] if self.counts else 0

    @property
    def rival(self) -> float:
        """Weight of the second answer, 0 when there is none."""
        return self.counts[1] if len(self.counts) > 1 else 0

    # The words of version 0.1 for the two leading answers.
    @property
    def leader(self) -> float:
        """The same as :attr:`lead`."""
        return self.lead

    @property
    def runner_up(self) -> float:
        """The same as :attr:`rival`."""
        return self.rival

    @property
    def agreement(self) -> float:
        """The leader's share of the samples, those without a vote included; 0 when nobody voted.

        Where votes have weights: its share of the votes, times the share of the samples that voted.
        """
        return self.lead / self.valid * self.voters / self.samples if self.valid else 0.0

    @property
    def confidence(self) -> float:
        """Posterior probability that the leader is ahead of the rival in the long run; 0 when nobody voted.

        See :func:`~dynscale_dspy.allocation.evidence.confidence_of`. Where the language model itself has told the
        probability of the answer that wins, it is that.
        """
        return confidence_of(self.lead, self.rival, self.empty) if self.probability is None else self.probability

    @property
    def detail(self) -> Detail:
        """The votes of every answer, in no order."""
        return Detail.COUNTS

    def add(self, key: AnswerKey | None, weight: float = 1) -> Tally:
        """This tally and one more sample.

        Args:
            key: The answer it votes for, None if it casts no vote.
            weight: What its vote counts, above 0.
        """
        if key is None:
            return Tally(self.votes, self.empty + 1, voters=self.voters, is_spread=self.is_spread)
        return Tally(self._votes_with({key: weight}), self.empty, voters=self.voters + 1, is_spread=self.is_spread)

    @property
    def all_single(self) -> bool:
        """Whether no two votes are for the same answer, as far as votes are not spread."""
        return len(self.counts) == self.voters and not self.is_spread

    def _votes_with(self, weights: Mapping[AnswerKey, float]) -> Mapping[Any, float]:
        votes = dict(self.votes)
        for key, weight in weights.items():
            if not 0 < weight < math.inf:
                raise ValueError(f"weight must be positive, got {weight!r}")
            # Whole weights stay integers, so that counts are exact and look like counts.
            votes[key] = votes.get(key, 0) + (int(weight) if weight == int(weight) else weight)
        return MappingProxyType(votes)

    def __add__(self, other: Tally) -> Tally:
        votes = dict(self.votes)
        for key, count in other.votes.items():
            votes[key] = votes.get(key, 0) + count
        return Tally(
            MappingProxyType(votes),
            self.empty + other.empty,
            voters=self.voters + other.voters,
            is_spread=self.is_spread or other.is_spread,
        )

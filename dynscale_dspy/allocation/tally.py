"""Votes of one arm: who leads, by how much, and how sure that makes us."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from dynscale_dspy.allocation.tables import leader_confidence

AnswerKey = Hashable


@dataclass(frozen=True)
class Tally:
    """Votes per answer key, and the samples that cast none. A value: adding a vote makes a new tally.

    Args:
        votes: For each answer key, the number of samples that gave it (at least 1).
        empty: Samples that cast no vote: failed, truncated, or without a readable answer. They were paid all the same.

    Example:
        >>> tally = Tally.of(["A", "B", "A", None])
        >>> tally.leader, tally.runner_up, tally.samples
        (2, 1, 4)
        >>> tally.agreement
        0.6666666666666666
    """

    votes: Mapping[Any, int] = field(default_factory=lambda: MappingProxyType({}))
    empty: int = 0

    def __post_init__(self) -> None:
        counts = sorted(self.votes.values(), reverse=True)
        if self.empty < 0 or (counts and counts[-1] < 1):
            raise ValueError(f"a tally counts votes: got votes={dict(self.votes)!r}, empty={self.empty!r}")
        # Derived once: policies read these for every decision.
        object.__setattr__(self, "_counts", tuple(counts))
        object.__setattr__(self, "_valid", sum(counts))

    @classmethod
    def of(cls, keys: Iterable[AnswerKey | None]) -> Tally:
        """The tally of some answers; ``None`` stands for a sample that cast no vote."""
        votes: dict[AnswerKey, int] = {}
        empty = 0
        for key in keys:
            if key is None:
                empty += 1
            else:
                votes[key] = votes.get(key, 0) + 1
        return cls(MappingProxyType(votes), empty)

    @property
    def counts(self) -> tuple[int, ...]:
        """Votes per answer, largest first."""
        return self._counts  # type: ignore[attr-defined]

    @property
    def valid(self) -> int:
        """Samples that cast a vote."""
        return self._valid  # type: ignore[attr-defined]

    @property
    def samples(self) -> int:
        """All samples, voters or not."""
        return self.valid + self.empty

    @property
    def leader(self) -> int:
        """Votes of the most frequent answer."""
        return self.counts[0] if self.counts else 0

    @property
    def runner_up(self) -> int:
        """Votes of the second most frequent answer."""
        return self.counts[1] if len(self.counts) > 1 else 0

    @property
    def agreement(self) -> float:
        """The leader's share of the votes, 0 when nobody voted."""
        return self.leader / self.valid if self.valid else 0.0

    @property
    def confidence(self) -> float:
        """Posterior probability that the leader is ahead of the runner-up in the long run (0.5 when nobody voted)."""
        return leader_confidence(self.leader, self.runner_up)

    def add(self, key: AnswerKey | None) -> Tally:
        """This tally and one more sample, ``None`` if that cast no vote."""
        if key is None:
            return Tally(self.votes, self.empty + 1)
        return Tally(MappingProxyType({**self.votes, key: self.votes.get(key, 0) + 1}), self.empty)

    def __add__(self, other: Tally) -> Tally:
        votes = dict(self.votes)
        for key, count in other.votes.items():
            votes[key] = votes.get(key, 0) + count
        return Tally(MappingProxyType(votes), self.empty + other.empty)

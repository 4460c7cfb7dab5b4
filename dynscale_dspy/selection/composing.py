"""Selections that may put an answer together: the votes of a call under any rule, and the answers one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pydantic

from dynscale_dspy._cached import cached_property
from dynscale_dspy.selection.answers import canonical
from dynscale_dspy.selection.base import Composed, Evidence, Group, Selection, Vote


@dataclass(frozen=True)
class Ballot:
    """What one sample has said, and what it counts.

    Args:
        answer: Its answer.
        sample: Its index among the call's samples.
        weight: What its vote counts.
        conditioned: Whether it saw earlier samples.
    """

    answer: Any
    sample: int
    weight: float
    conditioned: bool


class Composer(ABC):
    """Puts answers together from those of several samples."""

    @abstractmethod
    def put_together(self, ballots: Sequence[Ballot], whose: Ballot) -> Any:
        """The answer.

        Args:
            ballots: The samples that voted, by index.
            whose: That which is nearest to the others.

        Raises:
            CannotCompose: If there is no such answer.
            Exception: If the answer's type refuses it, or code of its class fails.
        """


class CannotCompose(ValueError):
    """There is no answer that can be put together; the nearest sample's own is returned."""


@dataclass(frozen=True)
class ComposingSelection:
    """The votes of one call under a rule that finds the sample nearest to the others, and what they come to together.

    Args:
        nearest: The votes under that rule.
        composer: Puts the answer together.
        ballots: The votes one by one, in the order in which they were added.
    """

    nearest: Selection
    composer: Composer
    ballots: tuple[Ballot, ...] = ()

    def add(
        self, vote: Vote | None, *, sample: int | None = None, weight: float = 1.0, conditioned: bool = False
    ) -> ComposingSelection:
        """This selection and one more sample; see :meth:`~dynscale_dspy.selection.base.Selection.add`."""
        index = self.nearest.evidence().samples if sample is None else sample
        nearest = self.nearest.add(vote, sample=index, weight=weight, conditioned=conditioned)
        added = () if vote is None else (Ballot(vote.answer, index, weight, conditioned),)
        return replace(self, nearest=nearest, ballots=(*self.ballots, *added))

    def winner(self, *, favour_conditioned: bool = False) -> int | None:
        """Index of the sample that is nearest to the others; None while no sample has voted."""
        return self.nearest.winner(favour_conditioned=favour_conditioned)

    def is_settled(self, pending: int) -> bool:
        """Whether so many more samples cannot change which is nearest. A composed answer may change with any."""
        return self.nearest.is_settled(pending)

    def evidence(self) -> Evidence:
        """What the bandit sees."""
        return self.nearest.evidence()

    def groups(self) -> Sequence[Group]:
        """The answers, heaviest first."""
        return self.nearest.groups()

    def composed(self, *, favour_conditioned: bool = False) -> Composed | None:
        """The answer put together; None where it is the nearest sample's own, or its type refuses it."""
        return self._composed[favour_conditioned]

    @cached_property
    def _composed(self) -> dict[bool, Composed | None]:
        return {favour: self._made(self.winner(favour_conditioned=favour)) for favour in (False, True)}

    def _made(self, index: int | None) -> Composed | None:
        ballots = sorted(self.ballots, key=lambda ballot: ballot.sample)
        whose = next((ballot for ballot in ballots if ballot.sample == index), None)
        if whose is None or len(ballots) < 3:  # two samples outvote nobody
            return None
        try:
            answer = self.composer.put_together(ballots, whose)
            is_own = bool(answer == whose.answer)
        except Exception:  # its type refuses it: the nearest sample's own answer is one that it takes
            return None
        return None if is_own else Composed(answer, whose.sample)


def valid(value: Any, annotation: Any) -> Any:
    """A value as its type takes it.

    Args:
        value: The value.
        annotation: The type; None if it is not known.

    Raises:
        ValueError: If the type refuses it, or makes another value of it.
    """
    if annotation is None:
        return value
    return unchanged(pydantic.TypeAdapter(annotation).validate_python(value), value)


def unchanged(made: Any, given: Any) -> Any:
    """What a type has made of a value, where that is the same.

    What is composed was validated before, in the samples. A validator that changes it once more, such as one that turns
    dollars into cents, or a type that reads a field under another name, makes an answer that no sample supports.

    Args:
        made: What the type has made.
        given: The value.

    Raises:
        CannotCompose: If it is another one.
    """
    if canonical(made) != canonical(given):
        raise CannotCompose("the type makes another value of it")
    return made

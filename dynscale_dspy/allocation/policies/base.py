"""What a policy is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from dynscale_dspy import _deprecated
from dynscale_dspy.allocation.evidence import Detail, Evidence
from dynscale_dspy.allocation.tally import AnswerKey, Tally


class _OldFlag:
    """Class attribute of version 0.1 that :attr:`Policy.needs` has replaced; reading it warns."""

    def __init__(self, needs: Detail) -> None:
        self._needs = needs

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, policy: Policy | None, kind: type[Policy]) -> bool:
        _deprecated.warn(f"{kind.__name__}.{self._name}", f"{kind.__name__}.needs")
        return (kind if policy is None else policy).needs == self._needs


class Policy(ABC):
    """Gives each arm an index: the worth of one more sample per sample's cost.

    Attributes:
        first: Samples every call is guaranteed before its index counts.
        needs: What the index depends on, and so the least that evidence must offer.

            * ``Detail.TOP_TWO``: only ``lead``, ``rival``, ``samples`` and ``blanks``. Replays and large pools then
              compute the index once for each such state.
            * ``Detail.COUNTS``: the votes of every answer, in any order.
            * ``Detail.ORDER``: the order of an arm's samples as well. Such a rule reads an :class:`OrderedTally`; on a
              plain tally it makes do with what the counts prove.
        adaptive: Whether answers change the index. Where they do not, the online price stays where it opened.
        depends_on_total: Whether drawing a sample anywhere moves every arm's index.
        is_gain: Whether the index is a gain in the answer, so that over an expected cost it is worth per token or
            dollar. Other rules rank by something else and ignore cost.
    """

    first: int = 1
    needs: ClassVar[Detail] = Detail.COUNTS
    adaptive: ClassVar[bool] = True
    depends_on_total: ClassVar[bool] = False
    is_gain: ClassVar[bool] = False

    top_two = _OldFlag(Detail.TOP_TWO)
    ordered = _OldFlag(Detail.ORDER)

    def __init_subclass__(cls, **options: Any) -> None:
        """Set ``needs`` of a class written for version 0.1 from its ``top_two`` and ``ordered``."""
        super().__init_subclass__(**options)
        # What the class says itself or takes from a mixin; its base policies have had their turn.
        own: dict[str, Any] = {}
        for kind in reversed(cls.__mro__):
            if kind is cls or not issubclass(kind, Policy):
                own.update((name, vars(kind)[name]) for name in ("needs", "top_two", "ordered") if name in vars(kind))
        if "needs" in own or not own:
            return
        if own.get("ordered", cls.needs == Detail.ORDER):
            cls.needs = Detail.ORDER
        elif own.get("top_two", cls.needs == Detail.TOP_TWO):
            cls.needs = Detail.TOP_TWO
        else:
            cls.needs = Detail.COUNTS
        said = " and ".join(f"{cls.__name__}.{name}" for name in ("top_two", "ordered") if name in own)
        # Above this method stands ABCMeta's, and above that the class statement.
        _deprecated.warn(said, f"needs = Detail.{cls.needs.name}", stacklevel=4)

    @abstractmethod
    def index(self, evidence: Evidence, *, pending: int = 0, total: int = 0) -> float:
        """The worth of one more sample.

        Args:
            evidence: What the arm's finished samples said, with the detail that :attr:`needs` asks for. It is passed
                by position.
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
        return OrderedTally() if self.needs == Detail.ORDER else Tally()


class ExploringPolicy(Policy):
    r"""A rule with an exploration bonus that grows with the samples drawn anywhere.

    .. math:: \mathrm{index} = \mathrm{score} + \mathrm{growth}(t) \cdot \mathrm{weight}

    Score and weight belong to the arm, growth to the pool. Told apart, a replay need not ask for the index of every
    arm after every sample.
    """

    depends_on_total: ClassVar[bool] = True

    @abstractmethod
    def terms(self, evidence: Evidence, *, pending: int = 0) -> tuple[float, float]:
        """The arm's score and the weight of its bonus; at least one sample is drawn or pending."""

    @abstractmethod
    def growth(self, total: int) -> float:
        """How the bonus grows with the samples drawn over all arms."""

    def index(self, evidence: Evidence, *, pending: int = 0, total: int = 0) -> float:
        """Score plus bonus; an arm never sampled comes before all others."""
        n = evidence.samples + pending
        if n == 0:
            return UNSAMPLED
        score, weight = self.terms(evidence, pending=pending)
        return score + self.growth(max(total, n)) * weight


UNSAMPLED = 1e9
"""The index of an arm without samples under rules that are not defined there: before all others, and finite."""


@dataclass(frozen=True)
class OrderedTally(Tally):
    """A tally that also knows how many of its latest samples gave the same answer.

    It is evidence of detail ``Detail.ORDER``.

    Args:
        votes: For each answer key, the weight of the samples that gave it.
        empty: Samples that cast no vote.
        latest: The last sample's answer, None if it had none.
        streak: Samples in a row, up to the last, that gave this answer; 0 if the last one had none.
        voters: Samples that cast a vote; see :class:`~dynscale_dspy.allocation.tally.Tally`.

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

    @property
    def detail(self) -> Detail:
        """The votes of every answer, and the order of the latest."""
        return Detail.ORDER

    def add(self, key: AnswerKey | None, weight: float = 1) -> OrderedTally:
        """This tally and one more sample; see :meth:`Tally.add`."""
        if key is None:
            return OrderedTally(self.votes, self.empty + 1, voters=self.voters, is_spread=self.is_spread)
        return self._with(key, {key: weight}, is_spread=self.is_spread)

    def spread(self, key: AnswerKey, weights: Mapping[AnswerKey, float]) -> OrderedTally:
        """This tally and one more sample, whose vote is spread over several answers.

        Args:
            key: The answer that it gave.
            weights: What its vote counts for each answer, above 0.
        """
        return self._with(key, weights, is_spread=True)

    def _with(self, key: AnswerKey, weights: Mapping[AnswerKey, float], *, is_spread: bool) -> OrderedTally:
        streak = self.streak + 1 if self.streak and key == self.latest else 1
        votes = self._votes_with(weights)
        return OrderedTally(votes, self.empty, key, streak, voters=self.voters + 1, is_spread=is_spread)


def tally_of(evidence: Evidence, policy: Policy) -> Tally:
    """This evidence as a tally, for a policy that reads the votes of every answer.

    Raises:
        TypeError: If the evidence only knows the two leading answers.
    """
    if not isinstance(evidence, Tally):
        raise TypeError(
            f"{type(policy).__name__} reads the votes of every answer, and {evidence!r} knows the two leading ones "
            f"alone: choose a policy that needs Detail.TOP_TWO, such as KnowledgeGradient()"
        )
    return evidence


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

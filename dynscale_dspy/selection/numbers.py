"""Numbers that are as good as equal, and scores that are best averaged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Annotated, Any, Literal

from dynscale_dspy._cached import cached_property
from dynscale_dspy._fields import Number, OneOfWords, check
from dynscale_dspy.allocation.policies import OrderedTally
from dynscale_dspy.selection.answers import canonical
from dynscale_dspy.selection.base import Cast, Group, Vote
from dynscale_dspy.selection.prepared import exact_weight

Tolerance = Annotated[float, Number(least=0, kind="a number of at least 0")]
Meaning = Annotated[Literal["value", "score"], OneOfWords]

_NOTHING = ("nothing",)


@dataclass(frozen=True)
class Numbers:
    """A selector for numbers: the value most samples are near to, or the sample nearest to the mean of all.

    Args:
        tolerance: How far apart two numbers may be and still vote together, in their unit. 0 for equal ones.
        kind: ``"value"``, for what is right or wrong: the largest cluster of numbers within the tolerance of one of
            them wins, and of these the number that most samples gave. ``"score"``, for ratings, where near is half
            right: the sample nearest to the mean wins. On ratings from 1 to 10 the mean's squared error was 0.40 to
            0.49, that of the most frequent value 0.51 to 0.59; of right-or-wrong integers the mean and the median were
            4 to 10 points below the vote.

    Raises:
        ValueError: If ``tolerance`` is negative or ``kind`` is neither.

    Example:
        >>> def winner(selector, *answers):
        ...     selection = selector.empty()
        ...     for answer in answers:
        ...         selection = selection.add(selector.read(answer))
        ...     return answers[selection.winner()]
        >>> winner(Numbers(tolerance=0.05), 9.81, 12, 9.8, 12, 9.81), winner(Numbers(kind="score"), 3, 9, 7)
        (9.81, 7)
    """

    tolerance: Tolerance = 0.0
    kind: Meaning = "value"

    def __post_init__(self) -> None:
        check("tolerance", self.tolerance, Tolerance)
        check("kind", self.kind, Meaning)

    @property
    def similarity(self) -> Near:
        """Whether two numbers vote together."""
        return Near(self.tolerance)

    def read(self, answer: Any) -> Vote:
        """The number under its key. What is no number has one too, and is compared by equality."""
        return Vote(answer, _key(answer))

    def empty(self) -> NumbersSelection:
        """The selection of a call without samples."""
        return NumbersSelection(Fraction(repr(float(self.tolerance))), is_score=self.kind == "score")


@dataclass(frozen=True)
class Near:
    """1 for numbers that are at most so far apart, else 0. What is no number is like what equals it.

    Args:
        tolerance: How far, in their unit.

    Example:
        >>> near = Near(0.1)
        >>> near.between(near.prepare("0.3"), near.prepare(0.2)), near.between(near.prepare(1), near.prepare(2))
        (1.0, 0.0)
    """

    tolerance: float

    def prepare(self, answer: Any) -> Hashable:
        """Its key."""
        return _key(answer)

    def between(self, one: Hashable, other: Hashable) -> float:
        """Whether they are near."""
        first, second = _number(one), _number(other)
        if first is None or second is None:
            return float(one == other)
        return float(abs(first - second) <= Fraction(repr(float(self.tolerance))))


@dataclass(frozen=True)
class NumbersSelection:
    """The votes of one call under :class:`Numbers`. An immutable value: adding a vote makes a new one.

    Args:
        tolerance: How far apart numbers of one cluster may be from its centre.
        is_score: Whether the sample nearest to the mean wins.
        votes: The votes one by one, in the order in which they were added.
        samples: The samples added.
        keys: The key of each sample in this order; None for those that cast no vote.
    """

    tolerance: Fraction
    is_score: bool = False
    votes: tuple[Cast, ...] = ()
    keys: tuple[Hashable | None, ...] = field(default=(), repr=False)

    def add(
        self, vote: Vote | None, *, sample: int | None = None, weight: float = 1.0, conditioned: bool = False
    ) -> NumbersSelection:
        """This selection and one more sample; see :meth:`~dynscale_dspy.selection.base.Selection.add`.

        Raises:
            ValueError: If the weight is not a finite number above 0.
        """
        exact = exact_weight(weight)
        if vote is None:
            return replace(self, keys=(*self.keys, None))
        index = len(self.keys) if sample is None else sample
        cast = Cast(vote, index, exact, conditioned)
        return replace(self, votes=(*self.votes, cast), keys=(*self.keys, vote.key))

    def winner(self, *, favour_conditioned: bool = False) -> int | None:
        """Index of the winning sample; None while no sample has voted.

        Ties go to the number with more independent votes, then to the earliest sample.

        Args:
            favour_conditioned: Whether ties go to the number with more votes of samples that saw earlier ones.
        """
        if not self.votes:
            return None
        if self.is_score and (nearest := self._nearest_to_mean(favour_conditioned)) is not None:
            return nearest.sample
        leading = max(self._clusters, key=lambda cluster: cluster.rank(favour_conditioned))
        return leading.modal(favour_conditioned).speaker.sample

    def is_settled(self, pending: int) -> bool:
        """Whether so many more samples cannot change which number wins."""
        if not self.votes:
            return False
        if self.is_score:
            return pending == 0  # any sample moves the mean
        weights = sorted((number.weight for number in self._numbers), reverse=True)
        if self.tolerance:  # numbers between two clusters would join them; more than half of all they cannot outvote
            return weights[0] - sum(weights[1:]) > pending
        return weights[0] - sum(weights[1:2]) > pending

    def evidence(self) -> OrderedTally:
        """The votes by cluster; of scores, by number."""
        return self._evidence

    def groups(self) -> Sequence[Group]:
        """The clusters, heaviest first, each told by the number most of its samples gave; of scores, the numbers."""
        found = [cluster.group for cluster in self._clusters]
        return tuple(sorted(found, key=lambda group: (-group.weight, group.samples[0])))

    def _nearest_to_mean(self, favour_conditioned: bool) -> Cast | None:
        """The vote nearest to the mean; None where more samples say something that is no number."""
        scores = [(number.value, number) for number in self._numbers if number.value is not None]
        total = sum(number.weight for _, number in scores)
        if not scores or any(number.weight > total for number in self._numbers if number.value is None):
            return None
        mean = sum(value * number.weight for value, number in scores) / total
        ranked = [(-abs(value - mean), number.rank(favour_conditioned), number) for value, number in scores]
        return max(ranked, key=lambda item: item[:2])[2].speaker

    @cached_property
    def _numbers(self) -> tuple[_Numeral, ...]:
        casts: dict[Hashable, list[Cast]] = defaultdict(list)
        for cast in sorted(self.votes, key=lambda cast: cast.sample):
            casts[cast.vote.key].append(cast)
        return tuple(_Numeral(key, _number(key), tuple(given)) for key, given in casts.items())

    @cached_property
    def _clusters(self) -> tuple[_Cluster, ...]:
        """The numbers by cluster: the largest there can be, then the largest of those left, and so on."""
        if self.is_score or not self.tolerance:
            return tuple(_Cluster((number,)) for number in self._numbers)
        numbers, near, left, found = self._numbers, self._near, set(range(len(self._numbers))), []
        while left:
            around = {place: near[place] & left for place in left}
            centre = max(
                left, key=lambda place: (_weight(numbers[i] for i in around[place]), numbers[place].rank(False))
            )
            found.append(_Cluster(tuple(numbers[place] for place in sorted(around[centre]))))
            left -= around[centre]
        return tuple(found)

    @property
    def _near(self) -> list[set[int]]:
        """The places of the numbers that are near each number, its own among them."""
        near = [{place} for place in range(len(self._numbers))]
        valued = [(number.value, place) for place, number in enumerate(self._numbers) if number.value is not None]
        valued.sort()
        for rank, (value, place) in enumerate(valued):
            for other_value, other in valued[rank + 1 :]:
                if other_value - value > self.tolerance:
                    break
                near[place].add(other)
                near[other].add(place)
        return near

    @cached_property
    def _evidence(self) -> OrderedTally:
        known = {number.key: cluster.group.key for cluster in self._clusters for number in cluster.numbers}
        weights, tally = iter(cast.weight for cast in self.votes), OrderedTally()
        for key in self.keys:
            tally = tally.add(None) if key is None else tally.add(known[key], _plain(next(weights)))
        return tally


@dataclass(frozen=True)
class _Numeral:
    """One number, or one answer that is none, and the samples that gave it, the earliest first."""

    key: Hashable
    value: Fraction | None
    casts: tuple[Cast, ...]

    @cached_property
    def weight(self) -> int | Fraction:
        return sum((cast.weight for cast in self.casts), 0)

    @property
    def speaker(self) -> Cast:
        """The first independent vote for it; if there is none, the first."""
        return min(self.casts, key=lambda cast: (cast.conditioned, cast.sample))

    def rank(self, favour_conditioned: bool) -> tuple[int | Fraction, int | Fraction, int]:
        """Its weight, that of the samples that ties go to, and how early it came."""
        favoured = sum((cast.weight for cast in self.casts if cast.conditioned is favour_conditioned), 0)
        return self.weight, favoured, -self.casts[0].sample


@dataclass(frozen=True)
class _Cluster:
    """Numbers that vote together."""

    numbers: tuple[_Numeral, ...]

    def modal(self, favour_conditioned: bool) -> _Numeral:
        """The number that most samples gave."""
        return max(self.numbers, key=lambda number: number.rank(favour_conditioned))

    def rank(self, favour_conditioned: bool) -> tuple[int | Fraction, int | Fraction, int]:
        """As of one number."""
        weights, favoured, first = zip(*(number.rank(favour_conditioned) for number in self.numbers), strict=True)
        return sum(weights, 0), sum(favoured, 0), max(first)

    @cached_property
    def group(self) -> Group:
        """Its samples as reports tell them."""
        casts = sorted((cast for number in self.numbers for cast in number.casts), key=lambda cast: cast.sample)
        modal = self.modal(False)
        independent = sum((cast.weight for cast in casts if not cast.conditioned), 0)
        conditioned = sum((cast.weight for cast in casts if cast.conditioned), 0)
        indices = tuple(cast.sample for cast in casts)
        return Group(modal.speaker.vote.answer, modal.key, _plain(independent), _plain(conditioned), indices)


def _key(answer: Any) -> Hashable:
    key = canonical(answer, "number")
    return _NOTHING if key is None else key


def _number(key: Any) -> Fraction | None:
    return Fraction(key[1]) if isinstance(key, tuple) and len(key) == 2 and key[0] == "number" else None


def _weight(numbers: Iterable[_Numeral]) -> int | Fraction:
    return sum((number.weight for number in numbers), 0)


def _plain(weight: int | Fraction) -> float:
    return weight if isinstance(weight, int) else float(weight)

"""The rule that the answer most like all others wins."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from dynscale_dspy._cached import cached_property
from dynscale_dspy.allocation.likeness import Contest, Likeness
from dynscale_dspy.allocation.repeats import ENOUGH
from dynscale_dspy.selection.answers import Kinds, key_of, kinds_of, spelling
from dynscale_dspy.selection.base import Cast, Group, Vote
from dynscale_dspy.selection.prepared import Prepared, exact_weight, prepared
from dynscale_dspy.selection.similarity import UNITS, Equal, Similarity, TokenF1, similarity_of
from dynscale_dspy.selection.text import LAYERS

_NOTHING = ("nothing",)
"""The key of None and of blank text, where those are the answer."""


@dataclass(frozen=True)
class Medoid:
    """A selector under which the sample wins that is most like all others: for text, code, lists and records.

    The winner is the sample of greatest mean similarity, a minimum-risk choice among samples (Kumar and Byrne, NAACL
    2004). If answers are either equal or not at all alike that is the answer with most votes. Groups, in reports and
    chains, are samples whose answers are the same (:func:`~dynscale_dspy.selection.answers.canonical`).

    On 250 recorded questions with short free answers it is 2.2 points above plurality at 4 samples and 1.3 at 8, and a
    bandit at 4 samples a question adds 4.3 [3.1, 5.6]; on code of two models it is 1 to 4 points above a random sample
    where outputs are compared (``examples/benchmarks/selection.py``). On creative writing it gains nothing. Two samples
    tell it nothing: the first of them wins.

    Args:
        similarity: How alike two answers are: a :class:`~dynscale_dspy.selection.similarity.Similarity`, or a function
            of two answers that returns a number from 0 to 1.
        kinds: How values of each output field are compared where the same answers are grouped. :meth:`typed` sets it.

    Raises:
        ValueError: If ``similarity`` is neither.

    Example:
        >>> selector = Medoid()
        >>> selection = selector.empty()
        >>> for answer in ("in Rome", "the city of Paris", "Paris, France", "Paris"):
        ...     selection = selection.add(selector.read(answer))
        >>> selection.winner(), selection.groups()[0].answer
        (3, 'Paris')
    """

    similarity: Similarity = field(default_factory=TokenF1)
    kinds: Kinds = field(default=(), repr=False, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "similarity", similarity_of(self.similarity))

    def typed(self, output_types: Mapping[str, Any]) -> Medoid:
        """This selector for outputs of these types, by the name of each field that is part of the answer."""
        other = copy.copy(self)  # of a subclass too, whatever its own __init__ takes
        object.__setattr__(other, "kinds", kinds_of(output_types))
        return other

    def read(self, answer: Any) -> Vote | None:
        """The answer, with what is compared of it; None if it casts no vote by this similarity."""
        key = key_of(answer, self.kinds, _EVERY)
        return prepared(answer, _NOTHING if key is None else key, self.similarity)

    def empty(self) -> MedoidSelection:
        """The selection of a call without samples."""
        return MedoidSelection(self.similarity)


_EVERY = frozenset(LAYERS)


class _Cast(Cast):
    """One sample's vote."""

    @property
    def prepared(self) -> Prepared:
        return self.vote.features


@dataclass
class _Standing:
    """One answer: the votes of the samples that gave it."""

    votes: list[_Cast] = field(default_factory=list)
    independent: int | Fraction = 0
    conditioned: int | Fraction = 0

    @cached_property
    def first(self) -> int:
        return min(cast.sample for cast in self.votes)

    @cached_property
    def spellings(self) -> dict[Hashable, int | Fraction]:
        """The weight of each way to put it."""
        weights: dict[Hashable, int | Fraction] = defaultdict(int)
        for cast in self.votes:
            weights[spelling(cast.vote.answer)] += cast.weight
        return weights


@dataclass(frozen=True)
class MedoidSelection:
    """The votes of one call under :class:`Medoid`. An immutable value: adding a vote makes a new one.

    A vote is compared with each one before it, once. Similarities and their sums are whole numbers of parts
    (:data:`~dynscale_dspy.selection.similarity.UNITS`).

    Args:
        similarity: How alike two answers are.
        votes: The votes one by one, in the order in which they were added.
        rows: How alike each vote is to those before it.
        sums: How alike each vote is to all, its own included, by their weights.
        samples: Samples added.
        blanks: Those of them that cast no vote.
        is_blank: Whether the latest one is one of them.
    """

    similarity: Similarity
    votes: tuple[_Cast, ...] = ()
    rows: tuple[tuple[int, ...], ...] = ()
    sums: tuple[int | Fraction, ...] = ()
    samples: int = 0
    blanks: int = 0
    is_blank: bool = False

    def add(
        self, vote: Vote | None, *, sample: int | None = None, weight: float = 1.0, conditioned: bool = False
    ) -> MedoidSelection:
        """This selection and one more sample.

        Args:
            vote: What the sample says, as :meth:`Medoid.read` gave it; None if it casts no vote.
            sample: Its index among the call's samples, different for each; by default the number added before.
            weight: What its vote counts, above 0.
            conditioned: Whether it saw earlier samples of the call.

        Raises:
            ValueError: If the weight is not a finite number above 0, or the vote has nothing to compare.
        """
        exact = exact_weight(weight)
        count, blanks = self.samples + 1, self.blanks
        if vote is None:
            return MedoidSelection(self.similarity, self.votes, self.rows, self.sums, count, blanks + 1, True)
        if not isinstance(vote.features, Prepared):
            raise ValueError(f"a medoid compares what was made of answers, and {vote!r} has none: make it with read()")
        cast = _Cast(vote, self.samples if sample is None else sample, exact, conditioned)
        row = tuple(self._alike(cast, other) for other in self.votes)
        sums = [total + exact * alike for total, alike in zip(self.sums, row, strict=True)]
        own = exact * UNITS + sum(other.weight * alike for other, alike in zip(self.votes, row, strict=True))
        return MedoidSelection(self.similarity, (*self.votes, cast), (*self.rows, row), (*sums, own), count, blanks)

    def winner(self, *, favour_conditioned: bool = False) -> int | None:
        """Index of the winning sample; None while no sample has voted.

        The sample that is most like all others wins. Ties go to the answer with more independent votes, then to the one
        sampled first; among samples of one answer to those that put it as most do, letter by letter, and of them to the
        first independent one.

        Args:
            favour_conditioned: Whether ties go to the answer with more votes of samples that saw earlier ones.
        """
        ranked = self._ranked(favour_conditioned=favour_conditioned)
        return self.votes[ranked[0]].sample if ranked else None

    def is_settled(self, pending: int) -> bool:
        """Whether so many samples cannot change which answer wins.

        A sample to come may be like all others, and win. So nothing is settled while one is in flight, unless answers
        are compared by equality: then the leader is ahead by more votes than so many can cast.
        """
        if not self.votes or pending <= 0:
            return bool(self.votes)
        if not isinstance(self.similarity, Equal):
            return False
        order = self._ranked()
        leader = order[0]
        rivals = (self.sums[place] for place in order[1:] if not self._between(leader, place))
        return self.sums[leader] - max(rivals, default=0) > pending * UNITS

    def evidence(self) -> Likeness:
        """The leader against each other answer."""
        return self._evidence

    def groups(self) -> Sequence[Group]:
        """The answers, the most central first; of equally central ones the one sampled first."""
        central: dict[Hashable, int | Fraction] = {}
        for cast, total in zip(self.votes, self.sums, strict=True):
            central[cast.vote.key] = max(total, central.get(cast.vote.key, 0))
        ordered = sorted(central, key=lambda key: (-central[key], self._standings[key].first))
        return tuple(self._group(key) for key in ordered)

    def alike(self, one: int, other: int) -> float | None:
        """How alike two samples are, by their indices, from 0 to 1; None if one of them has not voted."""
        places = {cast.sample: place for place, cast in enumerate(self.votes)}
        if one not in places or other not in places:
            return None
        return self._between(places[one], places[other]) / UNITS

    # ---- inside

    def _alike(self, one: _Cast, other: _Cast) -> int:
        # Always the earlier sample first, whichever came first: a similarity of the user's may not be symmetric.
        first, second = (one, other) if one.sample < other.sample else (other, one)
        return first.prepared.alike(second.prepared, self.similarity)

    def _between(self, one: int, other: int) -> int:
        """How alike the votes at two places are."""
        if one == other:
            return UNITS
        return self.rows[max(one, other)][min(one, other)]

    def _ranked(self, *, favour_conditioned: bool = False) -> list[int]:
        """The places of the votes, the winner's first."""

        def rank(place: int) -> tuple[Any, ...]:
            cast = self.votes[place]
            standing = self._standings[cast.vote.key]
            favoured = standing.conditioned if favour_conditioned else standing.independent
            put = standing.spellings[spelling(cast.vote.answer)]
            return -self.sums[place], -favoured, standing.first, -put, cast.conditioned, cast.sample

        return sorted(range(len(self.votes)), key=rank)

    def _group(self, key: Hashable) -> Group:
        standing = self._standings[key]
        speaker = next(self.votes[place] for place in self._ranked() if self.votes[place].vote.key == key)
        return Group(
            answer=speaker.vote.answer,
            key=key,
            independent=_plain(standing.independent),
            conditioned=_plain(standing.conditioned),
            samples=tuple(sorted(cast.sample for cast in standing.votes)),
        )

    @cached_property
    def _standings(self) -> dict[Hashable, _Standing]:
        standings: dict[Hashable, _Standing] = defaultdict(_Standing)
        for cast in self.votes:
            standing = standings[cast.vote.key]
            standing.votes.append(cast)
            if cast.conditioned:
                standing.conditioned += cast.weight
            else:
                standing.independent += cast.weight
        return dict(standings)

    @cached_property
    def _evidence(self) -> Likeness:
        if not self.votes:
            return Likeness(samples=self.samples, blanks=self.blanks)
        leader = self._ranked()[0]
        rivals = [place for place in range(len(self.votes)) if place != leader]
        to_leader = [self._between(leader, place) for place in range(len(self.votes))]
        lead = float(self.sums[leader] / Fraction(UNITS))
        # Of what one answer says twice, the contests are the same.
        contests = {self._contest(leader, place, to_leader): None for place in rivals if to_leader[place] < UNITS}
        rival = max(
            (float(self.sums[place] * (UNITS - to_leader[place]) / Fraction(UNITS**2)) for place in rivals), default=0.0
        )
        return Likeness(
            lead,
            min(rival, lead),
            self.samples,
            self.blanks,
            valid=float(sum(cast.weight for cast in self.votes)),
            contests=tuple(contests),
            told=self._told,
            is_flat=self._is_flat,
            first=self.alike(0, 1),
        )

    def _contest(self, leader: int, rival: int, to_leader: Sequence[int]) -> Contest:
        apart = others = 0.0
        for place, cast in enumerate(self.votes):
            if place not in (leader, rival):
                weight = float(cast.weight)
                apart += weight * ((to_leader[place] - self._between(rival, place)) / UNITS) ** 2
                others += weight
        ahead = float((self.sums[leader] - self.sums[rival]) / Fraction(UNITS))
        return Contest(ahead, apart, others, 1 - to_leader[rival] / UNITS)

    @property
    def _told(self) -> float | None:
        latest = self.rows[-1]
        if self.is_blank or len(latest) < 2:
            return None
        return ((max(latest) - min(latest)) / UNITS) ** 2

    @property
    def _is_flat(self) -> bool:
        if len(self._standings) < len(self.votes):
            return False  # two of them are the same
        pairs = [alike for row in self.rows for alike in row]
        return not pairs or ((max(pairs) - min(pairs)) / UNITS) ** 2 < ENOUGH


def _plain(weight: int | Fraction) -> float:
    return weight if isinstance(weight, int) else float(weight)

"""The rule that the answer with most votes wins."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from dynscale_dspy._cached import cached_property
from dynscale_dspy._fields import check
from dynscale_dspy.allocation.policies import OrderedTally
from dynscale_dspy.allocation.tally import AnswerKey
from dynscale_dspy.selection.answers import Kinds, key_of, kinds_of, spelling
from dynscale_dspy.selection.base import Cast, Group, Share, Vote
from dynscale_dspy.selection.prepared import Prepared, exact_weight
from dynscale_dspy.selection.similarity import UNITS, Similarity, similarity_of
from dynscale_dspy.selection.text import LAYERS, Layers

_NOTHING = ("nothing",)
"""The key of None and of blank text, where those are the answer."""


@dataclass(frozen=True)
class Plurality:
    """A selector under which the answer with most votes wins (self-consistency, Wang et al., arXiv 2203.11171).

    Answers are the same if their keys are (:func:`~dynscale_dspy.selection.answers.canonical`). Policies of every need
    can read its votes.

    Args:
        without: Names of the :data:`~dynscale_dspy.selection.text.LAYERS` of text that do not come off before votes are
            compared; none by default. ``without="case"`` tells ``Paris`` and ``paris`` apart.
        ties: How alike two answers are, so that of answers with as many votes, single ones too, the one wins that is
            most like all: a :class:`~dynscale_dspy.selection.similarity.Similarity`, or a function of two answers that
            returns a number from 0 to 1. By default, and of equally central ones, the one sampled first wins. On 250
            recorded questions with short free answers ``ties=TokenF1()`` gained 2.5 points at 4 samples and 1.7 at 8.
            The bandit sees the votes alone: where it decides who is sampled,
            :class:`~dynscale_dspy.selection.medoid.Medoid` gained 3 points more at 4 samples a question.
        kinds: How values of each output field are compared, where it is not by their own types. :meth:`typed` sets it.

    Raises:
        ValueError: If ``without`` has a name that is no layer's, or ``ties`` is no similarity.

    Example:
        >>> selector = Plurality()
        >>> selection = selector.empty()
        >>> for answer in ("12", "7", "7.0"):
        ...     selection = selection.add(selector.read(answer))
        >>> selection.winner(), [(group.answer, group.weight) for group in selection.groups()]
        (1, [('7', 2), ('12', 1)])
        >>> Plurality(without="number").read("7").key == Plurality(without="number").read("7.0").key
        False
    """

    without: Layers = ()
    ties: Similarity | None = None
    kinds: Kinds = field(default=(), repr=False, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "without", check("without", self.without, Layers))
        if self.ties is not None:
            object.__setattr__(self, "ties", similarity_of(self.ties))

    def typed(self, output_types: Mapping[str, Any]) -> Plurality:
        """This selector for outputs of these types, by the name of each field that is part of the answer."""
        other = copy.copy(self)  # of a subclass too, whatever its own __init__ takes
        object.__setattr__(other, "kinds", kinds_of(output_types))
        return other

    @property
    def takes_shares(self) -> bool:
        """True: a vote may be for several answers, for each as much as the language model thinks of it."""
        return True

    def read(self, answer: Any) -> Vote:
        """The answer under its key. None is an answer like any other, and blank text says the same."""
        key = key_of(answer, self.kinds, self._layers)
        key = _NOTHING if key is None else key
        if self.ties is None:
            return Vote(answer, key)
        try:
            value = self.ties.prepare(answer)
        except Exception:
            value = None  # of a class of the user's: its vote counts all the same, and is like no other
        return Vote(answer, key, features=None if value is None else Prepared(value))

    def empty(self) -> PluralitySelection:
        """The selection of a call without samples."""
        return PluralitySelection(ties=self.ties)

    @cached_property
    def _layers(self) -> frozenset[str]:
        return frozenset(LAYERS).difference(self.without)


class _Cast(Cast):
    """One sample's vote."""

    @property
    def parts(self) -> Sequence[Share]:
        """What it is for."""
        return self.vote.shares or (Share(self.vote.answer, self.vote.key, 1),)


@dataclass
class _Standing:
    """One answer: the votes of samples that gave it, and the weight of all votes for it."""

    votes: list[_Cast] = field(default_factory=list)
    independent: int | Fraction = 0
    conditioned: int | Fraction = 0
    thought_of: tuple[int, int, Any] = (0, 0, None)
    """The first vote that is for it in part, its place among the parts, and the answer."""

    @property
    def weight(self) -> int | Fraction:
        return self.independent + self.conditioned

    @cached_property
    def first(self) -> float:
        """The earliest sample that gave it; infinite if none did."""
        return min((cast.sample for cast in self.votes), default=math.inf)

    @property
    def answer(self) -> Any:
        """The answer, as the sample puts it that speaks for it."""
        return self.speaker.vote.answer if self.votes else self.thought_of[2]

    @cached_property
    def speaker(self) -> _Cast:
        """The vote whose sample speaks: of those that put the answer as most do, the first independent one."""
        weights: dict[Hashable, int | Fraction] = defaultdict(int)
        spellings = [spelling(cast.vote.answer) for cast in self.votes]
        for cast, spelt in zip(self.votes, spellings, strict=True):
            weights[spelt] += cast.weight
        ranked = zip(self.votes, spellings, strict=True)
        return min(ranked, key=lambda item: (-weights[item[1]], item[0].conditioned, item[0].sample))[0]


@dataclass(frozen=True)
class PluralitySelection:
    """The votes of one call under :class:`Plurality`. An immutable value: adding a vote makes a new one.

    Args:
        tally: The votes by answer; what the bandit sees.
        votes: The votes one by one, in the order in which they were added.
        ties: How alike two answers are, where that decides between answers with as many votes.
    """

    tally: OrderedTally = field(default_factory=OrderedTally)
    votes: tuple[_Cast, ...] = ()
    ties: Similarity | None = None

    def add(
        self, vote: Vote | None, *, sample: int | None = None, weight: float = 1.0, conditioned: bool = False
    ) -> PluralitySelection:
        """This selection and one more sample.

        Args:
            vote: What the sample says, as :meth:`Plurality.read` gave it; None if it casts no vote.
            sample: Its index among the call's samples, different for each; by default the number added before.
            weight: What its vote counts, above 0.
            conditioned: Whether it saw earlier samples of the call.

        Raises:
            ValueError: If the weight is not a finite number above 0, or the vote has no key.
        """
        exact = exact_weight(weight)
        if vote is None:
            return replace(self, tally=self.tally.add(None))
        if vote.key is None:
            raise ValueError(f"plurality compares votes by their key, and {vote!r} has none: make it with read()")
        cast = _Cast(vote, self.tally.samples if sample is None else sample, exact, conditioned)
        if vote.shares:
            tally = self.tally.spread(vote.key, {share.key: share.weight * weight for share in vote.shares})
        else:
            tally = self.tally.add(vote.key, weight)
        return replace(self, tally=tally, votes=(*self.votes, cast))

    def winner(self, *, favour_conditioned: bool = False) -> int | None:
        """Index of the winning sample; None while no sample has voted.

        The answer with most votes wins, of those that a sample gave. Ties go to the answer with more independent votes,
        then to the one most like all answers if similarity is to decide, then to the one sampled first. Among its
        samples those speak that put it as most of them do, letter by letter: the first independent one of them; if
        there is none, the first.

        Args:
            favour_conditioned: Whether ties go to the answer with more votes of samples that saw earlier ones.
        """
        leader = self._leader(favour_conditioned=favour_conditioned)
        return None if leader is None else self._standings[leader].speaker.sample

    def is_settled(self, pending: int) -> bool:
        """Whether the leader is ahead by more votes than so many samples can cast."""
        leader = self._leader()
        if leader is None:
            return False
        rivals = (standing.weight for key, standing in self._standings.items() if key != leader)
        return self._standings[leader].weight - max(rivals, default=0) > pending

    def evidence(self) -> OrderedTally:
        """The votes by answer."""
        return self._evidence

    def groups(self) -> Sequence[Group]:
        """The answers, most votes first; of equal ones the one sampled first."""

        def rank(item: tuple[AnswerKey, _Standing]) -> tuple[Any, ...]:
            return -item[1].weight, item[1].first, item[1].thought_of[:2]

        ranked = sorted(self._standings.items(), key=rank)
        return tuple(
            Group(
                answer=standing.answer,
                key=key,
                independent=_plain(standing.independent),
                conditioned=_plain(standing.conditioned),
                samples=tuple(sorted(cast.sample for cast in standing.votes)),
            )
            for key, standing in ranked
        )

    def _leader(self, *, favour_conditioned: bool = False) -> AnswerKey | None:
        """The key of the answer that wins; None if nobody has voted."""

        def rank(item: tuple[AnswerKey, _Standing]) -> tuple[int | Fraction, int | Fraction, float]:
            standing = item[1]
            favoured = standing.conditioned if favour_conditioned else standing.independent
            return standing.weight, favoured, -standing.first

        given = [item for item in self._standings.items() if item[1].votes]
        if not given:
            return None
        if self.ties is None:
            return max(given, key=rank)[0]
        ahead = rank(max(given, key=rank))[:2]
        tied = [item for item in given if rank(item)[:2] == ahead]
        return tied[0][0] if len(tied) == 1 else max(tied, key=lambda item: (self._central(item[1]), *rank(item)))[0]

    def _central(self, standing: _Standing) -> int | Fraction:
        """How alike an answer is to all votes, as the most central of its samples puts it."""
        return max(sum(other.weight * self._alike(cast, other) for other in self.votes) for cast in standing.votes)

    def _alike(self, one: _Cast, other: _Cast) -> int:
        if one is other:
            return UNITS
        # Always the earlier sample first, whichever came first: a similarity of the user's may not be symmetric.
        first, second = (one, other) if one.sample < other.sample else (other, one)
        made, others = first.vote.features, second.vote.features
        if self.ties is None or not isinstance(made, Prepared) or not isinstance(others, Prepared):
            return 0  # one of them is like no other
        return made.alike(others, self.ties)

    @cached_property
    def _evidence(self) -> OrderedTally:
        """The tally; with the winner's probability where every vote is all that the language model can say."""
        if not self.votes or not all(cast.vote.is_whole for cast in self.votes):
            return self.tally
        leader = self._leader()
        return replace(self.tally, probability=self.tally.votes[leader] / self.tally.valid)

    @cached_property
    def _standings(self) -> dict[AnswerKey, _Standing]:
        standings: dict[AnswerKey, _Standing] = defaultdict(_Standing)
        for cast in sorted(self.votes, key=lambda cast: cast.sample, reverse=True):
            standings[cast.vote.key].votes.append(cast)
            for place, share in enumerate(cast.parts):
                standing = standings[share.key]
                standing.thought_of = cast.sample, place, share.answer
                weight = cast.weight * Fraction(share.weight) if cast.vote.shares else cast.weight
                if cast.conditioned:
                    standing.conditioned += weight
                else:
                    standing.independent += weight
        return dict(standings)


def _plain(weight: int | Fraction) -> float:
    return weight if isinstance(weight, int) else float(weight)

"""Lists whose order is the answer: how alike two orders are, and the order that several samples come to together."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dynscale_dspy._fields import YesNo, check
from dynscale_dspy.selection.base import Selection, Vote
from dynscale_dspy.selection.composing import Ballot, CannotCompose, Composer, ComposingSelection, valid
from dynscale_dspy.selection.lists import by_key
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.similarity import Similarity, element_key, rounded


@dataclass(frozen=True)
class SameOrder:
    """Pairs in the same order: the share of all pairs of items that two rankings put in one order (Kendall's tau).

    A list is a ranking, its first item the best. An item that a list lacks comes after all that it has; a pair that it
    lacks counts one half (Fagin, Kumar and Sivakumar, SODA 2003). An item that stands twice counts where it stands
    first. Items are the same as elements of :class:`~dynscale_dspy.selection.similarity.ElementF1`. A value that is no
    list is a list of one, and None an empty one, which is like no other.

    Example:
        >>> order = SameOrder()
        >>> order.between(order.prepare(["Rome", "Bern", "Oslo"]), order.prepare(["Bern", "Rome", "Oslo"]))
        0.66...
    """

    def prepare(self, answer: Any) -> dict[Hashable, int]:
        """The place of each item."""
        items: Any = answer if isinstance(answer, (list, tuple)) else () if answer is None else (answer,)
        keys = dict.fromkeys(map(element_key, items))
        return {key: place for place, key in enumerate(keys)}

    def between(self, one: Mapping[Hashable, int], other: Mapping[Hashable, int]) -> float:
        """The share of pairs."""
        if not one or not other:
            return float(not one and not other)
        lacking, unknown = [key for key in other if key not in one], [key for key in one if key not in other]
        items = len(one) + len(lacking)
        pairs = items * (items - 1) // 2
        if not pairs:
            return 1.0
        # Each order is completed with the pairs that it lacks as the other has them, which are then taken off by half.
        places = {**other, **{key: len(other) + place for place, key in enumerate(unknown)}}
        apart, before = 0, []
        for key in (*one, *lacking):
            apart += len(before) - bisect_left(before, places[key])
            insort(before, places[key])
        halves = (len(lacking) * (len(lacking) - 1) + len(unknown) * (len(unknown) - 1)) / 4
        return rounded(1 - (apart + halves) / pairs)


_NEAREST = Medoid(SameOrder())


@dataclass(frozen=True)
class Ranking(Composer):
    """A selector for a list that ranks items: the sample wins whose order is most like those of the others.

    It is ``Medoid(SameOrder())``, and with ``compose`` the answer is the order of the items' mean places (Borda's
    count): that of the items that at least half of the samples have, where one that a sample lacks shares the places
    after its own, and ties go as the nearest sample has them. Where the output's type refuses that, and for one or two
    samples, the nearest sample's own list is returned.

    Plurality hardly helps, since few orders are the same, and neither do elements in common, since those are. On 200
    scripted rankings of eight items, one sample in six at random, the nearest of 4 samples has 7.9 [7.4, 8.4] points
    more pairs in the right order than a random one, the composed order 9.4 [9.0, 9.8] and plurality 0.0 [-0.7, 0.6]; of
    8 samples 12.8, 14.8 and 0.3 (``examples/benchmarks/selection.py``).

    Args:
        compose: Whether the order is put together from all samples.
        annotation: The output's type. :meth:`typed` sets it.

    Example:
        >>> selector = Ranking(compose=True)
        >>> selection = selector.empty()
        >>> for answer in (["a", "c", "b", "d"], ["b", "a", "c", "d"], ["a", "b", "d", "c"]):
        ...     selection = selection.add(selector.read(answer))
        >>> selection.winner(), selection.composed().answer
        (0, ['a', 'b', 'c', 'd'])
    """

    compose: YesNo = False
    annotation: Any = field(default=None, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        check("compose", self.compose, YesNo)

    @property
    def similarity(self) -> Similarity:
        """How alike two rankings are."""
        return _NEAREST.similarity

    @property
    def composes(self) -> bool:
        """Whether it may put an answer together."""
        return self.compose

    def typed(self, output_types: Mapping[str, Any]) -> Ranking:
        """This selector for an output of this type."""
        annotations = list(output_types.values())
        return replace(self, annotation=annotations[0] if len(annotations) == 1 else None)

    def read(self, answer: Any) -> Vote | None:
        """The list, as the medoid reads it."""
        return _NEAREST.read(answer)

    def empty(self) -> Selection:
        """The selection of a call without samples."""
        return ComposingSelection(_NEAREST.empty(), self) if self.compose else _NEAREST.empty()

    def put_together(self, ballots: Sequence[Ballot], whose: Ballot) -> Any:
        """The items of half of the samples by their mean places, as a list of the nearest sample's kind."""
        if not isinstance(whose.answer, (list, tuple)):
            raise CannotCompose
        ranked = [(ballot, _items(ballot.answer)) for ballot in (whose, *ballots)]
        items: dict[Hashable, Any] = {}
        for _, listed in ranked:
            for key, item in listed.items():
                items.setdefault(key, item)
        total, weights, places = 0.0, dict.fromkeys(items, 0.0), dict.fromkeys(items, 0.0)
        for ballot, listed in ranked[1:]:
            total += ballot.weight
            own = {key: place for place, key in enumerate(listed)}
            after = (len(own) + len(items) - 1) / 2  # the mean of the places that are left
            for key in items:
                weights[key] += ballot.weight * (key in own)
                places[key] += ballot.weight * own.get(key, after)
        kept = [key for key in items if 2 * weights[key] >= total - 1e-9]
        order = sorted(kept, key=lambda key: round(places[key], 9))
        return valid(type(whose.answer)(items[key] for key in order), self.annotation)


def _items(answer: Any) -> Mapping[Hashable, Any]:
    return by_key(answer) if isinstance(answer, (list, tuple)) else {}

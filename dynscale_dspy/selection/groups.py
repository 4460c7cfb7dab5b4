"""The answers of a call as reports and chains tell them: those that are much alike are one group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from dynscale_dspy.selection.base import Group, Selection, Selector, Vote, keys_of
from dynscale_dspy.selection.blends import Average
from dynscale_dspy.selection.composing import ComposingSelection
from dynscale_dspy.selection.similarity import Equal


@runtime_checkable
class Likened(Protocol):
    """A :class:`~dynscale_dspy.selection.base.Selection` that knows how alike its samples are."""

    @property
    def similarity(self) -> Any:
        """What says how alike two answers are."""
        ...

    def alike(self, one: int, other: int) -> float | None:
        """How alike two samples are, by their indices, from 0 to 1; None if one of them has not voted."""
        ...


@dataclass(frozen=True)
class AlikeGroup(Group):
    """Samples whose answers are much alike. The most central of these answers speaks for them.

    Args:
        speakers: The samples that gave that answer, ascending.
        versions: How many different answers there are among them.
    """

    speakers: tuple[int, ...]
    versions: int


def likened(selection: Selection) -> Likened | None:
    """The selection as one that knows how alike its samples are; None if it compares them otherwise."""
    within = selection.nearest if isinstance(selection, ComposingSelection) else selection
    return within if isinstance(within, Likened) else None


def groups_of(selection: Selection) -> Sequence[Group]:
    """The answers of a call, heaviest first: where they are compared by similarity, in groups of what is much alike.

    A group begins with the most central answer that is in none; others join the group to whose first answer they are
    most alike, if they are alike by more than half of what two different answers can be. On recorded outputs of real
    models (docs/selection.md) samples were 0.03 to 0.07 apart in score within a group, 0.08 to 0.38 between groups.

    Args:
        selection: The votes of a call. Of one that compares answers otherwise the groups are its own.

    Example:
        >>> from dynscale_dspy.selection.medoid import Medoid
        >>> selection = Medoid().empty()
        >>> for answer in ("a red bridge", "the red bridge", "the old red bridge", "rain"):
        ...     selection = selection.add(Medoid().read(answer))
        >>> [(group.answer, group.samples) for group in groups_of(selection)]
        [('the red bridge', (0, 1, 2)), ('rain', (3,))]
    """
    groups, within = selection.groups(), likened(selection)
    if within is None:
        return groups
    least = _different_at_most(within.similarity) / 2
    gathered: list[list[Group]] = []
    for group in groups:
        near = [within.alike(members[0].samples[0], group.samples[0]) or 0.0 for members in gathered]
        best = max(range(len(near)), key=near.__getitem__, default=None)
        if best is not None and near[best] > least:
            gathered[best].append(group)
        else:
            gathered.append([group])
    return sorted(map(_together, gathered), key=lambda group: -group.weight)


def speakers_of(group: Group) -> tuple[int, ...]:
    """The samples of a group that gave the answer that speaks for it."""
    return group.speakers if isinstance(group, AlikeGroup) else group.samples


def say_the_same(selector: Selector, one: Vote | None, other: Vote | None) -> bool:
    """Whether two votes are in one group of a call that has these two. Two that are None say the same.

    Example:
        >>> from dynscale_dspy.selection.plurality import Plurality
        >>> say_the_same(Plurality(), Plurality().read("7"), Plurality().read("7.0"))
        True
    """
    if one is None or other is None:
        return one is other
    keys = keys_of(groups_of(selector.empty().add(one, sample=0).add(other, sample=1)))
    return 0 in keys and keys[0] == keys.get(1)


def _together(members: Sequence[Group]) -> AlikeGroup:
    first = members[0]
    return AlikeGroup(
        answer=first.answer,
        key=first.key,
        independent=sum(group.independent for group in members),
        conditioned=sum(group.conditioned for group in members),
        samples=tuple(sorted(sample for group in members for sample in group.samples)),
        speakers=first.samples,
        versions=len(members),
    )


def _different_at_most(similarity: Any) -> float:
    """How alike two different answers can be."""
    parts = similarity.parts if isinstance(similarity, Average) else (similarity,)
    return sum(not isinstance(part, Equal) for part in parts) / len(parts)

"""Votes by what a call says for each label, beyond what the language model thinks of it whatever it is asked."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

from dynscale_dspy.allocation.label_means import LabelMean, LabelMeans
from dynscale_dspy.selection.base import Vote
from dynscale_dspy.selection.distribution import spread
from dynscale_dspy.selection.labels import Labels


class Calibration:
    """Divides what a language model thinks of each label by its mean over calls of the program.

    Only a whole vote is changed, which is all that the program can say of a call; it is then for the label that has
    most of what is left.

    Args:
        means: What is known of the program; votes are told to it.
        model: The name of the language model.
        labels: The labels.
        keys: The key under which each votes.

    Example:
        >>> labels, keys = Labels(["yes", "no"]), ["y", "n"]
        >>> calibration = Calibration(LabelMeans(), "small", labels, keys)
        >>> vote = spread(Vote("yes", "y"), keys, labels, [0.625, 0.375], is_whole=True)
        >>> usual = spread(Vote("yes", "y"), keys, labels, [0.75, 0.25], is_whole=True)
        >>> for _ in range(16):
        ...     calibration.tell(usual)
        >>> calibrated = calibration.of(vote, calibration.mean)
        >>> calibrated.answer, [(share.answer, round(share.weight, 3)) for share in calibrated.shares]
        ('no', [('no', 0.643), ('yes', 0.357)])
    """

    def __init__(self, means: LabelMeans, model: str, labels: Labels, keys: Sequence[Hashable]) -> None:
        self._means = means
        self._model = model
        self._labels = labels
        self._keys = tuple(keys)
        first: dict[Hashable, Any] = {}
        for key, value in zip(self._keys, labels.values, strict=True):
            first.setdefault(key, value)  # labels that are one answer to the selector
        self._answers = first
        self._names = tuple(map(_name, first.values()))

    @property
    def mean(self) -> LabelMean:
        """What is known now."""
        return self._means.of(self._model, self._names)

    def tell(self, vote: Vote) -> None:
        """A call's vote, as it was read."""
        self._means.tell(self._model, self._names, self._shares(vote))

    def of(self, vote: Vote, mean: LabelMean) -> Vote:
        """A vote as it counts: the same one, while too little is known.

        Args:
            vote: The vote, as it was read.
            mean: What is known.
        """
        weights = mean.weights
        if weights is None or not vote.is_whole:
            return vote
        parts = [share * weight for share, weight in zip(self._shares(vote), weights, strict=True)]
        total = sum(parts)
        if not total > 0:
            return vote
        left = dict(zip(self._answers, (part / total for part in parts), strict=True))
        key = max(left, key=lambda key: (left[key], key == vote.key))
        if key != vote.key:
            vote = replace(vote, answer=self._answers[key], key=key)
        # Of labels that are one answer the first one has it all.
        shares = [left.pop(key, 0.0) for key in self._keys]
        return spread(vote, self._keys, self._labels, shares, is_whole=True)

    def _shares(self, vote: Vote) -> list[float]:
        told = {share.key: share.weight for share in vote.shares}
        return [told.get(key, 0.0) for key in self._answers]


def _name(value: Any) -> str:
    return value.name if isinstance(value, Enum) else str(value)

"""Sampling strategies: what the next samples of a call look like."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from dynscale_dspy._fields import OneOfWords, ShareOfSamples, Size, YesNo, check_fields
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.sampling.sample import Sample

Predictors = Annotated[Literal["all", "last"], OneOfWords]
Rendering = Annotated[Literal["field", "prefill"], OneOfWords]


class Strategy(ABC):
    """Decides, for each new sample, which earlier ones it sees.

    Attributes:
        max_tokens: Bound on the text of one chain, in tokens of about four characters.
        predictors: Which predictors of a program see the chain: ``"all"``, or ``"last"`` for the one that spoke last.
        rendering: How a predictor sees it: in an input ``"field"``, or by ``"prefill"`` as the beginning of its own
            message, where the server can go on with one (vLLM, llama.cpp) and the adapter is DSPy's ``ChatAdapter``;
            else in the field.
    """

    max_tokens: Size = 2000
    predictors: Predictors = "all"
    rendering: Rendering = "field"

    @property
    def learned(self) -> bool:
        """Whether votes of earlier calls decide if a sample sees earlier ones; see ``Integrated(when="learned")``."""
        return False

    @abstractmethod
    def shown(
        self, samples: Sequence[Sample], tally: Tally, index: int, generator: np.random.Generator
    ) -> tuple[int, ...]:
        """Indices of the samples that sample ``index`` is to see, in the order shown; empty for an independent one.

        Args:
            samples: Finished samples of the call that cast a vote, in index order.
            tally: All votes so far.
            index: The new sample's index.
            generator: Seeded by the pool, the call and the index.
        """

    def room(self, pending: int) -> int:
        """Return how many samples may be drawn while ``pending`` are in flight."""
        return 1 << 30


@dataclass(frozen=True)
class Parallel(Strategy):
    """Independent samples only: each sees the inputs and nothing else."""

    def shown(
        self, samples: Sequence[Sample], tally: Tally, index: int, generator: np.random.Generator
    ) -> tuple[int, ...]:
        """Return no samples: all are independent."""
        return ()


@dataclass(frozen=True)
class Sequential(Strategy):
    """One sample at a time, each seeing those just before it.

    Args:
        length: How many of the latest samples are shown.
        max_tokens: Bound on the chain, in tokens of about four characters.
        predictors: Which predictors see the chain.
        rendering: ``"field"`` or ``"prefill"``; see :class:`Strategy`.
    """

    length: Size = 1
    max_tokens: Size = 2000
    predictors: Predictors = "all"
    rendering: Rendering = "field"

    def __post_init__(self) -> None:
        check_fields(self, Sequential)

    def shown(
        self, samples: Sequence[Sample], tally: Tally, index: int, generator: np.random.Generator
    ) -> tuple[int, ...]:
        """Return the last ``length`` samples, oldest first."""
        return tuple(sample.draw.index for sample in samples[-self.length :])

    def room(self, pending: int) -> int:
        """Return 1 if no sample is in flight, else 0."""
        return max(0, 1 - pending)


@dataclass(frozen=True)
class Integrated(Strategy):
    """DynScaling's integrated parallel-sequential sampling: independent samples first, then samples that see a chain.

    The chain is built from the call's own earlier samples, one for each distinct answer, so that the model weighs the
    alternatives rather than the crowd, and pays for each of them once. Each conditioned sample gets its own subset in
    its own order. arXiv 2506.16043 names the idea and gives no prompt, number or order: all of them are options here.

    Args:
        independent: Samples drawn from the inputs alone before any is conditioned.
        length: Attempts in one chain.
        width: Conditioned samples drawn at a time; None for as many as the pool grants.
        when: ``"close"``: condition only where at least two answers have votes and the leading one is at most one
            vote ahead; ``"contested"``: where at least two have votes; ``"always"``; ``"learned"``: where the votes of
            the program's calls so far say that it gains more than an independent sample, per unit of what runs out
            first (see :mod:`dynscale_dspy.allocation.gains`). On the lab's model a conditioned
            sample repaired two wrong leaders or more for each right one it broke where the vote was close, and broke
            more than it repaired at three votes to one (docs/integrated-sampling.md).
        share: The most of the samples after the first ``independent`` ones that may be conditioned, above 0 and at
            most 1. Below 1 the vote keeps gaining independent members, which no chain has influenced.
        repeats: Whether room that is left in a chain is filled with second attempts at the same answers.
        shuffle: Whether attempts are shown in a random order (seeded) or in the order drawn.
        max_tokens: Bound on the chain, in tokens of about four characters.
        predictors: Which predictors see the chain.
        rendering: ``"field"`` or ``"prefill"``; see :class:`Strategy`.
    """

    independent: Size = 2
    length: Size = 4
    width: Size | None = None
    when: Annotated[Literal["close", "contested", "always", "learned"], OneOfWords] = "close"
    share: ShareOfSamples = 1.0
    repeats: YesNo = False
    shuffle: YesNo = True
    max_tokens: Size = 2000
    predictors: Predictors = "all"
    rendering: Rendering = "field"

    def __post_init__(self) -> None:
        check_fields(self, Integrated)

    @property
    def learned(self) -> bool:
        """True for ``when="learned"``."""
        return self.when == "learned"

    def shown(
        self, samples: Sequence[Sample], tally: Tally, index: int, generator: np.random.Generator
    ) -> tuple[int, ...]:
        """Return a subset with one sample of each leading answer; none before ``independent`` samples are drawn."""
        independent = sum(not sample.draw.conditioned for sample in samples)
        if index < self.independent or independent < min(self.independent, 2):
            return ()
        if self.when in ("close", "contested") and len(tally.counts) < 2:
            return ()
        if self.when == "close" and tally.leader - tally.runner_up > 1:
            return ()
        later = index - self.independent
        if math.floor((later + 1) * self.share) == math.floor(later * self.share):
            return ()  # by position, so that what is in flight cannot change it
        order = [samples[i] for i in generator.permutation(len(samples))]
        # Independent attempts speak for an answer before conditioned ones: those retell what they were shown.
        order.sort(key=lambda sample: sample.draw.conditioned)
        # One per answer before a second of any, the answers with most votes first.
        seen: dict[object, int] = {}
        rank: dict[int, tuple[int, float]] = {}
        for sample in order:
            seen[sample.key] = seen.get(sample.key, 0) + 1
            rank[sample.draw.index] = (seen[sample.key], -tally.votes[sample.key])
        chosen = sorted(order, key=lambda sample: rank[sample.draw.index])[: self.length]
        indices = [sample.draw.index for sample in chosen if self.repeats or rank[sample.draw.index][0] == 1]
        if self.shuffle:
            return tuple(int(i) for i in generator.permutation(indices))
        return tuple(sorted(indices))

    def room(self, pending: int) -> int:
        """Return how many samples may be added to reach ``width`` in flight; any number without a ``width``."""
        if self.width is None:
            return super().room(pending)
        return max(0, max(self.width, self.independent) - pending)

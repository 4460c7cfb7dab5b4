"""Sampling strategies: which sampler draws the next sample of a call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np

from dynscale_dspy import _deprecated
from dynscale_dspy._fields import OneOfWords, ShareOfSamples, Size, YesNo, check_fields
from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.sampling.samplers import (
    ALONE,
    PLAIN,
    CallView,
    ChainSpec,
    Predictors,
    Rendering,
    Sampler,
    conditioned,
)


class Strategy:
    """Proposes, for each new sample of a call, the sampler that is to draw it.

    A subclass overrides :meth:`propose` and :attr:`samplers`. :class:`dynscale_dspy.testing.StrategyLaws` checks what
    every strategy must keep to.
    """

    # What a strategy written for version 0.1, which overrides `shown`, may set for its chains.
    max_tokens: Size = 2000
    predictors: Predictors = "all"
    rendering: Rendering = "field"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "shown" in vars(cls) and cls.propose is Strategy.propose:
            _deprecated.warn(f"{cls.__name__}.shown(samples, tally, index, generator)", "propose(view, learned, rng)")

    @property
    def samplers(self) -> tuple[Sampler, ...]:
        """All samplers that it may propose."""
        chain = ChainSpec(max_tokens=self.max_tokens, predictors=self.predictors, rendering=self.rendering)
        return (ALONE, conditioned(chain))

    @property
    def learned(self) -> bool:
        """Whether votes of earlier calls decide which sampler is proposed; see ``Integrated(when="learned")``."""
        return False

    def propose(self, view: CallView, learned: Learned, rng: np.random.Generator) -> Sampler | None:
        """The sampler of the next sample; None if the call is to draw no more.

        Args:
            view: The call.
            learned: What is known of the program's samples, by sampler.
            rng: Seeded by the pool, the call and the sample's index. It is made when it is first used.
        """
        # A strategy written for version 0.1 names the samples to show.
        shown = self.shown(view.samples, view.evidence, view.next_index, rng) if view.samples else ()
        alone, seeing = self.samplers
        return alone if not shown or seeing.chain is None else replace(seeing, chain=_Named(seeing.chain, tuple(shown)))

    def shown(self, samples: Sequence[Any], tally: Any, index: int, generator: Any) -> tuple[int, ...]:
        """Deprecated: override :meth:`propose`."""
        raise NotImplementedError(f"{type(self).__name__} must override propose(view, learned, rng)")

    def room(self, pending: int) -> int:
        """Return how many samples may be drawn while ``pending`` are in flight."""
        return 1 << 30

    def weight(self, sampler: Sampler) -> float:
        """What the vote of a sample of this sampler counts, above 0."""
        return 1.0


@dataclass(frozen=True)
class Parallel(Strategy):
    """Independent samples only: each sees the inputs and nothing else."""

    @property
    def samplers(self) -> tuple[Sampler, ...]:
        """Samples that see the inputs alone; the plain program where a call may draw only one."""
        return (PLAIN, ALONE)

    def propose(self, view: CallView, learned: Learned, rng: np.random.Generator) -> Sampler:
        """Propose a sample that sees the inputs alone."""
        return ALONE if view.varies else PLAIN


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
        chain = ChainSpec(
            length=self.length,
            pick="latest",
            max_tokens=self.max_tokens,
            predictors=self.predictors,
            rendering=self.rendering,
        )
        object.__setattr__(self, "_seeing", conditioned(chain))

    @property
    def samplers(self) -> tuple[Sampler, ...]:
        """Samples that see the inputs alone, and samples that see the latest ones too."""
        return (PLAIN, ALONE, self._seeing)  # type: ignore[attr-defined]

    def propose(self, view: CallView, learned: Learned, rng: np.random.Generator) -> Sampler:
        """Propose a sample that sees the latest ones, once one has voted."""
        if view.samples:
            return self._seeing  # type: ignore[attr-defined]
        return ALONE if view.varies else PLAIN

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
        chain = ChainSpec(
            length=self.length,
            repeats=self.repeats,
            shuffle=self.shuffle,
            max_tokens=self.max_tokens,
            predictors=self.predictors,
            rendering=self.rendering,
        )
        object.__setattr__(self, "_seeing", conditioned(chain))

    @property
    def samplers(self) -> tuple[Sampler, ...]:
        """Samples that see the inputs alone, and samples that see one attempt for each answer too."""
        return (PLAIN, ALONE, self._seeing)  # type: ignore[attr-defined]

    @property
    def learned(self) -> bool:
        """True for ``when="learned"``."""
        return self.when == "learned"

    def propose(self, view: CallView, learned: Learned, rng: np.random.Generator) -> Sampler:
        """Propose a sample that sees earlier ones where there is something to integrate."""
        if not view.varies:
            return PLAIN
        seeing: Sampler = self._seeing  # type: ignore[attr-defined]
        if not self._integrates(view):
            return ALONE
        if self.learned:
            gains, evidence = learned.gains, view.evidence
            if not gains.prefers(seeing.name, ALONE.name, evidence, view.unit, view.beliefs):
                return ALONE
        return seeing

    def _integrates(self, view: CallView) -> bool:
        """Whether the votes so far ask for a sample that sees earlier ones."""
        if view.next_index < self.independent or not view.samples:
            return False
        if sum(not sample.draw.conditioned for sample in view.samples) < min(self.independent, 2):
            return False
        if self.when in ("close", "contested"):
            evidence = view.evidence
            if not evidence.rival or (self.when == "close" and evidence.lead - evidence.rival > 1):
                return False
        later = view.next_index - self.independent
        # By position, so that what is in flight cannot change it.
        return math.floor((later + 1) * self.share) != math.floor(later * self.share)

    def room(self, pending: int) -> int:
        """Return how many samples may be added to reach ``width`` in flight; any number without a ``width``."""
        if self.width is None:
            return super().room(pending)
        return max(0, max(self.width, self.independent) - pending)


class _Named(ChainSpec):
    """A chain of samples that were named, by a strategy written for version 0.1."""

    def __init__(self, like: ChainSpec, shown: tuple[int, ...]) -> None:
        super().__init__(
            length=max(len(shown), 1),
            max_tokens=like.max_tokens,
            predictors=like.predictors,
            rendering=like.rendering,
        )
        object.__setattr__(self, "_shown", shown)

    def choose(self, view: CallView, rng: np.random.Generator) -> tuple[int, ...]:
        """The samples that were named."""
        return self._shown  # type: ignore[attr-defined]

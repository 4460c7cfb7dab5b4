"""Sampling strategies: which sampler draws the next sample of a call."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np

from dynscale_dspy import _deprecated
from dynscale_dspy._cached import cached_property
from dynscale_dspy._fields import OneOfWords, ShareOfSamples, Size, YesNo, check_fields
from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.allocation.trust import ON_TRIAL
from dynscale_dspy.sampling.samplers import (
    ALONE,
    GREEDY,
    GREEDY_LABEL,
    PERMUTED,
    PLAIN,
    CallView,
    ChainSpec,
    Demos,
    First,
    Predictors,
    Rendering,
    Sampler,
    conditioned,
)
from dynscale_dspy.selection.plurality import Plurality


class Strategy(ABC):
    """Proposes, for each new sample of a call, the sampler that is to draw it.

    A subclass overrides :attr:`samplers` and :meth:`propose`; it holds settings only, so that one object serves all
    calls. :class:`dynscale_dspy.testing.StrategyLaws` checks what every strategy must keep to.
    """

    # What a strategy written for version 0.1, which overrides `shown`, may set for its chains.
    max_tokens: Size = 2000
    predictors: Predictors = "all"
    rendering: Rendering = "field"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "shown" in vars(cls) and "propose" not in vars(cls):
            old, new = f"{cls.__name__}.shown(samples, tally, index, generator)", "propose(view, learned, rng)"
            _deprecated.warn(old, new, stacklevel=4)  # past ABCMeta, where the class is defined
            cls.propose, cls.samplers = _propose_named, Strategy.samplers  # type: ignore[method-assign]

    @property
    def samplers(self) -> tuple[Sampler, ...]:
        """All samplers that it may propose, each of a name of its own."""
        chain = ChainSpec(max_tokens=self.max_tokens, predictors=self.predictors, rendering=self.rendering)
        return (PLAIN, ALONE, conditioned(chain))

    @property
    def learned(self) -> bool:
        """Whether votes of earlier calls decide which sampler is proposed; see ``Integrated(when="learned")``."""
        return False

    @abstractmethod
    def propose(self, view: CallView, learned: Learned, rng: np.random.Generator) -> Sampler | None:
        """The sampler of the next sample; None if the call is to draw no more.

        The same arguments must give the same sampler: a call is reproducible, and can be replayed.

        Args:
            view: The call.
            learned: What is known of the program's samples, by sampler.
            rng: Seeded by the pool, the call and the sample's index. It is made when it is first used.
        """

    def shown(self, samples: Sequence[Any], tally: Any, index: int, generator: Any) -> tuple[int, ...]:
        """Deprecated: use :meth:`propose`, and the sampler's :meth:`~ChainSpec.choose`.

        Which samples sample ``index`` would see. A strategy written for version 0.1 overrides this in place of
        :meth:`propose`; here it answers for the strategy that such a one is derived from.

        Args:
            samples: Finished samples of the call that cast a vote, in the order of their index.
            tally: All votes so far.
            index: The new sample's index.
            generator: Seeded by the pool, the call and the index.
        """
        selection = Plurality().empty()
        for sample in samples:
            draw = sample.draw
            selection = selection.add(sample.vote, sample=draw.index, conditioned=draw.conditioned)
        view = CallView(index, samples, selection)
        defined = (vars(owner).get("propose") for owner in type(self).__mro__)
        propose = next(method for method in defined if method not in (None, _propose_named))
        sampler = propose(self, view, Learned(), generator)
        return () if sampler is None or sampler.chain is None else sampler.chain.choose(view, generator)

    def room(self, pending: int) -> int:
        """Return how many samples may be drawn while ``pending`` are in flight; at least one while none is."""
        return 1 << 30

    def weight(self, sampler: Sampler) -> float:
        """What the vote of a sample of this sampler counts, above 0."""
        return 1.0

    def worth(self, sampler: Sampler, learned: Learned) -> float:
        """What the vote of a sample of this sampler counts by what is known of the program: its :meth:`weight`, or 0.

        It may change while a call goes on; the votes of its samples are then counted anew.

        Args:
            sampler: What drew the sample.
            learned: What is known of the program's samples.
        """
        return self.weight(sampler)


@dataclass(frozen=True)
class Parallel(Strategy):
    """Independent samples only: each sees the inputs and nothing else.

    Args:
        first: What draws a call's first sample: ``"own"``, as all others; ``"greedy"``, at temperature 0. See
            :class:`Integrated`.
        demos: What the samples after the first see of a few-shot program's demos: ``"own"``, as the program has them;
            ``"permuted"``, each in an order drawn at random, in a request of its own. It helps a program that decides
            at once where the order matters and was not chosen, and hurts one whose order was (docs/real-models.md).
    """

    first: First = "own"
    demos: Demos = "own"

    def __post_init__(self) -> None:
        check_fields(self, Parallel)

    @property
    def samplers(self) -> tuple[Sampler, ...]:
        """Samples that see the inputs alone; the plain program where a call may draw only one."""
        samplers = _with_first(self.first, PLAIN, ALONE)
        return (*samplers, PERMUTED) if self.demos == "permuted" else samplers

    def propose(self, view: CallView, learned: Learned, rng: np.random.Generator) -> Sampler | None:
        """Propose a sample that sees the inputs alone."""
        if not view.varies:
            return PLAIN
        if self.demos == "permuted" and view.next_index > 0:
            return PERMUTED
        if self.demos == "permuted" and self.first == "greedy":
            return GREEDY  # no greedy label: votes of other orders do not come to what this one says
        return _first_of(self.first, view, learned) or ALONE

    def worth(self, sampler: Sampler, learned: Learned) -> float:
        """A greedy first label counts for several once it is found to be what votes come to."""
        return self.weight(sampler) * _worth_of_first(sampler, learned)


@dataclass(frozen=True)
class Sequential(Strategy):
    """One sample at a time, each seeing those just before it.

    Args:
        length: How many of the latest samples are shown.
        max_tokens: Bound on the chain, in tokens of about four characters.
        predictors: Which predictors see the chain.
        rendering: ``"field"`` or ``"prefill"``; see :class:`~dynscale_dspy.sampling.samplers.ChainSpec`.
    """

    length: Size = 1
    max_tokens: Size = 2000
    predictors: Predictors = "all"
    rendering: Rendering = "field"

    def __post_init__(self) -> None:
        check_fields(self, Sequential)

    @property
    def samplers(self) -> tuple[Sampler, ...]:
        """Samples that see the inputs alone, and samples that see the latest ones too."""
        return (PLAIN, ALONE, self._seeing)

    def propose(self, view: CallView, learned: Learned, rng: np.random.Generator) -> Sampler:
        """Propose a sample that sees the latest ones, once one has voted."""
        if view.samples:
            return self._seeing
        return ALONE if view.varies else PLAIN

    @cached_property
    def _seeing(self) -> Sampler:
        return conditioned(
            ChainSpec(
                length=self.length,
                pick="latest",
                max_tokens=self.max_tokens,
                predictors=self.predictors,
                rendering=self.rendering,
            )
        )

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
            vote ahead; ``"contested"``: where at least two have votes; ``"always"``; ``"learned"``: where the vote is
            close, two a call until the program's calls have shown that its samples check what they see, and none once
            they have shown that those follow (see :mod:`dynscale_dspy.allocation.trust`). On the lab's model a
            conditioned sample repaired two wrong leaders or more for each right one it broke where the vote was close,
            and broke more than it repaired at three votes to one (docs/integrated-sampling.md). Programs that decide
            at once (they answer from a few given labels without reasoning first) condition with ``"always"`` only.
            Where answers are compared by how alike they are, votes are those for groups of what is much alike, and
            ``"learned"`` tries nothing: two samples hardly ever say the same, which is what would tell.
        share: The most of the samples after the first ``independent`` ones that may be conditioned, above 0 and at
            most 1. Below 1 the vote keeps gaining independent members, which no chain has influenced.
        repeats: Whether room that is left in a chain is filled with second attempts at the same answers.
        shuffle: Whether attempts are shown in a random order (seeded) or in the order drawn.
        max_tokens: Bound on the chain, in tokens of about four characters.
        predictors: Which predictors see the chain.
        rendering: ``"field"`` or ``"prefill"``; see :class:`~dynscale_dspy.sampling.samplers.ChainSpec`.
        first: What draws a call's first sample: ``"own"``, as all independent ones; ``"greedy"``, at temperature 0.
            Where a program decides at once, votes of further samples only approach the greedy answer, from below: it
            then counts for several votes, unless it is found to be like others (:mod:`dynscale_dspy.allocation.modes`).
            Where such samples mostly cast no vote and others do, it is drawn like the others.
    """

    independent: Size = 2
    length: Size = 4
    width: Size | None = None
    when: Annotated[Literal["learned", "close", "contested", "always"], OneOfWords] = "learned"
    share: ShareOfSamples = 1.0
    repeats: YesNo = False
    shuffle: YesNo = True
    max_tokens: Size = 2000
    predictors: Predictors = "all"
    rendering: Rendering = "field"
    first: First = "greedy"

    def __post_init__(self) -> None:
        check_fields(self, Integrated)

    @property
    def samplers(self) -> tuple[Sampler, ...]:
        """Samples that see the inputs alone, and samples that see one attempt for each answer too."""
        return _with_first(self.first, PLAIN, ALONE, self._seeing)

    @property
    def learned(self) -> bool:
        """True for ``when="learned"``."""
        return self.when == "learned"

    def propose(self, view: CallView, learned: Learned, rng: np.random.Generator) -> Sampler | None:
        """Propose a sample that sees earlier ones where there is something to integrate."""
        if not view.varies:
            return PLAIN
        if first := _first_of(self.first, view, learned):
            return first
        if self._waits(view):
            return None
        if self.learned and not learned.trust.earned and not may_try(view, learned):
            return ALONE
        return self._seeing if self._integrates(view) else ALONE

    def worth(self, sampler: Sampler, learned: Learned) -> float:
        """With ``when="learned"``, samples that see earlier ones count once they are found to check those."""
        if self.learned and sampler.chain is not None and not learned.trust.counts:
            return 0.0
        return self.weight(sampler) * _worth_of_first(sampler, learned)

    @cached_property
    def _seeing(self) -> Sampler:
        return conditioned(
            ChainSpec(
                length=self.length,
                repeats=self.repeats,
                shuffle=self.shuffle,
                max_tokens=self.max_tokens,
                predictors=self.predictors,
                rendering=self.rendering,
            )
        )

    def _waits(self, view: CallView) -> bool:
        """Whether the next sample is to be drawn once the independent ones have voted, since it may have to see them.

        Else a pool that grants all samples of a call at once would leave none to be conditioned. While it is not known
        whether conditioned samples are any good, none is waited for.
        """
        if self.learned or (view.at_once and self.when != "always"):
            return False
        voted = sum(not sample.draw.conditioned for sample in view.samples)
        return view.next_index >= self.independent and voted < min(self.independent, 2) and view.pending > 0

    def _integrates(self, view: CallView) -> bool:
        """Whether the votes so far ask for a sample that sees earlier ones."""
        if view.next_index < self.independent or not view.samples:
            return False
        if view.at_once and self.when != "always":
            return False  # what it would say of attempts is no better founded than what it says of the inputs
        if sum(not sample.draw.conditioned for sample in view.samples) < min(self.independent, 2):
            return False
        if self.when != "always":
            lead, rival = view.leading_two
            if not rival or (self.when != "contested" and lead - rival > 1):
                return False
        later = view.next_index - self.independent
        # By position, so that what is in flight cannot change it.
        return math.floor((later + 1) * self.share) != math.floor(later * self.share)

    def room(self, pending: int) -> int:
        """Return how many samples may be added to reach ``width`` in flight; any number without a ``width``."""
        if self.width is None:
            return super().room(pending)
        return max(0, max(self.width, self.independent) - pending)


def _with_first(first: str, *samplers: Sampler) -> tuple[Sampler, ...]:
    """These samplers, and the greedy one where it draws the first sample."""
    return (samplers[0], GREEDY, GREEDY_LABEL, *samplers[1:]) if first == "greedy" else samplers


def _first_of(first: str, view: CallView, learned: Learned) -> Sampler | None:
    """The sampler of a call's first sample; None for the others, and where the first is like them."""
    if first == "own" or view.next_index > 0:
        return None
    sampler = GREEDY_LABEL if view.at_once else GREEDY
    return None if learned.is_mute(sampler.name, beside=ALONE.name) else sampler


def may_try(view: CallView, learned: Learned) -> bool:
    """Whether a sample that sees earlier ones may be drawn to find out whether such samples check those.

    That is told by two of them that said the same, as hardly any do where answers are compared by how alike they are.
    """
    return not view.is_likened and learned.trust.may_try and view.seeing < ON_TRIAL


def _worth_of_first(sampler: Sampler, learned: Learned) -> float:
    """What a sample counts by what is known of greedy first labels."""
    return learned.modes.weight if sampler is GREEDY_LABEL else 1.0


def _propose_named(self: Strategy, view: CallView, learned: Learned, rng: np.random.Generator) -> Sampler:
    """What a strategy written for version 0.1 has for :meth:`Strategy.propose`: its ``shown`` names the samples."""
    shown = tuple(self.shown(view.samples, view.evidence, view.next_index, rng)) if view.samples else ()
    seeing = self.samplers[-1]
    if not shown or seeing.chain is None:
        return ALONE if view.varies else PLAIN
    return replace(seeing, chain=_Named(seeing.chain, shown))


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

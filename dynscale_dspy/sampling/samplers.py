"""Samplers: the ways in which one sample of a call can be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from dynscale_dspy._fields import OneOfWords, Size, YesNo, check_fields
from dynscale_dspy.allocation.evidence import Evidence
from dynscale_dspy.selection.base import Group, Selection, keys_of
from dynscale_dspy.selection.groups import groups_of, likened, speakers_of

Predictors = Annotated[Literal["all", "last"], OneOfWords]
Rendering = Annotated[Literal["field", "prefill"], OneOfWords]
First = Annotated[Literal["own", "greedy"], OneOfWords]
Demos = Annotated[Literal["own", "permuted"], OneOfWords]


class CallView(NamedTuple):
    """What a strategy sees of a call when it proposes the sampler of its next sample.

    Attributes:
        next_index: The next sample's position among the call's samples.
        samples: Finished samples that cast a vote, each a :class:`~dynscale_dspy.sampling.sample.Sample`, by index.
        selection: All votes so far.
        varies: Whether the call may ever draw a second sample.
        unit: What runs out first, ``"tokens"`` or ``"nanodollars"``; None if that is samples or requests.
        seeing: How many samples that see earlier ones were drawn so far.
        at_once: Whether the program answers from a few given labels without reasoning first.
        pending: Samples in flight, or reserved and not drawn yet.
        asked: The language models that samples were drawn from so far, by name, where a call has several.
    """

    next_index: int
    samples: Sequence[Any]
    selection: Selection
    varies: bool = True
    unit: str | None = None
    seeing: int = 0
    at_once: bool = False
    pending: int = 0
    asked: frozenset[str] = frozenset()

    def before(self, index: int, *, finished: int, seeing: int, asked: frozenset[str]) -> CallView:
        """The same votes, seen before the sample of this index is drawn.

        Args:
            index: The sample's.
            finished: How many samples are finished, votes or not.
            seeing: How many samples that see earlier ones come before it.
            asked: The language models that samples before it are drawn from.
        """
        return self._replace(next_index=index, pending=index - finished, seeing=seeing, asked=asked)

    @property
    def evidence(self) -> Evidence:
        """What the bandit sees of the votes."""
        return self.selection.evidence()

    @property
    def groups(self) -> Sequence[Group]:
        """The answers so far, heaviest first; those that are much alike are one."""
        return groups_of(self.selection)

    @property
    def is_likened(self) -> bool:
        """Whether answers are compared by how alike they are."""
        return likened(self.selection) is not None

    @property
    def leading_two(self) -> tuple[float, float]:
        """Weight of the leading answer and of the second one, 0 where there is none, in votes."""
        if not self.is_likened:
            return self.evidence.lead, self.evidence.rival
        lead, rival, *_ = *(group.weight for group in self.groups), 0.0, 0.0
        return lead, rival


@dataclass(frozen=True)
class ChainSpec:
    """Which earlier samples of the call a sample sees, and how they are told.

    Args:
        length: Attempts in one chain.
        pick: ``"answers"``: one for each distinct answer, the heaviest first; ``"latest"``: the latest ones. Answers
            that are compared by how alike they are count as one where they are much alike
            (:func:`~dynscale_dspy.selection.groups.groups_of`); the most central one is shown.
        repeats: Whether room that is left is filled with second attempts at the same answers.
        shuffle: Whether attempts are shown in a random order (seeded) or in the order drawn.
        max_tokens: Bound on the text, in tokens of about four characters.
        predictors: Which predictors of a program see the chain: ``"all"``, or ``"last"`` for the one that spoke last.
        rendering: How a predictor sees it: in an input ``"field"``, or by ``"prefill"`` as the beginning of its own
            message, where the server can go on with one (vLLM, llama.cpp) and the adapter is DSPy's ``ChatAdapter``;
            else in the field.
    """

    length: Size = 4
    pick: Annotated[Literal["answers", "latest"], OneOfWords] = "answers"
    repeats: YesNo = False
    shuffle: YesNo = True
    max_tokens: Size = 2000
    predictors: Predictors = "all"
    rendering: Rendering = "field"

    def __post_init__(self) -> None:
        check_fields(self, ChainSpec)

    def choose(self, view: CallView, rng: np.random.Generator) -> tuple[int, ...]:
        """Indices of the samples to show, in the order shown; empty if none has voted.

        Args:
            view: The call.
            rng: Seeded by the pool, the call and the sample's index.
        """
        samples = view.samples
        if not samples:
            return ()
        if self.pick == "latest":
            return tuple(sample.draw.index for sample in samples[-self.length :])
        groups = view.groups
        weights = {group.key: group.weight for group in groups}
        keys = keys_of(groups)
        speakers = {index for group in groups for index in speakers_of(group)}
        order = [samples[i] for i in rng.permutation(len(samples))]
        # Independent attempts speak for an answer before conditioned ones: those retell what they were shown.
        order.sort(key=lambda sample: (sample.draw.conditioned, sample.draw.index not in speakers))
        # One per answer before a second of any, the heaviest answers first.
        seen: dict[object, int] = {}
        rank: dict[int, tuple[int, float]] = {}
        for sample in order:
            key = keys[sample.draw.index]
            seen[key] = seen.get(key, 0) + 1
            rank[sample.draw.index] = (seen[key], -weights[key])
        chosen = sorted(order, key=lambda sample: rank[sample.draw.index])[: self.length]
        indices = [sample.draw.index for sample in chosen if self.repeats or rank[sample.draw.index][0] == 1]
        if self.shuffle:
            return tuple(int(i) for i in rng.permutation(indices))
        return tuple(sorted(indices))


@dataclass(frozen=True)
class Sampler:
    """One way to draw a sample of a call.

    Args:
        name: What it is called in reports; what is learned of its samples is kept under this name.
        lm: The language model to ask; None for the one that the program would ask.
        temperature: Its temperature; None for the module's or the language model's own.
        chain: Which earlier samples it sees; None for a sample that sees the inputs alone.
        demos: How its prompts show the program's demos: ``"own"``, as they are; ``"permuted"``, in an order drawn for
            the sample's index, the same for all calls: a server finds the beginning of a prompt in its cache.
        model: What its language model is called in reports, where a call has several; empty for the program's own.

    Example:
        >>> Sampler("warm", temperature=0.7)
        Sampler(name='warm', lm=None, temperature=0.7, chain=None, demos='own', model='')
    """

    name: str
    lm: Any = None
    temperature: float | None = None
    chain: ChainSpec | None = None
    demos: Demos = "own"
    model: str = ""

    def arranged(self, demos: list[Any], index: int) -> list[Any]:
        """The demos in the order in which a sample of this sampler shows them.

        Args:
            demos: In the program's order; the list is left as it is.
            index: The sample's.

        Example:
            >>> PERMUTED.arranged(["a", "b", "c", "d"], index=1)
            ['d', 'a', 'b', 'c']
        """
        if self.demos == "own":
            return demos
        order = np.random.default_rng([index, len(demos)]).permutation(len(demos))
        return [demos[i] for i in order]


PLAIN = Sampler("plain")
"""The program as it is: nothing is set to make its samples differ. For calls that may draw one sample only."""
ALONE = Sampler("independent")
"""A sample that sees the inputs alone."""
GREEDY = Sampler("greedy", temperature=0.0)
"""A sample that sees the inputs alone, each token the most probable one."""
GREEDY_LABEL = Sampler("greedy label", temperature=0.0)
"""The same for a program that answers from a few given labels at once: votes of others come to what it says."""
PERMUTED = Sampler("permuted", demos="permuted")
"""A sample that sees the inputs alone, and the program's demos in an order drawn at random."""


def conditioned(chain: ChainSpec) -> Sampler:
    """A sampler whose samples see earlier ones."""
    return Sampler("conditioned", chain=chain)


class Lazily:
    """A NumPy generator that is made when it is first used: that takes longer than most proposals.

    Args:
        index: The index of the sample, the first part of its seed.
        entropy: The rest of its seed.
    """

    __slots__ = ("_entropy", "_generator", "_index")

    def __init__(self, index: int, entropy: Sequence[int]) -> None:
        self._index = index
        self._entropy = entropy
        self._generator: np.random.Generator | None = None

    def __getattr__(self, name: str) -> Any:
        if self._generator is None:
            self._generator = np.random.default_rng([self._index, *self._entropy])
        return getattr(self._generator, name)

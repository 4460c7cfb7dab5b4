"""Several language models in one call: first the cheap one, then the dear one where that does not settle it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dynscale_dspy._fields import Size, Toll, VoteWeight, WholeSize, YesNo, check_fields
from dynscale_dspy.allocation.costs import Cost, CostRecord
from dynscale_dspy.allocation.learned import MUTE, Learned
from dynscale_dspy.sampling.samplers import CallView, Sampler
from dynscale_dspy.sampling.strategies import Strategy
from dynscale_dspy.sampling.ways import Ways

SPOT_CHECKS = 16
"""Of so many samples, one goes to a dear language model that was found to know no more, or to one whose samples cast no
votes, to notice if that changes."""
PROMPT, COMPLETION = 300, 100
"""Tokens of a sample by which listed prices are compared before one has been drawn."""
MOST_FIRST = 16
"""Samples of a cheap language model before the first of a dear one, however little they cost."""


class ModelStrategy(ABC):
    """How a call draws from several language models: settings only, so that one object serves all programs."""

    @abstractmethod
    def over(self, models: Sequence[Sampler]) -> Strategy:
        """The strategy of calls that draw from these language models.

        Args:
            models: A sampler for each of them, as the user has ordered them, each of a name and a model of its own.
        """


@dataclass(frozen=True)
class OverModels(Strategy):
    """A strategy that knows the language models it draws from.

    Args:
        models: A sampler for each, as the user has ordered them.
    """

    models: tuple[Sampler, ...]

    @property
    @abstractmethod
    def ways(self) -> Ways:
        """How samples of each are drawn."""

    @property
    def samplers(self) -> tuple[Sampler, ...]:
        """All samplers of each language model."""
        return tuple(sampler for model in self.models for sampler in self.ways.of(model))

    @property
    def learned(self) -> bool:
        """Whether votes of earlier calls decide if samples see earlier ones."""
        return self.ways.sees == "learned"

    @abstractmethod
    def why(self, learned: Learned) -> str:
        """Which language models it asks by what is known now, in words for reports.

        Args:
            learned: What is known of the program's samples.
        """

    def by_price(self, learned: Learned) -> tuple[Sampler, ...]:
        """The language models that can be asked, the cheapest first.

        By what their samples have cost, in dollars; as the user has ordered them while that is known of none. Left out
        are those whose samples mostly cast no vote while another one's do.
        """
        order = self._in_order(learned)
        records = learned.records.values()
        if all(2 * record.blanks <= record.samples for record in records):
            return order  # most of the time, and asked for each sample
        return tuple(model for model in order if not self._is_silent(model, learned)) or order

    def spot_check(
        self,
        models: Sequence[Sampler],
        view: CallView,
        learned: Learned,
        rng: np.random.Generator,
        *,
        at_any_price: bool = True,
    ) -> Sampler | None:
        """Now and then a language model that is left out since it casts no votes, to notice if that changes.

        Not for the first sample of a call, which may be its only one.

        Args:
            models: Those that are not left out, from :meth:`by_price`.
            view: The call.
            learned: What is known of the program's samples.
            rng: The sample's.
            at_any_price: Whether it may be dearer than the cheapest of those.

        Returns:
            The model; mostly None.
        """
        if not view.next_index or len(models) == len(self.models):
            return None
        order = self._in_order(learned)
        silent = [each for each in (order if at_any_price else order[: order.index(models[0])]) if each not in models]
        if not silent or rng.random() * SPOT_CHECKS >= 1:
            return None
        return silent[int(rng.integers(len(silent)))]

    def _in_order(self, learned: Learned) -> tuple[Sampler, ...]:
        """All language models, the cheapest first."""
        prices = prices_of(self.models, learned)
        if prices is None:
            return self.models
        return tuple(self.models[i] for i in sorted(range(len(prices)), key=prices.__getitem__))

    def _is_silent(self, model: Sampler, learned: Learned) -> bool:
        record = learned.records.get(model.name)
        if record is not None and record.samples >= MUTE and record.blanks == record.samples:
            return True
        return any(learned.is_mute(model.name, beside=other.name) for other in self.models if other is not model)


def prices_of(models: Sequence[Sampler], learned: Learned) -> list[float] | None:
    """What a sample of each language model costs on average, in nanodollars; None if that is not known yet.

    By what its samples have cost and, while they are few, by its listed price for as many tokens as samples of all of
    them have had. Without a listed price it is known after a few samples. One of them has to cost something:
    a model that runs at home is free. But what costs nothing and is given after one that costs something is taken for a
    model whose price nobody knows, unless the pool was told that it is 0.
    """
    records = [record for model in models if (record := learned.records.get(model.name)) is not None]
    if len(records) < len(models):
        return None
    usual = _usual([record.cost for record in records])
    prices: list[float] = []
    for record in records:
        price = record.price(usual)
        if price is None:
            return None
        if not price and any(prices) and (record.tariff is None or not record.tariff.is_free):
            return None
        prices.append(price)
    return prices if any(prices) else None


def _usual(records: Sequence[CostRecord]) -> CostRecord:
    """What samples have had in tokens, of whichever language model; before the first one, some usual number."""
    usual = CostRecord()
    for record in records:
        usual.samples += record.samples
        usual.total += record.total
    if not usual.total.tokens:
        usual.add(Cost(samples=1, prompt_tokens=PROMPT, completion_tokens=COMPLETION))
    return usual


@dataclass(frozen=True)
class Escalate(ModelStrategy):
    """A few samples of the cheap language model first; where they do not settle it, samples of the dear one.

    Where prices are far apart, more cheap samples come first: as many as together cost a share of a dear one. After
    each sample of the dear one as many of the cheap one are drawn as its vote weighs, so that neither model has the say
    alone. Of several dear ones the dearest is asked. One that is found to know no more than the cheap one
    (:mod:`dynscale_dspy.allocation.peers`) gives way to the next cheaper one, and its votes count one.

    With ``upfront=0, beside=0, learn=False`` it is the plain ladder of its two numbers.

    Args:
        first: Samples of the cheap language model before the first of the dear one, at least.
        weight: What a vote of the dear one counts, where one of the cheap one counts 1.
        upfront: What the first samples may cost together, in samples of the dear one, once prices are known: where that
            is more than ``first`` of them, so many are drawn, :data:`MOST_FIRST` at most.
        beside: Samples of the cheap one after each of the dear one; None for as many as ``weight`` says.
        learn: Whether what votes say decides if the dear one is asked further.
        ways: How samples of each are drawn. Samples of the cheapest see none.

    Example:
        >>> cheap, dear = Sampler("cheap", model="cheap"), Sampler("dear", model="dear")
        >>> Escalate().over([cheap, dear]).why(Learned())
        'from cheap to dear, in the order given: no price is known yet'
    """

    first: Size = 4
    weight: VoteWeight = 4.0
    upfront: Toll = 0.2
    beside: WholeSize | None = None
    learn: YesNo = True
    ways: Ways = field(default_factory=Ways)

    def __post_init__(self) -> None:
        check_fields(self, Escalate)

    def over(self, models: Sequence[Sampler]) -> OverModels:
        """The same, drawing from these language models."""
        return Escalating(tuple(models), self)


@dataclass(frozen=True)
class Escalating(OverModels):
    """An :class:`Escalate` that knows its language models.

    Args:
        models: A sampler for each language model.
        settings: How many samples come first, and what votes count.
    """

    settings: Escalate

    @property
    def ways(self) -> Ways:
        """How samples of each are drawn."""
        return self.settings.ways

    def propose(self, view: CallView, learned: Learned, rng: np.random.Generator) -> Sampler | None:
        """Propose the cheap language model for the first samples, then the dear one and the cheap one in turn."""
        models = self.by_price(learned)
        model = self._model(models, view, learned, rng)
        return self.ways.take(model, view, learned, may_see=model is not models[0])

    def _model(self, models: Sequence[Sampler], view: CallView, learned: Learned, rng: np.random.Generator) -> Sampler:
        """The language model to ask."""
        cheap, later = models[0], view.next_index - self._first(models, learned)
        is_dears_turn = later >= 0 and not later % (1 + self._beside)
        silent = self.spot_check(models, view, learned, rng, at_any_price=is_dears_turn)
        if silent is not None:
            return silent
        if not is_dears_turn:
            return cheap
        dear = self._dear(models, learned)
        if dear is cheap and len(models) > 1 and rng.random() * SPOT_CHECKS < 1:
            return models[-1]
        return dear

    def weight(self, sampler: Sampler) -> float:
        """What a vote counts, where nothing is known of prices: by the order in which the models were given."""
        return 1.0 if sampler.model == self.models[0].model else self.settings.weight

    def worth(self, sampler: Sampler, learned: Learned) -> float:
        """1 for the cheapest language model, those that know no more or cast no votes; else the weight given."""
        if not self.ways.counts(sampler, learned):
            return 0.0
        cheap, *others = (model.model for model in self.by_price(learned))
        is_dear = sampler.model != cheap and sampler.model in others  # not one that mostly casts no votes
        return self.settings.weight if is_dear and self._stands(sampler, learned) else 1.0

    def why(self, learned: Learned) -> str:
        """Which language models it asks by what is known now, in words for reports."""
        models = self.by_price(learned)
        cheap, dear = models[0], self._dear(models, learned)
        if len(models) == 1:
            return f"{cheap.name} alone: samples of the others cast no vote"
        if dear is cheap:
            return f"{cheap.name}: {models[-1].name} mostly does not stand by what it says against it"
        prices = prices_of(self.models, learned)
        if prices is None:
            return f"from {cheap.name} to {dear.name}, in the order given: no price is known yet"
        by_name = dict(zip((model.name for model in self.models), prices, strict=True))
        if not by_name[cheap.name]:
            return f"escalates from {cheap.name}, which is free, to {dear.name}"
        times = by_name[dear.name] / by_name[cheap.name]
        return f"escalates from {cheap.name} to {dear.name}: a sample of it costs {times:.1f} times as much"

    def _first(self, models: Sequence[Sampler], learned: Learned) -> int:
        first, prices = self.settings.first, prices_of((models[0], models[-1]), learned)
        if prices is None or not self.settings.upfront:
            return first
        cheap, dear = prices
        cheap_enough = math.floor(self.settings.upfront * dear / cheap) if cheap else MOST_FIRST
        return max(first, min(cheap_enough, MOST_FIRST))

    @property
    def _beside(self) -> int:
        return round(self.settings.weight) if self.settings.beside is None else self.settings.beside

    def _stands(self, model: Sampler, learned: Learned) -> bool:
        return not self.settings.learn or learned.peers.stands(model.model)

    def _dear(self, models: Sequence[Sampler], learned: Learned) -> Sampler:
        """The dearest that is taken to know more than those cheaper; the cheapest if none is."""
        return next((model for model in reversed(models[1:]) if self._stands(model, learned)), models[0])

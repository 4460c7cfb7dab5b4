"""Several language models in one call, drawn from as their prices ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dynscale_dspy._cached import cached_property
from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.sampling.best_of import BestOf
from dynscale_dspy.sampling.escalate import Escalate, ModelStrategy, OverModels, prices_of
from dynscale_dspy.sampling.samplers import CallView, Sampler
from dynscale_dspy.sampling.ways import Ways

APART = 1.5
"""From this ratio of prices a sample on, cheap samples come before dear ones; below, the better model is looked for.

Chosen on recorded samples of AIME 2024. On AIME 2025 and GPQA-Diamond, too, Escalate was ahead of BestOf on average
over the pairs at ratios of 1.5 to 8, budgets of 0.5 to 3 samples of the dearest model a query: docs/models-measured.md
has the figures."""


@dataclass(frozen=True)
class ByPrice(ModelStrategy):
    """:class:`Escalate` where a sample of the dearest model costs :data:`APART` times one of the cheapest, else BestOf.

    It goes by listed prices at first and by what samples have cost as they come in: a reasoning model's may cost
    several times what its price per token says. Where no price is known it escalates in the order given.

    Args:
        escalate: The rule for prices that are far apart.
        best_of: The rule for prices that are not.
    """

    escalate: Escalate = field(default_factory=Escalate)
    best_of: BestOf = field(default_factory=BestOf)

    def over(self, models: Sequence[Sampler]) -> OverModels:
        """The same, drawing from these language models."""
        return Priced(tuple(models), self)


@dataclass(frozen=True)
class Priced(OverModels):
    """A :class:`ByPrice` that knows its language models.

    Args:
        models: A sampler for each language model.
        settings: The two rules.
    """

    settings: ByPrice

    @property
    def ways(self) -> Ways:
        """How a first sample is drawn; others are as each rule says."""
        return self.settings.escalate.ways

    @property
    def samplers(self) -> tuple[Sampler, ...]:
        """All that either rule may propose."""
        both = (*self._escalating.samplers, *self._better.samplers)
        return tuple({sampler.name: sampler for sampler in both}.values())

    def propose(self, view: CallView, learned: Learned, rng: np.random.Generator) -> Sampler | None:
        """Propose what the rule for these prices does."""
        return self._rule(learned).propose(view, learned, rng)

    def weight(self, sampler: Sampler) -> float:
        """What a vote counts where nothing is known of prices."""
        return self._escalating.weight(sampler)

    def worth(self, sampler: Sampler, learned: Learned) -> float:
        """What a vote counts by the rule for these prices."""
        return self._rule(learned).worth(sampler, learned)

    def why(self, learned: Learned) -> str:
        """Which rule it keeps to, and which language models that asks."""
        return self._rule(learned).why(learned)

    @cached_property
    def _escalating(self) -> OverModels:
        return self.settings.escalate.over(self.models)

    @cached_property
    def _better(self) -> OverModels:
        return self.settings.best_of.over(self.models)

    def _rule(self, learned: Learned) -> OverModels:
        prices = prices_of(self.models, learned)
        return self._better if prices is not None and max(prices) < APART * min(prices) else self._escalating

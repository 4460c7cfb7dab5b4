"""Several language models in one call: first the cheap one, then the dear one where that does not settle it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynscale_dspy._fields import Size, VoteWeight, check_fields
from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.sampling.samplers import CallView, Sampler
from dynscale_dspy.sampling.strategies import Strategy


class ModelStrategy(ABC):
    """How a call draws from several language models: settings only, so that one object serves all programs."""

    @abstractmethod
    def over(self, models: Sequence[Sampler]) -> Strategy:
        """The strategy of calls that draw from these language models.

        Args:
            models: A sampler for each of them, as the user has ordered them, each of a name and a model of its own.
        """


@dataclass(frozen=True)
class Escalate(ModelStrategy):
    """A few samples of the cheap language model first; where they do not settle it, samples of the dear one.

    Args:
        first: Samples of the cheap language model before the first of the dear one.
        weight: What a vote of the dear one counts, where one of the cheap one counts 1.
    """

    first: Size = 4
    weight: VoteWeight = 4.0

    def __post_init__(self) -> None:
        check_fields(self, Escalate)

    def over(self, models: Sequence[Sampler]) -> Strategy:
        """The same, drawing from these language models."""
        return Escalating(self, tuple(models))


@dataclass(frozen=True)
class Escalating(Strategy):
    """An :class:`Escalate` that knows its language models.

    Args:
        settings: How many samples come first, and what votes count.
        models: A sampler for each language model.
    """

    settings: Escalate
    models: tuple[Sampler, ...]

    @property
    def samplers(self) -> tuple[Sampler, ...]:
        """One for each language model."""
        return self.models

    def propose(self, view: CallView, learned: Learned, rng: np.random.Generator) -> Sampler | None:
        """Propose the cheap language model for the first samples, and the dear one for all others."""
        cheap, dear = self._ordered(learned)
        return cheap if view.next_index < self.settings.first else dear

    def weight(self, sampler: Sampler) -> float:
        """What a vote counts, where nothing is known of prices: by the order in which the models were given."""
        return self.settings.weight if sampler.name == self.models[-1].name else 1.0

    def worth(self, sampler: Sampler, learned: Learned) -> float:
        """The weight given for the dear language model, 1 for the others."""
        return self.settings.weight if sampler.name == self._ordered(learned)[1].name else 1.0

    def _ordered(self, learned: Learned) -> tuple[Sampler, Sampler]:
        """The cheapest language model and the dearest one, by what their samples have cost; as given while unknown."""
        records = [learned.records.get(model.name) for model in self.models]
        prices = [record.cost.mean("nanodollars") if record is not None else 0.0 for record in records]
        if all(prices):
            models = [self.models[i] for i in sorted(range(len(prices)), key=lambda i: prices[i])]
        else:
            models = self.models
        return models[0], models[-1]

"""Several language models of like price: find the better one, and ask it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dynscale_dspy._fields import Toll, check_fields
from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.sampling.escalate import ModelStrategy, OverModels, prices_of
from dynscale_dspy.sampling.samplers import CallView, Sampler
from dynscale_dspy.sampling.ways import Ways


@dataclass(frozen=True)
class BestOf(ModelStrategy):
    r"""Of several language models, the one whose samples agree most with each other, for what it costs.

    A call's first sample goes to the model that a draw from what is known puts first (Thompson, 1933), so that others
    are tried while little is known; its second one to the same, which tells how often samples of that model agree; all
    others to the one that is best by now. Best is what has the largest agreement less :math:`\lambda \ln(c)`, its price
    c in those of the cheapest. Votes of all models count one.

    Args:
        price: :math:`\lambda`: by how much a model of e times the price must agree more often.
        ways: How samples of each are drawn.

    Example:
        >>> one, other = Sampler("one", model="one"), Sampler("other", model="other")
        >>> BestOf().over([one, other]).why(Learned())
        'looks for the better model by how often samples agree: one .70, other .70'
    """

    price: Toll = 0.1
    ways: Ways = field(default_factory=Ways)

    def __post_init__(self) -> None:
        check_fields(self, BestOf)

    def over(self, models: Sequence[Sampler]) -> OverModels:
        """The same, drawing from these language models."""
        return Better(tuple(models), self)


@dataclass(frozen=True)
class Better(OverModels):
    """A :class:`BestOf` that knows its language models.

    Args:
        models: A sampler for each language model.
        settings: How prices count.
    """

    settings: BestOf

    @property
    def ways(self) -> Ways:
        """How samples of each are drawn."""
        return self.settings.ways

    def propose(self, view: CallView, learned: Learned, rng: np.random.Generator) -> Sampler | None:
        """Propose a model to try for the first two samples of a call, then the best one."""
        return self.ways.take(self._model(view, learned, rng), view, learned)

    def worth(self, sampler: Sampler, learned: Learned) -> float:
        """One vote each; those on trial do not count."""
        return self.weight(sampler) * self.ways.counts(sampler, learned)

    def _model(self, view: CallView, learned: Learned, rng: np.random.Generator) -> Sampler:
        """The language model to ask."""
        models, peers = self.by_price(learned), learned.peers
        silent = self.spot_check(models, view, learned, rng)
        if silent is not None:
            return silent
        if view.next_index == 0:
            drawn = {model.name: float(rng.beta(*peers.belief(model.name))) for model in models}
            return max(models, key=lambda model: drawn[model.name] - self._toll(model, learned))
        if view.next_index == 1 and len(view.samples) == 1:
            first = view.samples[0].draw.sampler.model
            same = next((model for model in models if model.model == first), None)
            if same is not None:
                return same
        return self._best(models, learned)

    def why(self, learned: Learned) -> str:
        """Which language model it asks by what is known now, in words for reports."""
        models, peers = self.by_price(learned), learned.peers
        known = ", ".join(f"{model.name} {_share(peers.agreement(model.name))}" for model in self.models)
        if not any(peers.pairs(model.name) for model in self.models):
            return f"looks for the better model by how often samples agree: {known}"
        return f"mostly asks {self._best(models, learned).name}, by how often samples agree and cost: {known}"

    def _best(self, models: Sequence[Sampler], learned: Learned) -> Sampler:
        peers = learned.peers
        return max(models, key=lambda model: peers.agreement(model.name) - self._toll(model, learned))

    def _toll(self, model: Sampler, learned: Learned) -> float:
        """What its price takes off."""
        prices = prices_of(self.models, learned)
        if prices is None or not min(prices):
            return 0.0
        price = prices[[each.name for each in self.models].index(model.name)]
        return self.settings.price * math.log(price / min(prices))


def _share(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")

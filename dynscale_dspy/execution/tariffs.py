"""What samples of a language model cost before one was drawn: by its price and its bound on tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynscale_dspy._models import ByPredictor
from dynscale_dspy.allocation.costs import Tariff
from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.budget.prices import Price, worst_price
from dynscale_dspy.execution.request_costs import most_tokens
from dynscale_dspy.sampling.samplers import Sampler


def put_at_prices(learned: Learned, samplers: Sequence[Sampler], prices: Mapping[str, Price]) -> None:
    """Tell the record of a program what its samplers' language models charge.

    Args:
        learned: The record.
        samplers: The samplers; those without a language model of their own are passed over.
        prices: The pool's.
    """
    for sampler in samplers:
        if sampler.lm is not None:
            learned.of(sampler.name).tariff = tariff_of(sampler.lm, prices)


def tariff_of(lm: Any, prices: Mapping[str, Price]) -> Tariff:
    """What is known of a language model's costs before it was asked: what its meter bounds a request by.

    Args:
        lm: The language model; or what predictors ask together, which costs what the dearest of them do at most.
        prices: The pool's.
    """
    if isinstance(lm, ByPredictor):
        return _dearest([tariff_of(each, prices) for each in lm.values()])
    settings = getattr(lm, "kwargs", None) or {}
    price, most = worst_price(str(getattr(lm, "model", "")), settings, prices), most_tokens(settings)
    if price is None:
        return Tariff(most=most)
    return Tariff(price.nanodollars(1_000_000, 0) / 1e6, price.nanodollars(0, 1_000_000) / 1e6, most)


def _dearest(tariffs: Sequence[Tariff]) -> Tariff:
    """What bounds a sample that asks all of these; not known of what is not known of one."""
    figures = zip(*((each.prompt, each.completion, each.most) for each in tariffs), strict=True)
    prompt, completion, most = (None if None in known else max(known) for known in map(list, figures))
    return Tariff(prompt, completion, most)  # type: ignore[arg-type]

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
    """Tell the record of a program what its samplers' language models charge, and which of them its samples count in.

    That is the first one that costs something.

    Args:
        learned: The record.
        samplers: The samplers; those without a language model of their own are passed over.
        prices: The pool's.
    """
    tariffs = [(sampler, tariff_of(sampler.lm, prices)) for sampler in samplers if sampler.lm is not None]
    first = next((sampler.model for sampler, tariff in tariffs if not tariff.is_free), "")
    for sampler, tariff in tariffs:
        record = learned.of(sampler.name)
        record.tariff, record.is_usual = tariff, sampler.model == first


def tariff_of(lm: Any, prices: Mapping[str, Price]) -> Tariff:
    """What is known of a language model's costs before it was asked: what its meter bounds a request by.

    Args:
        lm: The language model; or what predictors ask together.
        prices: The pool's.
    """
    if isinstance(lm, ByPredictor):
        return _together([tariff_of(each, prices) for each in lm.values()])
    settings = getattr(lm, "kwargs", None) or {}
    price, most = worst_price(str(getattr(lm, "model", "")), settings, prices), most_tokens(settings)
    if price is None:
        return Tariff(most=most)
    return Tariff(price.nanodollars(1_000_000, 0) / 1e6, price.nanodollars(0, 1_000_000) / 1e6, most)


def _together(tariffs: Sequence[Tariff]) -> Tariff:
    """Of what predictors ask together: the mean of their prices, as if each read and wrote as much as another."""
    count = len(tariffs)
    prompt, completion = [each.prompt for each in tariffs], [each.completion for each in tariffs]
    most = [each.most for each in tariffs if each.most is not None]
    return Tariff(
        None if None in prompt else sum(price for price in prompt if price is not None) / count,
        None if None in completion else sum(price for price in completion if price is not None) / count,
        max(most) if len(most) == count else None,
    )

"""What a token costs: the price the user gave, the language model's own, or the public price list."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any


@dataclass(frozen=True)
class Price:
    """What a language model costs, in dollars per million tokens.

    Args:
        prompt: For tokens it reads.
        completion: For tokens it writes.
        cached: For tokens of the prompt that its prompt cache held; by default as ``prompt``.

    Raises:
        ValueError: If one is negative or not finite.

    Example:
        >>> Price(prompt=0.1, completion=0.4).nanodollars(prompt=1000, completion=500)
        300000
    """

    prompt: float
    completion: float
    cached: float | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "completion", "cached"):
            value = getattr(self, name)
            if value is None and name == "cached":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number of dollars per million tokens, got {value!r}")
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {value!r}")

    def nanodollars(self, prompt: int, completion: int, cached: int = 0) -> int:
        """The price of some tokens in billionths of a dollar, rounded up; ``cached`` ones are among the prompt's."""
        rate = self.prompt if self.cached is None else self.cached
        # A dollar per million tokens is a thousand nanodollars a token.
        return math.ceil(1000 * ((prompt - cached) * self.prompt + cached * rate + completion * self.completion) - 1e-6)


def worst_price(model: str, lm_kwargs: Mapping[str, Any], prices: Mapping[str, Price]) -> Price | None:
    """The most a language model can charge a token, or None if nobody knows.

    Looked for in the pool's prices, in the language model's own arguments (``input_cost_per_token``), and in the
    public list of LiteLLM that DSPy prices calls with. Where a list has several rates (long prompts, writing to a
    prompt cache, reasoning), the highest counts.

    Args:
        model: As DSPy names it, with the provider.
        lm_kwargs: The language model's arguments and the call's.
        prices: The pool's.
    """
    if model in prices:
        given = prices[model]
        return Price(max(given.prompt, given.cached or 0.0), given.completion)
    if "input_cost_per_token" in lm_kwargs and "output_cost_per_token" in lm_kwargs:
        return _per_token(lm_kwargs)
    entry = listed(model)
    return _per_token(entry) if entry else None


@lru_cache(maxsize=256)
def listed(model: str) -> Mapping[str, Any]:
    """The public list's entry for a model; empty if it has none."""
    provider, _, name = model.partition("/")
    if not name:
        return {}
    try:
        from dspy.clients.model_metadata import model_info
    except ImportError:  # before 3.4 DSPy prices with LiteLLM itself, and so has it loaded
        import litellm

        costs: Mapping[str, Any] = litellm.model_cost
        return costs.get(model) or costs.get(name) or {}
    return model_info(provider, name)


def _per_token(rates: Mapping[str, Any]) -> Price | None:
    def highest(*beginnings: str) -> float | None:
        found = [
            float(value)
            for name, value in rates.items()
            if name.startswith(beginnings)
            and not name.endswith(("_priority", "_flex", "_batches"))
            and isinstance(value, (int, float))
            and not isinstance(value, bool)
            and 0 <= value < math.inf
        ]
        return max(found, default=None)

    prompt = highest("input_cost_per_token", "cache_creation_input_token_cost", "cache_read_input_token_cost")
    completion = highest("output_cost_per_token", "output_cost_per_reasoning_token")
    if prompt is None or completion is None:
        return None
    return Price(prompt * 1e6, completion * 1e6)

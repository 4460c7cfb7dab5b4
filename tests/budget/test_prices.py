from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import Price
from dynscale_dspy.budget.prices import worst_price

rates = st.floats(0, 1000)
counts = st.integers(0, 10**6)


def test_a_price_by_hand():
    price = Price(prompt=2.5, completion=10, cached=1.25)
    assert price.nanodollars(prompt=1000, completion=100) == 3_500_000
    assert price.nanodollars(prompt=1000, completion=100, cached=400) == 3_000_000


@given(rates, rates, counts, counts)
def test_what_is_priced_is_never_less_than_its_price(prompt, completion, read, written):
    exact = 1000 * (prompt * read + completion * written)
    priced = Price(prompt, completion).nanodollars(read, written)
    assert exact - 1e-3 <= priced <= math.ceil(exact) + 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prompt": -1, "completion": 1}, ValueError, "prompt must be at least 0 and finite, got -1"),
        ({"prompt": 1, "completion": math.inf}, ValueError, "completion must be at least 0 and finite, got inf"),
        (
            {"prompt": 1, "completion": 1, "cached": math.nan},
            ValueError,
            "cached must be at least 0 and finite",
        ),
        ({"prompt": "1", "completion": 1}, TypeError, "prompt must be a number of dollars per million tokens, got '1'"),
        ({"prompt": True, "completion": 1}, TypeError, "prompt must be a number of dollars"),
    ],
)
def test_bad_prices(arguments, error, message):
    with pytest.raises(error, match=message):
        Price(**arguments)


def test_the_pools_price_comes_first_then_the_models_own_then_the_list():
    own = {"input_cost_per_token": 2e-6, "output_cost_per_token": 3e-6}
    prices = {"openai/gpt-4o-mini": Price(5, 6)}
    assert worst_price("openai/gpt-4o-mini", own, prices) == Price(5, 6)
    mine = worst_price("openai/gpt-4o-mini", own, {})
    assert mine is not None and (mine.prompt, mine.completion) == pytest.approx((2, 3))
    listed = worst_price("openai/gpt-4o-mini", {}, {})
    assert listed is not None and listed.prompt > 0 and listed.completion > listed.prompt


def test_the_highest_rate_of_a_list_counts():
    entry = {
        "input_cost_per_token": 1e-6,
        "input_cost_per_token_above_200k_tokens": 2e-6,
        "input_cost_per_token_priority": 9e-6,
        "cache_creation_input_token_cost": 2.5e-6,
        "output_cost_per_token": 4e-6,
    }
    price = worst_price("local/model", entry, {})
    assert price is not None and (price.prompt, price.completion) == pytest.approx((2.5, 4))


def test_nobody_knows_the_price_of_a_local_model():
    assert worst_price("hosted_vllm/mine", {}, {}) is None
    assert worst_price("mine", {}, {}) is None

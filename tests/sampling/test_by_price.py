from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.costs import Cost, Tariff
from dynscale_dspy.allocation.learned import TELLING, Learned
from dynscale_dspy.sampling.best_of import BestOf
from dynscale_dspy.sampling.by_price import APART, ByPrice
from dynscale_dspy.sampling.escalate import Escalate
from tests.sampling.models import MODELS, known, priced
from tests.sampling.support import make_view

SMALL, LARGE, _ = MODELS


def test_far_apart_prices_escalate_and_like_ones_look_for_the_better_model():
    strategy = ByPrice().over([SMALL, LARGE])
    assert strategy.why(priced({"small": 10, "large": 15})).startswith("escalates from small to large")
    assert strategy.why(priced({"small": 10, "large": 14})).startswith("looks for the better model")
    assert strategy.why(priced({"small": 80, "large": 10})).startswith("escalates from large to small")
    assert strategy.why(priced({"small": 0, "large": 10})).startswith("escalates from small, which is free")


def test_before_anything_is_metered_the_order_given_counts():
    strategy = ByPrice().over([LARGE, SMALL])
    assert strategy.why(Learned()) == "from large to small, in the order given: no price is known yet"
    assert strategy.worth(SMALL, Learned()) == 4
    assert strategy.worth(SMALL, priced({"small": 1, "large": 2})) == 1


def test_without_listed_prices_a_few_samples_of_each_tell_its_price():
    """One dear sample may be short by chance: the rule would not ask that model again."""
    strategy = ByPrice().over([SMALL, LARGE])
    few = priced({"small": 10, "large": 10}, samples=TELLING - 1)
    assert strategy.why(few).startswith("from small to large, in the order given")
    assert strategy.why(priced({"small": 10, "large": 10}, samples=TELLING)).startswith("looks for")


def test_listed_prices_tell_before_anything_was_drawn_and_what_is_metered_comes_to_count_more():
    strategy = ByPrice().over([SMALL, LARGE])
    learned = Learned()
    learned.of("small").tariff, learned.of("large").tariff = Tariff(1, 4), Tariff(1.2, 5)
    assert strategy.why(learned).startswith("looks for the better model")
    for drawn in range(9):
        for name, written, price in (("small", 10, 4), ("large", 17, 5)):  # the large one reasons at length
            cost = Cost(samples=1, requests=1, completion_tokens=written, nanodollars=written * price)
            learned.costed(name, cost)
        if drawn == 0:
            assert strategy.why(learned).startswith("looks for the better model")
    assert strategy.why(learned).startswith("escalates from small to large")


@given(known(), st.integers(1, 30), st.integers(0, 99))
def test_it_does_what_the_rule_for_these_prices_does(learned, index, seed):
    prices = [learned.of(model.name).cost.mean("nanodollars") for model in MODELS]
    metered = all(learned.of(model.name).cost.samples >= TELLING for model in MODELS) and any(prices)
    alike = metered and max(prices) < APART * min(prices)
    ours, theirs = ByPrice().over(MODELS), (BestOf() if alike else Escalate()).over(MODELS)
    view = make_view([], index)
    assert ours.propose(view, learned, np.random.default_rng(seed)) == theirs.propose(
        view, learned, np.random.default_rng(seed)
    )
    assert ours.why(learned) == theirs.why(learned)
    for model in MODELS:
        assert ours.worth(model, learned) == theirs.worth(model, learned)

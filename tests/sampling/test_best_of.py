from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.sampling.best_of import BestOf
from dynscale_dspy.sampling.sample import Draw, Sample
from tests.sampling.models import MODELS, known, priced
from tests.sampling.support import make_view, voters
from tests.support import vote

SMALL, LARGE, HUGE = MODELS


def paired(learned, **agreed):
    """The same, after so many agreeing pairs of 40 of each model."""
    for name, count in agreed.items():
        for number in range(40):
            learned.peers.tell_pair(name, agree=number < count)
    return learned


def proposed(strategy, view, learned, seed=0):
    return strategy.propose(view, learned, np.random.default_rng(seed))


def firsts(strategy, learned, count=200):
    return Counter(proposed(strategy, make_view([], 0), learned, seed).model for seed in range(count))


def test_while_nothing_is_known_every_model_is_tried():
    found = firsts(BestOf().over(MODELS), Learned())
    assert min(found[model.name] for model in MODELS) > 40


def test_a_second_sample_is_of_the_same_model_as_the_first():
    for model in MODELS:
        first = Sample(Draw(0, sampler=model), answer="A", vote=vote("A"))
        learned = paired(Learned(), small=10, large=30, huge=10)
        assert proposed(BestOf().over(MODELS), make_view([first]), learned).model == model.model


def test_the_model_whose_samples_agree_most_gets_nearly_all():
    learned = paired(Learned(), small=12, large=36, huge=20)
    strategy = BestOf().over(MODELS)
    assert firsts(strategy, learned)["large"] > 190
    assert proposed(strategy, make_view(voters("A", "B")), learned).model == LARGE.model
    assert strategy.why(learned).startswith("mostly asks large, by how often samples agree and cost: small .")


def test_what_a_model_costs_more_its_samples_must_agree_more_often():
    for prices, best in (({"small": 1, "large": 1}, LARGE), ({"small": 1, "large": 7}, SMALL)):
        learned = paired(priced(prices), small=24, large=30)
        assert proposed(BestOf().over(MODELS[:2]), make_view(voters("A", "B")), learned).model == best.model
    assert proposed(BestOf(price=0).over(MODELS[:2]), make_view(voters("A", "B")), learned).model == LARGE.model


def test_a_model_that_casts_no_vote_is_left_out():
    learned = paired(priced({"small": 1, "large": 1}), small=10, large=30)
    learned.of("large").blanks = 4
    assert set(firsts(BestOf().over(MODELS[:2]), learned)) == {"small"}


@given(known(), st.integers(0, 9), st.integers(0, 99))
def test_votes_count_one_and_proposals_are_its_own(learned, index, seed):
    strategy = BestOf().over(MODELS)
    assert proposed(strategy, make_view([], index), learned, seed) in strategy.samplers
    assert all(strategy.worth(model, learned) == 1 for model in MODELS)
    assert strategy.why(learned)


@given(st.data(), st.sampled_from([2, 10, 10**6]))
def test_prices_times_a_constant_change_nothing(data, scale):
    prices = {model.name: data.draw(st.integers(1, 10**4)) for model in MODELS}
    agreed = {model.name: data.draw(st.integers(0, 40)) for model in MODELS}
    one, other = (paired(priced({k: v * by for k, v in prices.items()}), **agreed) for by in (1, scale))
    strategy = BestOf().over(MODELS)
    assert firsts(strategy, one, 20) == firsts(strategy, other, 20)
    assert strategy.why(one) == strategy.why(other)


@pytest.mark.parametrize("price", [-0.1, float("nan"), "cheap"])
def test_settings_are_checked(price):
    with pytest.raises((TypeError, ValueError), match="price"):
        BestOf(price=price)

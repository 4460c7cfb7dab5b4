from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.costs import Tariff
from dynscale_dspy.allocation.learned import MUTE, Learned, SamplerRecord
from dynscale_dspy.sampling.best_of import BestOf
from dynscale_dspy.sampling.escalate import MOST_FIRST, SPOT_CHECKS, Escalate, prices_of
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.sample import Sample
from dynscale_dspy.sampling.samplers import Sampler
from dynscale_dspy.sampling.ways import INDEPENDENT
from dynscale_dspy.selection.base import Vote
from tests.sampling.models import MODELS, known, priced
from tests.sampling.support import make_view, voters

SMALL, LARGE, HUGE = MODELS
LADDER = Escalate(upfront=0, beside=0, learn=False, ways=INDEPENDENT)


def order(strategy, learned=None, count=12, seed=0):
    """The language models of a call's first samples."""
    learned = learned or Learned()
    proposed = (
        strategy.propose(make_view([], index), learned, np.random.default_rng([seed, index])) for index in range(count)
    )
    return [sampler.model for sampler in proposed]


def test_the_ladder_is_cheap_samples_and_then_dear_ones():
    assert order(LADDER.over([SMALL, LARGE]), count=6) == ["small"] * 4 + ["large"] * 2
    assert order(Escalate(first=2, upfront=0, beside=0).over([SMALL, LARGE]), count=4) == ["small"] * 2 + ["large"] * 2


def test_each_dear_sample_has_as_many_cheap_ones_beside_it_as_its_vote_weighs():
    assert order(Escalate(weight=2).over([SMALL, LARGE]), count=8) == [
        *["small"] * 4,
        "large",
        "small",
        "small",
        "large",
    ]
    assert order(Escalate(beside=1).over([SMALL, LARGE]), count=8) == [*["small"] * 4, *["large", "small"] * 2]


def test_models_are_ordered_by_what_they_cost_and_as_given_while_that_is_unknown():
    strategy = LADDER.over([LARGE, SMALL])
    assert order(strategy, count=5)[-1] == "small"
    learned = priced({"small": 1, "large": 20})
    assert order(strategy, learned, count=5) == ["small"] * 4 + ["large"]
    assert strategy.worth(SMALL, learned) == 1
    assert strategy.worth(LARGE, learned) == 4
    assert order(strategy, priced({"small": 1}), count=5)[-1] == "small", "one price alone says nothing"
    assert order(strategy, priced({"small": 0, "large": 0}), count=5)[-1] == "small"


def test_a_model_that_costs_nothing_is_the_cheapest_once_another_is_known_to_cost_something():
    learned = priced({"small": 0, "large": 20})
    learned.of("small").tariff = Tariff(prompt=0, completion=0)
    assert order(LADDER.over([LARGE, SMALL]), learned, count=5) == ["small"] * 4 + ["large"]
    assert "which is free" in LADDER.over([LARGE, SMALL]).why(learned)


@pytest.mark.parametrize(("price", "first"), [(8, 4), (30, 6), (50, 10), (5000, MOST_FIRST), (0, MOST_FIRST)])
def test_the_further_prices_are_apart_the_more_cheap_samples_come_first(price, first):
    learned = priced({"small": 1, "large": price} if price else {"small": 0, "large": 1})
    assert order(Escalate().over([SMALL, LARGE]), learned, count=40).index("large") == first


def test_of_several_dear_models_the_dearest_is_asked_until_it_does_not_stand():
    learned = priced({"small": 1, "large": 20, "huge": 80})
    strategy = Escalate(upfront=0, beside=0).over(MODELS)
    assert order(strategy, learned, count=5) == ["small"] * 4 + ["huge"]
    for name in ("huge", "large"):
        for _ in range(4):
            learned.peers.tell_second(name, repeats=False)
        asked = order(strategy, learned, count=400)[4:]
        assert max(asked, key=asked.count) == ("large" if name == "huge" else "small")
    assert strategy.worth(HUGE, learned) == strategy.worth(LARGE, learned) == strategy.worth(SMALL, learned) == 1
    assert 0 < asked.count("huge") < 60, "a few samples notice if that changes"
    assert strategy.why(learned) == "small: huge mostly does not stand by what it says against it"


def test_without_learning_what_is_known_of_second_votes_changes_nothing():
    learned = Learned()
    for _ in range(9):
        learned.peers.tell_second("large", repeats=False)
    assert order(LADDER.over([SMALL, LARGE]), learned) == order(LADDER.over([SMALL, LARGE]))


@pytest.mark.parametrize("silent", ["small", "large"])
def test_a_model_that_casts_no_vote_leaves_the_call_to_the_other(silent):
    learned = priced({"small": 1, "large": 20})
    learned.of(silent).blanks = 4
    strategy = Escalate().over([SMALL, LARGE])
    other = "large" if silent == "small" else "small"
    asked = order(strategy, learned, count=1600)
    turns = 1600 if silent == "small" else 320  # a dear one is looked at in its turns only
    assert 0.6 * turns / SPOT_CHECKS < asked.count(silent) < 1.5 * turns / SPOT_CHECKS, "a few notice if that changes"
    assert {order(strategy, learned, count=1, seed=seed)[0] for seed in range(99)} == {other}, (
        "not of a call's only one"
    )
    assert strategy.worth(SMALL, learned) == strategy.worth(LARGE, learned) == 1
    assert strategy.why(learned) == f"{other} alone: samples of the others cast no vote"
    learned.of(other).blanks = 4
    assert set(order(strategy, learned)) == {"small", "large"}, "where none votes, nothing is known"


def played(strategy, votes, learned, calls=80, samples=8):
    """The language models of each call's samples, where each votes if ``votes`` says so in a call of this number."""
    asked = []
    for call in range(calls):
        plan = Plan(strategy, seed=0, key=call, max_samples=samples, learned=learned)
        for _ in range(samples):
            draw = plan.draw(*plan.propose(1))
            said = "A" if votes(draw.sampler.model, call) else None
            cast = None if said is None else Vote(said, said)
            plan.tell(Sample(draw, answer=said, vote=cast, problem="" if cast else "unreadable"))
        asked.append([sample.draw.sampler.model for sample in plan.samples])
    return asked


@pytest.mark.parametrize("settings", [Escalate(), LADDER, BestOf()], ids=["Escalate", "ladder", "BestOf"])
def test_a_model_that_votes_again_is_asked_again(settings):
    learned = priced({"small": 1, "large": 4}, samples=0)
    asked = played(settings.over([SMALL, LARGE]), lambda model, call: model == "large" or call >= 30, learned)
    assert 0 < sum(call.count("small") for call in asked[1:30]) < 29, "left out, and looked at now and then"
    begin = [call[0] == "small" for call in asked]
    assert not any(begin[1:30]) and any(begin[30:])
    assert isinstance(settings, BestOf) or all(begin[-20:])  # which finds the other one better by then
    assert learned.of("small").blanks == 0


def test_a_model_that_never_votes_stays_left_out():
    learned = priced({"small": 1, "large": 4}, samples=0)
    asked = played(Escalate().over([SMALL, LARGE]), lambda model, call: model == "large", learned)
    assert 0 < sum(call.count("small") for call in asked[1:]) < 1.5 * 80 * 7 / SPOT_CHECKS


@given(st.lists(st.booleans(), max_size=60), st.booleans())
def test_only_a_model_that_mostly_cast_no_vote_starts_afresh(blanks, of_model):
    record, told, forgotten = SamplerRecord(), [], False
    for blank in blanks:
        if of_model and not blank and len(told) >= MUTE and 2 * sum(told) > len(told):
            told, forgotten = [], True
        told.append(blank)
        record.read(blank=blank, of_model=of_model)
        assert (record.samples, record.blanks) == (len(told), sum(told))
    assert forgotten <= of_model and (forgotten or record.samples == len(blanks))


def test_says_what_a_dear_sample_costs():
    strategy = Escalate().over([SMALL, LARGE])
    assert strategy.why(Learned()) == "from small to large, in the order given: no price is known yet"
    assert strategy.why(priced({"small": 10, "large": 123})) == (
        "escalates from small to large: a sample of it costs 12.3 times as much"
    )


def test_one_model_is_asked_alone():
    strategy = Escalate().over([SMALL])
    assert set(order(strategy)) == {"small"}
    assert strategy.worth(SMALL, Learned()) == 1


@given(known(), st.integers(0, 60), st.integers(0, 99))
def test_weights_are_positive_and_finite_and_proposals_its_own(learned, index, seed):
    for settings_ in (Escalate(), LADDER, Escalate(weight=1.5, beside=3)):
        strategy = settings_.over(MODELS)
        assert strategy.propose(make_view([], index), learned, np.random.default_rng(seed)) in strategy.samplers
        assert all(0 < strategy.worth(model, learned) < math.inf for model in MODELS)
        assert all(0 < strategy.weight(model) < math.inf for model in MODELS)
        assert strategy.why(learned)


@given(st.data(), st.sampled_from([2, 10, 10**6]))
def test_prices_times_a_constant_change_nothing(data, scale):
    prices = {model.name: data.draw(st.integers(0, 10**4)) for model in MODELS}
    one, other = priced(prices), priced({name: price * scale for name, price in prices.items()})
    for strategy in (Escalate().over(MODELS), LADDER.over(MODELS)):
        assert order(strategy, one, count=30) == order(strategy, other, count=30)
        assert strategy.why(one) == strategy.why(other)


@given(st.permutations("AAABBC"), st.integers(4, 30))
def test_the_order_of_votes_changes_nothing(keys, index):
    strategy, learned = Escalate().over(MODELS), priced({"small": 1, "large": 9, "huge": 20})
    one, other = (make_view(voters(*each), index) for each in ("AAABBC", keys))
    assert strategy.propose(one, learned, np.random.default_rng(1)) == strategy.propose(
        other, learned, np.random.default_rng(1)
    )


def test_votes_of_a_call_are_counted_anew_once_the_dear_model_does_not_stand():
    learned = Learned()
    plan = Plan(LADDER.over([SMALL, LARGE]), seed=0, key=0, max_samples=9, learned=learned)
    learning = Plan(Escalate(beside=0).over([SMALL, LARGE]), seed=0, key=0, max_samples=9, learned=learned)
    for each in (plan, learning):
        for key in "AAABB":
            [sampler] = each.propose()
            [sample] = voters(key)
            draw = each.draw(sampler)
            each.tell(type(sample)(draw, answer=key, vote=sample.vote))
        assert dict(each.selection.evidence().votes) == {"A": 3, "B": 5}
    for _ in range(4):
        learned.peers.tell_second("large", repeats=False)
    plan.winner(), learning.winner()
    assert dict(plan.selection.evidence().votes) == {"A": 3, "B": 5}
    assert dict(learning.selection.evidence().votes) == {"A": 3, "B": 2}


@pytest.mark.parametrize(
    "settings_", [{"first": 0}, {"weight": 0}, {"weight": math.inf}, {"beside": -1}, {"upfront": -1}, {"learn": 1}]
)
def test_settings_are_checked(settings_):
    with pytest.raises((TypeError, ValueError)) as refused:
        Escalate(**settings_)
    assert next(iter(settings_)) in str(refused.value)


def test_prices_are_known_once_each_has_been_metered():
    assert prices_of(MODELS[:2], Learned()) is None
    assert prices_of(MODELS[:2], priced({"small": 1})) is None
    assert prices_of(MODELS[:2], priced({"small": 0, "large": 0})) is None
    assert prices_of(MODELS[:2], priced({"small": 1, "large": 3})) == [1, 3]
    assert prices_of([Sampler("new", model="new")], priced({"small": 1})) is None


def test_a_model_of_unknown_price_is_free_only_where_it_is_given_first() -> None:
    assert prices_of(MODELS[:2], priced({"small": 0, "large": 3})) == [0, 3]
    learned = priced({"small": 1, "large": 0})
    assert prices_of(MODELS[:2], learned) is None
    assert [model.name for model in Escalate().over(MODELS[:2]).by_price(learned)] == ["small", "large"]
    learned.of("large").tariff = Tariff(prompt=0, completion=0)
    assert prices_of(MODELS[:2], learned) == [1, 0]
    assert [model.name for model in Escalate().over(MODELS[:2]).by_price(learned)] == ["large", "small"]

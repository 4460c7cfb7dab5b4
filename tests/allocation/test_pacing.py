from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from dynscale_dspy import Cost, KnowledgeGradient, Uniform
from dynscale_dspy.allocation.pacing import DEFAULT_PER_CALL, Pacing


@dataclass
class Spent:
    """Samples and tokens spent, for a pace to look at."""

    amounts: dict[str, float] = field(default_factory=dict)

    def committed(self, unit: str) -> float:
        return self.amounts.get(unit, 0)

    def booked(self, unit: str) -> int:
        return int(self.amounts.get(unit, 0))


@dataclass
class Takes:
    """What a sample takes: one sample, and so many tokens, at most twice as many."""

    tokens: float = 0
    has_models: bool = False
    beyond_usual: float = 0

    def each(self, unit: str) -> float:
        return 1 if unit == "samples" else self.tokens

    def bounds(self, unit: str) -> tuple[float, float]:
        return 2 * self.tokens, 2 * self.tokens


def test_each_call_that_opens_adds_its_average_and_what_easy_calls_leave_others_may_use():
    spent = Spent()
    pacing = Pacing(KnowledgeGradient(), spent, per_call=4)
    pacing.opened(Takes())
    assert pacing.credit(Takes()) == 4
    assert pacing.credit(Takes(), opening=2) == 12
    spent.amounts["samples"] = 1
    pacing.closed(Takes(), Cost(samples=1), known=False, paid=0, at_least=1)
    pacing.opened(Takes())
    assert pacing.credit(Takes()) == 7


def test_without_a_word_on_calls_a_default_is_used_and_nothing_counts_as_said():
    pacing = Pacing(Uniform(), Spent())
    assert not pacing.paced
    assert pacing.per_call_of(Takes()) == DEFAULT_PER_CALL


def test_announced_calls_share_what_is_left_and_each_finds_its_first_sample():
    spent = Spent()
    pacing = Pacing(Uniform(), spent, expected=10, left={"samples": 20, "requests": float("inf")})
    assert pacing.paced and set(pacing.allowances) == {"samples"}
    pacing.opened(Takes())
    assert pacing.credit(Takes()) == 11  # nine calls are to come, and one sample is kept for each


def test_the_tightest_unit_decides():
    pacing = Pacing(Uniform(), Spent(), per_call=50, expected=2, left={"tokens": 1000})
    pacing.opened(Takes(100))
    assert pacing.per_call_of(Takes(100)) == 5
    assert pacing.credit(Takes(100)) < pacing.credit(Takes(10)) <= 100


def test_the_price_is_opened_once_and_told():
    told = []
    pacing = Pacing(KnowledgeGradient(), Spent(), per_call=4, priced=told.append)
    assert pacing.price is None
    price = pacing.price_for(Takes(), at_least=1)
    assert pacing.price_for(Takes(), at_least=1) is price
    assert told == [price]


@pytest.mark.parametrize(("first", "per_call", "at_least", "expected"), [(1, 4, 1, 1), (3, 2, 1, 2), (2, 8, 5, 5)])
def test_guaranteed_samples_stay_within_the_average_unless_a_minimum_asks_for_more(first, per_call, at_least, expected):
    pacing = Pacing(KnowledgeGradient(first=first), Spent(), per_call=per_call)
    assert pacing.first(Takes(), at_least=at_least) == expected


def test_a_known_set_does_not_move_the_price():
    pacing = Pacing(KnowledgeGradient(), Spent(), per_call=4)
    pacing.opened(Takes())
    pacing.closed(Takes(), Cost(samples=4), known=True, paid=0, at_least=1)
    assert pacing.price is None


def test_money_sets_the_pace_of_several_language_models_where_nobody_said_how_many_samples():
    one, several = Takes(tokens=10), Takes(tokens=10, has_models=True)
    pacing = Pacing(KnowledgeGradient(), Spent(), expected=4, left={"tokens": 800})
    assert pacing.per_call_of(one) == DEFAULT_PER_CALL and pacing.tightest(one) == "samples"
    assert pacing.per_call_of(several) == 20 and pacing.tightest(several) == "tokens"
    said = Pacing(KnowledgeGradient(), Spent(), per_call=3, expected=4, left={"tokens": 800})
    assert said.per_call_of(several) == 3
    unknown = Pacing(KnowledgeGradient(), Spent(), expected=4, left={"tokens": 800})
    assert unknown.per_call_of(Takes(has_models=True)) == DEFAULT_PER_CALL


def test_a_sample_of_a_dear_language_model_counts_as_several():
    prices = []
    for beyond in (0.0, 18.0):
        takes = Takes(tokens=10, has_models=True, beyond_usual=beyond)
        pacing = Pacing(KnowledgeGradient(), Spent(), expected=4, left={"tokens": 800})
        pacing.opened(takes)
        pacing.price_for(takes, at_least=1)
        used = Cost(samples=6, prompt_tokens=240)
        pacing.closed(takes, used, known=False, paid=0, at_least=1)
        assert pacing.price is not None
        prices.append(pacing.price.value)
    assert prices[0] < prices[1]  # the calls so far were hungrier than their number of samples says

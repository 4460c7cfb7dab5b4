"""What a sample asks in place of the program's own language model."""

from __future__ import annotations

import copy
from typing import Any

import dspy
import pytest

from dynscale_dspy._models import ByPredictor
from dynscale_dspy.execution.asks import PredictorsAsk, asked_by, asks_in
from tests.settings import OwnLM

CHEAP, DEAR, AROUND = OwnLM("cheap"), OwnLM("dear"), OwnLM("around")


class Planned(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plan = dspy.Predict("question -> plan")
        self.answer = dspy.Predict("question, plan -> answer")


def choice(**models: Any) -> ByPredictor:
    return ByPredictor({name: (name, lm) for name, lm in models.items()})


def test_one_is_asked_by_all() -> None:
    program = Planned()
    assert asks_in(program, DEAR, AROUND) is DEAR and asked_by(DEAR, program.plan) is DEAR
    assert asks_in(program, None, AROUND) is AROUND and asks_in(program, None, None) is None


def test_a_predictor_that_is_left_out_asks_what_the_sample_around_asks_or_its_own() -> None:
    program = Planned()
    asks = asks_in(program, choice(answer=DEAR), None)
    assert asked_by(asks, program.answer) is DEAR and asked_by(asks, program.plan) is None
    within = asks_in(program, choice(answer=DEAR), AROUND)
    assert asked_by(within, program.answer) is DEAR and asked_by(within, program.plan) is AROUND
    assert asks_in(program, None, asks) is asks
    nested = asks_in(program, choice(plan=CHEAP), asks)
    assert asked_by(nested, program.answer) is DEAR and asked_by(nested, program.plan) is CHEAP


def test_a_lone_predictor_asks_one() -> None:
    for lone, name in ((dspy.Predict("q -> a"), "self"), (dspy.ChainOfThought("q -> a"), "predict")):
        assert asks_in(lone, ByPredictor({name: ("dear", DEAR)}), AROUND) is DEAR
    program = Planned()
    asks = asks_in(program, choice(answer=DEAR), None)
    assert asks_in(program.answer, None, asks) is DEAR and asks_in(program.plan, None, asks) is None


def test_a_copy_made_on_the_way_is_known_by_its_signature() -> None:
    program = Planned()
    asks = asks_in(program, choice(answer=DEAR), None)
    assert asked_by(asks, copy.deepcopy(program).answer) is DEAR
    assert asked_by(asks, copy.deepcopy(program).plan) is None
    assert asked_by(asks, dspy.Predict("other -> answer")) is None and asked_by(asks, program) is None
    program.plan.signature = program.answer.signature  # which tells them apart no more
    asks = asks_in(program, choice(answer=DEAR), None)
    assert asked_by(asks, program.answer) is DEAR and asked_by(asks, copy.deepcopy(program).answer) is None


def test_settings_hold_a_stand_in_where_they_hold_none() -> None:
    asks = asks_in(Planned(), choice(answer=DEAR), None)
    assert isinstance(asks, PredictorsAsk)
    assert asks.beside(CHEAP) is CHEAP
    asks.check(CHEAP)
    stands = asks.beside(None)
    assert type(stands) is type(DEAR) and stands is not DEAR
    asks.check(DEAR)
    with pytest.raises(ValueError, match=r"No LM is loaded.* name this predictor in lms="):
        asks.check(stands)

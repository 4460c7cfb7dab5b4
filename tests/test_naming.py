"""Names of programs and predictors."""

from __future__ import annotations

import dspy

from dynscale_dspy import DynScaling
from dynscale_dspy._naming import is_wrapper, name_of, named_predictors
from tests.hostile import _refuse, refusing


class Pair(dspy.Module):
    """Two predictors, one of them in a list, and one module twice."""

    def __init__(self):
        super().__init__()
        self.first = dspy.Predict("question -> draft")
        self.rest = [dspy.ChainOfThought("draft -> answer"), self.first]


def test_a_program_is_named_after_its_class_and_its_only_predictor():
    assert name_of(dspy.Predict("question -> answer")) == "Predict(question -> answer)"
    assert name_of(DynScaling(dspy.Predict("question -> answer"))) == "Predict(question -> answer)"
    assert name_of(Pair()) == "Pair"
    assert name_of(dspy.Module()) == "Module"


def test_a_scaled_predictor_adds_its_name():
    scaling = DynScaling(dspy.Predict("question -> answer"))
    scaling.scaled_predictor = "draft"
    assert name_of(scaling) == "draft: Predict(question -> answer)"


def test_predictors_are_found_once_with_dspys_names_compiled_ones_too():
    pair = Pair()
    assert [name for name, _ in named_predictors(pair)] == ["first", "rest[0].predict"]
    pair.rest[0]._compiled = True
    assert [name for name, _ in named_predictors(pair)] == ["first", "rest[0].predict"]
    assert [name for name, _ in named_predictors(DynScaling(pair, answer="draft"))] == ["first", "rest[0].predict"]


def test_a_module_with_a_module_inside_is_no_wrapper_for_that():
    best = dspy.BestOfN(dspy.Predict("question -> answer"), N=2, reward_fn=lambda args, pred: 1.0, threshold=1.0)
    assert not is_wrapper(best) and is_wrapper(DynScaling(best))
    assert [name for name, _ in named_predictors(best)] == ["module"]
    assert name_of(DynScaling(best)) == "BestOfN(question -> answer)"


def test_a_program_may_be_left_out():
    pair = Pair()
    found = named_predictors(pair, into=lambda part: not isinstance(part, dspy.ChainOfThought))
    assert [name for name, _ in found] == ["first"]


def test_a_program_may_hold_what_fails_to_be_looked_at():
    held = [
        refusing("__iter__", "__len__", bases=(list,))([1]),
        refusing("items", "__iter__", bases=(dict,))(a=1),
        [refusing("__getattribute__")()],
        [type("Hostile", (), {"__class__": property(_refuse)})()],
        {refusing("__str__", "__repr__", "__format__")(): 1},
    ]
    for value in held:
        pair = Pair()
        pair.held = value
        assert [name for name, _ in named_predictors(pair)] == ["first", "rest[0].predict"]
        assert name_of(DynScaling(pair, answer="draft")) == "Pair"

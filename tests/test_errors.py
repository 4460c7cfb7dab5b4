"""What the library's errors are, say and carry."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest

import dynscale_dspy
from dynscale_dspy.errors import BudgetExhausted, LowConfidence, StorageError, UnboundedCost

EXPLANATION = SimpleNamespace(confidence=0.625, summary="5 of 8 samples say a")


def test_the_package_exports_them_all():
    for error in (BudgetExhausted, LowConfidence, StorageError, UnboundedCost):
        assert getattr(dynscale_dspy, error.__name__) is error


def test_whoever_catches_an_exhausted_budget_catches_what_could_not_be_bounded_too():
    with pytest.raises(BudgetExhausted, match="no price"):
        raise UnboundedCost("no price is known")


@pytest.mark.parametrize("error", [BudgetExhausted, LowConfidence, StorageError, UnboundedCost])
def test_none_is_taken_for_a_fault_of_the_arguments(error):
    assert issubclass(error, RuntimeError) and not issubclass(error, (ValueError, TypeError))


def test_low_confidence_says_what_was_asked_for_and_how_the_vote_went():
    error = LowConfidence("the winner", EXPLANATION, 0.9)
    assert str(error) == (
        "confidence 0.62 is below min_confidence=0.9 (5 of 8 samples say a); the winner is in this error's .prediction"
    )
    assert (error.prediction, error.explanation, error.min_confidence) == ("the winner", EXPLANATION, 0.9)


@pytest.mark.parametrize("send", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_low_confidence_arrives_whole_in_another_process(send):
    error = send(LowConfidence("the winner", EXPLANATION, 0.9))
    assert str(error).startswith("confidence 0.62 is below min_confidence=0.9")
    assert (error.prediction, error.explanation.summary, error.min_confidence) == (
        "the winner",
        "5 of 8 samples say a",
        0.9,
    )

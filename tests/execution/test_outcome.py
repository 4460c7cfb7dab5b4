from __future__ import annotations

import dspy
import pytest

from dynscale_dspy import explain
from dynscale_dspy.execution.outcome import Outcome, add_to_trace, spoken, traced_as
from dynscale_dspy.reporting.explanation import explanation, keep
from dynscale_dspy.sampling.sample import Draw, Sample
from dynscale_dspy.selection.base import Group


def outcome() -> Outcome:
    predictor, prediction = dspy.Predict("question -> tags: list[str]"), dspy.Prediction(tags=["a"])
    trace = ((predictor, {"question": "q"}, prediction),)
    winner = Sample(Draw(0), prediction=prediction, answer=prediction.tags, trace=trace)
    made = explanation(
        [winner], [Group(prediction.tags, "a", 1.0, 0.0, (0,))], winner, agreement=1, confidence=1, cost=winner.cost
    )
    keep(prediction, made)
    return Outcome(winner, {"lm": [{"total_tokens": 3, "details": {"cached": 1}}]}, made)


def test_a_copy_shares_nothing_that_a_user_may_change() -> None:
    first = outcome()
    second = first.copied()
    first.winner.prediction.tags.append("b")
    first.usage["lm"][0]["details"]["cached"] = 7
    prediction = second.winner.prediction
    assert prediction.tags == ["a"] and second.usage["lm"][0]["details"] == {"cached": 1}
    assert explain(prediction) is second.explanation and explain(first.winner.prediction) is first.explanation
    [report] = second.explanation.samples
    assert report.prediction is prediction and report.answer is prediction.tags
    assert second.explanation.votes[0].answer == ["a"]


def test_its_trace_names_the_same_predictors() -> None:
    first = outcome()
    [(predictor, inputs, prediction)] = first.copied().winner.trace
    assert predictor is first.winner.trace[0][0]
    assert inputs == {"question": "q"} and prediction is not first.winner.prediction


def test_failures_are_handed_on() -> None:
    error = ValueError("bad")
    winner = Sample(Draw(0), problem="failed", error=error)
    made = explanation([winner], [], winner, agreement=0, confidence=0.5, cost=winner.cost)
    assert Outcome(winner, {}, made).copied().winner.error is error


@pytest.mark.parametrize(("most", "kept"), [(3, [2, 3, 4]), (0, [0]), (10, [0, 1, 2, 3, 4])])
def test_the_trace_keeps_to_its_bound(most: int, kept: list[int]) -> None:
    with dspy.context(trace=[0], max_trace_size=most):
        add_to_trace([1, 2, 3, 4])
        assert dspy.settings.trace == kept


def test_without_a_trace_nothing_is_kept() -> None:
    with dspy.context(trace=None):
        add_to_trace([1])
        assert dspy.settings.trace is None


def test_a_trace_names_who_dspy_takes_the_program_for() -> None:
    entries = [("program", {}, 1), ("other", {}, 2)]
    assert spoken(entries, "program", None) == tuple(entries)
    assert spoken(entries, entries[0][0], "speaker") == (("speaker", {}, 1), ("other", {}, 2))


def test_so_does_that_of_a_plain_run() -> None:
    program = object()
    for speaker, named in ((None, program), ("speaker", "speaker")):
        with dspy.context(trace=[0], max_trace_size=2):
            with pytest.raises(ValueError, match="later"), traced_as(program, speaker):
                add_to_trace([(program, {}, 1)])
                raise ValueError("later")
            assert dspy.settings.trace == [0, (named, {}, 1)]
        with dspy.context(trace=None), traced_as(program, speaker):
            assert dspy.settings.trace is None

from __future__ import annotations

import threading

import dspy
import pytest

from dynscale_dspy import BudgetExhausted, BudgetPool, DynScaling, Uniform
from dynscale_dspy.execution.known_call import KnownCall, answer_unsure
from dynscale_dspy.sampling.samplers import ALONE
from dynscale_dspy.sampling.steps import Job
from tests.support import ScriptedModel, cycle


def known(qa, question="q"):
    return KnownCall(qa._scaled(), {"question": question})


def sampled(call, count=3):
    """The call with so many samples outside any budget."""
    for _ in range(count):
        call.plan.tell(call.run(Job(call.plan.draw(ALONE), None)))
    return call


def test_all_calls_are_open_at_once_and_each_ends_with_its_winner():
    qa = DynScaling(dspy.Predict("question -> answer"), 3)
    with dspy.context(lm=ScriptedModel(lambda prompt, n: {"answer": "A" if "first" in prompt else "B"}).lm()):
        calls = [known(qa, "first"), known(qa, "second")]
        for call in calls:
            call.begin()
        for call in calls:
            sampled(call)
        assert [call.end().answer for call in calls] == ["A", "B"]
        for call in calls:
            call.abandon()  # does nothing


def test_a_call_without_a_sample_has_no_answer():
    qa = DynScaling(dspy.Predict("question -> answer"), 3)
    with dspy.context(lm=ScriptedModel(cycle("A")).lm()):
        call = known(qa)
        call.begin()
        with pytest.raises(BudgetExhausted, match=r"nothing is left for a first sample"):
            call.end()


def test_an_abandoned_call_closes_what_dspy_has_open():
    seen = []

    class Watcher(dspy.utils.callback.BaseCallback):
        def on_module_start(self, call_id, instance, inputs):
            seen.append("starts")

    qa = DynScaling(dspy.Predict("question -> answer"), 3)
    with dspy.context(lm=ScriptedModel(cycle("A")).lm(), callbacks=[Watcher()]):
        call = known(qa)
        call.abandon()  # not begun: nothing to close
        call.begin()
        call.abandon()
    assert seen == ["starts"]


def test_unsure_calls_ask_side_by_side_and_sure_ones_do_not():
    together = threading.Barrier(2, timeout=10)

    def on_low(prediction, question):
        together.wait()
        return dspy.Prediction(answer=f"asked about {question}")

    pool = BudgetPool(per_call=4, policy=Uniform())
    qa = DynScaling(dspy.Predict("question -> answer"), pool, min_confidence=0.8, on_low=on_low)
    model = ScriptedModel(lambda prompt, n: {"answer": "A" if "sure" in prompt else "AB"[n % 2]})
    with dspy.context(lm=model.lm()):
        calls = [known(qa, question) for question in ("one", "sure", "two")]
        for call in calls:
            call.begin()
            sampled(call, 4)
        assert [call.is_unsure for call in calls] == [True, False, True]
        answer_unsure(calls, num_threads=2)
        assert [call.end().answer for call in calls] == ["asked about one", "A", "asked about two"]


def test_an_error_of_on_low_is_its_calls():
    def on_low(prediction, question):
        raise ZeroDivisionError(question)

    pool = BudgetPool(per_call=2, policy=Uniform())
    qa = DynScaling(dspy.Predict("question -> answer"), pool, min_confidence=0.9, on_low=on_low)
    with dspy.context(lm=ScriptedModel(cycle("A", "B")).lm()):
        call = known(qa)
        call.begin()
        answer_unsure([sampled(call, 2)], num_threads=4)
        with pytest.raises(ZeroDivisionError, match=r"^q$"):
            call.end()

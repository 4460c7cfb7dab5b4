"""The history of a pool."""

from __future__ import annotations

import dspy
import pytest

from dynscale_dspy import BudgetPool, Cost, DynScaling, Integrated, Parallel, Uniform, explain
from dynscale_dspy.reporting.history import MOST_CALLS, MOST_MOMENTS, MOST_PROGRAMS, CallRecord, Moment, Recorder
from tests.support import ScriptedModel, cycle


def test_the_history_is_bounded_and_covers_everything():
    recorder, count = Recorder(), 5000
    for number in range(count):
        cost = Cost(samples=1)
        call = CallRecord(f"program {number % 300}", (0,), 1.0, 0.75, cost)
        recorder.add(call, Moment(float(number), Cost(samples=number + 1), None, number + 1))
    history = recorder.history()
    assert len(history.calls) == MOST_CALLS and history.agreement == 1
    assert 100 < len(history.moments) <= MOST_MOMENTS
    assert (history.moments[0].time, history.moments[-1].time) == (0, count - 1)
    assert [m.time for m in history.moments] == sorted(m.time for m in history.moments)
    assert len(history.programs) <= MOST_PROGRAMS + 1
    assert sum(cost.samples for cost in history.programs.values()) == count
    assert history.models == {}


def test_each_call_is_in_the_history_once_also_failed_ones_and_in_the_scope_around():
    pool = BudgetPool(per_call=4)
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool, sampling=Parallel())
    with dspy.context(lm=ScriptedModel(lambda p, n: ValueError("no") if "bad" in p else {"answer": "A"}).lm()):
        with pool.scope(samples=10) as scope:
            qa(question="one")
        qa.batch([{"question": "two"}, {"question": "bad"}], num_threads=1, disable_progress_bar=True)
        with pytest.raises(Exception, match="no($|\nTraceback)"):  # LiteLLM appends where it was raised
            qa(question="bad")
    history, now = pool.history, pool.statistics()
    assert len(history.calls) == now.closed_calls == 4 and len(scope.history.calls) == 1
    assert sum((cost for cost in history.programs.values()), Cost()) == now.spent
    assert {call.answers.count(None) == len(call.answers) for call in history.calls} == {True, False}


def test_a_call_tells_what_drew_each_of_its_samples():
    pool = BudgetPool(samples=12, policy=Uniform())
    model = ScriptedModel(lambda prompt, number: {"answer": str(number)})
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool, sampling=Integrated(when="close", first="greedy"))
    with dspy.context(lm=model.lm()):
        predictions = qa.batch([{"question": "one"}, {"question": "two"}], num_threads=1, disable_progress_bar=True)
    for call, prediction in zip(pool.history.calls, predictions, strict=True):
        assert call.samplers == tuple(sample.sampler for sample in explain(prediction).samples)
        assert call.samplers[:2] == ("greedy", "independent") and set(call.samplers[2:]) == {"conditioned"}
        assert len(call.samplers) == len(call.answers) == 6


def test_the_curve_of_a_known_set_climbs_while_it_runs():
    pool = BudgetPool(samples=60, policy=Uniform())
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool, sampling=Parallel())
    with dspy.context(lm=ScriptedModel(cycle("A")).lm()):
        qa.batch([{"question": str(i)} for i in range(20)], num_threads=2, disable_progress_bar=True)
    spent = [moment.spent.samples for moment in pool.history.moments]
    assert spent == sorted(spent) and spent[0] < 10 and len(set(spent)) > 10 and spent[-1] == 60


def test_a_point_of_the_curves_is_made_only_if_it_is_kept():
    recorder, made = Recorder(), []

    def moment():
        made.append(Moment(float(len(made)), Cost(), None, 0))
        return made[-1]

    for _ in range(2 * MOST_MOMENTS):
        recorder.note(moment)
    assert len(made) == MOST_MOMENTS + MOST_MOMENTS // 2
    assert len(recorder.history().moments) < MOST_MOMENTS and recorder.history().moments[-1] is made[-1]


def test_parts_are_named_after_the_program_they_are_of():
    pool = BudgetPool(samples=40)
    plain = dspy.Predict("question -> answer")
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool)
    pool.share(plain, 0.25)
    pool.share(qa, 0.5)
    assert {part.name for part in pool.parts()} == {
        "share of Predict(question -> answer)",
        "share of ChainOfThought(question -> reasoning, answer)",
    }
    with pool.scope(samples=8):
        assert pool.report().parts[-1].name == "scope" and pool.report().parts[-1].limits["samples"] == 8


def test_what_language_models_cost_is_kept_within_bounds():
    recorder, count = Recorder(), 3 * MOST_PROGRAMS
    for number in range(count):
        costs = {f"model {number}": Cost(samples=1), "cheap": Cost(samples=2)}
        call = CallRecord("program", (0, 0, 0), 1.0, 0.75, Cost(samples=3), models=costs)
        recorder.add(call, Moment(float(number), Cost(samples=3 * number + 3), None, number + 1))
    models = recorder.history().models
    assert models["cheap"] == Cost(samples=2 * count) and len(models) <= MOST_PROGRAMS + 1
    assert sum(cost.samples for cost in models.values()) == 3 * count

from __future__ import annotations

import asyncio
import copy

import dspy
import pytest

from dynscale_dspy import BudgetPool, Cost, Uniform
from dynscale_dspy.errors import BudgetExhausted
from dynscale_dspy.execution import meter as meters
from dynscale_dspy.execution.meter import SETTING, CallRefused, Meter, current_meter, finish_reasons, is_alone
from dynscale_dspy.sampling.sample import Draw
from tests.support import ScriptedModel, cycle, open_call, sample_run, sample_settings, started

MESSAGES = [{"role": "user", "content": "q"}]


def test_a_programs_own_error_handling_cannot_spend_past_the_cap():
    class Stubborn(dspy.Module):
        def forward(self, question):
            for _ in range(10):
                try:
                    dspy.settings.lm(question)
                except Exception:
                    continue
            return dspy.Prediction(answer="A")

    model, pool = ScriptedModel(lambda prompt, n: RuntimeError("down")), BudgetPool(requests=3, policy=Uniform())
    program = Stubborn()
    with dspy.context(lm=model.lm()):
        with sample_run(Draw(0), started(pool), sample_settings(program, pool)) as run:
            run.prediction = program(question="q")
    assert len(model.requests) == 3 == pool.statistics().spent.requests
    assert isinstance(run.sample.error, BudgetExhausted)


def test_a_request_is_charged_before_it_is_made_and_settled_after():
    pool = BudgetPool(requests=5)
    meter = Meter(started(pool), pool.admission, None)
    lm = ScriptedModel(cycle("A")).lm()
    meter.on_lm_start("1", lm, {"messages": MESSAGES, "kwargs": {"n": 3}})
    assert pool.statistics().reserved.requests == 3
    meter.on_lm_end("1", ["A"], None)
    meter.on_lm_end("1", ["A"], None)  # a request that is not open is none of its business
    cost = meter.lease.settle()
    assert cost.requests == pool.statistics().spent.requests == 1


def test_a_request_that_cannot_be_paid_is_not_made_and_charges_no_pool_around():
    outer_pool, inner_pool = BudgetPool(requests=5), BudgetPool(requests=1)
    outer = Meter(started(outer_pool), outer_pool.admission, None)
    inner = Meter(started(inner_pool), inner_pool.admission, outer)
    lm = ScriptedModel(cycle("A")).lm()
    inner.on_lm_start("1", lm, {"messages": MESSAGES, "kwargs": {}})
    inner.on_lm_end("1", ["A"], None)
    assert outer_pool.statistics().reserved.requests == 1  # both have paid for the first
    with pytest.raises(CallRefused) as refused:
        inner.on_lm_start("2", lm, {"messages": MESSAGES, "kwargs": {}})
    assert isinstance(refused.value.error, BudgetExhausted)
    inner.on_lm_end("2", None, refused.value)
    assert outer.lease.settle().requests == 1


def test_nested_samples_on_one_pool_are_charged_at_the_innermost_alone():
    pool = BudgetPool(requests=5)
    outer = Meter(started(pool), pool.admission, None)
    with pool.scope(requests=4) as scope:
        inner = Meter(started(scope), scope.admission, outer)
        inner.on_lm_start("1", ScriptedModel(cycle("A")).lm(), {"messages": MESSAGES, "kwargs": {}})
        inner.on_lm_end("1", ["A"], None)
        assert inner.lease.settle().requests == 1
    assert outer.lease.settle().requests == 0


def test_what_is_set_aside_for_others_is_free_again_if_the_request_is_not_made():
    pool = BudgetPool(tokens=1000)
    lm = ScriptedModel(cycle("A")).lm(max_tokens=10)
    arm = open_call(pool)
    mine, other = arm.take(), None
    assert mine.start() and arm.pull()
    other = arm.take()
    meter = Meter(mine, pool.admission, None)
    before = pool.statistics().reserved
    with meter.shared(lm, MESSAGES, {}, [other]) as count:
        assert count == 2
        assert pool.statistics().reserved.tokens >= before.tokens + 9
    assert other.start()
    assert other.settle() == Cost(samples=1)


def test_copies_go_on_charging_the_same_sample():
    meter = Meter(None, None, None)
    [copied] = copy.deepcopy([meter])
    assert copied is meter and copy.deepcopy(meter.tracker) is meter.tracker


def test_the_innermost_meter_is_the_current_one():
    assert current_meter() is None
    first, second = Meter(None, None, None), Meter(None, None, None)
    with dspy.context(**{SETTING: first}):
        with dspy.context(**{SETTING: second}), dspy.context(callbacks=[]):
            assert current_meter() is second
        assert current_meter() is first


def test_finish_reasons_of_either_engine():
    class Response:
        def __init__(self, **attributes):
            vars(self).update(attributes)

    choices = [Response(finish_reason="stop"), Response(finish_reason="length")]
    assert finish_reasons({"response": Response(choices=choices)}) == ["stop", "length"]
    assert finish_reasons({"response": Response(finish_reason="stop")}) == ["stop"]
    assert finish_reasons({}) == [None]
    cut = Response(status="incomplete", incomplete_details=Response(reason="max_output_tokens"))
    assert finish_reasons({"response": cut}) == ["length"]


@pytest.fixture
def nothing_under_way(monkeypatch):
    """Samples of other tests, which may go on in threads that nobody waits for, are left out."""
    monkeypatch.setattr(meters, "_under_way", {})


@pytest.mark.usefixtures("nothing_under_way")
def test_who_runs_beside_others_is_not_alone():
    one, inner, other = Meter(None, None, None), Meter(None, None, None), Meter(None, None, None)
    inner.outer = one
    assert is_alone(in_task=False)
    with dspy.context(**{SETTING: inner}):
        one.open()
        inner.open()
        try:
            assert is_alone(in_task=False)  # beside those that it is part of
            other.open()
            assert not is_alone(in_task=False)
        finally:
            for meter in (one, inner, other):
                meter.close()


@pytest.mark.usefixtures("nothing_under_way")
def test_another_task_is_held_up_only_by_what_a_task_waits_for():
    async def beside():
        return is_alone(in_task=True), is_alone(in_task=False)

    async def together():
        return await asyncio.gather(beside(), beside())

    assert asyncio.run(beside()) == (True, True)
    assert asyncio.run(together()) == [(False, True), (False, True)]

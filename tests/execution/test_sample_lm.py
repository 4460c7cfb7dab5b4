"""The stand-in for a sample's language model; tests/execution/test_listener.py has whole calls with it."""

from __future__ import annotations

import asyncio
import copy

import dspy

from dynscale_dspy import BudgetPool, DynScaling
from dynscale_dspy.budget.throttle import Throttle
from dynscale_dspy.execution.sample_lm import SampleLM, original
from tests.support import ScriptedModel, cycle, needs_engines, needs_lm_errors

pytestmark = needs_lm_errors


def standing(model: ScriptedModel, throttle: Throttle | None = None) -> tuple[SampleLM, dspy.LM]:
    lm = model.lm(temperature=1.0)
    return SampleLM(lm, wanted, throttle), lm


def wanted(lm, kwargs):
    return (yield {**kwargs, "temperature": 0.25})


def test_it_is_the_language_model_in_all_but_what_it_adds():
    stand_in, lm = standing(ScriptedModel(cycle("A")))
    assert isinstance(stand_in, dspy.LM) and original(stand_in) is lm is original(lm)
    assert stand_in == lm and hash(stand_in) == hash(lm) and repr(stand_in) == repr(lm)
    stand_in.note = "kept"
    assert lm.note == "kept"  # type: ignore[attr-defined]
    del stand_in.note
    assert not hasattr(lm, "note")
    assert type(copy.copy(stand_in)) is type(stand_in.copy()) is dspy.LM
    assert stand_in.__reduce_ex__(4) == (original, (lm,))


async def test_requests_have_what_the_sample_wants():
    model = ScriptedModel(cycle("A"))
    for throttle in (None, Throttle(1, None)):
        stand_in, _ = standing(model, throttle)
        stand_in("q")
        await stand_in.acall("q")
    assert [request.config.temperature for request in model.requests] == [0.25] * 4


async def test_a_request_that_fails_is_made_again_as_the_sample_wants_then():
    class Fussy:
        def __call__(self, prompt=None, *, messages=None, **kwargs):
            if "seed" in kwargs:
                raise ValueError("no seed")
            return [f"{prompt} {kwargs}"]

        async def acall(self, *args, **kwargs):
            return self(*args, **kwargs)

    def twice(lm, kwargs):
        try:
            return (yield {**kwargs, "seed": 1})
        except ValueError:
            return (yield kwargs)

    for throttle in (None, Throttle(1, None)):
        stand_in = SampleLM(Fussy(), twice, throttle)
        assert stand_in("q", top_p=0.5) == await stand_in.acall("q", top_p=0.5) == ["q {'top_p': 0.5}"]


async def test_an_explicit_request_is_asked_as_it_is():
    if not hasattr(dspy, "lm15"):
        return
    model = ScriptedModel(cycle("A"))
    stand_in, lm = standing(model)
    request = dspy.lm15.Request(model=lm.model, messages=(dspy.lm15.Message.user("q"),))
    stand_in(request)
    await stand_in.acall(request=request)
    assert [made.config.temperature for made in model.requests] == [None, None]


@needs_engines
async def test_direct_calls_of_tasks_wait_for_their_turn():
    under_way, peak = 0, 0

    class Engine:
        async def complete(self, request):
            nonlocal under_way, peak
            under_way += 1
            peak = max(peak, under_way)
            for _ in range(5):
                await asyncio.sleep(0)
            under_way -= 1
            return model.complete(request)

    class Direct(dspy.Module):
        async def aforward(self, question):
            return dspy.Prediction(answer=(await dspy.settings.lm.acall(question))[0])

    model = ScriptedModel(cycle("A"))
    lm = dspy.LM("scripted/model", engine=model, async_engine=Engine(), cache=False)
    qa = DynScaling(Direct(), budget=BudgetPool(per_call=1, max_concurrency=2))
    with dspy.context(lm=lm):
        await asyncio.gather(*(qa.acall(question=f"q{i}") for i in range(8)))
    assert len(model.requests) == 8 and peak <= 2

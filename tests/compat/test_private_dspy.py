"""Canaries: everything of DSPy's that we rely on and that it does not promise, each with the reason.

If one of these fails on a new DSPy, the reason says which of our promises is in danger.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from dspy.streaming.messages import StatusMessageProvider, StatusStreamingCallback, sync_send_to_stream
from dspy.utils.callback import BaseCallback
from dspy.utils.usage_tracker import UsageTracker

from tests.support import ScriptedModel, cycle


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel(cycle("A"))


class Peek:
    """An adapter that is not DSPy's, calls what it is told to and lets the usual one do the work."""

    def __init__(self, look: Callable[[], Any]) -> None:
        self.look = look
        self.seen: list[Any] = []
        self.inner = dspy.ChatAdapter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)

    def __call__(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> Any:
        self.seen.append(self.look())
        return self.inner(lm, lm_kwargs, signature, demos, inputs)

    async def acall(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> Any:
        self.seen.append(self.look())
        return await self.inner.acall(lm, lm_kwargs, signature, demos, inputs)


def both_ways(program: dspy.Module, **inputs: Any) -> list[Any]:
    return [program(**inputs), asyncio.run(program.acall(**inputs))]


# ---- settings


def test_settings_adapter_may_be_any_object_with_call_and_acall(model: ScriptedModel) -> None:
    """A sample's rollout, temperature and chain are put in by an adapter that wraps the user's. Subclasses of
    ``dspy.Adapter`` would fire adapter callbacks twice, so it is a plain object."""
    adapter = Peek(lambda: None)
    with dspy.context(lm=model.lm(), adapter=adapter):
        assert [p.answer for p in both_ways(dspy.ChainOfThought("question -> answer"), question="q")] == ["A", "A"]
    assert len(adapter.seen) == 2


def test_settings_caller_modules_ends_with_the_predictor_that_calls(model: ScriptedModel) -> None:
    """So a sample's adapter knows whose earlier attempts to show, and a predictor scaled in place whether it is its own
    sample. In ``Module.__call__`` and ``acall``."""
    adapter = Peek(lambda: dspy.settings.caller_modules[-2:])
    program = dspy.ChainOfThought("question -> answer")
    with dspy.context(lm=model.lm(), adapter=adapter):
        both_ways(program, question="q")
    assert adapter.seen == [[program, program.predict]] * 2


def test_the_callers_history_gets_each_request_with_usage_cost_and_response(model: ScriptedModel) -> None:
    """A recorder among the callers collects a sample's own requests: their cost in dollars, and whether the last was
    cut off. In ``BaseLM`` (``update_history``)."""

    class Recorder:
        def __init__(self) -> None:
            self.history: list[Any] = []

    recorder = Recorder()
    with dspy.context(lm=model.lm(), caller_modules=[recorder]):
        both_ways(dspy.Predict("question -> answer"), question="q")
    assert len(recorder.history) == 2
    for entry in recorder.history:
        assert {"usage", "cost", "response"} <= set(entry)
        response = entry["response"]
        choices = getattr(response, "choices", None)
        assert (choices[0] if choices else response).finish_reason == "stop"


def test_settings_usage_tracker_collects_entries_by_model(model: ScriptedModel) -> None:
    """Every sample has a tracker of its own, whose entries are handed up to the caller's once."""
    tracker = UsageTracker()
    with dspy.context(lm=model.lm(), usage_tracker=tracker):
        both_ways(dspy.Predict("question -> answer"), question="q")
    assert [entry["total_tokens"] for entry in tracker.usage_data["scripted/model"]] == [10, 10]


def test_settings_trace_gets_predictor_inputs_and_prediction(model: ScriptedModel) -> None:
    """The winner's trace becomes the caller's; chains are built from all of them."""
    predictor = dspy.Predict("question -> answer")
    with dspy.context(lm=model.lm(), trace=[]):
        prediction = predictor(question="q")
        [(who, inputs, what)] = dspy.settings.trace
    assert who is predictor and inputs == {"question": "q"} and what is prediction


def test_settings_carry_what_we_add_into_the_threads_of_dspy(model: ScriptedModel) -> None:
    """The ambient pool and ``unscaled`` are settings under names of our own."""
    assert dspy.settings.get("dynscale_of_tomorrow") is None
    adapter = Peek(lambda: dspy.settings.get("dynscale_of_tomorrow"))
    program = dspy.Predict("question -> answer")
    with dspy.context(lm=model.lm(), adapter=adapter, dynscale_of_tomorrow=7):
        program.batch([dspy.Example(question="q").with_inputs("question")], disable_progress_bar=True)
        asyncio.run(dspy.asyncify(program)(question="q"))
    assert adapter.seen == [7, 7]


def test_settings_send_stream_of_none_keeps_a_call_out_of_the_stream(model: ScriptedModel) -> None:
    """Samples must not write to the user's stream: their chunks would interleave."""
    predictor = dspy.Predict("question -> answer")
    with dspy.context(lm=model.lm(), send_stream=object(), stream_listeners=[]):
        with dspy.context(send_stream=None):
            assert predictor(question="q").answer == "A"


# ---- callbacks


def test_a_callback_may_stop_a_request_with_a_base_exception(model: ScriptedModel) -> None:
    """The meter refuses a request that the pool cannot pay. DSPy catches a callback's ``Exception`` and goes on."""

    class Refusal(BaseException):
        pass

    class Refuse(BaseCallback):
        def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            raise Refusal

    predictor = dspy.Predict("question -> answer")
    with dspy.context(lm=model.lm(), callbacks=[Refuse()]):
        with pytest.raises(Refusal):
            predictor(question="q")
        with pytest.raises(Refusal):
            asyncio.run(predictor.acall(question="q"))
    assert model.requests == []


def test_callbacks_run_in_the_order_of_settings(model: ScriptedModel) -> None:
    """Attributes are set on a tracer's span after it has opened it and before it closes it."""
    order: list[str] = []

    class Named(BaseCallback):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            order.append(f"{self.name} starts")

        def on_module_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
            order.append(f"{self.name} ends")

    with dspy.context(lm=model.lm(), callbacks=[Named("first"), Named("second")]):
        dspy.Predict("question -> answer")(question="q")
    assert order == ["first starts", "second starts", "first ends", "second ends"]


def test_status_messages_are_sent_by_a_callback_that_knows_its_provider() -> None:
    """So we find out whether the user asked for status messages, and send ours the same way."""
    provider = StatusMessageProvider()
    assert StatusStreamingCallback(provider).status_message_provider is provider
    assert list(inspect.signature(sync_send_to_stream).parameters) == ["stream", "message"]


# ---- modules


def test_acall_needs_no_event_loop_until_aforward_waits() -> None:
    """The calls of a batch are coroutines begun with it and resumed at its end, with callbacks and usage around."""

    class Waits(dspy.Module):
        async def aforward(self) -> Any:
            class Pause:
                def __await__(self) -> Any:
                    yield

            await Pause()
            return dspy.Prediction(answer="A")

    coroutine = Waits().acall()
    assert coroutine.send(None) is None
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    assert stopped.value.value.answer == "A"


def test_predictors_keep_their_stage_when_copied() -> None:
    """``BestOfN`` and ``Refine`` run a copy each time, whose predictors are to see what the last copy's said."""
    predictor = dspy.Predict("question -> answer")
    assert copy.deepcopy(predictor).stage == predictor.stage != dspy.Predict("question -> answer").stage


def test_copies_lose_history_and_callbacks() -> None:
    """``DynScaling.__setstate__`` gives them new ones, which it must not take from its program."""
    program = dspy.Predict("question -> answer")
    assert not {"history", "callbacks"} & set(program.__getstate__())
    program.history.append("entry")
    assert copy.deepcopy(program).history == []


def test_compiled_is_a_flag_that_hides_parameters() -> None:
    """A compiled program stays frozen inside an outer one, wrapped or not."""
    outer = dspy.Module()
    outer.inner = dspy.ChainOfThought("question -> answer")
    assert [name for name, _ in outer.named_parameters()] == ["inner.predict"]
    outer.inner._compiled = True
    assert outer.named_parameters() == []


def test_underscored_attributes_of_a_prediction_are_no_fields() -> None:
    """The explanation is kept with the prediction, out of sight of metrics, demos and JSON."""
    prediction = dspy.Prediction(answer="A")
    prediction._dynscale = "kept"
    assert prediction.toDict() == {"answer": "A"} and list(prediction.keys()) == ["answer"]
    assert prediction._dynscale == "kept"


def test_predictions_of_predictors_know_their_signature(model: ScriptedModel) -> None:
    """So the answer of a program without a signature is found."""
    with dspy.context(lm=model.lm()):
        prediction = dspy.ChainOfThought("question -> answer")(question="q")
    assert list(prediction._completions.signature.output_fields) == ["reasoning", "answer"]


def test_predictors_have_no_adapter_of_their_own() -> None:
    """Should DSPy get one, it would outrank the settings' adapter, and a sample's must wrap that too.
    https://github.com/stanfordnlp/dspy/pull/10099"""
    assert not hasattr(dspy.Predict("a -> b"), "adapter")


def test_refine_subclasses_the_adapter_it_finds() -> None:
    """So ours can be made without arguments."""
    assert "(adapter.__class__)" in inspect.getsource(dspy.Refine)


def test_the_cache_tells_rollouts_apart_and_does_not_send_them(model: ScriptedModel) -> None:
    """Samples are distinct, reproducible and free the second time."""
    predictor = dspy.Predict("question -> answer")
    with dspy.context(lm=model.lm(cache=True, temperature=1.0)):
        for rollout in (None, 1, 2, None, 1, 2):
            predictor(question="q", config={} if rollout is None else {"rollout_id": rollout})
    assert len(model.requests) == 3

"""No request of a sample goes unseen, however a program arranges its settings, its threads and its language model."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest
from dspy.utils.callback import BaseCallback
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import BudgetPool, DynScaling, Sequential, Uniform, explain
from dynscale_dspy.execution.listener import LISTENER, listen_to
from dynscale_dspy.execution.meter import CallRefused, Meter
from tests.support import ScriptedModel, cycle, needs_engines, needs_lm_errors, started, until

pytestmark = needs_lm_errors

Ask = Callable[[], Any]


def in_own_thread(ask: Ask) -> Any:
    with ThreadPoolExecutor(2) as executor:
        first, _ = executor.submit(ask), executor.submit(ask)
        return first.result()


def in_a_threads_own_loop(ask: Ask) -> Any:
    async def main() -> Any:
        return ask()

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(lambda: asyncio.run(main())).result()


def under_own_callbacks(ask: Ask) -> Any:
    with dspy.context(callbacks=[BaseCallback()]):
        return ask()


def under_own_adapter(ask: Ask) -> Any:
    with dspy.context(adapter=dspy.ChatAdapter()):
        return ask()


def under_own_tracker(ask: Ask) -> Any:
    with dspy.track_usage():
        return ask()


def under_no_settings_of_the_sample(ask: Ask) -> Any:
    with dspy.context(callbacks=[], trace=None, caller_modules=None, usage_tracker=None):
        return ask()


def with_errors_swallowed(ask: Ask) -> Any:
    try:
        return ask()
    except Exception:
        return None


def through_dspys_parallel(ask: Ask) -> Any:
    class Asking(dspy.Module):
        def forward(self) -> Any:
            return dspy.Prediction(answer=str(ask()))

    return dspy.Parallel(num_threads=2, disable_progress_bar=True)([(Asking(), {}), (Asking(), {})])


ROUNDABOUT = [
    in_own_thread,
    in_a_threads_own_loop,
    under_own_callbacks,
    under_own_adapter,
    under_own_tracker,
    under_no_settings_of_the_sample,
    with_errors_swallowed,
    through_dspys_parallel,
]


class Program(dspy.Module):
    """Asks its language model in one of several ways, with so much around each."""

    def __init__(self, lm: dspy.LM, ways: list[tuple[str, list[Callable[[Ask], Any]]]]) -> None:
        super().__init__()
        self.predict = dspy.Predict("question -> answer")
        self.predict.lm = lm
        self.lm = lm
        self.ways = ways

    def forward(self, question: str) -> dspy.Prediction:
        asks: dict[str, Ask] = {
            "predictor": lambda: self.predict(question=question),
            "new predictor": lambda: dspy.Predict("question -> answer")(question=question, lm=self.lm),
            "attribute": lambda: self.lm(question),
            "copy": lambda: self.lm.copy(temperature=0.5)(question),
            "settings": lambda: (dspy.settings.lm or self.lm)(question),
        }
        for how, around in self.ways:
            ask = asks[how]
            for one in around:
                ask = _around(one, ask)
            ask()
        return dspy.Prediction(answer="A")


def _around(one: Callable[[Ask], Any], ask: Ask) -> Ask:
    return lambda: one(ask)


ways = st.lists(
    st.tuples(
        st.sampled_from(["predictor", "new predictor", "attribute", "copy", "settings"]),
        st.lists(st.sampled_from(ROUNDABOUT), max_size=3),
    ),
    min_size=1,
    max_size=3,
)


@given(ways=ways, cap=st.integers(1, 12), strict=st.booleans())
def test_the_books_hold_every_request_and_no_cap_is_passed(ways, cap, strict):
    model = ScriptedModel(cycle("A"))
    pool = BudgetPool(requests=cap, per_call=2, strict=strict, policy=Uniform())
    lm = model.lm(temperature=1.0)
    with dspy.context(lm=lm):
        qa = DynScaling(Program(lm, ways), budget=pool)
        for i in range(3):
            try:
                qa(question=f"q{i}")
            except Exception:
                break
    made, spent = len(model.requests), pool.statistics()
    until(no_thread_is_left)
    assert made == spent.spent.requests <= cap
    assert spent.reserved.requests == 0


def no_thread_is_left():
    """``dspy.Parallel`` leaves its threads alone when it is cut off: they go on for a moment."""
    return not any(thread.name.startswith("ThreadPoolExecutor-") for thread in threading.enumerate())


def test_tokens_of_a_threads_requests_are_those_reported():
    model, pool = ScriptedModel(cycle("A")), BudgetPool(tokens=100_000, per_call=1)
    lm = model.lm(max_tokens=10)
    with dspy.context(lm=lm):
        DynScaling(Program(lm, [("predictor", [in_own_thread])]), budget=pool)(question="q")
    assert pool.statistics().spent.tokens == 10 * len(model.requests) == 20


def test_threads_that_a_program_keeps_work_for_every_sample():
    model, pool = ScriptedModel(cycle("A")), BudgetPool(requests=100, per_call=2, policy=Uniform())
    lm = model.lm(temperature=1.0)

    class Keeping(Program):
        def forward(self, question):
            return executor.submit(self.predict, question=question).result()

    with dspy.context(lm=lm), ThreadPoolExecutor(2) as executor:
        qa = DynScaling(Keeping(lm, []), budget=pool)
        for i in range(3):
            qa(question=f"q{i}")
    assert pool.statistics().spent.requests == len(model.requests) == 6


def test_requests_of_others_are_not_charged():
    """A metric's in a thread that calls wrapped programs, and a plain program's in the main thread."""
    model, pool = ScriptedModel(cycle("A")), BudgetPool(requests=100, per_call=1)
    lm, inside, leave = model.lm(), threading.Event(), threading.Event()

    class Slow(Program):
        def forward(self, question):
            if question == "slow":
                inside.set()
                leave.wait(30)
            return self.predict(question=question)

    qa, judge = DynScaling(Slow(lm, []), budget=pool), dspy.Predict("answer -> verdict: str")
    judge.lm = lm

    def scored():
        qa(question="fast")
        with_errors_swallowed(lambda: judge(answer="A"))

    with dspy.context(lm=lm), ThreadPoolExecutor(2) as executor:
        slow = executor.submit(lambda: qa(question="slow"))
        assert inside.wait(30)
        with_errors_swallowed(lambda: judge(answer="A"))
        executor.submit(scored).result()
        leave.set()
        slow.result()
    assert pool.statistics().spent.requests == 2 < len(model.requests)


@pytest.mark.parametrize("how", ["attribute", "settings", "predictor"])
def test_no_more_requests_are_under_way_than_allowed(how):
    lock, under_way, peak = threading.Lock(), [0], [0]
    meeting = threading.Barrier(3)

    def reply(prompt, n):
        with lock:
            under_way[0] += 1
            peak[0] = max(peak[0], under_way[0])
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(0.05)  # for a third
        with lock:
            under_way[0] -= 1
        return {"answer": "A"}

    lm = ScriptedModel(reply).lm()
    pool = BudgetPool(per_call=1, max_concurrency=2)
    with dspy.context(lm=lm):
        qa = DynScaling(Program(lm, [(how, [in_own_thread])]), budget=pool)
        dspy.Parallel(num_threads=6, disable_progress_bar=True)([(qa, {"question": f"q{i}"}) for i in range(6)])
    assert peak[0] <= 2


def test_a_language_model_of_the_program_stays_what_it_is():
    lm = ScriptedModel(cycle("A")).lm()
    seen = []

    class Looking(dspy.Module):
        def forward(self, question):
            mine = dspy.settings.lm
            seen.append((isinstance(mine, dspy.LM), mine == lm, mine.model, type(copy.deepcopy(mine.kwargs))))
            mine.note = "kept"
            return dspy.Prediction(answer=mine(question)[0])

    with dspy.context(lm=lm):
        DynScaling(Looking(), budget=1)(question="q")
    assert seen == [(True, True, lm.model, dict)] and vars(lm)["note"] == "kept"
    assert lm.callbacks == [LISTENER]


@needs_engines
def test_a_language_model_that_keeps_something_in_itself_keeps_it():
    class Counting(dspy.LM):
        made = 0

        def forward(self, prompt=None, messages=None, **kwargs):
            self.made += 1
            return super().forward(prompt=prompt, messages=messages, **kwargs)

    model = ScriptedModel(cycle("A"))
    lm = Counting("scripted/model", engine=model, cache=False, temperature=1.0)
    with dspy.context(lm=lm):
        DynScaling(dspy.Predict("question -> answer"), budget=3, sampling=Sequential())(question="q")
    assert lm.made == len(model.requests) >= 2


@pytest.mark.parametrize("route", [{"fallbacks": [{"model": "openai/other"}]}, {"max_retries": 2}])
def test_routes_that_are_not_seen_are_refused_by_a_strict_pool(route):
    for cap, strict, refused in (("requests", True, True), ("requests", False, False), ("samples", True, False)):
        model, pool = ScriptedModel(cycle("A")), BudgetPool(**{cap: 10}, strict=strict)
        lm = model.lm()
        lm.kwargs.update(route)
        meter = Meter(started(pool), pool.admission, None)
        if refused:
            with pytest.raises(CallRefused, match="make requests that are not seen"):
                meter.pay(lm, {"prompt": "q", "kwargs": {}})
        else:
            meter.pay(lm, {"prompt": "q", "kwargs": {}}).give_back()


@pytest.mark.parametrize("name, value", [("num_retries", 3), ("model_fallbacks", ["openai/other"])])
def test_routes_of_the_whole_process_are_refused_by_a_strict_pool(name, value, monkeypatch):
    litellm = pytest.importorskip("litellm")
    monkeypatch.setattr(litellm, name, value)
    pool = BudgetPool(requests=10, strict=True)

    def pay(inputs, lm):
        Meter(started(pool), pool.admission, None).pay(lm, {"prompt": "q", "kwargs": inputs}).give_back()

    own = ScriptedModel(cycle("A")).lm()
    if "engine" in inspect.signature(dspy.LM.__init__).parameters:
        pay({}, own)  # LiteLLM is not asked
    with pytest.raises(CallRefused, match=f"litellm.{name} make requests that are not seen"):
        pay({"n": 2}, own)  # which it is for several choices
    if "engine" in inspect.signature(dspy.LM.__init__).parameters:
        with pytest.raises(CallRefused, match=f"litellm.{name}"):
            pay({}, dspy.LM("openai/fake", engine="litellm", cache=False, max_tokens=9))


@pytest.mark.parametrize("adapter", [None, dspy.JSONAdapter(), dspy.ChatAdapter()])
def test_samples_are_distinct_under_an_adapter_set_in_forward(adapter, tmp_path):
    model = ScriptedModel(cycle({"answer": "A"}))

    class Setting(dspy.Module):
        def __init__(self):
            super().__init__()
            self.predict = dspy.Predict("question -> answer")

        def forward(self, question):
            with dspy.context(**({} if adapter is None else {"adapter": adapter})):
                return self.predict(question=question)

    with dspy.context(lm=model.lm(cache=True, temperature=1.0)):
        qa = DynScaling(Setting(), budget=BudgetPool(per_call=5, policy=Uniform()), sampling=Sequential())
        drawn = len(explain(qa(question=f"{tmp_path}")).samples)
    assert drawn == len(model.requests) == 5


def test_there_is_one_listener_whatever_is_copied_and_none_is_saved():
    lm = ScriptedModel(cycle("A")).lm()
    listen_to(lm), listen_to(lm)
    assert lm.callbacks == [LISTENER] == lm.copy().callbacks
    assert copy.deepcopy(LISTENER) is copy.copy(LISTENER) is pickle.loads(pickle.dumps(LISTENER)) is LISTENER
    assert "callbacks" not in dspy.LM("openai/x", callbacks=[LISTENER]).dump_state()

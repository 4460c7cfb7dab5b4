from __future__ import annotations

import asyncio
import itertools
import time
from types import SimpleNamespace

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import BudgetExhausted, BudgetPool
from dynscale_dspy.execution import adapter as adapters
from dynscale_dspy.execution.adapter import SampleAdapter, derive_rollout
from dynscale_dspy.execution.meter import CallRefused, Meter
from dynscale_dspy.sampling.sample import Draw
from dynscale_dspy.sampling.samplers import GREEDY, PERMUTED
from tests.support import ScriptedModel, cycle, needs_lm_errors, open_call, sample_settings

# ---- rollout ids


def test_the_first_sample_of_a_plain_program_has_no_rollout_of_its_own():
    assert derive_rollout(None, 0) is None
    assert derive_rollout(None, 3) == 3


def test_nested_rollouts_are_all_distinct():
    def ids(depth):
        for path in itertools.product(range(6), repeat=depth):
            rollout = None
            for index in path:
                rollout = derive_rollout(rollout, index)
            yield rollout

    for depth in (1, 2, 3):
        found = list(ids(depth))
        assert len(set(found)) == len(found)


@given(st.integers(0, 2**60), st.integers(0, 1000))
def test_rollouts_are_reproducible_and_exact_in_json(base, index):
    rollout = derive_rollout(base, index)
    assert rollout == derive_rollout(base, index)
    assert 0 <= rollout < 2**53


# ---- the adapter


class Recording:
    """An adapter that returns what it is called with."""

    name = "recording"

    def __call__(self, *call):
        return call

    async def acall(self, *call):
        return call


def test_nothing_of_the_callers_is_changed():
    predictor = dspy.Predict("question -> answer")
    adapter = SampleAdapter(Recording(), Draw(2, chain={id(predictor): "text"}), sample_settings(predictor))
    kwargs, demos, inputs = {"n": 1}, [dspy.Example(question="a", answer="b")], {"question": "q"}
    with dspy.context(caller_modules=[predictor]):
        _, used, signature, shown, given_ = adapter(None, kwargs, predictor.signature, demos, inputs)
    assert (kwargs, inputs) == ({"n": 1}, {"question": "q"})
    assert demos == [dspy.Example(question="a", answer="b")]
    assert "earlier_attempts" not in predictor.signature.fields
    assert used == {"n": 1, "rollout_id": 2, "temperature": 1.0}
    assert list(signature.input_fields) == ["question", "earlier_attempts"]
    assert given_ == {"question": "q", "earlier_attempts": "text"}
    assert shown == [{"question": "a", "answer": "b", "earlier_attempts": "N/A"}]


async def test_demos_are_permuted_in_the_prompt_and_nowhere_else():
    predictor = dspy.Predict("question -> answer")
    predictor.demos = [dspy.Example(question=str(n), answer="b") for n in range(6)]
    before = list(predictor.demos)
    adapter = SampleAdapter(Recording(), Draw(1, sampler=PERMUTED), sample_settings(predictor))
    call = (None, {}, predictor.signature, predictor.demos, {"question": "q"})
    shown = adapter(*call)[3]
    assert shown == (await adapter.acall(*call))[3] == PERMUTED.arranged(before, 1) != before
    assert predictor.demos == before


async def test_sync_and_async_overlay_alike():
    predictor = dspy.Predict("question -> answer")
    adapter = SampleAdapter(Recording(), Draw(1), sample_settings(predictor))
    call = (None, {}, predictor.signature, [], {"question": "q"})
    assert adapter(*call) == await adapter.acall(*call)


@pytest.mark.parametrize(
    ("asked", "temperature"),
    [
        ({}, 0.0),
        ({"temperature": 0.9}, 0.0),
        ({"rollout_id": 3, "temperature": 0.9}, 0.9),
        ({"rollout_id": 3}, 1.0),
        ({"n": 3, "temperature": 0.7}, 0.7),
        ({"n": 1}, 0.0),
    ],
)
def test_a_greedy_sample_makes_no_draws_alike_that_are_to_differ(asked, temperature):
    predictor = dspy.Predict("question -> answer")
    adapter = SampleAdapter(Recording(), Draw(0, sampler=GREEDY), sample_settings(predictor))
    used = adapter(None, asked, predictor.signature, [], {"question": "q"})[1]
    assert used["temperature"] == temperature


def test_a_predictor_without_earlier_attempts_is_left_alone():
    predictor, other = dspy.Predict("question -> answer"), dspy.Predict("question -> answer")
    adapter = SampleAdapter(Recording(), Draw(0, chain={id(other): "text"}), sample_settings(predictor))
    with dspy.context(caller_modules=[predictor]):
        _, _, signature, _, inputs = adapter(None, {}, predictor.signature, [], {"question": "q"})
    assert signature is predictor.signature and inputs == {"question": "q"}


def test_other_attributes_are_the_users_adapters():
    assert SampleAdapter(Recording(), Draw(0), sample_settings(dspy.Predict("a -> b"))).name == "recording"


# ---- asking again


class Failing:
    """An adapter that raises these errors, one a call, and then returns an answer; it keeps what it is given."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = []

    def __call__(self, lm, kwargs, signature, demos, inputs):
        self.calls.append((lm, kwargs, inputs))
        if self.errors:
            raise self.errors.pop(0)
        return [{"answer": "A"}]

    async def acall(self, *call):
        return self(*call)


async def both_ways(adapter, *call):
    """What is returned or raised, from a thread and from a task."""
    outcomes = []
    for ask in (adapter, adapter.acall):
        try:
            outcome = ask(*call)
            outcomes.append(outcome if isinstance(outcome, list) else await outcome)
        except BaseException as error:
            outcomes.append(error)
    return outcomes


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that were asked for, none of which is made. Other threads of the process go on sleeping."""
    made = []

    async def asleep(seconds):
        made.append(seconds)

    monkeypatch.setattr(adapters, "time", SimpleNamespace(**{**vars(time), "sleep": made.append}))
    monkeypatch.setattr(adapters, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": asleep}))
    return made


@needs_lm_errors
async def test_a_request_is_made_again_as_often_as_dspy_would_after_its_pauses(pauses):
    busy = [dspy.utils.exceptions.LMServerError("busy", status=503) for _ in range(4)]
    busy[1].retry_after = 7.5
    program = dspy.Predict("question -> answer")
    for ask in range(2):
        inner = Failing(*busy[:3])
        call = (ScriptedModel(cycle("A")).lm(num_retries=3), {}, program.signature, [], {"question": "q"})
        adapter = SampleAdapter(inner, Draw(1), sample_settings(program))
        assert (await adapter.acall(*call) if ask else adapter(*call)) == [{"answer": "A"}]
        assert len(inner.calls) == 4
        assert all(lm.num_retries == 0 for lm, *_ in inner.calls)  # the retries are ours
        assert sum(pauses) == 1.0 + 7.5 + 4.0  # in naps, so that they can be cut short
        assert max(pauses) <= adapters.LOOK_AGAIN
        pauses.clear()


@needs_lm_errors
async def test_the_last_error_is_raised_unchanged(pauses):
    program = dspy.Predict("question -> answer")
    call = (ScriptedModel(cycle("A")).lm(num_retries=1), {}, program.signature, [], {"question": "q"})
    busy = [dspy.utils.exceptions.LMServerError("busy", status=503) for _ in range(4)]
    adapter = SampleAdapter(Failing(*busy), Draw(1), sample_settings(program))
    assert await both_ways(adapter, *call) == [busy[1], busy[3]]


@needs_lm_errors
async def test_what_ends_a_pause_that_is_too_long_tells_what_it_was_for(pauses):
    class Late(Meter):
        def patience(self):
            return 2.0

        def cut_off(self):
            return CallRefused(BudgetExhausted("late"))

    program = dspy.Predict("question -> answer")
    call = (ScriptedModel(cycle("A")).lm(num_retries=3), {}, program.signature, [], {"question": "q"})
    busy = dspy.utils.exceptions.LMRateLimitError("busy", status=429)
    busy.retry_after = 3600.0
    for ask in range(2):
        adapter = SampleAdapter(Failing(busy), Draw(1), sample_settings(program), meter=Late(None, None, None))
        with pytest.raises(CallRefused) as raised:
            await adapter.acall(*call) if ask else adapter(*call)
        assert raised.value.error.__cause__ is busy and pauses == []


@pytest.mark.parametrize("error", [ValueError("bad"), StopIteration("odd"), KeyboardInterrupt()])
async def test_other_errors_and_interruptions_pass_through_at_once(error, pauses):
    program = dspy.Predict("question -> answer")
    inner = Failing(error)
    call = (ScriptedModel(cycle("A")).lm(num_retries=5), {}, program.signature, [], {"question": "q"})
    with pytest.raises(type(error)) as raised:
        SampleAdapter(inner, Draw(1), sample_settings(program))(*call)
    assert raised.value is error
    assert len(inner.calls) == 1 and pauses == []


class ContextWindowExceededError(Exception):
    """LiteLLM's name for a prompt that is too long."""


async def test_a_chain_that_is_too_long_is_shortened_until_it_fits():
    predictor = dspy.Predict("question -> answer")
    text = "\n\n".join(f"Attempt {number}:\nanswer: A" for number in range(1, 5))
    call = (ScriptedModel(cycle("A")).lm(), {}, predictor.signature, [], {"question": "q"})
    for ask in range(2):
        inner = Failing(*(ContextWindowExceededError() for _ in range(3)))
        adapter = SampleAdapter(inner, Draw(2, chain={id(predictor): text}), sample_settings(predictor))
        with dspy.context(caller_modules=[predictor]):
            assert (await adapter.acall(*call) if ask else adapter(*call)) == [{"answer": "A"}]
        shown = [inputs.get("earlier_attempts", "").count("Attempt") for *_, inputs in inner.calls]
        assert shown == [4, 2, 1, 0]


def test_a_throttled_request_is_made_from_settings_of_its_own():
    program = dspy.Predict("question -> answer")
    pool = BudgetPool(5, max_concurrency=1)
    lease = open_call(pool).take()
    given_ = {"n": 1}

    class Writing(Failing):
        def __call__(self, lm, kwargs, signature, demos, inputs):
            kwargs["written"] = True
            return super().__call__(lm, kwargs, signature, demos, inputs)

    inner = Writing(ContextWindowExceededError())
    draw, meter = Draw(2, chain={id(program): "Attempt 1:\nA"}), Meter(lease, pool.admission, None)
    adapter = SampleAdapter(inner, draw, sample_settings(program, pool), meter)
    with dspy.context(caller_modules=[program]):
        adapter(ScriptedModel(cycle("A")).lm(), given_, program.signature, [], {"question": "q"})
    assert given_ == {"n": 1}
    assert len(inner.calls) == 2

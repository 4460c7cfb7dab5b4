from __future__ import annotations

import itertools

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import BudgetPool, Uniform
from dynscale_dspy.errors import BudgetExhausted
from dynscale_dspy.execution.answer_reader import AnswerReader
from dynscale_dspy.execution.run import SampleAdapter, SampleRun, SampleSettings, current_meter, derive_rollout
from dynscale_dspy.sampling.sample import Draw
from tests.support import ScriptedModel, cycle


def settings(module, temperature=None, vary=True):
    return SampleSettings(module, AnswerReader(module), temperature, vary)


def ticket(pool):
    taken = pool.open(1).take()
    assert taken.start()
    return taken


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
    adapter = SampleAdapter(Recording(), Draw(2, chain={id(predictor): "text"}), settings(predictor))
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


async def test_sync_and_async_overlay_alike():
    predictor = dspy.Predict("question -> answer")
    adapter = SampleAdapter(Recording(), Draw(1), settings(predictor))
    call = (None, {}, predictor.signature, [], {"question": "q"})
    assert adapter(*call) == await adapter.acall(*call)


def test_a_predictor_without_earlier_attempts_is_left_alone():
    predictor, other = dspy.Predict("question -> answer"), dspy.Predict("question -> answer")
    adapter = SampleAdapter(Recording(), Draw(0, chain={id(other): "text"}), settings(predictor))
    with dspy.context(caller_modules=[predictor]):
        _, _, signature, _, inputs = adapter(None, {}, predictor.signature, [], {"question": "q"})
    assert signature is predictor.signature and inputs == {"question": "q"}


def test_other_attributes_are_the_users_adapters():
    assert SampleAdapter(Recording(), Draw(0), settings(dspy.Predict("a -> b"))).name == "recording"


# ---- one run


def test_a_run_leaves_the_settings_as_they_were():
    program = dspy.Predict("question -> answer")
    with dspy.context(lm=ScriptedModel(cycle("A")).lm(), trace=[]):
        before = dspy.settings.copy()
        with SampleRun(Draw(0), ticket(BudgetPool(5)), settings(program)) as run:
            assert current_meter() is not None
            run.prediction = program(question="q")
        assert dspy.settings.copy() == before
        assert current_meter() is None
    assert (run.sample.answer, run.sample.problem) == ("A", "")
    assert run.sample.cost.requests == 1 and len(run.sample.trace) == 1


def test_a_failing_run_is_a_sample_that_was_paid():
    pool = BudgetPool(5)
    program = dspy.Predict("question -> answer")
    with dspy.context(lm=ScriptedModel(cycle(RuntimeError("down"))).lm()):
        with SampleRun(Draw(0), ticket(pool), settings(program)) as run:
            run.prediction = program(question="q")
    assert run.sample.problem == "failed" and "down" in str(run.sample.error)
    assert pool.statistics().spent.samples == 1


def test_an_interruption_passes_through_and_is_settled():
    pool = BudgetPool(5)
    with pytest.raises(KeyboardInterrupt):
        with SampleRun(Draw(0), ticket(pool), settings(dspy.Predict("a -> b"))):
            raise KeyboardInterrupt
    assert pool.statistics().reserved.samples == 0


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
        with SampleRun(Draw(0), ticket(pool), settings(program)) as run:
            run.prediction = program(question="q")
    assert len(model.requests) == 3 == pool.statistics().spent.requests
    assert isinstance(run.sample.error, BudgetExhausted)

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest import mock

import dspy
import litellm
import pytest

from dynscale_dspy import BudgetPool, DynScaling, Parallel, explain, wrap
from dynscale_dspy.execution.meter import current_meter
from dynscale_dspy.execution.run import is_sample_of
from dynscale_dspy.sampling.sample import Draw
from dynscale_dspy.selection.answers import canonical
from dynscale_dspy.selection.base import Vote
from tests.support import ScriptedModel, cycle, needs_lm_errors, sample_run, sample_settings, started


def test_a_run_leaves_the_settings_as_they_were():
    program = dspy.Predict("question -> answer")
    with dspy.context(lm=ScriptedModel(cycle("A")).lm(), trace=[]):
        before = dspy.settings.copy()
        with sample_run(Draw(0), started(BudgetPool(5)), sample_settings(program)) as run:
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
        with sample_run(Draw(0), started(pool), sample_settings(program, pool)) as run:
            run.prediction = program(question="q")
    assert run.sample.problem == "failed" and "down" in str(run.sample.error)
    assert pool.statistics().spent.samples == 1


def test_an_interruption_passes_through_and_is_settled():
    pool = BudgetPool(5)
    with pytest.raises(KeyboardInterrupt):
        with sample_run(Draw(0), started(pool), sample_settings(dspy.Predict("a -> b"), pool)):
            raise KeyboardInterrupt
    assert pool.statistics().reserved.samples == 0


def test_the_vote_is_read_where_the_sample_ran():
    program = dspy.Predict("question -> answer")
    with dspy.context(lm=ScriptedModel(cycle("42.0")).lm()):
        with sample_run(Draw(0), started(BudgetPool(5)), sample_settings(program)) as run:
            run.prediction = program(question="q")
    assert run.sample.vote == Vote("42.0", canonical(42)) and run.sample.key == canonical(42)


def test_a_blank_or_truncated_answer_casts_no_vote():
    program = dspy.Predict("question -> answer")
    for answer, finish_reason, problem in (
        ("", "stop", "no answer"),
        ("A", "length", "truncated"),
        ("A", "content_filter", "truncated"),
    ):
        with dspy.context(lm=ScriptedModel(cycle(answer), finish_reason=finish_reason).lm()):
            with sample_run(Draw(0), started(BudgetPool(5)), sample_settings(program)) as run:
                run.prediction = program(question="q")
        assert (run.sample.vote, run.sample.problem) == (None, problem)


@needs_lm_errors
@pytest.mark.parametrize("choices", [mock.MagicMock(), [], None, ()])
def test_a_reply_without_finish_reasons_votes_all_the_same(choices):
    class Mocked(dspy.BaseLM):
        def forward(self, prompt=None, messages=None, **kwargs):
            return mock.MagicMock(choices=choices)

    class Fixed(dspy.ChatAdapter):
        def __call__(self, lm, lm_kwargs, signature, demos, inputs):
            with contextlib.suppress(TypeError):  # of DSPy's own, where there are no choices to read
                lm(messages=[{"role": "user", "content": "?"}], **lm_kwargs)
            return [{"answer": "4"}]

    program = DynScaling(dspy.Predict("question -> answer"), BudgetPool(samples=3, min_per_call=3), sampling=Parallel())
    with dspy.context(lm=Mocked("mocked", temperature=1.0), adapter=Fixed()):
        assert explain(program(question="?")).votes[0].total == 3


class Narrow(dspy.BaseLM):
    """One of the user's own whose arguments are its own, and which counts its requests in itself."""

    def __init__(self, temperature):
        super().__init__("narrow", temperature=temperature)
        self.asked = 0

    def forward(self, prompt=None, messages=None):
        self.asked += 1
        message = SimpleNamespace(content="[[ ## answer ## ]]\n4\n\n[[ ## completed ## ]]", tool_calls=None)
        return SimpleNamespace(
            choices=[SimpleNamespace(message=message, finish_reason="stop")], usage={}, model="narrow"
        )


@pytest.mark.parametrize("temperature", [None, 0.0])  # what DSPy gives it: before 3.3, 0
def test_a_language_model_of_ones_own_need_not_know_of_temperatures_and_rollouts(temperature):
    lm, pool = Narrow(temperature), BudgetPool(samples=3, min_per_call=3)
    program = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel())
    with dspy.context(lm=lm):
        assert explain(program(question="?")).votes[0].total == 3
    assert lm.asked == pool.statistics().spent.requests == 3


def test_a_language_model_of_ones_own_is_heard_in_threads_that_the_program_starts():
    lm, pool = Narrow(temperature=None), BudgetPool(samples=3, min_per_call=3)

    class Threaded(dspy.Module):
        def __init__(self):
            super().__init__()
            self.answer = dspy.Predict("question -> answer")
            self.answer.lm = lm

        def forward(self, question):
            with ThreadPoolExecutor(1) as executor:  # where DSPy's settings do not reach
                return executor.submit(lambda: self.answer(question=question)).result()

    assert DynScaling(Threaded(), pool, sampling=Parallel())(question="?").answer == "4"
    assert lm.asked == pool.statistics().spent.requests == 3


def test_a_sample_says_whether_another_would_fail_alike():
    program = dspy.Predict("question -> answer")
    errors, of = dspy.utils.exceptions, {"llm_provider": "openai", "model": "m"}
    cases = [(litellm.AuthenticationError("wrong key", **of), True), (litellm.Timeout("busy", **of), False)]
    if hasattr(errors, "LMAuthError"):  # since DSPy 3.3
        cases += [(errors.LMAuthError("wrong key"), True), (errors.LMServerError("busy"), False)]
    for error, permanent in cases:
        with sample_run(Draw(0), started(BudgetPool(5)), sample_settings(program)) as run:
            raise error
        assert run.sample.error is error and run.sample.permanent is permanent


def test_a_module_called_by_a_sample_knows_whose_it_is():
    owner, seen = object(), []

    class Program(dspy.Module):
        def forward(self):
            seen.append((is_sample_of(owner), is_sample_of(self)))

    program = Program()
    with sample_run(Draw(0), None, sample_settings(program, owner=owner)):
        program()
    program()
    assert seen == [(True, False), (False, False)]


def test_histories_have_each_request_once():
    histories = []
    for make in (lambda program: program, lambda program: DynScaling(program, budget=1), lambda p: wrap(p, budget=1)):
        with dspy.context(lm=ScriptedModel(cycle({"reasoning": "r", "answer": "A"})).lm()):
            predict, thought = make(dspy.Predict("question -> answer")), make(dspy.ChainOfThought("question -> answer"))
            predict(question="q"), thought(question="q")
        histories.append((len(predict.history), len(thought.history)))
    assert histories == [(1, 1)] * 3

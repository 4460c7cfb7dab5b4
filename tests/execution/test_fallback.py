"""What happens to unsure answers."""

from __future__ import annotations

import asyncio
import pickle
import re
import threading
from dataclasses import replace

import dspy
import pytest

from dynscale_dspy import BudgetPool, Cost, DynScaling, LowConfidence, Parallel, Uniform, explain
from dynscale_dspy.execution.fallback import Fallback, check_sync
from dynscale_dspy.reporting.explanation import Explanation
from tests.support import ScriptedModel


def reply(prompt, number):
    """Sure about easy questions, of two minds about hard ones."""
    return {"reasoning": "r", "answer": "A" if "easy" in prompt or number % 4 < 2 else "B"}


def wrapped(**options):
    pool = BudgetPool(per_call=8, policy=Uniform())
    return DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool, sampling=Parallel(), **options)


def ways(qa, question):
    """The same call made in each of the three ways."""
    with dspy.context(lm=ScriptedModel(reply).lm()):
        yield qa(question=question)
        yield asyncio.run(qa.acall(question=question))
        yield qa.batch([{"question": question}], num_threads=1, disable_progress_bar=True)[0]


@pytest.mark.parametrize("on_low", ["abstain", "raise", lambda prediction, question: None])
def test_a_sure_answer_is_returned_whatever_on_low_is(on_low):
    for prediction in ways(wrapped(min_confidence=0.9, on_low=on_low), "easy"):
        assert prediction.answer == "A" and not explain(prediction).is_low


def test_abstaining_gives_every_field_none_and_keeps_the_explanation():
    for prediction in ways(wrapped(min_confidence=0.9), "hard"):
        assert dict(prediction.items()) == {"reasoning": None, "answer": None}
        assert explain(prediction).is_low and len(explain(prediction).samples) == 8


def test_raising_hands_over_what_was_paid_for():
    qa = wrapped(min_confidence=0.9, on_low="raise")
    with dspy.context(lm=ScriptedModel(reply).lm()):
        with pytest.raises(LowConfidence, match="below min_confidence=0.9") as sync:
            qa(question="hard")
        with pytest.raises(LowConfidence):
            asyncio.run(qa.acall(question="hard"))
        results, failed, errors = qa.batch(
            [{"question": "hard"}, {"question": "easy"}],
            num_threads=1,
            return_failed_examples=True,
            disable_progress_bar=True,
        )
    assert sync.value.prediction.answer in "AB" and len(sync.value.explanation.samples) == 8
    assert results[0] is None and results[1].answer == "A"
    assert failed == [{"question": "hard"}] and isinstance(errors[0], LowConfidence)


def test_a_function_gets_the_winner_and_the_inputs():
    def ask(prediction, question):
        return dspy.Prediction(answer=f"{question}, not {prediction.answer}")

    for prediction in ways(wrapped(min_confidence=0.9, on_low=ask), "hard"):
        assert re.fullmatch("hard, not [AB]", prediction.answer) and explain(prediction).is_low


def test_another_module_answers_with_the_same_inputs_and_is_no_parameter_of_the_program():
    model = ScriptedModel(lambda prompt, number: {"answer": "from the strong one"})
    strong = dspy.Predict("question -> answer")
    strong.set_lm(model.lm())
    qa = wrapped(min_confidence=0.9, on_low=strong)
    for prediction in ways(qa, "hard"):
        assert prediction.answer == "from the strong one"
    assert len(model.requests) == 3 and len(qa.named_parameters()) == 1


def test_an_async_function_is_awaited_and_refused_before_spending_where_it_cannot_be():
    async def ask(prediction, question):
        await asyncio.sleep(0)
        return dspy.Prediction(answer="asked")

    qa, model = wrapped(min_confidence=0.9, on_low=ask), ScriptedModel(reply)
    with dspy.context(lm=model.lm()):
        for call in (lambda: qa(question="hard"), lambda: qa.batch([{"question": "hard"}])):
            with pytest.raises(TypeError, match="on_low is an async function"):
                call()
        assert not model.requests
        assert asyncio.run(qa.acall(question="hard")).answer == "asked"


def test_in_a_batch_unsure_calls_are_asked_about_side_by_side():
    both = threading.Barrier(2, timeout=20)  # each call waits until the other is being asked about too

    def ask(prediction, question):
        both.wait()
        return dspy.Prediction(answer=question)

    qa = wrapped(min_confidence=0.9, on_low=ask)
    with dspy.context(lm=ScriptedModel(lambda p, n: {"reasoning": "r", "answer": str(n)}).lm()):
        predictions = qa.batch([{"question": "x"}, {"question": "y"}], num_threads=2, disable_progress_bar=True)
    assert [prediction.answer for prediction in predictions] == ["x", "y"]


def test_an_error_of_on_low_fails_that_call_alone():
    def ask(prediction, question):
        raise ConnectionError(question)

    qa = wrapped(min_confidence=0.9, on_low=ask)
    with dspy.context(lm=ScriptedModel(reply).lm()):
        results, _, errors = qa.batch(
            [{"question": "hard"}, {"question": "easy"}],
            num_threads=1,
            return_failed_examples=True,
            disable_progress_bar=True,
        )
    assert results[0] is None and results[1].answer == "A" and isinstance(errors[0], ConnectionError)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"min_confidence": 1.5}, ValueError, "min_confidence must be between 0 and 1, got 1.5"),
        ({"min_confidence": "0.9"}, TypeError, "min_confidence must be a number"),
        ({"min_confidence": 0.9, "on_low": "panic"}, ValueError, "on_low must be 'abstain', 'raise'"),
        ({"min_confidence": 0.9, "on_low": 3}, TypeError, "on_low must be"),
        ({"on_low": print}, ValueError, "on_low needs min_confidence="),
    ],
)
def test_bad_arguments_are_refused(options, kind, words):
    with pytest.raises(kind, match=re.escape(words)):
        wrapped(**options)


def test_the_threshold_is_saved_with_the_program():
    state = wrapped(min_confidence=0.8, on_low="raise").dump_state()
    other = wrapped()
    other.load_state(state)
    assert (other.min_confidence, other.on_low) == (0.8, "raise")


def test_the_error_can_be_pickled():
    with dspy.context(lm=ScriptedModel(reply).lm()):
        prediction = wrapped(min_confidence=0.0)(question="hard")
    error = pickle.loads(pickle.dumps(LowConfidence(None, replace(explain(prediction), samples=()), 0.9)))
    assert error.min_confidence == 0.9 and "below min_confidence=0.9" in str(error)


def unsure(on_low, prediction=None):
    explained = Explanation((), 0.5, 0.6, (), 1, Cost())
    return Fallback(on_low, dspy.Prediction(answer="A") if prediction is None else prediction, explained, 0.9)


def both(fallback, *args, **kwargs):
    return fallback.answer(args, kwargs), asyncio.run(fallback.aanswer(args, kwargs))


def test_positional_inputs_follow_the_winner():
    assert both(unsure(lambda prediction, *args: (prediction.answer, args)), 1, 2) == (("A", (1, 2)),) * 2


def test_abstaining_from_what_is_no_prediction_gives_none():
    assert both(unsure("abstain", prediction="A")) == (None, None)


def test_an_object_with_an_async_call_is_awaited():
    class Ask:
        async def __call__(self, prediction, question):
            return dspy.Prediction(answer=question)

    result = asyncio.run(unsure(Ask()).aanswer((), {"question": "q"}))
    assert result.answer == "q" and explain(result).confidence == 0.6
    with pytest.raises(TypeError, match="on_low is an async function"):
        check_sync(Ask())


def test_a_function_that_blocks_does_not_block_the_loop():
    loop_thread = threading.get_ident()
    assert asyncio.run(unsure(lambda prediction: threading.get_ident()).aanswer((), {})) != loop_thread

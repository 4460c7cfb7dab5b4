"""The whole thing on a real language model: the lab's, over HTTP, through both of DSPy's engines."""

from __future__ import annotations

import asyncio

import dspy
import pytest

from dynscale_dspy import UCB, BudgetPool, DynScaling, Parallel, Sequential, Uniform, explain, lab

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module", params=["litellm", "auto"])
def lm(request):
    with lab.serve(engine=request.param, cache=False) as served:
        yield served


def right(predictions, questions):
    return sum(p is not None and p.answer.strip() == q.answer for p, q in zip(predictions, questions, strict=True))


@pytest.mark.parametrize("sampling", [Parallel(), Sequential(), None], ids=["parallel", "sequential", "default"])
def test_a_known_set(lm, sampling):
    # The server's draws are its own: of so many questions the worst run in ten thousand has more right than is asked.
    questions = lab.questions(24, seed=3)
    pool = BudgetPool(samples=96)
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool, sampling=sampling)
    with dspy.context(lm=lm):
        predictions = qa.batch(questions, num_threads=8, disable_progress_bar=True)
    now = pool.statistics()
    assert now.spent.samples == 96
    assert right(predictions, questions) >= 7
    # Whether the votes of those that saw earlier ones count is learned from them.
    seeing = sum(bool(sample.shown) for p in predictions for sample in explain(p).samples)
    assert (seeing > 0) == (sampling != Parallel())


def test_calls_as_they_come(lm):
    questions = lab.questions(12, seed=4)
    pool = BudgetPool(samples=36, policy=UCB()).expect(12)
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool)
    evaluate = dspy.Evaluate(
        devset=questions, metric=lambda q, p, trace=None: p.answer.strip() == q.answer, num_threads=4
    )
    with dspy.context(lm=lm):
        evaluate(qa)
    now = pool.statistics()
    assert now.closed_calls == 12 and now.open_calls == 0
    assert 12 <= now.spent.samples <= 36


def test_tasks(lm):
    questions = lab.questions(8, seed=5)
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=3, policy=Uniform())

    async def ask_all():
        with dspy.context(lm=lm):
            return await asyncio.gather(*(qa.acall(**question.inputs()) for question in questions))

    predictions = asyncio.run(ask_all())
    assert all(len(explain(prediction).samples) == 3 for prediction in predictions)
    assert qa.pool.statistics().spent.samples == 24

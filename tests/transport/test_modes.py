"""Every way of calling a wrapped program, over both of DSPy's engines: all answer, and the books are exact."""

import asyncio
from collections.abc import Callable
from typing import Any

import dspy
import pytest

from dynscale_dspy import BudgetPool, Cost, DynScaling, Uniform, explain
from dynscale_dspy.testing import FakeQuestion, questions
from tests.support import one_each

BANK = questions(10)
ENGINES = ["auto", "litellm"]
Runner = Callable[[DynScaling, list[dspy.Example]], list[Any]]


def examples_of(bank: list[FakeQuestion]) -> list[dspy.Example]:
    return [dspy.Example(question=q.text, answer=q.answer).with_inputs("question") for q in bank]


def call(qa: DynScaling, examples: list[dspy.Example]) -> list[Any]:
    return [qa(**example.inputs()) for example in examples]


def acall(qa: DynScaling, examples: list[dspy.Example]) -> list[Any]:
    async def main() -> list[Any]:
        return [await qa.acall(**example.inputs()) for example in examples]

    return asyncio.run(main())


def gather(qa: DynScaling, examples: list[dspy.Example]) -> list[Any]:
    async def main() -> list[Any]:
        return await asyncio.gather(*(qa.acall(**example.inputs()) for example in examples))

    return asyncio.run(main())


def call_in_loop(qa: DynScaling, examples: list[dspy.Example]) -> list[Any]:
    async def main() -> list[Any]:
        return call(qa, examples)

    return asyncio.run(main())


def batch(qa: DynScaling, examples: list[dspy.Example]) -> list[Any]:
    return qa.batch(examples, num_threads=8, disable_progress_bar=True)


def parallel(qa: DynScaling, examples: list[dspy.Example]) -> list[Any]:
    return dspy.Parallel(num_threads=8, disable_progress_bar=True)([(qa, example) for example in examples])


def evaluate(num_threads: int) -> Runner:
    def run(qa: DynScaling, examples: list[dspy.Example]) -> list[Any]:
        evaluation = dspy.Evaluate(devset=examples, metric=lambda *_: 1.0, num_threads=num_threads)
        return [prediction for _, prediction, _ in evaluation(qa).results]

    return run


MODES: dict[str, Runner] = {
    "call": call,
    "acall": acall,
    "gather": gather,
    "call in a running loop": call_in_loop,
    "batch": batch,
    "Parallel": parallel,
    "Evaluate, 1 thread": evaluate(1),
    "Evaluate, 4 threads": evaluate(4),
    "Evaluate, 64 threads": evaluate(64),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", MODES)
def test_all_answer_within_budget(mode: str, engine: str, server: Any, assert_exact: Any) -> None:
    fake = server(BANK)
    pool = BudgetPool(samples=30).expect(len(BANK))
    qa = one_each(dspy.ChainOfThought("question -> answer"), budget=pool)
    with dspy.context(lm=fake.lm(engine)):
        predictions = MODES[mode](qa, examples_of(BANK))
    for question, prediction in zip(BANK, predictions, strict=True):
        assert prediction.answer in question.answers
    assert fake.statistics().per_question.keys() == {question.text for question in BANK}
    assert_exact(pool, fake, predictions)
    # The budget is there to be used: the mixed bank holds enough contested questions.
    assert pool.statistics().spent.samples > len(BANK)


@pytest.mark.parametrize("mode", MODES)
def test_a_cap_of_one_sample_each_is_kept(mode: str, server: Any, assert_exact: Any) -> None:
    fake = server(BANK)
    pool = BudgetPool(samples=len(BANK), policy=Uniform()).expect(len(BANK))
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)
    with dspy.context(lm=fake.lm()):
        predictions = MODES[mode](qa, examples_of(BANK))
    assert [len(explain(prediction).samples) for prediction in predictions] == [1] * len(BANK)
    assert_exact(pool, fake, predictions)


@pytest.mark.parametrize("mode", MODES)
def test_the_ambient_pool_reaches_every_thread_and_task(mode: str, server: Any, assert_exact: Any) -> None:
    fake = server(BANK)
    qa = one_each(dspy.Predict("question -> answer"))
    with dspy.context(lm=fake.lm()), BudgetPool(samples=30).expect(len(BANK)) as pool:
        predictions = MODES[mode](qa, examples_of(BANK))
    assert pool.statistics().spent.samples > len(BANK)
    assert_exact(pool, fake, predictions)
    with pytest.raises(ValueError, match="no budget"):
        qa(question=BANK[0].text)


def test_dspy_configure_is_enough(server: Any, assert_exact: Any) -> None:
    fake = server(BANK)
    dspy.configure(lm=fake.lm())
    qa = one_each(dspy.Predict("question -> answer"), budget=3)
    prediction = qa(question=BANK[0].text)
    assert_exact(qa.pool, fake, [prediction])


class Outer(dspy.Module):
    """Two inner calls a sample, then an answer of its own."""

    def __init__(self, inner: DynScaling, own: bool) -> None:
        super().__init__()
        self.inner = inner
        self.final = dspy.Predict("question, hint -> answer") if own else None

    def forward(self, question: str) -> dspy.Prediction:
        hint = self.inner(question=question).answer
        if self.final is None:
            return dspy.Prediction(answer=hint)
        return self.final(question=question, hint=hint)

    async def aforward(self, question: str) -> dspy.Prediction:
        hint = (await self.inner.acall(question=question)).answer
        if self.final is None:
            return dspy.Prediction(answer=hint)
        return await self.final.acall(question=question, hint=hint)


NESTING = ["call", "gather", "batch", "Evaluate, 4 threads", "Evaluate, 64 threads"]


@pytest.mark.parametrize("mode", NESTING)
def test_nesting_on_one_pool_charges_leaves_only(mode: str, server: Any) -> None:
    fake = server(BANK)
    pool = BudgetPool(samples=80).expect(len(BANK))
    inner = one_each(dspy.Predict("question -> answer"), budget=pool)
    outer = one_each(Outer(inner, own=False), budget=pool)
    with dspy.context(lm=fake.lm()):
        predictions = MODES[mode](outer, examples_of(BANK))
    assert all(prediction.answer in q.answers for prediction, q in zip(predictions, BANK, strict=True))
    now = pool.statistics()
    assert now.spent.samples == now.spent.requests == fake.statistics().samples <= 80
    assert now.reserved == Cost()
    assert now.open_calls == 0


@pytest.mark.parametrize("mode", NESTING)
def test_nesting_on_two_pools_charges_both(mode: str, server: Any) -> None:
    fake = server(BANK)
    inside, outside = BudgetPool(samples=200, per_call=2), BudgetPool(samples=30).expect(len(BANK))
    inner = one_each(dspy.Predict("question -> answer"), budget=inside)
    outer = one_each(Outer(inner, own=True), budget=outside)
    with dspy.context(lm=fake.lm()):
        predictions = MODES[mode](outer, examples_of(BANK))
    samples = sum(len(explain(prediction).samples) for prediction in predictions)
    assert outside.statistics().spent.samples == samples <= 30
    assert outside.statistics().spent.requests == fake.statistics().requests
    # The program's own last call is no call of the inner module's.
    assert inside.statistics().spent.requests == fake.statistics().requests - samples
    for pool in (inside, outside):
        assert pool.statistics().reserved == Cost()
        assert pool.statistics().open_calls == 0


def test_batch_keeps_as_many_requests_going_as_threads(server: Any, release_when: Any, assert_exact: Any) -> None:
    bank = questions(80)
    fake = server(bank)
    pool = BudgetPool(samples=240)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)
    with dspy.context(lm=fake.lm()), release_when(fake, lambda now: now.in_flight == 64):
        predictions = qa.batch(examples_of(bank), num_threads=64, disable_progress_bar=True)
    assert fake.statistics().peak_in_flight == 64
    assert_exact(pool, fake, predictions)


def test_tasks_over_litellm_are_all_in_flight_at_once(server: Any, release_when: Any, assert_exact: Any) -> None:
    bank = questions(256)
    fake = server(bank)
    pool = BudgetPool(samples=400).expect(256)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)
    with dspy.context(lm=fake.lm("litellm")), release_when(fake, lambda now: now.in_flight >= 256):
        predictions = gather(qa, examples_of(bank))
    assert fake.statistics().peak_in_flight > 200
    assert_exact(pool, fake, predictions)

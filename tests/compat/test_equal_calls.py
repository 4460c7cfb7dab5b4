"""Equal calls at the same time share the work and nothing else; equal items of a list are calls of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest

from dynscale_dspy import BudgetPool, DynScaling, Parallel, explain, wrap
from dynscale_dspy.testing import FakeQuestion, FakeServer
from tests.compat.rows import Both

QUESTION = FakeQuestion("2 + 2?", {"4": 1.0}, "4")
PER_CALL = 3
SHAPES: dict[str, Callable[[BudgetPool], dspy.Module]] = {
    "around": lambda pool: DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel()),
    "around a thought": lambda pool: DynScaling(dspy.ChainOfThought("question -> answer"), pool, sampling=Parallel()),
    "inside": lambda pool: Both(DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel())),
    "in place": lambda pool: wrap(dspy.Predict("question -> answer"), pool, sampling=Parallel()),
    "in place inside": lambda pool: wrap(Both(dspy.Predict("question -> answer")), pool, sampling=Parallel()),
}


def scaled(shape: str) -> tuple[dspy.Module, BudgetPool]:
    pool = BudgetPool(samples=100, min_per_call=PER_CALL, max_per_call=PER_CALL)
    return SHAPES[shape](pool), pool


def in_tasks(program: dspy.Module, number: int) -> list[Any]:
    async def main() -> list[Any]:
        return await asyncio.gather(*(program.acall(question=QUESTION.text) for _ in range(number)))

    return asyncio.run(main())


def in_threads(program: dspy.Module, number: int) -> list[Any]:
    overrides = dict(dspy.settings.config)

    def call(_: int) -> Any:
        with dspy.context(**overrides):
            return program(question=QUESTION.text)

    with ThreadPoolExecutor(number) as executor:
        return list(executor.map(call, range(number)))


@pytest.mark.parametrize("drive", [in_tasks, in_threads])
@pytest.mark.parametrize("engine", ["auto", "litellm"])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_caller_has_a_prediction_a_usage_and_a_trace_of_its_own(
    shape: str, engine: str, drive: Callable[..., list[Any]], server: Callable[..., FakeServer], one_server: Any
) -> None:
    fake = server([QUESTION], median_latency=0.3)
    program, pool = scaled(shape)
    with dspy.context(lm=fake.lm(engine), track_usage=True):
        made = drive(program, 3)
    assert pool.statistics().spent.samples == fake.statistics().samples == PER_CALL
    assert len({id(prediction) for prediction in made}) == 3
    usages = [prediction.get_lm_usage() for prediction in made]
    assert usages[0] == usages[1] == usages[2] != {} and usages[0] is not usages[1]
    for position, prediction in enumerate(made):
        assert prediction.answer == "4"
        prediction.answer = f"changed by user {position}"
        prediction.completions["answer"][0] = "changed"
    reports = [explain(prediction) for prediction in made]
    assert [len(report.samples) for report in reports] == [PER_CALL] * 3
    own = [{id(sample.prediction) for sample in report.samples} for report in reports]
    assert not own[0] & own[1] and not own[1] & own[2]


@pytest.mark.parametrize("num_threads", [1, 2, 4])
@pytest.mark.parametrize("drive", ["batch", "Parallel", "Evaluate"])
@pytest.mark.parametrize("shape", SHAPES)
def test_equal_items_are_calls_of_their_own(
    shape: str, drive: str, num_threads: int, server: Callable[..., FakeServer]
) -> None:
    fake = server([QUESTION], median_latency=0.05)
    program, pool = scaled(shape)
    examples = [dspy.Example(question=QUESTION.text).with_inputs("question")] * 4
    options: dict[str, Any] = {"num_threads": num_threads, "disable_progress_bar": True}
    with dspy.context(lm=fake.lm()):
        if drive == "batch":
            made = program.batch(examples, **options)
        elif drive == "Parallel":
            made = dspy.Parallel(**options)([(program, example) for example in examples])
        else:
            evaluate = dspy.Evaluate(devset=examples, metric=lambda *_: 1.0, num_threads=num_threads)
            made = [prediction for _, prediction, _ in evaluate(program).results]
    assert len({id(prediction) for prediction in made}) == 4
    assert pool.statistics().spent.samples == fake.statistics().samples == 4 * PER_CALL


def test_so_are_equal_items_of_lists_in_lists(server: Callable[..., FakeServer]) -> None:
    class Outer(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qa, self.pool = scaled("in place")

        def forward(self, question: str) -> Any:
            return dspy.Parallel(num_threads=2, disable_progress_bar=True)([(self.qa, {"question": question})] * 2)

    fake = server([QUESTION], median_latency=0.1)
    program = Outer()
    with dspy.context(lm=fake.lm()):
        made = dspy.Parallel(num_threads=2, disable_progress_bar=True)([(program, {"question": QUESTION.text})] * 2)
    assert len({id(prediction) for predictions in made for prediction in predictions}) == 4
    assert program.pool.statistics().spent.samples == fake.statistics().samples == 4 * PER_CALL


@pytest.mark.parametrize("most", [0, 1, 3])
@pytest.mark.parametrize("shape", ["plain", *SHAPES])
def test_traces_and_histories_keep_to_their_bounds(shape: str, most: int, server: Callable[..., FakeServer]) -> None:
    fake = server([QUESTION])
    program = dspy.Predict("question -> answer") if shape == "plain" else scaled(shape)[0]
    lm = fake.lm()
    with dspy.context(lm=lm, trace=[], max_trace_size=most, max_history_size=most):
        for _ in range(5):
            assert program(question=QUESTION.text).answer == "4"
        assert len(dspy.settings.trace) == most
        for module in [program, *program.predictors()]:
            assert len(module.history) == most
        # DSPy keeps a language model's own history without a lock: samples side by side may each find room for one.
        assert most <= len(lm.history) <= (most if shape == "plain" else most + PER_CALL)

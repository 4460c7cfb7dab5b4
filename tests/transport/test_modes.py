"""Every way of calling a wrapped program, over both of DSPy's engines: all answer, and the books are exact."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import dspy
import pytest

from dynscale_dspy import BudgetExhausted, BudgetPool, Cost, DynScaling, Uniform, explain
from dynscale_dspy.testing import FakeQuestion, questions
from tests.support import one_each, settled

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


def on_uvloop(qa: DynScaling, examples: list[dspy.Example]) -> list[Any]:
    async def main() -> list[Any]:
        return await asyncio.gather(*(qa.acall(**example.inputs()) for example in examples))

    loop = pytest.importorskip("uvloop").new_event_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


def in_threads_of_trio(qa: DynScaling, examples: list[dspy.Example]) -> list[Any]:
    trio = pytest.importorskip("trio")
    predictions: dict[int, Any] = {}

    async def answer(i: int, example: dspy.Example) -> None:
        predictions[i] = await trio.to_thread.run_sync(lambda: qa(**example.inputs()))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for i, example in enumerate(examples):
                nursery.start_soon(answer, i, example)

    trio.run(main)
    return [predictions[i] for i in range(len(examples))]


def through_asgiref(qa: DynScaling, examples: list[dspy.Example]) -> list[Any]:
    """As Django calls: a synchronous view in an asynchronous server, and the other way round."""
    sync = pytest.importorskip("asgiref.sync")

    async def main() -> list[Any]:
        half = examples[::2]
        return await asyncio.gather(*(sync.sync_to_async(qa, thread_sensitive=False)(**e.inputs()) for e in half))

    predictions: list[Any] = [None] * len(examples)
    predictions[::2] = asyncio.run(main())
    predictions[1::2] = [sync.async_to_sync(qa.acall)(**example.inputs()) for example in examples[1::2]]
    return predictions


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
    "uvloop": on_uvloop,
    "trio's threads": in_threads_of_trio,
    "asgiref": through_asgiref,
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


def test_trio_is_told_of_threads_before_anything_is_spent(server: Any) -> None:
    """DSPy's own language models are asyncio's: awaited under trio, the plain program fails as well."""
    fake = server(BANK)
    qa = one_each(dspy.Predict("question -> answer"), budget=3)
    awaited = qa.acall(question=BANK[0].text)
    with dspy.context(lm=fake.lm()), pytest.raises(RuntimeError, match="under trio call it in a thread"):
        awaited.send(None)  # as any other loop would
    assert fake.statistics().requests == 0
    assert qa.pool.statistics().open_calls == 0 and qa.pool.statistics().reserved == Cost()


IN_A_NOTEBOOK = """
import asyncio, sys
import dspy, nest_asyncio2
from dynscale_dspy import BudgetPool, DynScaling

async def cell(url, texts):
    nest_asyncio2.apply()
    pool = BudgetPool(samples=30, max_concurrency=4).expect(len(texts))
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool, max_choices=1)
    answers = [qa(question=texts[0]), asyncio.run(qa.acall(question=texts[1]))]
    answers.append(asyncio.get_running_loop().run_until_complete(qa.acall(question=texts[2])))
    answers += await asyncio.gather(*(qa.acall(question=text) for text in texts[3:]))
    assert all(each.answer for each in answers), answers
    now = pool.statistics()
    print(now.spent.samples, now.reserved.samples, now.open_calls)

url, *texts = sys.argv[1:]
lm = dspy.LM("openai/fake", api_base=url, api_key="x", cache=False, temperature=1.0)
with dspy.context(lm=lm):
    asyncio.new_event_loop().run_until_complete(cell(url, texts))
"""


def test_calls_inside_a_loop_that_may_be_entered_again(server: Any) -> None:
    """nest_asyncio changes asyncio for the whole process, so that it gets one of its own."""
    pytest.importorskip("nest_asyncio2")
    fake = server(BANK)
    code = [sys.executable, "-c", IN_A_NOTEBOOK, fake.url, *(q.text for q in BANK)]
    run = subprocess.run(code, capture_output=True, text=True, timeout=50)
    assert run.returncode == 0, run.stderr
    spent, reserved, still_open = map(int, run.stdout.split())
    assert (reserved, still_open) == (0, 0)
    assert fake.statistics().requests == spent > len(BANK)


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_stream_closed_early_holds_nothing(engine: str, is_async: bool, server: Any) -> None:
    """DSPy leaves the program to the collector then, which cancels it; one that runs in a thread goes on to its end."""
    fake = server(BANK, median_latency=0.2, sigma=0)
    pool = BudgetPool(samples=50, per_call=6, max_concurrency=2)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)

    class Status(dspy.streaming.StatusMessageProvider):
        def module_start_status_message(self, instance: Any, inputs: Any) -> str:
            return "begun"

    async def look_in() -> None:
        stream = dspy.streamify(qa, status_message_provider=Status(), is_async_program=is_async)(question=BANK[0].text)
        await anext(stream)
        await asyncio.to_thread(fake.wait_until, lambda now: now.in_flight > 0)
        await stream.aclose()

    async def main() -> None:
        await asyncio.wait([asyncio.ensure_future(look_in())])
        await settled(pool)
        answered = await qa.acall(question=BANK[1].text)
        before = fake.statistics().requests - len(explain(answered).samples)
        assert not is_async or before <= 2  # those under way

    with dspy.context(lm=fake.lm(engine)):
        asyncio.run(main())
    now = pool.statistics()
    assert now.open_calls == 0 and now.reserved == Cost()
    # A request that is cut off on its way may arrive late, or not at all.
    assert fake.statistics().requests <= now.spent.requests <= fake.statistics().requests + 2


def test_a_spent_pool_refuses_what_the_cache_could_answer_unless_told_to_run_once(server: Any) -> None:
    fake = server(BANK)
    for unit in ("samples", "requests", "tokens", "dollars"):
        with pytest.raises(ValueError, match=f"{unit} must be at least .*, got 0"):
            BudgetPool(**{unit: 0})
    lm = fake.lm(cache=True, temperature=0.0)
    plain = dspy.Predict("question -> answer")
    with dspy.context(lm=lm):
        free = plain(question=BANK[0].text).answer
        made = fake.statistics().requests
        for unit in ("samples", "requests"):
            spent = one_each(plain, budget=BudgetPool(**{unit: 1}))
            assert spent(question=BANK[0].text).answer == free  # a cached answer is a sample, and a request
            with pytest.raises(BudgetExhausted, match="nothing is left for a first sample: .*1 of 1"):
                spent(question=BANK[0].text)
            lenient = one_each(plain, budget=BudgetPool(**{unit: 1}, on_empty="run_once"))
            assert [lenient(question=BANK[0].text).answer for _ in range(3)] == [free] * 3
    assert fake.statistics().requests == made

"""The same call twice at once, and calls that are cancelled in the air."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest

from dynscale_dspy import BudgetPool, Cost, Uniform, explain
from dynscale_dspy.testing import FakeQuestion, FakeServer
from tests.support import one_each, settled

ENGINES = ["auto", "litellm"]
OPEN = FakeQuestion("Heads or tails?", {"heads": 0.5, "tails": 0.5}, "heads")
OTHER = FakeQuestion("Odd or even?", {"odd": 0.9, "even": 0.1}, "odd")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[BudgetPool, int], threading.Event]:
    """An event set once so many calls have asked the pool whether they are in flight already."""

    def watch(pool: BudgetPool, times: int) -> threading.Event:
        event = threading.Event()
        left = iter(range(times - 1, -1, -1))
        join = pool.flights.join

        def watched(key: Any) -> Any:
            try:
                return join(key)
            finally:
                if next(left, 0) == 0:
                    event.set()

        monkeypatch.setattr(pool.flights, "join", watched)
        return event

    return watch


def assert_charged_once(pool: BudgetPool, fake: FakeServer, prediction: Any) -> None:
    now = pool.statistics()
    samples = len(explain(prediction).samples)
    assert samples == now.spent.samples == fake.statistics().samples
    assert now.closed_calls == 1
    assert now.samples_per_call == {samples: 1}
    assert now.reserved == Cost()
    assert now.open_calls == 0


def test_the_same_call_in_two_threads_is_one(server: Any, asked: Any) -> None:
    fake = server([OPEN])
    pool = BudgetPool(samples=20)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)
    both = asked(pool, 2)
    with dspy.context(lm=fake.lm()), ThreadPoolExecutor(2) as threads, dspy_threads() as bound:
        with fake.held():
            futures = [threads.submit(bound(lambda: qa(question=OPEN.text))) for _ in range(2)]
            assert both.wait(10)
        first, second = (future.result(20) for future in futures)
    assert first.answer == second.answer and first is not second
    assert_charged_once(pool, fake, first)


@contextlib.contextmanager
def dspy_threads() -> Any:
    """Binds functions to the DSPy settings of here, as DSPy's own executors do."""
    settings = {name: dspy.settings[name] for name in ("lm", "adapter")}

    def bound(run: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> Any:
            with dspy.context(**settings):
                return run()

        return call

    yield bound


def test_the_same_call_in_two_tasks_is_one(server: Any) -> None:
    fake = server([OPEN])
    pool = BudgetPool(samples=20)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)

    async def main() -> list[Any]:
        return await asyncio.gather(*(qa.acall(question=OPEN.text) for _ in range(5)))

    with dspy.context(lm=fake.lm()):
        predictions = asyncio.run(main())
    assert len({prediction.answer for prediction in predictions}) == 1
    assert len({id(prediction) for prediction in predictions}) == 5  # each caller has its own
    assert_charged_once(pool, fake, predictions[0])


def test_the_same_call_one_after_the_other_is_two(server: Any) -> None:
    fake = server([OPEN])
    pool = BudgetPool(samples=20)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)
    with dspy.context(lm=fake.lm()):
        first, second = qa(question=OPEN.text), qa(question=OPEN.text)
    assert pool.statistics().closed_calls == 2
    assert pool.statistics().spent.samples == sum(len(explain(p).samples) for p in (first, second))


def test_stragglers_submitted_again_are_charged_once(server: Any, asked: Any) -> None:
    fake = server([OPEN])
    pool = BudgetPool(samples=20)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)
    again = asked(pool, 2)  # the call, and DSPy's second submission of it
    released = threading.Event()

    def release() -> None:
        with fake.held():
            released.set()
            again.wait(20)

    holder = threading.Thread(target=release)
    holder.start()
    released.wait()
    example = dspy.Example(question=OPEN.text).with_inputs("question")
    with dspy.context(lm=fake.lm()):
        parallel = dspy.Parallel(num_threads=4, timeout=1, straggler_limit=3, disable_progress_bar=True)
        [prediction] = parallel([(qa, example)])
    holder.join()
    assert again.is_set(), "DSPy did not submit the straggler again, so this tests nothing"
    assert prediction.answer in OPEN.answers
    fake.wait_until(lambda now: now.in_flight == 0)
    assert_charged_once(pool, fake, prediction)


async def until(fake: FakeServer, condition: Callable[[Any], bool]) -> None:
    # In a thread of its own: DSPy's language models need the loop's few default threads.
    await asyncio.wrap_future(_waiters.submit(fake.wait_until, condition, 20))


_waiters = ThreadPoolExecutor(4, thread_name_prefix="waiting-for-server")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("program", ["Predict", "synchronous"])
def test_a_cancelled_call_gives_everything_back(program: str, engine: str, server: Any) -> None:
    class Synchronous(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict("question -> answer")

        def forward(self, question: str) -> dspy.Prediction:
            return self.predict(question=question)

    fake = server([OPEN, OTHER])
    pool = BudgetPool(samples=30, policy=Uniform(first=4))
    module = Synchronous() if program == "synchronous" else dspy.Predict("question -> answer")
    qa = one_each(module, budget=pool, max_samples=4)

    async def main() -> Any:
        with fake.held():
            task = asyncio.create_task(qa.acall(question=OPEN.text))
            await until(fake, lambda now: now.in_flight == 4)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 1)
            if program == "Predict":
                # Threads cannot be interrupted: what they asked for still comes. Tasks hang up at once.
                await until(fake, lambda now: now.in_flight == 0)
                assert pool.statistics().reserved == Cost()
                assert fake.statistics().aborted == 4
            assert pool.statistics().open_calls == 0
        await settled(pool)
        cancelled = fake.statistics().requests
        prediction = await qa.acall(question=OTHER.text)
        return cancelled, prediction

    with dspy.context(lm=fake.lm(engine)):
        cancelled, prediction = asyncio.run(main())
    assert prediction.answer in OTHER.answers
    now = pool.statistics()
    assert now.reserved == Cost()
    assert now.open_calls == 0
    # What was asked of the server before the cancellation is paid.
    assert now.spent.requests == fake.statistics().requests == cancelled + len(explain(prediction).samples)


@pytest.mark.parametrize("engine", ENGINES)
def test_many_calls_cancelled_together(engine: str, server: Any) -> None:
    bank = [FakeQuestion(f"Coin {number:02d}?", {"heads": 0.5, "tails": 0.5}, "heads") for number in range(20)]
    fake = server([*bank, OTHER])
    pool = BudgetPool(samples=100, policy=Uniform(first=2)).expect(21)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool, max_samples=2)

    async def main() -> Any:
        with fake.held():
            calls = asyncio.gather(*(qa.acall(question=question.text) for question in bank))
            await until(fake, lambda now: now.in_flight == 40)
            calls.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calls
            await until(fake, lambda now: now.in_flight == 0)
        now = pool.statistics()
        assert now.reserved == Cost()
        assert now.open_calls == 0
        assert now.spent.requests == fake.statistics().requests
        return await qa.acall(question=OTHER.text)

    with dspy.context(lm=fake.lm(engine)):
        assert asyncio.run(main()).answer in OTHER.answers


@pytest.mark.parametrize("program", ["Predict", "synchronous"])
def test_cancelled_at_any_moment_nothing_stays_reserved(program: str, server: Any) -> None:
    class Synchronous(dspy.Module):
        def forward(self, question: str) -> dspy.Prediction:
            return dspy.Prediction(answer=question)

    fake = server([OPEN])
    pool = BudgetPool(per_call=8, policy=Uniform(first=8))
    qa = one_each(Synchronous() if program == "synchronous" else dspy.Predict("question -> answer"), budget=pool)

    async def main() -> None:
        for turns in range(12):
            task = asyncio.create_task(qa.acall(question=OPEN.text))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await settled(pool)
            assert pool.statistics().open_calls == 0

    with dspy.context(lm=fake.lm()):
        asyncio.run(main())


def test_when_the_first_of_two_equal_calls_is_cancelled_the_second_takes_over(server: Any, asked: Any) -> None:
    fake = server([OPEN])
    pool = BudgetPool(samples=30)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)
    both = asked(pool, 2)

    async def main() -> Any:
        with fake.held():
            first = asyncio.create_task(qa.acall(question=OPEN.text))
            # All of its samples: one that is cancelled before its request is sent is charged and not seen here.
            await until(fake, lambda now: 0 < now.in_flight == pool.statistics().reserved.samples)
            second = asyncio.create_task(qa.acall(question=OPEN.text))
            await asyncio.wrap_future(_waiters.submit(both.wait, 10))
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
        return await asyncio.wait_for(second, 10)

    with dspy.context(lm=fake.lm()):
        prediction = asyncio.run(main())
    assert prediction.answer in OPEN.answers
    fake.wait_until(lambda now: now.in_flight == 0)
    now = pool.statistics()
    assert now.closed_calls == 2
    assert now.spent.requests == fake.statistics().requests
    assert now.reserved == Cost()


def test_cancelling_the_second_of_two_equal_calls_leaves_the_first_alone(server: Any, asked: Any) -> None:
    fake = server([OPEN])
    pool = BudgetPool(samples=30)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)
    both = asked(pool, 2)

    async def main() -> Any:
        with fake.held():
            first = asyncio.create_task(qa.acall(question=OPEN.text))
            await until(fake, lambda now: now.in_flight >= 1)
            second = asyncio.create_task(qa.acall(question=OPEN.text))
            await asyncio.wrap_future(_waiters.submit(both.wait, 10))
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
        return await asyncio.wait_for(first, 10)

    with dspy.context(lm=fake.lm()):
        prediction = asyncio.run(main())
    assert_charged_once(pool, fake, prediction)

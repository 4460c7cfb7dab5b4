"""Stragglers that DSPy submits again, runs repeated from a warm cache, and calls whose caller goes away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import dspy
import pytest

from dynscale_dspy import BudgetPool, Cost, DynScaling, Integrated, KnowledgeGradient, Uniform, explain, wrap
from dynscale_dspy.testing import FakeQuestion, FakeServer
from tests.compat.rows import Both, SyncOnly
from tests.support import settled

COIN = FakeQuestion("Heads or tails?", {"heads": 0.5, "tails": 0.5}, "heads")
OTHER = FakeQuestion("Odd or even?", {"odd": 0.9, "even": 0.1}, "odd")
_waiters = ThreadPoolExecutor(4, thread_name_prefix="waiting-for-server")


def cot() -> dspy.Module:
    return dspy.ChainOfThought("question -> answer")


SHAPES: dict[str, Callable[[BudgetPool], dspy.Module]] = {
    "wrapped": lambda pool: DynScaling(cot(), budget=pool, max_choices=1),
    "inside": lambda pool: Both(DynScaling(cot(), budget=pool, max_choices=1)),
    "in place": lambda pool: wrap(Both(cot()), budget=pool, max_choices=1),
    "without async": lambda pool: DynScaling(SyncOnly(cot()), budget=pool, max_choices=1),
}


# ---- stragglers


@pytest.mark.parametrize("drive", ["batch", "Parallel"])
@pytest.mark.parametrize("shape", ["inside", "in place"])
def test_an_item_submitted_again_joins_the_first_and_is_charged_once(
    shape: str, drive: str, server: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = server([COIN])
    pool = BudgetPool(samples=20, policy=Uniform(first=4))
    program = SHAPES[shape](pool)
    again, asked, join = threading.Event(), [], pool.flights.join

    def watched(key: Any) -> Any:
        try:
            return join(key)
        finally:
            asked.append(key)
            if len(asked) == 2:
                again.set()

    monkeypatch.setattr(pool.flights, "join", watched)
    holding = threading.Event()

    def hold() -> None:
        with fake.held():
            holding.set()
            again.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    holding.wait()
    example = dspy.Example(question=COIN.text).with_inputs("question")
    options = {"num_threads": 4, "timeout": 1, "straggler_limit": 3, "disable_progress_bar": True}
    with dspy.context(lm=fake.lm()):
        if drive == "batch":
            [prediction] = program.batch([example], **options)
        else:
            [prediction] = dspy.Parallel(**options)([(program, example)])
    holder.join()
    assert again.is_set(), "DSPy did not submit the straggler again, so this tests nothing"
    assert asked[0] == asked[1]
    fake.wait_until(lambda now: now.in_flight == 0)
    now = pool.statistics()
    assert len(explain(prediction).samples) == now.spent.samples == fake.statistics().requests
    assert (now.closed_calls, now.open_calls, now.reserved) == (1, 0, Cost())


# ---- a warm cache


def _batch(program: dspy.Module, inputs: list[dict[str, str]]) -> list[Any]:
    return program.batch(inputs, num_threads=4, disable_progress_bar=True)


def _one_by_one(program: dspy.Module, inputs: list[dict[str, str]]) -> list[Any]:
    return [program(**each) for each in inputs]


def _one_task(program: dspy.Module, inputs: list[dict[str, str]]) -> list[Any]:
    async def main() -> list[Any]:
        return [await program.acall(**each) for each in inputs]

    return asyncio.run(main())


def _evaluate(program: dspy.Module, inputs: list[dict[str, str]]) -> list[Any]:
    examples = [dspy.Example(**each).with_inputs(*each) for each in inputs]
    evaluate = dspy.Evaluate(devset=examples, metric=lambda e, p: 1.0, num_threads=1, display_progress=False)
    return [prediction for _, prediction, _ in evaluate(program).results]


@pytest.mark.parametrize("engine", ["auto", "litellm"])
@pytest.mark.parametrize("drive", [_batch, _one_by_one, _one_task, _evaluate], ids=lambda drive: drive.__name__[1:])
def test_a_second_run_makes_no_request_and_decides_alike(
    drive: Callable[..., list[Any]], engine: str, server: Callable[..., FakeServer], one_server: Any
) -> None:
    fake = server(12, seed=3)
    inputs = [{"question": question.text} for question in fake.questions]

    def run() -> Any:
        pool = BudgetPool(samples=60, policy=KnowledgeGradient(first=2)).expect(12)
        program = DynScaling(cot(), budget=pool, sampling=Integrated(when="always"), max_samples=10)
        predictions = drive(program, inputs)
        return [
            (prediction.toDict(), [(sample.answer, sample.shown) for sample in explain(prediction).samples])
            for prediction in predictions
        ], pool.statistics().samples_per_call

    with dspy.context(lm=fake.lm(engine, cache=True)):
        first = run()
        asked = fake.statistics().requests
        assert asked > 12 and fake.statistics().conditioned > 0
        assert run() == first
    assert fake.statistics().requests == asked


# ---- callers that go away


async def until(fake: FakeServer, condition: Callable[[Any], bool]) -> None:
    # In a thread of its own: DSPy's language models need the loop's few default threads.
    await asyncio.wrap_future(_waiters.submit(fake.wait_until, condition, 20))


async def _timed_out(fake: FakeServer, call: Callable[[], Any], started: Callable[[], Any]) -> None:
    """The caller waits only so long; the deadline is moved to when all requests are out."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def deadline() -> None:
                await started()
                scope.deadline = anyio.current_time()

            tasks.start_soon(deadline)
            await call()
    assert scope.cancelled_caught


async def _sibling_failed(fake: FakeServer, call: Callable[[], Any], started: Callable[[], Any]) -> None:
    """Another task of the caller's group fails, which cancels the group."""

    async def fail() -> None:
        await started()
        raise RuntimeError("sibling")

    with pytest.raises(BaseException) as caught:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            tasks.start_soon(fail)
    assert (
        "sibling" in repr(caught.value)
        or "sibling" in repr(caught.value.__cause__)
        or hasattr(caught.value, "exceptions")
    )


async def _client_gone(fake: FakeServer, call: Callable[[], Any], started: Callable[[], Any]) -> None:
    """Whoever read the stream of a web endpoint hangs up: the server cancels the task that fed it."""
    task = asyncio.create_task(call())
    await started()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("engine", ["auto", "litellm"])
@pytest.mark.parametrize("leave", [_timed_out, _sibling_failed, _client_gone], ids=lambda f: f.__name__[1:])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_caller_that_goes_away_stops_its_samples_and_gets_back_its_budget(
    shape: str, leave: Callable[..., Any], engine: str, server: Callable[..., FakeServer], one_server: Any
) -> None:
    fake = server([COIN, OTHER])
    pool = BudgetPool(samples=30, policy=Uniform(first=4)).expect(3)
    program = SHAPES[shape](pool)
    threads = shape == "without async"

    async def main() -> tuple[int, Any]:
        with fake.held():

            async def started() -> None:
                # All of its requests: one that is cancelled on its way out is charged and not seen here.
                await until(fake, lambda now: 0 < now.in_flight == pool.statistics().reserved.samples)

            await leave(fake, lambda: program.acall(question=COIN.text), started)
            if not threads:  # threads cannot be interrupted: what they asked for still comes
                await until(fake, lambda now: now.in_flight == 0)
                assert pool.statistics().reserved == Cost()
            assert pool.statistics().open_calls == 0
        await settled(pool)
        sent = fake.statistics().requests
        assert pool.statistics().spent.samples <= 10
        return sent, await program.acall(question=OTHER.text)

    with dspy.context(lm=fake.lm(engine)):
        sent, prediction = asyncio.run(main())
    assert prediction.answer in OTHER.answers
    now = pool.statistics()
    assert fake.statistics().requests == sent + len(explain(prediction).samples)
    assert (now.open_calls, now.reserved, now.closed_calls) == (0, Cost(), 2)
    assert fake.statistics().requests == now.spent.requests


def test_a_stream_that_is_closed_stops_its_samples(server: Callable[..., FakeServer]) -> None:
    fake = server([COIN, OTHER])
    pool = BudgetPool(samples=30, policy=Uniform(first=4))
    program = DynScaling(cot(), budget=pool, max_choices=1)

    async def main() -> Any:
        with fake.held():
            stream = dspy.streamify(program, is_async_program=True)(question=COIN.text)
            reading = asyncio.ensure_future(stream.__anext__())
            await until(fake, lambda now: now.in_flight >= 1)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            await stream.aclose()
            await until(fake, lambda now: now.in_flight == 0)
            assert (pool.statistics().open_calls, pool.statistics().reserved) == (0, Cost())
        return await program.acall(question=OTHER.text)

    with dspy.context(lm=fake.lm()):
        assert asyncio.run(main()).answer in OTHER.answers

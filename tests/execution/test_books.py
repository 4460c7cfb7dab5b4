"""No event loop waits for the store of a pool: its books are kept in threads of their own."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import dspy
import pytest

from dynscale_dspy import BudgetExhausted, BudgetPool, Cost, DynScaling, Parallel, Uniform
from dynscale_dspy.budget.stores.memory import MemoryStore
from dynscale_dspy.execution import meter
from dynscale_dspy.execution.books import unblocked, unwaited
from tests.support import ScriptedModel, cycle, started

# ---- the threads


async def test_what_cannot_block_is_done_at_once():
    assert await unblocked(False, threading.get_ident) == threading.get_ident()
    done = []
    unwaited(False, lambda: done.append(threading.get_ident()))
    assert done == [threading.get_ident()]


async def test_what_may_block_is_done_in_a_thread_with_the_tasks_context():
    tag = contextvars.ContextVar("tag", default="none")
    tag.set("task")
    thread, seen = await unblocked(True, lambda: (threading.get_ident(), tag.get()))
    assert thread != threading.get_ident() and seen == "task"
    with pytest.raises(ZeroDivisionError):
        await unblocked(True, lambda: 1 // 0)


@pytest.mark.parametrize("is_done", [False, True])
async def test_what_was_begun_is_done_and_undone_if_the_task_is_cancelled(is_done):
    begun, go_on, undone = threading.Event(), threading.Event(), threading.Event()
    seen = []

    def act():
        begun.set()
        assert go_on.wait(10)
        return "outcome"

    def undo(outcome):
        seen.append((outcome, threading.get_ident()))
        undone.set()

    task = asyncio.ensure_future(unblocked(True, act, undo=undo))
    await unblocked(True, lambda: begun.wait(10))
    if is_done:
        go_on.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    assert await unblocked(True, lambda: undone.wait(10))
    assert [outcome for outcome, _ in seen] == ["outcome"] and seen[0][1] != threading.get_ident()


# ---- a store that may block


class RecordingStore(MemoryStore):
    """A durable store as far as the pool knows, which tells who calls it."""

    is_durable = True

    def __init__(self):
        super().__init__()
        self.calls = []

    def from_thread(self, ident):
        return [name for name, caller in self.calls if caller == ident]


def _recorded(name):
    def method(self, *args, **kwargs):
        self.calls.append((name, threading.get_ident()))
        return getattr(MemoryStore, name)(self, *args, **kwargs)

    return method


for _name in ("totals", "reserve", "amend", "settle", "paid", "roll", "reconcile", "note", "notes"):
    setattr(RecordingStore, _name, _recorded(_name))


class RecordingMutex:
    """The lock of a pool, which others hold while they call the store."""

    def __init__(self, store):
        self._store = store
        self._lock = threading.Lock()

    def __enter__(self):
        self._store.calls.append(("lock", threading.get_ident()))
        self._lock.acquire()

    def __exit__(self, *error):
        self._lock.release()


class Chatty(dspy.Module):
    """Makes three requests, two of them at once: more than is set aside for its first samples."""

    def __init__(self):
        super().__init__()
        self.ask = dspy.Predict("question -> answer")

    async def aforward(self, question):
        await asyncio.gather(*(self.ask.acall(question=f"{question} {n}") for n in range(2)))
        return await self.ask.acall(question=question)


class Outer(dspy.Module):
    """Calls a wrapped program in each of its samples."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    async def aforward(self, question):
        await self.inner.acall(question=f"before {question}")
        return await self.inner.acall(question=question)


PROGRAMS = {
    "Predict": lambda pool: dspy.Predict("question -> answer"),
    "ChainOfThought": lambda pool: dspy.ChainOfThought("question -> answer"),
    "several requests": lambda pool: Chatty(),
    "nested": lambda pool: Outer(DynScaling(dspy.Predict("question -> answer"), pool)),
    "nested, another pool": lambda pool: Outer(DynScaling(dspy.Predict("question -> answer"), 2)),
}
CAPS = {
    "samples": {"samples": 60},
    "requests": {"requests": 60},
    "tokens": {"tokens": 60_000},
    "dollars": {"dollars": 5, "max_failures": None},
    "an hour": {"samples": 60, "period": "hour"},
}


async def ended(pool):
    """Wait until nothing is open or reserved: what was cancelled is put in order in threads, unawaited."""
    while True:
        change = await unblocked(True, pool.admission.change)
        now = await unblocked(True, pool.statistics)
        if now.open_calls == 0 and now.reserved == Cost():
            return now
        await asyncio.wait_for(asyncio.wrap_future(change), 20)


def run(main, pool, store, lm):
    """Run a coroutine. Afterwards nothing is held, and its thread has not called the store or taken the lock."""

    async def inside():
        store.calls.clear()
        try:
            return await main(), threading.get_ident()
        finally:
            await ended(pool)

    with dspy.context(lm=lm):
        outcome, thread = asyncio.run(inside())
    assert store.calls and store.from_thread(thread) == []
    return outcome


def durable(**options):
    store = RecordingStore()
    pool = BudgetPool(store=store, policy=Uniform(), per_call=3, **options)
    pool.admission.lock.mutex = RecordingMutex(store)
    return pool, store


@pytest.mark.parametrize("caps", CAPS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_loops_thread_never_calls_the_store(program, caps):
    pool, store = durable(**CAPS[caps])
    qa = DynScaling(PROGRAMS[program](pool), pool)

    async def main():
        return await asyncio.gather(*(qa.acall(question=f"q{n}") for n in range(4)))

    # Without a bound on what it writes, a request may use more than is set aside.
    lm = ScriptedModel(cycle("A", "B", "A")).lm(max_tokens=None if caps == "dollars" else 50)
    predictions = run(main, pool, store, lm)
    assert [prediction.answer in ("A", "B") for prediction in predictions] == [True] * 4
    assert pool.statistics().closed_calls >= 4
    assert len(pool.history.calls) == pool.statistics().closed_calls


@pytest.mark.parametrize("caps", CAPS)
def test_a_failing_program_does_not_either(caps):
    pool, store = durable(**CAPS[caps])
    qa = DynScaling(Chatty(), pool)

    async def main():
        return await asyncio.gather(*(qa.acall(question=f"q{n}") for n in range(3)), return_exceptions=True)

    outcomes = run(main, pool, store, ScriptedModel(cycle("A", RuntimeError("down"))).lm(max_tokens=50))
    assert any(isinstance(outcome, Exception) for outcome in outcomes)


def test_a_sample_that_is_cut_off_does_not_either():
    pool, store = durable(requests=4)
    qa = DynScaling(Chatty(), pool)

    async def main():
        with pytest.raises(BudgetExhausted):
            for n in range(3):
                await qa.acall(question=f"q{n}")

    run(main, pool, store, ScriptedModel(cycle("A")).lm())
    assert pool.statistics().spent.requests <= 4


def test_a_request_that_is_not_made_costs_nothing():
    class Refusing(dspy.LM):
        async def acall(self, prompt=None, *, messages=None, **kwargs):
            raise ValueError("not made")

    pool, store = durable(tokens=60_000)
    qa = DynScaling(dspy.Predict("question -> answer"), pool)

    async def main():
        with pytest.raises(Exception, match="not made"):
            await qa.acall(question="q")

    run(main, pool, store, Refusing("scripted/model", max_tokens=50, cache=False))
    assert pool.statistics().spent.requests == pool.statistics().spent.tokens == 0


async def test_dspys_cache_of_synchronous_calls_answers_no_task(monkeypatch):
    pool, store = durable(samples=1)
    started(pool).settle()  # of an earlier run, say
    monkeypatch.setattr(store, "paid", lambda call: frozenset({0}))
    monkeypatch.setattr(meter, "answered_by_cache", lambda lm, inputs: True)
    model = ScriptedModel(cycle("A"))
    with dspy.context(lm=model.lm()), pytest.raises(BudgetExhausted, match="could not pay"):
        await DynScaling(dspy.Predict("question -> answer"), pool).acall(question="q")
    assert model.requests == []


class Slow(ScriptedModel):
    """Waits in the loop before each answer, until it is let go on."""

    def __init__(self, reply):
        super().__init__(reply)
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    def program(self):
        model = self

        class Program(dspy.Module):
            def __init__(self):
                super().__init__()
                self.ask = dspy.Predict("question -> answer")

            async def aforward(self, question):
                found = await self.ask.acall(question=question)
                model.asked.set()
                await model.go_on.wait()
                return found

        return Program()


def test_a_cancelled_call_does_not_either():
    pool, store = durable(samples=60)
    model = Slow(cycle("A"))
    qa = DynScaling(model.program(), pool)

    async def main():
        tasks = [asyncio.ensure_future(qa.acall(question=f"q{n}")) for n in range(4)]
        await model.asked.wait()
        for task in tasks:
            task.cancel()
        assert [isinstance(e, asyncio.CancelledError) for e in await asyncio.gather(*tasks, return_exceptions=True)]

    run(main, pool, store, model.lm())


@pytest.mark.parametrize("steps", range(0, 24, 2))
def test_whenever_a_call_is_cancelled_nothing_stays_reserved(steps):
    pool, store = durable(samples=60)
    qa = DynScaling(Chatty(), pool)

    async def main():
        for n in range(4):
            task = asyncio.ensure_future(qa.acall(question=f"q{n}"))
            for _ in range(steps + n):
                await unblocked(True, int)  # the loop goes on, and so do the threads that keep the books
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(main, pool, store, ScriptedModel(cycle("A")).lm())


def test_a_pool_that_is_stopped_does_not_either():
    pool, store = durable(samples=60)
    model = Slow(cycle("A"))
    qa = DynScaling(model.program(), pool)

    async def main():
        tasks = [asyncio.ensure_future(qa.acall(question=f"q{n}")) for n in range(4)]
        await model.asked.wait()
        await unblocked(True, lambda: pool.stop(cancel=True))
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = run(main, pool, store, model.lm())
    assert [type(outcome) for outcome in outcomes] == [BudgetExhausted] * 4


def test_a_stop_that_comes_as_a_sample_is_settled_cancels_no_call(monkeypatch):
    pool, store = durable(samples=60, max_per_call=1)
    cancellable, cancels = pool.cancellable, []

    def watched(cancel):
        cancels.append(cancel)
        return cancellable(cancel)

    def settle(*args, **kwargs):
        while cancels:
            cancels.pop()()
        return MemoryStore.settle(store, *args, **kwargs)

    monkeypatch.setattr(pool, "cancellable", watched)
    monkeypatch.setattr(store, "settle", settle)
    qa = DynScaling(Chatty(), pool)

    async def main():
        return await qa.acall(question="q")

    assert run(main, pool, store, ScriptedModel(cycle("A")).lm()).answer == "A"
    assert cancels == []


def test_samples_that_are_not_needed_do_not_either():
    pool, store = durable(samples=60)
    qa = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel(), stop_when_decided=True)

    async def main():
        return await asyncio.gather(*(qa.acall(question=f"q{n}") for n in range(4)))

    assert [p.answer for p in run(main, pool, store, ScriptedModel(cycle("A")).lm())] == ["A"] * 4


def test_a_program_without_async_does_not_either():
    class Sync(dspy.Module):
        def __init__(self):
            super().__init__()
            self.ask = dspy.Predict("question -> answer")

        def forward(self, question):
            return self.ask(question=question)

    pool, store = durable(samples=60)
    qa = DynScaling(Sync(), pool)

    async def main():
        return await asyncio.gather(*(qa.acall(question=f"q{n}") for n in range(4)))

    assert [p.answer for p in run(main, pool, store, ScriptedModel(cycle("A")).lm())] == ["A"] * 4

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import dspy
import pytest

from dynscale_dspy import BudgetExhausted, BudgetPool, Cost, DynScaling, Uniform
from dynscale_dspy.execution import drivers
from dynscale_dspy.execution.desk import BatchDesk, CallDesk
from dynscale_dspy.execution.drivers import adrive, drive, drive_known
from dynscale_dspy.execution.flights import once
from dynscale_dspy.sampling.batch_plan import coordinate
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.play import play
from dynscale_dspy.sampling.sample import Draw, Sample
from dynscale_dspy.sampling.steps import Job, Round
from dynscale_dspy.sampling.strategies import Parallel
from tests.support import open_call, until, vote

tag: contextvars.ContextVar[str] = contextvars.ContextVar("tag", default="none")


def plan(key=0):
    return Plan(Parallel(), seed=0, key=key, max_samples=64)


def call(pool, key="k"):
    """The steps of one call, which may be in flight already."""
    return once(pool.flights, key, play(plan(key)), copied=replace)


def desk(pool=None):
    """The pool, for a call of no program in particular."""
    return CallDesk(pool or BudgetPool(1), outer=None, program=None, requests=1, key=None)


def sampler(answer="A"):
    """A driver's job without a program."""

    def run(job: Job, slot=None) -> Sample:
        assert job.lease is not None and job.lease.start()
        cost = job.lease.settle()
        return Sample(job.draw, prediction=answer, answer=answer, vote=vote(answer), cost=cost)

    return run


def uniform(samples):
    return BudgetPool(per_call=samples, policy=Uniform())


def one_round(count):
    """A plan of one round that returns what it is sent."""
    samples = yield Round([Job(Draw(i), None) for i in range(count)])
    return samples


def test_samples_of_a_round_run_side_by_side_and_come_back_in_order():
    together = threading.Barrier(5, timeout=10)

    def run(job, slot=None):
        together.wait()
        return Sample(job.draw)

    assert [sample.draw.index for sample in drive(one_round(5), run, desk())] == [0, 1, 2, 3, 4]


async def test_tasks_of_a_round_run_side_by_side_and_come_back_in_order():
    arrived, everyone = [], asyncio.Event()

    async def run(job, slot=None):
        arrived.append(job)
        if len(arrived) == 5:
            everyone.set()
        await asyncio.wait_for(everyone.wait(), 10)
        return Sample(job.draw)

    assert [sample.draw.index for sample in await adrive(one_round(5), run, desk())] == [0, 1, 2, 3, 4]


def test_each_sample_runs_in_its_own_copy_of_the_callers_context():
    def run(job, slot=None):
        before = tag.get()
        tag.set(f"sample {job.draw.index}")
        return Sample(job.draw, prediction=before)

    token = tag.set("caller")
    try:
        assert [sample.prediction for sample in drive(one_round(4), run, desk())] == ["caller"] * 4
        assert tag.get() == "caller"
    finally:
        tag.reset(token)


class Full:
    """Helpers that are all busy: accepts everything and never gets to it."""

    def submit(self, *args):
        pass


def test_callers_finish_without_any_helper(monkeypatch):
    monkeypatch.setattr(drivers, "_executor", Full)
    assert len(drive(one_round(6), lambda job, slot: Sample(job.draw), desk())) == 6


@pytest.mark.parametrize("fails_at", range(3))
@pytest.mark.parametrize("deadline", [None, 10**6])
def test_an_error_ends_the_round_though_samples_of_it_never_began(monkeypatch, deadline, fails_at):
    """With a deadline the caller only waits: it must not wait for samples that nobody will begin."""

    class OfTheDriver(BaseException):
        pass

    def run(job, slot):
        if job.draw.index == fails_at:
            raise OfTheDriver
        return Sample(job.draw)

    monkeypatch.setattr(drivers, "_executor", Full)
    with pytest.raises(OfTheDriver):
        drive(one_round(3), run, desk(BudgetPool(1, deadline=deadline)))


def test_nested_rounds_with_one_helper_do_not_deadlock(monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as single:
        monkeypatch.setattr(drivers, "_executor", lambda: single)

        def run(job, slot=None, depth=2):
            if depth:
                drive(one_round(3), lambda inner, slot: run(inner, slot, depth - 1), desk())
            return Sample(job.draw)

        threads = [threading.Thread(target=lambda: drive(one_round(3), run, desk())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)


def test_more_calls_than_threads_share_a_pool_without_waiting_for_each_other():
    pool = BudgetPool(samples=200, policy=Uniform(), per_call=4)
    todo = list(range(50))
    lock = threading.Lock()

    def worker():
        while True:
            with lock:
                if not todo:
                    return
                key = todo.pop()
            drive(call(pool, key), sampler(), desk(pool))

    threads = [threading.Thread(target=worker) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    now = pool.statistics()
    assert (now.closed_calls, now.open_calls, now.reserved) == (50, 0, Cost())


def test_many_callers_are_not_multiplied_by_helpers():
    callers = 2 * drivers.HELPERS
    running, most, lock = 0, 0, threading.Lock()
    everyone = threading.Barrier(callers, timeout=20)

    def run(job, slot=None):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if job.draw.index == 0:
            everyone.wait()  # every caller has begun its first sample, and has three more to do
        with lock:
            running -= 1
        return Sample(job.draw)

    threads = [threading.Thread(target=lambda: drive(one_round(4), run, desk())) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most < callers + drivers.HELPERS  # helpers that joined before the callers were many


def test_an_error_of_the_driver_closes_the_call():
    pool = uniform(4)

    def run(job, slot=None):
        job.lease.start()
        job.lease.settle()
        raise ValueError("the answer names a field that is not there")

    with pytest.raises(ValueError, match="names a field"):
        drive(call(pool), run, desk(pool))
    now = pool.statistics()
    assert (now.open_calls, now.reserved) == (0, Cost())
    winner = drive(call(pool), sampler(), desk(pool))  # and the next such call is not stuck
    assert winner.key == "A"


async def test_a_cancelled_call_stops_its_samples_and_gives_back_its_budget():
    pool = uniform(4)
    started, stopped = [], []
    all_started = asyncio.Event()

    async def run(job, slot=None):
        job.lease.start()
        started.append(job)
        if len(started) == 4:
            all_started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(job)
            job.lease.settle()
        return Sample(job.draw)

    task = asyncio.create_task(adrive(call(pool), run, desk(pool)))
    await asyncio.wait_for(all_started.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    now = pool.statistics()
    assert len(stopped) == 4
    assert (now.open_calls, now.reserved) == (0, Cost())


async def test_the_same_call_in_two_tasks_is_one():
    pool = uniform(3)
    release = asyncio.Event()
    ran = []

    async def run(job, slot=None):
        ran.append(job)
        await release.wait()
        return sampler()(job)

    tasks = [asyncio.create_task(adrive(call(pool), run, desk(pool))) for _ in range(3)]
    while len(ran) < 3:
        await asyncio.sleep(0)
    release.set()
    outcomes = await asyncio.gather(*tasks)
    assert len(ran) == 3 == pool.statistics().spent.samples
    assert outcomes[1:] == outcomes[:-1] and len({id(winner) for winner in outcomes}) > 1  # copies of one


@pytest.mark.parametrize("awaits", [False, True])
def test_those_who_wait_for_a_call_whose_loop_is_closed_take_over(monkeypatch, awaits):
    """They waited already: no equal call comes after them that would find out."""
    monkeypatch.setattr(drivers, "LOOK_AGAIN", 0.02)
    pool, waits, answers = BudgetPool(100), threading.Event(), []
    loop = asyncio.new_event_loop()

    async def begun():
        return pool.flights.join("k")

    assert loop.run_until_complete(begun())[1]

    def told(steps):
        step = next(steps)
        waits.set()
        try:
            while True:
                step = steps.send((yield step))
        except StopIteration as stop:
            return stop.value

    def wait():
        if awaits:

            async def run(job, slot=None):
                return sampler()(job, slot)

            answers.append(asyncio.run(adrive(told(call(pool)), run, desk(pool))))
        else:
            answers.append(drive(told(call(pool)), sampler(), desk(pool)))

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    assert waits.wait(10)
    loop.close()
    waiting.join(10)
    assert [sample.answer for sample in answers] == ["A"] and len(pool.flights) == 0


async def test_a_synchronous_call_inside_a_loop_does_not_wait_for_a_task_of_that_loop():
    pool = uniform(2)
    release = asyncio.Event()
    running = asyncio.Event()

    async def run(job, slot=None):
        running.set()
        await release.wait()
        return sampler()(job)

    task = asyncio.create_task(adrive(call(pool), run, desk(pool)))
    await running.wait()
    winner = drive(call(pool), sampler("B"), desk(pool))
    assert winner.key == "B"
    release.set()
    assert (await task).key == "A"


def test_a_known_set_runs_as_many_samples_at_once_as_asked():
    pool = BudgetPool(samples=40)
    counter = BatchDesk(pool, 8, program=None, requests=1, keys=None)
    plans = [plan(i) for i in range(8)]
    running, most, lock = 0, 0, threading.Lock()
    together = threading.Barrier(4)

    def run(job, slot=None):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if job.call < 4 and job.draw.index == 0:
            together.wait(10)  # four must be in flight at once to get past this
        with lock:
            running -= 1
        return sampler()(job)

    seen = []
    steps = coordinate(plans, counter.known, pool.policy, window=8)
    drive_known(steps, run, counter, num_threads=4, done=lambda job, sample: seen.append(job.call))
    assert most == 4
    assert len(seen) == 40 == pool.statistics().spent.samples


def shared_round(*groups):
    """A plan of one round whose jobs are in these groups."""
    samples = yield Round(
        [Job(Draw(i), open_call(BudgetPool(9)).take(), group=group) for i, group in enumerate(groups)]
    )
    return samples


def test_jobs_of_a_group_get_their_places_in_one_request_and_run_one_after_another():
    seen = {}

    def run(job, slot):
        seen[job.draw.index] = slot, threading.get_ident()
        return Sample(job.draw)

    assert [sample.draw.index for sample in drive(shared_round(0, 0, None, 1), run, desk())] == [0, 1, 2, 3]
    (first, first_thread), (second, second_thread), (alone, _), (other, _) = (seen[i] for i in range(4))
    assert alone is None
    assert (first.position, second.position, other.position) == (0, 1, 0)
    assert first.request is second.request is not other.request
    assert len(first.request.leases) == 2
    assert first_thread == second_thread


async def test_tasks_of_a_group_get_their_places_in_one_request():
    slots = []

    async def run(job, slot):
        slots.append(slot)
        return Sample(job.draw)

    await adrive(shared_round(0, 0), run, desk())
    assert [slot.position for slot in slots] == [0, 1]
    assert slots[0].request is slots[1].request


class Nested(dspy.Module):
    """A program without ``aforward`` that runs a loop for the one in it."""

    def __init__(self, inner=None, *, in_thread_of_its_own=False):
        super().__init__()
        self.inner = inner
        self.in_thread_of_its_own = in_thread_of_its_own

    def forward(self, question):
        if self.inner is None:
            return dspy.Prediction(answer="42")
        if not self.in_thread_of_its_own:
            return asyncio.run(self.inner.acall(question=question))
        with ThreadPoolExecutor(1) as executor:  # knows nothing of the caller's context
            return executor.submit(lambda: asyncio.run(self.inner.acall(question=question))).result()


@pytest.mark.parametrize("in_thread_of_its_own", [False, True])
def test_programs_that_run_loops_for_those_in_them_stop_at_no_concurrency(in_thread_of_its_own):
    qa = DynScaling(Nested(), 2)
    for _ in range(2):
        qa = DynScaling(Nested(qa, in_thread_of_its_own=in_thread_of_its_own), 1)
    calls = 3 * drivers.HELPERS

    async def everyone():
        return await asyncio.gather(*(qa.acall(question=f"{i}") for i in range(calls)))

    answers = []
    # Where they stop, no thread of theirs ever ends: the test is to fail all the same.
    runner = threading.Thread(target=lambda: answers.extend(asyncio.run(everyone())), daemon=True)
    runner.start()
    runner.join(60)
    assert [answer.answer for answer in answers] == ["42"] * calls


class Blocked(dspy.Module):
    """Answers when it is told to, not before."""

    def __init__(self):
        super().__init__()
        self.leave = threading.Event()

    def forward(self, question):
        assert self.leave.wait(60)
        return dspy.Prediction(answer="late")


@pytest.mark.parametrize("way", ["call", "acall", "batch"])
def test_a_deadline_ends_a_call_whose_program_goes_on(way):
    program, pool = Blocked(), BudgetPool(samples=8, deadline=0.3)
    qa = DynScaling(program, budget=pool)
    try:
        with pytest.raises(BudgetExhausted, match="deadline"):
            if way == "call":
                qa(question="q")
            elif way == "acall":
                asyncio.run(qa.acall(question="q"))
            else:
                qa.batch([dspy.Example(question="q").with_inputs("question")], provide_traceback=False, max_errors=1)
    finally:
        program.leave.set()
    until(lambda: pool.statistics().reserved == Cost())
    assert pool.statistics().open_calls == 0

"""The two ways to run a plan: threads and asyncio. They wait; every decision is the plan's."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from dynscale_dspy.budget.stores.forks import in_child
from dynscale_dspy.execution.books import unblocked, unwaited
from dynscale_dspy.execution.desk import Desk
from dynscale_dspy.execution.shared_request import SharedRequest, Slot
from dynscale_dspy.execution.threads import Threads
from dynscale_dspy.sampling.sample import SPARED, Sample
from dynscale_dspy.sampling.steps import Change, Job, Look, Notice, ReserveFor, Round, Step, Wait, grouped

T = TypeVar("T")

Run = Callable[[Job, "Slot | None"], Sample]
"""Runs one job, in its slot if it shares a request."""
ARun = Callable[[Job, "Slot | None"], Awaitable[Sample]]
"""The same in a task."""

LONGEST_WAIT = 600.0
"""Seconds a call waits for the same call in flight before it goes alone."""
HELPERS = 16
"""Samples in flight, over the whole process, up to which helper threads join in.

One call alone draws its samples side by side. Where many threads make calls at once they fill the wire themselves, and
helpers would only multiply the concurrency that was asked for. A caller never depends on a helper.
"""

_lock = threading.Lock()
_helpers: ThreadPoolExecutor | None = None
_in_flight = 0
_blocking = Threads(HELPERS, name="dynscale-blocking")


def _begin_anew() -> None:
    """Of a fork the child has none of the threads, and nothing of what they had in hand."""
    global _lock, _helpers, _in_flight
    _lock, _helpers, _in_flight = threading.Lock(), None, 0


in_child(_begin_anew)


def drive(steps: Generator[Step, Any, T], run: Run, desk: Desk) -> T:
    """Run a plan from this thread.

    Args:
        steps: The plan.
        run: Runs one job.
        desk: Answers what the plan asks the pool; it is closed in the end.

    Returns:
        What the plan returns.
    """
    reply: Any = None
    try:
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as stop:
                return stop.value
            match step:
                case Round():
                    reply = _run_together(step, run)
                case Wait():
                    reply = _wait(step)
                case Notice(send=send):
                    reply = send()
                case _:
                    reply = desk.carry_out(step)
    finally:
        steps.close()
        desk.close()


async def adrive(steps: Generator[Step, Any, T], run: ARun, desk: Desk) -> T:
    """Run a plan from this task; see :func:`drive`."""
    reply: Any = None
    try:
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as stop:
                return stop.value
            match step:
                case Round():
                    reply = await _gather(step, run)
                case Wait():
                    reply = await _await(step)
                case Notice(asend=asend):
                    reply = await asend()
                case _ if desk.may_block:
                    reply = await unblocked(True, partial(desk.carry_out, step))
                case _:
                    reply = desk.carry_out(step)
    finally:
        steps.close()
        # Not waited for: this task may be on its way out because it was cancelled.
        unwaited(desk.may_block, desk.close)


def drive_known(
    steps: Generator[list[Job] | Wait | Look | ReserveFor | Change, Any, None],
    run: Run,
    desk: Desk,
    *,
    num_threads: int,
    done: Callable[[Job, Sample], None],
    in_order: bool = True,
) -> None:
    """Run a known set's plan with ``num_threads`` requests at a time.

    Args:
        steps: The plan.
        run: Runs one job.
        desk: Answers what the plan asks the pool; it is closed in the end.
        num_threads: Threads.
        done: Told each sample as it is handed back.
        in_order: Whether samples are handed back in the order of issue, or as they finish.
    """
    issued: deque[Future[list[Sample]]] = deque()
    finished: SimpleQueue[Future[list[Sample]]] = SimpleQueue()
    groups: dict[Future[list[Sample]], list[Job]] = {}
    executor = ThreadPoolExecutor(max_workers=num_threads, thread_name_prefix="dynscale-batch")
    reply: Any = None
    try:
        while True:
            try:
                jobs = steps.send(reply)
            except StopIteration:
                return
            if isinstance(jobs, Wait):
                reply = _wait(jobs)
                continue
            if not isinstance(jobs, list):
                reply = desk.carry_out(jobs)
                continue
            for group in grouped(jobs):
                future = executor.submit(contextvars.copy_context().run, _run_group, group, run)
                groups[future] = group
                if in_order:
                    issued.append(future)
                else:
                    future.add_done_callback(finished.put)
            future = issued.popleft() if in_order else finished.get()
            reply = list(zip(groups.pop(future), future.result(), strict=True))
            for job, sample in reply:
                done(job, sample)
    finally:
        steps.close()
        executor.shutdown(wait=True, cancel_futures=True)
        desk.close()


async def in_thread(run: Callable[[], T]) -> T:
    """Run blocking code from a task, in a thread of our own.

    Not ``asyncio.to_thread``: DSPy's asynchronous language models hop through that small executor, and would starve.
    Nor a helper: the code may run a loop that awaits another such call, which must find a thread however many wait.
    """
    return await asyncio.wrap_future(_blocking.submit(contextvars.copy_context().run, run))


def _run_together(step: Round, run: Run) -> list[Sample]:
    """Run jobs side by side. The calling thread works too, so that full or nested thread pools cannot deadlock."""
    groups = grouped(step.jobs)
    results: list[Any] = [None] * len(groups)
    # Each in its own copy of the caller's context: DSPy's settings and tracing parents travel with it.
    todo = deque((position, contextvars.copy_context(), group) for position, group in enumerate(groups))
    changed = threading.Condition()
    left = len(groups)

    def work() -> None:
        nonlocal left
        helping = threading.current_thread() is not caller
        while todo and _join_in(helping):
            try:
                position, context, group = todo.popleft()
            except IndexError:  # another thread was faster
                _drop_out()
                return
            try:
                results[position] = context.run(_run_group, group, run)
                with changed:
                    step.tell(results[position])
            except BaseException as error:
                results[position] = error
                if not helping:
                    todo.clear()  # an interruption: nothing more is to start
                    raise
            finally:
                _drop_out()
                with changed:
                    left -= 1
                    changed.notify_all()

    caller = threading.current_thread()
    for _ in range(len(groups) - 1):
        try:
            _executor().submit(work)
        except RuntimeError:  # the interpreter is shutting down: the caller does it all
            break
    work()
    with changed:
        while left:
            changed.wait(1.0)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [sample for samples in results for sample in samples]


async def _gather(step: Round, run: ARun) -> list[Sample]:
    groups = grouped(step.jobs)
    tasks = [asyncio.ensure_future(_arun_group(group, run)) for group in groups]
    waiting = set(tasks)
    # Waking for each costs a look at all of them: only where one may make the others needless.
    wake = asyncio.FIRST_COMPLETED if step.may_end_early else asyncio.FIRST_EXCEPTION
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=wake)
            for task in done:
                step.tell(task.result())
            if step.over:
                break
        for task in waiting:
            task.cancel()  # closes its connection, so that a local server stops writing
        if waiting:
            await asyncio.gather(*waiting, return_exceptions=True)
        return [
            sample
            for task, group in zip(tasks, groups, strict=True)
            for sample in (task.result() if not task.cancelled() else _spared(group))
        ]
    finally:
        # On an error or a cancellation the other samples must not run on unseen.
        unfinished = [task for task in tasks if not task.done()]
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.gather(*unfinished, return_exceptions=True)


def _spared(jobs: Sequence[Job]) -> list[Sample]:
    """The samples of tasks that were cancelled before they began, since the vote was decided without them."""
    return [Sample(job.draw, problem=SPARED) for job in jobs]


def _run_group(jobs: Sequence[Job], run: Run) -> list[Sample]:
    return [run(job, slot) for job, slot in _slots(jobs)]


async def _arun_group(jobs: Sequence[Job], run: ARun) -> list[Sample]:
    return [await run(job, slot) for job, slot in _slots(jobs)]


def _slots(jobs: Sequence[Job]) -> list[tuple[Job, Slot | None]]:
    """The jobs of one group, each with its place in the request they share."""
    if jobs[0].group is None:
        return [(job, None) for job in jobs]
    request = SharedRequest([job.lease for job in jobs if job.lease is not None])
    return [(job, Slot(request, position)) for position, job in enumerate(jobs)]


def _wait(step: Wait) -> bool | None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        # A synchronous call inside a running loop: what it would wait for may need this very loop to go on.
        return step.future.done() or None
    try:
        step.future.exception(timeout=LONGEST_WAIT)
    except FutureTimeoutError:
        return False
    return True


async def _await(step: Wait) -> bool:
    waited_for = asyncio.wrap_future(step.future)
    # The plan looks at the outcome; asyncio need not report an error there as forgotten.
    waited_for.add_done_callback(lambda future: future.cancelled() or future.exception())
    await asyncio.wait([waited_for], timeout=LONGEST_WAIT)
    return step.future.done()


def _join_in(helping: bool) -> bool:
    """Count one more sample in flight; False if that is more than a helper should start."""
    global _in_flight
    with _lock:
        if helping and _in_flight >= HELPERS:
            return False
        _in_flight += 1
        return True


def _drop_out() -> None:
    global _in_flight
    with _lock:
        _in_flight = max(_in_flight - 1, 0)  # a fork made in a sample may have set it to nothing


def _executor() -> ThreadPoolExecutor:
    global _helpers
    with _lock:
        if _helpers is None:
            _helpers = ThreadPoolExecutor(max_workers=HELPERS, thread_name_prefix="dynscale")
        return _helpers

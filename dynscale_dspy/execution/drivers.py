"""The two ways to run a plan: threads and asyncio. They wait; every decision is the plan's."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from dynscale_dspy.budget.locking import running_loop
from dynscale_dspy.budget.stores.forks import in_child
from dynscale_dspy.execution.books import unblocked, unwaited
from dynscale_dspy.execution.desk import Desk
from dynscale_dspy.execution.shared_request import SharedRequest, Slot
from dynscale_dspy.execution.threads import Threads
from dynscale_dspy.sampling.sample import SPARED, Sample
from dynscale_dspy.sampling.steps import (
    Change,
    Consult,
    Fits,
    Job,
    Look,
    Notice,
    ReserveFor,
    Round,
    Step,
    Wait,
    grouped,
)

T = TypeVar("T")

Run = Callable[[Job, "Slot | None"], Sample]
"""Runs one job, in its slot if it shares a request."""
ARun = Callable[[Job, "Slot | None"], Awaitable[Sample]]
"""The same in a task."""

LONGEST_WAIT = 600.0
"""Seconds a call waits for the same call in flight before it goes alone."""
LOOK_AGAIN = 1.0
"""Seconds between two looks of whoever waits: at the clock, and at what was lost without a word."""
GRACE = 0.5
"""Seconds after a deadline in which what it ends may end: tasks that are cut off, and the same call in flight."""
HELPERS = 16
"""Samples in flight, over the whole process, up to which helper threads join in.

One call alone draws its samples side by side. Where many threads make calls at once they fill the wire themselves, and
helpers would only multiply the concurrency that was asked for. A caller never depends on a helper.
"""

_lock = threading.Lock()
_helpers: _Helpers | None = None
_in_flight: weakref.WeakSet[_Place] = weakref.WeakSet()
_blocking = Threads(HELPERS, name="dynscale-blocking")


def _begin_anew() -> None:
    """Of a fork the child has none of the threads, and nothing of what they had in hand."""
    global _lock, _helpers, _in_flight
    _lock, _helpers, _in_flight = threading.Lock(), None, weakref.WeakSet()


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
                    reply = _run_together(step, run, desk)
                case Wait():
                    reply = _wait(step, desk)
                case Notice(send=send):
                    reply = send()
                case Consult(ask=ask):
                    reply = ask()
                case _:
                    reply = desk.carry_out(step)
    finally:
        try:
            steps.close()
        finally:
            desk.close()


async def adrive(steps: Generator[Step, Any, T], run: ARun, desk: Desk) -> T:
    """Run a plan from this task; see :func:`drive`.

    Raises:
        RuntimeError: If no event loop of asyncio runs here; nothing is spent then.
    """
    if running_loop() is None:
        steps.close()
        raise RuntimeError(
            "a wrapped program is awaited on asyncio's event loop, and none runs here; under trio call it in a thread: "
            "await trio.to_thread.run_sync(lambda: qa(...))"
        )
    reply: Any = None
    try:
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as stop:
                return stop.value
            match step:
                case Round():
                    reply = await _gather(step, run, desk)
                case Wait():
                    reply = await _await(step, desk)
                case Notice(asend=asend):
                    reply = await asend()
                case Consult(aask=aask):
                    reply = await aask()
                case _ if desk.may_block:
                    reply = await unblocked(True, partial(desk.carry_out, step))
                case _:
                    reply = desk.carry_out(step)
    finally:
        try:
            steps.close()
        finally:
            # Not waited for: this task may be on its way out because it was cancelled.
            unwaited(desk.may_block, desk.close)


def drive_known(
    steps: Generator[list[Job] | Wait | Look | ReserveFor | Fits | Change, Any, None],
    run: Run,
    desk: Desk,
    *,
    num_threads: int,
    done: Callable[[Job, Sample], None],
    after: Callable[[Sequence[Job], list[Sample]], list[Sample]] = lambda _, samples: samples,
    in_order: bool = True,
) -> None:
    """Run a known set's plan with ``num_threads`` requests at a time.

    Args:
        steps: The plan.
        run: Runs one job.
        desk: Answers what the plan asks the pool; it is closed in the end.
        num_threads: Threads.
        done: Told each sample as it is handed back.
        after: Called in its thread with the samples of each request, for what else they need.
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
                reply = _wait(jobs, desk)
                continue
            if not isinstance(jobs, list):
                reply = desk.carry_out(jobs)
                continue
            for group in grouped(jobs):
                future = executor.submit(contextvars.copy_context().run, _run_known, group, run, after)
                groups[future] = group
                if in_order:
                    issued.append(future)
                else:
                    future.add_done_callback(finished.put)
            future = _next_issued(issued, desk) if in_order else _next_finished(finished, groups, desk)
            group = groups.pop(future)
            samples = future.result() if future.done() else _cut_off(group, desk)
            reply = list(zip(group, samples, strict=True))
            for job, sample in reply:
                done(job, sample)
    finally:
        steps.close()
        # After a deadline nobody waits: threads cannot be cut off, and settle what they have begun when it ends.
        executor.shutdown(wait=desk.seconds_left() > 0, cancel_futures=True)
        desk.close()


async def in_thread(run: Callable[[], T]) -> T:
    """Run blocking code from a task, in a thread of our own.

    Not ``asyncio.to_thread``: DSPy's asynchronous language models hop through that small executor, and would starve.
    Nor a helper: the code may run a loop that awaits another such call, which must find a thread however many wait.
    """
    return await asyncio.wrap_future(_blocking.submit(contextvars.copy_context().run, run))


def _run_together(step: Round, run: Run, desk: Desk) -> list[Sample]:
    """Run jobs side by side. The calling thread works too, so that full or nested thread pools cannot deadlock.

    Where there is a deadline another thread works in its place, of which nobody expects anything afterwards: no thread
    can be cut off in the middle of a request, but the caller need not wait for it.
    """
    groups = grouped(step.jobs)
    results: list[Any] = [None] * len(groups)
    # Each in its own copy of the caller's context: DSPy's settings and tracing parents travel with it.
    todo = deque((position, contextvars.copy_context(), _Place()) for position in range(len(groups)))
    places = [weakref.ref(place) for *_, place in todo]  # then held by whoever draws that group
    telling = threading.Lock()
    finished: SimpleQueue[int] = SimpleQueue()
    given_up = False
    here = desk.seconds_left() == math.inf

    def drop() -> None:
        """Begin nothing more. What was not begun counts as finished, so that nobody waits for it."""
        while todo:
            with contextlib.suppress(IndexError):  # another thread was faster
                finished.put(todo.popleft()[0])

    def work(*, helping: bool = True) -> None:
        here_now = _Place()
        while todo and _join_in(here_now, helping):
            try:
                try:
                    position, context, _place = todo.popleft()
                except IndexError:  # another thread was faster
                    return
                try:
                    results[position] = samples = context.run(_run_group, groups[position], run)
                    with telling:
                        if not given_up:
                            step.tell(samples)
                except BaseException as error:
                    if not helping:
                        drop()  # an interruption: nothing more is to start
                        if here:
                            raise  # and is kept nowhere else, or what its frames hold would not be given back
                    results[position] = error
                finally:
                    finished.put(position)
            finally:
                _drop_out(here_now)

    for _ in range(len(groups) - 1):
        try:
            _executor().submit(work)
        except RuntimeError:  # the interpreter is shutting down: the caller does it all
            break
    if here:
        work(helping=False)
    else:
        threading.Thread(target=_quietly, args=(partial(work, helping=False),), name="dynscale", daemon=True).start()
    left = set(range(len(groups)))
    while left and not given_up:
        try:
            left.discard(finished.get(timeout=min(LOOK_AGAIN, desk.seconds_left())))
        except Empty:
            for at in [at for at in left if places[at]() is None or isinstance(results[at], BaseException)]:
                left.discard(at)  # its thread was cut off in an instant at which it could not tell
                results[at] = results[at] or _lost(groups[at])
            if desk.seconds_left() <= 0:
                drop()
                with telling:
                    given_up = True
    samples: list[Sample] = []
    ended = list(results)
    for result in ended:
        if isinstance(result, BaseException):
            raise result
    for group, result in zip(groups, ended, strict=True):
        samples += _cut_off(group, desk) if result is None else result
    return samples


def _quietly(work: Callable[[], None]) -> None:
    """Work in a thread of its own; an error is among the results already."""
    with contextlib.suppress(BaseException):
        work()


async def _gather(step: Round, run: ARun, desk: Desk) -> list[Sample]:
    groups = grouped(step.jobs)
    tasks = [asyncio.ensure_future(_arun_group(group, run)) for group in groups]
    waiting = set(tasks)
    # Waking for each costs a look at all of them: only where one may make the others needless.
    wake = asyncio.FIRST_COMPLETED if step.may_end_early else asyncio.FIRST_EXCEPTION
    late = False
    try:
        while waiting and not step.over and not late:
            left = desk.seconds_left()
            done, waiting = await asyncio.wait(waiting, timeout=None if left == math.inf else left, return_when=wake)
            for task in done:
                step.tell(task.result())
            late = desk.seconds_left() <= 0
        for task in waiting:
            task.cancel()  # closes its connection, so that a local server stops writing
        if waiting:
            await asyncio.wait(waiting, timeout=GRACE if late else None)
        return [
            sample
            for task, group in zip(tasks, groups, strict=True)
            for sample in (
                _outcome(task, group, desk) if late else _spared(group) if task.cancelled() else task.result()
            )
        ]
    except GeneratorExit:  # thrown away with its loop, and the tasks with it
        raise
    except BaseException:
        # On an error or a cancellation the other samples must not run on unseen.
        unfinished = [task for task in tasks if not task.done()]
        for task in unfinished:
            task.cancel()
        if unfinished:
            await asyncio.gather(*unfinished, return_exceptions=True)
        raise


def _outcome(task: asyncio.Task[list[Sample]], jobs: Sequence[Job], desk: Desk) -> list[Sample]:
    """What a task has brought that was cut off if it had not ended; one that still goes on is not waited for."""
    return _cut_off(jobs, desk) if not task.done() or task.cancelled() else task.result()


def _cut_off(jobs: Sequence[Job], desk: Desk) -> list[Sample]:
    """The samples of jobs that nobody waits for any more, since the deadline has passed."""
    return [Sample(job.draw, problem="failed", error=desk.cut_off()) for job in jobs]


def _lost(jobs: Sequence[Job]) -> list[Sample]:
    """The samples of jobs whose thread was ended from outside."""
    return [
        Sample(job.draw, problem="failed", error=RuntimeError("the thread of this sample was ended")) for job in jobs
    ]


def _next_issued(issued: deque[Future[list[Sample]]], desk: Desk) -> Future[list[Sample]]:
    """The oldest one, which has ended unless the deadline has passed."""
    future = issued.popleft()
    while not future.done() and (left := desk.seconds_left()) > 0:
        wait([future], timeout=min(left, LOOK_AGAIN))
    return future


def _next_finished(
    finished: SimpleQueue[Future[list[Sample]]], under_way: Iterable[Future[list[Sample]]], desk: Desk
) -> Future[list[Sample]]:
    """The next to end; after the deadline any one."""
    while True:
        try:
            return finished.get(timeout=min(LOOK_AGAIN, desk.seconds_left()))
        except Empty:
            if desk.seconds_left() <= 0:
                return next(iter(under_way))


def _spared(jobs: Sequence[Job]) -> list[Sample]:
    """The samples of tasks that were cancelled before they began, since the vote was decided without them."""
    return [Sample(job.draw, problem=SPARED) for job in jobs]


def _run_group(jobs: Sequence[Job], run: Run) -> list[Sample]:
    return [run(job, slot) for job, slot in _slots(jobs)]


def _run_known(
    jobs: Sequence[Job], run: Run, after: Callable[[Sequence[Job], list[Sample]], list[Sample]]
) -> list[Sample]:
    return after(jobs, _run_group(jobs, run))


async def _arun_group(jobs: Sequence[Job], run: ARun) -> list[Sample]:
    return [await run(job, slot) for job, slot in _slots(jobs)]


def _slots(jobs: Sequence[Job]) -> list[tuple[Job, Slot | None]]:
    """The jobs of one group, each with its place in the request they share."""
    if jobs[0].group is None:
        return [(job, None) for job in jobs]
    request = SharedRequest([job.lease for job in jobs if job.lease is not None])
    return [(job, Slot(request, position)) for position, job in enumerate(jobs)]


def _wait(step: Wait, desk: Desk) -> bool | None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        # A synchronous call inside a running loop: what it would wait for may need this very loop to go on.
        return step.future.done() or None
    for pause in _pauses(step, desk):
        try:
            step.future.exception(timeout=pause)
        except FutureTimeoutError:
            continue
        return True
    return step.future.done()


async def _await(step: Wait, desk: Desk) -> bool:
    waited_for = asyncio.wrap_future(step.future)
    # The plan looks at the outcome; asyncio need not report an error there as forgotten.
    waited_for.add_done_callback(lambda future: future.cancelled() or future.exception())
    for pause in _pauses(step, desk):
        if (await asyncio.wait([waited_for], timeout=pause))[0]:
            break
    return step.future.done()


def _pauses(step: Wait, desk: Desk) -> Iterator[float]:
    """A long wait in parts, after each of which the step looks.

    It ends a little after the deadline, so that the same call in flight can end first.
    """
    end = time.monotonic() + LONGEST_WAIT
    graced = False
    while (left := end - time.monotonic()) > 0 and not graced:
        before_deadline = desk.seconds_left()
        graced = before_deadline <= 0
        yield GRACE if graced else min(left, LOOK_AGAIN, before_deadline)
        if step.look is not None:
            step.look()


class _Place:
    """One sample in flight. A thread that is cut off in an instant at which it cannot drop out does so all the same."""

    __slots__ = ("__weakref__",)


def _join_in(place: _Place, helping: bool) -> bool:
    """Count one more sample in flight; False if that is more than a helper should start."""
    with _lock:
        if helping and len(_in_flight) >= HELPERS:
            return False
        _in_flight.add(place)
        return True


def _drop_out(place: _Place) -> None:
    with _lock:
        _in_flight.discard(place)


class _Helpers:
    """Threads that join in. An interrupt in the middle of :meth:`submit` costs a helper at most.

    In a ``ThreadPoolExecutor`` it may leave a condition's lock taken, for which every later caller waits.
    """

    def __init__(self) -> None:
        self._todo: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._numbers = itertools.count()
        self._made = 0

    def submit(self, work: Callable[[], None]) -> None:
        """Have one of them work as soon as it can."""
        self._todo.put(work)
        if self._made < HELPERS and self._todo.qsize() > 0:
            number = self._made = next(self._numbers) + 1
            if number <= HELPERS:
                served = partial(_quietly, self._serve)
                threading.Thread(target=served, name=f"dynscale_{number}", daemon=True).start()

    def _serve(self) -> None:
        while True:
            _quietly(self._todo.get())


def _executor() -> _Helpers:
    global _helpers
    with _lock:
        if _helpers is None:
            _helpers = _Helpers()
        return _helpers

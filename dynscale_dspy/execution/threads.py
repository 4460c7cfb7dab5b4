"""Threads for code that may wait for other code of its kind."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from dynscale_dspy.budget.stores.forks import in_child

T = TypeVar("T")


class Threads:
    """Runs code in threads, and never has it wait for a thread: what is submitted may wait for what it submits itself.

    A few threads are kept. While all of them are at work, further code gets a thread that ends with it. Only where the
    system has no thread left does it wait for one of those that are kept. The child of a fork has threads of its own.

    Args:
        kept: How many threads are kept.
        name: What their names begin with.

    Example:
        >>> threads = Threads(1, name="worker")
        >>> threads.submit(lambda: threads.submit(lambda: "inner").result()).result()
        'inner'
    """

    def __init__(self, kept: int, *, name: str) -> None:
        self._kept = kept
        self._name = name
        self._begin_anew()
        _known.add(self)

    def submit(self, run: Callable[..., T], *args: Any) -> Future[T]:
        """Run code in a thread.

        Args:
            run: The code.
            args: Its arguments.

        Returns:
            What comes of it.

        Raises:
            RuntimeError: If the interpreter is shutting down.
        """
        with self._lock:
            at_work, executor = self._at_work, self._executor
            if executor is None:
                executor = self._executor = ThreadPoolExecutor(self._kept, thread_name_prefix=self._name)
            is_free = len(at_work) < self._kept
            place = object()
            if is_free:
                at_work.add(place)
        if not is_free:
            future: Future[T] = Future()
            thread = threading.Thread(target=_carry_out, args=(future, run, args), name=f"{self._name}-further")
            with contextlib.suppress(RuntimeError):  # the system has no thread left
                thread.start()
                return future
        try:
            future = executor.submit(run, *args)
        except BaseException:
            at_work.discard(place)
            raise
        # Done at the very end of the run, or as soon as it is cancelled before it has begun.
        future.add_done_callback(lambda _: at_work.discard(place))
        return future

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._at_work: set[object] = set()
        """One for each run that has a thread that is kept, or will have one at once."""


_known: weakref.WeakSet[Threads] = weakref.WeakSet()


def _after_fork() -> None:
    for threads in list(_known):
        threads._begin_anew()


in_child(_after_fork)


def _carry_out(future: Future[T], run: Callable[..., T], args: tuple[Any, ...]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        outcome = run(*args)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(outcome)

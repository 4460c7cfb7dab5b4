"""Who waits for budget to become free."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future

from dynscale_dspy.budget.locking import StepLock, step

LOOK_AGAIN = 0.1
"""Seconds between two looks at a budget that other processes may free unannounced."""


class WaitQueue:
    """Futures that are resolved when something that was held is free again. All of them: each looks for itself.

    Its methods are called inside the pool's lock; futures are resolved outside it.

    Args:
        lock: The pool's lock.
        polls: Whether budget may become free unannounced, so that those who wait look again from time to time.
    """

    def __init__(self, lock: StepLock, *, polls: bool) -> None:
        self.lock = lock
        self.without_first = 0
        """How many of those that wait are calls without a first sample."""
        self._polls = polls
        self._timer: threading.Timer | None = None
        self._waiting: list[Future[None]] = []

    def __len__(self) -> int:
        return sum(not future.done() for future in self._waiting)

    def join(self) -> Future[None]:
        """A future that is done at the next change."""
        future: Future[None] = Future()
        self._waiting.append(future)
        if self._polls and (self._timer is None or not self._timer.is_alive()):  # an interrupt kept it from starting
            self._timer = threading.Timer(LOOK_AGAIN, self._look_again)
            self._timer.daemon = True
            self._timer.start()
        return future

    def wake(self) -> None:
        """Something has changed: everyone who waits is to try again.

        Each stays in the queue until it is told: who is not, because of an interrupt, is at the next change.
        """
        self._waiting = [future for future in self._waiting if not future.done()]
        self.without_first = 0
        for future in self._waiting:
            self.lock.defer(_resolving(future))

    def begin_anew(self) -> None:
        """In the child of a fork nobody waits, and there is no timer."""
        self._waiting, self._timer, self.without_first = [], None, 0

    @step
    def _look_again(self) -> None:
        self._timer = None
        self.wake()


def _resolving(future: Future[None]) -> Callable[[], None]:
    def resolve() -> None:
        with contextlib.suppress(Exception):  # resolved before, or cancelled with the task that waited
            future.set_result(None)

    return resolve

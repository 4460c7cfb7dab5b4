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
        self._polling = False
        self._waiting: list[Future[None]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self) -> Future[None]:
        """A future that is done at the next change."""
        future: Future[None] = Future()
        self._waiting.append(future)
        if self._polls and not self._polling:
            self._polling = True
            timer = threading.Timer(LOOK_AGAIN, self._look_again)
            timer.daemon = True
            timer.start()
        return future

    def wake(self) -> None:
        """Something has changed: everyone who waits is to try again."""
        waiting, self._waiting, self.without_first = self._waiting, [], 0
        for future in waiting:
            self.lock.defer(_resolving(future))

    def begin_anew(self) -> None:
        """In the child of a fork nobody waits, and there is no timer."""
        self._waiting, self._polling, self.without_first = [], False, 0

    @step
    def _look_again(self) -> None:
        self._polling = False
        self.wake()


def _resolving(future: Future[None]) -> Callable[[], None]:
    def resolve() -> None:
        with contextlib.suppress(Exception):  # resolved before, or cancelled with the task that waited
            future.set_result(None)

    return resolve

"""The lock of a pool and its scopes."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class StepLock:
    """One lock for a pool and its scopes, so that charging all of them is one step.

    What is deferred while the lock is held (resolving futures, calling the user's functions) runs once it is free:
    nothing of the user's runs inside it.

    Args:
        before: Called at the beginning of each step, inside the lock.
        after: Called at its end, inside the lock.
    """

    def __init__(self, before: Callable[[], object], after: Callable[[], object]) -> None:
        self.mutex = threading.Lock()
        self.before = before
        self.after = after
        self._deferred: deque[Callable[[], object]] = deque()

    def begin_anew(self) -> None:
        """In the child of a fork: no thread holds it, and what others have deferred is done in the parent."""
        self.mutex = threading.Lock()
        self._deferred = deque()

    def defer(self, action: Callable[[], object]) -> None:
        """Have something done after the step."""
        self._deferred.append(action)

    def run_deferred(self) -> None:
        """Do what was deferred, all of it, whatever one of the actions raises; then raise the first error."""
        first: BaseException | None = None
        while self._deferred:
            try:
                action = self._deferred.popleft()
            except IndexError:  # another thread was faster
                break
            try:
                action()
            except BaseException as error:
                first = first or error
        if first is not None:
            raise first


class HasLock(Protocol):
    """An object whose steps one lock guards."""

    @property
    def lock(self) -> StepLock:
        """The lock."""
        ...


def step(method: F) -> F:
    """Decorator that makes a method one step: it runs inside ``self.lock``. Steps do not call each other."""

    @functools.wraps(method)
    def wrapper(self: HasLock, *args: Any, **kwargs: Any) -> Any:
        lock = self.lock
        try:
            with lock.mutex:
                try:
                    lock.before()
                    return method(self, *args, **kwargs)
                finally:
                    lock.after()
        finally:
            lock.run_deferred()

    return wrapper  # type: ignore[return-value]

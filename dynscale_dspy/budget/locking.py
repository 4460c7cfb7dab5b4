"""The lock of a pool and its scopes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections import deque
from collections.abc import Callable, Iterator
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
        self._lost: deque[Callable[[], object]] = deque()
        self._by_loop: dict[asyncio.AbstractEventLoop, dict[object, Callable[[], object]]] = {}

    def defer(self, action: Callable[[], object]) -> None:
        """Have something done after the step."""
        self._deferred.append(action)

    def lost(self, give_back: Callable[[], object]) -> None:
        """Have something that nobody holds any more given back, before the next step. It may be a step of its own.

        Called while rubbish is collected, at any instant and in any thread: it takes no lock.
        """
        self._lost.append(give_back)

    @contextlib.contextmanager
    def held_in(self, loop: asyncio.AbstractEventLoop | None, give_back: Callable[[], object]) -> Iterator[None]:
        """In the block a task of this loop holds something. If the loop is closed first, the next step gives it back.

        Connections that outlive a loop may keep its tasks for ever, so that nothing is cleaned up in them.
        """
        if loop is None:
            yield
            return
        place = object()
        self._by_loop.setdefault(loop, {})[place] = give_back
        try:
            yield
        finally:
            held = self._by_loop.get(loop, {})
            held.pop(place, None)
            if not held:
                self._by_loop.pop(loop, None)

    def find_lost(self) -> None:
        """Give back what was lost."""
        for loop in list(self._by_loop):
            if loop.is_closed():
                self._lost.extend(self._by_loop.pop(loop, {}).values())
        while self._lost:
            try:
                give_back = self._lost.popleft()
            except IndexError:  # another thread was faster
                return
            give_back()

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
        lock.find_lost()
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

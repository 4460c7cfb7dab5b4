"""The lock of a pool and its scopes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

logger = logging.getLogger(__name__)

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
        self._held: dict[weakref.ref[Any], _Held] = {}
        self._lost: deque[weakref.ref[Any]] = deque()
        self._loops: dict[asyncio.AbstractEventLoop, None] = {}

    def begin_anew(self) -> None:
        """In the child of a fork: no thread holds it, and what others have deferred is done in the parent."""
        self.mutex = threading.Lock()
        self._deferred = deque()

    def defer(self, action: Callable[[], object]) -> None:
        """Have something done after the step."""
        self._deferred.append(action)

    def hold(
        self, holder: object, give_back: Callable[[], object], loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        """Have something given back, before the next step, once its holder is gone without having done so.

        An interrupt or a cancellation can keep any code from running, but not an object from being thrown away. What
        notes that is no Python code, so that it cannot be interrupted, and takes no lock.

        Args:
            holder: What is dropped when the call is over, whatever ends it.
            give_back: Does it; does not hold the holder, and doing it twice does nothing.
            loop: That of the holder's task. If it is closed the holder is gone too: connections that outlive a loop may
                keep its tasks.
        """
        if loop is not None:
            self._loops[loop] = None
        self._held[weakref.ref(holder, self._lost.append)] = _Held(give_back, loop)

    @property
    def may_have_lost(self) -> bool:
        """Whether anything may have to be given back."""
        return bool(self._lost or self._loops)

    def release(self, holder: object) -> None:
        """The holder has given back what it held."""
        self._held.pop(weakref.ref(holder), None)

    def find_lost(self) -> None:
        """Give back what was lost. What an interrupt cuts off here is given back at the next step."""
        for loop in list(self._loops):
            if loop.is_closed():
                self._lost.extend(ref for ref, held in list(self._held.items()) if held.loop is loop)
                self._loops.pop(loop, None)
        for ref in list(self._lost):
            held, here = self._held.get(ref), _Here()
            if held is not None:
                if held.is_being_given_back:  # by another thread, or by what gives it back, in a step of its own
                    continue
                held.where = weakref.ref(here)
                try:
                    held.give_back()
                except Exception as error:  # a step of somebody else must not end with it
                    logger.warning("what an interrupted call held could not be given back: %s", type(error).__name__)
                self._held.pop(ref, None)
            with contextlib.suppress(ValueError):  # another thread was faster
                self._lost.remove(ref)

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


class _Here:
    """Held by whoever gives something back, and gone with it: an interrupt leaves no mark."""

    __slots__ = ("__weakref__",)


class _Held:
    """What is given back if its holder is lost."""

    __slots__ = ("give_back", "loop", "where")

    def __init__(self, give_back: Callable[[], object], loop: asyncio.AbstractEventLoop | None) -> None:
        self.give_back = give_back
        self.loop = loop
        self.where: weakref.ref[_Here] | None = None

    @property
    def is_being_given_back(self) -> bool:
        return self.where is not None and self.where() is not None


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
        if lock.may_have_lost:
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


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None

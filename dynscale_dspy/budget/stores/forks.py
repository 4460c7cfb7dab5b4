"""How objects with a lock, and whatever belongs to threads, go through a fork."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


def in_child(act: Callable[[], object]) -> None:
    """Have something done in each child that this process forks, before anything else runs there."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=act)


PATIENCE = 1.0
"""Seconds that a fork waits for a lock: whoever holds it may wait for something itself, the forking thread even."""


class LockGuard:
    """Keeps locks from being copied while they are held: they are taken before each fork, and are new in the child.

    A lock that is not free in time is new in the child all the same; what it guards may then be in the middle of a
    change.

    Args:
        attribute: The attribute of each object that is its lock.
    """

    def __init__(self, attribute: str = "lock") -> None:
        self._attribute = attribute
        self._held: list[threading.Lock] = []
        self._guard = ForkGuard[object](self._take, self._renew)

    def add(self, each: object) -> None:
        """Guard an object's lock for as long as it exists."""
        self._guard.add(each)

    def _take(self, each: object) -> None:
        lock = getattr(each, self._attribute)
        if lock.acquire(timeout=PATIENCE):
            self._held.append(lock)

    def _renew(self, each: object, in_child: bool) -> None:
        lock = getattr(each, self._attribute)
        if in_child:
            self._held.clear()
            setattr(each, self._attribute, threading.Lock())
        elif lock in self._held:
            self._held.remove(lock)
            lock.release()


class ForkGuard(Generic[T]):
    """Acts on a set of objects before and after each fork of this process.

    A fork copies memory as it is at that instant: a lock that another thread holds stays locked in the child for ever,
    around half a change. So the forking thread takes the lock of each object first. Forks of several threads come one
    after another.

    Args:
        before: Called with each object before a fork, to take its lock.
        after: Called with each object after the fork, and with whether this is the child.
    """

    def __init__(self, before: Callable[[T], None], after: Callable[[T, bool], None]) -> None:
        self._before_each = before
        self._after_each = after
        self._objects: weakref.WeakSet[T] = weakref.WeakSet()
        self._forking = threading.RLock()
        self._taken: list[T] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._before,
                after_in_parent=lambda: self._after(False),
                after_in_child=lambda: self._after(True),
            )

    def add(self, each: T) -> None:
        """Guard an object for as long as it exists."""
        with self._forking:  # a set that grows cannot be gone through
            self._objects.add(each)

    def _before(self) -> None:
        self._forking.acquire()
        self._taken = []
        for each in list(self._objects):
            self._before_each(each)
            self._taken.append(each)

    def _after(self, in_child: bool) -> None:
        taken, self._taken = self._taken, []
        for each in reversed(taken):
            self._after_each(each, in_child)
        self._forking.release()

"""What is under way in a pool: the scopes that are open, and how to cut off what runs."""

from __future__ import annotations

import threading
from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class _Listing(Generic[T]):
    """A block while which something is listed: one for each sample, so no generator, which is four objects more."""

    __slots__ = ("__weakref__", "_thing", "_under_way")

    def __init__(self, under_way: UnderWay[T], thing: T) -> None:
        self._under_way, self._thing = under_way, thing

    def __enter__(self) -> T:
        try:
            self._under_way.enlist(self, self._thing)
            return self._thing
        except BaseException:  # an interrupt, maybe when it was listed
            self._under_way.strike(self)
            raise

    def __exit__(self, *error: object) -> None:
        self._under_way.strike(self)


class UnderWay(Generic[T]):
    """Things that are listed for as long as a block runs. Safe from any thread.

    Example:
        >>> scopes = UnderWay()
        >>> with scopes.during("inner"):
        ...     scopes.now()
        ['inner']
        >>> scopes.now()
        []
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By places that nobody else keeps: one that an interrupt kept from being struck goes with its block.
        self._things: WeakKeyDictionary[object, T] = WeakKeyDictionary()

    def during(self, thing: T) -> AbstractContextManager[T]:
        """List something while the block runs; what is listed twice is listed until both blocks have ended."""
        return _Listing(self, thing)

    def enlist(self, place: object, thing: T) -> None:
        """List something under a place of its own, until :meth:`strike`."""
        with self._lock:
            self._things[place] = thing

    def strike(self, place: object) -> None:
        """List it no more."""
        with self._lock:
            self._things.pop(place, None)

    def keep(self, some: Collection[T]) -> None:
        """In the child of a fork: only these are under way there, and no thread holds the lock."""
        self._lock = threading.Lock()
        self._things = WeakKeyDictionary({place: thing for place, thing in self._things.items() if thing in some})

    def now(self) -> list[T]:
        """What is listed at this moment, the latest last."""
        with self._lock:
            return list(self._things.values())

"""What is under way in a pool: the scopes that are open, and how to cut off what runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


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
        self._things: dict[object, T] = {}

    @contextlib.contextmanager
    def during(self, thing: T) -> Iterator[T]:
        """List something while the block runs; what is listed twice is listed until both blocks have ended."""
        place = object()
        try:
            with self._lock:
                self._things[place] = thing
            yield thing
        finally:
            with self._lock:
                self._things.pop(place, None)

    def keep(self, some: Collection[T]) -> None:
        """In the child of a fork: only these are under way there, and no thread holds the lock."""
        self._lock = threading.Lock()
        self._things = {place: thing for place, thing in self._things.items() if thing in some}

    def now(self) -> list[T]:
        """What is listed at this moment, the latest last."""
        with self._lock:
            return list(self._things.values())

"""Equal calls at the same time are answered once."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from concurrent.futures import Future
from typing import Any

from dynscale_dspy.budget.stores.forks import ForkGuard


class SingleFlight:
    """The calls under way by name. The same call made again while it runs gets the first one's future.

    DSPy submits stragglers a second time: without this they would be paid twice. Safe from any thread. In the child of
    a fork no call is under way: those of the parent are answered there.

    Example:
        >>> flights = SingleFlight()
        >>> (outcome, first), (same, second) = flights.join("call"), flights.join("call")
        >>> outcome is same, first, second
        (True, True, False)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[Hashable, Future[Any]] = {}
        self._shared: set[Hashable] = set()
        _known.add(self)

    def join(self, key: Hashable) -> tuple[Future[Any], bool]:
        """The outcome of the call of this name, and whether the asker has to bring it about and then :meth:`leave`."""
        with self._lock:
            future = self._flights.get(key)
            if future is not None:
                self._shared.add(key)
                return future, False
            future = self._flights[key] = Future()
            return future, True

    def leave(self, key: Hashable) -> bool:
        """Forget a call: the next of this name is a new one. The caller then resolves the future.

        Returns:
            Whether others have asked for its outcome.
        """
        with self._lock:
            self._flights.pop(key, None)
            shared = key in self._shared
            self._shared.discard(key)
            return shared


def _before_fork(flights: SingleFlight) -> None:
    """Nothing is prepared: the child keeps nothing of them."""


def _after_fork(flights: SingleFlight, in_child: bool) -> None:
    if in_child:
        flights._lock, flights._flights, flights._shared = threading.Lock(), {}, set()


_known = ForkGuard(_before_fork, _after_fork)

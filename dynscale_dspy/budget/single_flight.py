"""Equal calls at the same time are answered once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Hashable
from concurrent.futures import Future
from typing import Any, NamedTuple

from dynscale_dspy.budget.locking import running_loop
from dynscale_dspy.budget.stores.forks import ForkGuard


class Abandoned(Exception):
    """The call that others waited for was interrupted; one of them must take over."""


class _Flight(NamedTuple):
    """A call under way: its outcome, and the event loop of the task that brings it about, if one does."""

    future: Future[Any]
    loop: asyncio.AbstractEventLoop | None
    is_shared: bool = False
    """Whether others have asked for the outcome."""

    @property
    def is_lost(self) -> bool:
        """Whether nothing will come of it: its loop was closed."""
        return self.loop is not None and self.loop.is_closed() and not self.future.done()


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
        self._flights: dict[Hashable, _Flight] = {}
        _known.add(self)

    def __len__(self) -> int:
        """How many calls are under way."""
        with self._lock:
            return sum(not flight.is_lost for flight in self._flights.values())

    def join(self, key: Hashable) -> tuple[Future[Any], bool]:
        """The outcome of the call of this name, and whether the asker has to bring it about and then :meth:`leave`."""
        mine = _Flight(Future(), running_loop())
        lost: _Flight | None = None
        try:
            with self._lock:
                flight = self._flights.get(key)
                if flight is not None and not flight.is_lost:
                    if not flight.is_shared:
                        self._flights[key] = flight._replace(is_shared=True)
                    return flight.future, False
                self._flights[key], lost = mine, flight
            if lost is not None:
                lost.future.set_exception(Abandoned())
            return mine.future, True
        except BaseException:  # an interrupt: nobody would bring it about
            self.leave(key, mine.future)
            mine.future.set_exception(Abandoned())
            raise

    def give_up_lost(self, key: Hashable) -> None:
        """End the wait for the call of this name if nothing will come of it; one of those who wait takes over."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is None or not flight.is_lost:
                return
            del self._flights[key]
        flight.future.set_exception(Abandoned())

    def leave(self, key: Hashable, future: Future[Any]) -> bool:
        """Forget a call, once or again: the next of this name is a new one. The caller then resolves the future.

        Returns:
            Whether others have asked for its outcome.
        """
        with self._lock:
            flight = self._flights.get(key)
            if flight is None or flight.future is not future:
                return False
            del self._flights[key]
            return flight.is_shared


def _before_fork(flights: SingleFlight) -> None:
    """Nothing is prepared: the child keeps nothing of them."""


def _after_fork(flights: SingleFlight, in_child: bool) -> None:
    if in_child:
        flights._lock, flights._flights = threading.Lock(), {}


_known = ForkGuard(_before_fork, _after_fork)

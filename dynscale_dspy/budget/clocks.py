"""The time by which deadlines are kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


def steady(clock: Callable[[], float]) -> Callable[[], float]:
    """A clock that goes on evenly from what the given one shows now.

    The system's clock is set now and then, by a time server say: a deadline in 30 seconds would come an hour late, or
    at once. Any other clock is taken as it is, but for steps back, in which it stands still: a deadline that has passed
    is not to come again.

    Args:
        clock: Seconds since the epoch.

    Example:
        >>> evenly = steady(time.time)
        >>> abs(evenly() - time.time()) < 60
        True
    """
    if clock is time.monotonic:
        return clock
    if clock is not time.time:
        return _Forward(clock).now
    began = time.time() - time.monotonic()
    return lambda: began + time.monotonic()


class _Forward:
    """A clock that never goes back.

    Args:
        clock: Seconds since the epoch.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._latest = -math.inf

    def now(self) -> float:
        """The latest time that it has shown."""
        self._latest = max(self._latest, self._clock())
        return self._latest

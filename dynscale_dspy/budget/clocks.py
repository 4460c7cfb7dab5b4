"""The time by which deadlines are kept."""

from __future__ import annotations

import time
from collections.abc import Callable


def steady(clock: Callable[[], float]) -> Callable[[], float]:
    """A clock that goes on evenly from what the given one shows now.

    The system's clock is set now and then, by a time server say: a deadline in 30 seconds would come an hour late, or
    at once. Any other clock is taken as it is.

    Args:
        clock: Seconds since the epoch.

    Example:
        >>> evenly = steady(time.time)
        >>> abs(evenly() - time.time()) < 60
        True
    """
    if clock is not time.time:
        return clock
    began = time.time() - time.monotonic()
    return lambda: began + time.monotonic()

"""Whether a pool lets samples begin: it can be paused and stopped, and stops itself when too many fail."""

from __future__ import annotations

from typing import Literal

State = Literal["open", "paused", "stopped"]


class CircuitBreaker:
    """The state of a pool. It stops itself after a number of failures in a row.

    Not thread safe on its own: its pool holds a lock around each use.

    Args:
        max_failures: Samples in a row that may fail; None for any number.

    Example:
        >>> breaker = CircuitBreaker(max_failures=2)
        >>> breaker.record(OSError("down")), breaker.record(OSError("down"))
        (False, True)
        >>> breaker.state, type(breaker.cause).__name__
        ('stopped', 'OSError')
    """

    def __init__(self, max_failures: int | None) -> None:
        self.max_failures = max_failures
        self.state: State = "open"
        self.cause: BaseException | None = None
        """The failure by which it stopped itself."""
        self._failures = 0

    def record(self, failure: BaseException | None) -> bool:
        """Count one sample's outcome. Returns True if the breaker has just stopped by it.

        Args:
            failure: The sample's error; None if it went well.
        """
        self._failures = self._failures + 1 if failure is not None else 0
        if self.max_failures is None or self._failures < self.max_failures or self.state != "open":
            return False
        self.state, self.cause = "stopped", failure
        return True

    def pause(self) -> None:
        """Let nothing begin until :meth:`resume`; a breaker that is stopped stays so."""
        if self.state == "open":
            self.state = "paused"

    def resume(self) -> None:
        """Let samples begin again, and count failures from zero."""
        self.state, self.cause, self._failures = "open", None, 0

    def stop(self) -> None:
        """Let nothing begin."""
        self.state = "stopped"

    def follow(self, state: State) -> None:
        """Take over the state of another breaker, unless this one stopped itself."""
        if self.cause is None:
            self.state = state

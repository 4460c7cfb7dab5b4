"""Steps of asking, written once as a generator, and driven by a thread or a task that only makes the requests."""

from __future__ import annotations

from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Generic, TypeVar

Asked = TypeVar("Asked")
Result = TypeVar("Result")


class Exchange(Generic[Asked, Result]):
    """Runs a generator that yields requests and is sent what came of each, an error as if raised at the ``yield``.

    Args:
        steps: The generator.

    Example:
        >>> def twice():
        ...     first = yield "one"
        ...     second = yield "two"
        ...     return [first, second]
        >>> exchange = Exchange(twice())
        >>> while exchange.asked is not None:
        ...     with exchange:
        ...         exchange.outputs = exchange.asked.upper()
        >>> exchange.result
        ['ONE', 'TWO']
    """

    def __init__(self, steps: Generator[Asked, Any, Result]) -> None:
        self.asked: Asked | None = None
        """The request to make now; None when there is a result."""
        self.outputs: Any = None
        """What came back for it."""
        self.result: Any = None
        self._steps = steps
        self._go_on(steps.send, None)

    def __enter__(self) -> Exchange[Asked, Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Tell the steps what came of the request; an error that they do not handle passes through unchanged."""
        if error is None:
            self._go_on(self._steps.send, self.outputs)
            return True
        try:
            self._go_on(self._steps.throw, error)
        except BaseException as raised:
            # A generator cannot raise a StopIteration unchanged.
            if raised is error or (isinstance(error, StopIteration) and raised.__cause__ is error):
                return False
            raise
        return True

    def _go_on(self, step: Callable[[Any], Asked], outcome: Any) -> None:
        try:
            self.asked = step(outcome)
        except StopIteration as stop:
            self.asked, self.result = None, stop.value

"""Errors of the library. Errors of the user's program are raised unchanged."""

from __future__ import annotations

from typing import Any


class BudgetExhausted(RuntimeError):
    """A pool had nothing left for a call's first sample, or for a language-model call in the middle of one.

    The message says which cap it was, what is spent, reserved and needed of it, and what to do.
    """

    retry_after: float | None = None
    """Seconds until the caps begin anew, for a pool with a ``period``; None where that is not known."""


class StorageError(RuntimeError):
    """The place where a budget is kept cannot be used.

    A file that is not a budget of this version, or is damaged, was left as it is. A store that cannot be read or
    written now (locked, disk full, deleted) has not changed; what samples cost is settled once it works again.
    """


class UnboundedCost(BudgetExhausted):
    """A strict pool refused a request of which nothing says what it can cost at most. Nothing was spent on it."""


class LowConfidence(RuntimeError):
    """A vote was less sure than ``min_confidence`` and ``on_low="raise"``. What was paid for is in it.

    Args:
        prediction: The winner all the same.
        explanation: How the vote went.
        min_confidence: What was asked for.
    """

    def __init__(self, prediction: Any, explanation: Any, min_confidence: float) -> None:
        super().__init__(
            f"confidence {explanation.confidence:.2f} is below min_confidence={min_confidence:g} "
            f"({explanation.summary}); the winner is in this error's .prediction"
        )
        self.prediction = prediction
        self.explanation = explanation
        self.min_confidence = min_confidence

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.prediction, self.explanation, self.min_confidence)

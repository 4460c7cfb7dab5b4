"""Errors of the library. Errors of the user's program are raised unchanged."""


class BudgetExhausted(RuntimeError):
    """A pool had nothing left for a call's first sample, or for a language-model call in the middle of one."""


class StorageError(RuntimeError):
    """A file is not a budget that this version can keep, or it is damaged. It was left as it is."""


class UnboundedCost(BudgetExhausted):
    """A strict pool refused a request of which nothing says what it can cost at most. Nothing was spent on it."""

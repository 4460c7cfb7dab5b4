"""Errors of the library. Errors of the user's program are raised unchanged."""


class BudgetExhausted(RuntimeError):
    """A pool had nothing left for a call's first sample, or for a language-model call in the middle of one."""

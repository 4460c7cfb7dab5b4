"""The ambient pools: carried in DSPy's own settings, so that they reach whatever threads DSPy starts."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

import dspy

_SETTING = "dynscale_pools"
# Entered and left in one thread or task, like any context manager; a pool may be entered several times over.
_entered: ContextVar[tuple[AbstractContextManager[Any], ...]] = ContextVar("dynscale_entered", default=())


def enter(pool: Any) -> None:
    """Make a pool the ambient one until the matching :func:`leave`."""
    context = dspy.context(**{_SETTING: (*entered(), pool)})
    context.__enter__()
    _entered.set((*_entered.get(), context))


def leave() -> None:
    """Undo the last :func:`enter` of this thread or task."""
    *rest, context = _entered.get()
    _entered.set(tuple(rest))
    context.__exit__(None, None, None)


def entered() -> tuple[Any, ...]:
    """The pools and scopes around this code, the innermost last."""
    return dspy.settings.get(_SETTING) or ()


def current() -> Any:
    """The ambient pool, or None."""
    return entered()[-1] if entered() else None

"""What holds inside a ``with`` block. DSPy's own settings carry it, so that it reaches whatever threads DSPy starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import dspy

_SETTING = "dynscale_pools"
_UNSCALED = "dynscale_unscaled"
# Entered and left in one thread or task, like any context manager; a pool may be entered several times over.
_entered: ContextVar[tuple[AbstractContextManager[Any], ...]] = ContextVar("dynscale_entered", default=())
known_call: ContextVar[Any] = ContextVar("dynscale_known_call", default=None)
"""The call of a known set that is being begun here."""


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


@contextmanager
def unscaled() -> Iterator[None]:
    """Inside, every wrapped program runs once and plainly, as if it were not wrapped; no pool is asked or charged.

    For cheap compilation: optimizers call a program hundreds of times, and demos and instructions are found as well
    with one sample a call.

    Example:
        ```python
        with unscaled():
            compiled = dspy.BootstrapFewShot(metric=metric).compile(qa, trainset=trainset)
        compiled(question="...")  # scaled again
        ```
    """
    with dspy.context(**{_UNSCALED: True}):
        yield


def is_unscaled() -> bool:
    """Whether this code runs inside ``with unscaled():``."""
    return bool(dspy.settings.get(_UNSCALED))

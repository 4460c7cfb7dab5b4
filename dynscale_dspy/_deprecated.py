"""Names of version 0.1 that still work, with a ``DeprecationWarning`` that gives the new one."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def warn(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Say that a name is deprecated, at the line of whoever used it."""
    warnings.warn(f"{old} is deprecated: use {new}", DeprecationWarning, stacklevel=stacklevel)


def by_old_name(old: str, value: Any, new: str, given: Any, *, nothing: Any = 0) -> Any:
    """Warn that a keyword argument of an ``__init__`` was given by its old name, and return its value.

    For functions that are called so often that :func:`renamed` would be felt.

    Args:
        old: The old name.
        value: What was given under it.
        new: The new name.
        given: What was given under that.
        nothing: What the new one is if it was not given.

    Raises:
        TypeError: If it was given under both names.
    """
    if given != nothing:
        raise TypeError(f"{new}= was given twice: as {old}=, its old name, as well")
    warn(f"{old}=", f"{new}=", stacklevel=4)
    return value


def renamed(**names: str) -> Callable[[F], F]:
    """Decorator that lets a function take keyword arguments by their old names.

    Args:
        **names: New name by old name.

    Raises:
        TypeError: When the function is called with an argument under both names.

    Example:
        >>> @renamed(calls="requests")
        ... def cap(requests=None):
        ...     return requests
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     cap(calls=3)
        3
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for old, new in names.items() if kwargs else ():
                if old not in kwargs:
                    continue
                if new in kwargs:
                    raise TypeError(f"{new}= was given twice: as {old}=, its old name, as well")
                warn(f"{old}=", f"{new}=")
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return wrapper  # type: ignore[return-value]

    return decorate


def alias(old: str, new: str) -> property:
    """A read-only property under an old name that gives the attribute of the new one."""

    def get(self: Any) -> Any:
        warn(f".{old}", f".{new}")
        return getattr(self, new)

    get.__doc__ = f"Deprecated: use :attr:`{new}`."
    return property(get)


class OldPoolNames:
    """Methods of a pool under their names of version 0.1."""

    def share(self: Any, module: Any, fraction: float | None = None) -> Any:
        """Deprecated: use ``publish(name)`` for other processes, ``reserve_for(module, fraction)`` for a module."""
        if isinstance(module, str) and fraction is None:
            warn("share(name)", "publish(name)")
            return self.publish(module)
        warn("share(module, fraction)", "reserve_for(module, fraction)")
        return self.reserve_for(module, fraction)

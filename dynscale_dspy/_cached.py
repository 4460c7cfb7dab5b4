"""A property that is computed once, without a lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class cached_property(Generic[T]):  # it is used as Python's own
    """A property that is computed when it is first asked for, and kept in the object.

    Python's own has a lock for all objects of a class, up to 3.11. A process that is forked while a thread holds it has
    a child that waits for that thread for ever; and threads wait for each other that have nothing in common. Here two
    threads may compute the value at once, and the first one's is kept.

    Args:
        compute: Computes the value from the object.

    Example:
        >>> class Circle:
        ...     radius = 2
        ...
        ...     @cached_property
        ...     def area(self):
        ...         print("computed")
        ...         return 3 * self.radius**2
        >>> circle = Circle()
        >>> circle.area, circle.area
        computed
        (12, 12)
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> cached_property[T]: ...

    @overload
    def __get__(self, instance: object, owner: type | None = None) -> T: ...

    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return vars(instance).setdefault(self._name, self._compute(instance))

"""Copies of what a call hands out, so that each of several callers has its own."""

from __future__ import annotations

import copy
import gc
import types
from collections.abc import Iterator
from typing import Any

import dspy


class Copier:
    """Copies data deep, and hands on what is no data. What is one object in the originals is one in the copies.

    Programs, language models, adapters and methods are shared with the original; so is a value, or a field of a
    prediction, that cannot be copied, such as one that holds a lock or an open file.

    Example:
        >>> first = dspy.Prediction(tags=["big", "old"])
        >>> second = Copier().copy(first)
        >>> first.tags.append("red")
        >>> second.tags
        ['big', 'old']
    """

    def __init__(self) -> None:
        self._memo: dict[int, Any] = {}

    def copy(self, value: Any) -> Any:
        """A copy of a value; the value itself if it cannot be copied."""
        try:
            if issubclass(type(value), dspy.Example):
                return self._record(value)
            memo = dict(self._memo)
            memo.update((id(part), part) for part in _shared_parts(value))
            made = copy.deepcopy(value, memo)
        except Exception:  # of some class in it
            return value
        self._memo = memo
        return made

    def _record(self, record: dspy.Example) -> dspy.Example:
        """A record of its own, field by field, however its class has itself copied."""
        if id(record) in self._memo:
            return self._memo[id(record)]
        made = object.__new__(type(record))
        attributes = made.__dict__
        attributes.update(record.__dict__)
        self._memo[id(record)] = made
        for name, value in attributes.items():
            fields = name == "_store"
            attributes[name] = {k: self.copy(v) for k, v in value.items()} if fields else self.copy(value)
        return made


_SHARED = (dspy.Module, dspy.BaseLM, dspy.Adapter, types.MethodType)
_NOT_WALKED = (type, types.FunctionType, types.ModuleType)
_MOST_PARTS = 100_000


def _shared_parts(value: object) -> Iterator[Any]:
    """What a value holds that is not to be copied. No code of any class runs meanwhile.

    Raises:
        ValueError: If there are too many parts to look at.
    """
    waiting, seen = [value], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if len(seen) > _MOST_PARTS:
            raise ValueError("too large to copy")
        if issubclass(type(part), _SHARED):
            yield part
        elif not issubclass(type(part), _NOT_WALKED):
            waiting += gc.get_referents(part)

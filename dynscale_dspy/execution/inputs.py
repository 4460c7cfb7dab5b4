"""The inputs of a call: read from an example, compared with those of another call, named, and handed to a sample."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Hashable, Mapping
from typing import Any

import dspy
import pydantic

LONG = 4096
"""Characters of inputs from which a server's cache of prompts matters: about the 1,024 tokens that providers cache."""


def inputs_of(example: Any) -> dict[str, Any]:
    """The inputs of an example, or a dict of inputs as it is.

    Raises:
        TypeError: If it is neither.
    """
    if isinstance(example, dspy.Example):
        return dict(example.inputs())
    if isinstance(example, Mapping):
        return dict(example)
    raise TypeError(f"examples must be dspy.Example objects with inputs, or dicts, got {type(example).__name__}")


def own_inputs(inputs: Any) -> Any:
    """The same arguments for one sample alone: DSPy's agents write into the chat history they are given."""
    if issubclass(type(inputs), dspy.History):
        return inputs.model_copy(update={"messages": list(inputs.messages)})
    if isinstance(inputs, dict):
        return {name: own_inputs(value) if _is_history(value) else value for name, value in inputs.items()}
    return [own_inputs(value) if _is_history(value) else value for value in inputs]


def _is_history(value: Any) -> bool:
    # Not isinstance: that asks the object itself for its class, which some refuse to tell.
    return issubclass(type(value), dspy.History)


def is_long(inputs: Any) -> bool:
    """Return True if a server's cache of prompts matters for these inputs."""
    length, left = 0, [inputs]
    while left and length < LONG:
        value = left.pop()
        length += 2  # its brackets, quotes or comma
        if type(value) in (list, tuple, set, frozenset):
            left += value
        elif type(value) is dict:
            left += [*value, *value.values()]
        else:
            with contextlib.suppress(Exception):  # it may have no text
                length += len(str(value))
    return length >= LONG


def inputs_key(value: Any) -> Hashable:
    """A key equal for equal inputs, exactly: nothing is normalised. Unknown objects are told apart by identity.

    So are parts of the inputs that cannot be read: those nested more than 100 levels deep, those that contain
    themselves or have more than 100,000 parts, and those of classes that raise. It takes any inputs.

    Example:
        >>> inputs_key({"a": 1, "b": [2]}) == inputs_key({"b": [2], "a": 1})
        True
        >>> inputs_key(1) == inputs_key(True), inputs_key(1) == inputs_key("1")
        (False, False)
    """
    return _Walk().key(value, 0)


class _Walk:
    """Inputs being read; it counts the parts, so that reading always ends."""

    def __init__(self) -> None:
        self._left = _MOST_PARTS
        self._around: set[int] = set()

    def key(self, value: Any, depth: int) -> Hashable:
        """The key of a part of the inputs that is so deep in them."""
        self._left -= 1
        if self._left < 0:
            raise _TooMany  # so that what holds this part is known by identity, and is read no further
        if depth <= _DEEPEST and id(value) not in self._around:
            self._around.add(id(value))
            try:
                return self._read(value, depth + 1)
            except Exception:  # of its class
                pass
            finally:
                self._around.discard(id(value))
        return (str.__str__(type(value).__qualname__), _Identity(value))

    def _read(self, value: Any, below: int) -> Hashable:
        kind = type(value)
        if value is None or kind in _PLAIN:
            return (kind.__name__, value)
        for plain, exact in _EXACT.items():
            if issubclass(kind, plain):
                return (kind.__name__, exact(value))
        if issubclass(kind, int):
            number = int.__int__(value)
            # Python refuses to write the longest ones in decimal.
            return (kind.__name__, number if number.bit_length() < _LONGEST_INTEGER else hex(number))
        if isinstance(value, Mapping):
            items = [(self._name(name, below), self.key(item, below)) for name, item in value.items()]
            return ("dict", tuple(sorted(items, key=_order)))
        if isinstance(value, (list, tuple)):
            return ("list", tuple(self.key(item, below) for item in value))
        if isinstance(value, pydantic.BaseModel):
            return (kind.__qualname__, value.model_dump_json(warnings=False))
        if isinstance(value, dspy.Example):
            return (kind.__qualname__, self.key(value.toDict(), below))
        return (kind.__qualname__, _Identity(value))

    def _name(self, name: Any, below: int) -> Hashable:
        return name if type(name) is str else self.key(name, below)


class _TooMany(Exception):
    """Inputs of more parts than are read."""


_DEEPEST = 100
_MOST_PARTS = 100_000
_LONGEST_INTEGER = 10_000  # bits
_PLAIN = (str, bytes, bool, float)
# A subclass may compare as it likes; what it holds does not.
_EXACT = {str: str.__str__, bytes: lambda value: bytes.join(b"", [memoryview(value)]), float: float.__float__}


def _order(item: tuple[Hashable, Hashable]) -> tuple[int, str]:
    name = item[0]
    return (0, name) if isinstance(name, str) else (1, repr(name))


def is_lasting(key: Any) -> bool:
    """Return True if a key of inputs means the same in another process: no object in it is known by identity alone."""
    if isinstance(key, tuple):
        return all(map(is_lasting, key))
    return not isinstance(key, _Identity)


def lasting_name(*parts: Any) -> bytes:
    """A name that outlives the process, equal for parts whose representations are."""
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


class _Identity:
    """An object known by its identity, good for this process only. It is kept, so that no other gets its number."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)

    def __repr__(self) -> str:
        return str(id(self._value))

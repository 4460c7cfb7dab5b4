"""The inputs of a call: read from an example, compared with those of another call, named, and handed to a sample."""

from __future__ import annotations

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
    if isinstance(inputs, dspy.History):
        return inputs.model_copy(update={"messages": list(inputs.messages)})
    if isinstance(inputs, dict):
        return {name: own_inputs(value) if isinstance(value, dspy.History) else value for name, value in inputs.items()}
    return [own_inputs(value) if isinstance(value, dspy.History) else value for value in inputs]


def is_long(inputs: Any) -> bool:
    """Return True if a server's cache of prompts matters for these inputs."""
    return len(str(inputs)) >= LONG


def inputs_key(value: Any) -> Hashable:
    """A key equal for equal inputs, exactly: nothing is normalised. Unknown objects are told apart by identity.

    Example:
        >>> inputs_key({"a": 1, "b": [2]}) == inputs_key({"b": [2], "a": 1})
        True
        >>> inputs_key(1) == inputs_key(True), inputs_key(1) == inputs_key("1")
        (False, False)
    """
    if value is None or isinstance(value, (str, bytes, bool, int, float)):
        return (type(value).__name__, value)
    if isinstance(value, Mapping):
        return ("dict", tuple(sorted((str(name), inputs_key(item)) for name, item in value.items())))
    if isinstance(value, (list, tuple)):
        return ("list", tuple(inputs_key(item) for item in value))
    if isinstance(value, pydantic.BaseModel):
        return (type(value).__qualname__, value.model_dump_json())
    if isinstance(value, dspy.Example):
        return (type(value).__qualname__, inputs_key(value.toDict()))
    return (type(value).__qualname__, _Identity(id(value)))


def is_lasting(key: Any) -> bool:
    """Return True if a key of inputs means the same in another process: no object in it is known by identity alone."""
    if isinstance(key, tuple):
        return all(map(is_lasting, key))
    return not isinstance(key, _Identity)


def lasting_name(*parts: Any) -> bytes:
    """A name that outlives the process, equal for parts whose representations are."""
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


class _Identity(int):
    """An object's identity, good for this process only."""

"""Values that harm whoever reads them carelessly: their classes raise, they contain themselves, or are nested deep."""

from __future__ import annotations

import dataclasses
import enum
from collections import UserDict
from typing import Any

import pydantic
from hypothesis import strategies as st

SECRET = "sk-secret-4711"


class Refuses(Exception):
    """Raised by hostile classes."""


def _refuse(*args: Any, **kwargs: Any) -> Any:
    raise Refuses(SECRET)


def refusing(*names: str, bases: tuple[type, ...] = (object,), **members: Any) -> type:
    """A class whose methods of these names raise."""
    return type("Hostile", bases, {**dict.fromkeys(names, _refuse), **members})


class Arbitrary(pydantic.BaseModel):
    model_config = {"arbitrary_types_allowed": True}
    value: object


class Binary(pydantic.BaseModel):
    value: bytes


class Extra(pydantic.BaseModel, extra="allow"):
    pass


class NoDump(pydantic.BaseModel):
    value: int = 1

    def model_dump(self, **kwargs: Any) -> Any:
        raise Refuses(SECRET)

    def model_dump_json(self, **kwargs: Any) -> Any:
        raise Refuses(SECRET)


@dataclasses.dataclass
class Holder:
    value: Any


class Kind(enum.Enum):
    ONE = "one"


def deep(levels: int) -> list[Any]:
    """A list nested so deep."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def cyclic() -> list[Any]:
    """A list that contains itself, twice."""
    value: list[Any] = []
    value += [value, value]
    return value


def cyclic_dict() -> dict[str, Any]:
    """A dict that contains itself."""
    value: dict[str, Any] = {}
    value["a"] = value
    return value


def bomb() -> list[Any]:
    """A small list that has 2 ** 60 parts when it is written out."""
    value: list[Any] = []
    for _ in range(60):
        value = [value, value]
    return value


def cyclic_model() -> Any:
    """A model that contains itself."""
    value = Arbitrary(value=None)
    value.value = value
    return value


class Endless(list):
    def __iter__(self):
        while True:
            yield 1


LAZY: dict[str, Any] = {
    "cyclic": cyclic,
    "cyclic dict": cyclic_dict,
    "cyclic model": cyclic_model,
    "deep": lambda: deep(900),
    "very deep": lambda: deep(50_000),
    "deep model": lambda: Arbitrary(value=deep(900)),
    "arbitrary": lambda: Arbitrary(value=object()),
    "bytes": lambda: Binary(value=b"\xff"),
    "extra": lambda: Extra(one=object(), two="\ud800"),
    "no dump": NoDump,
    "hash": refusing("__hash__"),
    "hash and repr": refusing("__hash__", "__repr__"),
    "eq": refusing("__eq__", __hash__=lambda self: 1),
    "repr": refusing("__repr__", "__str__"),
    "everything": refusing(
        "__hash__", "__eq__", "__repr__", "__str__", "__bool__", "__len__", "__iter__", "__format__"
    ),
    "tolist": refusing("tolist"),
    "attributes": refusing("__getattr__"),
    "all attributes": refusing("__getattribute__"),
    "class": refusing(__class__=property(_refuse)),
    "str": refusing("__hash__", "__eq__", "__str__", "__repr__", "casefold", "split", bases=(str,)),
    "int": refusing("__hash__", "__eq__", "__str__", "__repr__", "__int__", "__index__", bases=(int,)),
    "float": refusing("__hash__", "__eq__", "__str__", "__repr__", "__float__", bases=(float,)),
    "bytes class": refusing("__hash__", "__eq__", "__repr__", bases=(bytes,)),
    "list": refusing("__iter__", "__len__", "__repr__", bases=(list,)),
    "dict": refusing("items", "keys", "__iter__", "__repr__", bases=(dict,)),
    "mapping": refusing("items", "__iter__", "__repr__", bases=(UserDict,)),
    "holder": lambda: Holder(deep(900)),
    "set": lambda: {refusing("__eq__", __hash__=lambda self: 1)()},
    "surrogate": lambda: "\ud800",
    "long integer": lambda: 10**5000,
    "long integers": lambda: {10**5000: [10**5000]},
    "nan": lambda: {float("nan"): float("nan")},
    "mixed keys": lambda: {1: "a", "1": None, None: 2, (1, 2): 3},
    "generator": lambda: (part for part in "ab"),
    "enum": lambda: [Kind.ONE],
    "escapes": lambda: "\x1b]52;c;ZXZpbA==\x07\x9b2J\u202e\r\x08",
    "class itself": lambda: Arbitrary,
}
"""Values by what is odd about them, made when they are needed: an object each time."""

HUGE = {"bomb": bomb, "endless": Endless}
"""The same of values that take about a second to give up on."""

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
makers = st.recursive(
    plain.map(lambda value: lambda: value) | st.sampled_from(sorted(LAZY)).map(LAZY.__getitem__),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda made: lambda: [make() for make in made])
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3).map(
            lambda made: lambda: {name: make() for name, make in made.items()}
        )
        | inner.map(lambda make: lambda: Holder(make()))
        | inner.map(lambda make: lambda: Arbitrary(value=make()))
    ),
    max_leaves=6,
)
"""Makers of arbitrary nested values, hostile ones among them. Hypothesis itself cannot hold the values."""

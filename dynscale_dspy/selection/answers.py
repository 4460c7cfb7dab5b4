"""When two answers of any type are the same, and which output fields are never part of an answer."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Collection, Hashable, Iterator, Mapping
from decimal import Decimal
from enum import Enum
from numbers import Real
from typing import Any, Literal

import pydantic

from dynscale_dspy.selection import numerals
from dynscale_dspy.selection.text import LAYERS, exact_text, key_of_text, undressed

NOT_ANSWERS = frozenset(
    {"reasoning", "rationale", "next_thought", "trajectory", "history", "termination_reason", "logprobs"}
)
"""Output fields that tell how an answer came about, by the names that DSPy's own modules give them."""

DEEPEST = 100
"""Levels to which an answer may be nested and still vote. Keys are hashed and compared by recursion."""
MOST_PARTS = 100_000
"""Values that an answer may hold and still vote: a list of a list of a list, each twice in the next, has billions."""


class UnreadableAnswer(ValueError):
    """An answer that has no key: nested too deep, containing itself, too large, or failing as it is read."""


class Record(dict[str, Any]):
    """Values of several output fields that are the answer together, each read as a field of its own.

    Values of any other dict are parts of one field, in which text is compared exactly.
    """


Kind = Literal["as it is", "exact", "number", "flag"]
"""How the values of a field are compared: by their own type, exactly, as numbers, or as yes and no."""


Kinds = tuple[tuple[str, Kind], ...]
"""The kinds of fields by name, of those that are not compared by the type of each value."""


def kinds_of(output_types: Mapping[str, Any]) -> Kinds:
    """How values of fields of these types are compared.

    Args:
        output_types: Type of each output field, by name.
    """
    kinds: dict[str, Kind] = {name: kind_of(annotation) for name, annotation in output_types.items()}
    return tuple((name, kind) for name, kind in kinds.items() if kind != "as it is")


def kind_of(annotation: Any) -> Kind:
    """How the values of a field of this type are compared.

    Args:
        annotation: The type, as a signature declares it.

    Example:
        >>> kind_of(str), kind_of(Literal["a", "A"]), kind_of(float | None)
        ('as it is', 'exact', 'number')
    """
    kinds: set[Kind] = {_kind_of_part(part) for part in _parts(annotation)}
    return kinds.pop() if len(kinds) == 1 else "as it is"


def _parts(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _parts(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            if part is not type(None):
                yield from _parts(part)
    else:
        yield annotation


def _kind_of_part(part: Any) -> Kind:
    if typing.get_origin(part) is Literal:
        return "exact"
    if not isinstance(part, type) or issubclass(part, (str, Enum)):
        return "as it is"
    return "flag" if issubclass(part, bool) else "number" if issubclass(part, (int, float, Decimal)) else "as it is"


def canonical(value: Any, kind: Kind = "as it is", layers: Collection[str] = LAYERS) -> Hashable | None:
    r"""The key under which an answer votes. Answers with equal keys are the same answer.

    It merges only what surely means the same. Text loses its dress
    (:func:`~dynscale_dspy.selection.text.key_of_text`): ``"**1,000**"``, ``"Answer: 1000"`` and ``1000`` agree. Inside
    lists, dicts and objects text is compared exactly, but for its line ends. Numbers are compared as numbers, floats
    without the noise of reckoning, enums by name, pydantic models and dataclasses by class and fields, dicts and sets
    without order, lists with it. A bool is never an int.

    Hashing and comparing keys never raises, whatever the classes of the values in them do.

    Args:
        value: An answer as a field holds it, or a :class:`Record` of several.
        kind: How it is compared, from the field's type; by default its own type says.
        layers: Names of the layers of dress that come off text; all of
            :data:`~dynscale_dspy.selection.text.LAYERS` by default.

    Returns:
        A hashable key, or None for "no answer" (None, blank text, or a field that was left out).

    Raises:
        UnreadableAnswer: If the answer is nested more than 100 levels deep, contains itself, has more than 100,000
            parts, or raises an error as it is read.

    Example:
        >>> canonical(r"\boxed{42}") == canonical("42.0") == canonical(42), canonical(0.1 + 0.2) == canonical(0.3)
        (True, True)
        >>> canonical(True) == canonical(1), canonical("C++") == canonical("C"), canonical(" ")
        (False, False, None)
        >>> canonical(["Paris"]) == canonical(["paris"]), canonical("3.10", "number") == canonical("3.1", "number")
        (False, True)
    """
    try:
        if isinstance(value, str) and not isinstance(value, Enum):
            return _key_of_text(str.__str__(value), kind, layers)
        return _Reading(layers).key(value, 0)
    except UnreadableAnswer:
        raise
    except Exception as error:
        # Of the user's classes; their words may hold what does not belong in a log.
        raise UnreadableAnswer(f"an answer cannot be read: {type(error).__name__}") from None


def key_of(answer: Any, kinds: Kinds, layers: Collection[str]) -> Hashable | None:
    """The key under which the answer of a program votes: one value, or a :class:`Record`.

    Args:
        answer: The answer as the program gave it.
        kinds: How values of its fields are compared, as :func:`kinds_of` tells.
        layers: As of :func:`canonical`.

    Raises:
        UnreadableAnswer: As by :func:`canonical`.
    """
    if isinstance(answer, Record):
        by_name = dict(kinds)
        keys = ((name, canonical(value, by_name.get(name, "as it is"), layers)) for name, value in answer.items())
        return ("record", frozenset(keys))
    return canonical(answer, kinds[0][1] if len(kinds) == 1 else "as it is", layers)


def spelling(answer: Any) -> Hashable:
    """How an answer is put, to tell equal ones apart that look different: text letter by letter, numbers as written.

    Values of all other types are put in one way.
    """
    if isinstance(answer, Record):
        return frozenset((name, spelling(value)) for name, value in answer.items())
    if isinstance(answer, str):
        return str.__str__(answer)
    if type(answer) is int:
        return answer  # of any size: Python writes none of more than 4,300 digits
    return repr(answer) if type(answer) in (float, Decimal) else None


def fields_of_model(value: pydantic.BaseModel) -> dict[str, Any]:
    """The fields of a model by name, and what else it was given; nothing that it has computed and kept.

    Args:
        value: The model.
    """
    declared = type(value).model_fields
    return {name: each for name, each in vars(value).items() if name in declared} | (value.__pydantic_extra__ or {})


class _Reading:
    """One answer being read; it counts the parts, so that reading always ends."""

    def __init__(self, layers: Collection[str]) -> None:
        self._left = MOST_PARTS
        self._layers = layers

    def key(self, value: Any, depth: int) -> Hashable | None:
        """The key of a part of the answer that is so deep in it."""
        self._left -= 1
        if depth > DEEPEST or self._left < 0:
            raise UnreadableAnswer(
                f"an answer is nested more than {DEEPEST} levels deep, contains itself, or has more than "
                f"{MOST_PARTS:,} parts"
            )
        if value is None:
            return None
        if isinstance(value, Enum):
            return ("enum", _name(value), _Compared.of(value.name))
        if isinstance(value, bool):
            return ("bool", value)
        if isinstance(value, str):
            return ("text", exact_text(str.__str__(value)))
        if isinstance(value, (Real, Decimal, complex)):
            return numerals.key_of_value(value)
        below = depth + 1
        if isinstance(value, pydantic.BaseModel):
            fields = fields_of_model(value)
            if type(value).__module__.startswith("dspy."):
                fields.pop("id", None)  # a provider gives each tool call another one
            return (_name(value), self.key(fields, below))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return (_name(value), self.key(fields, below))
        if isinstance(value, Mapping):
            pairs = ((self.key(key, below), self.key(item, below)) for key, item in value.items())
            return ("dict", frozenset(pairs))
        if isinstance(value, (list, tuple)):
            return ("list", tuple(self.key(item, below) for item in value))
        if isinstance(value, (set, frozenset)):
            return ("set", frozenset(self.key(item, below) for item in value))
        to_list = getattr(value, "tolist", None)
        if callable(to_list):  # a NumPy scalar or array, whose own scalars know how they are written
            scalars: Any = value
            return self.key(list(scalars) if getattr(value, "ndim", 0) else to_list(), below)
        try:
            return ("object", _name(value), _Compared(value))
        except Exception:  # it has no hash
            return ("repr", str.__str__(repr(value)))


class _Compared:
    """An object of an unknown class, in a key: hashed once, and never raising as it is compared."""

    __slots__ = ("_hash", "_value")

    def __init__(self, value: Any) -> None:
        self._value = value
        self._hash = hash(value)

    @classmethod
    def of(cls, value: Any) -> Hashable:
        """The value itself where it is plain text."""
        return value if type(value) is str else cls(value)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Compared):
            return NotImplemented
        if self._value is other._value:
            return True
        try:
            return bool(self._value == other._value)
        except Exception:
            return False

    def __reduce__(self) -> Any:
        return _Compared, (self._value,)  # hashes differ between processes


def _name(value: Any) -> str:
    return str.__str__(type(value).__qualname__)


def _key_of_text(text: str, kind: Kind, layers: Collection[str]) -> Hashable | None:
    if kind == "exact":
        return ("text", exact_text(text).strip()) if text.strip() else None
    bare = undressed(text, layers) if kind != "as it is" else ""
    if kind == "flag" and bare.lower() in ("true", "false"):
        return ("bool", bare.lower() == "true")
    number = numerals.key_of_amount(bare) if kind == "number" else None
    return number or key_of_text(text, layers)

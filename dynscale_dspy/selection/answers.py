"""When two answers are the same, and which output fields are never part of an answer."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Hashable, Mapping
from enum import Enum
from fractions import Fraction
from numbers import Rational, Real
from typing import Any

import pydantic

NOT_ANSWERS = frozenset(
    {"reasoning", "rationale", "next_thought", "trajectory", "history", "termination_reason", "logprobs"}
)
"""Output fields that tell how an answer came about, by the names that DSPy's own modules give them."""

_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?")
_LONGEST_NUMBER = 60

DEEPEST = 100
"""Levels to which an answer may be nested and still vote. Keys are hashed and compared by recursion."""
MOST_PARTS = 100_000
"""Values that an answer may hold and still vote: a list of a list of a list, each twice in the next, has billions."""


class UnreadableAnswer(ValueError):
    """An answer that has no key: nested too deep, containing itself, too large, or failing as it is read."""


def canonical(value: Any) -> Hashable | None:
    """The key under which an answer votes. Answers with equal keys are the same answer.

    It merges only what surely means the same. Numbers are compared as numbers (``"1,000"``, ``"1e3"`` and ``1000.0``
    agree; ``1.5`` and ``15`` do not), text without regard to case, spacing and a final full stop, enums by name,
    pydantic models and dataclasses by their fields, dicts and sets without order, lists with it. A bool is never an
    int. Text keeps its punctuation: ``C++`` is not ``C`` and ``-5`` is not ``5``.

    Hashing and comparing keys never raises, whatever the classes of the values in them do.

    Args:
        value: An answer as a field holds it.

    Returns:
        A hashable key, or None for "no answer" (None, blank text, or a field that was left out).

    Raises:
        UnreadableAnswer: If the answer is nested more than 100 levels deep, contains itself, has more than 100,000
            parts, or raises an error as it is read.

    Example:
        >>> canonical("42") == canonical("42.0") == canonical(42)
        True
        >>> canonical(True) == canonical(1), canonical("C++") == canonical("C"), canonical(" ")
        (False, False, None)
    """
    try:
        return _Reading().key(value, 0)
    except UnreadableAnswer:
        raise
    except Exception as error:
        # Of the user's classes; their words may hold what does not belong in a log.
        raise UnreadableAnswer(f"an answer cannot be read: {type(error).__name__}") from None


class _Reading:
    """One answer being read; it counts the parts, so that reading always ends."""

    def __init__(self) -> None:
        self._left = MOST_PARTS

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
            return _canonical_text(str.__str__(value))
        if isinstance(value, Real):
            return _canonical_number(value)
        below = depth + 1
        if isinstance(value, pydantic.BaseModel):
            return self.key(_fields(value), below)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self.key({field.name: getattr(value, field.name) for field in dataclasses.fields(value)}, below)
        if isinstance(value, Mapping):
            pairs = ((self.key(key, below), self.key(item, below)) for key, item in value.items())
            return ("dict", frozenset(pairs))
        if isinstance(value, (list, tuple)):
            return ("list", tuple(self.key(item, below) for item in value))
        if isinstance(value, (set, frozenset)):
            return ("set", frozenset(self.key(item, below) for item in value))
        to_list = getattr(value, "tolist", None)
        if callable(to_list):  # a NumPy scalar or array
            return self.key(to_list(), below)
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


def _fields(model: pydantic.BaseModel) -> Any:
    try:
        # Warnings of pydantic quote the value.
        return model.model_dump(mode="json", warnings=False)
    except Exception:  # not all of it can be written as JSON
        return {**vars(model), **(model.__pydantic_extra__ or {})}


def _name(value: Any) -> str:
    return str.__str__(type(value).__qualname__)


def _canonical_text(text: str) -> Hashable | None:
    # NFC, not NFKC: compatibility forms would turn "5²" into "52".
    text = unicodedata.normalize("NFC", text).replace("\u2212", "-")
    text = " ".join(text.split())
    if len(text) > 1 and text.endswith(".") and not text.endswith(".."):
        text = text[:-1].rstrip()
    if not text:
        return None
    if len(text) <= _LONGEST_NUMBER and _NUMBER.fullmatch(text):
        return ("number", _number(text.replace(",", "")))
    return ("text", text.casefold())


def _canonical_number(number: Real) -> Hashable:
    if isinstance(number, Rational):
        return ("number", _plain(Fraction(int(number.numerator), int(number.denominator))))
    value = float(number)
    if value != value or value in (float("inf"), float("-inf")):
        return ("text", repr(value))
    # Through the shortest decimal text, so that the float 0.1 is the text "0.1".
    return ("number", _number(repr(value)))


def _number(text: str) -> int | Fraction:
    return int(text) if text.isdecimal() else _plain(Fraction(text))


def _plain(number: Fraction) -> int | Fraction:
    # Votes are looked up by their keys all the time, and an integer is hashed much faster.
    return number.numerator if number.denominator == 1 else number

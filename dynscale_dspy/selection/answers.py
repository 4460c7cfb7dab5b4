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


def canonical(value: Any) -> Hashable | None:
    """The key under which an answer votes. Answers with equal keys are the same answer.

    It merges only what surely means the same. Numbers are compared as numbers (``"1,000"``, ``"1e3"`` and ``1000.0``
    agree; ``1.5`` and ``15`` do not), text without regard to case, spacing and a final full stop, enums by name,
    pydantic models and dataclasses by their fields, dicts and sets without order, lists with it. A bool is never an
    int. Text keeps its punctuation: ``C++`` is not ``C`` and ``-5`` is not ``5``.

    Args:
        value: An answer as a field holds it.

    Returns:
        A hashable key, or None for "no answer" (None, blank text, or a field that was left out).

    Example:
        >>> canonical("42") == canonical("42.0") == canonical(42)
        True
        >>> canonical(True) == canonical(1), canonical("C++") == canonical("C"), canonical(" ")
        (False, False, None)
    """
    if value is None:
        return None
    if isinstance(value, Enum):
        return ("enum", type(value).__qualname__, value.name)
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, str):
        return _canonical_text(value)
    if isinstance(value, Real):
        return _canonical_number(value)
    if isinstance(value, pydantic.BaseModel):
        return canonical(value.model_dump(mode="json"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return canonical({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return ("dict", frozenset((canonical(key), canonical(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return ("list", tuple(canonical(item) for item in value))
    if isinstance(value, (set, frozenset)):
        return ("set", frozenset(canonical(item) for item in value))
    to_list = getattr(value, "tolist", None)
    if callable(to_list):  # a NumPy scalar or array
        return canonical(to_list())
    try:
        hash(value)
    except TypeError:
        return ("repr", repr(value))
    return ("object", type(value).__qualname__, value)


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

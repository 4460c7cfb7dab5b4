"""Which part of a prediction is the answer, and when two answers are the same."""

from __future__ import annotations

import dataclasses
import logging
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from enum import Enum
from fractions import Fraction
from numbers import Rational, Real
from typing import Any

import dspy
import pydantic

logger = logging.getLogger(__name__)

Answer = str | Sequence[str] | Callable[[dspy.Prediction], Any]
"""How a user names the answer: one output field, several, or a function of the prediction."""

# Output fields that tell how an answer came about, by the names DSPy's own modules give them.
_NOT_ANSWERS = frozenset(
    {"reasoning", "rationale", "next_thought", "trajectory", "history", "termination_reason", "logprobs"}
)

_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?")
_LONGEST_NUMBER = 60


def canonical(value: Any) -> Hashable | None:
    """The key under which an answer votes: equal keys are one answer.

    Deliberately conservative. Numbers are compared as numbers (``"1,000"``, ``"1e3"`` and ``1000.0`` agree; ``1.5``
    and ``15`` do not), text without regard to case, spacing and a final full stop, enums by name, pydantic models
    and dataclasses by their fields, dicts and sets without order, lists with it. A bool is never an int. Text keeps
    its punctuation: ``C++`` is not ``C`` and ``-5`` is not ``5``.

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


class AnswerReader:
    """Reads the answer out of a program's predictions.

    Args:
        module: The program. Where it has a signature, its output fields are known before it runs.
        answer: The field or fields that are the answer, or a function from a prediction to a value (None for no
            answer). By default every output field except reasoning and other records of how it came about.

    Raises:
        ValueError: If the module's signature is known and lacks a named field, or leaves no field by default.
        TypeError: If ``answer`` is none of the above.
    """

    def __init__(self, module: dspy.Module, answer: Answer | None = None) -> None:
        if isinstance(answer, str):
            answer = (answer,)
        if not (answer is None or callable(answer)):
            answer = tuple(answer) if isinstance(answer, Iterable) else answer
            if not (isinstance(answer, tuple) and answer and all(isinstance(name, str) for name in answer)):
                raise TypeError(f"answer must be an output field's name, a list of names or a function, got {answer!r}")
        self.answer = answer
        signature = _signature_of(module)
        self._known_to_exist = signature is not None
        if signature is not None and not callable(answer):
            outputs = list(signature.output_fields)
            missing = [name for name in answer or () if name not in outputs]
            if missing:
                raise ValueError(
                    f"answer names {missing[0]!r}, which the program does not produce; its output fields are {outputs}"
                )
            if answer is None and not _answer_fields(signature):
                raise ValueError(f"no output field of {outputs} looks like an answer; say which one with answer=...")

    def read(self, module: dspy.Module, prediction: Any) -> Any:
        """The answer as the program gave it: one value, or a dict of several fields; None if there is none.

        Raises:
            ValueError: If a field named by the user is not in the prediction.
        """
        if callable(self.answer):
            try:
                return self.answer(prediction)
            except Exception as error:
                # It may well choke on a malformed sample; that sample was paid for, and only loses its vote.
                logger.warning("the answer function failed on a sample, which casts no vote: %r", error)
                return None
        if not isinstance(prediction, dspy.Prediction):
            return prediction
        if self.answer is None:
            names = _default_fields(module, prediction)
        else:
            names = self.answer
            missing = [name for name in names if name not in prediction.keys()]  # noqa: SIM118
            # A program known to have the field has given a malformed sample; one that is not may never give it.
            if missing and not self._known_to_exist:
                raise ValueError(
                    f"answer names {missing[0]!r}, but the program returned the fields {list(prediction.keys())}"
                )
        values = {name: prediction.get(name) for name in names}
        if all(value is None for value in values.values()):
            return None
        return next(iter(values.values())) if len(values) == 1 else values


def _default_fields(module: dspy.Module, prediction: dspy.Prediction) -> list[str]:
    # A prediction made by a predictor knows its signature; others (ReAct, a user's own module) are asked for theirs.
    signature = getattr(getattr(prediction, "_completions", None), "signature", None) or _signature_of(module)
    keys = list(prediction.keys())
    if signature is not None:
        names = [name for name in _answer_fields(signature) if name in keys]
        if names:
            return names
    return [name for name in keys if name not in _NOT_ANSWERS]


def _signature_of(module: dspy.Module) -> Any:
    for owner in (module, getattr(module, "predict", None)):
        signature = getattr(owner, "signature", None)
        if hasattr(signature, "output_fields"):
            return signature
    return None


def _answer_fields(signature: Any) -> list[str]:
    reasoning_type = getattr(dspy, "Reasoning", None)
    return [
        name
        for name, field in signature.output_fields.items()
        if name not in _NOT_ANSWERS and (reasoning_type is None or field.annotation is not reasoning_type)
    ]

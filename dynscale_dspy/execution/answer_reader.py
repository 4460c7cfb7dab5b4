"""Which part of a prediction is the answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import dspy

from dynscale_dspy._fields import AnswerFields, check
from dynscale_dspy.execution.introspection import signature_of
from dynscale_dspy.selection.answers import NOT_ANSWERS, Record

logger = logging.getLogger(__name__)

Answer = str | Sequence[str] | Callable[[dspy.Prediction], Any]
"""How a user names the answer: one output field, several, or a function of the prediction."""


class MissingField(ValueError):
    """The program returned no field of the name by which the user names the answer."""


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

    _signature: Any = None  # pickles of version 0.1 have none

    def __init__(self, module: dspy.Module, answer: Answer | None = None) -> None:
        self.answer = answer = check("answer", answer, AnswerFields | None)
        signature = signature_of(module)
        self._known_to_exist = signature is not None
        self._signature = signature
        if signature is not None and not callable(answer):
            outputs = list(signature.output_fields)
            missing = [name for name in answer or () if name not in outputs]
            if missing:
                raise ValueError(
                    f"answer names {missing[0]!r}, which the program does not produce; its output fields are {outputs}"
                )
            if answer is None and not _answer_fields(signature):
                raise ValueError(f"no output field of {outputs} looks like an answer; say which one with answer=...")

    @property
    def output_types(self) -> dict[str, Any]:
        """The type of each output field that is part of the answer, by name; empty if that is not known."""
        if self._signature is None or callable(self.answer):
            return {}
        names = self.answer or _answer_fields(self._signature)
        return {name: self._signature.output_fields[name].annotation for name in names}

    def read(self, module: dspy.Module, prediction: Any) -> Any:
        """The answer as the program gave it: one value, or a dict of several fields; None if there is none.

        Raises:
            MissingField: If a field named by the user is not in the prediction, and may never be.
        """
        if callable(self.answer):
            try:
                return self.answer(prediction)
            except Exception as error:
                # It may well choke on a malformed sample; that sample was paid for, and only loses its vote.
                # Its type only: the message quotes what the model said.
                name = type(error).__name__
                logger.warning("the answer function failed on a sample, which casts no vote: %s", name)
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
                raise MissingField(
                    f"answer names {missing[0]!r}, but the program returned the fields {list(prediction.keys())}"
                )
        values = {name: prediction.get(name) for name in names}
        if all(value is None for value in values.values()):
            return None
        return next(iter(values.values())) if len(values) == 1 else Record(values)


def _default_fields(module: dspy.Module, prediction: dspy.Prediction) -> list[str]:
    # A prediction made by a predictor knows its signature; others (ReAct, a user's own module) are asked for theirs.
    signature = getattr(getattr(prediction, "_completions", None), "signature", None) or signature_of(module)
    keys = list(prediction.keys())
    if signature is not None:
        names = [name for name in _answer_fields(signature) if name in keys]
        if names:
            return names
    return [name for name in keys if name not in NOT_ANSWERS]


def _answer_fields(signature: Any) -> list[str]:
    reasoning_type = getattr(dspy, "Reasoning", None)
    return [
        name
        for name, field in signature.output_fields.items()
        if name not in NOT_ANSWERS and (reasoning_type is None or field.annotation is not reasoning_type)
    ]

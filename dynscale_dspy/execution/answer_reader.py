"""Which part of a prediction is the answer."""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import dspy

from dynscale_dspy._fields import AnswerFields, check
from dynscale_dspy._naming import named_predictors
from dynscale_dspy.execution.introspection import signature_of
from dynscale_dspy.selection.answers import NOT_ANSWERS, Record
from dynscale_dspy.selection.fields import ABSENT, said, voting_fields

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
            answer). By default every output field that votes: none that tells how the answer came about, explains or
            rates it (:func:`~dynscale_dspy.selection.fields.voting_fields`).

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
            if answer is None and not _fields_of(signature).types:
                raise ValueError(f"no output field of {outputs} looks like an answer; say which one with answer=...")
        if self.left_out:
            logger.debug(
                "%s: the votes are about %s; %s explain or rate it and do not vote, unless answer= names them",
                type(module).__name__,
                ", ".join(self.output_types),
                ", ".join(self.left_out),
            )

    @property
    def output_types(self) -> dict[str, Any]:
        """The type of each output field that is part of the answer, by name; empty if that is not known."""
        if self._signature is None or callable(self.answer):
            return {}
        names = self.answer if self.answer is not None else _fields_of(self._signature).voting
        return {name: _type_of(self._signature.output_fields[name]) for name in names}

    @property
    def left_out(self) -> list[str]:
        """Output fields that do not vote since they seem to explain or rate the answer; empty if that is not known."""
        if self._signature is None or self.answer is not None:
            return []
        fields = _fields_of(self._signature)
        return [name for name in fields.types if name not in fields.voting]

    def read(self, module: dspy.Module, prediction: Any, reply: str | None = None) -> Any:
        """The answer as the program gave it: one value, or a dict of the fields of several that say something.

        What a field says depends on its type: None where that may be the answer, nothing where it may not
        (:func:`~dynscale_dspy.selection.fields.said`). A program of the user's own has the types of its predictors'
        fields of the same names. DSPy puts None where an optional field is missing in what the model wrote: that field
        says nothing.

        Args:
            module: The program.
            prediction: What it returned.
            reply: All that the model wrote, in the framing of one of DSPy's adapters; None if that is not known.

        Returns:
            The answer, which may be None; :data:`~dynscale_dspy.selection.fields.ABSENT` if there is none.

        Raises:
            MissingField: If a field named by the user is not in the prediction, and may never be.
        """
        if callable(self.answer):
            try:
                return said(self.answer(prediction), None)
            except Exception as error:
                # It may well choke on a malformed sample; that sample was paid for, and only loses its vote.
                # Its type only: the message quotes what the model said.
                name = type(error).__name__
                logger.warning("the answer function failed on a sample, which casts no vote: %s", name)
                return ABSENT
        if not isinstance(prediction, dspy.Prediction):
            return said(prediction, None)
        types, names = self._named(module, prediction)
        if self.answer is not None:
            missing = [name for name in names if name not in prediction.keys()]  # noqa: SIM118
            # A program known to have the field has given a malformed sample; one that is not may never give it.
            if missing and not self._known_to_exist:
                raise MissingField(
                    f"answer names {missing[0]!r}, but the program returned the fields {list(prediction.keys())}"
                )
        values = {}
        for name in names:
            there = name in prediction.keys()  # noqa: SIM118
            value = said(prediction.get(name), types.get(name)) if there else ABSENT
            if value is None and reply is not None and not _wrote(reply, name):
                value = ABSENT
            if value is not ABSENT:
                values[name] = value
        if not values:
            return ABSENT
        return next(iter(values.values())) if len(names) == 1 else Record(values)

    def written(self, module: dspy.Module, prediction: Any, answer: Any) -> dspy.Prediction | None:
        """A prediction like this one that has another answer; what else is in it, such as reasoning, stays.

        Args:
            module: The program.
            prediction: What it returned. It is left as it is.
            answer: The answer, as :meth:`read` would give it: one value, or a dict of fields.

        Returns:
            The prediction; None where there is no telling which fields hold the answer: it is a function's, or the
            program returned something else than a ``dspy.Prediction``.
        """
        if callable(self.answer) or not isinstance(prediction, dspy.Prediction):
            return None
        _, names = self._named(module, prediction)
        values = {names[0]: answer} if len(names) == 1 else dict(answer)
        made: dspy.Prediction = object.__new__(type(prediction))
        vars(made).update(vars(prediction), _store={**vars(prediction)["_store"], **values})
        return made

    def _named(self, module: dspy.Module, prediction: dspy.Prediction) -> tuple[dict[str, Any], Sequence[str]]:
        """The types of a prediction's fields, and the names of those that are the answer, which is no function."""
        fields = _fields(module, prediction)
        assert not callable(self.answer)
        return fields.types, fields.voting if self.answer is None else self.answer


def _wrote(reply: str, name: str) -> bool:
    """Whether a reply has a field of this name: ``[[ ## name ## ]]``, ``"name":``, ``<name>``."""
    name = re.escape(name)
    return re.search(rf"\[\[\s*##\s*{name}\s*##|\b{name}\\?[\"']?\s*:|<{name}[\s>/]", reply) is not None


class _Fields:
    """The fields that may be part of an answer.

    Args:
        types: The type of each by name; None where it is not known.
    """

    def __init__(self, types: dict[str, Any]) -> None:
        self.types = types
        self.voting = voting_fields(types)
        """The names of those that vote."""


def _fields(module: dspy.Module, prediction: dspy.Prediction) -> _Fields:
    """The fields of a prediction that may be part of an answer."""
    # A prediction made by a predictor knows its signature; others (ReAct, a user's own module) are asked for theirs.
    signature = getattr(getattr(prediction, "_completions", None), "signature", None) or signature_of(module)
    keys = list(prediction.keys())
    if signature is not None:
        fields = _fields_of(signature)
        if not fields.types.keys().isdisjoint(keys):
            return fields
    inside: dict[str, Any] = {}
    for _, predictor in named_predictors(module):
        inside.update(_fields_of(predictor.signature).types)
    return _Fields({name: inside.get(name) for name in keys if name not in NOT_ANSWERS})


def _type_of(field: Any) -> Any:
    """The type of a field with its constraints, which pydantic keeps apart: what is put together has to obey them."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


_kept: weakref.WeakKeyDictionary[Any, tuple[dict[str, Any], _Fields]] = weakref.WeakKeyDictionary()


def _fields_of(signature: Any) -> _Fields:
    """The output fields of a signature that may be part of an answer; of each it is found out once."""
    outputs = {name: field.annotation for name, field in signature.output_fields.items()}
    kept = _kept.get(signature)
    if kept is None or kept[0] != outputs:
        reasoning_type = getattr(dspy, "Reasoning", None)
        types = {
            name: annotation
            for name, annotation in outputs.items()
            if name not in NOT_ANSWERS and (reasoning_type is None or annotation is not reasoning_type)
        }
        kept = _kept[signature] = outputs, _Fields(types)
    return kept[1]

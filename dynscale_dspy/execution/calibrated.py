"""Votes over their mean of a program's calls, where the user asks for it: for which calls, and what the caller gets."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import dspy

from dynscale_dspy.allocation.label_means import LabelMeans
from dynscale_dspy.execution.copies import Copier
from dynscale_dspy.execution.inputs import inputs_key, lasting_name
from dynscale_dspy.execution.introspection import signature_of
from dynscale_dspy.execution.token_probabilities import LabelReader
from dynscale_dspy.sampling.sample import Sample
from dynscale_dspy.selection.calibration import Calibration


def calibration_of(predictor: Any, lm: Any, reader: LabelReader | None, means: LabelMeans) -> Calibration | None:
    """How votes of a call are calibrated; None where they cannot be.

    They can where a label is all that is written: then the answer may be another one than was written, since nothing
    else in the reply depends on it.

    Args:
        predictor: The predictor that the program consists of.
        lm: The language model that it asks.
        reader: How votes get the probabilities of labels.
        means: What is known of the program.
    """
    if reader is None or not reader.at_once or list(signature_of(predictor).output_fields) != [reader.field]:
        return None
    return Calibration(means, _prompt_of(predictor, lm), reader.labels, reader.keys)


def _prompt_of(predictor: Any, lm: Any) -> str:
    """A name of what a mean holds for: a language model, and all that is in the prompt beside the inputs."""
    signature, adapter = signature_of(predictor), type(dspy.settings.adapter or dspy.ChatAdapter()).__qualname__
    shown = inputs_key(list(predictor.demos))
    name = lasting_name(signature.instructions, list(signature.fields), shown, adapter)
    return f"{getattr(lm, 'model', type(lm).__name__)} {name.hex()[:12]}"


def as_voted(winner: Sample, field: str) -> Sample:
    """The winning sample, with a prediction and a trace of the answer that its vote is for.

    Args:
        winner: The sample, as the plan hands it over.
        field: The only output field.
    """
    prediction = winner.prediction
    if not isinstance(prediction, dspy.Prediction) or prediction.get(field) == winner.answer:
        return winner
    changed = Copier().copy(prediction)
    changed[field] = winner.answer
    with contextlib.suppress(Exception):  # some predictions have no completions
        changed.completions[field][0] = winner.answer
    trace = (*((*entry[:2], changed) if entry[2] is prediction else entry for entry in winner.trace),)
    return replace(winner, prediction=changed, trace=trace)

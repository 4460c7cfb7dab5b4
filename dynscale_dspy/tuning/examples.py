"""Examples to measure a program on: read from files, told apart into inputs and labels, and compared with answers."""

from __future__ import annotations

import csv
import inspect
import io
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dspy

from dynscale_dspy._naming import named_predictors
from dynscale_dspy.execution.answer_reader import Answer, AnswerReader
from dynscale_dspy.execution.introspection import signature_of
from dynscale_dspy.selection.answers import UnreadableAnswer
from dynscale_dspy.selection.fields import ABSENT
from dynscale_dspy.selection.plurality import Plurality

logger = logging.getLogger(__name__)

Metric = Callable[..., Any]
"""``metric(example, prediction)``: a number or a bool, more is better; None for an example that it cannot judge."""


def read_examples(path: str | Path) -> list[dict[str, Any]]:
    """Read a file of examples, each a dict: lines of JSON (``.jsonl``), a list in JSON (``.json``), or ``.csv``.

    Args:
        path: The file. The first line of CSV names the columns; an empty cell is no value.

    Raises:
        ValueError: If the kind of file is unknown, it cannot be read as what it is, or it has no examples. The message
            says where.
        OSError: If it cannot be opened.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".jsonl", ".json", ".csv"):
        raise ValueError(
            f"{path}: examples are read from .jsonl, .json or .csv, not from {kind or 'a file without one'}"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error}") from None
    if kind == ".csv":
        found = _from_csv(path, text)
    elif kind == ".json":
        found = _parsed(text, str(path))
        if not isinstance(found, list):
            raise ValueError(f"{path}: expected a list of objects, got {type(found).__name__}")
    else:
        lines = enumerate(text.splitlines(), 1)
        found = [_parsed(line, f"{path}:{number}") for number, line in lines if line.strip()]
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}: example {number} must be an object, got {type(row).__name__}")
    if not found:
        raise ValueError(f"{path}: no examples in it")
    return found


def _from_csv(path: Path, text: str) -> list[Any]:
    try:
        rows: list[dict[str | None, Any]] = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))  # type: ignore[arg-type]
    except csv.Error as error:
        raise ValueError(f"{path}: not CSV: {error}") from None
    for number, row in enumerate(rows, 1):
        if None in row:
            raise ValueError(f"{path}: example {number} has more cells than the first line names columns")
    return [{name: cell for name, cell in row.items() if name and cell} for row in rows]


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON: {error}") from None


def as_examples(program: dspy.Module, examples: Sequence[dspy.Example | Mapping[str, Any]]) -> list[dspy.Example]:
    """The same examples, each with the program's inputs set; all else in them are labels.

    Args:
        program: The program. Its signature, or its ``forward``, tells the inputs of those examples that do not.
        examples: ``dspy.Example`` objects, with inputs set or not, or dicts.

    Raises:
        TypeError: If one is neither.
        ValueError: If one lacks an input, or nothing tells what the inputs are.
    """
    names: tuple[list[str], list[str]] | None = None
    made = []
    for number, example in enumerate(examples):
        if not isinstance(example, (dspy.Example, Mapping)):
            raise TypeError(f"examples must be dspy.Example objects or dicts, got {type(example).__name__}")
        if isinstance(example, dspy.Example) and _has_inputs(example):
            made.append(example)
            continue
        if names is None:
            names = _input_names(program)
        required, optional = names
        fields = example.toDict() if isinstance(example, dspy.Example) else dict(example)
        missing = [name for name in required if name not in fields]
        if missing:
            raise ValueError(
                f"example {number} has no {missing[0]!r}, which is an input of the program: it has {list(fields)}"
            )
        made.append(dspy.Example(**fields).with_inputs(*(name for name in required + optional if name in fields)))
    return made


def _has_inputs(example: dspy.Example) -> bool:
    try:
        return bool(list(example.inputs()))
    except ValueError:  # none were set
        return False


def _input_names(program: dspy.Module) -> tuple[list[str], list[str]]:
    """The inputs that a program needs, and those that it may be given."""
    signature = signature_of(program)
    if signature is not None:
        return list(signature.input_fields), []
    parameters = inspect.signature(object.__getattribute__(program, "forward")).parameters.values()
    named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    if not named:
        raise ValueError(
            "neither a signature nor the arguments of forward() tell the inputs of the program: pass dspy.Example "
            "objects with inputs set, dspy.Example(...).with_inputs('question')"
        )
    required = [each.name for each in named if each.default is each.empty]
    return required, [each.name for each in named if each.default is not each.empty]


def checked_metric(metric: Any) -> Metric:
    """The metric itself.

    Raises:
        TypeError: If it cannot be called with an example and a prediction.
    """
    if not callable(metric):
        raise TypeError(f"metric must be a function of an example and a prediction, got {metric!r}")
    try:
        inspect.signature(metric).bind(dspy.Example(), dspy.Prediction())
    except TypeError as error:
        raise TypeError(f"metric must take an example and a prediction: {error}") from None
    except ValueError:  # one of C, which does not tell
        pass
    return metric


class Judge:
    """Scores predictions with a metric. A prediction on which it fails scores 0, as with ``dspy.Evaluate``.

    Args:
        metric: The metric.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._uses = 0
        self._errors: list[Exception] = []

    def __call__(self, example: dspy.Example, prediction: Any) -> float:
        """The score; not a number if the metric cannot judge it.

        Args:
            example: The example.
            prediction: What the program returned; None if it failed, which scores 0.
        """
        if prediction is None:
            judged = not isinstance(self._metric, SameAnswer) or self._metric.is_labelled(example)
            return 0.0 if judged else math.nan
        self._uses += 1
        try:
            score = self._metric(example, prediction)
            number = math.nan if score is None else float(score)
            if math.isinf(number):
                raise ValueError(f"metric must give a finite number, got {number}")
            return number
        except Exception as error:
            # Its type only: the message may quote what the model said.
            logger.warning("the metric failed on a prediction, which scores 0: %s", type(error).__name__)
            self._errors.append(error)
            return 0.0

    def raise_if_useless(self) -> None:
        """Raise the first error of the metric if it has failed on every prediction so far."""
        if self._errors and len(self._errors) == self._uses:
            raise self._errors[0]


class SameAnswer:
    """A metric: 1 where a program's answer is the same as an example's label, 0 where it is another or none.

    The fields that vote are compared, as far as the example labels them, and as votes are: "1,000" is 1000. It is None
    for an example without a label for any of them.

    Args:
        program: The program.
        answer: What the answer is, as for :class:`~dynscale_dspy.DynScaling`.
    """

    def __init__(self, program: dspy.Module, answer: Answer | None = None) -> None:
        self._program = program
        self._answer = answer
        self._outputs = {name for _, each in named_predictors(program) for name in each.signature.output_fields}  # type: ignore[union-attr]

    def is_labelled(self, example: dspy.Example) -> bool:
        """Whether an example has a label, as far as that can be told without a prediction."""
        labels = dict(example.labels())
        if callable(self._answer):
            return (
                AnswerReader(self._program, self._answer).read(self._program, dspy.Prediction(**labels)) is not ABSENT
            )
        return (
            self(example, dspy.Prediction(**{name: labels[name] for name in self._outputs if name in labels}))
            is not None
        )

    def __call__(self, example: dspy.Example, prediction: Any) -> float | None:
        """Compare."""
        labels = dict(example.labels())
        given = self._answer
        if not isinstance(prediction, dspy.Prediction):
            return None
        if not callable(given):
            named = [given] if isinstance(given, str) else given
            names = [name for name in named or prediction.keys() if name in labels and name in prediction.keys()]  # noqa: SIM118
            if not names:
                return None
            labels = {name: labels[name] for name in names}
            prediction = dspy.Prediction(**{name: prediction[name] for name in names})
            given = names if named else None
        reader = AnswerReader(self._program, given)
        wanted = reader.read(self._program, dspy.Prediction(**labels))
        if wanted is ABSENT:
            return None
        got = reader.read(self._program, prediction)
        if got is ABSENT:
            return 0.0
        rule = Plurality().typed(reader.output_types)
        try:
            return float(rule.read(got).key == rule.read(wanted).key)
        except UnreadableAnswer:
            return 0.0

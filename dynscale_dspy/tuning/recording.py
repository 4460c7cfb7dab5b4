"""record: keeps what samples of a program say, each with a score, for ``dynscale replay``."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import dspy

from dynscale_dspy import _fields
from dynscale_dspy.allocation.policies import Uniform
from dynscale_dspy.budget.pool import BudgetPool
from dynscale_dspy.config import ScalingSettings
from dynscale_dspy.execution.inputs import inputs_of
from dynscale_dspy.module import DynScaling
from dynscale_dspy.replay.lines import opened
from dynscale_dspy.replay.scored import Outputs, ScoredPool
from dynscale_dspy.reporting.explanation import SampleReport, explain
from dynscale_dspy.sampling.strategies import Parallel
from dynscale_dspy.selection.blends import fields_of
from dynscale_dspy.tuning.examples import Judge, Metric, SameAnswer, as_examples, checked_metric

logger = logging.getLogger(__name__)


def record(
    program: dspy.Module,
    examples: Sequence[dspy.Example | Mapping[str, Any]],
    metric: Metric | None = None,
    path: str | Path | None = None,
    *,
    samples: int = 8,
    num_threads: int | None = None,
    seed: int = 0,
    display_progress: bool = False,
) -> ScoredPool:
    """Draw independent samples of a program for each example, score each, and write them to a file.

    ``dynscale replay FILE`` then says which rule of winning is best for them and what a bandit adds, with no request.

    Args:
        program: The program. Of a :class:`~dynscale_dspy.DynScaling` module its program is sampled, with its settings.
        examples: As of :func:`~dynscale_dspy.tuning.checks.check`.
        metric: ``metric(example, prediction)``, more is better: asked once for each sample. By default an answer that
            votes as the label does is right.
        path: Where to write; a name in ``.jsonl``, or ``.jsonl.gz``. None writes nothing.
        samples: Samples an example, at least 2. A policy that adapts is replayed up to half as many on average.
        num_threads: Samples at a time; DSPy's setting by default.
        seed: Seeds the pool.
        display_progress: Whether to show a progress bar; where there is no terminal, a line now and then.

    Returns:
        The samples as values of JSON, and their scores. Scores outside 0 to 1 become shares of their range, which is
        logged. An example that the metric cannot judge is left out, and named in ``skipped``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If there is no example, one lacks an input, ``path`` has another ending or its folder is not there,
            or ``samples`` is out of range. Nothing is spent then.
        PoolError: If the metric can judge no example.
        Exception: The program's error if every call of it fails, or the metric's if every use of it does.

    Example:
        ```python
        pool = record(program, devset[:100], metric, "mine.jsonl", samples=16)
        ```
    """
    if not isinstance(program, dspy.Module):
        raise TypeError(f"program must be a dspy.Module, got {program!r}")
    _fields.check("samples", samples, _fields.Count)
    if samples < 2:
        raise ValueError(f"samples must be at least 2, or there is nothing to choose from, got {samples!r}")
    target = None if path is None else _target(path)
    given = program.scaling_settings if isinstance(program, DynScaling) else ScalingSettings()
    inner: dspy.Module = program.module if isinstance(program, DynScaling) else program
    asked = as_examples(inner, examples)
    if not asked:
        raise ValueError("examples is empty: give at least one, a few dozen to tell anything")
    judge = Judge(SameAnswer(inner, given.answer) if metric is None else checked_metric(metric))
    # Each sample is one draw, and none is answered by somebody else.
    settings = given.replace(
        sampling=Parallel(first="own"), max_samples=samples, probabilities=False, min_confidence=None, on_low="abstain"
    )
    pool = BudgetPool(samples=samples * len(asked), policy=Uniform(), max_per_call=samples, seed=seed)
    predictions, _, errors = DynScaling(inner, pool, **dict(settings)).batch(
        [inputs_of(example) for example in asked],
        num_threads=num_threads,
        return_failed_examples=True,
        disable_progress_bar=not display_progress,
    )
    if len(errors) == len(asked):
        raise errors[0]
    scored, skipped = {}, []
    for number, (prediction, example) in enumerate(zip(predictions, asked, strict=True)):
        drawn = () if prediction is None else explain(prediction).samples
        told = [(_answer(sample), judge(example, sample.prediction)) for sample in drawn]
        told = told or [(None, judge(example, None))] * samples  # every sample failed
        if any(math.isnan(score) for _, score in told):
            skipped.append(f"example {number}: the metric cannot judge it")
        else:
            scored[str(number)] = told
    judge.raise_if_useless()
    outputs = tuple(
        Outputs(name, tuple(answer for answer, _ in told), tuple(score for _, score in told))
        for name, told in _in_range(scored).items()
    )
    name = "live" if target is None else target.name.removesuffix(".gz").removesuffix(".jsonl")
    recorded = ScoredPool(name, outputs, tuple(skipped))
    if target is not None:
        write(recorded, target)
    return recorded


def write(pool: ScoredPool, path: str | Path) -> None:
    """Write outputs and scores as :func:`~dynscale_dspy.replay.scored.load_scored_pool` reads them.

    Args:
        pool: The outputs, each a value of JSON.
        path: The file, compressed if its name ends in ``.gz``.
    """
    with opened(Path(path), "w") as file:
        for each in pool.questions:
            row = {"id": each.id, "samples": each.samples, "scores": each.scores}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _target(path: str | Path) -> Path:
    target = Path(path)
    if not target.name.endswith((".jsonl", ".jsonl.gz")):
        raise ValueError(f"path must end in .jsonl or .jsonl.gz, got {str(path)!r}")
    if not target.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {target.absolute().parent} to write {target.name} to")
    return target


def _answer(sample: SampleReport) -> Any:
    """What a sample said; None if it casts no vote."""
    return None if sample.vote is None else as_json(sample.answer)


def as_json(value: Any) -> Any:
    """A value of a program as JSON can hold it: a model or a dataclass is a dict, code its text, a set a list.

    Example:
        >>> as_json({"tags": {"b", "a"}, "score": float("nan")})
        {'tags': ['a', 'b'], 'score': 'nan'}
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Enum):
        return as_json(value.value)
    if isinstance(value, (int, float)):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dspy.Code):
        return value.code
    fields = fields_of(value)
    if fields is not None:
        return {str(name): as_json(each) for name, each in fields.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((as_json(each) for each in value), key=repr)
    if isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray)):
        return [as_json(each) for each in value]
    return str(value)


def _in_range(scored: Mapping[str, list[tuple[Any, float]]]) -> Mapping[str, list[tuple[Any, float]]]:
    """The same with scores from 0 to 1."""
    scores = [score for told in scored.values() for _, score in told]
    low, high = min(scores, default=0.0), max(scores, default=1.0)
    if low >= 0 and high <= 1:
        return scored
    low, high = min(low, 0.0), max(high, 1.0)
    logger.warning("the metric gave scores from %g to %g: recorded are shares of that range", low, high)
    return {name: [(answer, (score - low) / (high - low)) for answer, score in told] for name, told in scored.items()}

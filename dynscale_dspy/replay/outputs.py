"""Recorded outputs of any type, each with a score."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynscale_dspy.replay.lines import PoolError, items_of, objects_in
from dynscale_dspy.selection.base import Selection, composed_of


@dataclass(frozen=True)
class Outputs:
    """What a model wrote for one prompt, several times.

    Args:
        id: Names the prompt.
        samples: The outputs, in any order: text, lists, numbers; a dict has the values of several output fields. None
            is a sample without an output.
        scores: How good each is, from 0 to 1.
        score: Says how good an answer is that is put together from several samples; None where that is not known, and
            the score of the sample counts on which it is made.
    """

    id: str
    samples: tuple[Any, ...]
    scores: tuple[float, ...]
    score: Callable[[Any], float] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.samples:
            raise PoolError(f"question {self.id!r} has no samples")
        if len(self.scores) != len(self.samples):
            raise PoolError(f"question {self.id!r} has {len(self.samples)} samples but {len(self.scores)} scores")

    @property
    def mean(self) -> float:
        """The score of a random sample."""
        return float(np.mean(self.scores))

    def scored(self, selection: Selection, order: Sequence[int]) -> float:
        """The score of what wins; of a random sample where none has voted.

        Args:
            selection: The votes.
            order: Which sample is meant by each index in the votes.
        """
        winner = selection.winner()
        if winner is None:
            return self.mean
        composed = composed_of(selection) if self.score is not None else None
        return self.scores[order[winner]] if composed is None or self.score is None else self.score(composed.answer)


@dataclass(frozen=True)
class ScoredPool:
    """Recorded outputs of some prompts by one model.

    Args:
        name: Names it in tables.
        questions: At least one.
        skipped: What was left out on loading, one sentence each.
    """

    name: str
    questions: tuple[Outputs, ...]
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.questions:
            raise PoolError(f"pool {self.name!r} has no questions")
        ids = [question.id for question in self.questions]
        if len(set(ids)) < len(ids):
            raise PoolError(f"pool {self.name!r} has question {next(i for i in ids if ids.count(i) > 1)!r} twice")

    @property
    def room(self) -> int:
        """Samples that every question has."""
        return min(len(question.samples) for question in self.questions)

    @property
    def means(self) -> NDArray[Any]:
        """Of each question the score of a random sample."""
        return np.array([question.mean for question in self.questions])

    def best(self, samples: int) -> NDArray[Any]:
        """Of each question the mean score of the best of so many samples.

        Args:
            samples: How many; at most :attr:`room`.
        """
        return np.array([_best(question, samples) for question in self.questions])


def load_scored_pool(path: str | Path) -> ScoredPool:
    """Read outputs from ``.jsonl`` or ``.jsonl.gz``, one prompt a line.

    A line is an object with ``"id"``, ``"samples"`` (a list of values of any type, null for a sample without an
    output) and ``"scores"`` (a list of numbers from 0 to 1, one a sample). Other fields are ignored.

    Args:
        path: The file; its name without suffixes is the pool's name.

    Raises:
        PoolError: If a line is malformed; the message names file and line.
        FileNotFoundError: If there is no such file.
    """
    path = Path(path)
    questions: list[Outputs] = []
    skipped: list[str] = []
    for where, row in objects_in(path, ("id", "samples", "scores")):
        samples = items_of(row, "samples", where, lambda _: True, "values")
        scores = items_of(row, "scores", where, _is_score, "numbers from 0 to 1")
        if len(scores) != len(samples):
            raise PoolError(f"{where}: {len(samples)} samples but {len(scores)} 'scores'")
        if samples:
            questions.append(Outputs(str(row["id"]), tuple(samples), tuple(map(float, scores))))
        else:
            skipped.append(f"{where}: no samples")
    if not questions:
        raise PoolError(f"{path}: no question with samples")
    return ScoredPool(path.name.removesuffix(".gz").removesuffix(".jsonl"), tuple(questions), tuple(skipped))


def is_scored(path: str | Path) -> bool:
    """Whether a file's first line has outputs with scores, rather than answers that are right or wrong.

    Raises:
        PoolError: If it cannot be read.
    """
    first = next(objects_in(Path(path), ("id",)), None)
    return first is not None and "scores" in first[1] and "answers" not in first[1]


def _best(question: Outputs, budget: int) -> float:
    """Mean score of the best of so many samples, over all sets of so many."""
    scores, count = sorted(question.scores), len(question.scores)
    ways = math.comb(count, budget)
    return sum(score * math.comb(below, budget - 1) for below, score in enumerate(scores)) / ways


def _is_score(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1

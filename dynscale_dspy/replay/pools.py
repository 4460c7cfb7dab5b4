"""Pools of recorded samples: from files, or from a wrapped program's own predictions."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynscale_dspy._words import counted
from dynscale_dspy.replay.lines import PoolError, items_of, objects_in, opened


@dataclass(frozen=True)
class Question:
    """A question and its recorded samples, in any order.

    Args:
        id: Names the question; pools of different models over the same questions share these names.
        answers: The answer of each sample, equal strings being one answer; None for a sample without one.
        right: The answers that are right.
        tokens: What each sample cost, or None if not recorded.
    """

    id: str
    answers: tuple[str | None, ...]
    right: frozenset[str]
    tokens: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.answers:
            raise PoolError(f"question {self.id!r} has no samples")
        if self.tokens is not None and len(self.tokens) != len(self.answers):
            raise PoolError(f"question {self.id!r} has {len(self.answers)} answers but {len(self.tokens)} token counts")


@dataclass(frozen=True)
class Pool:
    """Recorded samples of some questions by one model.

    Args:
        name: ``source__model__dataset`` by convention; the parts serve to group pools.
        questions: At least one.
        skipped: What was left out on loading, and why, one sentence each.
    """

    name: str
    questions: tuple[Question, ...]
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.questions:
            raise PoolError(f"pool {self.name!r} has no questions")
        seen: set[str] = set()
        for question in self.questions:
            if question.id in seen:
                raise PoolError(f"pool {self.name!r} has question {question.id!r} twice")
            seen.add(question.id)

    @property
    def source(self) -> str:
        """Where the pool comes from: the name's first part."""
        return self.name.split("__")[0]

    @property
    def model(self) -> str:
        """The model: what is between the name's first and last part, or the whole name."""
        parts = self.name.split("__")
        return "__".join(parts[1:-1]) if len(parts) > 2 else self.name

    @property
    def dataset(self) -> str:
        """The data set: the name's last part without a trailing year or size, so that its editions group together."""
        last = self.name.split("__")[-1]
        return last.rstrip("0123456789").rstrip("-_") or last

    @property
    def has_tokens(self) -> bool:
        """Whether every sample's cost in tokens is known."""
        return all(question.tokens is not None for question in self.questions)

    @property
    def tokens_per_sample(self) -> float:
        """Mean tokens of a sample.

        Raises:
            PoolError: If some are not recorded.
        """
        counts: list[int] = []
        for question in self.questions:
            if question.tokens is None:
                raise PoolError(f"pool {self.name!r}: question {question.id!r} has no token counts")
            counts.extend(question.tokens)
        return sum(counts) / len(counts)

    @classmethod
    def from_predictions(
        cls,
        predictions: Iterable[Any],
        examples: Sequence[Any],
        metric: Callable[[Any, Any], Any],
        *,
        name: str = "live",
        sampler: str | None = None,
    ) -> Pool:
        """A pool of what a ``DynScaling`` module drew while it answered: what would another budget have given?

        Samples are those behind each prediction, see :func:`dynscale_dspy.explain`. An adaptive run draws few samples
        where it is sure; a replay can only use half of what a question has, so record with a generous, uniform budget
        (``policy=Uniform()``). Samples that saw earlier ones are not independent and cannot be replayed; they are left
        out and counted in ``skipped``.

        Args:
            predictions: As the module returned them; None (a call that failed) is left out and named in ``skipped``.
            examples: The labelled example of each prediction.
            metric: ``metric(example, prediction)``, true if the prediction is right. Asked once for each answer.
            name: The pool's name.
            sampler: Only samples of this one: the name of a language model, where a call draws from several. A pool of
                each, named ``source__model__dataset``, lets ``dynscale replay --prices`` compare them.

        Raises:
            ValueError: If numbers of predictions and examples differ, or a prediction is not from a wrapped module.
            PoolError: If no samples are left.
        """
        from dynscale_dspy.reporting.explanation import explain  # all contact with DSPy is there

        predictions = list(predictions)
        if len(predictions) != len(examples):
            raise ValueError(f"got {len(predictions)} predictions but {len(examples)} examples")
        questions, skipped = [], []
        for number, (prediction, example) in enumerate(zip(predictions, examples, strict=True)):
            if prediction is None:
                skipped.append(f"call {number} failed and has no samples")
                continue
            samples = [each for each in explain(prediction).samples if sampler in (None, each.sampler)]
            independent = [sample for sample in samples if not sample.shown]
            if len(independent) < len(samples):
                skipped.append(f"call {number}: {counted(len(samples) - len(independent), 'sample')} saw earlier ones")
            if not independent:
                skipped.append(f"call {number} has no independent samples")
                continue
            # One answer, one name: as the first sample that gave it wrote it.
            written: dict[Hashable, str] = {}
            names: dict[str, bool] = {}
            answers: list[str | None] = []
            for sample in independent:
                if sample.key is None:
                    answers.append(None)
                    continue
                name_of_answer = written.setdefault(sample.key, _text_of(sample.answer, len(written)))
                if name_of_answer not in names:
                    names[name_of_answer] = bool(metric(example, sample.prediction))
                answers.append(name_of_answer)
            questions.append(
                Question(
                    id=str(number),
                    answers=tuple(answers),
                    right=frozenset(key for key, good in names.items() if good),
                    tokens=tuple(sample.cost.tokens for sample in independent),
                )
            )
        return cls(name, tuple(questions), tuple(skipped))

    def save(self, path: str | Path) -> None:
        """Write the pool as JSON lines, compressed if the name ends in ``.gz``."""
        with opened(Path(path), "w") as out:
            for question in self.questions:
                row = {
                    "id": question.id,
                    "gold": next(iter(question.right)) if len(question.right) == 1 else None,
                    "answers": question.answers,
                    "correct": [answer in question.right for answer in question.answers],
                    "tokens": question.tokens or [None] * len(question.answers),
                }
                out.write(json.dumps(row) + "\n")


def _text_of(answer: Any, number: int) -> str:
    """The text of an answer; where its class fails to give one, its type and its number among the call's answers."""
    try:
        return str.__str__(str(answer))
    except Exception:
        return f"({type(answer).__name__} {number} without text)"


def load_pool(path: str | Path) -> Pool:
    """Read a pool from ``.jsonl`` or ``.jsonl.gz``, one question a line.

    A line is an object with ``"id"``, ``"answers"`` (a list of strings, null for a sample without an answer) and
    ``"gold"`` (the right answer, spelled like the answers) or ``"correct"`` (a list of booleans, one an answer);
    ``"tokens"`` (a list of numbers) is needed to replay in tokens. Other fields are ignored.

    Args:
        path: The file; its name without suffixes is the pool's name.

    Returns:
        The pool. A question without samples is left out, and its line is named in ``skipped``.

    Raises:
        PoolError: If a line is malformed; the message names file and line.
        FileNotFoundError: If there is no such file.
    """
    path = Path(path)
    questions: list[Question] = []
    skipped: list[str] = []
    for where, row in objects_in(path, ("id", "answers")):
        question = _question(row, where)
        if question is None:
            skipped.append(f"{where}: no samples")
        else:
            questions.append(question)
    if not questions:
        raise PoolError(f"{path}: no question with samples")
    return Pool(path.name.removesuffix(".gz").removesuffix(".jsonl"), tuple(questions), tuple(skipped))


def _question(row: dict[str, Any], where: str) -> Question | None:
    answers = items_of(
        row, "answers", where, lambda answer: answer is None or isinstance(answer, str), "strings or null"
    )
    if not answers:
        return None
    gold, correct = row.get("gold"), row.get("correct")
    if gold is not None and not isinstance(gold, str):
        raise PoolError(f"{where}: 'gold' must be a string, got {gold!r}")
    if gold is None and correct is None:
        raise PoolError(f"{where}: no 'gold', and no 'correct' in its place")
    right = {gold} if gold is not None else set()
    if correct is not None:
        flags = items_of(row, "correct", where, lambda flag: isinstance(flag, bool), "booleans", len(answers))
        verdicts: dict[str, bool] = {}
        for answer, flag in zip(answers, flags, strict=True):
            if answer is not None and verdicts.setdefault(answer, flag) != flag:
                raise PoolError(f"{where}: answer {answer!r} is both correct and not")
        if gold is not None:
            for answer, flag in verdicts.items():
                if flag != (answer == gold):
                    raise PoolError(f"{where}: 'correct' and 'gold' disagree about answer {answer!r}")
        right |= {answer for answer, flag in verdicts.items() if flag}
    tokens: tuple[int, ...] | None = None
    if row.get("tokens") is not None:
        counts = items_of(row, "tokens", where, _is_count, "numbers or null", len(answers))
        tokens = None if None in counts else tuple(int(count) for count in counts)
    return Question(str(row["id"]), tuple(answers), frozenset(right), tokens)


def _is_answer(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_count(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0)

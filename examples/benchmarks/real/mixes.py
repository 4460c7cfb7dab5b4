"""What dividing each label's probability by its mean over the calls does, by how often each label is the right one.

Calls are made of the questions of each label in the wanted shares. A *known set* is large, and its mean that of all of
it; *one by one* are 200 calls in random order, each with the mean of those so far, as the library has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dspy
import numpy as np
from numpy.typing import NDArray

from dynscale_dspy.allocation.label_means import EACH, FLOOR, LEAST
from real.tasks import Task

FREQUENT = (None, 0.6, 0.75, 0.9)
"""The share of calls whose right answer is one certain label; None for as many of each."""
CALLS, RESAMPLES, STREAMS = 200, 1000, 200
Array = NDArray[Any]


def shares(frequent: float | None, labels: int) -> list[Array]:
    """The shares of labels, for each label that may be the frequent one."""
    if frequent is None:
        return [np.full(labels, 1 / labels)]
    return [np.where(np.arange(labels) == one, frequent, (1 - frequent) / (labels - 1)) for one in range(labels)]


def weights_of(gold: Array, mix: Array) -> Array:
    """How often each question comes in calls of this mix; labels that have no question are left out."""
    weights = mix[gold] / np.bincount(gold, minlength=len(mix))[gold]
    return weights / weights.sum()


def known_set(p: Array, gold: Array, mix: Array) -> tuple[float, float]:
    """How often the most probable label is right in a large set of this mix, before and after."""
    weights = weights_of(gold, mix)
    divided = p / np.maximum(weights @ p, FLOOR / len(mix))
    return tuple(float(weights @ (said.argmax(1) == gold)) for said in (p, divided))  # type: ignore[return-value]


def one_by_one(p: Array, gold: Array, mix: Array, rng: np.random.Generator) -> tuple[float, float]:
    """The same in a random sequence of calls."""
    drawn = rng.choice(len(gold), CALLS, p=weights_of(gold, mix))
    p, gold, number = p[drawn], gold[drawn], np.arange(1, CALLS + 1)[:, None]
    divided = p / np.maximum(p.cumsum(0) / number, FLOOR / len(mix))
    after = np.where(number[:, 0] >= max(LEAST, EACH * len(mix)), divided.argmax(1), p.argmax(1))
    return float((p.argmax(1) == gold).mean()), float((after == gold).mean())


def rows(model: str, task: Task, examples: Sequence[dspy.Example], found: Sequence[Any]) -> list[dict[str, Any]]:
    """A row a share of the frequent label: the mean over labels and orders of the demos, and the worst label.

    Args:
        model: The model's name.
        task: The task.
        examples: Its questions.
        found: For each order of the demos and question, the probability of each label.
    """
    assert task.labels is not None
    labels = len(task.labels)
    gold = np.array([task.labels.index(example[task.answered]) for example in examples])
    p = np.array([[[one[label] for label in task.labels] for one in order] for order in found])
    rng = np.random.default_rng(0)
    of_label = [np.flatnonzero(gold == label) for label in range(labels)]
    resamples = [np.concatenate([rng.choice(own, len(own)) for own in of_label]) for _ in range(RESAMPLES)]
    told = []
    for frequent in FREQUENT:
        mixes = shares(frequent, labels)

        def gains(picks: Array, mixes: Sequence[Array] = mixes) -> Array:
            """By label, the mean over orders."""
            pairs = [[known_set(one[picks], gold[picks], mix) for one in p] for mix in mixes]
            return np.array(pairs)[:, :, 1].mean(1) - np.array(pairs)[:, :, 0].mean(1)

        own, drawn = gains(np.arange(len(gold))), np.array([gains(picks) for picks in resamples])
        worst = int(own.argmin())
        streams = [[one_by_one(p[n % len(p)], gold, mix, rng) for n in range(STREAMS)] for mix in mixes]
        later = np.diff(np.array(streams), axis=2)[:, :, 0].mean(1)
        greedy = [np.mean([known_set(one, gold, mix)[0] for one in p]) for mix in mixes]
        told.append(
            {
                "model": model,
                "task": task.name,
                "questions": len(gold),
                "orders": len(p),
                "frequent": frequent,
                "greedy": float(np.mean(greedy)),
                **_interval("gain", own.mean(), drawn.mean(1)),
                "gain one by one": float(later.mean()),
                "worst greedy": float(greedy[worst]),
                **_interval("worst", own[worst], drawn[:, worst]),
                "worst one by one": float(later[worst]),
            }
        )
    return told


def _interval(name: str, value: float, drawn: Array) -> dict[str, float]:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {name: float(value), f"{name} low": float(low), f"{name} high": float(high)}

"""What the order of a few-shot program's demos does, from the model's probabilities under several of them.

Each order in turn is taken for the program's own: the mean over them is what a program gets whose order nobody chose,
and the best of them is one whose order was.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import dspy
import numpy as np
from numpy.typing import NDArray

from real.proxy import Recorded
from real.tasks import Task

SAMPLES = 4
DRAWS = 60
"""Votes drawn for each question and order."""
Probabilities = dict[str, float]


def asked(recorded: Recorded, task: Task, examples: Sequence[Any], orders: int, adapter: Any) -> list[Any]:
    """The model's probabilities of the labels, by order and question; the first order is the task's own."""
    demos = task.demos()
    found = []
    for number in range(orders):
        order = list(range(len(demos)))
        if number:
            order = random.Random(f"order {number}").sample(order, len(order))
        shown = [demos[i] for i in order]
        prompts = [adapter.format(task.signature, shown, example.inputs().toDict()) for example in examples]
        found.append([recorded.labels(task, prompt)["p"] for prompt in prompts])
    return found


def compared(found: Sequence[Sequence[Probabilities]], gold: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """How often each method is right, by the order that is the program's own and by question."""
    rng = random.Random(0)
    orders = range(len(found))

    def draw(p: Probabilities, temperature: float) -> str:
        top = max(p, key=p.__getitem__)
        if not temperature:
            return top
        return rng.choices(list(p), [(q / p[top]) ** (1 / temperature) for q in p.values()])[0]

    def others(own: int) -> list[int]:
        return rng.sample([order for order in orders if order != own], SAMPLES - 1)

    def voted(drawn: Sequence[str]) -> str:
        votes = Counter(drawn)
        return max(drawn, key=lambda label: votes[label])  # of equals the first

    def same(temperature: float) -> Callable[[int, int], str]:
        return lambda own, at: voted([draw(found[own][at], temperature) for _ in range(SAMPLES)])

    def permuted(temperature: float) -> Callable[[int, int], str]:
        def answer(own: int, at: int) -> str:
            further = [draw(found[order][at], temperature) for order in others(own)]
            return voted([draw(found[own][at], 0.0), *further])

        return answer

    def averaged(own: int, at: int) -> str:
        shown = [found[order][at] for order in (own, *others(own))]
        return max(shown[0], key=lambda label: sum(p[label] for p in shown))

    means = [{label: float(np.mean([p[label] for p in ps])) for label in ps[0]} for ps in found]

    def divided(own: int, at: int) -> str:
        p, mean = found[own][at], means[own]
        return max(p, key=lambda label: p[label] / max(mean[label], 1e-9))

    methods: dict[str, tuple[Callable[[int, int], str], int]] = {
        "temperature 0": (lambda own, at: draw(found[own][at], 0.0), 1),
        "4 samples, temperature 1": (same(1.0), DRAWS),
        "4 samples, temperature 0.3": (same(0.3), DRAWS),
        "temperature 0, and 3 other orders at 0": (permuted(0.0), DRAWS),
        "temperature 0, and 3 other orders at 0.3": (permuted(0.3), DRAWS),
        "mean probabilities of own and 3 other orders": (averaged, DRAWS),
        # Batch calibration (Zhou et al., arXiv 2309.17249): no label is known, but that they are about as frequent is.
        "probabilities over their mean of all questions": (divided, 1),
    }
    return {
        name: np.array(
            [[np.mean([answer(own, at) == right for _ in range(n)]) for at, right in enumerate(gold)] for own in orders]
        )
        for name, (answer, n) in methods.items()
    }


def rows(model: str, task: Task, examples: Sequence[dspy.Example], found: Sequence[Any]) -> list[dict[str, Any]]:
    """A row a method: accuracy, and the gain over temperature 0 in the same order, with its 95 % interval."""
    results = compared(found, [example[task.answered] for example in examples])
    plain = results["temperature 0"]
    chosen, worst = plain.mean(1).argmax(), plain.mean(1).argmin()
    rng = np.random.default_rng(0)
    picks = rng.integers(len(examples), size=(4000, len(examples)))
    told = []
    for name, right in results.items():
        gains = right - plain
        low, high = np.quantile(gains.mean(0)[picks].mean(1), (0.025, 0.975))
        told.append(
            {
                "model": model,
                "task": task.name,
                "method": name,
                "questions": len(examples),
                "orders": len(found),
                "accuracy": float(right.mean()),
                "gain": float(gains.mean()),
                "low": float(low),
                "high": float(high),
                "best order": float(right[chosen].mean()),
                "worst order": float(right[worst].mean()),
                "worst gain": float(gains.mean(1).min()),
            }
        )
    return told

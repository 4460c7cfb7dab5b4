"""Arithmetic questions in the wording the model in the box was trained on, with their answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import dspy

Level = Literal["hard", "mixed"]

_Draw = Callable[[np.random.Generator], tuple[str, int, str]]  # returns a question, its answer and its kind


def questions(count: int, seed: int, level: Level = "hard") -> list[dspy.Example]:
    """Draw arithmetic questions.

    They are a function of the arguments. No question comes twice in a set. Sets of different seeds are independent
    draws: they share a question only by chance, which happens with the greatest common divisors (some thousands exist)
    and next to never with the others.

    Args:
        count: How many.
        seed: Any non-negative integer.
        level: "hard" is a mix which the model in the box gets right about half of the time in one sample at
            temperature 1. "mixed" spans easy to hard as the model's training questions did: about seven in ten.

    Returns:
        Examples with the input `question`, the `answer` as a string and the `kind`, such as "chain_sum 3x2" for a
        sum of three terms of two digits.

    Raises:
        ValueError: `count` is negative or there is no such level.
    """
    import dspy

    if level not in _MIXES:
        raise ValueError(f"level must be one of {', '.join(_MIXES)}, not {level!r}")
    if count < 0:
        raise ValueError(f"count must not be negative, not {count}")
    draws, weights = zip(*_MIXES[level], strict=True)
    random = np.random.default_rng(seed)
    found: dict[str, dspy.Example] = {}
    while len(found) < count:
        question, answer, kind = draws[random.choice(len(draws), p=weights)](random)
        if question not in found:
            example = dspy.Example(question=question, answer=str(answer), kind=kind)
            found[question] = example.with_inputs("question")
    return list(found.values())


def _chain_sum(terms: int, digits: int) -> _Draw:
    def draw(random: np.random.Generator) -> tuple[str, int, str]:
        total, *others = _numbers(random, terms, digits)
        text = str(total)
        for number in others:
            sign = int(random.choice([1, -1]))
            text += f" {'+' if sign > 0 else '-'} {number}"
            total += sign * number
        question = f"State the final answer to the following arithmetic problem: {text} ="
        return question, total, f"chain_sum {terms}x{digits}"

    return draw


def _product(terms: int, digits: int) -> _Draw:
    def draw(random: np.random.Generator) -> tuple[str, int, str]:
        numbers = _numbers(random, terms, digits)
        factors = " * ".join(map(str, numbers))
        question = f"Solve the following multiplication: {factors}. Give only the result as your final answer."
        return question, math.prod(numbers), f"product {terms}x{digits}"

    return draw


def _gcd(random: np.random.Generator) -> tuple[str, int, str]:
    first, second = random.integers(1, 101, 2).tolist()
    for _ in range(2):  # an answer of 1 is the commonest and the dullest, so it gets two more throws
        if math.gcd(first, second) == 1:
            first, second = random.integers(1, 101, 2).tolist()
    numbers = f"{first}, {second}"
    question = (
        f"Find the Greatest Common Divisor (GCD) of these numbers: {numbers}. Give only the GCD as your final answer."
    )
    return question, math.gcd(first, second), "gcd"


def _numbers(random: np.random.Generator, count: int, digits: int) -> list[int]:
    low = 0 if digits == 1 else 10 ** (digits - 1)
    return random.integers(low, 10**digits, count).tolist()


_MIXES: dict[Level, list[tuple[_Draw, float]]] = {
    "hard": [
        (_chain_sum(3, 2), 0.14),
        (_chain_sum(4, 2), 0.22),
        (_chain_sum(5, 2), 0.32),
        (_chain_sum(2, 3), 0.2),
        (_gcd, 0.12),
    ],
    "mixed": [
        *((_chain_sum(terms, 1), 0.03) for terms in (2, 3, 4, 5)),
        *((_chain_sum(terms, 2), 0.09) for terms in (2, 3, 4, 5)),
        (_chain_sum(2, 3), 0.06),
        (_chain_sum(3, 3), 0.06),
        (_product(2, 1), 0.03),
        (_product(2, 2), 0.14),
        (_product(3, 1), 0.05),
        (_gcd, 0.18),
    ],
}

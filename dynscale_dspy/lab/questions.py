"""Questions of five families the model in the box was trained on, with their answers.

Two families are arithmetic, where a mistake is a slip: sums and products. Three are puzzles, where a mistake is a wrong
guess that a few steps expose: signs to choose, numbers to pick, two factors to find. All have exactly one answer.

An eighth of all questions, told apart by a hash of their text, is held out: `questions` draws from these only, training
from the others only.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from itertools import combinations, product
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import dspy

Level = Literal["hard", "mixed", "wide"]

_Draw = Callable[[np.random.Generator], tuple[str, str, str]]  # returns a question, its answer and its kind


def questions(count: int, seed: int, level: Level = "hard") -> list[dspy.Example]:
    """Draw questions that the model in the box has not seen in training.

    They are a function of the arguments. No question comes twice in a set. Sets of different seeds are independent
    draws: they share a question only by chance, which happens with products and factors (some hundreds are held out)
    and next to never with the others.

    Args:
        count: How many.
        seed: Any non-negative integer.
        level: "hard" is a mix which the model in the box gets right about half of the time in one sample at
            temperature 1. "mixed" spans easy to hard as the model's training questions did. "wide" has the same
            kinds with larger numbers, mostly beyond the model.

    Returns:
        Examples with the input `question`, the `answer` as a string and the `kind`, such as "chain_sum 3x2" for a
        sum of three terms of two digits.

    Raises:
        ValueError: `count` is negative, or there is no such level.
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
        if question not in found and held_out(question):
            example = dspy.Example(question=question, answer=answer, kind=kind)
            found[question] = example.with_inputs("question")
    return list(found.values())


def training_question(random: np.random.Generator, level: Level = "mixed") -> tuple[str, str, str]:
    """Draw a question that is not held out: the question, its answer and its kind."""
    draws, weights = zip(*_MIXES[level], strict=True)
    while True:
        drawn = draws[random.choice(len(draws), p=weights)](random)
        if not held_out(drawn[0]):
            return drawn


def held_out(question: str) -> bool:
    """Whether a question is one of the eighth that training never sees."""
    return hashlib.blake2b(question.encode(), digest_size=1).digest()[0] % 8 == 0


def _chain_sum(terms: int, digits: int) -> _Draw:
    def draw(random: np.random.Generator) -> tuple[str, str, str]:
        total, *others = _numbers(random, terms, digits)
        text = str(total)
        for number in others:
            sign = int(random.choice([1, -1]))
            text += f" {'+' if sign > 0 else '-'} {number}"
            total += sign * number
        question = f"State the final answer to the following arithmetic problem: {text} ="
        return question, str(total), f"chain_sum {terms}x{digits}"

    return draw


def _product(first: int, second: int, largest: int = 99) -> _Draw:
    def draw(random: np.random.Generator) -> tuple[str, str, str]:
        a, b = _numbers(random, 1, first)[0], _numbers(random, 1, second, largest)[0]
        question = f"Solve the following multiplication: {a} * {b}. Give only the result as your final answer."
        return question, str(a * b), f"product {first}x{second}"

    return draw


def _signs(count: int, largest: int = 15) -> _Draw:
    def draw(random: np.random.Generator) -> tuple[str, str, str]:
        while True:
            numbers = random.integers(1, largest + 1, count).tolist()
            choice = [1, *random.choice([1, -1], count - 1).tolist()]
            result = sum(map(math.prod, zip(numbers, choice, strict=True)))
            ways = product([1, -1], repeat=count - 1)
            hits = sum(sum(map(math.prod, zip(numbers, (1, *way), strict=True))) == result for way in ways)
            if result >= 0 and hits == 1:
                break
        given = ", ".join(map(str, numbers))
        question = f"Put + or - between the numbers {given} so that the result is {result}."
        answer = str(numbers[0])
        for sign, number in zip(choice[1:], numbers[1:], strict=True):
            answer += f"{'+' if sign > 0 else '-'}{number}"
        return question, answer, f"signs {count}"

    return draw


def _subset(picked: int, count: int, largest: int = 30) -> _Draw:
    def draw(random: np.random.Generator) -> tuple[str, str, str]:
        while True:
            numbers = random.choice(np.arange(1, largest + 1), count, replace=False).tolist()
            choice = sorted(random.choice(count, picked, replace=False).tolist())
            chosen = [numbers[i] for i in choice]
            if sum(sum(other) == sum(chosen) for other in combinations(numbers, picked)) == 1:
                break
        given = ", ".join(map(str, numbers))
        question = f"Pick {picked} of the numbers {given} so that their sum is {sum(chosen)}."
        return question, "+".join(map(str, chosen)), f"subset {picked}of{count}"

    return draw


def _factors(low: int, high: int, largest: int) -> _Draw:
    """The smaller factor from low to high, the larger from 11 to largest."""

    def draw(random: np.random.Generator) -> tuple[str, str, str]:
        a, b = sorted((int(random.integers(low, high + 1)), int(random.integers(11, largest + 1))))
        question = f"Find two numbers whose sum is {a + b} and whose product is {a * b}."
        return question, f"{a}, {b}", f"factors {len(str(low))}x2"

    return draw


def _numbers(random: np.random.Generator, count: int, digits: int, largest: int = 99) -> list[int]:
    low = 0 if digits == 1 else 10 ** (digits - 1)
    return random.integers(low, min(10**digits, largest + 1), count).tolist()


_MIXES: dict[Level, list[tuple[_Draw, float]]] = {
    "hard": [
        (_chain_sum(3, 2), 0.14),
        (_chain_sum(4, 2), 0.14),
        (_product(2, 1), 0.10),
        (_product(2, 2, 19), 0.12),
        (_signs(3), 0.10),
        (_signs(4), 0.12),
        (_signs(5), 0.06),
        (_subset(2, 4), 0.04),
        (_subset(2, 5), 0.04),
        (_subset(3, 5), 0.02),
        (_factors(2, 9, 79), 0.12),
    ],
    "mixed": [
        (_chain_sum(3, 1), 0.04),
        (_chain_sum(5, 1), 0.06),
        (_chain_sum(2, 2), 0.06),
        (_chain_sum(3, 2), 0.08),
        (_chain_sum(4, 2), 0.06),
        (_product(1, 1), 0.02),
        (_product(2, 1), 0.10),
        (_product(2, 2, 19), 0.06),
        (_signs(3), 0.06),
        (_signs(4), 0.08),
        (_signs(5), 0.08),
        (_subset(2, 4), 0.05),
        (_subset(2, 5), 0.05),
        (_subset(3, 5), 0.05),
        (_subset(3, 6), 0.05),
        (_factors(2, 9, 79), 0.10),
    ],
    "wide": [
        (_chain_sum(2, 1), 0.01),
        (_chain_sum(3, 1), 0.02),
        (_chain_sum(2, 2), 0.06),
        (_chain_sum(3, 2), 0.08),
        (_chain_sum(4, 2), 0.08),
        (_chain_sum(5, 2), 0.06),
        (_product(1, 1), 0.01),
        (_product(2, 1), 0.09),
        (_product(2, 2), 0.14),
        (_signs(3, 20), 0.05),
        (_signs(4, 20), 0.06),
        (_signs(5, 20), 0.05),
        (_subset(2, 4, 40), 0.05),
        (_subset(2, 5, 40), 0.05),
        (_subset(3, 5, 40), 0.04),
        (_subset(3, 6, 40), 0.04),
        (_factors(2, 9, 59), 0.05),
        (_factors(11, 29, 59), 0.06),
    ],
}

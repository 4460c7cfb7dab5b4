import math
import re

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynscale_dspy import lab
from dynscale_dspy.lab.questions import Level

SUM = re.compile(r"State the final answer to the following arithmetic problem: (\d+(?: [+-] \d+)+) =")
PRODUCT = re.compile(
    r"Solve the following multiplication: (\d+(?: \* \d+)+)\. Give only the result as your final answer\."
)
GCD = re.compile(
    r"Find the Greatest Common Divisor \(GCD\) of these numbers: (\d+), (\d+)\. "
    r"Give only the GCD as your final answer\."
)
LEVELS: tuple[Level, ...] = ("hard", "mixed")


def solve(question: str) -> tuple[str, str]:
    """The answer and the kind, read off the question's text."""
    if match := SUM.fullmatch(question):
        first, *rest = match[1].split(" ")
        total = int(first)
        for sign, number in zip(rest[::2], rest[1::2], strict=True):
            total += int(number) if sign == "+" else -int(number)
        numbers = [first, *rest[1::2]]
        return str(total), f"chain_sum {len(numbers)}x{max(map(len, numbers))}"
    if match := PRODUCT.fullmatch(question):
        numbers = match[1].split(" * ")
        return str(math.prod(map(int, numbers))), f"product {len(numbers)}x{max(map(len, numbers))}"
    match = GCD.fullmatch(question)
    assert match, question
    first, second = int(match[1]), int(match[2])
    divisor = max(d for d in range(1, 101) if first % d == 0 and second % d == 0)
    return str(divisor), "gcd"


@given(seed=st.integers(0, 2**64), count=st.integers(0, 60), level=st.sampled_from(LEVELS))
@settings(max_examples=60, deadline=None)
def test_questions_are_right_distinct_and_a_function_of_the_arguments(seed: int, count: int, level: Level) -> None:
    examples = lab.questions(count, seed, level)
    assert len({example.question for example in examples}) == len(examples) == count
    for example in examples:
        assert solve(example.question) == (example.answer, example.kind)
        assert isinstance(example, dspy.Example)
        assert set(example.inputs().keys()) == {"question"}
    assert examples == lab.questions(count, seed, level)
    assert examples[: count // 2] == lab.questions(count // 2, seed, level)  # a longer set begins with the shorter


@pytest.mark.parametrize("level", LEVELS)
def test_sets_of_neighbouring_seeds_overlap_by_chance_only(level: Level) -> None:
    sets = [{x.question for x in lab.questions(300, seed, level) if x.kind != "gcd"} for seed in range(4)]
    easy = re.compile(r"\D*\d( [-+*] \d)+\D*")  # few questions with one-digit numbers exist
    for i, first in enumerate(sets):
        for second in sets[i + 1 :]:
            shared = {question for question in first & second if not easy.fullmatch(question)}
            assert len(shared) <= 3


def test_the_hard_mix_is_what_it_says() -> None:
    kinds = [example.kind for example in lab.questions(2000, 1)]
    shares = {kind: kinds.count(kind) / len(kinds) for kind in set(kinds)}
    assert shares == pytest.approx(
        {"chain_sum 2x3": 0.20, "chain_sum 3x2": 0.14, "chain_sum 4x2": 0.22, "chain_sum 5x2": 0.32, "gcd": 0.12},
        abs=0.04,
    )


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="level must be one of hard, mixed, not 'easy'"):
        lab.questions(1, 0, "easy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="count must not be negative"):
        lab.questions(-1, 0)

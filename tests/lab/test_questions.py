import math
import re
from itertools import combinations, product

import dspy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynscale_dspy import lab
from dynscale_dspy.lab.questions import Level, held_out, training_question

SUM = re.compile(r"State the final answer to the following arithmetic problem: (\d+(?: [+-] \d+)+) =")
PRODUCT = re.compile(
    r"Solve the following multiplication: (\d+) \* (\d+)\. Give only the result as your final answer\."
)
SIGNS = re.compile(r"Put \+ or - between the numbers (\d+(?:, \d+)+) so that the result is (\d+)\.")
SUBSET = re.compile(r"Pick (\d) of the numbers (\d+(?:, \d+)+) so that their sum is (\d+)\.")
FACTORS = re.compile(r"Find two numbers whose sum is (\d+) and whose product is (\d+)\.")
LEVELS: tuple[Level, ...] = ("hard", "mixed", "wide")


def solve(question: str) -> tuple[str, str]:
    """The only answer and the kind, read off the question's text and found by trying everything."""
    if match := SUM.fullmatch(question):
        first, *rest = match[1].split(" ")
        total = int(first)
        for sign, number in zip(rest[::2], rest[1::2], strict=True):
            total += int(number) if sign == "+" else -int(number)
        numbers = [first, *rest[1::2]]
        return str(total), f"chain_sum {len(numbers)}x{max(map(len, numbers))}"
    if match := PRODUCT.fullmatch(question):
        return str(math.prod(map(int, match.groups()))), f"product {len(match[1])}x{len(match[2])}"
    if match := SIGNS.fullmatch(question):
        numbers = match[1].split(", ")
        found = []
        for signs in product("+-", repeat=len(numbers) - 1):
            text = numbers[0] + "".join(sign + number for sign, number in zip(signs, numbers[1:], strict=True))
            if sum(map(int, re.findall(r"[+-]?\d+", text))) == int(match[2]):
                found.append(text)
        kind = f"signs {len(numbers)}"
    elif match := SUBSET.fullmatch(question):
        numbers = [int(number) for number in match[2].split(", ")]
        picks = combinations(numbers, int(match[1]))
        found = ["+".join(map(str, pick)) for pick in picks if sum(pick) == int(match[3])]
        kind = f"subset {match[1]}of{len(numbers)}"
    else:
        match = FACTORS.fullmatch(question)
        assert match, question
        total, wanted = map(int, match.groups())
        found = [f"{a}, {total - a}" for a in range(1, total // 2 + 1) if a * (total - a) == wanted]
        kind = f"factors {len(found[0].split(',')[0])}x{len(found[0].split(' ')[1])}"
    assert len(found) == 1, (question, found)
    return found[0], kind


@given(seed=st.integers(0, 2**64), count=st.integers(0, 40), level=st.sampled_from(LEVELS))
@settings(max_examples=40, deadline=None)
def test_questions_are_right_distinct_held_out_and_a_function_of_the_arguments(
    seed: int, count: int, level: Level
) -> None:
    examples = lab.questions(count, seed, level)
    assert len({example.question for example in examples}) == len(examples) == count
    for example in examples:
        assert solve(example.question) == (example.answer, example.kind)
        assert held_out(example.question)
        assert isinstance(example, dspy.Example)
        assert set(example.inputs().keys()) == {"question"}
    assert examples == lab.questions(count, seed, level)
    assert examples[: count // 2] == lab.questions(count // 2, seed, level)  # a longer set begins with the shorter


@given(seed=st.integers(0, 2**64), level=st.sampled_from(LEVELS))
@settings(max_examples=40, deadline=None)
def test_training_never_sees_what_is_held_out(seed: int, level: Level) -> None:
    random = np.random.default_rng(seed)
    for _ in range(20):
        question, answer, kind = training_question(random, level)
        assert not held_out(question)
        assert solve(question) == (answer, kind)


def test_an_eighth_is_held_out() -> None:
    random = np.random.default_rng(0)
    assert np.mean([held_out(str(random.integers(2**60))) for _ in range(8000)]) == pytest.approx(1 / 8, abs=0.015)


@pytest.mark.parametrize("level", LEVELS)
def test_sets_of_neighbouring_seeds_overlap_by_chance_only(level: Level) -> None:
    few = ("product", "factors", "chain_sum 2", "chain_sum 3x1")  # only some dozens to hundreds are held out
    sets = [{x.question for x in lab.questions(200, s, level) if not x.kind.startswith(few)} for s in range(4)]
    for i, first in enumerate(sets):
        for second in sets[i + 1 :]:
            assert len(first & second) <= 4


def test_the_hard_mix_has_every_family() -> None:
    kinds = [example.kind.split(" ")[0] for example in lab.questions(800, 1)]
    shares = {kind: kinds.count(kind) / len(kinds) for kind in set(kinds)}
    assert set(shares) == {"chain_sum", "product", "signs", "subset", "factors"}
    assert min(shares.values()) > 0.05


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="level must be one of hard, mixed, wide, not 'easy'"):
        lab.questions(1, 0, "easy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="count must not be negative"):
        lab.questions(-1, 0)

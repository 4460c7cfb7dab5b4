"""Worked steps for the lab's questions: how to solve one, how to check a candidate, how a wrong attempt may look.

Everything is read off the question's text, so that any question can be worked, wherever it comes from.

Checking goes another way than solving, so that one slip does not hide the other: a sum is undone from its result, a
product is computed with its factors swapped. The puzzles are checked by working out what the candidate gives.
"""

import re
from collections.abc import Sequence

import numpy as np

OK, NO = " ok", " no"

_SUM = re.compile(r"arithmetic problem: (.*) =$")
_PRODUCT = re.compile(r"multiplication: (\d+) \* (\d+)\.")
_SIGNS = re.compile(r"between the numbers (.*) so that the result is (\d+)\.")
_SUBSET = re.compile(r"Pick (\d+) of the numbers (.*) so that their sum is (\d+)\.")
_FACTORS = re.compile(r"whose sum is (\d+) and whose product is (\d+)\.")


def solve(question: str, answer: str) -> str:
    """The worked steps that lead to an answer, which must be right for sums and products."""
    if match := _SUM.search(question):
        first, *rest = match[1].split(" ")
        return _chain(int(first), [(sign, int(n)) for sign, n in zip(rest[::2], rest[1::2], strict=True)])[0]
    if match := _PRODUCT.search(question):
        return ";".join(_product(int(match[1]), int(match[2])))
    if match := _FACTORS.search(question):
        a, b = map(int, answer.split(", "))
        return ";".join([f"{a}+{b}={a + b}", *_product(a, b)])
    first, terms = _terms(answer)
    return _chain(first, terms)[0]


def check(question: str, candidate: str) -> tuple[str, bool]:
    """The steps that check a candidate, and whether it is right.

    They end at the first thing that is wrong, or with what came out, a slash and what should have: ``6/7 no``.
    """
    steps, right = _check(question, candidate)
    return steps + (OK if right else NO), right


def _check(question: str, candidate: str) -> tuple[str, bool]:
    if match := _SUM.search(question):
        first, *rest = match[1].split(" ")
        back = [("-" if sign == "+" else "+", int(n)) for sign, n in zip(rest[::2], rest[1::2], strict=True)]
        if not re.fullmatch(r"-?\d{1,5}", candidate):
            return "", False
        steps, start = _chain(int(candidate), back[::-1])
        return f"{steps}/{first}", start == int(first)
    if match := _PRODUCT.search(question):
        a, b = int(match[1]), int(match[2])
        return f"{';'.join(_other_product(a, b))}/{candidate}", candidate == str(a * b)
    if match := _FACTORS.search(question):
        if not re.fullmatch(r"\d{1,3}, \d{1,3}", candidate):
            return "", False
        a, b = map(int, candidate.split(", "))
        steps = f"{a}+{b}={a + b}"
        if a + b != int(match[1]):
            return f"{steps}/{match[1]}", False
        return f"{';'.join([steps, *_other_product(b, a)])}/{match[2]}", a * b == int(match[2]) and a <= b
    if not re.fullmatch(r"\d{1,3}([+-]\d{1,3})*", candidate):
        return "", False
    first, terms = _terms(candidate)
    numbers = [first, *(number for _, number in terms)]
    if match := _SIGNS.search(question):
        given, result = [int(n) for n in match[1].split(", ")], int(match[2])
        kept = 0
        while kept < min(len(numbers), len(given)) and numbers[kept] == given[kept]:
            kept += 1
        complete = kept == len(numbers) == len(given)
    else:
        match = _SUBSET.search(question)
        assert match, question
        given, result = [int(n) for n in match[2].split(", ")], int(match[3])
        kept = 0
        while kept < len(numbers) and numbers[kept] in given and numbers[kept] not in numbers[:kept]:
            kept += 1
        complete = kept == len(numbers) == int(match[1]) and all(sign == "+" for sign, _ in terms)
        complete = complete and sorted(numbers, key=given.index) == numbers
    if not complete and kept < len(numbers):
        # Up to what does not belong there.
        steps, total = _chain(first, terms[: max(0, kept - 1)])
        sign, number = terms[kept - 1] if kept else ("", numbers[0])
        return f"{steps};{total}{sign}{number}" if steps else f"{total if kept else ''}{sign}{number}", False
    steps, total = _chain(first, terms)
    return f"{steps}/{result}", complete and total == result


def mistaken(question: str, answer: str, random: np.random.Generator) -> tuple[str, str]:
    """A made-up wrong attempt, steps and answer, of the kind a half-trained model makes."""
    while True:
        steps, wrong = _mistaken(question, answer, random)
        if wrong != answer:
            return steps, wrong


def _mistaken(question: str, answer: str, random: np.random.Generator) -> tuple[str, str]:
    slip = int(
        random.choice([1, -1, 2, -2, 10, -10, 100, -100, 9, -9], p=[0.2, 0.2, 0.1, 0.1, 0.15, 0.15] + [0.025] * 4)
    )
    if match := _SUM.search(question):
        first, *rest = match[1].split(" ")
        terms = [(sign, int(n)) for sign, n in zip(rest[::2], rest[1::2], strict=True)]
        cut = int(random.integers(1, len(terms) + 1))
        before, total = _chain(int(first), terms[:cut])
        head = before[: before.rindex("=") + 1] + str(total + slip)
        after, total = _chain(total + slip, terms[cut:])
        return ";".join(filter(None, [head, after])), str(total)
    if match := _PRODUCT.search(question):
        a, b = int(match[1]), int(match[2])
        steps = _product(a, b)
        if len(steps) == 1 or random.random() < 0.4:
            return ";".join([*steps[:-1], steps[-1][: steps[-1].index("=") + 1] + str(a * b + slip)]), str(a * b + slip)
        tens, ones = a * (b // 10 * 10), a * (b % 10)
        if random.random() < 0.5:
            tens += slip * 10
        else:
            ones += slip
        made = [f"{a}*{b // 10 * 10}={tens}", f"{a}*{b % 10}={ones}", f"{tens}+{ones}={tens + ones}"]
        return ";".join(made), str(tens + ones)
    honest = random.random() < 0.3  # otherwise the last result is made to fit
    if match := _FACTORS.search(question):
        a, b = map(int, answer.split(", "))
        shift = int(random.choice([1, -1, 2, -2, 3, -3, 4, -5, 10, -10]))
        a, b = sorted((max(1, a + shift), max(1, b - shift)))
        steps, wanted = solve(question, f"{a}, {b}"), match[2]
        wrong = f"{a}, {b}"
    elif match := _SIGNS.search(question):
        numbers, wanted = match[1].split(", "), match[2]
        signs = [sign for sign, _ in _terms(answer)[1]]
        for i in random.choice(len(signs), min(len(signs), int(random.choice([1, 1, 2, 2, 3]))), replace=False):
            signs[i] = "-" if signs[i] == "+" else "+"
        wrong = numbers[0] + "".join(sign + number for sign, number in zip(signs, numbers[1:], strict=True))
        steps = solve(question, wrong)
    else:
        match = _SUBSET.search(question)
        assert match, question
        numbers, wanted = match[2].split(", "), match[3]
        order = sorted(random.choice(len(numbers), int(match[1]), replace=False).tolist())
        chosen = [numbers[i] for i in order]
        if random.random() < 0.25:  # a number that was not given, made to fit
            last = int(wanted) - sum(map(int, chosen[:-1]))
            chosen[-1] = str(last) if last > 0 else chosen[-1]
        wrong = "+".join(chosen)
        steps = solve(question, wrong)
    return (steps if honest else steps[: steps.rindex("=") + 1] + wanted), wrong


def reconsider(question: str, answer: str, attempts: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """What to say after seeing attempts (steps and answer each): check each distinct one, adopt the first that holds.

    Where none does, the question is worked afresh.

    Returns:
        The reasoning, such as ``1:8-5=3;3+3=6/10 no;2:8+5=13;13-3=10/10 ok``, and the answer.
    """
    said: list[str] = []
    seen: set[str] = set()
    for number, (_, candidate) in enumerate(attempts, 1):
        if candidate in seen:
            continue
        seen.add(candidate)
        steps, right = check(question, candidate)
        said.append(f"{number}:{steps}")
        if right:
            return ";".join(said), candidate
    return ";".join([*said, "new:" + solve(question, answer)]), answer


def _terms(expression: str) -> tuple[int, list[tuple[str, int]]]:
    first, *rest = re.findall(r"[+-]?\d+", expression)
    return int(first), [(term[0], int(term[1:])) for term in rest]


def _chain(total: int, terms: Sequence[tuple[str, int]]) -> tuple[str, int]:
    steps = []
    for sign, number in terms:
        result = total + number if sign == "+" else total - number
        steps.append(f"{total}{sign}{number}={result}")
        total = result
    return ";".join(steps), total


def _product(a: int, b: int) -> list[str]:
    if a < 10 <= b:
        a, b = b, a
    if b < 10 or b % 10 == 0:
        return [f"{a}*{b}={a * b}"]
    tens, ones = a * (b // 10 * 10), a * (b % 10)
    return [f"{a}*{b // 10 * 10}={tens}", f"{a}*{b % 10}={ones}", f"{tens}+{ones}={tens + ones}"]


def _other_product(a: int, b: int) -> list[str]:
    """The same by other steps: factors swapped, or digit by digit where solving does it at once."""
    if a > 9 and b < 10 and a % 10:
        tens, ones = a // 10 * 10 * b, a % 10 * b
        return [f"{a // 10 * 10}*{b}={tens}", f"{a % 10}*{b}={ones}", f"{tens}+{ones}={tens + ones}"]
    return _product(b, a)

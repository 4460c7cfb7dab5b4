"""Recorded outputs of any type, each with a score: which rule of winning is best, and with whose samples."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynscale_dspy.allocation.policies import Policy, make_policy
from dynscale_dspy.replay.lines import PoolError, items_of, objects_in
from dynscale_dspy.selection.answers import Record
from dynscale_dspy.selection.base import Selection, Selector, Vote, check_policy
from dynscale_dspy.selection.fieldwise import Fieldwise
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.numbers import Numbers
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.selection.similarity import CharacterF, ElementF1, TokenF1

DRAWS = 1000
"""Bootstrap draws of questions."""
BOUNDS = ("random", "best of all")
"""What is no rule of winning: one of the samples drawn, at random; and the best of them."""


@dataclass(frozen=True)
class Outputs:
    """What a model wrote for one prompt, several times.

    Args:
        id: Names the prompt.
        samples: The outputs, in any order: text, lists, numbers; a dict has the values of several output fields. None
            is a sample without an output.
        scores: How good each is, from 0 to 1.
    """

    id: str
    samples: tuple[Any, ...]
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.samples:
            raise PoolError(f"question {self.id!r} has no samples")
        if len(self.scores) != len(self.samples):
            raise PoolError(f"question {self.id!r} has {len(self.samples)} samples but {len(self.scores)} scores")


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


@dataclass(frozen=True)
class Score:
    """How good what was returned is, with one rule of winning and one policy, at one budget.

    Args:
        pool: The pool's name.
        selector: The rule of winning; one of :data:`BOUNDS` for what is none.
        policy: Who was sampled next.
        budget: Samples a question, on average.
        score: Mean score of what won, over questions and orders of samples.
        gain: What it is above a sample taken at random.
        low: Lower end of the gain's 95% interval, by a bootstrap over questions.
        high: Upper end.
    """

    pool: str
    selector: str
    policy: str
    budget: int
    score: float
    gain: float
    low: float
    high: float


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


def selectors_for(pool: ScoredPool) -> dict[str, Selector]:
    """Rules of winning that suit what a pool's samples are, by the names that tables give them.

    Args:
        pool: The outputs.

    Example:
        >>> list(selectors_for(ScoredPool("mine", (Outputs("a", (["x"], ["y"]), (1, 0)),))))
        ['plurality', 'medoid, elements']
    """
    kinds = {type(sample) for question in pool.questions for sample in question.samples if sample is not None}
    rules: dict[str, Selector] = {"plurality": Plurality()}
    if kinds <= {str}:
        rules |= {"plurality, ties by words": Plurality(ties=TokenF1())}
        rules |= {"medoid, words": Medoid(TokenF1()), "medoid, characters": Medoid(CharacterF())}
    elif kinds <= {list}:
        rules |= {"medoid, elements": Medoid(ElementF1())}
    elif kinds <= {dict}:
        rules |= {"field by field": Fieldwise()}
    elif kinds <= {int, float}:
        rules |= {"numbers": Numbers()}
    return rules


def replay_scores(
    pool: ScoredPool,
    selectors: Mapping[str, Selector],
    *,
    policies: Sequence[str | Policy] = ("uniform", "knowledge_gradient"),
    budgets: Iterable[int] = (2, 4, 8),
    replicates: int = 20,
    seed: int = 0,
) -> list[Score]:
    """Replay rules of winning and policies over recorded outputs.

    Samples of each question come in random orders, the same ones for all rules and policies. Under a policy all
    questions draw on one budget; each draws its ``first`` samples, then always the question whose index is largest.

    Args:
        pool: The outputs.
        selectors: Rules of winning, by the name that the table gives them.
        policies: Who is sampled next: names of :data:`~dynscale_dspy.allocation.policies.POLICIES`, or policies.
        budgets: Samples a question, on average. One above what questions have is left out, and so is one above half of
            that under a policy that adapts: near its end every policy looks alike.
        replicates: Orders of samples.
        seed: Fixes these orders.

    Returns:
        A row a rule, policy and budget, the bounds first.

    Raises:
        ValueError: If an option is out of range, or a policy needs more than a selector tells.

    Example:
        >>> from dynscale_dspy.selection.plurality import Plurality
        >>> outputs = Outputs("a", ("x", "y", "x", "x"), (1, 0, 1, 1)), Outputs("b", ("z",) * 4, (1,) * 4)
        >>> pool = ScoredPool("mine", outputs)
        >>> rows = replay_scores(pool, {"plurality": Plurality()}, policies=["uniform"], budgets=[3])
        >>> [(row.selector, row.score) for row in rows]
        [('random', 0.875), ('best of all', 1.0), ('plurality', 1.0)]
    """
    wanted = sorted(set(budgets))
    if not wanted or wanted[0] < 1:
        raise ValueError(f"budgets must be at least 1 a question, got {wanted}")
    if replicates < 1:
        raise ValueError(f"replicates must be at least 1, got {replicates!r}")
    named = {each if isinstance(each, str) else repr(each): each for each in policies}
    made = {name: make_policy(each) if isinstance(each, str) else each for name, each in named.items()}
    for policy, selector in itertools.product(made.values(), selectors.values()):
        check_policy(policy, selector)
    room = min(len(question.samples) for question in pool.questions)
    orders = [_order(question, replicates, seed, number) for number, question in enumerate(pool.questions)]
    mean = np.array([float(np.mean(question.scores)) for question in pool.questions])
    rows = []
    for budget in wanted:
        if budget <= room:
            best = np.array([_best(question, budget) for question in pool.questions])
            rows += [
                _row(pool, name, "", budget, scores, mean, seed)
                for name, scores in zip(BOUNDS, (mean, best), strict=True)
            ]
    for name, selector in selectors.items():
        votes = [[_read(selector, sample) for sample in question.samples] for question in pool.questions]
        for told, policy in made.items():
            able = [budget for budget in wanted if budget <= (room // 2 if policy.adaptive else room)]
            found = np.zeros((len(able), len(pool.questions)))
            for replicate in range(replicates):
                drawn = [[of[i] for i in order[replicate]] for of, order in zip(votes, orders, strict=True)]
                for row, winners in enumerate(_winners(drawn, selector, policy, able)):
                    for at, won in enumerate(winners):
                        place = None if won is None else orders[at][replicate][won]
                        found[row, at] += mean[at] if place is None else pool.questions[at].scores[place]
            rows += [
                _row(pool, name, told, budget, scores / replicates, mean, seed)
                for budget, scores in zip(able, found, strict=True)
            ]
    return rows


def _winners(
    drawn: Sequence[Sequence[Vote | None]], selector: Selector, policy: Policy, budgets: Sequence[int]
) -> list[list[int | None]]:
    """Of each budget the winning sample of each question; None where no sample has voted."""
    if not budgets:
        return []
    selections: list[Selection] = [selector.empty() for _ in drawn]
    taken = [0] * len(drawn)

    def pull(at: int) -> None:
        selections[at] = selections[at].add(drawn[at][taken[at]], sample=taken[at])
        taken[at] += 1

    first = min(policy.first, budgets[0])
    for at in range(len(drawn)):
        for _ in range(first):
            pull(at)
    total, results = first * len(drawn), []
    queue: list[tuple[float, int, int]] = []

    def enter(at: int) -> None:
        if taken[at] < len(drawn[at]):
            index = policy.index(selections[at].evidence(), total=total)
            heapq.heappush(queue, (-index, taken[at], at))

    for at in range(len(drawn)):
        enter(at)
    for budget in budgets:
        while total < budget * len(drawn) and queue:
            if policy.depends_on_total:  # every index moves with every sample
                waiting = [at for *_, at in queue]
                queue.clear()
                for at in waiting:
                    enter(at)
            *_, at = heapq.heappop(queue)
            pull(at)
            total += 1
            enter(at)
        results.append([selection.winner() for selection in selections])
    return results


def _order(question: Outputs, replicates: int, seed: int, number: int) -> list[list[int]]:
    generator = np.random.default_rng([seed, number])
    return [generator.permutation(len(question.samples)).tolist() for _ in range(replicates)]


def _best(question: Outputs, budget: int) -> float:
    """Mean score of the best of so many samples, over all sets of so many."""
    scores, count = sorted(question.scores), len(question.scores)
    ways = math.comb(count, budget)
    return sum(score * math.comb(below, budget - 1) for below, score in enumerate(scores)) / ways


def _row(
    pool: ScoredPool, selector: str, policy: str, budget: int, scores: NDArray[Any], mean: NDArray[Any], seed: int
) -> Score:
    gains = scores - mean
    picked = np.random.default_rng(seed).integers(len(gains), size=(DRAWS, len(gains)))
    low, high = np.quantile(gains[picked].mean(axis=1), (0.025, 0.975))
    return Score(
        pool.name, selector, policy, budget, float(scores.mean()), float(gains.mean()), float(low), float(high)
    )


def _read(selector: Selector, sample: Any) -> Vote | None:
    """A sample's vote; a dict is read as the values of several output fields."""
    return None if sample is None else selector.read(Record(sample) if isinstance(sample, dict) else sample)


def _is_score(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1

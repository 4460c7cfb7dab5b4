"""Recorded outputs of any type, each with a score: which rule of winning is best, and with whose samples."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynscale_dspy.allocation.policies import Policy, make_policy
from dynscale_dspy.allocation.repeats import Repeats
from dynscale_dspy.replay.outputs import Outputs, ScoredPool
from dynscale_dspy.replay.statistics import bootstrap_interval
from dynscale_dspy.selection.answers import Record
from dynscale_dspy.selection.base import Selection, Selector, Vote, check_policy
from dynscale_dspy.selection.embeddings import embedded
from dynscale_dspy.selection.fieldwise import Fieldwise
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.numbers import Numbers
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.selection.similarity import CharacterF, ElementF1, TokenF1

BOUNDS = ("random", "best of all")
"""What is no rule of winning: one of the samples drawn, at random; and the best of them."""


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
    """Replay rules of winning and policies over recorded outputs; :func:`replay_calls` tells more of each call.

    Args:
        pool: The outputs.
        selectors: Rules of winning, by the name that the table gives them.
        policies: As of :func:`replay_calls`.
        budgets: As of :func:`replay_calls`.
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
    options: dict[str, Any] = {"policies": policies, "budgets": wanted, "replicates": replicates, "seed": seed}
    found = [
        _row(pool, each.selector, each.policy, each.budget, each.scores, seed)
        for each in replay_calls(pool, selectors, **options)
    ]
    bounds = [
        _row(pool, name, "", budget, scores, seed)
        for budget in wanted
        if budget <= pool.room
        for name, scores in zip(BOUNDS, (pool.means, pool.best(budget)), strict=True)
    ]
    return bounds + found


@dataclass(frozen=True)
class Replayed:
    """What one rule of winning and one policy came to at one budget.

    Args:
        selector: The rule's name.
        policy: The policy's.
        budget: Samples a question, on average.
        scores: Of each question, the mean score of what won, over orders of samples.
        calls: Of each question and order, in turn, the votes and the score of what won.
    """

    selector: str
    policy: str
    budget: int
    scores: NDArray[Any]
    calls: list[tuple[Selection, float]]


def replay_calls(
    pool: ScoredPool,
    selectors: Mapping[str, Selector],
    *,
    policies: Sequence[str | Policy] = ("uniform", "knowledge_gradient"),
    budgets: Iterable[int] = (2, 4, 8),
    replicates: int = 20,
    seed: int = 0,
) -> Iterator[Replayed]:
    """Replay rules of winning and policies over recorded outputs, and tell of each call.

    Samples of each question come in random orders, the same ones for all rules and policies. Under a policy all
    questions draw on one budget; each draws its ``first`` samples, then always the question whose index is largest, as
    in ``DynScaling.batch`` with one request at a time.

    Args:
        pool: The outputs.
        selectors: Rules of winning, by name. Texts are embedded in one request a question.
        policies: Who is sampled next: names of :data:`~dynscale_dspy.allocation.policies.POLICIES`, or policies.
        budgets: Samples a question, on average. One above what questions have is left out, and so is one above half of
            that under a policy that adapts: near its end every policy looks alike.
        replicates: Orders of samples.
        seed: Fixes these orders.

    Yields:
        One for each rule, policy and budget.

    Raises:
        ValueError: If an option is out of range, or a policy needs more than a selector tells.
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
    orders = [_order(question, replicates, seed, number) for number, question in enumerate(pool.questions)]
    for name, selector in selectors.items():
        votes = [embedded([_read(selector, sample) for sample in question.samples]) for question in pool.questions]
        for told, policy in made.items():
            able = [budget for budget in wanted if budget <= (pool.room // 2 if policy.adaptive else pool.room)]
            calls: list[list[list[tuple[Selection, float]]]] = [[[] for _ in pool.questions] for _ in able]
            for replicate in range(replicates):
                drawn = [[of[i] for i in order[replicate]] for of, order in zip(votes, orders, strict=True)]
                for of_budget, selections in zip(calls, _drawn(drawn, selector, policy, able), strict=True):
                    for at, (question, selection) in enumerate(zip(pool.questions, selections, strict=True)):
                        of_budget[at].append((selection, question.scored(selection, orders[at][replicate])))
            for budget, of_budget in zip(able, calls, strict=True):
                scores = np.array([np.mean([score for _, score in of_question]) for of_question in of_budget])
                yield Replayed(name, told, budget, scores, [call for of_question in of_budget for call in of_question])


def _drawn(
    drawn: Sequence[Sequence[Vote | None]], selector: Selector, policy: Policy, budgets: Sequence[int]
) -> list[list[Selection]]:
    """Of each budget the votes of each question."""
    if not budgets:
        return []
    selections: list[Selection] = [selector.empty() for _ in drawn]
    taken, repeats = [0] * len(drawn), Repeats()

    def pull(at: int) -> None:
        before = selections[at]
        after = selections[at] = before.add(drawn[at][taken[at]], sample=taken[at])
        taken[at] += 1
        if policy.is_gain:
            repeats.tell(before.evidence(), after.evidence())

    first = min(policy.first, budgets[0])
    for _ in range(first):
        for at in range(len(drawn)):
            pull(at)
    total, results = first * len(drawn), []
    queue: list[tuple[float, int, int]] = []

    def index_of(selection: Selection) -> float:
        evidence = selection.evidence()
        index = policy.index(evidence, total=total)
        return index * repeats.promise(evidence) if policy.is_gain else index

    def enter(at: int) -> None:
        if taken[at] < len(drawn[at]):
            heapq.heappush(queue, (-index_of(selections[at]) if policy.adaptive else 0.0, taken[at], at))

    for at in range(len(drawn)):
        enter(at)
    level = repeats.level
    for budget in budgets:
        while total < budget * len(drawn) and queue:
            if policy.depends_on_total or repeats.level != level:  # every index moves
                level, waiting = repeats.level, [at for *_, at in queue]
                queue.clear()
                for at in waiting:
                    enter(at)
            *_, at = heapq.heappop(queue)
            pull(at)
            total += 1
            enter(at)
        results.append(list(selections))
    return results


def _order(question: Outputs, replicates: int, seed: int, number: int) -> list[list[int]]:
    generator = np.random.default_rng([seed, number])
    return [generator.permutation(len(question.samples)).tolist() for _ in range(replicates)]


def _row(pool: ScoredPool, selector: str, policy: str, budget: int, scores: NDArray[Any], seed: int) -> Score:
    gain, low, high = bootstrap_interval(scores - pool.means, seed=seed)
    return Score(pool.name, selector, policy, budget, float(scores.mean()), gain, low, high)


def _read(selector: Selector, sample: Any) -> Vote | None:
    """A sample's vote; a dict is read as the values of several output fields."""
    return None if sample is None else selector.read(Record(sample) if isinstance(sample, dict) else sample)

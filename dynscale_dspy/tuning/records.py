"""What samples of a call said, scored and cost, recorded once: votes of fewer of them are told from the record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynscale_dspy.allocation.costs import NANO, Cost
from dynscale_dspy.reporting.explanation import SampleReport, explain
from dynscale_dspy.selection.answers import UnreadableAnswer
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.tuning.examples import Judge
from dynscale_dspy.tuning.verdict import Spending

ORDERS = 100
"""Random orders of a call's samples in which votes of some of them are counted."""


@dataclass(frozen=True)
class Outcome:
    """What one way comes to on one call, on average over its random choices.

    Args:
        score: Its score; not a number if the metric cannot judge it.
        keys: How probable each answer is, by its key; None is the key of no answer.
    """

    score: float
    keys: Mapping[Hashable, float]


@dataclass(frozen=True)
class Call:
    """A call as one module answered it.

    Args:
        key: The key of its answer; None if it has none.
        score: The score of its answer.
        keys: The key of each sample, None where it casts no vote.
        scores: The score of each sample.
        costs: What each sample cost.
        conditioned: Whether each saw earlier ones.
    """

    key: Hashable
    score: float
    keys: tuple[Hashable, ...]
    scores: tuple[float, ...]
    costs: tuple[Cost, ...]
    conditioned: tuple[bool, ...]

    @classmethod
    def of(cls, prediction: Any, example: Any, judge: Judge, selector: Any) -> Call:
        """Read what a module returned.

        Args:
            prediction: The prediction; None if the call failed.
            example: Its example.
            judge: Asked once for each answer of the call.
            selector: What the module was given to say which answer wins; None for the default.
        """
        if prediction is None:
            return cls(None, judge(example, None), (), (), (), ())
        made = explain(prediction)
        comparable = selector is None or isinstance(selector, Plurality)
        keys = tuple(_key_of(sample, comparable) for sample in made.samples)
        known: dict[Hashable, float] = {}
        winner = next((place for place, each in enumerate(made.samples) if each.prediction is prediction), None)
        score = judge(example, prediction)
        key = None if winner is None else keys[winner]
        if winner is not None:  # a composed answer is no sample's, and its score theirs no more
            known[key] = score
        scores = []
        for sample, said in zip(made.samples, keys, strict=True):
            if said not in known:
                known[said] = judge(example, sample.prediction)
            scores.append(known[said])
        return cls(
            key=key,
            score=score,
            keys=keys,
            scores=tuple(scores),
            costs=tuple(sample.cost for sample in made.samples),
            conditioned=tuple(bool(sample.shown) for sample in made.samples),
        )

    def alone(self) -> Outcome:
        """The call as it was answered."""
        return Outcome(self.score, {self.key: 1.0})


def voted(calls: Sequence[Call], size: int, *, fixed: int = 0, seed: int = 0) -> list[Outcome]:
    """What a vote of so many of each call's samples comes to: the mean over :data:`ORDERS` random orders of them.

    The answer with most votes wins, of equal ones the first in the order. Where nobody votes the first sample answers.

    Args:
        calls: Calls whose samples are independent.
        size: How many samples vote.
        fixed: How many of the first samples keep their place, since they were drawn in another way.
        seed: Seeds the orders.
    """
    outcomes = []
    for number, call in enumerate(calls):
        if not call.keys:
            outcomes.append(call.alone())
            continue
        generator = np.random.default_rng([seed, number])
        won: Counter[int] = Counter()
        for _ in range(ORDERS):
            later = fixed + generator.permutation(len(call.keys) - fixed)
            won[_winner(call.keys, [*range(fixed), *later.tolist()][:size])] += 1
        keys: Counter[Hashable] = Counter()
        for sample, times in won.items():
            keys[call.keys[sample]] += times
        score = sum(times * call.scores[sample] for sample, times in won.items()) / ORDERS
        outcomes.append(Outcome(score, {key: times / ORDERS for key, times in keys.items()}))
    return outcomes


def _winner(keys: Sequence[Hashable], order: Sequence[int]) -> int:
    """The position of the sample that speaks for the answer with most votes."""
    votes: dict[Hashable, list[int]] = {}
    for sample in order:
        if keys[sample] is not None:
            votes.setdefault(keys[sample], []).append(sample)
    return max(votes.values(), key=len)[0] if votes else order[0]


def spending(calls: Sequence[Call], known: Sequence[Call]) -> Spending:
    """What a call that is answered costs on average, as if DSPy's cache had answered none.

    Args:
        calls: The calls.
        known: Calls whose samples tell what one costs that the cache answered: the mean of those of its kind, seeing
            earlier samples or not, that it did not answer.
    """
    paid: dict[bool, list[list[int]]] = {False: [], True: []}
    for call in known:
        for cost, conditioned in zip(call.costs, call.conditioned, strict=True):
            if not cost.cached_requests:
                paid[conditioned].append(_amounts(cost))
    total, is_known = np.zeros(len(_UNITS)), True
    for call in calls:
        for cost, conditioned in zip(call.costs, call.conditioned, strict=True):
            if not cost.cached_requests:
                total += _amounts(cost)
            elif paid[conditioned]:
                total += np.mean(paid[conditioned], axis=0)
            else:
                is_known = False
                total += _amounts(cost)
    answered = sum(bool(call.costs) for call in calls)  # what a call has cost of which every sample failed is not kept
    samples, requests, prompt, completion, nanodollars = (float(each) for each in total / max(answered, 1))
    told = is_known and prompt + completion > 0
    return Spending(
        samples=samples,
        requests=requests,
        prompt_tokens=prompt if told else None,
        completion_tokens=completion if told else None,
        dollars=nanodollars / NANO if told and nanodollars else None,
    )


_UNITS = ("samples", "requests", "prompt_tokens", "completion_tokens", "nanodollars")


def _amounts(cost: Cost) -> list[int]:
    return [getattr(cost, unit) for unit in _UNITS]


def agreement(calls: Sequence[Call]) -> float | None:
    """How often two samples of a call agree, on average over the calls with two; None if there is none."""
    shares = []
    for call in calls:
        count = len(call.keys)
        if count > 1:
            same = sum(votes * (votes - 1) for key, votes in Counter(call.keys).items() if key is not None)
            shares.append(same / (count * (count - 1)))
    return sum(shares) / len(shares) if shares else None


def _key_of(sample: SampleReport, comparable: bool) -> Hashable:
    """What a sample's answer is known by in all calls: the selector's own key if that is comparable."""
    if sample.key is None or comparable:
        return sample.key
    try:
        return Plurality().read(sample.answer).key
    except UnreadableAnswer:
        return None

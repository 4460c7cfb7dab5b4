"""What samples of a call said, scored and cost, recorded once: votes of fewer of them are told from the record."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynscale_dspy.allocation.costs import NANO, Cost
from dynscale_dspy.reporting.explanation import SampleReport, explain
from dynscale_dspy.selection.answers import UnreadableAnswer
from dynscale_dspy.selection.base import Selector, Vote
from dynscale_dspy.selection.groups import say_the_same
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
        answers: The answers that it may give, each as a vote and how probable it is; None is no answer.
    """

    score: float
    answers: tuple[tuple[Vote | None, float], ...]

    def unlike(self, vote: Vote | None, selector: Selector) -> float:
        """How probable it is that the answer says something else than another one.

        Args:
            vote: The other one, as a vote.
            selector: What says which answers are the same, or much alike.
        """
        return sum(chance for answer, chance in self.answers if not say_the_same(selector, answer, vote))


@dataclass(frozen=True)
class Call:
    """A call as one module answered it.

    Args:
        vote: Its answer, as the selector reads it; None if it has none.
        score: The score of its answer.
        votes: The vote of each sample, None where it casts none.
        scores: The score of each sample.
        costs: What each sample cost.
        conditioned: Whether each saw earlier ones.
    """

    vote: Vote | None
    score: float
    votes: tuple[Vote | None, ...]
    scores: tuple[float, ...]
    costs: tuple[Cost, ...]
    conditioned: tuple[bool, ...]

    @classmethod
    def of(cls, prediction: Any, example: Any, judge: Judge, read: Callable[[Any], Vote | None]) -> Call:
        """Read what a module returned.

        Args:
            prediction: The prediction; None if the call failed.
            example: Its example.
            judge: Asked once for each answer of the call.
            read: Reads a prediction whose answer is put together from several samples', as the selector does.
        """
        if prediction is None:
            return cls(None, judge(example, None), (), (), (), ())
        made = explain(prediction)
        names = tuple(map(_name_of, made.samples))
        known: dict[Hashable, float] = {}
        score = judge(example, prediction)
        if made.composed_on is None and made.winner is not None:
            vote = made.samples[made.winner].vote
            known[names[made.winner]] = score
        else:  # a composed answer is no sample's, and its score theirs no more
            vote = read(prediction)
        scores = []
        for sample, name in zip(made.samples, names, strict=True):
            if name not in known:
                known[name] = judge(example, sample.prediction)
            scores.append(known[name])
        return cls(
            vote=vote,
            score=score,
            votes=tuple(sample.vote for sample in made.samples),
            scores=tuple(scores),
            costs=tuple(sample.cost for sample in made.samples),
            conditioned=tuple(bool(sample.shown) for sample in made.samples),
        )

    def alone(self) -> Outcome:
        """The call as it was answered."""
        return Outcome(self.score, ((self.vote, 1.0),))


def voted(calls: Sequence[Call], size: int, selector: Selector, *, fixed: int = 0, seed: int = 0) -> list[Outcome]:
    """What a vote of so many of each call's samples comes to: the mean over :data:`ORDERS` random orders of them.

    The selector says who wins. Where nobody votes the first sample answers.

    Args:
        calls: Calls whose samples are independent.
        size: How many samples vote.
        selector: The rule of winning.
        fixed: How many of the first samples keep their place, since they were drawn in another way.
        seed: Seeds the orders.
    """
    outcomes = []
    for number, call in enumerate(calls):
        if not call.votes:
            outcomes.append(call.alone())
            continue
        generator = np.random.default_rng([seed, number])
        orders: Counter[tuple[int, ...]] = Counter()
        for _ in range(ORDERS):
            later = fixed + generator.permutation(len(call.votes) - fixed)
            orders[(*range(fixed), *later.tolist())[:size]] += 1
        won: Counter[int] = Counter()
        for order, times in orders.items():
            won[_winner(call.votes, order, selector)] += times
        score = sum(times * call.scores[sample] for sample, times in won.items()) / ORDERS
        outcomes.append(Outcome(score, _chances(call.votes, won)))
    return outcomes


def _winner(votes: Sequence[Vote | None], order: Sequence[int], selector: Selector) -> int:
    """The position of the sample that wins; the first one's where nobody votes."""
    selection = selector.empty()
    for place, sample in enumerate(order):
        selection = selection.add(votes[sample], sample=place)
    winner = selection.winner()
    return order[0] if winner is None else order[winner]


def _chances(votes: Sequence[Vote | None], won: Counter[int]) -> tuple[tuple[Vote | None, float], ...]:
    """How often each answer won; samples with one key gave one answer."""
    answers: dict[Hashable, Vote | None] = {}
    times: Counter[Hashable] = Counter()
    for sample, count in won.items():
        vote = votes[sample]
        key = sample if vote is not None and vote.key is None else vote and vote.key
        answers.setdefault(key, vote)
        times[key] += count
    return tuple((answers[key], count / ORDERS) for key, count in times.items())


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


def agreement(calls: Sequence[Call], selector: Selector) -> float | None:
    """How often two samples of a call say the same, on average over the calls with two; None if there is none.

    Args:
        calls: The calls.
        selector: What says which answers are the same, or much alike.
    """
    shares = []
    for call in calls:
        count = len(call.votes)
        if count > 1:
            pairs = itertools.combinations([vote for vote in call.votes if vote is not None], 2)
            same = 2 * sum(say_the_same(selector, one, other) for one, other in pairs)
            shares.append(same / (count * (count - 1)))
    return sum(shares) / len(shares) if shares else None


def _name_of(sample: SampleReport) -> Hashable:
    """What a sample's answer is known by in its call: samples of one name get one score."""
    if sample.vote is None or sample.vote.key is not None:
        return sample.vote and sample.vote.key
    try:  # of a selector of the user's own, which compares by something else
        return Plurality().read(sample.answer).key
    except UnreadableAnswer:
        return None

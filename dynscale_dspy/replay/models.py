"""Several language models under one budget: recorded samples of each for the same questions, replayed.

A strategy over language models is played as a module plays it on a known set of calls
(:func:`~dynscale_dspy.sampling.batch_plan.coordinate`), with samples from pools in place of requests. Beside it stand
what each model gives alone under the same policy, uniform samples of the dearest one, and the best of those alone at
each budget, picked with all right answers known: a bound, not a policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import permutations
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from dynscale_dspy.allocation.costs import Cost, Tariff
from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.allocation.policies import KnowledgeGradient, Policy, Uniform
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.replay.batch import allocate
from dynscale_dspy.replay.pools import Pool, PoolError, Question
from dynscale_dspy.replay.streams import Floats, Streams
from dynscale_dspy.sampling.batch_plan import KnownSet, coordinate
from dynscale_dspy.sampling.best_of import BestOf
from dynscale_dspy.sampling.by_price import ByPrice
from dynscale_dspy.sampling.escalate import Escalate, ModelStrategy
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.sample import Sample
from dynscale_dspy.sampling.samplers import Sampler
from dynscale_dspy.sampling.steps import Job, Look, ReserveFor, Standing
from dynscale_dspy.sampling.ways import INDEPENDENT
from dynscale_dspy.selection.base import Vote

BUDGETS: tuple[float, ...] = (0.5, 1, 1.5, 2, 3)
"""Average budgets a query, in mean samples of the dearest model, by default."""
STRATEGIES: Mapping[str, ModelStrategy] = {
    "Escalate": Escalate(ways=INDEPENDENT),
    "ladder": Escalate(upfront=0, beside=0, learn=False, ways=INDEPENDENT),
    "BestOf": BestOf(ways=INDEPENDENT),
    "ByPrice": ByPrice(Escalate(ways=INDEPENDENT), BestOf(ways=INDEPENDENT)),
}
"""Strategies that can be replayed, by name. The ladder is Escalate with nothing but its two numbers."""
BOUND = "best single in hindsight (not a policy)"
_FINE = 1000
"""Nanodollars of a unit of price, so that costs are integers."""


@dataclass(frozen=True)
class Shared:
    """Questions that several models have answered.

    Args:
        name: The data set's.
        pools: One for each model, with the same questions in the same order.
    """

    name: str
    pools: tuple[Pool, ...]

    def of(self, models: Sequence[str]) -> Shared:
        """The same questions by some of the models, in this order.

        Raises:
            PoolError: If there is no pool of one of them.
        """
        by_model = {pool.model: pool for pool in self.pools}
        for model in models:
            if model not in by_model:
                raise PoolError(f"{self.name} has no pool of {model!r}: it has {', '.join(sorted(by_model))}")
        return replace(self, pools=tuple(by_model[model] for model in models))


def shared(pools: Iterable[Pool]) -> list[Shared]:
    """Put pools of the same data set together, by the ids of their questions.

    Editions of a data set (``aime2024``, ``aime2025``) become one. Questions that some model has no samples of are left
    out, and so are data sets with one model.

    Args:
        pools: Named ``source__model__dataset``.
    """
    found: dict[tuple[str, str], dict[str, dict[str, Question]]] = {}
    for pool in pools:
        edition = pool.name.split("__")[-1]
        questions = found.setdefault((pool.source, pool.dataset), {}).setdefault(pool.model, {})
        questions.update({f"{edition}/{each.id}": each for each in pool.questions})
    sets = []
    for (source, dataset), models in found.items():
        ids = [each for each in next(iter(models.values())) if all(each in own for own in models.values())]
        if len(models) < 2 or not ids:
            continue
        made = (
            Pool(f"{source}__{model}__{dataset}", tuple(replace(own[each], id=each) for each in ids))
            for model, own in models.items()
        )
        sets.append(Shared(dataset, tuple(made)))
    return sets


def groups(questions: Shared, models: Sequence[str] | None, count: int) -> list[tuple[str, ...]]:
    """Which models to compare: those named, if all of them have answered; by default every group of so many."""
    known = [pool.model for pool in questions.pools]
    if models is None:
        return list(permutations(known, count))
    return [tuple(models)] if set(models) <= set(known) else []


@dataclass(frozen=True)
class Curve:
    """What one way to spend a budget gives.

    Args:
        way: Its name.
        accuracy: For each budget and question, how often it is answered rightly, ties by expectation; None for a budget
            that has not a sample for each question.
    """

    way: str
    accuracy: tuple[Floats | None, ...]

    def mean(self, budget: int) -> float | None:
        """Share of questions answered rightly at one of the budgets."""
        values = self.accuracy[budget]
        return None if values is None else float(values.mean())

    def gain(self, other: Curve, budget: int) -> tuple[float, float] | None:
        """The mean difference from another way, and its standard error over questions, which are paired."""
        return difference([(self, other)], budget)


def difference(pairs: Sequence[tuple[Curve, Curve]], budget: int) -> tuple[float, float] | None:
    """The mean difference of paired ways at one of the budgets, and its standard error over questions.

    Args:
        pairs: Ways to compare, over the same questions; several are averaged for each question first.
        budget: The budget's position.
    """
    found = [(one.accuracy[budget], other.accuracy[budget]) for one, other in pairs]
    differences = [one - other for one, other in found if one is not None and other is not None]
    if not differences:
        return None
    each = np.mean(differences, axis=0)
    return float(each.mean()), float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else math.inf


@dataclass(frozen=True)
class Comparison:
    """Ways to spend one budget on some models.

    Args:
        dataset: The questions.
        models: The models.
        costs: What a sample of each costs on average, in those of the cheapest.
        budgets: A query on average, in mean samples of the dearest model.
        curves: One for each way; the last is a bound.
    """

    dataset: str
    models: tuple[str, ...]
    costs: tuple[float, ...]
    budgets: tuple[float, ...]
    curves: tuple[Curve, ...]

    def curve(self, way: str) -> Curve:
        """The curve of a way, by its name.

        Raises:
            KeyError: If it was not replayed.
        """
        for curve in self.curves:
            if curve.way == way:
                return curve
        raise KeyError(way)


def compare(
    questions: Shared,
    prices: Sequence[float],
    *,
    strategies: Mapping[str, ModelStrategy] = STRATEGIES,
    budgets: Sequence[float] = BUDGETS,
    policy: Policy | None = None,
    replicates: int = 20,
    seed: int = 0,
) -> Comparison:
    """Replay strategies over several models, and each model alone.

    Args:
        questions: By each of the models.
        prices: Of a token of each model, or of a sample where tokens are not recorded, in any currency.
        strategies: By the names that they are reported under.
        budgets: A query on average, in mean samples of the dearest model.
        policy: Whom to sample next; the knowledge gradient by default.
        replicates: Random orders of samples.
        seed: Fixes them.

    Raises:
        PoolError: If numbers of models and prices differ, or a price is not above 0.
    """
    if len(prices) != len(questions.pools):
        models = ", ".join(pool.model for pool in questions.pools)
        raise PoolError(f"one price a model is needed: got {len(prices)} for {models}")
    if not all(0 < price < math.inf for price in prices):
        raise PoolError(f"prices must be above 0 and finite, got {', '.join(f'{price:g}' for price in prices)}")
    policy = policy or KnowledgeGradient()
    streams = [Streams(pool, replicates=replicates, seed=seed) for pool in questions.pools]
    costs = [price * _tokens(pool) for price, pool in zip(prices, questions.pools, strict=True)]
    limits = [budget * max(costs) for budget in budgets]
    curves = [_alone(each, limits, cost, policy) for each, cost in zip(streams, costs, strict=True)]
    bound = _best(curves)
    dearest = costs.index(max(costs))
    curves.append(_alone(streams[dearest], limits, costs[dearest], Uniform()))
    for name, strategy in strategies.items():
        runs = [_play(strategy, streams, prices, limits, policy, number) for number in range(replicates)]
        curves.append(Curve(name, tuple(np.mean([run[i] for run in runs], axis=0) for i in range(len(limits)))))
    return Comparison(
        dataset=questions.name,
        models=tuple(pool.model for pool in questions.pools),
        costs=tuple(cost / min(costs) for cost in costs),
        budgets=tuple(budgets),
        curves=(*curves, bound),
    )


def all_of(
    compare: Callable[[Shared], Comparison], questions: Sequence[Shared], *, jobs: int = 1
) -> Iterator[Comparison]:
    """Compare each of several groups of models, in order.

    Args:
        compare: :func:`compare` with all its settings.
        questions: By the models of each group.
        jobs: Processes.
    """
    if jobs <= 1:
        yield from map(compare, questions)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as executor:
        yield from executor.map(compare, questions)


def _tokens(pool: Pool) -> float:
    """What a sample takes on average, each question weighing the same; 1 where that is not recorded."""
    if not pool.has_tokens:
        return 1.0
    return float(np.mean([np.mean(question.tokens or ()) for question in pool.questions]))


def _alone(streams: Streams, limits: Sequence[float], cost: float, policy: Policy) -> Curve:
    """One model under a policy."""
    pool = streams.pool
    unit = "tokens" if pool.has_tokens else "samples"
    mean = cost / _tokens(pool) * pool.tokens_per_sample if pool.has_tokens else cost
    wanted = [limit / mean for limit in limits]
    enough = [i for i, limit in enumerate(limits) if limit >= 0.999 * cost]
    found = allocate(streams, policy, [wanted[i] for i in enough], unit=unit) if enough else []
    accuracy: list[Floats | None] = [None] * len(limits)
    for i, allocation in zip(enough, found, strict=True):
        credit = np.take_along_axis(streams.credit, allocation.samples[:, :, None], axis=2)[:, :, 0]
        accuracy[i] = credit.mean(axis=0)
    way = "uniform" if isinstance(policy, Uniform) else "KG" if isinstance(policy, KnowledgeGradient) else "policy"
    return Curve(f"{way} {pool.model}", tuple(accuracy))


def _best(curves: Sequence[Curve]) -> Curve:
    """At each budget, the model that has most answers right there."""
    accuracy = []
    for each in zip(*(curve.accuracy for curve in curves), strict=True):
        known = [values for values in each if values is not None]
        accuracy.append(max(known, key=lambda values: float(values.mean())) if known else None)
    return Curve(BOUND, tuple(accuracy))


def _play(
    strategy: ModelStrategy,
    streams: Sequence[Streams],
    prices: Sequence[float],
    limits: Sequence[float],
    policy: Policy,
    replicate: int,
) -> list[Floats]:
    """One replicate: for each limit, how right each question's vote is when it is reached."""
    models = [Sampler(each.pool.model, model=each.pool.model) for each in streams]
    recorded = {
        model.name: _Tape(each, price, replicate) for model, each, price in zip(models, streams, prices, strict=True)
    }
    room = np.min([each.room for each in streams], axis=0).tolist()
    learned, bound = Learned(), strategy.over(models)
    for model, price in zip(models, prices, strict=True):
        learned.of(model.name).tariff = Tariff(0.0, price * _FINE)
    plans = [Plan(bound, seed=replicate, key=call, max_samples=most, learned=learned) for call, most in enumerate(room)]
    right = [question.right for question in streams[0].pool.questions]
    totals = [limit * len(plans) * _FINE for limit in limits]
    reached: list[Floats] = []
    spent = 0
    known = KnownSet(guaranteed=(policy.first,) * len(plans), measured=True, metered=True)
    steps = coordinate(plans, known, policy, window=1, narrowing=False)
    answer: object = None
    while len(reached) < len(totals):
        try:
            step = steps.send(answer)
        except StopIteration:
            break
        if isinstance(step, Look):
            answer = Standing(unit="nanodollars")
        elif isinstance(step, ReserveFor):
            answer = step
        else:
            assert isinstance(step, list)
            finished = [(job, recorded[job.draw.sampler.model].play(job)) for job in step]
            spent += sum(sample.cost.nanodollars for _, sample in finished)
            while len(reached) < len(totals) and spent > totals[len(reached)] * (1 + 1e-9):
                reached.append(_credits(plans, right))
            for job, sample in finished:
                learned.costed(job.draw.sampler.model, sample.cost)
            answer = finished
    return reached + [_credits(plans, right)] * (len(totals) - len(reached))


class _Tape:
    """The samples of one model in the order of one replicate."""

    def __init__(self, streams: Streams, price: float, replicate: int) -> None:
        self._answers = [streams.answers(replicate, question) for question in range(streams.questions)]
        ends = streams.tokens[replicate] if streams.tokens is not None else None
        self._tokens = np.diff(ends, axis=1) if ends is not None else np.ones((streams.questions, streams.cap))
        self._price = price
        self._played = [0] * streams.questions

    def play(self, job: Job) -> Sample:
        """The next sample of a call."""
        number = self._played[job.call]
        self._played[job.call] += 1
        said, tokens = self._answers[job.call][number], float(self._tokens[job.call, number])
        money = round(tokens * self._price * _FINE)
        cost = Cost(samples=1, requests=1, completion_tokens=round(tokens), nanodollars=money)
        vote = None if said is None else Vote(said, said)
        return Sample(job.draw, answer=said, vote=vote, problem="" if vote else "no answer", cost=cost)


def _credits(plans: Sequence[Plan], right: Sequence[frozenset[str]]) -> NDArray[np.float64]:
    return np.array([_credit(plan, answers) for plan, answers in zip(plans, right, strict=True)])


def _credit(plan: Plan, right: frozenset[str]) -> float:
    """Chance that the vote is right: the share of right answers among those that lead."""
    if not plan.samples:
        return 0.0
    plan.winner()  # counts the votes by what is known now
    tally = plan.selection.evidence()
    assert isinstance(tally, Tally)
    leaders = [key for key, weight in tally.votes.items() if weight >= tally.lead - 1e-9]
    return sum(key in right for key in leaders) / len(leaders) if leaders else 0.0

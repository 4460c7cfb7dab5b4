"""The whole table: pools by policies by budgets, with errors and group summaries."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dynscale_dspy.allocation.policies import POLICIES, Policy, make_policy
from dynscale_dspy.replay import bounds
from dynscale_dspy.replay.batch import Allocation, allocate
from dynscale_dspy.replay.online import ARRIVALS, allocate_online
from dynscale_dspy.replay.pools import Pool, PoolError, load_pool
from dynscale_dspy.replay.statistics import area, bootstrap_weights, reach
from dynscale_dspy.replay.streams import Streams
from dynscale_dspy.replay.table_text import render

BUDGETS: tuple[float, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Average samples a query, by default."""

GROUPINGS = ("dataset", "model", "source", "pool")
SHOWN_BUDGET = 8.0  # the budget at which "where the samples went" is kept


@dataclass(frozen=True)
class Record:
    """Accuracy of a policy on a pool at a budget.

    Args:
        pool: The pool's name; for the Lagrangian bound, which is fitted to a group, the group's.
        policy: The policy's name.
        unit: ``"samples"`` or ``"tokens"``.
        budget: Allowed a query on average, in samples or in mean samples' worth of tokens.
        mode: ``"batch"`` or ``"online"``.
        accuracy: Share of questions answered rightly, ties by expectation.
        se: Its standard error, over questions and orders of samples.
        spent: Spent a query, in the budget's unit; None for a bound.
        rounds: How many times samples were waited for before more were drawn: by the whole set in batch, by a query
            on average online; None for a bound.
    """

    pool: str
    policy: str
    unit: str
    budget: float
    mode: str
    accuracy: float
    se: float | None
    spent: float | None
    rounds: float | None


@dataclass(frozen=True)
class Summary:
    """A policy over a group of pools, each weighing the same.

    Args:
        group: The group's name.
        policy: The policy's name.
        area: Mean accuracy over log2 of the budget from 1 to 32; None if a pool of the group has too few samples.
        reach_uniform32: What is spent a query where uniform sampling's accuracy at 32 is reached; None if never, or if
            the group has no budget 32.
        diff_vs_uniform4: Accuracy minus uniform's at 4 a query; None without that budget.
        diff_se: Standard error of that difference, questions being drawn jointly over pools.
    """

    group: str
    policy: str
    area: float | None
    reach_uniform32: float | None
    diff_vs_uniform4: float | None
    diff_se: float | None


@dataclass(frozen=True)
class Skip:
    """Something asked for that was not replayed, and why."""

    pool: str
    what: str
    why: str


@dataclass(frozen=True)
class Whereabouts:
    """Where a policy's samples went on a pool: mean samples of each question beside how far its samples agree."""

    pool: str
    group: str
    policy: str
    budget: float
    agreement: tuple[float, ...]
    samples: tuple[float, ...]


@dataclass(frozen=True)
class Replay:
    """What came out.

    Args:
        records: One for each pool, policy and budget.
        summaries: One for each group and policy.
        skipped: What was left out.
        groups: The group of each pool.
        settings: How it was made.
        whereabouts: Where the samples went at 8 a query, or the nearest budget.
        bands: For each group, policy and budget, the standard error of the accuracy's difference from uniform's.
    """

    records: tuple[Record, ...]
    summaries: tuple[Summary, ...]
    skipped: tuple[Skip, ...]
    groups: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    whereabouts: tuple[Whereabouts, ...] = ()
    bands: Mapping[tuple[str, str, float], float] = field(default_factory=dict)

    def accuracy(self, policy: str, budget: float, *, group: str | None = None) -> float:
        """Mean accuracy over the pools of a group, or over all.

        Raises:
            KeyError: If there is no such record.
        """
        found = [
            record.accuracy
            for record in self.records
            if record.policy == policy
            and record.budget == budget
            and (group is None or self.groups.get(record.pool, record.pool) == group)
        ]
        if not found:
            raise KeyError(f"no record of {policy!r} at budget {budget!r}")
        return sum(found) / len(found)

    def __str__(self) -> str:
        """Tables of accuracies by policy and budget, as ``dynscale replay`` prints them."""
        return render(self)

    def to_json(self) -> dict[str, Any]:
        """Plain lists and dicts."""
        return {
            "settings": dict(self.settings),
            "groups": dict(self.groups),
            "records": [asdict(record) for record in self.records],
            "summaries": [asdict(summary) for summary in self.summaries],
            "skipped": [asdict(skip) for skip in self.skipped],
        }

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_json` to a file."""
        Path(path).write_text(json.dumps(self.to_json(), indent=1), encoding="utf-8")


Policies = Mapping[str, Policy] | Iterable[str | Policy] | None


def replay(
    pools: Pool | str | Path | Iterable[Pool | str | Path],
    policies: Policies = None,
    *,
    budgets: Sequence[float] = BUDGETS,
    unit: str = "samples",
    mode: str = "batch",
    rounds: int | None = None,
    replicates: int = 50,
    seed: int = 0,
    group_by: str = "dataset",
    cost_exponent: float = 1.0,
    announced: bool = False,
    concurrency: int = 1,
    arrivals: str = "shuffled",
    with_bounds: bool = True,
    share: bool = False,
    jobs: int = 1,
    progress: Callable[[str], None] | None = None,
) -> Replay:
    """Replay policies over recorded pools.

    Args:
        pools: Pools, or files to load them from.
        policies: Policies by name; or names with settings as :func:`make_policy` takes them, or policies. All that
            there are by default. Uniform sampling is always replayed, for comparison.
        budgets: Average budgets a query, at least 1. Those above half of a pool are skipped there.
        unit: ``"samples"``, or ``"tokens"`` for budgets in mean samples' worth of tokens.
        mode: ``"batch"``, a known set of queries; or ``"online"``, queries that arrive one by one.
        rounds: Batch: most rounds of samples drawn side by side; None decides after each sample.
        replicates: Random orders of each question's samples.
        seed: Fixes these orders.
        group_by: What pools are summed up by: ``"dataset"``, ``"model"``, ``"source"`` (parts of their names) or
            ``"pool"``.
        cost_exponent: In tokens: how strongly expected cost counts, 0 to 1.
        announced: Online: whether the number of queries is known in advance.
        concurrency: Online: queries in flight at a time.
        arrivals: Online: ``"shuffled"``, ``"easy_first"``, ``"hard_first"`` or ``"bursts"``.
        with_bounds: Whether to add bounds, marked "not a policy"; in batch mode and samples only.
        share: Whether all pools of a group draw on one budget, as the modules of a program on one
            :class:`~dynscale_dspy.BudgetPool`; each has its own otherwise.
        jobs: Processes to use.
        progress: Called with each pool's name when it is done.

    Returns:
        Records, summaries and what was skipped.

    Raises:
        PoolError: If a pool cannot be read, or has no token counts where they are needed.
        ValueError: If an option is out of range.

    Example:
        >>> from dynscale_dspy.replay import Pool, Question
        >>> easy = [Question(f"easy/{i}", ("A",) * 16, frozenset("A")) for i in range(8)]
        >>> hard = [Question(f"hard/{i}", ("A", "B", "A", "A") * 4, frozenset("A")) for i in range(4)]
        >>> result = replay(Pool("mine", (*easy, *hard)), ["knowledge_gradient"], budgets=[1, 2, 4])
        >>> result.accuracy("knowledge_gradient", 2) > result.accuracy("uniform", 2)
        True
    """
    named = _named(policies)
    settings = _Settings(
        tuple(float(budget) for budget in sorted(set(budgets))),
        unit, mode, rounds, replicates, seed, cost_exponent, announced, concurrency, arrivals, with_bounds,
    )  # fmt: skip
    settings.check()
    if group_by not in GROUPINGS:
        raise ValueError(f"group_by must be one of {', '.join(GROUPINGS)}, got {group_by!r}")
    if isinstance(pools, (Pool, str, Path)):
        pools = [pools]
    loaded = [pool if isinstance(pool, Pool) else load_pool(pool) for pool in pools]
    if not loaded:
        raise ValueError("no pools to replay")
    groups = {pool.name: pool.name if group_by == "pool" else getattr(pool, group_by) for pool in loaded}
    if len(groups) < len(loaded):
        names = sorted(pool.name for pool in loaded)
        raise ValueError(f"two pools are called {next(a for a, b in pairwise(names) if a == b)!r}")
    sets = [[pool] for pool in loaded]
    if share:
        sets = [[pool for pool in loaded if groups[pool.name] == group] for group in dict.fromkeys(groups.values())]
    results = []
    for result in _each(sets, named, settings, jobs):
        results.append(result)
        if progress is not None:
            progress(result.pool)
    records = [record for result in results for record in result.records]
    skipped = [skip for result in results for skip in result.skipped]
    if settings.bounded:
        records += _group_bounds(loaded, groups, settings)
    return Replay(
        records=tuple(records),
        summaries=tuple(_summaries(results, records, groups, settings)),
        skipped=tuple(skipped),
        groups=groups,
        settings={
            **asdict(settings),
            "group_by": group_by,
            "share": share,
            "policies": {name: repr(policy) for name, policy in named.items()},
        },
        whereabouts=tuple(
            Whereabouts(result.pool, groups[result.pool], *rest) for result in results for rest in result.whereabouts
        ),
        bands=_bands(results, groups),
    )


@dataclass(frozen=True)
class _Settings:
    budgets: tuple[float, ...]
    unit: str
    mode: str
    rounds: int | None
    replicates: int
    seed: int
    cost_exponent: float
    announced: bool
    concurrency: int
    arrivals: str
    with_bounds: bool

    @property
    def bounded(self) -> bool:
        return self.with_bounds and self.mode == "batch" and self.unit == "samples"

    def check(self) -> None:
        if not self.budgets or self.budgets[0] < 1:
            raise ValueError(f"budgets must be at least 1 a query, got {list(self.budgets)}")
        if self.unit not in ("samples", "tokens"):
            raise ValueError(f"unit must be 'samples' or 'tokens', got {self.unit!r}")
        if self.mode not in ("batch", "online"):
            raise ValueError(f"mode must be 'batch' or 'online', got {self.mode!r}")
        if self.arrivals not in ARRIVALS:
            raise ValueError(f"arrivals must be one of {', '.join(ARRIVALS)}, got {self.arrivals!r}")
        for name in ("replicates", "concurrency", *(("rounds",) if self.rounds is not None else ())):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if self.mode == "online" and (self.unit == "tokens" or self.rounds is not None):
            raise ValueError("online replay counts samples and has no common rounds: leave out unit and rounds")
        if self.unit == "tokens" and self.rounds is not None:
            raise ValueError("rounds are replayed in samples only")


@dataclass(frozen=True)
class _PoolResult:
    pool: str
    records: list[Record]
    skipped: list[Skip]
    bootstrap: dict[tuple[str, float], NDArray[np.float32]]
    whereabouts: list[tuple[str, float, tuple[float, ...], tuple[float, ...]]]


def _named(policies: Policies) -> dict[str, Policy]:
    if policies is None:
        policies = list(POLICIES)
    if isinstance(policies, (str, Policy)):
        policies = [policies]
    if not isinstance(policies, Mapping):
        pairs = [(p, make_policy(p)) if isinstance(p, str) else (_name_of(p), p) for p in policies]
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise ValueError(f"two policies share a name among {names}: pass a dict of names and policies")
        policies = dict(pairs)
    return {"uniform": make_policy("uniform"), **cast(Mapping[str, Policy], policies)}


def _name_of(policy: Policy) -> str:
    return next((name for name, kind in POLICIES.items() if type(policy) is kind and policy == kind()), repr(policy))


def _each(
    sets: Sequence[Sequence[Pool]], policies: dict[str, Policy], settings: _Settings, jobs: int
) -> Iterable[_PoolResult]:
    if jobs <= 1 or len(sets) == 1:
        for pools in sets:
            yield from _replay_pools(pools, policies, settings)
        return
    # The largest first, so that no process is left alone with it; results in the given order.
    order = sorted(range(len(sets)), key=lambda i: -sum(len(pool.questions) for pool in sets[i]))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as executor:
        futures = {i: executor.submit(_replay_pools, sets[i], policies, settings) for i in order}
        for i in range(len(sets)):
            yield from futures[i].result()


def _replay_pools(pools: Sequence[Pool], policies: dict[str, Policy], settings: _Settings) -> list[_PoolResult]:
    """Replay one known set, or one stream, made of the questions of some pools under one budget."""
    for pool in pools:
        if settings.unit == "tokens":
            assert pool.tokens_per_sample  # raises where some are missing
        for question in pool.questions:
            if len(question.answers) < 2:
                raise PoolError(f"pool {pool.name!r}: question {question.id!r} has one sample, and half of it is none")
    streams = Streams(_joined(pools), replicates=settings.replicates, seed=settings.seed)
    most = float(streams.room.mean())
    budgets = [budget for budget in settings.budgets if budget <= most]
    ends = np.cumsum([len(pool.questions) for pool in pools]).tolist()
    members = [_Member(pool, slice(end - len(pool.questions), end)) for pool, end in zip(pools, ends, strict=True)]
    shown = min(budgets, key=lambda budget: abs(budget - SHOWN_BUDGET)) if budgets else None
    agreement = (streams.leader[:, np.arange(streams.questions), streams.room] / streams.room).mean(axis=0)
    for name, policy in policies.items():
        if settings.mode == "online":
            found = allocate_online(
                streams, policy, budgets,
                announced=settings.announced, concurrency=settings.concurrency, arrivals=settings.arrivals,
            )  # fmt: skip
        else:
            found = allocate(
                streams, policy, budgets,
                unit=settings.unit, rounds=settings.rounds, cost_exponent=settings.cost_exponent,
            )  # fmt: skip
        for budget, allocation in zip(budgets, found, strict=True):
            credit = np.take_along_axis(streams.credit, allocation.samples[:, :, None], axis=2)[:, :, 0]
            samples = allocation.samples.mean(axis=0)
            for member in members:
                spent = allocation.spent.mean() if len(members) == 1 else _spent(streams, member, allocation, settings)
                member.add(name, settings, budget, credit, float(spent), allocation.rounds)
                if budget == shown:
                    part = member.questions
                    where = (name, budget, tuple(agreement[part].tolist()), tuple(samples[part].tolist()))
                    member.whereabouts.append(where)
    if settings.bounded and budgets:
        for name, bound in ((bounds.HINDSIGHT, bounds.hindsight), (bounds.STATIC, bounds.static_gold)):
            for budget, credit in zip(budgets, bound(streams, budgets), strict=True):
                for member in members:
                    member.add(name, settings, budget, credit, None, None)
    return [member.result(settings, most) for member in members]


def _joined(pools: Sequence[Pool]) -> Pool:
    if len(pools) == 1:
        return pools[0]
    return Pool(
        "+".join(pool.name for pool in pools),
        tuple(replace(question, id=f"{pool.name}/{question.id}") for pool in pools for question in pool.questions),
    )


def _spent(streams: Streams, member: _Member, allocation: Allocation, settings: _Settings) -> float:
    """What one pool's questions took of a shared budget, a query, in the budget's unit."""
    drawn = allocation.samples[:, member.questions]
    if settings.unit == "samples":
        return float(drawn.mean())
    assert streams.tokens is not None
    taken = np.take_along_axis(streams.tokens[:, member.questions], drawn[:, :, None], axis=2)
    return float(taken.mean()) / streams.pool.tokens_per_sample


class _Member:
    """A pool's part in a replay: its questions are a slice of the stream's."""

    def __init__(self, pool: Pool, questions: slice) -> None:
        self.pool = pool
        self.questions = questions
        self.records: list[Record] = []
        self.credits: dict[tuple[str, float], NDArray[Any]] = {}
        self.whereabouts: list[tuple[str, float, tuple[float, ...], tuple[float, ...]]] = []

    def add(
        self,
        policy: str,
        settings: _Settings,
        budget: float,
        credit: NDArray[Any],
        spent: float | None,
        rounds: float | None,
    ) -> None:
        """Note what a policy scored at a budget; ``credit`` is that of the whole stream."""
        credit = credit[:, self.questions]
        self.credits[policy, budget] = credit
        self.records.append(
            Record(
                self.pool.name, policy, settings.unit, budget, settings.mode, float(credit.mean()), None, spent, rounds
            )
        )

    def result(self, settings: _Settings, most: float) -> _PoolResult:
        """All of it, with standard errors, and what was left out."""
        skipped = [Skip(self.pool.name, "question", why) for why in self.pool.skipped]
        skipped += [
            Skip(self.pool.name, f"budget {budget:g}", f"above half of the pool, {most:g} samples a question")
            for budget in settings.budgets
            if budget > most
        ]
        draws = _bootstrap(self.credits, bootstrap_weights(self.pool, settings.replicates, settings.seed))
        records = [
            replace(record, se=float(np.std(draws[record.policy, record.budget], ddof=1))) for record in self.records
        ]
        return _PoolResult(self.pool.name, records, skipped, draws, self.whereabouts)


def _bootstrap(
    credits: dict[tuple[str, float], NDArray[Any]], weights: NDArray[np.float32]
) -> dict[tuple[str, float], NDArray[np.float32]]:
    if not credits:
        return {}
    stacked = np.stack([credit.ravel().astype(np.float32) for credit in credits.values()])
    return dict(zip(credits, stacked @ weights.T, strict=True))


def _group_bounds(pools: Sequence[Pool], groups: Mapping[str, str], settings: _Settings) -> list[Record]:
    records = []
    for group in dict.fromkeys(groups.values()):
        members = [pool for pool in pools if groups[pool.name] == group]
        streams = [Streams(pool, replicates=settings.replicates, seed=settings.seed) for pool in members]
        most = min(float(s.room.mean()) for s in streams)
        budgets = [budget for budget in settings.budgets if budget <= most]
        for budget, value in zip(budgets, bounds.lagrangian(streams, budgets), strict=True):
            records.append(
                Record(group, bounds.LAGRANGIAN, settings.unit, budget, settings.mode, value, None, None, None)
            )
    return records


def _bands(results: Sequence[_PoolResult], groups: Mapping[str, str]) -> dict[tuple[str, str, float], float]:
    bands = {}
    for group in dict.fromkeys(groups.values()):
        members = [result for result in results if groups[result.pool] == group]
        for name, budget in members[0].bootstrap:
            if all((name, budget) in result.bootstrap for result in members):
                bands[group, name, budget] = _paired_error(members, name, budget)
    return bands


def _paired_error(members: Sequence[_PoolResult], policy: str, budget: float) -> float:
    """Standard error of the mean difference from uniform over some pools, whose draws are of the same questions."""
    paired = [result.bootstrap[policy, budget] - result.bootstrap["uniform", budget] for result in members]
    return float(np.std(np.mean(paired, axis=0), ddof=1))


def _summaries(
    results: Sequence[_PoolResult], records: Sequence[Record], groups: Mapping[str, str], settings: _Settings
) -> Iterable[Summary]:
    by_key = {(record.pool, record.policy, record.budget): record for record in records}
    names = list(dict.fromkeys(record.policy for record in records))
    for group in dict.fromkeys(groups.values()):
        members = [result for result in results if groups[result.pool] == group]
        pools = [result.pool for result in members]
        curves: dict[str, tuple[list[float], list[float], list[float]]] = {}
        for name in names:
            owners = [group] if name == bounds.LAGRANGIAN else pools
            shared = [budget for budget in settings.budgets if all((pool, name, budget) in by_key for pool in owners)]
            at = [[by_key[pool, name, budget] for pool in owners] for budget in shared]
            accuracy = [sum(record.accuracy for record in row) / len(row) for row in at]
            spent = [
                sum(budget if record.spent is None else record.spent for record in row) / len(row)
                for budget, row in zip(shared, at, strict=True)
            ]
            curves[name] = (shared, accuracy, spent)
        shared, accuracy, _ = curves["uniform"]
        target = accuracy[shared.index(32.0)] if 32.0 in shared else None
        at_four = accuracy[shared.index(4.0)] if 4.0 in shared else None
        for name in names:
            shared, accuracy, spent = curves[name]
            difference = error = None
            if at_four is not None and 4.0 in shared:
                difference = accuracy[shared.index(4.0)] - at_four
                if name != bounds.LAGRANGIAN:
                    error = _paired_error(members, name, 4.0)
            yield Summary(
                group,
                name,
                area(shared, accuracy),
                None if target is None else reach(spent, accuracy, target),
                difference,
                error,
            )

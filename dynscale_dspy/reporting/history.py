"""The history of a pool, for reports and plots: a bounded number of calls, without the text of any answer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from dynscale_dspy.allocation.costs import Cost

MOST_CALLS = 1000
"""How many of the latest calls a pool remembers."""
MOST_MOMENTS = 512
"""Most points in the curves of spending and price. A pool that reaches it drops every second one."""
MOST_PROGRAMS = 100
"""Most programs, and models, whose spending is kept separately. That of further ones is summed under ``other``."""


@dataclass(frozen=True)
class CallRecord:
    """One answered call.

    Args:
        program: The wrapped program, such as ``ChainOfThought(question -> answer)``.
        answers: The vote of each sample, in order: answers are numbered from 0 as they appear; None is no vote. Answers
            that are much alike have one number where the selector tells how alike answers are.
        agreement: The winner's share of the samples, 0 to 1.
        confidence: As in :class:`~dynscale_dspy.reporting.explanation.Explanation`.
        cost: What the call cost.
        samplers: The name of what drew each sample, in the same order; empty in records that do not tell.
        models: What each language model cost, where the call draws from several; else empty.
        winner: The number of the answer that won; None if nobody voted, or in records that do not tell.
    """

    program: str
    answers: tuple[int | None, ...]
    agreement: float
    confidence: float
    cost: Cost
    samplers: tuple[str, ...] = ()
    models: Mapping[str, Cost] = field(default_factory=dict)
    winner: int | None = None


@dataclass(frozen=True)
class Moment:
    """A point of a pool's curves: taken when a call was answered, or a sample of a known set had finished.

    Args:
        time: Seconds since the epoch.
        spent: Spent until then.
        price: The online price; None if the pool had none yet.
        calls: Calls answered until then.
    """

    time: float
    spent: Cost
    price: float | None
    calls: int


@dataclass(frozen=True)
class Part:
    """A share of a module, or an open scope, within a pool.

    Args:
        name: ``scope``, or such as ``share of Predict(question -> answer)``.
        spent: What it has spent.
        limits: Its caps by unit, as in :class:`~dynscale_dspy.reporting.statistics.PoolStatistics`.
        seconds_left: Until its deadline; None without one.
    """

    name: str
    spent: Cost
    limits: Mapping[str, float | None]
    seconds_left: float | None


@dataclass(frozen=True)
class History:
    """The history of a pool; :attr:`BudgetPool.history` gives it.

    Args:
        calls: The latest :data:`MOST_CALLS` calls, oldest first.
        moments: At most :data:`MOST_MOMENTS` points, from the first call to the latest.
        programs: What each program has spent on all its calls.
        models: What each language model has cost in all calls that draw from several.
    """

    calls: tuple[CallRecord, ...]
    moments: tuple[Moment, ...]
    programs: Mapping[str, Cost]
    models: Mapping[str, Cost] = field(default_factory=dict)

    @property
    def answered(self) -> tuple[CallRecord, ...]:
        """The remembered calls of which at least one sample voted."""
        return tuple(call for call in self.calls if any(answer is not None for answer in call.answers))

    @property
    def agreement(self) -> float | None:
        """Mean agreement of the remembered calls; None before there is one."""
        return sum(call.agreement for call in self.calls) / len(self.calls) if self.calls else None


class Recorder:
    """Records calls and moments within the bounds of a :class:`History`.

    Safe to use from several threads. It has its own lock, so that nobody holds a pool's for bookkeeping.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        """Held for each look and each change; nothing else is done meanwhile."""
        self._calls: deque[CallRecord] = deque(maxlen=MOST_CALLS)
        self._moments: list[Moment] = []
        self._latest: Moment | None = None
        self._programs: dict[str, Cost] = {}
        self._models: dict[str, Cost] = {}
        self._every = 1
        self._seen = 0

    def add(self, call: CallRecord, moment: Moment) -> None:
        """Record an answered call."""
        with self.lock:
            self._calls.append(call)
            _add(self._programs, call.program, call.cost)
            for model, cost in call.models.items():
                _add(self._models, model, cost)
            self._latest = moment
            if self._is_due():
                self._keep(moment)

    def note(self, moment: Callable[[], Moment]) -> None:
        """Record that a sample of a known set has finished.

        Args:
            moment: Makes the point of the curves; called only if the point is kept.
        """
        with self.lock:
            due = self._is_due()
        if due:
            made = moment()
            with self.lock:
                self._latest = made
                self._keep(made)

    def _is_due(self) -> bool:
        self._seen += 1
        return (self._seen - 1) % self._every == 0

    def _keep(self, moment: Moment) -> None:
        self._moments.append(moment)
        if len(self._moments) == MOST_MOMENTS:
            del self._moments[1::2]
            self._every *= 2

    def history(self) -> History:
        """A copy of what is recorded so far."""
        with self.lock:
            moments = list(self._moments)
            if self._latest is not None and moments[-1] is not self._latest:
                moments.append(self._latest)
            programs, models = MappingProxyType(dict(self._programs)), MappingProxyType(dict(self._models))
            return History(tuple(self._calls), tuple(moments), programs, models)


def _add(costs: dict[str, Cost], name: str, cost: Cost) -> None:
    if name not in costs and len(costs) >= MOST_PROGRAMS:
        name = "other"
    costs[name] = costs.get(name, Cost()) + cost

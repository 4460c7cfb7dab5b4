"""Queries that arrive one by one: a sample is drawn while it is worth the shadow price.

This drives the very price and allowance that a live pool uses, in the same steps, with calls in flight interleaved at
random.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from dynscale_dspy.allocation.policies import ExploringPolicy, Policy
from dynscale_dspy.allocation.pricing import Allowance, ShadowPrice
from dynscale_dspy.replay.batch import Allocation
from dynscale_dspy.replay.streams import Ints, Streams, Views

ARRIVALS = ("shuffled", "easy_first", "hard_first", "bursts")


def allocate_online(
    streams: Streams,
    policy: Policy,
    budgets: Sequence[float],
    *,
    announced: bool = False,
    concurrency: int = 1,
    arrivals: str = "shuffled",
) -> list[Allocation]:
    """Replay a policy over queries that arrive one by one.

    Args:
        streams: What samples would say.
        policy: What a sample is worth.
        budgets: Average samples a query.
        announced: Whether the number of queries is known in advance.
        concurrency: Queries in flight at a time.
        arrivals: Order of arrival: ``"shuffled"``; ``"easy_first"`` or ``"hard_first"``, by how often samples of the
            recorded pool agree; ``"bursts"``, runs of easy and of hard queries in turn.

    Returns:
        One allocation a budget.
    """
    views = streams.views(policy)
    worth = _memo(policy, views)
    order = arrival_order(streams, arrivals)
    results = []
    for budget in budgets:
        drawn = np.zeros((streams.replicates, streams.questions), dtype=np.int64)
        rounds = 0
        for r in range(streams.replicates):
            generator = np.random.default_rng([r, zlib.crc32(streams.pool.name.encode())])
            run = _Run(streams, views, worth, policy, budget, announced)
            rounds += run(r, order[r].tolist(), concurrency, generator, drawn[r])
        results.append(
            Allocation(drawn, drawn.sum(axis=1) / streams.questions, rounds / (streams.replicates * streams.questions))
        )
    return results


def arrival_order(streams: Streams, arrivals: str) -> Ints:
    """In which order questions come, for each replicate."""
    if arrivals not in ARRIVALS:
        raise ValueError(f"arrivals must be one of {', '.join(ARRIVALS)}, got {arrivals!r}")
    if arrivals == "shuffled":
        return streams.arrival
    agreement = np.array([_agreement(question.answers) for question in streams.pool.questions])
    # Equally hard ones in each replicate's own random order.
    shuffled = agreement[streams.arrival]
    hard_first = np.take_along_axis(streams.arrival, np.argsort(shuffled, axis=1, kind="stable"), axis=1)
    if arrivals == "hard_first":
        return hard_first
    if arrivals == "easy_first":
        return hard_first[:, ::-1]
    # Bursts: ten runs, the easiest questions, the hardest, the next easiest, ...
    runs = np.array_split(hard_first, min(10, streams.questions), axis=1)
    turns = [runs.pop(0 if i % 2 else -1) for i in range(len(runs))]
    return np.concatenate(turns, axis=1)


def _agreement(answers: Sequence[str | None]) -> float:
    votes: dict[str, int] = {}
    for answer in answers:
        if answer is not None:
            votes[answer] = votes.get(answer, 0) + 1
    return max(votes.values(), default=0) / len(answers)


Worth = Callable[[int, int, int], float]


def _memo(policy: Policy, views: Views) -> Worth:
    """The index of a state with samples in flight, each computed once."""
    if isinstance(policy, ExploringPolicy):
        terms: dict[tuple[int, int], tuple[float, float]] = {}

        def exploring(state: int, pending: int, total: int) -> float:
            found = terms.get((state, pending))
            if found is None:
                found = terms[state, pending] = policy.terms(views.tallies[state], pending=pending)
            return found[0] + policy.growth(total) * found[1]

        return exploring
    if policy.depends_on_total:
        return lambda state, pending, total: policy.index(views.tallies[state], pending=pending, total=total)
    indices: dict[tuple[int, int], float] = {}

    def index(state: int, pending: int, total: int) -> float:
        found = indices.get((state, pending))
        if found is None:
            found = indices[state, pending] = policy.index(views.tallies[state], pending=pending)
        return found

    return index


class _Run:
    """One replicate: a pool's open, request and close, without its threads."""

    def __init__(
        self, streams: Streams, views: Views, worth: Worth, policy: Policy, budget: float, announced: bool
    ) -> None:
        self.views = views
        self.worth = worth
        self.room = streams.room.tolist()
        self.allowance = Allowance(
            budget,
            first=min(policy.first, int(budget)),
            expected=streams.questions if announced else None,
        )
        self.price = ShadowPrice.opening(policy, budget, first=self.allowance.first)
        self.committed = 0
        self.total = 0

    def __call__(
        self, replicate: int, order: list[int], concurrency: int, generator: np.random.Generator, drawn: Ints
    ) -> int:
        ids = self.views.ids[replicate]
        coming = iter(order)
        flying: list[list[int]] = []  # question, samples finished, samples in flight
        rounds = 0
        while True:
            while len(flying) < concurrency and (q := next(coming, None)) is not None:
                flying.append([q, 0, self._open(int(ids[q, 0]), self.room[q])])
            if not flying:
                return rounds
            call = flying[0 if concurrency == 1 else int(generator.integers(len(flying)))]
            q = call[0]
            call[1] += call[2]
            rounds += 1
            call[2] = self._grant(int(ids[q, call[1]]), self.room[q] - call[1], 0)
            if call[2] == 0:
                flying.remove(call)
                drawn[q] = call[1]
                self._close(call[1])

    def _open(self, state: int, room: int) -> int:
        first = min(self.allowance.first, room)
        self.allowance.open()
        self.committed += first
        self.total += first
        return first + self._grant(state, room - first, first)

    def _grant(self, state: int, room: int, pending: int) -> int:
        room = min(room, self.allowance.credit(self.committed))
        granted = 0
        while granted < room:
            ahead = pending + granted
            if self.worth(state, ahead, self.total + ahead) <= self.price.value:
                break
            granted += 1
        if granted:
            self.committed += granted
            self.total += granted
            self.price.granted(granted, per_call=self.allowance.per_call)
        return granted

    def _close(self, drawn: int) -> None:
        target = self.allowance.close(drawn)
        self.price.closed(
            max(target - self.allowance.first, 0),
            per_call=self.allowance.per_call,
            used=drawn - self.allowance.first,
        )

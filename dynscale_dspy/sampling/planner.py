"""The plan of a call, and of a known set of calls, as pure generators.

A plan says what to draw and is sent what came back; it knows no thread, loop or clock. The two drivers only differ in
how they wait, so sync and async decide alike.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dynscale_dspy.allocation.ledger import Cost
from dynscale_dspy.allocation.policies import Policy
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.errors import BudgetExhausted
from dynscale_dspy.pool import Arm, BudgetPool, Ticket
from dynscale_dspy.sampling.chain import build_chain
from dynscale_dspy.sampling.sample import Draw, Sample
from dynscale_dspy.sampling.strategies import Strategy


@dataclass(frozen=True)
class Job:
    """One sample for a driver to run.

    Args:
        draw: What to draw.
        ticket: What pays for it; None for a run outside the budget.
        call: Position of its call in a known set, 0 for a single call.
    """

    draw: Draw
    ticket: Ticket | None
    call: int = 0


class Plan:
    """The samples of one call: those finished, those in flight, and what the next ones look like. Ask and tell.

    Args:
        strategy: What samples look like.
        seed: The pool's seed.
        key: A stable name of the call; with the seed and a sample's index it fixes every random choice.
        max_samples: Most samples this call may draw.
        tally: An empty tally of the kind the policy reads; a plain one by default.
    """

    def __init__(
        self, strategy: Strategy, *, seed: int, key: Hashable, max_samples: int, tally: Tally | None = None
    ) -> None:
        self.strategy = strategy
        self.max_samples = max_samples
        self.samples: list[Sample] = []
        self.tally = tally or Tally()
        self._entropy = hashlib.blake2b(f"{seed}/{key!r}".encode(), digest_size=16).digest()
        self._drawn = 0

    @property
    def pending(self) -> int:
        """Samples drawn and not yet told."""
        return self._drawn - len(self.samples)

    @property
    def room(self) -> int:
        """How many more may be drawn now."""
        return min(self.max_samples - self._drawn, self.strategy.room(self.pending))

    def draw(self) -> Draw:
        """The next sample to draw."""
        index = self._drawn
        self._drawn += 1
        voters = sorted((s for s in self.samples if s.key is not None), key=lambda s: s.draw.index)
        shown = self.strategy.shown(voters, self.tally, index, self._generator(index))
        latest = max((sample.draw.round for sample in self.samples), default=-1)
        draw = Draw(index=index, round=latest + 1)
        if not shown:
            return draw
        by_index = {sample.draw.index: sample for sample in voters}
        text = build_chain(
            [by_index[i] for i in shown],
            max_tokens=self.strategy.max_tokens,
            predictors=self.strategy.predictors,
        )
        return replace(draw, shown=shown, chain=text)

    def tell(self, sample: Sample) -> None:
        """A drawn sample is finished."""
        self.samples.append(sample)
        self.tally = self.tally.add(sample.key)  # independent and conditioned votes count one each

    def winner(self) -> Sample:
        """The sample whose prediction is the call's answer.

        The answer with most votes wins; ties go to the one with more independent votes, then to the one sampled
        first. Among its samples the first independent one speaks. A call without votes falls back on its first
        finished sample, and if every sample failed, on the first one, whose error is the call's.
        """
        samples = sorted(self.samples, key=lambda sample: sample.draw.index)
        votes = self.tally.votes
        independent = Tally.of(s.key for s in samples if not s.draw.conditioned).votes
        voters = [sample for sample in samples if sample.key is not None]
        if voters:
            best = max(voters, key=lambda s: (votes[s.key], independent.get(s.key, 0), -s.draw.index)).key
            return min((s for s in voters if s.key == best), key=lambda s: (s.draw.conditioned, s.draw.index))
        return next((sample for sample in samples if sample.error is None), samples[0])

    @property
    def cost(self) -> Cost:
        """What the finished samples cost together."""
        return sum((sample.cost for sample in self.samples), Cost())

    def _generator(self, index: int) -> np.random.Generator:
        return np.random.default_rng([index, *self._entropy])


@dataclass(frozen=True)
class Round:
    """A step: run these jobs side by side and send back their samples, in the same order."""

    jobs: list[Job]


@dataclass(frozen=True)
class Wait:
    """A step: wait, within bounds, for another call's outcome; send back whether it is there."""

    future: Future[Sample]


@dataclass(frozen=True)
class Notice:
    """A step: tell whoever watches how the call stands; nothing is sent back.

    Args:
        send: Sends the message from a thread.
        asend: Sends it from a task.
    """

    send: Callable[[], None]
    asend: Callable[[], Awaitable[None]]


Step = Round | Wait | Notice


class _Abandoned(Exception):
    """The call that others waited for was interrupted; one of them must take over."""


def conduct(
    pool: BudgetPool,
    plan: Plan,
    *,
    key: Hashable | None,
    outer: Ticket | None = None,
    program: object | None = None,
    calls: int = 1,
    decided: Callable[[Sample], object] = lambda winner: None,
) -> Generator[Step, Any, tuple[Sample, bool]]:
    """One call, from its first samples to its winner.

    Args:
        pool: Pays.
        plan: The call's plan; its samples are there when this ends.
        key: Names the call, inputs and all: while it runs, the same call made again waits for this one's winner.
            None for a call on its own.
        outer: The ticket of the sample this call is made in, if any.
        program: Whose samples these are.
        calls: A guess of the language-model calls a sample makes.
        decided: Told the winner before any call that waits for it.

    Returns:
        The winning sample, and whether this call drew it itself (False if it came from the same call in flight). If
        every sample failed it is a failed one: its error is not raised here, since a generator cannot raise all of
        them unchanged.

    Raises:
        BudgetExhausted: If there is no budget for a first sample and the pool is to raise.
    """
    future: Future[Sample] | None = None
    while key is not None:
        future, mine = pool.flight(key)
        if mine:
            break
        if not (yield Wait(future)):
            key = future = None  # it cannot be waited for here, so this call goes alone
        elif isinstance(future.exception(), _Abandoned):
            continue
        else:
            return future.result(), False
    try:
        arm = pool.open(plan.room, outer=outer, program=program, calls=calls)
        winner = yield from _play(pool, plan, arm)
        decided(winner)
    except BaseException as error:
        if future is not None:
            pool.land(key)
            future.set_exception(error if isinstance(error, Exception) else _Abandoned())
        raise
    if future is not None:
        pool.land(key)
        future.set_result(winner)
    return winner, True


def _play(pool: BudgetPool, plan: Plan, arm: Arm | None) -> Generator[Step, Any, Sample]:
    if arm is None:
        if pool.on_empty == "raise":
            raise BudgetExhausted(f"nothing is left for a first sample: {pool!r}")
        pool.count_unscaled_run()
        for sample in (yield Round([Job(plan.draw(), None)])):
            plan.tell(sample)
        return plan.winner()
    try:
        while arm.waiting:
            jobs = []
            while arm.waiting and plan.room > 0:
                jobs.append(Job(plan.draw(), arm.take()))
            if not jobs:
                break
            for sample in (yield Round(jobs)):
                plan.tell(sample)
            if plan.room > 0 and not arm.waiting:
                arm.request(plan.tally, plan.room)
        return plan.winner()
    finally:
        arm.close()


def coordinate(
    plans: Sequence[Plan], arms: Sequence[Arm], policy: Policy, *, limit: float, window: int, calls: float = math.inf
) -> Generator[list[Job], Sample, None]:
    """A known set of calls: every call's first samples, then always the largest index, until the budget ends.

    Decisions are made anew on each completion, but in the order of issue, whatever order requests return in: the
    allocation depends on answers, never on timing. To keep requests going while the oldest is awaited, up to ``window``
    are outstanding; the window narrows to half of the samples left, so that the last of them, which have no later
    decision to correct them, are placed with care.

    Yields new jobs, and is sent the sample of the *oldest* outstanding one each time.

    Args:
        plans: One a call.
        arms: One a call, first samples reserved.
        policy: Gives the indices.
        limit: Samples the set may draw in all; may be infinite.
        window: Most samples outstanding.
        calls: Language-model calls the set may make in all; may be infinite.
    """
    first = deque(call for round_ in range(max(arm.waiting for arm in arms)) for call in range(len(arms)))
    ranking = _Ranking(plans, policy)
    outstanding: deque[Job] = deque()
    issued = 0
    # What a sample takes is learned from samples handed back, not from those that happen to have finished.
    each, measured = arms[0].calls_each, arms[0].measured or calls == math.inf
    while True:
        jobs = []
        while True:
            affordable = calls if calls == math.inf else calls // each - len(outstanding)
            if issued >= limit or len(outstanding) >= _narrowed(window, min(limit - issued, affordable)):
                break
            call = _next_first(first, plans, arms)
            if call is None:
                call = ranking.best(issued) if measured and affordable >= 1 else None
                if call is None or not (arms[call].waiting or arms[call].pull(each)):
                    break
            job = Job(plans[call].draw(), arms[call].take(), call)
            jobs.append(job)
            outstanding.append(job)
            issued += 1
            ranking.changed(call)
        if not outstanding:
            return
        sample = yield jobs
        job = outstanding.popleft()
        calls -= sample.cost.calls
        if not isinstance(sample.error, BudgetExhausted):  # one that was cut off does not say what it needed
            each = max(sample.cost.calls, each if measured else 1)
            measured = True
        plans[job.call].tell(sample)
        ranking.changed(job.call)


def _narrowed(window: int, left: float) -> int:
    return max(1, min(window, math.floor(min(left, 2 * window) / 2)))


def _next_first(first: deque[int], plans: Sequence[Plan], arms: Sequence[Arm]) -> int | None:
    """The next call whose guaranteed samples are not all drawn, skipping those with no room just now."""
    for _ in range(len(first)):
        call = first.popleft()
        if arms[call].waiting and plans[call].room > 0:
            return call
        if arms[call].waiting and plans[call].pending:
            first.append(call)
    return None


class _Ranking:
    """Calls by index. A heap with lazy deletion, rebuilt each time for policies whose indices all move at once."""

    def __init__(self, plans: Sequence[Plan], policy: Policy) -> None:
        self._plans = plans
        self._policy = policy
        self._version = [0] * len(plans)
        self._heap: list[tuple[float, int, int, int]] = []
        self._total = 0

    def changed(self, call: int) -> None:
        """A call's tally or its samples in flight have changed."""
        self._version[call] += 1
        if self._policy.depends_on_total:
            return
        plan = self._plans[call]
        if plan.room > 0:
            heapq.heappush(self._heap, self._entry(call))

    def best(self, total: int) -> int | None:
        """The call whose next sample is worth most, or None if none is worth anything."""
        self._total = total
        if self._policy.depends_on_total:
            self._heap = [self._entry(call) for call, plan in enumerate(self._plans) if plan.room > 0]
            heapq.heapify(self._heap)
        while self._heap:
            negative_index, _, call, version = self._heap[0]
            if version == self._version[call]:
                return call if negative_index < 0 else None
            heapq.heappop(self._heap)
        return None

    def _entry(self, call: int) -> tuple[float, int, int, int]:
        plan = self._plans[call]
        index = self._policy.index(plan.tally, pending=plan.pending, total=self._total)
        # Equal worth: the call with fewer samples, then the earlier one.
        return (-index, len(plan.samples) + plan.pending, call, self._version[call])

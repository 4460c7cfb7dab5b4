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

from dynscale_dspy.allocation.costs import Cost, CostRecord, relative_cost
from dynscale_dspy.allocation.gains import CONDITIONED, DOUBT, INDEPENDENT, Dissent, GainEstimator
from dynscale_dspy.allocation.policies import Policy
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.budget.pool import Arm, BudgetPool, Ticket
from dynscale_dspy.errors import BudgetExhausted
from dynscale_dspy.execution.metering import is_permanent
from dynscale_dspy.execution.shared_request import Fold, Seat
from dynscale_dspy.sampling.chain import build_chain
from dynscale_dspy.sampling.sample import SPARED, Draw, Sample
from dynscale_dspy.sampling.strategies import Strategy


@dataclass(frozen=True)
class Job:
    """One sample for a driver to run.

    Args:
        draw: What to draw.
        ticket: What pays for it; None for a run outside the budget.
        call: Position of its call in a known set, 0 for a single call.
        fold: The samples it shares a request with, if any. They follow each other in whatever the job is part of.
        position: Its place among them.
    """

    draw: Draw
    ticket: Ticket | None
    call: int = 0
    fold: Fold | None = None
    position: int = 0

    @property
    def seat(self) -> Seat | None:
        """Its place in the request it shares."""
        return Seat(self.fold, self.position) if self.fold is not None else None


class Plan:
    """The samples of one call: those finished, those in flight, and what the next ones look like. Ask and tell.

    Args:
        strategy: What samples look like.
        seed: The pool's seed.
        key: A stable name of the call; with the seed and a sample's index it fixes every random choice.
        max_samples: Most samples this call may draw.
        tally: An empty tally of the kind the policy reads; a plain one by default.
        max_choices: Most samples that may share a request.
        stop_when_decided: Whether samples in flight are called off once they cannot change the winner.
        leader: Whether the first sample is drawn alone, and further ones once it is finished.
        conditioning: What is known of the program's two kinds of samples; nothing by default.
        unit: Tells what runs out first, ``"tokens"`` or ``"nanodollars"``; None if that is samples or calls.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        seed: int,
        key: Hashable,
        max_samples: int,
        tally: Tally | None = None,
        max_choices: int = 1,
        stop_when_decided: bool = False,
        leader: bool = False,
        conditioning: GainEstimator | None = None,
        unit: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.decided = False
        self._unit = unit
        self._leader = leader
        self._stop_when_decided = stop_when_decided
        self.strategy = strategy
        self.max_samples = max_samples
        self.max_choices = max_choices
        self.samples: list[Sample] = []
        self.tally = tally or Tally()
        self._entropy = hashlib.blake2b(f"{seed}/{key!r}".encode(), digest_size=16).digest()
        self._drawn = 0
        self._conditioning = (conditioning or GainEstimator()) if strategy.learned else None
        if self._conditioning is not None:
            self._dissent = Dissent(self._conditioning)
            independent, conditioned = DOUBT * self._generator(max_samples).normal(size=2)
            self._beliefs = float(conditioned), float(independent)

    @property
    def pending(self) -> int:
        """Samples drawn and not yet told."""
        return self._drawn - len(self.samples)

    @property
    def drawn(self) -> int:
        """Samples drawn so far."""
        return self._drawn

    @property
    def room(self) -> int:
        """How many more may be drawn now."""
        if self.decided:
            return 0
        if self._leader and not self.samples:
            return 1 - self._drawn
        return min(self.max_samples - self._drawn, self.strategy.room(self.pending))

    def draw(self) -> Draw:
        """The next sample to draw."""
        index = self._drawn
        self._drawn += 1
        voters = sorted((s for s in self.samples if s.key is not None), key=lambda s: s.draw.index)
        shown = self.strategy.shown(voters, self.tally, index, self._generator(index)) if voters else ()
        known = self._conditioning
        if (
            shown
            and known is not None
            and not known.prefers(CONDITIONED, INDEPENDENT, self.tally, self._unit(), self._beliefs)
        ):
            shown = ()
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
        return replace(draw, shown=shown, chain=text, prefill=self.strategy.rendering == "prefill")

    def folded(self, jobs: Sequence[Job]) -> list[Job]:
        """The same jobs; those without a chain share requests, as many of them as may."""
        alone = [job for job in jobs if job.draw.conditioned or job.ticket is None]
        able = [job for job in jobs if not job.draw.conditioned and job.ticket is not None]
        if self.max_choices == 1 or len(able) == 1:
            return list(jobs)
        together = []
        for start in range(0, len(able), self.max_choices):
            chunk = able[start : start + self.max_choices]
            fold = Fold([job.ticket for job in chunk if job.ticket is not None])
            together += [replace(job, fold=fold, position=position) for position, job in enumerate(chunk)]
        return together + alone

    def round(self, jobs: Sequence[Job]) -> Round:
        """These jobs as a step."""
        return Round(self.folded(jobs), self._decides if self._stop_when_decided and len(jobs) > 1 else None)

    def _decides(self, finished: Sequence[Sample]) -> bool:
        """Whether the winner stays the same whatever the samples say that are in flight."""
        tally = self.tally
        for sample in finished:
            tally = tally.add(sample.key)
        self.decided = self.decided or tally.leader - tally.runner_up > self.pending - len(finished)
        return self.decided

    def tell(self, sample: Sample) -> None:
        """A drawn sample is finished."""
        if self._conditioning is not None:
            sampler = CONDITIONED if sample.draw.conditioned else INDEPENDENT
            self._conditioning.cost(sample.cost, sampler=sampler)
            if sample.key is not None:
                leader = self._leading.key if self.tally.valid else None
                self._dissent.tell(sample.key, self.tally, leader, sampler=sampler)
        self.samples.append(sample)
        if sample.problem != SPARED:
            self.tally = self.tally.add(sample.key)  # independent and conditioned votes count one each

    @property
    def only_cut_off(self) -> bool:
        """Whether every sample so far ended because its next request could not be paid."""
        return all(type(sample.error) is BudgetExhausted for sample in self.samples)

    def winner(self) -> Sample:
        """The sample whose prediction is the call's answer.

        The answer with most votes wins; ties go to the one with more independent votes, then to the one sampled
        first. Where it is learned which kind of sample gains more at a tie, ties go to the one with more votes of that
        kind. Among its samples the first independent one speaks. A call without votes falls back on its first finished
        sample, and if every sample failed, on the first one, whose error is the call's.
        """
        samples = sorted(self.samples, key=lambda sample: sample.draw.index)
        voters = [sample for sample in samples if sample.key is not None]
        if voters:
            best = self._leading.key
            return min((s for s in voters if s.key == best), key=lambda s: (s.draw.conditioned, s.draw.index))
        return next((sample for sample in samples if sample.error is None), samples[0])

    @property
    def _leading(self) -> Sample:
        """A sample of the leading answer; at least one has voted."""
        votes, known = self.tally.votes, self._conditioning
        kind = known is not None and known.gain(_TIE, sampler=CONDITIONED) > known.gain(_TIE, sampler=INDEPENDENT)
        voters = [sample for sample in self.samples if sample.key is not None]
        counted = Tally.of(s.key for s in voters if s.draw.conditioned is kind).votes
        return max(voters, key=lambda s: (votes[s.key], counted.get(s.key, 0), -s.draw.index))

    @property
    def cost(self) -> Cost:
        """What the finished samples cost together."""
        return sum((sample.cost for sample in self.samples), Cost())

    def _generator(self, index: int) -> np.random.Generator:
        return np.random.default_rng([index, *self._entropy])


_TIE = Tally.of("AB")


class Round:
    """A step: run these jobs side by side and send back their samples, in the same order.

    Args:
        jobs: The jobs.
        enough: Given the samples finished so far, says whether the others are not needed. A driver that can then calls
            them off: tasks are cancelled, what has not begun in a thread does not begin.
    """

    def __init__(self, jobs: list[Job], enough: Callable[[Sequence[Sample]], bool] | None = None) -> None:
        self.jobs = jobs
        self.over = False
        self._enough = enough
        self._finished: list[Sample] = []

    @property
    def may_end_early(self) -> bool:
        """Whether some of the jobs may prove needless before they are finished."""
        return self._enough is not None

    def tell(self, samples: Sequence[Sample]) -> None:
        """Some of the jobs are finished."""
        if self._enough is not None:
            self._finished.extend(samples)
            self.over = self.over or self._enough(self._finished)


@dataclass(frozen=True)
class Wait:
    """A step: wait, within bounds, for another call's outcome or a change in the pool.

    Sent back is whether it is there; None if this is no place to wait.
    """

    future: Future[Any]


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
    requests: int = 1,
    name: bytes | None = None,
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
        requests: A guess of the language-model requests a sample makes.
        name: A name of the call that outlives the process, for a pool kept in a file.
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
        arm = pool.open_or_wait(plan.room, outer=outer, program=program, requests=requests, key=name)
        while isinstance(arm, Future):
            again = yield Wait(arm)
            arm = pool.open_or_wait(plan.room, outer=outer, program=program, requests=requests, key=name)
            if isinstance(arm, Future) and (again is None or (not again and pool.gate() is None)):
                arm = None  # it cannot be waited for, or nothing came of it
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


CUTS = 3
"""Times a call tries again whose samples were all cut off because those in flight held the rest of the budget."""


def _play(pool: BudgetPool, plan: Plan, arm: Arm | None) -> Generator[Step, Any, Sample]:
    if arm is None:
        if pool.on_empty == "raise":
            raise pool.exhausted()
        pool.count_unscaled_run()
        for sample in (yield Round([Job(plan.draw(), None)])):
            plan.tell(sample)
        return plan.winner()
    cuts, outermost = 0, arm.outer is None and pool.metered
    try:
        while arm.waiting:
            jobs = []
            while arm.waiting and plan.room > 0:
                jobs.append(Job(plan.draw(), arm.take()))
            if not jobs:
                break
            for sample in (yield plan.round(jobs)):
                plan.tell(sample)
            if any(is_permanent(sample.error) for sample in plan.samples):
                break  # the next one would fail alike
            while (gate := pool.gate()) is not None and (yield Wait(gate)) is not None:
                pass
            if plan.room > 0 and not arm.waiting:
                arm.request(plan.tally, plan.room)
            if not arm.waiting and plan.room > 0 and outermost and plan.only_cut_off and cuts < CUTS:
                # The samples in flight hold more, at their upper bounds, than they will turn out to cost.
                cuts += 1
                if not arm.pull() and not ((yield Wait(pool.change())) and arm.pull()):
                    break
        return plan.winner()
    finally:
        arm.close()


def coordinate(
    plans: Sequence[Plan],
    arms: Sequence[Arm],
    policy: Policy,
    *,
    limit: float,
    window: int,
    requests: float = math.inf,
    narrowing: bool = True,
) -> Generator[list[Job] | Wait, Any, None]:
    """A known set of calls: every call's first samples, then always the largest index, until the budget ends.

    Decisions are made anew on each completion, but in the order of issue, whatever order requests return in: the
    allocation depends on answers, never on timing. To keep requests going while the oldest is awaited, up to ``window``
    are outstanding; the window narrows to half of the samples left, so that the last of them, which have no later
    decision to correct them, are placed with care.

    Yields new jobs, and is sent the samples of the *oldest* outstanding request each time, with their jobs; or
    something to wait for, when nothing is outstanding and the pool is paused or its tokens or dollars are held
    elsewhere. Where it is sent those of whichever request ends first, and the window does not narrow, the wire stays
    full to the end, and the allocation depends on timing.

    Args:
        plans: One a call.
        arms: One a call, first samples reserved.
        policy: Gives the indices.
        limit: Samples the set may draw in all; may be infinite.
        window: Most requests outstanding, counting samples that share one as one.
        requests: Language-model requests the set may make in all; may be infinite.
        narrowing: Whether the window narrows towards the end.
    """
    first = deque(call for round_ in range(max(arm.waiting for arm in arms)) for call in range(len(arms)))
    guaranteed = sum(arm.waiting for arm in arms)
    pool = arms[0].pool
    costs = _Costs(arms, policy)
    ranking = _Ranking(plans, policy, costs)
    issued = outstanding = under_way = 0
    # What a sample takes is learned from samples handed back, not from those that happen to have finished.
    metered = pool.metered
    each, measured = arms[0].requests_each, arms[0].measured or (requests == math.inf and not metered)
    hopeless: set[int] = set()

    def favoured(call: int, total: int) -> bool:
        """Whether a further sample of the call that has just been chosen is to share the request."""
        if policy.adaptive:
            return total >= guaranteed and ranking.favours(call, total)
        return plans[call].drawn < limit // len(plans)

    while True:
        jobs = []
        held = False
        gate = pool.gate()
        if gate is not None and not outstanding:
            if (yield Wait(gate)) is None:
                return
            continue
        while gate is None and not pool.halted:
            if metered and not measured and outstanding:
                break  # what one takes in tokens and dollars is known when the first has finished
            affordable = requests if requests == math.inf else requests // each - outstanding
            narrowed = _narrowed(window, min(limit - issued, affordable)) if narrowing else window
            if issued >= limit or under_way >= narrowed:
                break
            call = _next_first(first, plans, arms, hopeless)
            if call is not None:
                if not arms[call].fund():
                    first.appendleft(call)
                    held = True
                    break
            else:
                call = ranking.best(issued) if measured and affordable >= 1 else None
                if call is None or not (arms[call].waiting or arms[call].pull(each)):
                    break
            chunk = [Job(plans[call].draw(), arms[call].take(), call)]
            ranking.changed(call)
            most = min(plans[call].max_choices, limit - issued, affordable)
            while len(chunk) < most and not chunk[-1].draw.conditioned and plans[call].room > 0:
                if not arms[call].waiting and not (
                    measured and favoured(call, issued + len(chunk)) and arms[call].pull(each)
                ):
                    break
                if metered and not arms[call].fund():
                    break
                chunk.append(Job(plans[call].draw(), arms[call].take(), call))
                ranking.changed(call)
            chunk = plans[call].folded(chunk)
            jobs.extend(chunk)
            outstanding += len(chunk)
            issued += len(chunk)
            under_way += len({id(job.fold or job) for job in chunk})
        if not outstanding:
            if held and pool.holds_elsewhere and (yield Wait(pool.change())):
                continue
            return
        finished = yield jobs
        under_way -= 1
        for job, sample in finished:
            outstanding -= 1
            requests -= sample.cost.requests
            costs.tell(job.call, sample.cost)
            if is_permanent(sample.error):
                hopeless.add(job.call)
                ranking.drop(job.call)
            if not isinstance(sample.error, BudgetExhausted):  # one that was cut off does not say what it needed
                each = max(sample.cost.requests, each if measured else 1)
                measured = True
            plans[job.call].tell(sample)
            ranking.changed(job.call)


def _narrowed(window: int, left: float) -> int:
    return max(1, min(window, math.floor(min(left, 2 * window) / 2)))


def _next_first(first: deque[int], plans: Sequence[Plan], arms: Sequence[Arm], hopeless: set[int]) -> int | None:
    """The next call whose guaranteed samples are not all drawn, skipping those with no room just now."""
    for _ in range(len(first)):
        call = first.popleft()
        if call in hopeless:
            continue
        if arms[call].waiting and plans[call].room > 0:
            return call
        if arms[call].waiting and plans[call].pending:
            first.append(call)
    return None


class _Costs:
    """What each call's next sample is expected to cost, relative to the average, where tokens or dollars run out first.

    Learned from samples in the order they are handed back, so that decisions do not depend on timing.
    """

    def __init__(self, arms: Sequence[Arm], policy: Policy) -> None:
        self._arms = arms
        self._weighs = policy.is_gain and arms[0].pool.metered
        self._records = [CostRecord() for _ in arms] if self._weighs else []
        self._all = CostRecord()

    def tell(self, call: int, cost: Cost) -> None:
        """A sample of a call was handed back."""
        if self._weighs and cost.samples:
            self._records[call].add(cost)
            self._all.add(cost)

    @property
    def further(self) -> float:
        """What a further choice of a request costs, over what a request of its own would."""
        if not self._weighs or self._arms[0].pool.binding_unit is None:
            return 1.0
        return self._all.completion_share

    def relative(self, call: int) -> float:
        """What the call's index is to be divided by."""
        unit = self._arms[call].pool.binding_unit if self._weighs else None
        if unit is None:
            return 1.0
        return relative_cost(self._records[call].expected(unit, self._all), self._all.mean(unit))


class _Ranking:
    """Calls by index. A heap with lazy deletion, rebuilt each time for policies whose indices all move at once."""

    def __init__(self, plans: Sequence[Plan], policy: Policy, costs: _Costs) -> None:
        self._plans = plans
        self._policy = policy
        self._costs = costs
        self._dropped: set[int] = set()
        self._version = [0] * len(plans)
        self._heap: list[tuple[float, int, int, int]] = []
        self._total = 0

    def changed(self, call: int) -> None:
        """A call's tally or its samples in flight have changed."""
        self._version[call] += 1
        if self._policy.depends_on_total or call in self._dropped:
            return
        plan = self._plans[call]
        if plan.room > 0:
            heapq.heappush(self._heap, self._entry(call))

    def drop(self, call: int) -> None:
        """A call is not to be sampled again."""
        self._dropped.add(call)
        self._version[call] += 1

    def best(self, total: int) -> int | None:
        """The call whose next sample is worth most, or None if none is worth anything."""
        self._total = total
        if self._policy.depends_on_total:
            open_calls = (call for call, plan in enumerate(self._plans) if plan.room > 0 and call not in self._dropped)
            self._heap = [self._entry(call) for call in open_calls]
            heapq.heapify(self._heap)
        while self._heap:
            negative_index, _, call, version = self._heap[0]
            if version == self._version[call]:
                return call if negative_index < 0 else None
            heapq.heappop(self._heap)
        return None

    def favours(self, call: int, total: int) -> bool:
        """Whether one more choice of a request for this call is worth most, at what it costs beside the prompt."""
        best = self.best(total)
        if best is None or best == call:
            return best == call
        worth, most = -self._entry(call)[0], -self._entry(best)[0]
        return worth > 0 and worth >= most * self._costs.further

    def _entry(self, call: int) -> tuple[float, int, int, int]:
        plan = self._plans[call]
        index = self._policy.index(plan.tally, pending=plan.pending, total=self._total) / self._costs.relative(call)
        # Equal worth: the call with fewer samples, then the earlier one.
        return (-index, len(plan.samples) + plan.pending, call, self._version[call])

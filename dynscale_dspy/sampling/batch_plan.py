"""The plan of a known set of calls, as a pure generator: the bandit compares all of them for every sample."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from dynscale_dspy.allocation.costs import Cost, CostRecord, relative_cost
from dynscale_dspy.allocation.policies import Policy
from dynscale_dspy.errors import BudgetExhausted
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.steps import Job, Wait, grouped

if TYPE_CHECKING:
    from dynscale_dspy.budget.leases import Arm


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
            chunk = plans[call].sharing(chunk)
            jobs.extend(chunk)
            outstanding += len(chunk)
            issued += len(chunk)
            under_way += len(grouped(chunk))
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
            if sample.permanent:
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
    """The expected cost of each call's next sample, relative to the average, where tokens or dollars run out first.

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
        """Cost of one more choice of a request, relative to a separate request."""
        if not self._weighs or self._arms[0].pool.binding_unit is None:
            return 1.0
        return self._all.completion_share

    def relative(self, call: int) -> float:
        """Expected cost of the call's next sample, relative to the average; its index is divided by this."""
        unit = self._arms[call].pool.binding_unit if self._weighs else None
        if unit is None:
            return 1.0
        return relative_cost(self._records[call].expected(unit, self._all), self._all.mean(unit))


class _Ranking:
    """The calls, ordered by index. A heap with lazy deletion, rebuilt each time for policies whose indices all move."""

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

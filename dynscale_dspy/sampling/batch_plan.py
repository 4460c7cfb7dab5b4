"""The plan of a known set of calls, as a pure generator: the bandit compares all of them for every sample."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from dynscale_dspy.allocation.costs import FREE, Cost, CostRecord, relative_cost
from dynscale_dspy.allocation.policies import Policy
from dynscale_dspy.allocation.repeats import Repeats
from dynscale_dspy.errors import BudgetExhausted
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.steps import Change, Fits, Job, Look, ReserveFor, Standing, Wait, grouped


@dataclass(frozen=True)
class KnownSet:
    """What a pool tells of a known set of calls that it has opened.

    Args:
        guaranteed: For each call, the samples that are reserved for it whatever its index.
        limit: Samples the set may draw in all; may be infinite.
        requests: Language-model requests it may make in all; may be infinite.
        each: Requests to set aside for a sample, as far as known.
        measured: Whether that is known from samples of the same program.
        metered: Whether tokens or dollars are capped.
    """

    guaranteed: tuple[int, ...]
    limit: float = math.inf
    requests: float = math.inf
    each: int = 1
    measured: bool = False
    metered: bool = False


def coordinate(
    plans: Sequence[Plan],
    known: KnownSet,
    policy: Policy,
    *,
    window: int,
    narrowing: bool = True,
) -> Generator[list[Job] | Wait | Look | ReserveFor | Fits | Change, Any, None]:
    """A known set of calls: every call's first samples, then always the largest index, until the budget ends.

    Decisions are made anew on each completion, but in the order of issue, whatever order requests return in: the
    allocation depends on answers, never on timing. To keep requests going while the oldest is awaited, up to ``window``
    are outstanding; the window narrows to half of the samples left, so that the last of them, which have no later
    decision to correct them, are placed with care.

    Yields new jobs, and is sent the samples of the *oldest* outstanding request each time, with their jobs; questions
    to the pool; or something to wait for, when nothing is outstanding and the pool is paused or its tokens or dollars
    are held elsewhere. Where it is sent the samples of whichever request ends first, and the window does not narrow,
    the wire stays full to the end, and the allocation depends on timing.

    Args:
        plans: One a call.
        known: What the pool tells of the set.
        policy: Gives the indices.
        window: Most requests outstanding, counting samples that share one as one.
        narrowing: Whether the window narrows towards the end.
    """
    waiting = list(known.guaranteed)
    first = deque(call for round_ in range(max(waiting)) for call in range(len(plans)))
    guaranteed = sum(waiting)
    limit, requests, metered = known.limit, known.requests, known.metered
    costs = _Costs(weighs=policy.is_gain and metered)
    repeats = Repeats()  # of this set alone: what else the pool has seen depends on what it was asked before
    ranking = _Ranking(plans, policy, costs, repeats)
    issued = outstanding = under_way = 0
    # What a sample takes is learned from samples handed back, not from those that happen to have finished.
    each, measured = known.each, known.measured or (requests == math.inf and not metered)
    hopeless: set[int] = set()

    def favoured(call: int, total: int) -> bool:
        """Whether a further sample of the call that has just been chosen is to share the request."""
        if policy.adaptive:
            return total >= guaranteed and ranking.favours(call, total)
        return plans[call].drawn < limit // len(plans)

    def drop(call: int) -> None:
        """Draw no more samples of a call."""
        hopeless.add(call)
        ranking.drop(call)

    def is_beyond(call: int) -> Generator[Fits, Any, bool]:
        """Whether a refused sample of one of several language models costs more than all that is left.

        No other sample's end makes room for it, and without this the call would wait for all of them.
        """
        samplers = plans[call].propose() if plans[call].worths else ()
        return bool(samplers) and not (yield Fits(call, samplers[0].name))

    def obtain(call: int) -> Generator[ReserveFor, Any, Job | None]:
        """The job of one more sample of a call; None if it does not fit now."""
        samplers = plans[call].propose()
        if not samplers:
            return None
        lease = yield ReserveFor(call, samplers[0].name, each)
        if lease is None:
            return None
        waiting[call] = max(waiting[call] - 1, 0)
        (job,) = plans[call].jobs(samplers, [lease], call=call)
        ranking.changed(call)
        return job

    while True:
        jobs: list[Job] = []
        held = False
        standing: Standing = yield Look()
        costs.unit = standing.unit
        for plan in plans if costs.unit is not None else ():
            plan.unit = costs.unit
        if standing.wait is not None and not outstanding:
            if (yield Wait(standing.wait)) is None:
                return
            continue
        while standing.wait is None and not standing.halted:
            if metered and not measured and outstanding:
                break  # what one takes in tokens and dollars is known when the first has finished
            affordable = requests if requests == math.inf else requests // each - outstanding
            narrowed = _narrowed(window, min(limit - issued, affordable)) if narrowing else window
            if issued >= limit or under_way >= narrowed:
                break
            is_first = True
            call = _next_first(first, plans, waiting, hopeless)
            if call is None:
                is_first = False
                call = ranking.best(issued) if measured and affordable >= 1 else None
                if call is None:
                    break
            job = yield from obtain(call)
            if job is None and plans[call].room == 0:
                ranking.changed(call)  # its strategy wants no sample now
                if is_first and plans[call].pending:
                    first.append(call)
                continue
            if job is None:
                if is_first:
                    first.appendleft(call)
                # With nothing under way nothing comes back: it is beyond what is left, too.
                alone = not (outstanding or standing.holds_elsewhere)
                beyond = (yield from is_beyond(call)) or (alone and bool(plans[call].worths))
                if (beyond or alone) and plans[call].do_without():
                    ranking.changed(call)  # it goes on with another language model
                    continue
                if beyond:
                    drop(call)  # it has none that both answers and can be paid
                    continue
                held = is_first
                break
            chunk = [job]
            most = min(plans[call].max_choices, limit - issued, affordable)
            while len(chunk) < most and plans[call].may_share(chunk[-1]) and plans[call].room > 0:
                if not waiting[call] and not (measured and favoured(call, issued + len(chunk))):
                    break
                job = yield from obtain(call)
                if job is None:
                    break
                chunk.append(job)
            chunk = plans[call].sharing(chunk)
            jobs.extend(chunk)
            outstanding += len(chunk)
            issued += len(chunk)
            under_way += len(grouped(chunk))
        if not outstanding:
            if held and standing.holds_elsewhere and (yield Wait((yield Change()))):
                continue
            return
        finished = yield jobs
        under_way -= 1
        for job, sample in finished:
            outstanding -= 1
            requests -= sample.cost.requests
            costs.tell(job.call, sample.draw.sampler.model, sample.cost)
            if not isinstance(sample.error, BudgetExhausted):  # one that was cut off does not say what it needed
                each = max(sample.cost.requests, each if measured else 1)
                measured = True
            plan = plans[job.call]
            before = plan.selection.evidence()
            plan.tell(sample)
            if plan.is_hopeless:
                drop(job.call)
            repeats.tell(before, plan.selection.evidence())
            ranking.changed(job.call)


def _narrowed(window: int, left: float) -> int:
    return max(1, min(window, math.floor(min(left, 2 * window) / 2)))


def _next_first(first: deque[int], plans: Sequence[Plan], waiting: Sequence[int], hopeless: set[int]) -> int | None:
    """The next call whose guaranteed samples are not all drawn, skipping those with no room just now."""
    for _ in range(len(first)):
        call = first.popleft()
        if call in hopeless:
            continue
        if waiting[call] and plans[call].room > 0:
            return call
        if waiting[call] and plans[call].pending:
            first.append(call)
    return None


class _Costs:
    """The expected cost of each call's next sample, where tokens or dollars run out first.

    By the language model that is going to be asked, since one may cost many times what another does, and relative to
    the average of the first that was and cost something: that of all moves as dear samples come in. Learned from
    samples in the order they are handed back, so that decisions do not depend on timing.

    Args:
        weighs: Whether costs count at all.

    Attributes:
        unit: What runs out first, as the pool has last said; None for samples or requests.
    """

    def __init__(self, *, weighs: bool) -> None:
        self.unit: str | None = None
        self._weighs = weighs
        self._records: dict[tuple[int, str], CostRecord] = {}
        self._of_model: dict[str, CostRecord] = {}
        self._all = CostRecord()

    def tell(self, call: int, model: str, cost: Cost) -> None:
        """A sample of a call was handed back."""
        if self._weighs and cost.samples:
            self._records.setdefault((call, model), CostRecord()).add(cost)
            self._of_model.setdefault(model, CostRecord()).add(cost)
            self._all.add(cost)

    @property
    def level(self) -> tuple[int, ...]:
        """Changes when much more is known of what one language model costs beside others."""
        records = self._of_model.values()
        return tuple(record.samples.bit_length() for record in records) if len(records) > 1 else ()

    @property
    def further(self) -> float:
        """Cost of one more choice of a request, relative to a separate request."""
        return self._all.completion_share if self._weighs and self.unit is not None else 1.0

    def relative(self, call: int, model: str, *, is_free: bool = False) -> float:
        """Expected cost of the call's next sample, relative to the first model's; its index is divided by this.

        Args:
            call: The call.
            model: The name of the language model that is going to be asked; empty for the program's own.
            is_free: Whether that is known to cost no money.
        """
        if not self._weighs or self.unit is None:
            return 1.0
        if is_free and self.unit == "nanodollars":
            return FREE
        usual = self._of_model.get(model)
        record = self._records.get((call, model)) or CostRecord()
        expected = record.expected(self.unit, usual if usual is not None and usual.mean(self.unit) else self._all)
        first = next((each for each in self._of_model.values() if each.mean(self.unit)), self._all)
        return relative_cost(expected, first.mean(self.unit))


class _Ranking:
    """The calls, ordered by index. A heap with lazy deletion, rebuilt each time for policies whose indices all move."""

    def __init__(self, plans: Sequence[Plan], policy: Policy, costs: _Costs, repeats: Repeats) -> None:
        self._plans = plans
        self._policy = policy
        self._costs = costs
        self._repeats = repeats
        self._level = self._outlook
        self._has_models = bool(plans[0].worths)
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
        level = self._outlook
        if self._policy.depends_on_total or level != self._level:
            self._level = level
            open_calls = (call for call, plan in enumerate(self._plans) if plan.room > 0 and call not in self._dropped)
            self._heap = [self._entry(call) for call in open_calls]
            heapq.heapify(self._heap)
        while self._heap:
            negative_index, _, call, version = self._heap[0]
            if version == self._version[call]:
                return call if negative_index < 0 else None
            heapq.heappop(self._heap)
        return None

    @property
    def _outlook(self) -> tuple[object, ...]:
        """What has a say in the indices of all calls."""
        return self._repeats.level, self._costs.level, self._plans[0].worths

    def favours(self, call: int, total: int) -> bool:
        """Whether one more choice of a request for this call is worth most, at what it costs beside the prompt."""
        best = self.best(total)
        if best is None or best == call:
            return best == call
        worth, most = -self._entry(call)[0], -self._entry(best)[0]
        return worth > 0 and worth >= most * self._costs.further

    def _entry(self, call: int) -> tuple[float, int, int, int]:
        plan = self._plans[call]
        model = plan.next_model if self._has_models else ""
        evidence = plan.selection.evidence()
        index = self._policy.index(evidence, pending=plan.pending, total=self._total)
        index /= self._costs.relative(call, model, is_free=plan.is_free(model))
        if self._policy.is_gain:
            index *= self._repeats.promise(evidence, pending=plan.pending)
        # Equal worth: the call with fewer samples, then the earlier one.
        return (-index, len(plan.samples) + plan.pending, call, self._version[call])

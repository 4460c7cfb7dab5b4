"""The plan of a known set of calls, as a pure generator: the bandit compares all of them for every sample."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynscale_dspy.allocation.costs import FREE, NOTHING, Cost, CostRecord, relative_cost
from dynscale_dspy.allocation.policies import Policy
from dynscale_dspy.allocation.repeats import Repeats
from dynscale_dspy.allocation.requests import PricedSizes, RequestSizes
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
        left: Tokens and nanodollars that the set may take in all, by unit; empty where more may come.
        shared: Whether one request has brought several samples of the same program before.
        counts_prompts: Whether prompts count though samples are what is short.
    """

    guaranteed: tuple[int, ...]
    limit: float = math.inf
    requests: float = math.inf
    each: int = 1
    measured: bool = False
    metered: bool = False
    left: Mapping[str, float] = field(default_factory=dict)
    shared: bool = False
    counts_prompts: bool = False


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
    shares = plans[0].max_choices > 1 and not plans[0].worths
    left = {"samples": limit, **known.left}
    each_has = {unit: amount / len(plans) for unit, amount in left.items()}
    costs = _Costs(
        gains=policy.is_gain,
        weighs=policy.is_gain and metered,
        shares=shares,
        counts_prompts=known.counts_prompts,
        each_has=each_has,
        calls=len(plans),
    )
    repeats = Repeats()  # of this set alone: what else the pool has seen depends on what it was asked before
    ranking = _Ranking(plans, policy, costs, repeats)
    issued = outstanding = under_way = 0
    # What a sample takes is learned from samples handed back, not from those that happen to have finished.
    each, measured = known.each, known.measured or (requests == math.inf and not metered)
    hopeless: set[int] = set()
    trial = metered and shares and not known.shared
    """Whether it is still to be seen that a request brings several samples: where it does not, each costs a prompt."""

    def favoured(call: int, total: int) -> bool:
        """Whether a further sample of the call that has just been chosen is to share the request."""
        if policy.adaptive:
            return total >= guaranteed and ranking.favours(call, total)
        share = min(limit / len(plans), costs.room)
        return share < math.inf and plans[call].drawn + 1 <= share

    def request_size(call: int) -> int | None:
        """Samples that the request of the job just obtained is to bring; None where each is weighed by itself."""
        plan, due = plans[call], waiting[call] + 1
        if plan.drawn == 1:
            return costs.first_size(due, most=limit / len(plans))
        return max(ranking.request_size(call, plan.pending - 1), due) if costs.sizes is not None else None

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

    def obtain(call: int, joined: Job | None = None) -> Generator[ReserveFor, Any, Job | None]:
        """The job of one more sample of a call; None if it does not fit now.

        Args:
            call: The call.
            joined: The job whose request may bring this sample, too.
        """
        samplers = plans[call].propose()
        if not samplers:
            return None
        further = joined is not None and plans[call].joins(joined)
        lease = yield ReserveFor(call, samplers[0].name, each, further)
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
        costs.stand(standing.unit, standing.bound, standing.others)
        for plan in plans if costs.unit is not None else ():
            plan.unit = costs.unit
        if standing.wait is not None and not outstanding:
            if (yield Wait(standing.wait)) is None:
                return
            continue
        while standing.wait is None and not standing.halted:
            if metered and not measured and outstanding:
                break  # what one takes in tokens and dollars is known when the first has finished
            if trial and outstanding > under_way and (costs.sizes is not None or guaranteed > len(plans)):
                break
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
            size = request_size(call) if measured else None
            able = plans[call].may_share(chunk[-1]) and not costs.are_alone
            while able and len(chunk) < most and plans[call].room > 0:
                if size is not None:
                    if len(chunk) >= size or not plans[call].joins(chunk[-1]):
                        break
                elif not waiting[call] and not (measured and favoured(call, issued + len(chunk))):
                    break
                job = yield from obtain(call, chunk[-1])
                if job is None:
                    break
                chunk.append(job)
                able = plans[call].may_share(job)
            if metered and not measured:
                costs.drew_unpriced(len(chunk))
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
        trial = trial and len(finished) == 1
        costs.came([sample.cost for _, sample in finished])
        for job, sample in finished:
            outstanding -= 1
            requests -= sample.cost.requests
            costs.tell(job.call, sample.draw.sampler.model, sample.cost, sample.saved)
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


_TIGHT = 0.75
"""A first request may cost a third more than there is for a call, since what it costs is an estimate."""


class _Costs:
    """The expected cost of each call's next sample, where tokens or dollars run out first.

    By the language model that is going to be asked, since one may cost many times what another does, and relative to
    the average of the first that was and cost something: that of all moves as dear samples come in. Learned from
    samples in the order they are handed back, so that decisions do not depend on timing.

    Args:
        gains: Whether the index is a gain.
        weighs: Whether costs count in it at all.
        shares: Whether a request may bring several samples, all of one language model.
        counts_prompts: Whether prompts count though samples are what is short.
        each_has: What there is for a call on average, by unit; empty where more may come.
        calls: How many calls there are.

    Attributes:
        unit: What runs out first, as the pool has last said; None for samples or requests.
        sizes: What requests are worth by their size; None where that is not known, or prompts are short.
        room: Samples that a call may draw in one request, if all calls are to have as many; infinite if not known.
    """

    def __init__(
        self,
        *,
        gains: bool = True,
        weighs: bool,
        shares: bool = False,
        counts_prompts: bool = False,
        each_has: Mapping[str, float] | None = None,
        calls: int = 1,
    ) -> None:
        self.unit: str | None = None
        self.sizes: RequestSizes | None = None
        self._each_has = each_has or {}
        self._calls = calls
        self._bound = 0.0
        self._others = 0
        self._gains = gains
        self._weighs = weighs
        self._shares = shares
        self._counts_prompts = shares and gains and counts_prompts
        self._records: dict[tuple[int, str], CostRecord] = {}
        self._of_model: dict[str, CostRecord] = {}
        self._all = CostRecord()
        self.room = math.inf
        self._first = 1
        self._price: float | None = None
        self._unpriced = (0, 0)
        self._joined = self._alone = 0
        self._saved = 0.0  # of what earlier calls had for their first request, in samples

    def stand(self, unit: str | None, bound: float = 0.0, others: int = 0) -> None:
        """The pool has said what runs out first, the most that a first sample may take of it, and who else is there.

        Args:
            unit: ``"tokens"`` or ``"nanodollars"``; None for samples or requests.
            bound: That amount; 0 if it is not known. The first that is told counts, so that no timing decides.
            others: Calls of other sets that have the same left for them.
        """
        if unit != self.unit:
            self.unit, self._bound, self.sizes, self.room = unit, 0.0, None, math.inf
        # A set that has ended has spent its part.
        if others > self._others or (bound and not self._bound):
            self._bound, self._others = self._bound or bound, max(others, self._others)
            self._size()

    def tell(self, call: int, model: str, cost: Cost, saved: Cost = NOTHING) -> None:
        """A sample of a call was handed back: it has cost so much, and so much less than without DSPy's cache."""
        if not cost.samples:
            return
        if self._weighs:
            self._records.setdefault((call, model), CostRecord()).add(cost, saved)
            self._of_model.setdefault(model, CostRecord()).add(cost, saved)
        if self._weighs or self._shares:
            self._all.add(cost, saved)
        self._size()

    def drew_unpriced(self, samples: int) -> None:
        """The first request of a call is made for so many samples, before it is known what they cost."""
        calls, drawn = self._unpriced
        self._unpriced = calls + 1, drawn + samples

    def came(self, costs: Sequence[Cost]) -> None:
        """Samples that one request was to bring have cost so much.

        Args:
            costs: That of each; a sample that had to ask for itself has cost a request.
        """
        for cost in costs[1:]:
            self._alone += cost.requests > 0
            self._joined += cost.samples > 0 and not cost.requests

    @property
    def are_alone(self) -> bool:
        """Whether requests that were to bring several samples mostly did not."""
        return self._alone > self._joined

    def _size(self) -> None:
        """Learn from the latest samples how large requests are to be."""
        if self.are_alone:
            self.sizes, self.room = None, math.inf
            return
        apart = self._all.apart(self.unit) if self._shares and self.unit is not None else None
        if apart is None or not apart[1] or self.unit is None:
            if self.unit is None:
                self._count()
            return
        read, written = apart
        setup, most, has = read / written, self._each_has.get("samples", math.inf), self._each_has.get(self.unit)
        if has is not None:
            has *= self._calls / (self._calls + self._others)
        # Of what all have, the last call's first request has to find its upper bound.
        beyond = max(self._bound - read - written, 0.0) / self._calls
        self.room = math.inf if has is None else self._beside_unpriced((has - beyond - read) / written)
        # Where two requests pay for all samples that a call may draw, these are what is short.
        if most < math.inf and self.room >= most + setup:
            self.sizes, self.room = None, math.inf
            self._count()
            return
        self.sizes, self._price = RequestSizes.of(setup) if self._gains else None, None
        if self.sizes is not None and self.room < math.inf:
            self._first, self._price = self.sizes.opening(self.room + self.sizes.setup)

    def _count(self) -> None:
        """The same where samples are what is short."""
        samples = self._each_has.get("samples", math.inf)
        counted = PricedSizes.counted(self._all, samples) if self._counts_prompts and samples < math.inf else None
        if counted is not None:
            self.sizes = counted.sizes
            self._first, self._price = self.sizes.opening(samples / counted.part)

    def _beside_unpriced(self, room: float) -> float:
        """Samples that are left for each of the other calls, once those drawn before prices were known are counted."""
        calls, drawn = self._unpriced
        return (room * self._calls - drawn) / (self._calls - calls) if calls < self._calls else room

    @property
    def level(self) -> tuple[object, ...]:
        """Changes when much more is known of what one language model costs beside others, or a request its samples."""
        records = self._of_model.values()
        known = tuple(record.samples.bit_length() for record in records) if len(records) > 1 else ()
        return *known, self.sizes

    @property
    def further(self) -> float:
        """Cost of one more choice of a request, relative to a separate request."""
        apart = self._all.apart(self.unit) if self._weighs and self.unit is not None else None
        return apart[1] / sum(apart) if apart is not None and apart[1] else 1.0

    def first_size(self, due: int, *, most: float) -> int | None:
        """Samples that a call's first request is to bring; None where each is weighed by itself.

        Where what is left does not pay for as many as are due, of all calls, it is fewer: else the first calls would
        have all of theirs, and the last ones none.

        Args:
            due: Those that the call is guaranteed.
            most: Those that it may draw for others to have as many.
        """
        size = due if self.sizes is None else max(due, int(min(self._first, most)))
        tight = size * _TIGHT > self.room if self.sizes is None else size > self.room + self._saved
        if tight:
            size = max(1, math.floor(self.room + self._saved))
        if self.room < math.inf:
            # So that parts of a sample add up to one; no more is owed, since what requests cost is an estimate.
            self._saved = min(max(self._saved + self.room - size, -1.0), 1.0)
        return None if self.sizes is None and not tight else size

    def request_size(self, lead: float, rival: float) -> int:
        """Samples that a later request of a call is to bring.

        Args:
            lead: Votes of the leading answer, in flight included.
            rival: Votes of the second answer.
        """
        assert self.sizes is not None
        return self.sizes.size(lead, rival, self._price)

    def share(self, lead: float, rival: float) -> float:
        """What a sample of a call is worth, at the best size of its request, beside one without a prompt."""
        return 1.0 if self.sizes is None else self.sizes.share(lead, rival)

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

    def request_size(self, call: int, before: int) -> int:
        """Samples that the request for this call is to bring.

        Args:
            call: The call.
            before: Samples of it in flight that do not belong to this request.
        """
        evidence = self._plans[call].selection.evidence()
        return self._costs.request_size(evidence.lead + before, evidence.rival)

    def _entry(self, call: int) -> tuple[float, int, int, int]:
        plan = self._plans[call]
        model = plan.next_model if self._has_models else ""
        evidence = plan.selection.evidence()
        index = self._policy.index(evidence, pending=plan.pending, total=self._total)
        index /= self._costs.relative(call, model, is_free=plan.is_free(model))
        if self._policy.is_gain:
            index *= self._repeats.promise(evidence, pending=plan.pending)
            index *= self._costs.share(evidence.lead + plan.pending, evidence.rival)
        # Equal worth: the call with fewer samples, then the earlier one.
        return (-index, len(plan.samples) + plan.pending, call, self._version[call])

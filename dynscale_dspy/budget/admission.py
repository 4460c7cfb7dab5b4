"""Admission control: which calls are opened, and which samples are let in, so that every cap holds."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import MappingProxyType
from typing import Any

from dynscale_dspy.allocation.costs import METERED, UNITS, Cost
from dynscale_dspy.allocation.pacing import Pacing
from dynscale_dspy.allocation.policies import Policy
from dynscale_dspy.allocation.pricing import ShadowPrice
from dynscale_dspy.budget.accounts import Accounts, Ledger
from dynscale_dspy.budget.alerts import CapAlerts, CapNotSure, warn
from dynscale_dspy.budget.arms import Arm
from dynscale_dspy.budget.breaker import CircuitBreaker
from dynscale_dspy.budget.leases import Lease
from dynscale_dspy.budget.locking import step
from dynscale_dspy.budget.payer import Program
from dynscale_dspy.budget.prices import Price
from dynscale_dspy.budget.shared import Counts, PoolStanding, Shared
from dynscale_dspy.budget.shortages import lacking
from dynscale_dspy.budget.throttle import Throttle
from dynscale_dspy.errors import BudgetExhausted, UnboundedCost
from dynscale_dspy.reporting import text
from dynscale_dspy.reporting.statistics import PoolStatistics, limits_in_dollars

logger = logging.getLogger(__name__)

BOOKED_AS_REPORTED = ("more usage than the request allowed", "a price above the listed one")
"""What a provider reports is charged all the same where it is only more than was to be expected."""


class Admission:
    """Opens the calls of one pool or scope, grants their samples and settles them.

    Safe from any thread. The parts it stands on do not know it: accounts, breaker, alerts, pacing, queue.

    Args:
        policy: What a sample is worth.
        accounts: Caps, and what is spent of them.
        breaker: Whether samples may begin.
        alerts: Warnings when a share of a cap is spent.
        shared: What all pools and scopes around have in common.
        around: That of the pool around a scope.
        per_call: Samples a call may draw on average; None where that is not said here.
        min_per_call: Samples each call draws whatever the price.
        max_per_call: Samples no call may draw more of.
        deadline: The time after which no sample begins and no request is made.
        strict: Whether requests whose cost has no upper bound are refused.
        prices: Dollars per million tokens by model name.
    """

    def __init__(
        self,
        *,
        policy: Policy,
        accounts: Accounts,
        breaker: CircuitBreaker,
        alerts: CapAlerts,
        shared: Shared,
        around: Admission | None = None,
        per_call: float | None = None,
        min_per_call: int = 1,
        max_per_call: int | None = None,
        deadline: float | None = None,
        strict: bool = False,
        prices: Mapping[str, Price] | None = None,
    ) -> None:
        self.policy = policy
        self.accounts = accounts
        self.breaker = breaker
        self.alerts = alerts
        self.shared = shared
        self.lock = shared.lock
        self.counts = Counts()
        self.per_call = per_call
        self.min_per_call = min_per_call
        self.max_per_call = max_per_call
        try:
            self.began = float(shared.clock())
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"clock must be a function without arguments that returns seconds, got {shared.clock!r}: {error}"
            ) from error
        self.deadline = deadline
        self.strict = strict
        self.prices: Mapping[str, Price] = prices or {}
        self.chain: tuple[Admission, ...] = (self, *(around.chain if around is not None else ()))
        """This one and those around it, the outermost last."""
        self._pacing: Pacing | None = None
        if around is None or per_call is not None:
            self._pacing = self._paced()

    # ---- how it stands

    @property
    def root(self) -> Admission:
        """The outermost pool's."""
        return self.chain[-1]

    @property
    def is_late(self) -> bool:
        """Whether a deadline has passed, here or in a pool around."""
        for node in self.chain:  # noqa: SIM110
            if node.deadline is not None and self.shared.clock() >= node.deadline:
                return True
        return False

    def seconds_left(self) -> float:
        """Seconds to the nearest deadline, here or in a pool around; infinite without one."""
        deadline = min((node.deadline for node in self.chain if node.deadline is not None), default=math.inf)
        return deadline if deadline == math.inf else max(deadline - self.shared.clock(), 0.0)

    def patience(self) -> float:
        """Seconds for which a sample may still wait for anything: none once this is stopped or late."""
        return 0.0 if self.is_stopped else self.seconds_left()

    @property
    def is_halted(self) -> bool:
        """Whether no sample may begin: stopped, paused, past the deadline, or out of supply."""
        # Asked several times a sample: loops are quicker than generators.
        for node in self.chain:
            if node.breaker.state != "open":
                return True
        return self.is_late or bool(self.shared.supply.ended())

    @property
    def is_stopped(self) -> bool:
        """Whether this pool or one around it was stopped."""
        for node in self.chain:  # noqa: SIM110
            if node.breaker.state == "stopped":
                return True
        return False

    @property
    def is_durable(self) -> bool:
        """Whether the budget outlives this process, in a file that others may hold: steps on it may block."""
        return self.shared.is_durable

    @property
    def is_metered(self) -> bool:
        """Whether tokens or dollars are capped, here or in a pool around."""
        return self.accounts.metered

    @property
    def varies(self) -> bool:
        """Whether a call may ever draw a second sample."""
        return self.per_call != 1 and self.most_per_call != 1

    @property
    def grows(self) -> bool:
        """Whether its caps are a lease from a budget kept elsewhere, of which more may come."""
        return self.shared.supply.grows

    def may_obtain(self, arm: Arm, sampler: str) -> bool:
        """Whether a sample of a known set that was refused may fit later: once others have ended, or as caps grow.

        Args:
            arm: The call.
            sampler: What would draw it.
        """
        return self.grows or self.shared.periods is not None or arm.may_obtain(sampler)

    @property
    def most_per_call(self) -> float:
        """The most samples one call may draw, here and in every pool around."""
        return min((node.max_per_call or math.inf for node in self.chain), default=math.inf)

    @property
    def throttle(self) -> Throttle | None:
        """What requests of samples pass on their way out; None for nothing."""
        return self.shared.throttle

    @property
    def pacing(self) -> Pacing:
        """What paces calls of this pool: its own, or that of the nearest pool around."""
        return next(node._pacing for node in self.chain if node._pacing is not None)

    @property
    def own_pacing(self) -> Pacing | None:
        """Its own pacing; None for a scope that leaves its calls to the pace around."""
        return self._pacing

    @property
    def spare(self) -> float:
        """Samples that calls under way may take, beside those kept for calls that wait for their first."""
        return self.shared.supply.spare()

    @property
    def drawn(self) -> int:
        """Samples drawn so far, over all calls."""
        return self.counts.drawn

    def caps(self, unit: str) -> bool:
        """Whether a unit is capped, here or in a pool around."""
        return self.accounts.ledger.capped(unit)

    @step
    def remaining(self, unit: str) -> float:
        """What may still be reserved of a unit, here and in every pool around; infinite without a cap."""
        return self.accounts.ledger.remaining(unit)

    @step
    def firmly_left(self, program: object | None = None) -> dict[str, float]:
        """Tokens and nanodollars that may still be reserved, of those that are capped; empty where more may come.

        Args:
            program: For whose samples; its quota counts.
        """
        if self.grows or self.shared.periods is not None:
            return {}
        ledger = self.ledger_for(program)
        return {unit: ledger.remaining(unit) for unit in METERED if ledger.capped(unit)}

    @step
    def binding_unit(self) -> str | None:
        """``"tokens"`` or ``"nanodollars"``, if that is the cap of which most is spent."""
        return self.accounts.binding_unit

    @step
    def standing(self) -> PoolStanding:
        """How the pool stands, in one look."""
        wait = self.shared.queue.join() if self._is_paused or self.shared.supply.is_short() else None
        known = len(self.shared.open_known)
        if not self.is_metered:
            return PoolStanding(wait, self.is_halted, None, False, known)
        reserved = self.accounts.ledger.reserved
        holds = any(getattr(reserved, unit) > 0 for unit in METERED)
        return PoolStanding(wait, self.is_halted, self.accounts.binding_unit, holds, known)

    # ---- calls

    @step
    def open(
        self,
        samplers: Sequence[str],
        *,
        outer: Lease | None = None,
        program: object | None = None,
        requests: int = 1,
        key: bytes | None = None,
        hold: Callable[[Arm], object] | None = None,
        beside: bool = False,
        together: int = 1,
    ) -> Arm | Future[None] | None:
        """Open a call with its first samples reserved; a future to wait for before trying again; None if it cannot be.

        First come the guaranteed samples, then those that are worth the price whatever the first ones say. There is a
        future while the pool is paused, and while what a first sample needs in tokens or dollars is only held, at its
        upper bound, by samples in flight. A call inside another sample never waits: that sample holds budget.

        Args:
            samplers: What would draw each sample, as many as the call can use now.
            outer: The lease of the sample this call is made in, if any. On the same pool that sample's reservation
                passes to this call: what is nested is charged once, at the leaf.
            program: Whose samples these are; the pool learns what one takes.
            requests: A guess of the requests one makes, until one has finished.
            key: A name of the call that outlives the process, for a pool kept in a file.
            hold: Told of the arm before anything is reserved: whatever happens in between, it can be closed.
            beside: Whether it helps another call that has its answer: it is none of the calls that were announced or
                that samples are for, and comes out of what these may draw.
            together: How many samples at most may come from its first request.
        """
        queue = self.shared.queue
        if self.is_halted:
            return queue.join() if self._is_paused and outer is None else None
        arm = Arm(self, outer, program=program, requests=requests, key=key, beside=beside)
        if outer is None and self.is_metered and not arm.is_measured and arm.has_pilots:
            return queue.join()  # a first sample of this program is to finish before others begin: then needs are known
        if hold is not None:
            hold(arm)
        try:
            return self._open(arm, samplers, together)
        except BaseException:
            self._undo_opening(arm)  # of a policy or a store, or an interrupt
            raise

    def _open(self, arm: Arm, samplers: Sequence[str], together: int) -> Arm | Future[None] | None:
        """Reserve the first samples of a call, and count it; inside the lock."""
        queue, outer, pacing = self.shared.queue, arm.outer, self.pacing
        if arm.is_nested and outer is not None:
            outer.pass_on()
        if arm.beside and not arm.is_nested and not pacing.has_room_beside(arm):
            return None
        guaranteed = pacing.first(arm, at_least=self.min_per_call)
        size = arm.first_size(guaranteed, samplers, together)
        first = arm.reserve_first(samplers, size, range(1, together))
        if not first:
            waits = self.shared.supply.is_short(first=True) or (outer is None and self._would_fit(arm, samplers[0]))
            queue.without_first += waits
            return queue.join() if waits else None
        self.shared.promised = max(self.shared.promised - 1, 0)
        self._count_opened(arm)
        if not arm.is_nested and not arm.beside:
            pacing.opened(arm, paid=len(arm.paid))
        if not arm.is_sized:
            arm.grant(self.policy.tally(), samplers[first:], pending=first, joining=range(together - first))
        return arm

    def open_known(
        self,
        count: int,
        *,
        program: object | None = None,
        requests: int = 1,
        keys: Sequence[bytes | None] | None = None,
        hold: Callable[[Arm], object] | None = None,
    ) -> tuple[list[Arm], float, float]:
        """Open a known set of calls; also returns the samples and the requests they may take together.

        Args:
            count: How many they are.
            program: Whose samples these are.
            requests: A guess of the requests one makes, until one has finished.
            keys: Names of the calls that outlive the process.
            hold: Told of each arm before anything is reserved: whatever happens in between, it can be closed.

        Raises:
            BudgetExhausted: If there is not one sample for each; nothing is opened then.
        """
        self.shared.supply.prepare(count, requests)
        return self._open_known(count, program, requests, keys, hold)

    @step
    def _open_known(
        self,
        count: int,
        program: object | None,
        requests: int,
        keys: Sequence[bytes | None] | None,
        hold: Callable[[Arm], object] | None,
    ) -> tuple[list[Arm], float, float]:
        if self.is_halted and not self._is_paused:
            raise BudgetExhausted(self._why_halted()) from self._cause
        names = keys or [None] * count
        arms = [Arm(self, program=program, requests=requests, key=name, known=True) for name in names]
        ledger, pacing = arms[0].ledger, self.pacing
        limit = ledger.remaining("samples")
        if pacing.paced:
            # No price holds a known set back: what announced calls lent, it would spend. Its first samples it gets.
            own = pacing.credit(arms[0], opening=count, lent=False)
            firsts = count * max(self.policy.first, self.min_per_call)
            limit = min(limit, max(own, min(pacing.credit(arms[0], opening=count), firsts)))
        requests_left = ledger.remaining("requests")
        each = arms[0].requests_each()
        left = limit if requests_left == math.inf else min(limit, requests_left // each)
        # What an earlier run of these calls has paid for is there again.
        paid = sum(len(arm.paid) for arm in arms)
        without = sum(not arm.paid for arm in arms)
        if left < without:
            need = Cost(samples=without, requests=without * each)
            raise self._refusal(
                f"{left:g} samples are left, which cannot give each of the {without} calls one: raise the budget "
                "or pass fewer examples",
                lacking(arms[0].ledger, need, "they need {}"),
            )
        enough = left + paid >= count * self.policy.first
        first = max(self.policy.first if enough else 1, self.min_per_call if not paid else 1)
        try:
            if hold is not None:
                for arm in arms:
                    hold(arm)
            for round_ in range(first):
                for arm in arms:
                    if arm.waiting == round_:
                        arm.reserve([""], metered=False)
            for arm in arms:
                if pacing.paced:
                    pacing.opened(arm, paid=len(arm.paid))
                self._count_opened(arm)
        except BaseException:
            for arm in arms:
                self._undo_opening(arm)
            raise
        return arms, limit + paid, requests_left + paid * each

    @step
    def gate(self) -> Future[None] | None:
        """What to wait for while the pool is paused, or more budget is just being fetched; None otherwise."""
        return self.shared.queue.join() if self._is_paused or self.shared.supply.is_short() else None

    @step
    def may_change(self) -> bool:
        """Whether the pool is paused, or anything is held, here or in a pool around, so that it may be free again."""
        held = self.shared.supply.is_short() or any(each.reserved != Cost() for each in self.accounts.ledger.chain)
        return held or self._is_paused

    @step
    def change(self) -> Future[None]:
        """Done when something that was held is free again; at once where nothing is let in again by itself."""
        if not self.is_halted or self._is_paused:
            return self.shared.queue.join()
        ended: Future[None] = Future()
        ended.set_result(None)
        return ended

    # ---- parts of modules

    @step
    def reserve_for(self, module: Any, fraction: float) -> None:
        """Let a module spend at most a part of the caps; see :meth:`BudgetPool.reserve_for`."""
        self.accounts.set_quota(module, fraction)

    @step
    def quotas(self) -> list[tuple[Any, Cost, dict[str, int | None]]]:
        """Each module with a part of the caps, what it has spent of it, and its limits."""
        return self.accounts.quotas()

    # ---- users' controls

    @step
    def expect(self, calls: int) -> None:
        """Spread what is left over so many calls; see :meth:`BudgetPool.expect`."""
        ledger = self.accounts.ledger
        left = min(ledger.remaining("samples"), ledger.remaining("requests"))
        if left < calls:
            raise ValueError(
                f"{left:g} samples are left, which cannot give each of the {calls} expected calls one: "
                "raise the cap or expect fewer"
            )
        self._pacing = self._paced(expected=calls)

    @step
    def pause(self) -> None:
        """Let no further sample begin until :meth:`resume`."""
        self.breaker.pause()

    @step
    def resume(self) -> None:
        """Let samples begin again."""
        self.breaker.resume()
        self.shared.queue.wake()

    @step
    def stop(self, after: Callable[[], object] | None = None) -> None:
        """Let no further sample begin. ``after`` is done once the lock is free."""
        self.breaker.stop()
        self.shared.queue.wake()
        if after is not None:
            self.lock.defer(after)

    @property
    def moved_to(self) -> str:
        """The name under which the whole budget was published; empty if it was not."""
        return self.shared.moved_to

    @step
    def moved(self, name: str) -> None:
        """The whole budget was published under this name: nothing is granted here any more."""
        self.shared.moved_to = name
        self.breaker.stop()

    @step
    def wake(self) -> None:
        """Have everyone who waits look again."""
        self.shared.queue.wake()

    @step
    def statistics(self) -> PoolStatistics:
        """A consistent snapshot."""
        return self._snapshot()

    @step
    def begin_period(self) -> None:
        """Begin the period that the clock is in: every step does so before anything else."""

    def roll(self, period: int, first: bool) -> None:
        """A period has begun, inside the lock.

        Args:
            period: Its number.
            first: Whether it is the first this pool has seen: what the store holds is then of this period.
        """
        self.accounts.roll(period)
        if first:
            return
        self.alerts.reset()
        self._pacing = self._paced()
        self.shared.queue.wake()

    def begin_anew(self) -> None:
        """In the child of a fork no call is open; see :meth:`Shared.begin_anew` for what all scopes have in common."""
        self.counts.open.clear()

    # ---- what is said

    @step
    def exhausted(self, program: object | None = None, requests: int = 1) -> BudgetExhausted:
        """The error of a call for which nothing is left.

        Args:
            program: Whose samples it would have drawn.
            requests: A guess of the requests one makes, until one has finished.
        """
        if not self.is_halted:
            what = self.shared.supply.silence() or "nothing is left for a first sample"
            return self._refusal(what, Arm(self, program=program, requests=requests).lacking())
        error = BudgetExhausted(self._why_halted())
        error.__cause__ = self._cause
        return error

    @step
    def cut_off(self, lease: Lease | None = None) -> BudgetExhausted:
        """The error of a sample whose next request was not let through.

        Args:
            lease: The sample's.
        """
        if self.is_late:
            return BudgetExhausted(self._how_late("passed in the middle of a sample"))
        if self.is_stopped:
            return BudgetExhausted(self._why_halted())
        what = "the pool could not pay the next language-model call in the middle of a sample"
        return self._refusal(what, lease.lacking if lease is not None else "")

    def distrust(self, reason: str) -> None:
        """A provider's report of usage was not believed."""
        if self._count_distrusted(reason):
            charged = "as reported" if reason in BOOKED_AS_REPORTED else "at their upper bound"
            logger.warning("a language model reported %s; such requests are charged %s", reason, charged)

    def unbounded(self, model: str, lacking: str, overshoot: str) -> None:
        """A request is about to be made whose cost has no upper bound.

        Args:
            model: The language model.
            lacking: What is missing for a bound, in words.
            overshoot: By how much the budget may be passed, in words.

        Raises:
            UnboundedCost: If the pool is strict; nothing is spent then.
        """
        if self.strict:
            raise UnboundedCost(
                f"a strict pool cannot let {model} be called, for nothing bounds what that costs: {lacking}"
            )
        if self._is_first_unbounded((model, lacking)):
            warn(
                f"nothing bounds what a request to {model} costs: {lacking}. The budget may be passed by {overshoot}; "
                "strict=True refuses such requests",
                CapNotSure,
            )

    @step
    def count_unscaled_run(self) -> None:
        """A call was answered outside the budget."""
        self.counts.unscaled_runs += 1

    # ---- what arms and leases call, inside the lock

    def ledger_for(self, program: object | None) -> Ledger:
        """The ledger that a program's samples are charged to: its quota's, where it has one."""
        ledger = self.accounts.local
        if program is None:
            return ledger
        for node in self.chain:
            for module in (program, getattr(program, "module", None)):
                if module is not None:
                    ledger = node.accounts.under_quota(module, ledger)
        return ledger

    @step
    def pay(self, cost: Cost, program: object | None) -> bool:
        """Book what is asked for beside samples, such as vectors of texts; False, and nothing is, if that cannot be.

        A cap may forbid it, or announced calls would lack their first samples.

        Args:
            cost: What it costs, whatever comes of it.
            program: For whose samples it is asked.

        Raises:
            StorageError: If the store fails.
        """
        if not self.pacing.leaves_first({unit: getattr(cost, unit) for unit in UNITS}):
            return False
        ledger = self.ledger_for(program)
        reservation = ledger.reserve(cost)
        if reservation is None:
            return False
        try:
            ledger.settle(reservation, cost)
        except BaseException:  # an interrupt: what nobody stands for would never be given back
            if reservation.open:
                ledger.settle(reservation, cost)
            raise
        return True

    def program(self, program: object | None) -> Program:
        """What is kept of a program; of none in particular nothing is."""
        if program is None:
            return Program()
        kept = self.shared.programs.get(program)
        return kept if kept is not None else self.shared.programs.setdefault(program, Program())

    def paid(self, key: bytes | None) -> frozenset[int]:
        """The samples of a call that an earlier run has paid for."""
        return frozenset() if key is None else self.root.accounts.ledger.store.paid(key)

    def count_drawn(self, samples: int) -> None:
        """So many more samples were drawn, here and in every pool around."""
        for node in self.chain:
            node.counts.drawn += samples

    def sample_settled(
        self, cost: Cost | None, failure: BaseException | None, *, cut_off: bool, saved: Cost | None
    ) -> None:
        """A sample is over; see :class:`~dynscale_dspy.budget.payer.Payer`."""
        for node in self.chain:
            if cost is not None:
                node.accounts.record.add(cost)
                if saved is not None:
                    node.accounts.usual.add(cost, saved)
                if not cut_off:
                    node.breaker.record(failure)
            for warning in node.alerts.due(node.accounts.ledger):
                self.lock.defer(lambda node=node, warning=warning: node.alerts.send(warning))
        self.shared.queue.wake()

    def used_beyond(self) -> None:
        """More was used than was set aside; see :class:`~dynscale_dspy.budget.payer.Payer`."""
        for node in self.chain:
            if node is self.root and self.grows:
                continue  # these are no caps of the user's
            ledger, alerts = node.accounts.ledger, node.alerts
            said = alerts.passed(None, ledger.spent, ledger.limits)
            for module, spent, limits in node.accounts.quotas():
                said += alerts.passed(id(module), spent, limits)
            for each in said:
                self.lock.defer(lambda alerts=alerts, each=each: alerts.say(each))

    def call_closed(self, arm: Arm, *, samples: int, charged: Cost | None) -> None:
        """A call is over; see :class:`~dynscale_dspy.budget.payer.Payer`."""
        for node in self.chain:
            node.counts.open.discard(arm.number)
            if not arm.beside:
                node.counts.closed_calls += 1
                node.counts.samples_per_call[samples] += 1
        self.shared.open_arms.discard(arm)
        self.shared.open_known.discard(arm.number)
        arm.ended()
        self.shared.queue.wake()
        if charged is None:
            return
        if arm.beside:
            self.pacing.closed_beside(charged)
        else:
            told = {"known": arm.known, "paid": len(arm.paid), "later": arm.later}
            self.pacing.closed(arm, charged, at_least=self.min_per_call, **told)
        paced_by = next(place for place, node in enumerate(self.chain) if node._pacing is not None)
        for around in self.chain[paced_by + 1 :]:
            if around._pacing is not None:  # no allowance around is to pay for calls that another one paces
                around._pacing.excuse(charged)

    # ---- inside

    @property
    def _is_paused(self) -> bool:
        states = [node.breaker.state for node in self.chain]
        return "paused" in states and "stopped" not in states and not self.is_late and not self.shared.supply.ended()

    @property
    def _cause(self) -> BaseException | None:
        return next((node.breaker.cause for node in self.chain if node.breaker.cause is not None), None)

    def _paced(self, *, expected: int | None = None) -> Pacing:
        ledger, is_root = self.accounts.ledger, len(self.chain) == 1
        return Pacing(
            self.policy,
            self.accounts,
            per_call=self.per_call,
            expected=expected,
            left={unit: ledger.remaining(unit) for unit in UNITS} if expected is not None else None,
            # Only the root paces what others share: a scope with a pace of its own has a price of its own.
            priced=self.shared.supply.priced if is_root else _keep,
        )

    def _would_fit(self, arm: Arm, sampler: str) -> bool:
        """Whether a first sample would fit if what is in flight turned out to cost no tokens and no money.

        Never where nothing is in flight, for then nothing would end the wait.
        """
        ledger, needed = arm.ledger, arm.amount(sampler, None, first=True, metered=False)
        if any(ledger.remaining(unit) < getattr(needed, unit) for unit in ("samples", "requests")):
            return False
        reserved = self.root.accounts.ledger.reserved
        return any(getattr(reserved, unit) for unit in METERED) and arm.fits(sampler, first=True)

    def _count_opened(self, arm: Arm) -> None:
        arm.opened()
        self.shared.open_arms.add(arm)
        if arm.known:
            self.shared.open_known.add(arm.number)
        for node in self.chain:
            node.counts.open.add(arm.number)

    def _undo_opening(self, arm: Arm) -> None:
        """A call could not be opened: nothing of it stays."""
        arm.undo_opening()
        self.shared.open_arms.discard(arm)
        self.shared.open_known.discard(arm.number)
        for node in self.chain:
            node.counts.open.discard(arm.number)

    @step
    def _count_distrusted(self, reason: str) -> bool:
        """Count a report; True if it is the first of its kind."""
        for node in self.chain:
            node.counts.distrusted[reason] += 1
        return self.root.counts.distrusted[reason] == 1

    @step
    def _is_first_unbounded(self, case: tuple[str, str]) -> bool:
        first = case not in self.shared.unbounded
        self.shared.unbounded.add(case)
        return first

    def _why_halted(self) -> str:
        if self.is_late:
            return self._how_late("has passed")
        if self.shared.moved_to:
            return f"the pool was published as {self.shared.moved_to!r}: spend from what publish() returned"
        if ended := self.shared.supply.ended():
            return ended
        cause = self._cause
        if cause is not None:
            return (
                f"the pool stopped itself after {self.root.breaker.max_failures} samples in a row failed, the last "
                f"with {type(cause).__name__}: see to that, then call pool.resume()"
            )
        if self._is_paused:
            return "the pool is paused, and a synchronous call inside a running event loop cannot wait for resume()"
        return "the pool was stopped: call pool.resume() to go on"

    def _how_late(self, passed: str) -> str:
        """Which deadline has passed, how long it was and how long that is ago."""
        now = self.shared.clock()
        node, deadline = min(
            ((node, node.deadline) for node in self.chain if node.deadline is not None), key=lambda each: each[1]
        )
        return (
            f"the deadline of {node.accounts.ledger.name} {passed}: it was {deadline - node.began:.3g} s, and ended "
            f"{now - deadline:.3g} s ago; a new pool or scope may have a longer deadline="
        )

    def _refusal(self, what: str, lacking: str) -> BudgetExhausted:
        """The error of what a cap forbids.

        Args:
            what: What that is.
            lacking: Which cap, in words; how the pool stands where that is not known any more.
        """
        if not lacking:  # any of them may be the one that is empty
            lacking = " within ".join(text.one_line(node._snapshot()) for node in self.chain)
        error = BudgetExhausted(f"{what}: {lacking}")
        periods = self.shared.periods
        if periods is not None:
            error.retry_after = periods.seconds_left()
            error.args = (f"{error}; the next period begins in {error.retry_after:,.0f} s",)
        return error

    def _snapshot(self) -> PoolStatistics:
        ledger, counts, breaker = self.accounts.ledger, self.counts, self.breaker
        spent, reserved = ledger.store.totals()
        price, throttle, deadline = self.pacing.price, self.throttle, self.deadline
        return PoolStatistics(
            spent=spent,
            reserved=reserved,
            limits=MappingProxyType(limits_in_dollars(ledger.limits)),
            seconds_left=None if deadline is None else max(deadline - self.shared.clock(), 0.0),
            open_calls=counts.open_calls,
            closed_calls=counts.closed_calls,
            unscaled_runs=counts.unscaled_runs,
            price=price.value if price is not None else None,
            samples_per_call=MappingProxyType(dict(sorted(counts.samples_per_call.items()))),
            distrusted=MappingProxyType(dict(counts.distrusted)),
            state=breaker.state,
            cause=type(breaker.cause).__name__ if breaker.cause is not None else "",
            concurrency=throttle.allowed if throttle is not None else None,
        )


def _keep(price: ShadowPrice) -> None:
    """Leave a price where it opened."""

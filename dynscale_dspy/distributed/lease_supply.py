"""Feeds the pool of one process from its lease of a budget that many processes share."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

from dynscale_dspy.allocation.costs import METERED, UNITS, Cost
from dynscale_dspy.allocation.pricing import ShadowPrice
from dynscale_dspy.budget.admission import Admission
from dynscale_dspy.distributed.coordinator import Answer
from dynscale_dspy.distributed.lease_book import CHUNK, Holder, Report

logger = logging.getLogger(__name__)

IDLE = 2.0
"""Seconds after which a holder without open calls gives back what it has in hand."""
HEARTBEAT = 10.0
"""Seconds between the reports of a holder that has something in hand and no other reason to write."""
SWEEP = 3.0
"""Seconds between two looks for dead holders on this machine: what they left unanswered is done again meanwhile."""
LONGEST_WAIT = 60.0
"""Seconds a first sample waits for what other holders may give back, and everybody for an answer."""
PARTING = 5.0
"""Seconds that the end of a client waits for an answer that is still to come, and that of a budget for its holders."""
FIRST_RETRY, LONGEST_RETRY = 0.05, 2.0
"""Seconds after which a holder that needs more and got nothing asks again."""


class LeaseSupply:
    """Reports what a pool has spent of its lease and fetches more, from a thread of its own.

    A :class:`~dynscale_dspy.budget.supply.Supply`. What the pool calls runs inside its lock and never waits.

    Args:
        name: The name of the published budget, for messages.
        lease: The name of the lease.
        renew: Sends a report and returns its answer. May wait, and raise.
        sweep: Settles the leases of dead holders of this machine. May wait, and raise.
        where: Which process this is, for people.
    """

    grows = True

    def __init__(
        self,
        name: str,
        lease: str,
        *,
        renew: Callable[[Report], Answer],
        sweep: Callable[[], object],
        where: str = "",
    ) -> None:
        self.closed = False
        self._name = name
        self._lease = lease
        self._renew = renew
        self._sweep = sweep
        self._where = where
        self._admission: Admission | None = None
        self._holder: Holder | None = None
        self._thread: threading.Thread | None = None
        self._extra = Cost()
        """What a known set of calls will take besides the next sample."""
        self._asked_firsts = 0
        """For how many calls the latest report asked for a first sample."""
        self._told: Counter[int] = Counter()
        self._waiting_since: float | None = None
        self._next_try = self._next_beat = self._next_sweep = 0.0
        self._lost: BaseException | None = None
        self._is_asking = self._is_silent = False
        self._fetching: list[threading.Event] = []
        self._wake = threading.Event()

    def begin(self, admission: Admission, limits: Mapping[str, int | None], *, serve: bool = True) -> None:
        """Feed a pool.

        Args:
            admission: The pool's.
            limits: Its caps: 0 for a unit of which budget has to be leased, None for one without a cap.
            serve: Whether to start the thread that reports and fetches.
        """
        ledger, pacing = admission.accounts.ledger, admission.pacing
        ledger.limits.update(limits)
        self._holder = Holder(self._lease, ledger.limits, pacing, where=self._where)
        self._admission = admission
        if serve:
            self._thread = threading.Thread(target=self._serve, name=f"dynscale-lease-{self._name}", daemon=True)
            self._thread.start()

    @property
    def is_connected(self) -> bool:
        """Whether the budget can still be reached."""
        return self._lost is None

    def close(self) -> bool:
        """Stop reporting and let nothing more be spent. Returns False if that was done before."""
        admission = self._admission
        assert admission is not None
        with admission.lock.mutex:
            if self.closed:
                return False
            self.closed = True
        admission.wake()
        self._wake.set()
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join(PARTING)
            if self._thread.is_alive():
                self._lost = self._lost or TimeoutError("no answer has come")
        return True

    def last_report(self) -> Report:
        """The report that gives back all that is not spent or held."""
        admission = self._admission
        assert admission is not None
        with admission.lock.mutex:
            report = self._report(give_back=True)
        assert report is not None
        return report

    def sweep_quietly(self) -> None:
        """Look for dead holders; that it could not be done is only logged."""
        try:
            self._sweep()
        except Exception as error:
            logger.warning("dead holders of %r could not be looked for: %s", self._name, type(error).__name__)

    # ---- what the pool asks, inside its lock

    def is_short(self, *, first: bool = False) -> bool:
        """Whether a sample does not fit now for which budget is on its way."""
        admission, holder = self._parts
        if admission.is_halted or not holder.more or self._is_silent or self._fits():
            return False
        # What is in other hands is worth waiting for if a call has nothing yet.
        return first or not holder.fruitless

    def tend(self) -> None:
        """Wake the thread if more has to be fetched."""
        if self._thread is None or self._wake.is_set():
            return
        if self._is_low() and time.monotonic() >= self._next_try:
            self._wake.set()

    def ended(self) -> str:
        """Why nothing more can be spent."""
        if self._lost is not None:
            return f"the published pool {self._name!r} cannot be reached any more ({type(self._lost).__name__})"
        return "this client was closed: connect again" if self.closed else ""

    def silence(self) -> str:
        """That no answer comes, while that is so."""
        return f"the published pool {self._name!r} has not answered for {LONGEST_WAIT:g} s" if self._is_silent else ""

    def spare(self) -> float:
        """What the lease holds, but for the first samples of calls that wait for one.

        The pace tells what may be spent of the whole budget, and that is not in this lease: calls under way would take
        all of it, those that wait would ask again, and at last be given what is kept for calls elsewhere.
        """
        admission, _ = self._parts
        limit = admission.accounts.ledger.limits["samples"]
        if limit is None:
            return math.inf
        spent, reserved = self._totals()
        kept = max(admission.shared.promised, admission.shared.queue.without_first)
        return max(0, limit - spent.samples - reserved.samples - kept)

    def priced(self, price: ShadowPrice) -> None:
        """Put the pool's first price where that of all holders is."""
        if self._holder is not None:
            self._holder.opened(price)

    def prepare(self, calls: int, requests: int) -> None:
        """Fetch what a known set of calls takes: so many times what a call may draw on average. Waits if it has to."""
        admission, holder = self._parts
        answered = threading.Event()
        with admission.lock.mutex:
            allowances = admission.pacing.allowances
            each = min(allowance.per_call for unit, allowance in allowances.items() if unit not in METERED)
            samples = math.ceil(calls * each)
            extra = Cost(samples=samples, requests=samples * max(self._next_sample().requests, requests))
            if self.closed or self._lost is not None or self._is_silent or self._thread is None:
                return
            if holder.fits(self._next_sample().at_least(extra), *self._totals()):
                return  # nothing is low, and so nothing would be asked for
            self._extra = extra
            self._fetching.append(answered)
        self._wake.set()
        answered.wait()

    # ---- inside the lock

    @property
    def _parts(self) -> tuple[Admission, Holder]:
        assert self._admission is not None and self._holder is not None
        return self._admission, self._holder

    def _totals(self) -> tuple[Cost, Cost]:
        # The same as in the file, and quicker to ask.
        return self._parts[0].accounts.local.store.totals()

    def _next_sample(self) -> Cost:
        """What a sample may need, as far as known."""
        need = Cost(samples=1, requests=1, prompt_tokens=1, nanodollars=1)
        for program in self._parts[0].shared.programs.values():
            most = program.learned.need
            if most is not None:
                need = need.at_least(
                    Cost(requests=most.requests, prompt_tokens=most.tokens, nanodollars=most.nanodollars)
                )
        return need

    def _fits(self) -> bool:
        """Whether the lease holds the next sample."""
        return self._parts[1].fits(self._next_sample(), *self._totals())

    def _is_low(self) -> bool:
        """Return True if the lease should be renewed; False while no call needs budget."""
        admission, holder = self._parts
        if not (admission.counts.open_calls or len(admission.shared.queue) or self._extra != Cost()):
            return False
        return holder.is_low(*self._totals(), self._next_sample().at_least(self._extra))

    def _next_want(self) -> Cost:
        """What to have in hand: a chunk's worth, or more if many calls are open."""
        admission, _ = self._parts
        open_calls = admission.counts.open_calls
        samples = max(CHUNK, 2 * open_calls, self._extra.samples)
        most, record = self._next_sample(), admission.accounts.record
        amounts: dict[str, int] = {"samples": samples}
        for unit, name in (("requests", "requests"), ("tokens", "prompt_tokens"), ("nanodollars", "nanodollars")):
            # So many samples at their mean, and those that are open at the most one takes.
            usual = samples * record.mean(unit) + 2 * open_calls * getattr(most, unit)
            amounts[name] = math.ceil(usual) if record.samples else 2**62
        return Cost(**amounts)

    def _report(self, *, give_back: bool = False) -> Report | None:
        """What there is to tell; None if nothing."""
        admission, holder = self._parts
        (spent, reserved), counts = self._totals(), admission.counts
        low = not give_back and self._is_low()
        idle = not counts.open_calls and reserved == Cost()
        closed = counts.samples_per_call - self._told
        in_hand = holder.in_hand(spent, reserved)
        due = give_back or low or (idle and in_hand) or time.monotonic() >= self._next_beat
        if not due or not (low or give_back or closed or in_hand or not idle):
            return None
        self._told = Counter(counts.samples_per_call)
        self._asked_firsts = admission.shared.queue.without_first if low else 0
        return holder.report(
            spent,
            reserved,
            committed={unit: admission.accounts.committed(unit) for unit in UNITS},
            want=self._next_want() if low else Cost(),
            need=self._next_sample().at_least(self._extra) if low else Cost(),
            waiting=self._asked_firsts,
            # What is not needed, or not enough, others may need.
            give_back=give_back or (not low and idle) or (low and holder.fruitless > 0),
            open_calls=counts.open_calls,
            closed_calls=dict(closed),
        )

    def _apply(self, answer: Answer) -> None:
        now, (admission, holder) = time.monotonic(), self._parts
        self._is_silent = False
        pacing = admission.pacing
        self._next_beat = now + HEARTBEAT
        holder.apply(answer.grant)
        pacing.paced, pacing.expected = answer.paced, answer.expected
        admission.deadline = None if answer.seconds_left is None else admission.shared.clock() + answer.seconds_left
        admission.breaker.follow(answer.state)
        if holder.fruitless:
            self._waiting_since = self._waiting_since or now
            if now - self._waiting_since > LONGEST_WAIT:
                holder.more = False
            self._next_try = now + min(FIRST_RETRY * 2 ** min(holder.fruitless - 1, 10), LONGEST_RETRY)
        else:
            self._waiting_since, self._next_try = None, 0.0
        if holder.ended:
            self._lost = LookupError("its lease was settled as that of a dead process")
        self._extra, admission.shared.promised = Cost(), self._asked_firsts
        self._release()

    def _release(self) -> None:
        """Let those that wait for a fetch go on."""
        for answered in self._fetching:
            answered.set()
        self._fetching.clear()

    # ---- the thread

    def _serve(self) -> None:
        try:
            while not self.closed:
                self._serve_once()
        except Exception as error:
            self._give_up(error)
            return
        admission, _ = self._parts
        with admission.lock.mutex:
            self._release()

    def _serve_once(self) -> None:
        """Wait until there may be something to report, report it, and look for dead holders from time to time."""
        admission, holder = self._parts
        self._wake.wait(self._rest())
        self._wake.clear()
        if self.closed:
            return
        with admission.lock.mutex:
            report = self._report()
        if report is not None:
            answer = self._ask(report)
            with admission.lock.mutex:
                self._apply(answer)
            admission.wake()
        if holder.fruitless or time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + SWEEP
            self.sweep_quietly()

    def _ask(self, report: Report) -> Answer:
        """Send a report and wait for the answer, however long: it may bring budget. Others wait a limited time."""
        late = threading.Timer(LONGEST_WAIT, self._fall_silent)
        late.daemon = True
        self._is_asking = True
        late.start()
        try:
            return self._renew(report)
        finally:
            self._is_asking = False
            late.cancel()

    def _fall_silent(self) -> None:
        """Whoever keeps the budget is cut off, or its machine is down: let those go on that wait for an answer."""
        admission, _ = self._parts
        with admission.lock.mutex:
            if not self._is_asking:
                return
            self._is_silent = True
            self._release()
        logger.warning(
            "the published pool %r has not answered for %g s: calls go on with what this process has in hand",
            self._name,
            LONGEST_WAIT,
        )
        admission.wake()

    def _rest(self) -> float:
        """Seconds until there may be something to report."""
        admission, holder = self._parts
        with admission.lock.mutex:
            if not holder.more or not self._is_low():
                return IDLE
            return min(max(self._next_try - time.monotonic(), 0.0), IDLE)

    def _give_up(self, error: BaseException) -> None:
        logger.error("the published pool %r cannot be reached any more: %s", self._name, type(error).__name__)
        admission, _ = self._parts
        with admission.lock.mutex:
            self._lost = error
            self._release()
        admission.wake()

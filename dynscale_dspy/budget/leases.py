"""Leases: what one sample holds, owes and costs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from dynscale_dspy.allocation.costs import NOTHING, Cost
from dynscale_dspy.budget.accounts import Reservation
from dynscale_dspy.budget.locking import step
from dynscale_dspy.budget.shortages import lacking
from dynscale_dspy.errors import StorageError

if TYPE_CHECKING:
    from dynscale_dspy.budget.arms import Arm

logger = logging.getLogger(__name__)

ONE_REQUEST = Cost(requests=1)
ONE_SAMPLE = Cost(samples=1)


class Charge:
    """One language-model request that is paid for and not answered yet.

    Args:
        bound: The most it can cost.
    """

    __slots__ = ("bound",)

    def __init__(self, bound: Cost) -> None:
        self.bound = bound


class Lease:
    """Permission to draw one sample: started, charged request by request, settled once. Safe from any thread.

    Args:
        arm: Its call.
        reservation: What is set aside for it.
        index: Its position among the call's samples.
        sampler: What draws it; empty where that is told later.
        redo: Whether an earlier run paid for it. Nothing is set aside then until DSPy's cache turns out not to have it.
    """

    def __init__(
        self, arm: Arm, reservation: Reservation, index: int = 0, *, sampler: str = "", redo: bool = False
    ) -> None:
        self._state: Literal["reserved", "started", "passed on", "settled"] = "reserved"
        self.arm = arm
        self.payer = arm.payer
        self.lock = arm.lock
        self.index = index
        self.sampler = sampler
        self.redo = redo
        self.is_free = False
        """Whether it turned out to cost nothing, since an earlier run had paid for it."""
        self.lacking = ""
        """Which caps forbade its latest request, in words; empty if none did."""
        self._reservation = reservation
        # Requests of one sample are charged and answered under a lock of its own: only those that need more than is
        # set aside take the pool's, which may be held while a file is written.
        self._own = threading.Lock()
        self._used = self._replayed = self._saved = self._peak = NOTHING
        self._unanswered: set[Charge] = set()
        self._beyond = False
        self._refused = False
        self._nested = NOTHING

    @step
    def start(self) -> bool:
        """Begin the sample; False if its call was closed or the pool stopped meanwhile, and then it must not run."""
        if self._state != "reserved" or self.arm.is_hopeless(self.sampler):
            return False
        if self.payer.is_halted and not self._is_paid_ahead:
            return False
        self._state = "started"
        self.arm.begun(self)
        return True

    def charge(self, bound: Cost = ONE_REQUEST, *, cached: Callable[[], bool] | None = None) -> Charge | None:
        """Charge one request that is about to be made; None if it cannot be paid, and then it must not be made.

        Args:
            bound: The most it can cost, as far as anybody knows: it may come to more.
            cached: Tells whether DSPy's cache has the answer; asked only if the request of a sample that an earlier run
                has paid for could not be paid again.
        """
        if self.payer.is_late:
            self._refused = True
            return None
        charge = self._charge_within(bound) or self._charge_more(bound)
        if charge is None and self.redo and cached is not None and cached():
            charge = self._charge_nothing(bound)
        if charge is None:
            self._refused = True
        return charge

    def cut_off(self) -> None:
        """The sample ends early for want of time: what it took is not what one takes."""
        self._refused = True

    def answered(self, charge: Charge, used: Cost, saved: Cost | None = None) -> None:
        """A request is over, well or badly, and came to so much. Nothing is done about one of a settled sample.

        Args:
            charge: The request.
            used: What it came to.
            saved: What it came to when the provider answered it, where DSPy's cache has now; None if not known.
        """
        with self._own:
            if self._state == "settled" or charge not in self._unanswered:
                return
            if saved is not None:
                self._saved += saved
            # Booked before it is struck off: what an interrupt leaves in between is too much, never too little.
            if self.redo and used.cached_requests:
                self._replayed += used
                self._unanswered.discard(charge)
                return
            self._used += used
            self._unanswered.discard(charge)
            beyond = self.arm.ledger.exceeds(self._reservation, self._owed)
            if beyond:
                self._peak = self._peak.at_least(self._owed)
        if beyond:
            try:
                self._hold_used()
            except StorageError as error:  # it is booked when the sample ends
                logger.warning("what a request has used beyond its bound is not held yet: %s", error)

    @property
    def saved(self) -> Cost:
        """What its requests that DSPy's cache answered came to when the provider did, as far as that is known."""
        return self._saved

    @step
    def settle(
        self,
        failure: BaseException | None = None,
        *,
        permanent: bool = False,
        cut_off: bool = False,
        one_of_several: bool = False,
    ) -> Cost:
        """The sample is over, well or badly. Returns what it cost, nested calls on the same pool included.

        Requests without an outcome, as after a cancellation, are charged at their bound: nobody knows what the provider
        makes of them.

        Args:
            failure: The error of the program, if it had one; so many in a row stop the pool.
            permanent: Whether the call's other samples would fail alike: those that have not begun will not.
            cut_off: Whether it was cancelled or interrupted. It is no sample then if none of its requests was made.
            one_of_several: Whether only those of the same sampler would, which has a language model of its own.
        """
        arm, payer, before = self.arm, self.payer, self._state
        try:
            with self._own:
                if before == "settled":
                    return NOTHING
                used = self._owed
                idle = cut_off and before == "started" and used == NOTHING and self._makes_requests
                whole = before == "started" and not idle
                cost = used + (ONE_SAMPLE if whole else NOTHING)
                self.is_free = self.redo and used == NOTHING
                charged = NOTHING if self.is_free else cost
                sample = (arm.key, self.index) if whole and arm.key is not None else None
                beyond = self._beyond or arm.ledger.exceeds(self._reservation, charged)
                if permanent:
                    arm.lose_hope(self.sampler if one_of_several else "")
                self._state = "settled"
            if self._reservation.open:
                arm.ledger.settle(self._reservation, charged, sample=sample)
        except BaseException:  # an interrupt: it can be settled again
            self._state = before
            raise
        if beyond:
            payer.used_beyond()
        if idle:
            payer.count_drawn(-1)
        arm.is_over(self)
        cost += self._replayed
        if not self._refused:
            arm.learned.needed(self.sampler, self._peak, index=self.index)
        if whole:
            arm.costed(self.sampler, cost, self._saved)
        saved = self._saved if arm.learned.of(self.sampler).is_usual else None
        payer.sample_settled(cost if whole else None, failure, cut_off=self._refused, saved=saved)
        arm.settled(cost, charged)
        total = cost + self._nested
        if arm.outer is not None and arm.is_nested:
            arm.outer._nested += total
            arm.outer._saved += self._saved
            arm.outer.arm.settled(total, charged)
        return total

    # ---- inside the pool's lock

    def hold(self, need: Cost) -> bool:
        """Make the reservation at least this large; False, and nothing changes, if it would pass a cap."""
        more = self._missing(need)
        return more is None or self.arm.ledger.extend(self._reservation, more)

    def pass_on(self) -> None:
        """This sample turned out to contain calls on the same pool: they are the leaves, and pay instead."""
        with self._own:
            if self._state != "started":
                return
            self._state = "passed on"
            need = self._owed
            self.arm.ledger.amend(
                self._reservation,
                Cost(requests=need.requests, prompt_tokens=need.tokens, nanodollars=need.nanodollars),
            )
        self.payer.count_drawn(-1)

    def void(self) -> None:
        """The sample does not run. Only what another sample's request has brought for it is paid.

        After an interrupt this can be done again.
        """
        with self._own:
            self._state = "settled"
            paid_ahead, used = self._is_paid_ahead, self._owed
        if not self._reservation.open:
            return
        if not paid_ahead:
            self.arm.ledger.refund(self._reservation)
            return
        beyond = self._beyond or self.arm.ledger.exceeds(self._reservation, used)
        self.arm.ledger.settle(self._reservation, used)
        if beyond:
            self.payer.used_beyond()
        self.arm.settled(used, used)

    # ---- inside its own lock, or the pool's and its own

    def _charge_within(self, bound: Cost) -> Charge | None:
        """Charge a request to what is set aside; None if that is not enough."""
        with self._own:
            need = self._need(bound)
            if self._state == "settled" or self._missing(self._with_sample(need)) is not None:
                return None
            return self._booked(bound, need)

    @step
    def _charge_more(self, bound: Cost) -> Charge | None:
        """Set more aside for a request and charge it; None if a cap forbids that."""
        with self._own:
            need = self._need(bound)
            if self._state == "settled":
                return None
            whole = self._with_sample(need)
            if not self.hold(whole):
                held, needing = self._reservation.amount, "this one needs {} with its next request"
                self.lacking = lacking(self.arm.ledger, whole, needing, held=held)
                return None
            return self._booked(bound, need)

    def _charge_nothing(self, bound: Cost) -> Charge | None:
        """Charge nothing for a request that DSPy's cache will answer."""
        with self._own:
            if self._state == "settled":
                return None
            return self._booked(NOTHING, self._need(bound))

    @step
    def _hold_used(self) -> None:
        """Hold what was used beyond what is set aside, past a cap too, so that the next reservation sees it."""
        with self._own:
            if self._state == "settled":
                return
            more = self._missing(self._owed)
            if more is not None and not self.arm.ledger.extend(self._reservation, more):
                self._beyond = True
                self.arm.ledger.hold_at_least(self._reservation, self._reservation.amount + more)

    def _booked(self, bound: Cost, need: Cost) -> Charge:
        charge = Charge(bound)
        self._unanswered.add(charge)
        self._peak = self._peak.at_least(need)
        return charge

    def _need(self, bound: Cost) -> Cost:
        """What has to be held once another request of this bound is under way."""
        return self._owed + bound

    def _with_sample(self, need: Cost) -> Cost:
        """For a sample that an earlier run has paid for nothing is held, so that it has to be paid as a whole."""
        return need + ONE_SAMPLE if self.redo else need

    def _missing(self, need: Cost) -> Cost | None:
        """What is to be reserved besides what is held; None if that is enough. Tokens are not told apart."""
        held = self._reservation.amount
        if held.covers(need):
            return None
        return Cost(
            samples=max(need.samples - held.samples, 0),
            requests=max(need.requests - held.requests, 0),
            prompt_tokens=max(need.tokens - held.tokens, 0),
            nanodollars=max(need.nanodollars - held.nanodollars, 0),
        )

    @property
    def _owed(self) -> Cost:
        """What its requests came to; those without an outcome at their bounds."""
        owed = self._used
        for charge in self._unanswered:
            owed += charge.bound
        return owed

    @property
    def _makes_requests(self) -> bool:
        """Whether samples like this one make any, as far as is known."""
        need = self.arm.learned.need
        return need is None or need.requests > 0

    @property
    def _is_paid_ahead(self) -> bool:
        """Whether a request of another sample has brought this one's answer: there is nothing left to save."""
        return self._used != NOTHING or bool(self._unanswered)

"""Arms and tickets: what one call may draw, and what one sample holds, owes and cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from dynscale_dspy.allocation.costs import METERED, Cost, CostRecord, relative_cost
from dynscale_dspy.allocation.gains import GainEstimator
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.budget.accounts import Ledger, Reservation

if TYPE_CHECKING:
    from dynscale_dspy.budget.pool import BudgetPool


ONE_REQUEST = Cost(requests=1)


class Profile:
    """What a pool has learned of one program's samples.

    Args:
        need: The most that a sample has held at once, unit by unit: with so much set aside the next one can finish.
        first: The same of calls' first samples, which see no earlier ones and so need less.
        record: What samples have cost.
        pilots: Its open calls.
        conditioning: What seeing earlier samples changes.
    """

    __slots__ = ("conditioning", "first", "need", "pilots", "record")

    def __init__(self) -> None:
        self.need: Cost | None = None
        self.first: Cost | None = None
        self.record = CostRecord()
        self.pilots = 0
        self.conditioning = GainEstimator()


class Arm:
    """The pool's view of one call while it is open: what it may draw and what it has cost.

    Every method is safe from any thread. Each reserved sample is a :class:`Ticket`.
    """

    def __init__(
        self,
        pool: BudgetPool,
        outer: Ticket | None,
        *,
        program: object | None,
        requests: int,
        key: bytes | None = None,
        known: bool = False,
    ) -> None:
        self.pool = pool
        self.outer = outer
        self.known = known
        self.key = key
        self.hopeless = False
        self.record = CostRecord()
        self.ledger: Ledger = pool._ledger_for(program)
        self._program = program
        self._profile = pool._profile(program)
        self._requests_guess = requests
        # Samples that an earlier run of the same call has paid for: if DSPy's cache still holds them they are free.
        self.paid = pool._store.paid(key) if key is not None else frozenset()
        self._made = 0
        self._waiting: list[Ticket] = []
        self._unstarted: set[Ticket] = set()
        self._drawn = Cost()
        self._charged = Cost()
        self._open = True

    @property
    def requests_each(self) -> int:
        """Calls to set aside for one sample: the most one has made, or the guess before any has finished."""
        need = self._profile.need
        return max(need.requests, 1) if need is not None else self._requests_guess

    def each(self, unit: str) -> float:
        """What one sample takes of a unit: the most for calls, the mean for tokens and dollars; 0 if not known yet."""
        if unit == "samples":
            return 1
        if unit == "requests":
            return self.requests_each
        return self._profile.record.mean(unit) or self.pool._record.mean(unit)

    def cost_mean(self, unit: str) -> float:
        """What this call's next sample is expected to cost, from its own samples and those of its module."""
        return self.record.expected(unit, self._profile.record)

    def relative_cost(self) -> float:
        """The expected cost over the pool's mean, in the unit of tokens or dollars that runs out first; else 1."""
        unit = self.pool._binding_unit()
        return 1.0 if unit is None else relative_cost(self.cost_mean(unit), self.pool._record.mean(unit))

    @property
    def waiting(self) -> int:
        """Tickets reserved and not yet taken."""
        return len(self._waiting)

    def take(self) -> Ticket:
        """The next reserved ticket."""
        with self.pool._locked():
            return self._waiting.pop(0)

    def request(self, tally: Tally, room: int) -> int:
        """Online: ask for more samples.

        As many are granted together as are each worth the price, supposing those before them to agree with the leader:
        one at a time where budget is short, several where it is plenty.

        Args:
            tally: The call's votes so far; nothing may be in flight.
            room: The most the call can use now.

        Returns:
            The number granted, now waiting as tickets; 0 means stop.
        """
        with self.pool._locked():
            return self._grant(tally, room, pending=0)

    @property
    def measured(self) -> bool:
        """Whether a sample of this program has finished, so that it is known what one takes."""
        return self._profile.need is not None

    def pull(self, requests: int | None = None) -> bool:
        """Reserve one more sample, of so many calls if told, whatever the price; False if the caps forbid it now."""
        with self.pool._locked():
            return not self.pool._halted() and bool(self._reserve(1, requests=requests))

    def fund(self) -> bool:
        """Known set: set aside what the next waiting ticket will need in tokens and dollars; False if not now."""
        with self.pool._locked():
            ticket = self._waiting[0]
            return ticket.redo or ticket._hold(self._metered(first=ticket.index == 0))

    def close(self) -> None:
        """The call is over: samples that were reserved and not started are free again, and will not start.

        Closing twice does nothing.
        """
        pool = self.pool
        with pool._locked():
            if not self._open:
                return
            self._open = False
            for ticket in self._unstarted:
                ticket._void()
            self._unstarted.clear()
            self._waiting.clear()
            self._profile.pilots -= 1
            for node in pool._chain:
                node._open_calls -= 1
                node._closed_calls += 1
                node._samples_per_call[self._drawn.samples] += 1
            pool._freed()
            if self.outer is not None and self.outer.pool._root is pool._root:
                return  # the enclosing call answers for it
            pool._pacing.closed(self, self._charged)

    def _grant(self, tally: Tally, room: int, *, pending: int) -> int:
        """Reserve what is worth the price; inside the pool's lock. Returns how many."""
        pool = self.pool
        if pool._halted():
            return 0
        pacing = pool._pacing
        price = pacing.price_for(self)
        if self._counts_requests and self._program is not None and not self.measured:
            # Until one has finished only first samples are let in: many more at once could each spend what another
            # needs to finish, and none would.
            return 0
        credit = pacing.credit(self)
        relative = self.relative_cost() if pool.policy.is_gain else 1.0
        granted = bought = 0
        while granted < room:
            free = self._made in self.paid
            ahead = pending + granted
            worth = pool.policy.index(tally, pending=ahead, total=pool._drawn + ahead) / relative
            if not free and (bought >= credit or worth <= price.value):
                break
            if not self._reserve(1):
                break
            granted += 1
            bought += not free
        if bought:
            price.granted(bought, per_call=pacing.per_call_of(self))
        return granted

    @property
    def _counts_requests(self) -> bool:
        return any(self.ledger.capped(unit) for unit in ("requests", *METERED))

    def _metered(self, *, first: bool) -> Cost:
        """Tokens and dollars to set aside for one sample; at least one of each, so that none begins on nothing."""
        need = (self._profile.first if first else None) or self._profile.need or Cost()
        return Cost(
            prompt_tokens=max(need.tokens, 1) if self.ledger.capped("tokens") else 0,
            nanodollars=max(need.nanodollars, 1) if self.ledger.capped("nanodollars") else 0,
        )

    def _reserve(self, count: int, requests: int | None = None, *, metered: bool = True) -> int:
        """Up to ``count`` more tickets; inside the pool's lock. Returns how many."""
        ledger = self.ledger
        reserved = 0
        while reserved < count:
            redo = self._made in self.paid
            if redo:
                amount = Cost()
            else:
                # As many calls as a sample is known to make, so that one that is let in can finish; a guess may be too
                # high, and is no reason to refuse.
                if requests is not None or self.measured:
                    aside = requests or self.requests_each
                else:
                    aside = max(1, int(min(self.requests_each, ledger.remaining("requests"))))
                amount = Cost(samples=1, requests=aside)
                if metered:
                    amount += self._metered(first=self._made == 0)
            reservation = ledger.reserve(amount)
            if reservation is None:
                break
            ticket = Ticket(self, reservation, self._made, redo=redo)
            self._made += 1
            self._waiting.append(ticket)
            self._unstarted.add(ticket)
            reserved += 1
        return reserved

    def _started(self, ticket: Ticket) -> None:
        self._unstarted.discard(ticket)
        for node in self.pool._chain:
            node._drawn += 1

    def _settled(self, cost: Cost, charged: Cost) -> None:
        """A sample of this call, or of one nested in it on the same pool, is over."""
        self._drawn += cost
        self._charged += charged


class Charge:
    """One language-model request that is paid for and not answered yet."""

    __slots__ = ("bound",)

    def __init__(self, bound: Cost) -> None:
        self.bound = bound


class Ticket:
    """One reserved sample: started, charged request by request, settled once.

    Args:
        arm: Its call.
        reservation: What is set aside for it.
        index: Its position among the call's samples.
        redo: Whether an earlier run paid for it. Nothing is set aside then until DSPy's cache turns out not to have it.
    """

    def __init__(self, arm: Arm, reservation: Reservation, index: int = 0, *, redo: bool = False) -> None:
        self.arm = arm
        self.pool = arm.pool
        self.index = index
        self.redo = redo
        self.free = False
        self._reservation = reservation
        self._state: Literal["reserved", "started", "passed on", "settled"] = "reserved"
        self._used = Cost()
        self._replayed = Cost()
        self._unanswered: set[Charge] = set()
        self._peak = Cost()
        self._beyond = False
        self._refused = False
        self._nested = Cost()

    def start(self) -> bool:
        """Begin the sample; False if its call was closed or the pool stopped meanwhile, and then it must not run."""
        with self.pool._locked():
            if self._state != "reserved" or self.arm.hopeless:
                return False
            if self.pool._halted() and not self._paid_ahead:
                return False
            self._state = "started"
            self.arm._started(self)
            return True

    def call(
        self, bound: Cost = ONE_REQUEST, *, bounded: bool = True, cached: Callable[[], bool] | None = None
    ) -> Charge | None:
        """Charge one request that is about to be made; None if it cannot be paid, and then it must not be made.

        Args:
            bound: The most it can cost.
            bounded: Whether that is so; otherwise it may come to more.
            cached: Tells whether DSPy's cache has the answer; asked only if the request of a sample that an earlier run
                has paid for could not be paid again.
        """
        with self.pool._locked():
            if self._state == "settled":
                return None
            if self.pool._late():
                self._refused = True
                return None
            need = sum((charge.bound for charge in self._unanswered), self._used + bound)
            charge = Charge(bound)
            if not self._hold(need + Cost(samples=1) if self.redo else need):
                if not (self.redo and cached is not None and cached()):
                    self._refused = True
                    return None
                charge = Charge(Cost())
            self._beyond = self._beyond or not bounded
            self._unanswered.add(charge)
            self._peak = self._peak.at_least(need)
            return charge

    def answered(self, charge: Charge, used: Cost) -> None:
        """A request is over, well or badly, and came to so much. Nothing is done about one of a settled sample."""
        with self.pool._locked():
            if self._state == "settled" or charge not in self._unanswered:
                return
            self._unanswered.discard(charge)
            if self.redo and used.cached_requests:
                self._replayed += used
                return
            self._used += used
            if self._beyond:
                self._hold(self._used)  # if it does not fit, it is spent all the same when the sample ends

    def settle(self, failure: BaseException | None = None, *, permanent: bool = False) -> Cost:
        """The sample is over, well or badly. Returns what it cost, nested calls on the same pool included.

        Requests without an outcome, as after a cancellation, are charged at their bound: nobody knows what the provider
        makes of them.

        Args:
            failure: The error of the program, if it had one; so many in a row stop the pool.
            permanent: Whether the call's other samples would fail alike: those that have not begun will not.
        """
        pool = self.pool
        with pool._locked():
            if self._state == "settled":
                return Cost()
            whole = self._state == "started"
            self.arm.hopeless = self.arm.hopeless or permanent
            used = self._owed
            self._unanswered.clear()
            self.free = self.redo and used == Cost()
            charged = Cost() if self.free else used + Cost(samples=1 if whole else 0)
            self._state = "settled"
            sample = (self.arm.key, self.index) if whole and self.arm.key is not None else None
            self.arm.ledger.settle(self._reservation, charged, beyond=self._beyond, sample=sample)
            cost = used + self._replayed + Cost(samples=1 if whole else 0)
            if not self._refused:
                profile = self.arm._profile
                profile.need = self._peak.at_least(profile.need or Cost())
                if self.index == 0:
                    profile.first = self._peak.at_least(profile.first or Cost())
            if whole:
                for record in (self.arm.record, self.arm._profile.record, *(node._record for node in pool._chain)):
                    record.add(cost)
                if not self._refused:
                    pool._outcome(failure)
            self.arm._settled(cost, charged)
            total = cost + self._nested
            outer = self.arm.outer
            if outer is not None and outer.pool._root is pool._root:
                outer._nested += total
                outer.arm._settled(total, charged)
            pool._spent_more()
            pool._freed()
            return total

    def _hold(self, need: Cost) -> bool:
        """Make the reservation at least this large; inside the lock. What is held does not tell tokens apart."""
        held = self._reservation.amount
        more = Cost(
            samples=max(need.samples - held.samples, 0),
            requests=max(need.requests - held.requests, 0),
            prompt_tokens=max(need.tokens - held.tokens, 0),
            nanodollars=max(need.nanodollars - held.nanodollars, 0),
        )
        return more == Cost() or self.arm.ledger.extend(self._reservation, more)

    @property
    def _owed(self) -> Cost:
        """What its requests came to; those without an outcome at their bounds."""
        return sum((charge.bound for charge in self._unanswered), self._used)

    @property
    def _paid_ahead(self) -> bool:
        """Whether a request of another sample has brought this one's answer: there is nothing left to save."""
        return self._used != Cost() or bool(self._unanswered)

    def _void(self) -> None:
        self._state = "settled"
        if not self._paid_ahead:
            self.arm.ledger.refund(self._reservation)
            return
        used = self._owed
        self._unanswered.clear()
        self.arm.ledger.settle(self._reservation, used, beyond=self._beyond)
        self.arm._settled(used, used)

    def _pass_on(self) -> None:
        """This sample turned out to contain calls on the same pool: they are the leaves, and pay instead."""
        if self._state == "started":
            self._state = "passed on"
            for node in self.pool._chain:
                node._drawn -= 1
            need = self._owed
            self.arm.ledger.amend(
                self._reservation,
                Cost(requests=need.requests, prompt_tokens=need.tokens, nanodollars=need.nanodollars),
            )

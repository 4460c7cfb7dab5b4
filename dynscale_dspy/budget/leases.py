"""Arms and leases: what one call may draw, and what one sample holds, owes and cost."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from dynscale_dspy.allocation.costs import FREE, METERED, NOTHING, Cost, CostRecord, expected_cost, relative_cost
from dynscale_dspy.allocation.evidence import Evidence
from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.allocation.pacing import Pacing
from dynscale_dspy.allocation.policies import Policy
from dynscale_dspy.allocation.repeats import LOOK
from dynscale_dspy.allocation.requests import LaterDemand, PricedSizes
from dynscale_dspy.budget.accounts import Accounts, Ledger, Reservation
from dynscale_dspy.budget.locking import StepLock, step
from dynscale_dspy.budget.shortages import lacking
from dynscale_dspy.errors import StorageError

logger = logging.getLogger(__name__)

ONE_REQUEST = Cost(requests=1)
ONE_SAMPLE = Cost(samples=1)

_numbers = itertools.count()


class Program:
    """What a pool keeps of one program.

    Attributes:
        learned: What its samples need, cost and change.
        open_calls: Numbers of its calls that are being answered.
        opened: How many calls it has had.
    """

    __slots__ = ("learned", "open_calls", "opened")

    def __init__(self) -> None:
        self.learned = Learned()
        self.open_calls: set[int] = set()
        self.opened = 0


class Payer(Protocol):
    """What arms and leases need of the pool that pays: :class:`~dynscale_dspy.budget.admission.Admission` is one."""

    lock: StepLock
    policy: Policy
    accounts: Accounts
    min_per_call: int

    @property
    def root(self) -> object:
        """The outermost pool: payers with the same one share a lock and charge each other's samples once."""
        ...

    @property
    def is_late(self) -> bool:
        """Whether a deadline has passed, here or in a pool around."""
        ...

    @property
    def is_halted(self) -> bool:
        """Whether no sample may begin, here or in a pool around."""
        ...

    @property
    def pacing(self) -> Pacing:
        """What paces calls of this pool: its own, or that of a pool around."""
        ...

    @property
    def spare(self) -> float:
        """Samples that calls under way may take, beside those kept for calls that wait for their first."""
        ...

    @property
    def drawn(self) -> int:
        """Samples drawn so far, over all calls."""
        ...

    def ledger_for(self, program: object | None) -> Ledger:
        """The ledger that a program's samples are charged to."""
        ...

    def program(self, program: object | None) -> Program:
        """What is kept of a program."""
        ...

    def paid(self, key: bytes | None) -> frozenset[int]:
        """The samples of a call that an earlier run has paid for."""
        ...

    def count_drawn(self, samples: int) -> None:
        """So many more samples were drawn, here and in every pool around."""
        ...

    def sample_settled(
        self, cost: Cost | None, failure: BaseException | None, *, cut_off: bool, saved: Cost | None
    ) -> None:
        """A sample is over, inside the lock.

        Args:
            cost: What it cost; None for one that did not run as a whole.
            failure: The error of the program, if it had one.
            cut_off: Whether one of its requests could not be paid.
            saved: What DSPy's cache has saved of it, if samples are counted in ones like it; else None.
        """
        ...

    def used_beyond(self) -> None:
        """More was used than was set aside for it: caps may be passed. Inside the lock."""
        ...

    def call_closed(self, arm: Arm, *, samples: int, charged: Cost | None) -> None:
        """A call is over, inside the lock.

        Args:
            arm: Its arm.
            samples: How many it drew.
            charged: What it was charged; None for a nested call, for which the one around it answers.
        """
        ...


class Arm:
    """The pool's view of one call while it is open: what it may draw and what it has cost.

    Every method is safe from any thread. Each reserved sample is a :class:`Lease`.

    Args:
        payer: The pool that pays.
        outer: The lease of the sample that this call is made in, if any.
        program: Whose samples these are.
        requests: A guess of the requests that one makes, until one has finished.
        key: A name of the call that outlives the process.
        known: Whether it is one of a known set of calls.
        beside: Whether it helps another call that has its answer, as a judge's does, and is none of the user's calls.
    """

    def __init__(
        self,
        payer: Payer,
        outer: Lease | None = None,
        *,
        program: object | None = None,
        requests: int = 1,
        key: bytes | None = None,
        known: bool = False,
        beside: bool = False,
    ) -> None:
        self.number = next(_numbers)
        """Tells it from all other calls of this process."""
        self._open = False
        self._unstarted: set[Lease] = set()
        self.payer = payer
        self.lock = payer.lock
        self.outer = outer
        self.known = known
        self.beside = beside
        self.key = key
        self._hopeless: set[str] = set()
        self.ledger: Ledger = payer.ledger_for(program)
        self._named = program is not None
        self._program = payer.program(program)
        self.learned = self._program.learned
        self._requests_guess = requests
        # Samples that an earlier run of the same call has paid for: if DSPy's cache still holds them they are free.
        self.paid = payer.paid(key)
        self._made = 0
        self._waiting: list[Lease] = []
        self._records: dict[str, CostRecord] = {}
        self._drawn = self._charged = NOTHING
        self._price = 0.0
        self._due = 0
        self.is_sized = False
        """Whether the samples last granted are those of one request, of the size that is worth most."""
        self.later: LaterDemand | None = None
        """What it is to draw after its first request, where that is of such a size and not samples set the pace."""
        self._looks = False

    # ---- what a sample takes

    @property
    def is_nested(self) -> bool:
        """Whether it is made in a sample of the same pool, which answers for it."""
        return self.outer is not None and self.outer.payer.root is self.payer.root

    @property
    def is_open(self) -> bool:
        """Whether the call goes on."""
        return self._open

    @property
    def is_measured(self) -> bool:
        """Whether a sample of this program has finished, so that it is known what one takes."""
        return self.learned.need is not None

    @property
    def has_pilots(self) -> bool:
        """Whether calls of this program are open, so that what its samples take will soon be known."""
        return len(self._program.open_calls) > 0

    def requests_each(self, sampler: str = "") -> int:
        """Requests to set aside for one sample: the most one has made, or the guess before any has finished."""
        need = self.learned.need_of(sampler)
        return max(need.requests, 1) if need is not None else self._requests_guess

    def each(self, unit: str) -> float:
        """What one sample takes of a unit: requests at most, tokens and dollars on average; 0 if not known yet.

        Of several language models it is a sample of the first: a mean over all moves as others are asked.
        """
        if unit == "samples":
            return 1
        if unit == "requests":
            return self.requests_each()
        accounts = self.payer.accounts
        return self.learned.usual.mean(unit) or self.learned.cost.mean(unit) or accounts.record.mean(unit)

    def bounds(self, unit: str) -> tuple[float, float]:
        """The most that a first sample, and any sample, takes of tokens or nanodollars."""
        need, first = self._metered(self.learned.need), self._metered(self.learned.first_need)
        return getattr(first, unit), getattr(need, unit)

    def fits(self, sampler: str, *, first: bool) -> bool:
        """Whether a sample would fit if what is in flight turned out to cost no tokens and no money.

        Args:
            sampler: What would draw it.
            first: Whether it would be the first of its call.
        """
        need = self._metered(self.learned.need_of(sampler, first=first))
        return all(self.ledger.unspent(unit) >= getattr(need, unit) for unit in METERED)

    @step
    def may_obtain(self, sampler: str) -> bool:
        """Known set: whether a sample that :meth:`obtain` has refused may fit once what is in flight has ended.

        Args:
            sampler: What would draw it.
        """
        try:
            return self.fits(sampler, first=not (self._waiting[0].index if self._waiting else self._made))
        except StorageError as error:
            logger.warning("whether a further sample fits is not known now: %s", error)
            return True

    def lacking(self) -> str:
        """Which caps forbid its first sample, in words; empty if none does."""
        return lacking(self.ledger, self._amount("", None, metered=True), "a first sample needs {}")

    def relative_cost(self, sampler: str = "") -> float:
        """Expected cost of this call's next sample over what one usually costs in this pool, in what runs out first.

        1 where that is samples or requests, or nothing is known.
        """
        unit = self.payer.accounts.binding_unit
        if unit is None:
            return 1.0
        if unit == "nanodollars" and self.learned.is_free(sampler):
            return FREE
        record = self._records.get(sampler) or CostRecord()
        mean = self.learned.mean_of(sampler, unit)
        expected = expected_cost(getattr(record.total, unit), record.samples, mean)
        accounts = self.payer.accounts
        return relative_cost(expected, accounts.usual.mean(unit) or accounts.record.mean(unit))

    def _request_sizes(self, samplers: Sequence[str], together: int) -> PricedSizes | None:
        """How large the next request is to be; None where each of its samples is weighed by itself.

        Args:
            samplers: What would draw its samples.
            together: How many at most may come from it.
        """
        unit = self.payer.accounts.binding_unit
        if together == 1 or not samplers or unit is None or not self.payer.policy.is_gain or self.has_models:
            return None
        record = self.learned.of(samplers[0]).cost
        return PricedSizes.of(record if record.samples else self.learned.cost, unit, self.each(unit))

    def counts_as(self, sampler: str) -> float:
        """How many samples one of this sampler counts as in the pace of calls: by its cost, where that sets it."""
        if self.learned.of(sampler).is_usual:
            return 1.0
        unit = self.payer.pacing.tightest(self)
        if unit not in METERED:
            return 1.0
        if unit == "nanodollars" and self.learned.is_free(sampler):
            return FREE
        return relative_cost(self.learned.mean_of(sampler, unit), self.each(unit))

    @property
    def has_models(self) -> bool:
        """Whether its samples are drawn from several language models."""
        return self.learned.has_models

    @property
    def beyond_usual(self) -> float:
        """What its samples count as, less their number."""
        return sum(
            (self.counts_as(sampler) - 1) * record.samples
            for sampler, record in self._records.items()
            if not self.learned.of(sampler).is_usual
        )

    # ---- leases

    @property
    def waiting(self) -> int:
        """Leases reserved and not yet taken."""
        return len(self._waiting)

    @step
    def take(self) -> Lease:
        """The next reserved lease."""
        return self._waiting.pop(0)

    @step
    def take_all(self) -> tuple[Lease, ...]:
        """All reserved leases that were not taken, in order."""
        leases = tuple(self._waiting)
        self._waiting.clear()
        return leases

    @step
    def request(
        self,
        evidence: Evidence,
        samplers: Sequence[str],
        *,
        pending: int = 0,
        at_same_price: bool = False,
        together: int = 1,
    ) -> int:
        """Online: ask for more samples.

        As many are granted together as are each worth the price, supposing those before them to agree with the leader:
        one at a time where budget is short, several where it is plenty.

        Args:
            evidence: The call's votes so far.
            samplers: What would draw each of them, as many as the call can use now.
            pending: Samples in flight, or reserved and not drawn yet.
            at_same_price: Whether these are bought together with those just granted, which have raised the price.
            together: How many of these at most, from the first on, may come from one request.

        Returns:
            The number granted, the first of those proposed, now waiting as leases; 0 means stop.
        """
        return self.grant(evidence, samplers, pending=pending, at_same_price=at_same_price, together=together)

    @step
    def pull(self, sampler: str = "", requests: int | None = None) -> bool:
        """Reserve one more sample whatever the price, of so many requests if told; False if the caps forbid it now."""
        return not self.payer.is_halted and bool(self.reserve([sampler], requests=requests))

    @step
    def obtain(self, sampler: str, requests: int) -> Lease | None:
        """Known set: the lease of one more sample, of those guaranteed or a further one; None if it does not fit now.

        Args:
            sampler: What is going to draw it.
            requests: Requests to set aside for a further one.
        """
        if self.payer.is_halted:
            return None
        if self._waiting:
            try:
                if not self._fund(sampler):
                    return None
            except StorageError as error:
                logger.warning("no further sample now: %s", error)
                return None
        elif not self.reserve([sampler], requests=requests):
            return None
        return self._waiting.pop(0)

    def close(self) -> None:
        """The call is over: samples that were reserved and not started are free again, and will not start.

        Closing twice does nothing.
        """
        if self._open or self._unstarted:
            self._close()

    @step
    def _close(self) -> None:
        self.give_up()
        if not self._open:  # it was never opened, or another thread was faster
            return
        self._program.open_calls.discard(self.number)
        charged = None if self.is_nested else self._charged
        self.payer.call_closed(self, samples=self._drawn.samples, charged=charged)
        self.ended()

    def disown(self) -> None:
        """In the child of a fork: the call is the parent's, which closes it and settles its samples."""
        self._open = False
        self.ledger = Ledger()

    # ---- inside the lock

    def ended(self) -> None:
        """The call is counted as closed."""
        self._open = False

    def opened(self) -> None:
        """The call is open; inside the lock."""
        self._open = True
        self._program.open_calls.add(self.number)
        self._program.opened += 1
        self._looks = self._program.opened % LOOK == 0

    def give_up(self) -> None:
        """Free what is reserved and not started; inside the lock."""
        for lease in list(self._unstarted):
            lease.void()
            self._unstarted.discard(lease)
        self._waiting.clear()

    def undo_opening(self) -> None:
        """The call could not be opened: nothing of it stays; inside the lock."""
        self.give_up()
        self._open = False
        self._program.open_calls.discard(self.number)

    def reserve_first(self, samplers: Sequence[str], count: int) -> int:
        """Reserve so many guaranteed samples, or the first that fit; inside the lock. Returns how many.

        If they are more than the samplers, the others are due with those proposed next at the same price.
        """
        reserved = self.reserve(samplers[:count])
        self._due = count - reserved if reserved == len(samplers) else 0
        return reserved

    def first_size(self, guaranteed: int, samplers: Sequence[str], together: int) -> int:
        """Samples to reserve when the call opens: those guaranteed, or as many as its first request is worth.

        Args:
            guaranteed: Those that it draws whatever the price.
            samplers: What would draw them.
            together: How many at most may come from one request.
        """
        sizes, pacing = self._request_sizes(samplers, together), self.payer.pacing
        self.is_sized = sizes is not None
        if sizes is None:
            return guaranteed
        room, _ = self._in_requests(sizes, pacing.credit(self, opening=1))
        wanted = max(guaranteed, int(min(sizes.first(pacing.per_call_of(self)), together, room)))
        if pacing.tightest(self) in METERED:
            self.later = LaterDemand(sizes, wanted)
            price = pacing.price_for(self, at_least=self.payer.min_per_call)
            price.follow(self.later, max(pacing.per_call_of(self) - self.later.opening, 0.0))
        elif wanted > guaranteed:
            self._buy(wanted - guaranteed)
        return wanted

    def _in_requests(self, sizes: PricedSizes, credit: float, samples: int = 0) -> tuple[float, float]:
        """Samples that a request may bring for a credit, and what one for so many counts as in the pace of calls."""
        if self.payer.pacing.tightest(self) in METERED:
            return sizes.room(credit), sizes.cost(samples)
        return credit, samples

    def _buy(self, samples: float) -> None:
        """So many samples beyond the guaranteed ones are granted: the price rises."""
        payer = self.payer
        price = payer.pacing.price_for(self, at_least=payer.min_per_call)
        price.granted(samples, per_call=payer.pacing.per_call_of(self))

    def grant(
        self,
        evidence: Evidence,
        samplers: Sequence[str],
        *,
        pending: int,
        at_same_price: bool = False,
        together: int = 1,
    ) -> int:
        """Reserve the first of these samples that are worth the price; inside the lock. Returns how many."""
        payer = self.payer
        if payer.is_halted:
            return 0
        pacing = payer.pacing
        price = pacing.price_for(self, at_least=payer.min_per_call)
        granted = bought = 0
        paid = 0.0
        if at_same_price:
            granted = self.reserve_first(samplers, self._due)
            if self.is_sized:
                return granted
        else:
            self._price = price.value
        if self._counts_requests and self._named and not self.is_measured:
            # Until one has finished only first samples are let in: many more at once could each spend what another
            # needs to finish, and none would.
            return granted
        credit = min(pacing.credit(self), payer.spare)
        sizes = self._request_sizes(samplers, together)
        self.is_sized = sizes is not None
        if sizes is not None:
            room, _ = self._in_requests(sizes, credit)
            return self._grant_request(sizes, evidence, samplers, pending, min(room, together))
        for sampler in samplers[granted:]:
            free = self._made in self.paid
            ahead = pending + granted
            worth = self._worth(evidence, sampler, ahead)
            if not free and (bought >= credit or worth <= self._price):
                break
            if not self.reserve([sampler]):
                break
            granted += 1
            bought += not free
            paid += 0 if free else self.counts_as(sampler)
        if bought:
            self._buy(paid)
        return granted

    def _grant_request(
        self, sizes: PricedSizes, evidence: Evidence, samplers: Sequence[str], pending: int, most: float
    ) -> int:
        """Reserve the samples of one request, as many as are worth the price together with its prompt."""
        lead, rival = evidence.lead + pending, evidence.rival
        if self._worth(evidence, samplers[0], pending) * sizes.share(lead, rival) <= self._price:
            return 0
        granted = self.reserve_first(samplers, max(int(min(sizes.size(lead, rival, self._price), most)), 0))
        if granted:
            self._buy(self._in_requests(sizes, 0, granted + self._due)[1])
        return granted

    def _worth(self, evidence: Evidence, sampler: str, ahead: int) -> float:
        """The index of a sample that has so many before it, at what it costs."""
        policy = self.payer.policy
        worth = policy.index(evidence, pending=ahead, total=self.payer.drawn + ahead)
        if policy.is_gain:
            promise = self.learned.repeats.promise(evidence, pending=ahead, looking=self._looks)
            worth *= promise / self.relative_cost(sampler)
        return worth

    def reserve(self, samplers: Sequence[str], *, requests: int | None = None, metered: bool = True) -> int:
        """Reserve the first of these samples that fit; inside the lock. Returns how many.

        Where the store fails none fits: the call answers with what it has.

        Args:
            samplers: What draws each; an empty name where that is told later, by :meth:`obtain`.
            requests: Requests of each; by default as many as one is known to make.
            metered: Whether tokens and dollars are set aside now.

        Raises:
            StorageError: If the store fails at the first sample of a call that is being opened.
        """
        reserved = 0
        for sampler in samplers:
            redo = self._made in self.paid
            amount = NOTHING if redo else self._amount(sampler, requests, metered=metered)
            reservation = lease = None
            try:
                reservation = self.ledger.reserve(amount)
                if reservation is None:
                    break
                lease = Lease(self, reservation, self._made, sampler=sampler, redo=redo)
                self._unstarted.add(lease)
            except StorageError as error:
                if not self._open and not reserved:
                    raise  # nothing was had yet
                logger.warning("no further sample now: %s", error)
                break
            except BaseException:  # an interrupt: what no lease stands for would never be given back
                if reservation is not None and lease not in self._unstarted:
                    self.ledger.refund(reservation)
                raise
            self._waiting.append(lease)
            self._made += 1
            reserved += 1
        return reserved

    def _fund(self, sampler: str) -> bool:
        """Set aside what the next guaranteed lease needs in tokens and dollars; False if it does not fit now."""
        lease = self._waiting[0]
        lease.sampler = sampler
        need = self.learned.need_of(sampler, first=lease.index == 0)
        return lease.redo or lease.hold(self._metered(need))

    @property
    def _counts_requests(self) -> bool:
        return self.ledger.capped("requests") or self.ledger.capped("tokens") or self.ledger.capped("nanodollars")

    def _amount(self, sampler: str, requests: int | None, *, metered: bool) -> Cost:
        """What to set aside for the next sample."""
        # As many requests as a sample is known to make, so that one that is let in can finish; a guess may be too
        # high, and is no reason to refuse.
        each = self.requests_each(sampler)
        if requests is not None or self.is_measured:
            aside = requests or each
        else:
            aside = max(1, int(min(each, self.ledger.remaining("requests"))))
        amount = Cost(samples=1, requests=aside)
        if metered:
            need = self.learned.need_of(sampler, first=self._made == 0)
            amount += self._metered(need)
        return amount

    def _metered(self, need: Cost | None) -> Cost:
        """Tokens and dollars to set aside for one sample; at least one of each, so that none begins on nothing."""
        tokens, money = self.ledger.capped("tokens"), self.ledger.capped("nanodollars")
        if not tokens and not money:
            return NOTHING
        need = need or NOTHING
        return Cost(
            prompt_tokens=max(need.tokens, 1) if tokens else 0, nanodollars=max(need.nanodollars, 1) if money else 0
        )

    def lose_hope(self, sampler: str) -> None:
        """Samples that have not begun are not to begin: those of one sampler, or all if the name is empty."""
        self._hopeless.add(sampler)

    def is_hopeless(self, sampler: str) -> bool:
        """Whether a sample of this sampler would fail as one of the call has."""
        return sampler in self._hopeless or "" in self._hopeless

    def _started(self, lease: Lease) -> None:
        self._unstarted.discard(lease)
        self.payer.count_drawn(1)

    def _costed(self, sampler: str, cost: Cost, saved: Cost) -> None:
        """A sample that ran has cost so much, and so much less than without DSPy's cache."""
        self._records.setdefault(sampler, CostRecord()).add(cost, saved)
        self.learned.costed(sampler, cost, saved)

    def _settled(self, cost: Cost, charged: Cost) -> None:
        """A sample of this call, or of one nested in it on the same pool, is over."""
        self._drawn += cost
        self._charged += charged


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
        self.arm._started(self)
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
        arm._unstarted.discard(self)
        cost += self._replayed
        if not self._refused:
            arm.learned.needed(self.sampler, self._peak, index=self.index)
        if whole:
            arm._costed(self.sampler, cost, self._saved)
        saved = self._saved if arm.learned.of(self.sampler).is_usual else None
        payer.sample_settled(cost if whole else None, failure, cut_off=self._refused, saved=saved)
        arm._settled(cost, charged)
        total = cost + self._nested
        if arm.outer is not None and arm.is_nested:
            arm.outer._nested += total
            arm.outer._saved += self._saved
            arm.outer.arm._settled(total, charged)
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
        self.arm._settled(used, used)

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

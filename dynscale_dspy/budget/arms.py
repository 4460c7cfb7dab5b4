"""Arms: what one call may draw, and what it has cost."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

from dynscale_dspy.allocation.costs import METERED, NOTHING, Cost
from dynscale_dspy.allocation.evidence import Evidence
from dynscale_dspy.allocation.repeats import LOOK
from dynscale_dspy.allocation.requests import LaterDemand, PricedSizes
from dynscale_dspy.budget.accounts import Ledger
from dynscale_dspy.budget.leases import Lease
from dynscale_dspy.budget.locking import step
from dynscale_dspy.budget.needs import Needs
from dynscale_dspy.budget.payer import Payer
from dynscale_dspy.errors import StorageError

logger = logging.getLogger(__name__)

_numbers = itertools.count()

ALONE = range(0)
"""No sample is to join the request of another."""


class Arm(Needs):
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
        super().__init__(payer, program, requests)
        self.number = next(_numbers)
        """Tells it from all other calls of this process."""
        self._open = False
        self._unstarted: set[Lease] = set()
        self.lock = payer.lock
        self.outer = outer
        self.known = known
        self.beside = beside
        self.key = key
        self._hopeless: set[str] = set()
        self._named = program is not None
        # Samples that an earlier run of the same call has paid for: if DSPy's cache still holds them they are free.
        self.paid = payer.paid(key)
        self._made = 0
        self._waiting: list[Lease] = []
        self._drawn = self._charged = NOTHING
        self._price = 0.0
        self._due = self._guaranteed = 0
        self.is_sized = False
        """Whether the samples last granted are those of one request, of the size that is worth most."""
        self.later: LaterDemand | None = None
        """What it is to draw after its first request, where that is of such a size and not samples set the pace."""

    @property
    def is_nested(self) -> bool:
        """Whether it is made in a sample of the same pool, which answers for it."""
        return self.outer is not None and self.outer.payer.root is self.payer.root

    @property
    def is_open(self) -> bool:
        """Whether the call goes on."""
        return self._open

    @property
    def has_pilots(self) -> bool:
        """Whether calls of this program are open, so that what its samples take will soon be known."""
        return len(self._program.open_calls) > 0

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
            together: How many of these at most, from the first on, may come from one request; from that of those just
                granted if they are bought together.

        Returns:
            The number granted, the first of those proposed, now waiting as leases; 0 means stop.
        """
        joining = range(together) if at_same_price else range(1, together)
        return self.grant(evidence, samplers, pending=pending, at_same_price=at_same_price, joining=joining)

    @step
    def pull(self, sampler: str = "", requests: int | None = None) -> bool:
        """Reserve one more sample whatever the price, of so many requests if told; False if the caps forbid it now."""
        return not self.payer.is_halted and bool(self.reserve([sampler], requests=requests))

    @step
    def obtain(self, sampler: str, requests: int, *, further: bool = False) -> Lease | None:
        """Known set: the lease of one more sample, of those guaranteed or a further one; None if it does not fit now.

        Args:
            sampler: What is going to draw it.
            requests: Requests to set aside for a further one.
            further: Whether it may come as a further choice of the request of the sample before.
        """
        if self.payer.is_halted:
            return None
        if self._waiting:
            try:
                if not self._fund(sampler, further=further):
                    return None
            except StorageError as error:
                logger.warning("no further sample now: %s", error)
                return None
        elif not self.reserve([sampler], requests=requests, joining=range(further)):
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

    def reserve_first(self, samplers: Sequence[str], count: int, joining: range = ALONE) -> int:
        """Reserve so many guaranteed samples, or the first that fit; inside the lock. Returns how many.

        If they are more than the samplers, the others are due with those proposed next at the same price.

        Args:
            samplers: What draws each.
            count: How many are due.
            joining: See :meth:`reserve`.
        """
        reserved = self.reserve(samplers[:count], joining=joining)
        self._due = count - reserved if reserved == len(samplers) else 0
        return reserved

    def first_size(self, guaranteed: int, samplers: Sequence[str], together: int) -> int:
        """Samples to reserve when the call opens: those guaranteed, or as many as its first request is worth.

        Args:
            guaranteed: Those that it draws whatever the price.
            samplers: What would draw them.
            together: How many at most may come from one request.
        """
        sizes, pacing = self.request_sizes(samplers, together), self.payer.pacing
        self.is_sized, self._guaranteed = sizes is not None, guaranteed
        if sizes is None:
            return guaranteed
        room, _ = self.in_requests(sizes, pacing.credit(self, opening=1))
        most = min(together, room, guaranteed + self.payer.spare)
        wanted = max(guaranteed, int(min(sizes.first(pacing.per_call_of(self)), most)))
        if pacing.tightest(self) in METERED:
            self.later = LaterDemand(sizes, wanted)
            price = pacing.price_for(self, at_least=self.payer.min_per_call)
            price.follow(self.later, max(pacing.per_call_of(self) - self.later.opening, 0.0))
        elif wanted > guaranteed:
            self._buy(wanted - guaranteed)
        return wanted

    def _still_due(self) -> int:
        """Of the samples that are due, those guaranteed and those that other calls have not been granted meanwhile."""
        pacing = self.payer.pacing
        if not self._due or not self.is_sized or pacing.tightest(self) in METERED:
            return self._due
        return min(self._due, max(pacing.credit(self), self._guaranteed - self._made, 0))

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
        joining: range = ALONE,
    ) -> int:
        """Reserve the first of these samples that are worth the price; inside the lock. Returns how many.

        Args:
            evidence: The call's votes so far.
            samplers: What would draw each of them.
            pending: Samples in flight, or reserved and not drawn yet.
            at_same_price: Whether these are bought together with those just granted.
            joining: Which of these, by position, may come as further choices of another one's request: of the first
                one's, or from the first on of that of samples that are drawn before.
        """
        payer = self.payer
        if payer.is_halted:
            return 0
        pacing = payer.pacing
        price = pacing.price_for(self, at_least=payer.min_per_call)
        granted = bought = 0
        paid = 0.0
        if at_same_price:
            granted = self.reserve_first(samplers, self._still_due(), joining)
            if self.is_sized:
                return granted
        else:
            self._price = price.value
            if samplers:
                self._due = 0  # what was due before and not asked for is not wanted
        if self.counts_requests and self._named and not self.is_measured:
            # Until one has finished only first samples are let in: many more at once could each spend what another
            # needs to finish, and none would.
            return granted
        credit = min(pacing.credit(self), payer.spare)
        together = joining.stop if joining.start else 1
        sizes = self.request_sizes(samplers, together)
        self.is_sized = sizes is not None
        if sizes is not None:
            room, _ = self.in_requests(sizes, credit)
            return self._grant_request(sizes, evidence, samplers, pending, min(room, together))
        share = self.share_alone(joining.stop)
        for sampler in samplers[granted:]:
            free = self._made in self.paid
            ahead = pending + granted
            worth = self.worth(evidence, sampler, ahead) * share
            if not free and (bought >= credit or worth <= self._price):
                break
            if not self.reserve([sampler], joining=range(granted in joining)):
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
        if self.worth(evidence, samplers[0], pending) * sizes.share(lead, rival) <= self._price:
            return 0
        size = max(int(min(sizes.size(lead, rival, self._price), most)), 0)
        granted = self.reserve_first(samplers, size, range(1, size))
        if granted:
            self._buy(self.in_requests(sizes, 0, granted + self._due)[1])
        return granted

    def reserve(
        self,
        samplers: Sequence[str],
        *,
        requests: int | None = None,
        metered: bool = True,
        joining: range = ALONE,
    ) -> int:
        """Reserve the first of these samples that fit; inside the lock. Returns how many.

        Where the store fails none fits: the call answers with what it has.

        Args:
            samplers: What draws each; an empty name where that is told later, by :meth:`obtain`.
            requests: Requests of each; by default as many as one is known to make.
            metered: Whether tokens and dollars are set aside now.
            joining: Which of these, by position, may come as further choices of another one's request.

        Raises:
            StorageError: If the store fails at the first sample of a call that is being opened.
        """
        reserved = 0
        for place, sampler in enumerate(samplers):
            redo, amount = self._made in self.paid, NOTHING
            if not redo:
                first, further = self._made == 0, place in joining
                amount = self.amount(sampler, requests, first=first, metered=metered, further=further)
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

    def _fund(self, sampler: str, *, further: bool) -> bool:
        """Set aside what the next guaranteed lease needs in tokens and dollars; False if it does not fit now."""
        lease = self._waiting[0]
        lease.sampler = sampler
        return lease.redo or lease.hold(self.need(sampler, first=lease.index == 0, further=further))

    def lose_hope(self, sampler: str) -> None:
        """Samples that have not begun are not to begin: those of one sampler, or all if the name is empty."""
        self._hopeless.add(sampler)

    def is_hopeless(self, sampler: str) -> bool:
        """Whether a sample of this sampler would fail as one of the call has."""
        return sampler in self._hopeless or "" in self._hopeless

    def begun(self, lease: Lease) -> None:
        """A sample has begun."""
        self._unstarted.discard(lease)
        self.payer.count_drawn(1)

    def is_over(self, lease: Lease) -> None:
        """A sample has ended, whether it had begun or not."""
        self._unstarted.discard(lease)

    def settled(self, cost: Cost, charged: Cost) -> None:
        """A sample of this call, or of one nested in it on the same pool, is over."""
        self._drawn += cost
        self._charged += charged

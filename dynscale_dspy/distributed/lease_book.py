"""Leases: one budget spent in many places, each with a chunk of it and the price that all of them share.

A lease is one reservation in the ledger. It grows with every renewal and is settled once, when it is closed; so the
ledger's own promise, spent + reserved within every cap, is the promise of all holders together. Nothing here waits,
knows a clock or a network: the time comes in, and messages may be lost, repeated or answered by a book that was
restored in between.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from dataclasses import astuple, dataclass, field
from typing import Any, Protocol

from dynscale_dspy.allocation.costs import UNITS, Cost
from dynscale_dspy.allocation.pricing import Allowance, ShadowPrice
from dynscale_dspy.budget.accounts import Ledger
from dynscale_dspy.budget.stores.base import fits

NOTHING = Cost()
CHUNK = 64
"""Samples' worth of budget that a holder asks for. Half of it is spent before it asks again, so that a message stands
for 32 samples."""
LEAST = 16
"""Samples between two reports of a holder that is not out of budget."""
SHARE = 2
"""Of what is free, a lease gets at most this part of an even share: guided self-scheduling, by which all holders come
to the end together (Polychronopoulos and Kuck 1987)."""


@dataclass(frozen=True)
class Report:
    """What a holder tells of its lease, and what it asks for.

    Args:
        lease: The lease; the first report of a new name opens one.
        number: 1, 2, 3, ...; a report without an answer is sent again as it was.
        used: What finished samples have cost, all since the lease was opened.
        held: What samples in flight hold.
        limits: What ``used + held`` may come to by unit, as the holder goes by it now: what it was granted, or less if
            it gives some back. None for a unit without a cap.
        want: What it would like to have in hand.
        need: What it cannot do without.
        waiting: Calls that wait for their first sample; what they need is given before all else.
        committed: What it has spent or will, by unit of pace, all since the lease was opened.
        counts: By unit of pace, what was added to the :attr:`Allowance.counts` since the latest answer.
        price: Where its price stands, if it has one.
        moved: How far that has moved since the latest answer; None if that brought no price.
        open_calls: Calls being answered.
        closed_calls: How many calls drew how many samples, of those closed since the latest answer.
        where: Which process this is, for people.
    """

    lease: str
    number: int
    used: Cost
    held: Cost
    limits: Mapping[str, int | None]
    want: Cost = NOTHING
    need: Cost = NOTHING
    waiting: int = 0
    committed: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    price: tuple[float, ...] | None = None
    moved: tuple[float, ...] | None = None
    open_calls: int = 0
    closed_calls: Mapping[int, int] = field(default_factory=dict)
    where: str = ""


@dataclass(frozen=True)
class Grant:
    """The answer to a report.

    Args:
        number: The report's.
        limits: What ``used + held`` of the lease may come to by unit.
        more: Whether asking again may bring more.
        allowances: The holder's part of the pace.
        price: Where the price of all stands, as :attr:`ShadowPrice.position`; None before anyone has one.
        ended: Whether the lease was closed meanwhile: nothing more may be spent on it.
    """

    number: int
    limits: Mapping[str, int | None]
    more: bool
    allowances: Mapping[str, Allowance]
    price: tuple[float, ...] | None
    ended: bool = False


@dataclass
class _Lease:
    handle: Hashable
    number: int
    limits: dict[str, int | None]
    used: Cost
    held: Cost
    committed: dict[str, float]
    seen: float
    open_calls: int
    where: str
    ended: bool = False

    def room(self, unit: str) -> int:
        limit = self.limits[unit]
        return 0 if limit is None else max(limit - getattr(self.used, unit) - getattr(self.held, unit), 0)

    @property
    def active(self) -> bool:
        return self.open_calls > 0 or self.held != Cost() or any(self.room(unit) for unit in UNITS)


class LeaseBook:
    """Grants, renews and closes leases on a ledger, and keeps the pace and the price of all holders.

    The holder of a lease moves its own price with each of its grants and calls, as any pool does. Its next report adds
    a holder's share of that movement to the price of all, which comes back with the answer: prices are averaged, as
    weights are in local stochastic gradient descent. With one holder they are one and the same; with a thousand, none
    acts on news that a thousand others act on as well, which would swing the price to and fro.

    A holder from which nothing is heard any more keeps what it was granted: what it spent of that unseen cannot be
    known, so giving it to others might pass the cap. Once its own record is read, :meth:`close` gives back the rest;
    where that is lost too, :meth:`reconcile` spends it all.

    Args:
        ledger: The whole budget.
        allowances: The pace of all holders together, by unit.
        patience: Seconds of silence after which a holder is taken for dead.

    Example:
        >>> book = LeaseBook(Ledger(samples=100), {})
        >>> report = Report("a", 1, Cost(), Cost(), {"samples": 0}, want=Cost(samples=64))
        >>> book.renew(report, now=0).limits["samples"]
        50
        >>> book.close("a", Cost(samples=7))
        True
        >>> book.ledger.spent.samples, book.ledger.reserved.samples
        (7, 0)
    """

    def __init__(self, ledger: Ledger, allowances: dict[str, Allowance], *, patience: float = 30.0) -> None:
        self.ledger = ledger
        self.patience = patience
        self.price: tuple[float, ...] | None = None
        """Where the price of all stands, if there is one yet."""
        self.messages = 0
        """Reports answered."""
        self._leases: dict[str, _Lease] = {}
        self._committed: dict[str, float] = dict.fromkeys(UNITS, 0.0)
        # Who spends at present, those longest silent first: a renewal costs the same with ten thousand leases.
        self._order: dict[str, None] = {}
        self.begin(allowances)

    def begin(self, allowances: dict[str, Allowance]) -> None:
        """Go by another pace from now on."""
        self.allowances = allowances
        for unit, allowance in allowances.items():
            # What was spent before is not to be answered for; what holders spend is counted here.
            allowance.excuse(self._committed[unit] - allowance.counts[3])

    def open(self, report: Report, now: float) -> bool:
        """Open the report's lease, with nothing in it, unless it is known. Returns whether it was opened.

        :meth:`renew` does so too. A book that is to outlive its process is noted in between: a reservation whose lease
        nobody remembers would never be given back.
        """
        if report.lease in self._leases:
            return False
        handle = self.ledger.store.reserve(Cost(), {})
        limits = {unit: None if limit is None else 0 for unit, limit in self.ledger.limits.items()}
        lease = self._leases[report.lease] = _Lease(handle, 0, limits, Cost(), Cost(), {}, now, 0, report.where)
        lease.ended = report.number > 1  # what a restored book does not remember had nothing
        return True

    def renew(self, report: Report, now: float) -> Grant:
        """Take note of a report and answer it; the same report again is answered again, and counts once.

        Args:
            report: The report.
            now: The time, in seconds.
        """
        self.messages += 1
        self.open(report, now)
        lease = self._leases[report.lease]
        if lease.ended:
            return Grant(report.number, lease.limits, False, {}, None, ended=True)
        lease.seen = now
        self._order.pop(report.lease, None)
        self._order[report.lease] = None
        if report.number > lease.number:
            lease.number = report.number
            lease.used, lease.held, lease.open_calls = report.used, report.held, report.open_calls
            holders = self.holders(now)
            self._follow(lease, report, holders)
            self._fill(lease, report, holders)
        else:
            holders = self.holders(now)
        return Grant(
            report.number,
            dict(lease.limits),
            self._more(lease, now),
            {unit: whole.part(holders, self._committed[unit]) for unit, whole in self.allowances.items()},
            self.price,
        )

    def close(self, name: str, used: Cost) -> bool:
        """A holder is through, or dead and its record read: spend what it used and free the rest.

        Returns:
            Whether the lease was open; closing it again does nothing.
        """
        lease = self._leases.get(name)
        if lease is None or lease.ended:
            return False
        lease.ended = True
        for allowance in self.allowances.values():
            allowance.count((-lease.open_calls, 0, 0, 0))  # what a dead holder left unanswered comes again
        lease.used, lease.held, lease.open_calls = used, Cost(), 0
        self._order.pop(name, None)
        self.ledger.store.settle(lease.handle, used)
        return True

    def reconcile(self, now: float, *, refund: bool = False) -> Cost:
        """Close the leases of holders that fell silent. Returns how much they had beyond what they had reported.

        Args:
            now: The time, in seconds.
            refund: Whether it is known that they spent nothing unreported; else all that they had is spent.
        """
        left = Cost()
        for name, lease in list(self._leases.items()):
            if lease.ended or now - lease.seen <= self.patience:
                continue
            unknown = _amount({u: max(_or_zero(lease.limits[u]) - getattr(lease.used, u), 0) for u in UNITS})
            left += unknown
            self.close(name, lease.used if refund else lease.used + unknown)
        return left

    @property
    def used(self) -> Cost:
        """What holders of open leases have reported as spent."""
        return sum((lease.used for lease in self._leases.values() if not lease.ended), Cost())

    @property
    def open_calls(self) -> int:
        """Calls being answered, as far as reported."""
        return sum(lease.open_calls for lease in self._leases.values())

    @property
    def open_leases(self) -> int:
        """Leases that are not closed."""
        return sum(not lease.ended for lease in self._leases.values())

    def spending(self, now: float) -> list[str]:
        """Where those are who spend at present."""
        return [self._leases[name].where for name in self._order] if self.holders(now) else []

    def holders(self, now: float) -> int:
        """How many spend at present; at least 1."""
        # Ordered by when they were last heard of: the silent ones come first.
        for name in list(self._order):
            lease = self._leases[name]
            if now - lease.seen <= self.patience:
                break
            del self._order[name]
        return max(1, len(self._order))

    @property
    def names(self) -> list[str]:
        """All leases that ever were."""
        return list(self._leases)

    # ---- for a book that outlives its process

    def dump(self, *names: str) -> dict[str, Any]:
        """Leases by name, and the pace under an empty name, as plain data for JSON."""
        data: dict[str, Any] = {"": self._dump_pace()}
        for name in names:
            lease = self._leases.get(name)
            if lease is not None:
                fields = vars(lease) | {"used": astuple(lease.used), "held": astuple(lease.held)}
                data[name] = fields
        return data

    def load(self, data: Mapping[str, Any], now: float) -> None:
        """Take up what :meth:`dump` gave. Every holder counts as heard of just now."""
        for name, fields in data.items():
            if name:
                lease = _Lease(**{**fields, "used": Cost(*fields["used"]), "held": Cost(*fields["held"]), "seen": now})
                self._leases[name] = lease
                if not lease.ended and lease.active:
                    self._order[name] = None
            else:
                self._load_pace(fields)

    # ---- inside

    def _follow(self, lease: _Lease, report: Report, holders: int) -> None:
        """Pace and price go where this holder went, by its share."""
        for unit, counts in report.counts.items():
            if unit in self.allowances:
                self.allowances[unit].count(counts)
        for unit, committed in report.committed.items():
            self._committed[unit] += committed - lease.committed.get(unit, 0.0)
            lease.committed[unit] = committed
        if self.price is None:
            self.price = report.price
        elif report.moved is not None:
            self.price = tuple(now + step / holders for now, step in zip(self.price, report.moved, strict=True))

    def _fill(self, lease: _Lease, report: Report, holders: int) -> None:
        """Take back what the holder gives back, and add what it may have of what it wants."""
        limits: dict[str, int | None] = {}
        for unit, cap in self.ledger.limits.items():
            kept = report.limits.get(unit)
            if cap is None or kept is None:
                limits[unit] = lease.limits[unit]
                continue
            busy = getattr(report.used, unit) + getattr(report.held, unit)
            # What was granted and never arrived is not kept: this report was written without it.
            kept = max(min(kept, _or_zero(lease.limits[unit])), busy)
            spent, reserved = self.ledger.store.totals()
            free = cap - getattr(spent, unit) - getattr(reserved, unit) + _or_zero(lease.limits[unit]) - kept
            room = kept - busy
            need = getattr(report.need, unit)
            # Of what is free, one sample of each announced call that has not come is kept for it.
            spare = max(free - self._coming, 0) if unit == "samples" else free
            fair = min(getattr(report.want, unit) - room, max(free // (SHARE * holders), LEAST))
            more = max(min(spare, max(need - room, fair)), min(free, need * report.waiting - room), 0)
            limits[unit] = kept + more
        if self.ledger.store.amend(lease.handle, _amount(limits), self.ledger.limits):
            lease.limits = limits
        if not lease.active:
            self._order.pop(report.lease, None)

    @property
    def _coming(self) -> int:
        """Announced calls of which no holder has told yet."""
        allowance = next(iter(self.allowances.values()), None)
        if allowance is None or allowance.expected is None:
            return 0
        return max(math.ceil(allowance.expected - allowance.counts[0]), 0)

    def _more(self, lease: _Lease, now: float) -> bool:
        """Whether something is free in every unit, or may come back from a holder that is alive."""
        spent, reserved = self.ledger.store.totals()
        for unit, cap in self.ledger.limits.items():
            if cap is None or lease.room(unit) > 0:
                continue
            if cap - getattr(spent, unit) - getattr(reserved, unit) > 0:
                continue
            others = (self._leases[name] for name in self._order)
            if not any(other is not lease and now - other.seen <= self.patience for other in others):
                return False
        return True

    def _dump_pace(self) -> dict[str, Any]:
        return {
            "allowances": {
                unit: [allowance.per_call, allowance.first, allowance.expected, *allowance.counts]
                for unit, allowance in self.allowances.items()
            },
            "committed": dict(self._committed),
            "price": self.price,
        }

    def _load_pace(self, fields: Mapping[str, Any]) -> None:
        self.allowances.clear()
        for unit, (per_call, first, expected, *counts) in fields["allowances"].items():
            self.allowances[unit] = Allowance(per_call, first=first, expected=expected)
            self.allowances[unit].count(counts)
        self._committed.update(fields["committed"])
        self.price = None if fields["price"] is None else tuple(fields["price"])


class Pace(Protocol):
    """What paces a pool: allowances by unit, and a price once a call has asked for it."""

    allowances: dict[str, Allowance]
    price: ShadowPrice | None


class Holder:
    """A holder's side of its lease: when to report, what, and what an answer changes.

    Between two answers its pace and price move by its own calls alone; an answer puts them where all holders are, plus
    what happened here while it was under way.

    Args:
        lease: A name that no other lease has.
        limits: The limits of the holder's ledger. They are changed here.
        pace: Its pace. It is changed here.
        where: Which process this is, for people.
    """

    def __init__(self, lease: str, limits: dict[str, int | None], pace: Pace, *, where: str = "") -> None:
        self.lease = lease
        self.where = where
        self.limits = limits
        self.pace = pace
        self.more = True
        """Whether asking again may bring more."""
        self.fruitless = 0
        """Answers in a row that brought nothing although something was needed."""
        self.ended = False
        """Whether the lease was closed by someone else: nothing may be spent on it."""
        self._number = 0
        self._taken = 0
        self._rooms: dict[str, int] = {}
        self._counts = {unit: allowance.counts for unit, allowance in pace.allowances.items()}
        self._position: tuple[float, ...] | None = None
        self._sent: tuple[Report, dict[str, tuple[float, ...]]] | None = None
        self._interval = CHUNK // 2

    def opened(self, price: ShadowPrice) -> None:
        """This holder has its first price: it goes where that of all is."""
        if self._position is not None:
            price.move(_difference(self._position, price.position))

    def fits(self, amount: Cost, used: Cost, held: Cost) -> bool:
        """Whether so much can be reserved on the lease."""
        return fits(amount, self.limits, used, held)

    def in_hand(self, used: Cost, held: Cost) -> bool:
        """Whether anything is left of the lease."""
        return any(self._room(unit, used, held) for unit in self.limits)

    def is_low(self, used: Cost, held: Cost, need: Cost) -> bool:
        """Whether it is time to ask for more: half of what was in hand is taken, or what is needed does not fit."""
        taken = used.samples + held.samples - self._taken
        if taken >= LEAST and any(self._room(unit, used, held) <= room // 2 for unit, room in self._rooms.items()):
            return True
        return taken >= self._interval or not self.fits(need, used, held)

    def report(
        self,
        used: Cost,
        held: Cost,
        *,
        committed: Mapping[str, float],
        want: Cost = NOTHING,
        need: Cost = NOTHING,
        waiting: int = 0,
        give_back: bool = False,
        open_calls: int = 0,
        closed_calls: Mapping[int, int] | None = None,
    ) -> Report:
        """The next report. It is to be sent until :meth:`apply` has its answer, before the next is made.

        Args:
            used: See :class:`Report`, also for the others.
            held: What samples in flight hold.
            committed: What is spent or will be.
            want: What to have in hand.
            need: What cannot be done without.
            waiting: Calls that wait for their first sample.
            give_back: Whether to keep only what is used and held.
            open_calls: Calls being answered.
            closed_calls: How many calls drew how many samples.
        """
        if give_back:
            for unit, limit in self.limits.items():
                if limit is not None:
                    self.limits[unit] = min(limit, getattr(used, unit) + getattr(held, unit))
        counts = {unit: allowance.counts for unit, allowance in self.pace.allowances.items()}
        position = None if self.pace.price is None else self.pace.price.position
        self._number += 1
        report = Report(
            self.lease,
            self._number,
            used,
            held,
            dict(self.limits),
            want=want,
            need=need,
            waiting=waiting,
            committed=committed,
            counts={unit: _difference(now, self._counts.get(unit, _NONE)) for unit, now in counts.items()},
            price=position,
            moved=None if position is None or self._position is None else _difference(position, self._position),
            open_calls=open_calls,
            closed_calls=closed_calls or {},
            where=self.where,
        )
        self._sent = report, counts
        self._interval = max(CHUNK, want.samples) // 2
        return report

    def apply(self, grant: Grant) -> None:
        """The answer to the latest report has come."""
        assert self._sent is not None and grant.number == self._sent[0].number
        (report, counts), self._sent = self._sent, None
        self.ended = grant.ended
        if grant.ended:
            self.more = False
            self.limits.update({unit: 0 for unit, limit in self.limits.items() if limit is not None})
            return
        before = dict(self.limits)
        self.limits.update(grant.limits)
        self.more = grant.more
        short = report.need != Cost() and not self.fits(report.need, report.used, report.held)
        grew = any((self.limits[unit] or 0) > (limit or 0) for unit, limit in before.items())
        self.fruitless = self.fruitless + 1 if short and not grew else 0
        self._taken = report.used.samples + report.held.samples
        self._rooms = {
            unit: self._room(unit, report.used, report.held) for unit, limit in self.limits.items() if limit is not None
        }
        for unit, part in grant.allowances.items():
            own = self.pace.allowances.get(unit)
            since = _difference(own.counts, counts.get(unit, own.counts)) if own is not None else _NONE
            part = copy(part)
            part.excuse(report.committed[unit])
            self._counts[unit] = part.counts
            part.count(since)
            self.pace.allowances[unit] = part
        for unit in self.pace.allowances.keys() - grant.allowances.keys():
            del self.pace.allowances[unit]
        if grant.price is not None:
            if self.pace.price is not None:
                # Where it was when the report was written; with what it has moved since it is then ahead of all.
                was = report.price if report.price is not None else self.pace.price.position
                self.pace.price.move(_difference(grant.price, was))
            self._position = grant.price

    def _room(self, unit: str, used: Cost, held: Cost) -> int:
        limit = self.limits[unit]
        return 0 if limit is None else max(limit - getattr(used, unit) - getattr(held, unit), 0)


_NONE = (0.0, 0.0, 0.0, 0.0)


def _difference(now: Sequence[float], then: Sequence[float]) -> tuple[float, ...]:
    return tuple(a - b for a, b in zip(now, then, strict=True))


def _amount(limits: Mapping[str, int | None]) -> Cost:
    """As what a reservation holds, which does not tell tokens apart."""
    samples, requests, tokens, nanodollars = (_or_zero(limits[unit]) for unit in UNITS)
    return Cost(samples=samples, requests=requests, prompt_tokens=tokens, nanodollars=nanodollars)


def _or_zero(limit: int | None) -> int:
    return 0 if limit is None else limit

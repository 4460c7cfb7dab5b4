"""The actor that keeps a published budget: a pool, a book of its leases, and a file that outlives both."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.allocation.pacing import Pacing
from dynscale_dspy.allocation.pricing import ShadowPrice
from dynscale_dspy.budget.accounts import Ledger
from dynscale_dspy.budget.admission import Admission
from dynscale_dspy.budget.breaker import State
from dynscale_dspy.budget.pool import BudgetPool
from dynscale_dspy.budget.shared import Counts
from dynscale_dspy.budget.stores.sqlite import remove_budget
from dynscale_dspy.config import PoolSettings
from dynscale_dspy.distributed.lease_book import Grant, LeaseBook, Report
from dynscale_dspy.errors import StorageError
from dynscale_dspy.reporting.statistics import PoolStatistics


@dataclass(frozen=True)
class Answer:
    """What a holder hears: its grant, and how the pool stands.

    Args:
        grant: Budget, pace and price.
        state: ``"open"``, ``"paused"`` or ``"stopped"``.
        seconds_left: Until the deadline; None without one.
        paced: Whether the user said how much a call may draw on average.
        expected: Calls that were announced, if any were.
    """

    grant: Grant
    state: State
    seconds_left: float | None
    paced: bool
    expected: int | None


@dataclass(frozen=True)
class Published:
    """What a client's pool is made of.

    Args:
        budget: The budget's own name, by which holders name their logs.
        settings: How the pool was made.
        capped: The units that are capped.
    """

    budget: str
    settings: PoolSettings
    capped: tuple[str, ...]


@dataclass(frozen=True)
class LeaseStatistics:
    """How leasing goes.

    Args:
        messages: Reports that the actor has answered since it was started.
        open_leases: Leases not closed, those of dead holders whose record was not found included.
        holders: Those that spend at present, each as ``machine:process id``.
    """

    messages: int
    open_leases: int
    holders: tuple[str, ...]


class Coordinator:
    """Holds the very pool that was published, and answers one message at a time.

    Everything that matters is in the file before an answer goes out, so the actor may be killed at any instant: it
    starts again with its leases.

    Args:
        pool: The pool, kept in a file.
        path: That file.
        expected: Calls announced to it.
        temporary: Whether the file goes when the budget ends.
    """

    def __init__(self, pool: BudgetPool, path: str, expected: int | None, temporary: bool) -> None:
        if not pool.is_durable or not Path(path).exists():
            raise StorageError(f"the budget was in {path} and is not there any more: nothing is granted from a new one")
        self._pool = pool
        self._path = path
        self._temporary = temporary
        self._expected = expected
        if expected is not None and not pool.store.notes():
            pool.expect(expected)  # of a budget that is taken up again some of the calls have come: see _load
        self._budget = uuid.uuid4().hex  # by which holders name their own records, whatever actor keeps the budget
        self._book = LeaseBook(self._ledger, self._pacing.allowances)
        self._load()
        self._save()

    # ---- what holders call

    def settings(self) -> Published:
        """How the pool was made, for a client's to be made alike."""
        capped = tuple(unit for unit, limit in self._ledger.limits.items() if limit is not None)
        return Published(self._budget, self._pool.settings, capped)

    def renew(self, report: Report) -> Answer:
        """Answer a report."""
        now = time.time()
        if self._book.open(report, now):
            self._save(report.lease)
        grant = self._book.renew(report, now)
        self._counts.samples_per_call.update(report.closed_calls)
        self._counts.closed_calls += sum(report.closed_calls.values())
        self._save(report.lease)
        return Answer(grant, self._admission.breaker.state, self._seconds_left(), self._pacing.paced, self._expected)

    def close(self, report: Report) -> None:
        """A holder's last report. What it has in flight counts at its bound."""
        self.renew(report)
        self.close_for(report.lease, report.used + report.held)

    def close_for(self, lease: str, used: Cost) -> bool:
        """The lease of a holder that is through, or dead; see :meth:`LeaseBook.close`."""
        closed = self._book.close(lease, used)
        self._save(lease)
        return closed

    # ---- what people call, through a client

    def statistics(self) -> PoolStatistics:
        """The whole pool, as far as its holders have told. What is leased and not reported counts as reserved."""
        pool, book = self._pool, self._book
        self._counts.open_elsewhere = book.open_calls
        now = pool.statistics()
        price = None
        if book.price is not None:
            any_allowance = next(iter(book.allowances.values()))
            of_all = ShadowPrice.opening(pool.policy, any_allowance.per_call, first=pool.policy.first)
            of_all.move([there - here for there, here in zip(book.price, of_all.position, strict=True)])
            price = of_all.value
        return replace(
            now,
            spent=now.spent + book.used,
            reserved=_known(now.reserved - book.used),
            limits=dict(now.limits),
            samples_per_call=dict(now.samples_per_call),
            distrusted={},
            price=price,
        )

    def leases(self) -> LeaseStatistics:
        """How leasing goes."""
        book = self._book
        return LeaseStatistics(book.messages, book.open_leases, tuple(book.spending(time.time())))

    def control(self, action: str) -> None:
        """``"pause"``, ``"resume"`` or ``"stop"``."""
        getattr(self._pool, action)()
        self._save()

    def expect(self, calls: int) -> None:
        """Announce calls; see :meth:`BudgetPool.expect`."""
        self._pool.expect(calls)
        self._expected = calls
        self._book.begin(self._pacing.allowances)
        self._save()

    def reconcile(self, refund: bool) -> Cost:
        """Close the leases of silent holders; see :meth:`LeaseBook.reconcile`."""
        left = self._book.reconcile(time.time(), refund=refund)
        self._save(*self._book.names)
        return left

    def finish(self) -> None:
        """Close every lease. Of one that its holder did not close all counts as spent."""
        self._book.reconcile(math.inf)
        self._save(*self._book.names)

    def forget(self) -> None:
        """The budget ends."""
        self._pool.store.close()
        if self._temporary:
            remove_budget(Path(self._path))

    # ---- inside

    @property
    def _admission(self) -> Admission:
        return self._pool.admission

    @property
    def _counts(self) -> Counts:
        return self._admission.counts

    @property
    def _ledger(self) -> Ledger:
        return self._admission.accounts.ledger

    @property
    def _pacing(self) -> Pacing:
        return self._admission.pacing

    def _seconds_left(self) -> float | None:
        deadline = self._admission.deadline
        return None if deadline is None else max(deadline - self._admission.shared.clock(), 0.0)

    def _save(self, *leases: str) -> None:
        pace = {
            "budget": self._budget,
            "expected": self._expected,
            "state": self._admission.breaker.state,
            "deadline": self._admission.deadline,
            "samples_per_call": list(self._counts.samples_per_call.items()),
        }
        notes = {f"lease {name}" if name else "pace": data for name, data in self._book.dump(*leases).items()}
        notes["pool"] = pace
        self._pool.store.note({name: json.dumps(data) for name, data in notes.items()})

    def _load(self) -> None:
        notes = {name: json.loads(text) for name, text in self._pool.store.notes().items()}
        if not notes:
            return
        kept = notes["pool"]
        self._budget, self._expected = kept["budget"], kept["expected"]
        self._admission.breaker.state, self._admission.deadline = kept["state"], kept["deadline"]
        self._pacing.expected = self._expected
        self._pacing.paced = self._pacing.paced or self._expected is not None
        self._counts.samples_per_call = Counter(dict(kept["samples_per_call"]))
        self._counts.closed_calls = sum(self._counts.samples_per_call.values())
        leases = {name.removeprefix("lease "): data for name, data in notes.items() if name.startswith("lease ")}
        self._book.load({**leases, "": notes["pace"]}, time.time())


def _known(reserved: Cost) -> Cost:
    """What is reserved does not tell kinds of tokens apart."""
    return Cost(
        samples=max(reserved.samples, 0),
        requests=max(reserved.requests, 0),
        prompt_tokens=max(reserved.tokens, 0),
        nanodollars=max(reserved.nanodollars, 0),
    )

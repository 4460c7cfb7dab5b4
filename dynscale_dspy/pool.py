"""The budget pool: where calls meet. It opens arms, grants pulls, charges and settles."""

from __future__ import annotations

import math
import threading
import weakref
from collections import Counter
from collections.abc import Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from dynscale_dspy import _ambient
from dynscale_dspy.allocation.ledger import Cost, Ledger, Reservation
from dynscale_dspy.allocation.policies import KnowledgeGradient, Policy
from dynscale_dspy.allocation.pricing import Allowance, ShadowPrice
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.errors import BudgetExhausted

DEFAULT_PER_CALL = 8
"""Samples a call is allowed on average where nothing says how many calls will come."""


@dataclass(frozen=True)
class PoolStatistics:
    """A snapshot of a pool, for people and tests.

    Args:
        spent: What finished samples cost.
        reserved: What samples in flight hold.
        limits: Hard caps by unit; None where there is none.
        open_calls: Calls being answered now.
        closed_calls: Calls answered, or failed.
        unscaled_runs: Calls answered by one run outside the budget (``on_empty="run_once"``).
        price: The online shadow price: a sample worth less is refused. None before the first call asks for it.
        samples_per_call: How many closed calls drew how many samples.
    """

    spent: Cost
    reserved: Cost
    limits: Mapping[str, int | None]
    open_calls: int
    closed_calls: int
    unscaled_runs: int
    price: float | None
    samples_per_call: Mapping[int, int]


class BudgetPool:
    """One budget for any number of wrapped modules and calls.

    Caps are hard: under any interleaving of threads and tasks, what is spent and reserved stays within them. Within
    the caps, a bandit puts the next sample where it is worth most: for a known set of calls (:meth:`DynScaling.batch`)
    by comparing all of them; online, as calls come, by a price that moves until spending meets the allowance.

    An online pool paces itself so that early calls cannot drain it. Each call adds ``per_call`` samples to what may be
    drawn; or announce the number of calls with :meth:`expect`, and the cap is spread over them. With neither, a call
    adds :data:`DEFAULT_PER_CALL` samples until the cap is reached.

    Args:
        samples: Cap on samples, runs of a wrapped program.
        calls: Cap on language-model calls; a sample may make several. A sample whose next call cannot be paid is cut
            off there and casts no vote.
        per_call: Samples a call may draw on average, at least 1. A private pool, ``DynScaling(program, budget=8)``,
            has this and no cap.
        policy: Whom to sample next; :class:`KnowledgeGradient` by default.
        on_empty: What a call does that finds not even one sample left: ``"raise"`` :class:`BudgetExhausted`, or
            ``"run_once"``, one plain run of the program outside the budget.
        seed: Seeds the order in which attempts are shown.

    Raises:
        ValueError: If no limit is given, or one is not a positive number.
        TypeError: If a limit is not a number, or ``policy`` not a policy.

    Example:
        >>> pool = BudgetPool(samples=1000).expect(200)
        >>> pool.statistics().limits["samples"]
        1000
    """

    def __init__(
        self,
        samples: int | None = None,
        *,
        calls: int | None = None,
        per_call: float | None = None,
        policy: Policy | None = None,
        on_empty: Literal["raise", "run_once"] = "raise",
        seed: int = 0,
    ) -> None:
        if samples is None and calls is None and per_call is None:
            raise ValueError("a pool needs a limit: give samples=, calls= or per_call=")
        for name, value in (("samples", samples), ("calls", calls)):
            if value is not None:
                _check_count(name, value)
        if per_call is not None:
            if isinstance(per_call, bool) or not isinstance(per_call, (int, float)):
                raise TypeError(f"per_call must be a number of samples, got {per_call!r}")
            if not (1 <= per_call < math.inf):
                raise ValueError(f"per_call must be a finite number of at least 1, got {per_call!r}")
        if policy is not None and not isinstance(policy, Policy):
            raise TypeError(f"policy must be a Policy such as KnowledgeGradient(), got {policy!r}")
        if on_empty not in ("raise", "run_once"):
            raise ValueError(f"on_empty must be 'raise' or 'run_once', got {on_empty!r}")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed must be an integer, got {seed!r}")
        self.policy = policy or KnowledgeGradient()
        self.on_empty = on_empty
        self.seed = seed
        self._per_call = per_call
        self._expected: int | None = None
        self._lock = threading.Lock()
        self._ledger = Ledger(samples=samples, calls=calls)
        self._flights: dict[Hashable, Future[Any]] = {}
        self._open_calls = 0
        self._closed_calls = 0
        self._unscaled_runs = 0
        self._drawn = 0
        self._samples_per_call: Counter[int] = Counter()
        # The most calls a finished sample of each program has made.
        self._calls_each: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._pace()

    # ---- what users call

    def expect(self, calls: int) -> BudgetPool:
        """Announce how many calls will come, counted from now. Returns the pool.

        The cap is spread over them, and every one is kept its first samples. Without a cap this only tells the
        price how far to look ahead.

        Raises:
            ValueError: If ``calls`` is not positive, or the cap cannot give each call one sample.
        """
        _check_count("calls", calls)
        with self._lock:
            left = min(self._ledger.remaining("samples"), self._ledger.remaining("calls"))
            if left < calls:
                raise ValueError(
                    f"{left:g} samples are left, which cannot give each of the {calls} expected calls one: "
                    "raise the cap or expect fewer"
                )
            self._expected = calls
            self._pace()
        return self

    def statistics(self) -> PoolStatistics:
        """A consistent snapshot."""
        with self._lock:
            return PoolStatistics(
                spent=self._ledger.spent,
                reserved=self._ledger.reserved,
                limits=MappingProxyType(dict(self._ledger.limits)),
                open_calls=self._open_calls,
                closed_calls=self._closed_calls,
                unscaled_runs=self._unscaled_runs,
                price=self._price.value if self._price else None,
                samples_per_call=MappingProxyType(dict(sorted(self._samples_per_call.items()))),
            )

    def __enter__(self) -> BudgetPool:
        """Make this the pool of wrapped modules without one of their own, also in threads that DSPy starts."""
        _ambient.enter(self)
        return self

    def __exit__(self, *exc: object) -> None:
        _ambient.leave()

    def __repr__(self) -> str:
        now = self.statistics()
        parts = []
        for unit in ("samples", "calls"):
            limit = now.limits[unit]
            spent = getattr(now.spent, unit)
            parts.append(f"{spent} {unit}" if limit is None else f"{spent} of {limit} {unit}")
        return f"BudgetPool({', '.join(parts)} spent; {now.closed_calls} calls answered, {now.open_calls} open)"

    # Optimizers copy programs deep and save them whole. A budget is a thing in the world: every copy spends from it,
    # and one loaded from disk is a new pool with the same limits.
    def __deepcopy__(self, memo: dict[int, Any]) -> BudgetPool:
        return self

    def __copy__(self) -> BudgetPool:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        limits = self._ledger.limits
        settings = {
            "calls": limits["calls"],
            "per_call": self._per_call,
            "policy": self.policy,
            "on_empty": self.on_empty,
            "seed": self.seed,
        }
        return _rebuild, (limits["samples"], settings)

    # ---- what plans call

    @property
    def settings(self) -> dict[str, Any]:
        """How a private pool was made: per_call, policy and seed."""
        return {"per_call": self._per_call, "policy": self.policy, "seed": self.seed}

    def open(
        self, room: int, *, outer: Ticket | None = None, program: object | None = None, calls: int = 1
    ) -> Arm | None:
        """Open an arm with its first samples reserved, or return None if not one can be.

        First come the guaranteed ones, then those that are worth the price whatever the first ones say.

        Args:
            room: The most samples the call can use now.
            outer: The ticket of the sample this call is made in, if any. On the same pool that sample's reservation
                passes to this call: what is nested is charged once, at the leaf.
            program: Whose samples these are; the pool learns how many calls one makes.
            calls: A guess of that number, until one has finished.
        """
        with self._lock:
            nested = outer is not None and outer.pool is self
            if nested:
                outer._pass_on()  # type: ignore[union-attr]
            arm = Arm(self, outer, program=program, calls=calls)
            first = arm._reserve(min(self._first(arm), room))
            if not first:
                return None
            self._open_calls += 1
            if not nested:
                for allowance in self._allowances.values():
                    allowance.open()
            arm._grant(self.policy.tally(), room - first, pending=first)
            return arm

    def open_known(
        self, count: int, *, program: object | None = None, calls: int = 1
    ) -> tuple[list[Arm], float, float]:
        """Open the arms of a known set of calls; also returns the samples and the calls they may take together.

        Raises:
            BudgetExhausted: If there is not one sample for each; nothing is opened then.
        """
        with self._lock:
            arms = [Arm(self, None, program=program, calls=calls, known=True) for _ in range(count)]
            limit = self._ledger.remaining("samples")
            if self._paced:
                limit = min(limit, self._credit(arms[0], opening=count))
            calls_left = self._ledger.remaining("calls")
            left = limit if calls_left == math.inf else min(limit, calls_left // arms[0].calls_each)
            if left < count:
                raise BudgetExhausted(
                    f"{left:g} samples are left, which cannot give each of the {count} calls one: raise the budget "
                    "or pass fewer examples"
                )
            first = self.policy.first if left >= count * self.policy.first else 1
            for arm in arms:
                arm._reserve(first)
                if self._paced:
                    for allowance in self._allowances.values():
                        allowance.open()
            self._open_calls += count
            return arms, limit, calls_left

    def flight(self, key: Hashable) -> tuple[Future[Any], bool]:
        """The outcome of a call in flight, and whether the asker is to bring it about.

        The same call made again while it runs (DSPy submits stragglers twice) gets the first one's future.
        """
        with self._lock:
            future = self._flights.get(key)
            if future is not None:
                return future, False
            future = self._flights[key] = Future()
            return future, True

    def land(self, key: Hashable) -> None:
        """The call of :meth:`flight` has its outcome."""
        with self._lock:
            del self._flights[key]

    def count_unscaled_run(self) -> None:
        """A call was answered outside the budget."""
        with self._lock:
            self._unscaled_runs += 1

    @property
    def varies(self) -> bool:
        """Whether a call may ever draw a second sample."""
        return self._per_call != 1

    # ---- inside the lock

    @property
    def _paced(self) -> bool:
        """Whether the user said how many samples a call may draw on average."""
        return self._per_call is not None or self._expected is not None

    def _pace(self) -> None:
        """Set allowances and price anew, from what is left now."""
        spent = {"samples": 0, "calls": 0}
        for unit in spent:
            spent[unit] = getattr(self._ledger.spent, unit) + getattr(self._ledger.reserved, unit)
        each: dict[str, float] = {}
        if self._expected is not None:
            left = {unit: self._ledger.remaining(unit) for unit in spent}
            each = {unit: amount / self._expected for unit, amount in left.items() if amount < math.inf}
        each = each or {"samples": self._per_call or DEFAULT_PER_CALL}
        self._allowances = {
            unit: Allowance(amount, first=self.policy.first, expected=self._expected, committed=spent[unit])
            for unit, amount in each.items()
        }
        self._price: ShadowPrice | None = None

    def _price_for(self, arm: Arm) -> ShadowPrice:
        """The online price, opened when the first call asks for it: a known set needs none."""
        if self._price is None:
            self._price = ShadowPrice.opening(self.policy, self._per_call_of(arm), first=self._first(arm))
        return self._price

    def _first(self, arm: Arm) -> int:
        """Guaranteed samples of a call: never more than its average."""
        return max(1, min(self.policy.first, int(self._per_call_of(arm))))

    def _per_call_of(self, arm: Arm) -> float:
        """Samples a call of this program may draw on average, by the tightest unit."""
        return min(allowance.per_call / arm.each(unit) for unit, allowance in self._allowances.items())

    def _credit(self, arm: Arm, *, opening: int = 0) -> int:
        """Samples of this program that may be drawn now, by the tightest unit."""
        credits = []
        for unit, allowance in self._allowances.items():
            committed = getattr(self._ledger.spent, unit) + getattr(self._ledger.reserved, unit)
            allowance.first = max(allowance.first, self.policy.first * arm.each(unit))
            credits.append(allowance.credit(committed, opening=opening) // arm.each(unit))
        return min(credits)


class Arm:
    """The pool's view of one call while it is open: what it may draw and what it has cost.

    Every method is safe from any thread. Each reserved sample is a :class:`Ticket`.
    """

    def __init__(
        self, pool: BudgetPool, outer: Ticket | None, *, program: object | None, calls: int, known: bool = False
    ) -> None:
        self.pool = pool
        self.outer = outer
        self.known = known
        self._program = program
        self._calls_guessed = calls
        self._waiting: list[Ticket] = []
        self._unstarted: set[Ticket] = set()
        self._drawn = Cost()
        self._open = True

    @property
    def calls_each(self) -> int:
        """Calls to set aside for one sample: the most one has made, or the guess before any has finished."""
        return self.pool._calls_each.get(self._program, self._calls_guessed) if self._program else self._calls_guessed

    def each(self, unit: str) -> int:
        """What one sample takes of a unit."""
        return self.calls_each if unit == "calls" else 1

    @property
    def waiting(self) -> int:
        """Tickets reserved and not yet taken."""
        return len(self._waiting)

    def take(self) -> Ticket:
        """The next reserved ticket."""
        with self.pool._lock:
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
        with self.pool._lock:
            return self._grant(tally, room, pending=0)

    @property
    def measured(self) -> bool:
        """Whether a sample of this program has finished, so that it is known how many calls one makes."""
        return self._program in self.pool._calls_each

    def pull(self, calls: int) -> bool:
        """Known set: reserve one more sample of so many calls, whatever the price; False if the caps forbid it now."""
        with self.pool._lock:
            return bool(self._reserve(1, calls=calls))

    def close(self) -> None:
        """The call is over: samples that were reserved and not started are free again, and will not start.

        Closing twice does nothing.
        """
        pool = self.pool
        with pool._lock:
            if not self._open:
                return
            self._open = False
            for ticket in self._unstarted:
                ticket._void()
            self._unstarted.clear()
            self._waiting.clear()
            pool._open_calls -= 1
            pool._closed_calls += 1
            pool._samples_per_call[self._drawn.samples] += 1
            if self.outer is not None and self.outer.pool is pool:
                return  # the enclosing call answers for it
            targets = []
            for unit, allowance in pool._allowances.items():
                used = getattr(self._drawn, unit)
                if self.known and not pool._paced:
                    allowance.excuse(used)
                else:
                    targets.append(allowance.close(used) / self.each(unit))
            if not self.known:  # a known set is not bought at the price, and must not move it
                first = pool._first(self)
                pool._price_for(self).closed(
                    max(min(targets) - first, 0),
                    per_call=pool._per_call_of(self),
                    used=max(self._drawn.samples - first, 0),
                )

    def _grant(self, tally: Tally, room: int, *, pending: int) -> int:
        """Reserve what is worth the price; inside the pool's lock. Returns how many."""
        pool = self.pool
        price = pool._price_for(self)
        if pool._ledger.limits["calls"] is not None and self._program is not None and not self.measured:
            # Until one has finished only first samples are let in: many more at once could each spend the calls that
            # another needs to finish, and none would.
            return 0
        room = min(room, pool._credit(self))
        granted = 0
        while granted < room:
            ahead = pending + granted
            worth = pool.policy.index(tally, pending=ahead, total=pool._drawn + ahead)
            if worth <= price.value or not self._reserve(1):
                break
            granted += 1
        if granted:
            price.granted(granted, per_call=pool._per_call_of(self))
        return granted

    def _reserve(self, count: int, calls: int | None = None) -> int:
        """Up to ``count`` more tickets; inside the pool's lock. Returns how many."""
        ledger = self.pool._ledger
        reserved = 0
        while reserved < count:
            # As many calls as a sample is known to make, so that one that is let in can finish; a guess may be too
            # high, and is no reason to refuse.
            if calls is not None or self.measured:
                aside = calls or self.calls_each
            else:
                aside = max(1, int(min(self.calls_each, ledger.remaining("calls"))))
            reservation = ledger.reserve(Cost(samples=1, calls=aside))
            if reservation is None:
                break
            ticket = Ticket(self, reservation)
            self._waiting.append(ticket)
            self._unstarted.add(ticket)
            reserved += 1
        return reserved

    def _started(self, ticket: Ticket) -> None:
        self._unstarted.discard(ticket)
        self.pool._drawn += 1

    def _settled(self, cost: Cost, *, whole: bool) -> None:
        """A sample of this call, or of one nested in it on the same pool, is over."""
        self._drawn += cost
        if whole and self._program is not None:
            known = self.pool._calls_each
            known[self._program] = max(known.get(self._program, 1), cost.calls)


class Ticket:
    """One reserved sample: started, charged by the call, settled once."""

    def __init__(self, arm: Arm, reservation: Reservation) -> None:
        self.arm = arm
        self.pool = arm.pool
        self._reservation = reservation
        self._state: Literal["reserved", "started", "passed on", "settled"] = "reserved"
        self._calls = 0
        self._refused = False
        self._nested = Cost()

    def start(self) -> bool:
        """Begin the sample; False if its call was closed meanwhile, and then it must not run."""
        with self.pool._lock:
            if self._state != "reserved":
                return False
            self._state = "started"
            self.arm._started(self)
            return True

    def call(self) -> bool:
        """Charge one language-model call that is about to be made; False if it cannot be paid."""
        with self.pool._lock:
            if self._state == "settled":
                return False
            if self._calls >= self._reservation.amount.calls and not self.pool._ledger.extend(
                self._reservation, Cost(calls=1)
            ):
                self._refused = True
                return False
            self._calls += 1
            return True

    def settle(self, *, tokens: int, dollars: float) -> Cost:
        """The sample is over, well or badly. Returns what it cost, nested calls on the same pool included."""
        with self.pool._lock:
            used = Cost(
                samples=1 if self._state == "started" else 0,
                calls=self._calls,
                # This sample's own usage includes that of nested calls, which they have settled.
                tokens=max(tokens - self._nested.tokens, 0),
                dollars=max(dollars - self._nested.dollars, 0.0),
            )
            self._state = "settled"
            self.pool._ledger.settle(self._reservation, used)
            total = used + self._nested
            self.arm._settled(used, whole=not self._refused)
            outer = self.arm.outer
            if outer is not None and outer.pool is self.pool:
                outer._nested += total
                outer.arm._settled(total, whole=False)
            return total

    def _void(self) -> None:
        self._state = "settled"
        self.pool._ledger.refund(self._reservation)

    def _pass_on(self) -> None:
        """This sample turned out to contain calls on the same pool: they are the leaves, and pay instead."""
        if self._state == "started":
            self._state = "passed on"
            self.pool._drawn -= 1
            self.pool._ledger.shrink(self._reservation, Cost(calls=self._calls))


def _rebuild(samples: int | None, settings: dict[str, Any]) -> BudgetPool:
    return BudgetPool(samples, **settings)


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")

"""The budget pool: where calls meet. It opens arms, grants pulls, charges and settles."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, overload

from dynscale_dspy import _ambient, _deprecated
from dynscale_dspy.allocation.costs import METERED, NANO, UNITS, Cost, CostRecord
from dynscale_dspy.allocation.gains import Conditioning
from dynscale_dspy.allocation.policies import KnowledgeGradient, Policy
from dynscale_dspy.allocation.pricing import Allowance, ShadowPrice
from dynscale_dspy.budget.accounts import Ledger
from dynscale_dspy.budget.leases import Arm, Charge, Profile, Ticket
from dynscale_dspy.budget.prices import Price, check_prices
from dynscale_dspy.budget.stores.base import Store
from dynscale_dspy.budget.stores.memory import MemoryStore
from dynscale_dspy.budget.throttle import Throttle
from dynscale_dspy.errors import BudgetExhausted, UnboundedCost
from dynscale_dspy.reporting.history import CallRecord, History, Moment, Part, Recorder

if TYPE_CHECKING:
    from dynscale_dspy.distributed.client import LeasedPool
    from dynscale_dspy.reporting.live import Watch

__all__ = ["DEFAULT_PER_CALL", "Arm", "BudgetPool", "BudgetWarning", "Charge", "PoolStatistics", "Ticket"]

logger = logging.getLogger(__name__)

DEFAULT_PER_CALL = 8
"""Samples a call is allowed on average where nothing says how many calls will come."""
DEFAULT_MAX_FAILURES = 50
"""Samples in a row that may fail before a pool stops itself."""
PERIODS = {"hour": 3600.0, "day": 86400.0}


@dataclass(frozen=True)
class PoolStatistics:
    """A snapshot of a pool, for people and tests.

    Args:
        spent: What finished samples cost.
        reserved: What samples in flight hold. Their tokens are not told apart into kinds.
        limits: Hard caps by unit; None where there is none.
        seconds_left: Until the deadline; None without one.
        open_calls: Calls being answered now.
        closed_calls: Calls answered, or failed.
        unscaled_runs: Calls answered by one run outside the budget (``on_empty="run_once"``).
        price: The online shadow price: a sample worth less is refused. None before the first call asks for it.
        samples_per_call: How many closed calls drew how many samples.
        distrusted: Usage reports that were not believed, by reason; such requests are charged at their bound.
        state: ``"open"``, ``"paused"`` or ``"stopped"``.
        cause: Why it stopped itself, if it did.
        concurrency: Requests that may be under way now; None without a limit.
    """

    spent: Cost
    reserved: Cost
    limits: Mapping[str, float | None]
    seconds_left: float | None
    open_calls: int
    closed_calls: int
    unscaled_runs: int
    price: float | None
    samples_per_call: Mapping[int, int]
    distrusted: Mapping[str, int] = field(default_factory=dict)
    state: Literal["open", "paused", "stopped"] = "open"
    cause: str = ""
    concurrency: int | None = None

    def metrics(self) -> dict[str, float]:
        """As plain numbers by name, for a tracker: ``mlflow.log_metrics(pool.statistics().metrics())``.

        Example:
            >>> BudgetPool(samples=100).statistics().metrics()["dynscale.left.samples"]
            100.0
        """
        values: dict[str, float] = {}
        for unit in ("samples", "requests", "tokens", "dollars"):
            spent, limit = getattr(self.spent, unit), self.limits.get(unit)
            values[f"dynscale.spent.{unit}"] = float(spent)
            if limit is not None:
                values[f"dynscale.left.{unit}"] = float(limit) - spent - getattr(self.reserved, unit)
        if self.seconds_left is not None:
            values["dynscale.left.seconds"] = self.seconds_left
        values["dynscale.calls.answered"] = float(self.closed_calls)
        values["dynscale.calls.open"] = float(self.open_calls)
        values["dynscale.calls.unscaled"] = float(self.unscaled_runs)
        if self.price is not None:
            values["dynscale.price"] = self.price
        return values


@dataclass(frozen=True)
class BudgetWarning:
    """A pool has spent the share of a cap at which it was to say so.

    Args:
        pool: The pool.
        unit: ``"samples"``, ``"requests"``, ``"tokens"`` or ``"dollars"``.
        spent: What is spent of it.
        limit: The cap.
    """

    pool: BudgetPool
    unit: str
    spent: float
    limit: float

    def __str__(self) -> str:
        return f"{self.spent:g} of {self.limit:g} {self.unit} are spent"


class BudgetPool:
    """One budget for any number of wrapped modules and calls.

    Caps are hard: under any interleaving of threads and tasks, what is spent and reserved stays within them, and
    whichever is reached first ends spending. Within the caps, a bandit puts the next sample where it is worth most: for
    a known set of calls (:meth:`DynScaling.batch`) by comparing all of them; online, as calls come, by a price that
    moves until spending meets the allowance.

    An online pool paces itself so that early calls cannot drain it. Each call adds ``per_call`` samples to what may be
    drawn; or announce the number of calls with :meth:`expect`, and the caps are spread over them. With neither, a call
    adds :data:`DEFAULT_PER_CALL` samples until a cap is reached.

    Before each request the most it can cost in tokens and dollars is set aside, and settled at what the provider
    reports: the cap holds if that bound does. Where there is none (a language model without ``max_tokens``, a price
    nobody knows) a strict pool refuses the request, and any other says once by how much it may be passed.

    Args:
        samples: Cap on samples, runs of a wrapped program.
        requests: Cap on language-model requests, retries included; a sample may make several. A sample whose next
            request cannot be paid is cut off there and casts no vote.
        tokens: Cap on prompt and completion tokens together.
        dollars: Cap on money, to the billionth of a dollar.
        deadline: Seconds from now after which no sample begins and no request is made.
        per_call: Samples a call may draw on average, at least 1. A private pool, ``DynScaling(program, budget=8)``,
            has this and no cap.
        min_per_call: Samples each call draws whatever the price, as long as the caps allow.
        max_per_call: Samples no call may draw more of.
        policy: Whom to sample next; :class:`KnowledgeGradient` by default.
        on_empty: What a call does that finds not even one sample left: ``"raise"`` :class:`BudgetExhausted`, or
            ``"run_once"``, one plain run of the program outside the budget.
        strict: Refuse requests whose cost has no upper bound.
        prices: Dollars per million tokens by model name, for models whose price nobody else knows:
            ``{"hosted_vllm/Qwen3-8B": Price(prompt=0.1, completion=0.4)}``.
        path: A file to keep the budget in. Processes of one machine may share it; what it says survives a crash.
        period: ``"hour"``, ``"day"`` (UTC) or seconds: the caps are for each such period, and begin anew with it.
        clock: Where the time comes from, in seconds since the epoch.
        warn_at: The share of any cap, between 0 and 1, at which to call ``on_warning``, once for each.
        on_warning: Called with a :class:`BudgetWarning`; by default it is logged.
        max_failures: Samples in a row that may fail before the pool stops itself; None for never.
        max_concurrency: Most requests of this process under way at once, in whatever threads and tasks. Halved when
            the server pushes back (status 429 or 503, or replies that take 2.5 times longer than at its best), then
            grows again; a Retry-After is kept to. None for no limit.
        hedge: A quantile of latency such as 0.95: for a request that takes longer a second one is made, the first
            answer wins, and both are paid for. None for never.
        seed: Seeds the order in which attempts are shown.

    Raises:
        ValueError: If no limit is given, or an argument is out of range.
        TypeError: If an argument has the wrong type.
        StorageError: If there is a file at ``path`` that is not a budget of this version. It is left as it is.

    Example:
        >>> pool = BudgetPool(samples=1000, dollars=2.50).expect(200)
        >>> pool.statistics().limits["samples"]
        1000
        >>> with pool.scope(samples=5) as request:  # what is spent here is spent there too
        ...     request
        BudgetPool(0 of 5 samples, 0 requests spent; 0 calls answered, 0 open)
    """

    @_deprecated.renamed(calls="requests")
    def __init__(
        self,
        samples: int | None = None,
        *,
        requests: int | None = None,
        tokens: int | None = None,
        dollars: float | Decimal | None = None,
        deadline: float | None = None,
        per_call: float | None = None,
        min_per_call: int = 1,
        max_per_call: int | None = None,
        policy: Policy | None = None,
        on_empty: str = "raise",
        strict: bool = False,
        prices: Mapping[str, Price] | None = None,
        path: str | PathLike[str] | None = None,
        period: Literal["hour", "day"] | float | None = None,
        clock: Callable[[], float] = time.time,
        warn_at: float | None = None,
        on_warning: Callable[[BudgetWarning], object] | None = None,
        max_failures: int | None = DEFAULT_MAX_FAILURES,
        max_concurrency: int | None = None,
        hedge: float | None = None,
        seed: int = 0,
        _parent: BudgetPool | None = None,
    ) -> None:
        if samples is requests is tokens is dollars is deadline is None and per_call is None:
            raise ValueError(
                "a pool needs a limit: give samples=, requests= or per_call=, or tokens=, dollars= or deadline="
            )
        for name, value in (
            ("samples", samples),
            ("requests", requests),
            ("tokens", tokens),
            ("max_per_call", max_per_call),
        ):
            if value is not None:
                _check_count(name, value)
        _check_count("min_per_call", min_per_call)
        if max_per_call is not None and max_per_call < min_per_call:
            raise ValueError(f"max_per_call must be at least min_per_call={min_per_call}, got {max_per_call!r}")
        for name, value in (("max_failures", max_failures), ("max_concurrency", max_concurrency)):
            if value is not None:
                _check_count(name, value)
        if hedge is not None:
            if isinstance(hedge, bool) or not isinstance(hedge, (int, float)):
                raise TypeError(f"hedge must be a quantile such as 0.95, got {hedge!r}")
            if not 0 < hedge < 1:
                raise ValueError(f"hedge must be a quantile between 0 and 1, such as 0.95, got {hedge!r}")
        if deadline is not None:
            _check_seconds("deadline", deadline)
        if per_call is not None:
            if isinstance(per_call, bool) or not isinstance(per_call, (int, float)):
                raise TypeError(f"per_call must be a number of samples, got {per_call!r}")
            if not (1 <= per_call < math.inf):
                raise ValueError(f"per_call must be a finite number of at least 1, got {per_call!r}")
        if policy is not None and not isinstance(policy, Policy):
            raise TypeError(f"policy must be a Policy such as KnowledgeGradient(), got {policy!r}")
        if on_empty not in ("raise", "run_once"):
            raise ValueError(f"on_empty must be 'raise' or 'run_once', got {on_empty!r}")
        if not isinstance(strict, bool):
            raise TypeError(f"strict must be True or False, got {strict!r}")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed must be an integer, got {seed!r}")
        if warn_at is not None:
            if isinstance(warn_at, bool) or not isinstance(warn_at, (int, float)):
                raise TypeError(f"warn_at must be a number between 0 and 1, got {warn_at!r}")
            if not 0 < warn_at <= 1:
                raise ValueError(f"warn_at must be between 0 and 1, got {warn_at!r}")
        for name, function in (("on_warning", on_warning), ("clock", clock)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be callable, got {function!r}")
        if on_warning is not None and warn_at is None:
            raise ValueError("on_warning needs warn_at=, the share of a cap at which to call it, such as 0.8")
        nanodollars = None if dollars is None else _nanodollars(dollars)
        self._period = _period_of(period)
        self._period_begun: int | None = None
        self.policy = policy or KnowledgeGradient()
        self.on_empty = on_empty
        self.strict = strict
        self.prices = check_prices(prices)
        self.seed = seed
        self.min_per_call = min_per_call
        self.max_per_call = max_per_call
        self._path = path
        self._clock = clock
        self._deadline = None if deadline is None else clock() + deadline
        self._settings: dict[str, Any] = {"deadline": deadline, "period": period, "clock": clock, "warn_at": warn_at}
        self._settings |= {"on_warning": on_warning, "max_failures": max_failures}
        self._settings |= {"max_concurrency": max_concurrency, "hedge": hedge}
        self._own_throttle = None
        if max_concurrency is not None or hedge is not None:
            self._own_throttle = Throttle(max_concurrency, hedge)
        self._max_failures = max_failures
        self._warn_at = warn_at
        self._on_warning = on_warning
        self._warned: set[str] = set()
        self._parent = _parent
        self._chain: tuple[BudgetPool, ...] = (self, *(_parent._chain if _parent is not None else ()))
        self._root = self._chain[-1]
        # One lock for a pool and its scopes, so that a charge to all of them is one step.
        self._lock: threading.Lock = _parent._lock if _parent is not None else threading.Lock()
        self._own_locked = _Locked(self)
        self._todo: list[Callable[[], object]] = []
        self._waiters: list[Future[None]] = []
        self._without_first = 0  # how many of them are calls without a first sample
        self._promised = 0  # first samples that have been fetched for such calls
        self._looking_again = False
        self._shared_as = ""
        self._store: Store = self._root._store if _parent is not None else _open_store(path, clock)
        self._ledger = Ledger(
            samples=samples,
            requests=requests,
            tokens=tokens,
            nanodollars=nanodollars,
            parent=_parent._local if _parent is not None else None,
            store=None if _parent is not None else self._store,
        )
        # Several processes may spend from one file; each paces its own calls by what they alone have drawn.
        self._local = Ledger(parent=self._ledger) if path is not None else self._ledger
        self._shares: weakref.WeakKeyDictionary[Any, tuple[Store, dict[str, int | None]]] = weakref.WeakKeyDictionary()
        self._flights: dict[Hashable, Future[Any]] = {}
        self._running: set[Callable[[], object]] = set()
        self._open_calls = 0
        self._closed_calls = 0
        self._unscaled_runs = 0
        self._drawn = 0
        self._samples_per_call: Counter[int] = Counter()
        self._recorder = Recorder()
        self._open_scopes: list[BudgetPool] = []
        self._distrusted: Counter[str] = Counter()
        self._unbounded: set[tuple[str, str]] = set()
        self._failures = 0
        self._cause: BaseException | None = None
        self._state: Literal["open", "paused", "stopped"] = "open"
        self._begin_period()
        self._record = CostRecord()
        self._profiles: weakref.WeakKeyDictionary[Any, Profile] = weakref.WeakKeyDictionary()
        self._per_call = per_call
        self._own_pacing = _Pacing(self, per_call) if _parent is None or per_call is not None else None

    # ---- what users call

    def expect(self, calls: int) -> BudgetPool:
        """Announce how many calls will come, counted from now. Returns the pool.

        The caps are spread over them, and every one is kept its first samples. Without a cap this only tells the
        price how far to look ahead.

        Raises:
            ValueError: If ``calls`` is not positive, or the cap cannot give each call one sample.
        """
        _check_count("calls", calls)
        with self._locked():
            left = min(self._ledger.remaining("samples"), self._ledger.remaining("requests"))
            if left < calls:
                raise ValueError(
                    f"{left:g} samples are left, which cannot give each of the {calls} expected calls one: "
                    "raise the cap or expect fewer"
                )
            self._own_pacing = _Pacing(self, self._per_call, expected=calls)
        return self

    @_deprecated.renamed(calls="requests")
    @contextlib.contextmanager
    def scope(
        self,
        samples: int | None = None,
        *,
        requests: int | None = None,
        tokens: int | None = None,
        dollars: float | Decimal | None = None,
        deadline: float | None = None,
        per_call: float | None = None,
        max_per_call: int | None = None,
    ) -> Iterator[BudgetPool]:
        """A budget within this one, for what the block calls, in threads that DSPy starts too.

        What calls on this pool spend inside is charged to the scope and to every pool around it, and ends at whichever
        cap is tightest. Scopes nest to any depth. The arguments are those of the pool; what is not given is the pool's.

        Yields:
            The scope, a pool itself: it has statistics, can be paused, stopped, told what to ``expect``.

        Raises:
            ValueError: If no limit is given, or one is out of range.

        Example:
            >>> pool = BudgetPool(samples=100)
            >>> with pool.scope(samples=20) as stage, stage.scope(deadline=30, samples=5) as step:
            ...     step.statistics().limits["samples"], step.available("samples")
            (5, 5)
        """
        if max_per_call is not None:
            _check_count("max_per_call", max_per_call)
        inner = self.active()
        scope = BudgetPool(
            samples,
            requests=requests,
            tokens=tokens,
            dollars=dollars,
            deadline=deadline,
            per_call=per_call,
            min_per_call=self.min_per_call if max_per_call is None else min(self.min_per_call, max_per_call),
            max_per_call=max_per_call,
            policy=self.policy,
            on_empty=self.on_empty,
            strict=self.strict,
            prices=self.prices,
            clock=self._clock,
            max_failures=None,
            seed=self.seed,
            _parent=inner,
        )
        with self._lock:
            inner._open_scopes.append(scope)
        try:
            with scope:
                yield scope
        finally:
            with self._lock:
                inner._open_scopes.remove(scope)

    @overload
    def share(self, module: str) -> LeasedPool: ...

    @overload
    def share(self, module: Any, fraction: float) -> BudgetPool: ...

    def share(self, module: Any, fraction: float | None = None) -> BudgetPool:
        """Share this budget: with other processes and machines under a name, or a part of it with one module.

        ``pool.share("name")`` puts this pool into a named Ray actor, where every process of the cluster can
        :meth:`connect` to it, and returns a client. From then on this object grants nothing: the client does. The
        budget lives until the client's ``end()``, also if this process dies.

        ``pool.share(module, 0.5)`` lets a module spend at most half of the caps, so that it leaves the rest to others,
        and returns the pool.

        Args:
            module: The name; or the wrapped module, or the program in it.
            fraction: For a module: above 0, at most 1.

        Raises:
            ValueError: If the fraction is out of range, the pool has no cap, or a share would be nothing; if the name
                is taken, or the pool has something that cannot be shared: open calls, a period, a warning, a share.
            ImportError: If Ray is not installed and a name is given.
        """
        if isinstance(module, str) and fraction is None:
            from dynscale_dspy.distributed.client import share

            return share(self, module)
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)):
            raise TypeError(f"fraction must be a number, got {fraction!r}")
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1, got {fraction!r}")
        limits = {
            unit: None if limit is None else math.floor(limit * fraction) for unit, limit in self._ledger.limits.items()
        }
        if all(limit is None for limit in limits.values()):
            raise ValueError("this pool has no cap to share: make it with samples=, requests=, tokens= or dollars=")
        if 0 in limits.values():
            raise ValueError(f"fraction={fraction!r} of the caps is less than one: raise the caps or the fraction")
        with self._locked():
            store = self._shares[module][0] if module in self._shares else MemoryStore()
            self._shares[module] = (store, limits)
        return self

    @staticmethod
    def connect(name: str) -> LeasedPool:
        """The client of a pool that some process of this Ray cluster shared as ``name``; one for each process.

        Raises:
            LookupError: If there is none.
            ImportError: If Ray is not installed.
        """
        from dynscale_dspy.distributed.client import connect

        return connect(name)

    def pause(self) -> None:
        """Let no further sample begin until :meth:`resume`. Calls wait; samples under way finish.

        May be called from any thread, as may ``resume`` and ``stop``. In a synchronous call inside a running event
        loop, which cannot wait, a paused pool is an empty one.
        """
        with self._locked():
            if self._state == "open":
                self._state = "paused"

    def resume(self) -> None:
        """Go on after :meth:`pause`, after :meth:`stop`, or after the pool stopped itself."""
        with self._locked():
            self._state, self._cause, self._failures = "open", None, 0
            self._freed()

    def stop(self, *, cancel: bool = False) -> None:
        """Let no further sample begin. Samples under way finish, and calls answer with what they have.

        Args:
            cancel: Also cut off samples that run as asyncio tasks: their connections are closed at once, and what was
                asked is charged at its bound. Threads cannot be cut off.
        """
        with self._locked():
            self._state = "stopped"
            self._freed()
            if cancel:
                self._root._todo.extend(self._running)

    @contextlib.contextmanager
    def cancellable(self, cancel: Callable[[], object]) -> Iterator[None]:
        """While the block runs, ``stop(cancel=True)`` on this pool or one around it calls this function."""
        with self._locked():
            for node in self._chain:
                node._running.add(cancel)
        try:
            yield
        finally:
            with self._locked():
                for node in self._chain:
                    node._running.discard(cancel)

    @property
    def stopped(self) -> bool:
        """Whether this pool or one around it was stopped."""
        return any(pool._state == "stopped" for pool in self._chain)

    def available(self, unit: Literal["samples", "requests", "tokens", "dollars"]) -> float:
        """What may still be reserved of a unit, here and in every pool around; infinite without a cap."""
        if unit == "calls":
            _deprecated.warn("the unit 'calls'", "'requests'")
            unit = "requests"
        if unit not in ("samples", "requests", "tokens", "dollars"):
            raise ValueError(f"unit must be 'samples', 'requests', 'tokens' or 'dollars', got {unit!r}")
        with self._locked():
            if unit == "dollars":
                return self._ledger.remaining("nanodollars") / NANO
            return self._ledger.remaining(unit)

    def reconcile(self, *, refund: bool = False) -> Cost:
        """Settle what processes that have died had in flight, for a pool with a ``path``. Returns how much that was.

        Until then it stays reserved, and so counts against the caps.

        Args:
            refund: Whether it is known to have cost nothing, from the provider's own records say. By default it is
                spent, as it most likely is.
        """
        reconcile = getattr(self._store, "reconcile", None)
        if reconcile is None:
            return Cost()
        with self._locked():
            settled = reconcile(refund=refund)
            self._freed()
        return settled

    def statistics(self) -> PoolStatistics:
        """A consistent snapshot."""
        return self._statistics()

    def _statistics(self) -> PoolStatistics:
        """As far as this process knows."""
        with self._locked():
            price = self._pacing.price
            spent, reserved = self._ledger.store.totals()
            return PoolStatistics(
                spent=spent,
                reserved=reserved,
                limits=MappingProxyType(_in_dollars(self._ledger.limits)),
                seconds_left=None if self._deadline is None else max(self._deadline - self._clock(), 0.0),
                open_calls=self._open_calls,
                closed_calls=self._closed_calls,
                unscaled_runs=self._unscaled_runs,
                price=price.value if price else None,
                samples_per_call=MappingProxyType(dict(sorted(self._samples_per_call.items()))),
                distrusted=MappingProxyType(dict(self._distrusted)),
                state=self._state,
                cause=type(self._cause).__name__ if self._cause is not None else "",
                concurrency=self.throttle.allowed if self.throttle is not None else None,
            )

    def parts(self) -> list[Part]:
        """What the shares of modules and the scopes that are open now have spent, and may."""
        with self._locked():
            parts = [
                Part(module, store.totals()[0], _in_dollars(limits), None)
                for module, (store, limits) in self._shares.items()
            ]
            scopes = list(self._open_scopes)
        for scope in scopes:
            now = scope.statistics()
            parts.append(Part(None, now.spent, now.limits, now.seconds_left))
        return parts

    @property
    def history(self) -> History:
        """The latest calls, spending and price over time, and what each program has spent."""
        return self._recorder.history()

    def watch(self, *, interval: float = 0.5) -> Watch:
        """A live view of this pool: redrawn in place in a notebook, a table in a terminal.

        Args:
            interval: Seconds between two looks.

        Returns:
            A view that runs until its ``close()``, or until the end of a ``with`` block.

        Raises:
            ValueError: If ``interval`` is not a positive number.
            ImportError: In a terminal, if rich is not installed.

        Example:
            ```python
            with pool.watch():
                qa.batch(examples)
            ```
        """
        from dynscale_dspy.reporting.live import Watch

        _check_seconds("interval", interval)
        return Watch(self, interval=interval)

    def __enter__(self) -> BudgetPool:
        """Make this the pool of wrapped modules without one of their own, also in threads that DSPy starts."""
        _ambient.enter(self)
        return self

    def __exit__(self, *exc: object) -> None:
        _ambient.leave()

    def __repr__(self) -> str:
        now = self.statistics()
        parts = []
        for unit in ("samples", "requests", "tokens", "dollars"):
            limit = now.limits[unit]
            spent = getattr(now.spent, unit)
            if limit is not None:
                digits = ".9g" if unit == "dollars" else ""
                parts.append(f"{spent:{digits}} of {limit:{digits}} {unit}")
            elif unit in ("samples", "requests"):
                parts.append(f"{spent} {unit}")
        if now.seconds_left is not None:
            parts.append(f"{now.seconds_left:.3g} s left")
        state = "" if now.state == "open" else f"; {now.state}{f' by {now.cause}' if now.cause else ''}"
        answered = f"{now.closed_calls} calls answered, {now.open_calls} open"
        return f"BudgetPool({', '.join(parts)} spent; {answered}{state})"

    def __str__(self) -> str:
        from dynscale_dspy.reporting import text

        # Before anything has happened there is nothing to add to one line.
        now = self.statistics()
        return text.pool(self) if now.closed_calls or now.open_calls else repr(self)

    def _repr_html_(self) -> str:
        from dynscale_dspy.reporting import html

        return html.pool(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    # Optimizers copy programs deep and save them whole. A budget is a thing in the world: every copy spends from it,
    # and one loaded from disk is a new pool with the same limits, or the same one if it lives in a file.
    def __deepcopy__(self, memo: dict[int, Any]) -> BudgetPool:
        return self

    def __copy__(self) -> BudgetPool:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        limits = self._ledger.limits
        nanodollars = limits["nanodollars"]
        settings = {
            "requests": limits["requests"],
            "tokens": limits["tokens"],
            "dollars": None if nanodollars is None else Decimal(nanodollars) / NANO,
            "per_call": self._per_call,
            "min_per_call": self.min_per_call,
            "max_per_call": self.max_per_call,
            "policy": self.policy,
            "on_empty": self.on_empty,
            "strict": self.strict,
            "prices": dict(self.prices),
            "path": self._path,
            "seed": self.seed,
            **self._settings,
        }
        return _rebuild, (limits["samples"], settings)

    # ---- what plans call

    def active(self) -> BudgetPool:
        """The innermost scope of this pool that this code runs in, or the pool itself."""
        return next((pool for pool in reversed(_ambient.entered()) if self in pool._chain), self)

    @property
    def settings(self) -> dict[str, Any]:
        """How a private pool was made: per_call, policy and seed."""
        return {"per_call": self._per_call, "policy": self.policy, "seed": self.seed}

    def open(
        self,
        room: int,
        *,
        outer: Ticket | None = None,
        program: object | None = None,
        requests: int = 1,
        key: bytes | None = None,
    ) -> Arm | None:
        """Open an arm with its first samples reserved, or return None if not one can be.

        First come the guaranteed ones, then those that are worth the price whatever the first ones say.

        Args:
            room: The most samples the call can use now.
            outer: The ticket of the sample this call is made in, if any. On the same pool that sample's reservation
                passes to this call: what is nested is charged once, at the leaf.
            program: Whose samples these are; the pool learns what one takes.
            requests: A guess of the requests it makes, until one has finished.
            key: A name of the call that outlives the process, for a pool kept in a file.
        """
        arm = self.open_or_wait(room, outer=outer, program=program, requests=requests, key=key)
        return None if isinstance(arm, Future) else arm

    def open_or_wait(
        self,
        room: int,
        *,
        outer: Ticket | None = None,
        program: object | None = None,
        requests: int = 1,
        key: bytes | None = None,
    ) -> Arm | Future[None] | None:
        """As :meth:`open`; or a future to wait for before trying again.

        There is one while the pool is paused, and while what a first sample needs in tokens or dollars is only held,
        at its upper bound, by samples in flight. A call inside another sample never waits: that sample holds budget.
        """
        with self._locked():
            if self._halted():
                return self._wait_for_change() if self._paused() and outer is None else None
            nested = outer is not None and outer.pool._root is self._root
            arm = Arm(self, outer, program=program, requests=requests, key=key)
            if outer is None and self._must_wait(arm):
                return self._wait_for_change()
            if nested:
                outer._pass_on()  # type: ignore[union-attr]
            pacing = self._pacing
            first = arm._reserve(min(pacing.first(arm), room))
            if not first:
                wait = self._root._short(first=True) or (outer is None and self._would_fit(arm))
                self._root._without_first += wait
                return self._wait_for_change() if wait else None
            self._root._promised = max(self._root._promised - 1, 0)
            arm._profile.pilots += 1
            for node in self._chain:
                node._open_calls += 1
            if not nested:
                pacing.opened(arm)
            arm._grant(self.policy.tally(), room - first, pending=first)
            return arm

    def open_known(
        self,
        count: int,
        *,
        program: object | None = None,
        requests: int = 1,
        keys: Sequence[bytes | None] | None = None,
    ) -> tuple[list[Arm], float, float]:
        """Open the arms of a known set of calls; also returns the samples and the requests they may take together.

        Raises:
            BudgetExhausted: If there is not one sample for each; nothing is opened then.
        """
        with self._locked():
            if self._halted() and not self._paused():
                raise BudgetExhausted(self._why_empty()) from self._cause_of()
            arms = [
                Arm(self, None, program=program, requests=requests, key=keys[i] if keys else None, known=True)
                for i in range(count)
            ]
            ledger, pacing = arms[0].ledger, self._pacing
            limit = ledger.remaining("samples")
            if pacing.paced:
                limit = min(limit, pacing.credit(arms[0], opening=count))
            requests_left = ledger.remaining("requests")
            left = limit if requests_left == math.inf else min(limit, requests_left // arms[0].requests_each)
            # What an earlier run of these calls has paid for is there again.
            paid = sum(len(arm.paid) for arm in arms)
            without = sum(not arm.paid for arm in arms)
            if left < without:
                raise BudgetExhausted(
                    f"{left:g} samples are left, which cannot give each of the {without} calls one: raise the budget "
                    "or pass fewer examples"
                )
            enough = left + paid >= count * self.policy.first
            first = max(self.policy.first if enough else 1, self.min_per_call if not paid else 1)
            for round_ in range(first):
                for arm in arms:
                    if arm.waiting == round_:
                        arm._reserve(1, metered=False)
            for arm in arms:
                if pacing.paced:
                    pacing.opened(arm)
                arm._profile.pilots += 1
                for node in self._chain:
                    node._open_calls += 1
            return arms, limit + paid, requests_left + paid * arms[0].requests_each

    def gate(self) -> Future[None] | None:
        """What to wait for while the pool is paused, or more budget is just being fetched; None otherwise."""
        with self._locked():
            return self._wait_for_change() if self._paused() or self._root._short() else None

    def change(self) -> Future[None]:
        """Done when something that was held is free again."""
        with self._locked():
            return self._wait_for_change()

    def flight(self, key: Hashable) -> tuple[Future[Any], bool]:
        """The outcome of a call in flight, and whether the asker is to bring it about.

        The same call made again while it runs (DSPy submits stragglers twice) gets the first one's future.
        """
        with self._locked():
            future = self._flights.get(key)
            if future is not None:
                return future, False
            future = self._flights[key] = Future()
            return future, True

    def land(self, key: Hashable) -> None:
        """The call of :meth:`flight` has its outcome."""
        with self._locked():
            del self._flights[key]

    def record(self, call: CallRecord) -> None:
        """A call was answered: remember it, here and in every pool around."""
        for node in self._chain:
            node._recorder.add(call, node._moment())

    def note(self) -> None:
        """A sample of a known set has finished: its calls all end together, and the curves are not to wait for that."""
        for node in self._chain:
            node._recorder.note(node._moment)

    def _moment(self) -> Moment:
        now = self._statistics()
        return Moment(self._clock(), now.spent, now.price, now.closed_calls)

    def count_unscaled_run(self) -> None:
        """A call was answered outside the budget."""
        with self._locked():
            self._unscaled_runs += 1

    def exhausted(self) -> BudgetExhausted:
        """The error of a call for which nothing is left."""
        with self._locked():
            error = BudgetExhausted(self._why_empty() if self._halted() else "")
            error.__cause__ = self._cause_of()
        if not error.args[0]:
            around = " within ".join(map(repr, self._chain))  # any of them may be the one that is empty
            error.args = (f"nothing is left for a first sample: {around}",)
        return error

    def distrust(self, reason: str) -> None:
        """A provider's report of usage was not believed."""
        with self._locked():
            for node in self._chain:
                node._distrusted[reason] += 1
            first = self._root._distrusted[reason] == 1
        if first:
            logger.warning("a language model reported %s; such requests are charged at their upper bound", reason)

    def unbounded(self, model: str, lacking: str, overshoot: str) -> None:
        """A request is about to be made whose cost has no upper bound.

        Raises:
            UnboundedCost: If the pool is strict; nothing is spent then.
        """
        if self.strict:
            raise UnboundedCost(
                f"a strict pool cannot let {model} be called, for nothing bounds what that costs: {lacking}"
            )
        with self._locked():
            first = (model, lacking) not in self._root._unbounded
            self._root._unbounded.add((model, lacking))
        if first:
            logger.warning(
                "nothing bounds what a request to %s costs: %s. The budget may be passed by %s for each request in "
                "flight; strict=True refuses such requests",
                model,
                lacking,
                overshoot,
            )

    def refused(self) -> BudgetExhausted:
        """The error of a sample that was cut off."""
        with self._locked():
            if self._late():
                return BudgetExhausted("the deadline of the pool passed in the middle of a sample")
        return BudgetExhausted("the pool could not pay the next language-model call in the middle of a sample")

    @property
    def throttle(self) -> Throttle | None:
        """What requests of samples pass on their way out; None for nothing."""
        return self._root._own_throttle

    @property
    def varies(self) -> bool:
        """Whether a call may ever draw a second sample."""
        return self._per_call != 1 and self.most_per_call != 1

    @property
    def most_per_call(self) -> float:
        """The most samples one call may draw, here and in every pool around."""
        return min((pool.max_per_call or math.inf for pool in self._chain), default=math.inf)

    @property
    def lasting(self) -> bool:
        """Whether the budget outlives this process."""
        return self._root._path is not None

    @property
    def root(self) -> BudgetPool:
        """The pool around all scopes, this one included: samples on the same root are paid from the same budget."""
        return self._root

    def caps(self, unit: str) -> bool:
        """Return True if a unit is capped, here or in a pool around.

        Args:
            unit: ``"samples"``, ``"requests"``, ``"tokens"`` or ``"nanodollars"``.
        """
        return self._ledger.capped(unit)

    @property
    def metered(self) -> bool:
        """Whether tokens or dollars are capped, here or in a pool around."""
        return any(self._ledger.capped(unit) for unit in METERED)

    def conditioning(self, program: object) -> Conditioning:
        """What this pool has learned of a wrapped module's two kinds of samples."""
        with self._locked():
            return self._profile(program).conditioning

    @property
    def binding_unit(self) -> str | None:
        """``"tokens"`` or ``"nanodollars"``, if that is the cap of which most is spent."""
        with self._locked():
            return self._binding_unit()

    @property
    def halted(self) -> bool:
        """Whether no sample may begin: stopped, paused, or past the deadline."""
        with self._locked():
            return self._halted()

    @property
    def holds_elsewhere(self) -> bool:
        """Whether samples in flight hold tokens or dollars, so that waiting for them may help."""
        with self._locked():
            return any(getattr(self._ledger.reserved, unit) > 0 for unit in METERED)

    # ---- inside the lock

    def _locked(self) -> _Locked:
        """Hold the lock; futures are resolved and callbacks called when it is let go."""
        return self._root._own_locked

    def _tend(self) -> None:
        """Called at the end of each step: for pools whose budget comes from elsewhere."""

    def _short(self, *, first: bool = False) -> bool:
        """Whether a sample does not fit now for which budget is on its way; a first sample is worth a longer wait."""
        return False

    def _begin_period(self) -> None:
        if self._period is None:
            return
        number = int(self._clock() // self._period)
        if number != self._period_begun:
            first, self._period_begun = self._period_begun is None, number
            self._store.roll(number)
            if not first:
                for store in (self._local.store, *(store for store, _ in self._shares.values())):
                    store.roll(number)
                self._warned.clear()
                self._own_pacing = _Pacing(self, self._per_call, expected=None)
                self._freed()

    def _ledger_for(self, program: object | None) -> Ledger:
        """The ledger that a program's samples are charged to: its share's, where it has one."""
        ledger = self._local
        if program is None:
            return ledger
        for node in self._chain:
            for module in (program, getattr(program, "module", None)):
                share = node._shares.get(module) if module is not None else None
                if share is not None:
                    ledger = Ledger(**share[1], parent=ledger, store=share[0])
        return ledger

    def _profile(self, program: object | None) -> Profile:
        if program is None:
            return Profile()
        return self._root._profiles.setdefault(program, Profile())

    @property
    def _pacing(self) -> _Pacing:
        return next(pool._own_pacing for pool in self._chain if pool._own_pacing is not None)

    def _binding_unit(self) -> str | None:
        """Tokens or dollars, if that is the cap of which most is spent."""
        shares = {unit: self._ledger.used_share(unit) for unit in UNITS if self._ledger.capped(unit)}
        if not any(unit in shares for unit in METERED):
            return None
        # Of equal shares, as in the beginning, what costs money counts.
        unit = max(shares, key=lambda unit: (shares[unit], UNITS.index(unit)))
        return unit if unit in METERED else None

    def _must_wait(self, arm: Arm) -> bool:
        """Whether a first sample of this program is to finish before others begin, so that their needs are known."""
        return self.metered and not arm.measured and arm._profile.pilots > 0

    def _would_fit(self, arm: Arm) -> bool:
        """Whether a first sample would fit if what is in flight turned out to cost nothing."""
        if not self.metered or self._ledger.remaining("samples") < 1 or self._ledger.remaining("requests") < 1:
            return False
        need = arm._metered(first=True)
        return all(arm.ledger.unspent(unit) >= getattr(need, unit) for unit in METERED)

    def _halted(self) -> bool:
        return self._late() or any(pool._state != "open" for pool in self._chain)

    def _paused(self) -> bool:
        states = [pool._state for pool in self._chain]
        return "paused" in states and "stopped" not in states and not self._late()

    def _late(self) -> bool:
        return any(pool._deadline is not None and pool._clock() >= pool._deadline for pool in self._chain)

    def _cause_of(self) -> BaseException | None:
        return next((pool._cause for pool in self._chain if pool._cause is not None), None)

    def _why_empty(self) -> str:
        if self._late():
            return "the deadline of the pool has passed"
        if self._root._shared_as:
            return f"the pool was shared as {self._root._shared_as!r}: spend from what share() returned"
        cause = self._cause_of()
        if cause is not None:
            return (
                f"the pool stopped itself after {self._root._max_failures} samples in a row failed, the last with "
                f"{type(cause).__name__}: see to that, then call pool.resume()"
            )
        if self._paused():
            return "the pool is paused, and a synchronous call inside a running event loop cannot wait for resume()"
        return "the pool was stopped: call pool.resume() to go on"

    def _outcome(self, failure: BaseException | None) -> None:
        """A sample went well or badly."""
        for node in self._chain:
            node._failures = node._failures + 1 if failure is not None else 0
            if node._max_failures is not None and node._failures >= node._max_failures and node._state == "open":
                node._state, node._cause = "stopped", failure
                self._freed()

    def _spent_more(self) -> None:
        """Something was spent: say so where that was asked for."""
        for node in self._chain:
            if node._warn_at is None:
                continue
            for unit, limit in node._ledger.limits.items():
                if limit is None or unit in node._warned:
                    continue
                spent = getattr(node._ledger.spent, unit)
                if spent >= node._warn_at * limit:
                    node._warned.add(unit)
                    scale, name = (NANO, "dollars") if unit == "nanodollars" else (1, unit)
                    warning = BudgetWarning(node, name, spent / scale, limit / scale)
                    node._root._todo.append(lambda node=node, warning=warning: node._warn(warning))

    def _warn(self, warning: BudgetWarning) -> None:
        if self._on_warning is None:
            logger.warning("%s", warning)
            return
        try:
            self._on_warning(warning)
        except Exception as error:  # a sample that was paid for must not be lost to a faulty callback
            logger.error("on_warning failed with %s", type(error).__name__)

    def _freed(self) -> None:
        """Whoever waits is to try again."""
        waiters, self._root._waiters, self._root._without_first = self._root._waiters, [], 0
        self._root._todo.extend(lambda waiter=waiter: _resolve(waiter) for waiter in waiters)

    def _wait_for_change(self) -> Future[None]:
        future: Future[None] = Future()
        self._root._waiters.append(future)
        if self._root._path is not None and not self._root._looking_again:
            # What another process frees it does not tell us.
            self._root._looking_again = True
            timer = threading.Timer(0.1, self._root._look_again)
            timer.daemon = True
            timer.start()
        return future

    def _look_again(self) -> None:
        with self._locked():
            self._looking_again = False
            self._freed()


class _Locked:
    """A pool's lock, to be held with ``with``. A class of its own: it is taken many times a sample."""

    __slots__ = ("_root",)

    def __init__(self, root: BudgetPool) -> None:
        self._root = root

    def __enter__(self) -> None:
        self._root._lock.acquire()
        try:
            self._root._begin_period()
        except BaseException:
            self._root._lock.release()
            raise

    def __exit__(self, *exc: object) -> None:
        root = self._root
        try:
            root._tend()
        finally:
            todo, root._todo = root._todo, []
            root._lock.release()
        for act in todo:
            act()


class _Pacing:
    """How the samples of a pool are spread over its calls: an allowance in each unit, and a price."""

    def __init__(self, pool: BudgetPool, per_call: float | None, *, expected: int | None = None) -> None:
        self._pool = pool
        self._ledger = pool._ledger
        self._expected = expected
        self.paced = per_call is not None or expected is not None
        """Whether the user said how many samples a call may draw on average."""
        each: dict[str, float] = {}
        if expected is not None:
            left = {unit: self._ledger.remaining(unit) for unit in UNITS}
            each = {unit: amount / expected for unit, amount in left.items() if amount < math.inf}
        if not any(unit not in METERED for unit in each):
            each["samples"] = per_call or DEFAULT_PER_CALL
        self.allowances = {
            unit: Allowance(
                amount, first=pool.policy.first, expected=expected, committed=math.ceil(self._committed(unit))
            )
            for unit, amount in each.items()
        }
        self.price: ShadowPrice | None = None

    def price_for(self, arm: Arm) -> ShadowPrice:
        """The online price, opened when the first call asks for it: a known set needs none."""
        if self.price is None:
            self.price = ShadowPrice.opening(self._pool.policy, self.per_call_of(arm), first=self.first(arm))
        return self.price

    def first(self, arm: Arm) -> int:
        """Guaranteed samples of a call: never more than its average, unless the pool has a minimum."""
        return max(1, min(self._pool.policy.first, int(self.per_call_of(arm))), arm.pool.min_per_call)

    def per_call_of(self, arm: Arm) -> float:
        """Samples a call of this program may draw on average, by the tightest unit."""
        return min(allowance.per_call / each for _, allowance, each in self._priced(arm))

    def credit(self, arm: Arm, *, opening: int = 0) -> int:
        """Samples of this program that may be drawn now, by the tightest unit."""
        credits = []
        for unit, allowance, each in self._priced(arm):
            allowance.first = max(allowance.first, math.ceil(self._pool.policy.first * each))
            committed = math.ceil(self._committed(unit))
            credit: float = allowance.credit(committed, opening=opening)
            if self._expected is not None and unit in METERED:
                # The last of the expected calls must find the upper bound of a first sample, not just what one costs,
                # even if this one and all that is in flight come to their own bounds: those that see earlier ones
                # cost more than most.
                bounds = (getattr(arm._metered(first=first), unit) for first in (True, False))
                spent, reserved = self._pool._local.store.totals()
                beyond = sum(max(0.0, bound - each) for bound in bounds)
                at_most = math.ceil(getattr(spent, unit) + getattr(reserved, unit) + beyond)
                credit = max(0.0, min(credit, allowance.headroom(at_most, opening=opening)))
            credits.append(int(credit // each))
        return min(credits)

    def opened(self, arm: Arm) -> None:
        """A call has arrived. What an earlier run has paid for of it comes out of its allowance."""
        for allowance in self.allowances.values():
            allowance.open()
        if arm.paid:
            for _, allowance, each in self._priced(arm):
                allowance.excuse(-math.ceil(len(arm.paid) * each))

    def closed(self, arm: Arm, used: Cost) -> None:
        """A call has ended."""
        targets = []
        for unit, allowance, each in self._priced(arm):
            if arm.known and not self.paced:
                allowance.excuse(getattr(used, unit))
            else:
                targets.append(allowance.close(getattr(used, unit) + math.ceil(len(arm.paid) * each)) / each)
        for around in self._pool._chain[1:]:
            if around._own_pacing is not None:  # this pool paces its own calls: no allowance around is to pay for them
                around._own_pacing.excuse(used)
        if not arm.known:  # a known set is not bought at the price, and must not move it
            first = self.first(arm)
            self.price_for(arm).closed(
                max(min(targets) - first, 0), per_call=self.per_call_of(arm), used=max(used.samples - first, 0)
            )

    def excuse(self, used: Cost) -> None:
        """Something was spent that no call of this pool's own pace is to answer for."""
        for unit, allowance in self.allowances.items():
            allowance.excuse(getattr(used, unit))

    def _priced(self, arm: Arm) -> list[tuple[str, Allowance, float]]:
        """The allowances, and what a sample takes of each; without those of which that is not known yet."""
        priced = [(unit, allowance, arm.each(unit)) for unit, allowance in self.allowances.items()]
        return [entry for entry in priced if entry[2] > 0]

    def _committed(self, unit: str) -> float:
        """What is spent or will be: samples in flight count what they usually cost, not what they may cost at most."""
        spent, reserved = self._pool._local.store.totals()
        if unit in METERED:
            return getattr(spent, unit) + reserved.samples * self._pool._record.mean(unit)
        return getattr(spent, unit) + getattr(reserved, unit)


def _in_dollars(limits: Mapping[str, int | None]) -> dict[str, float | None]:
    """A ledger's limits with money as people count it."""
    nanodollars = limits["nanodollars"]
    others: dict[str, float | None] = {unit: limit for unit, limit in limits.items() if unit != "nanodollars"}
    return _Limits({**others, "dollars": None if nanodollars is None else nanodollars / NANO})


class _Limits(dict[str, "float | None"]):
    """Limits by unit, also by the name that requests had in version 0.1."""

    def __missing__(self, unit: str) -> float | None:
        if unit != "calls":
            raise KeyError(unit)
        _deprecated.warn("the unit 'calls'", "'requests'")
        return self["requests"]


def _resolve(future: Future[None]) -> None:
    with contextlib.suppress(Exception):  # resolved before, or cancelled with the task that waited
        future.set_result(None)


def _rebuild(samples: int | None, settings: dict[str, Any]) -> BudgetPool:
    return BudgetPool(samples, **settings)


def _open_store(path: str | PathLike[str] | None, clock: Callable[[], float]) -> Store:
    if path is None:
        return MemoryStore()
    from dynscale_dspy.budget.stores.sqlite import SQLiteStore

    return SQLiteStore(path)


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")
    if value >= 2**62:
        raise ValueError(f"{name} must be below 2**62, got {value!r}")


def _check_seconds(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, got {value!r}")
    if not 0 < value <= sys.float_info.max:
        raise ValueError(f"{name} must be a positive, finite number of seconds, got {value!r}")


def _nanodollars(dollars: Any) -> int:
    if isinstance(dollars, bool) or not isinstance(dollars, (int, float, Decimal)):
        raise TypeError(f"dollars must be a number, got {dollars!r}")
    try:
        # The number as it was written: 0.1 is a tenth, not the nearest binary fraction.
        exact = Decimal(str(dollars)) * NANO
        nanodollars = int(exact)
    except (InvalidOperation, OverflowError, ValueError):
        raise ValueError(f"dollars must be a finite number, got {dollars!r}") from None
    if not 1 <= nanodollars < 2**62:
        raise ValueError(f"dollars must be at least 0.000000001 and below 4.6 billion, got {dollars!r}")
    return nanodollars


def _period_of(period: Any) -> float | None:
    if period is None:
        return None
    if isinstance(period, str):
        if period not in PERIODS:
            raise ValueError(f"period must be 'hour', 'day' or a number of seconds, got {period!r}")
        return PERIODS[period]
    _check_seconds("period", period)
    if period < 1:
        raise ValueError(f"period must be at least 1 second, got {period!r}")
    return float(period)

"""The budget pool: caps that hold over any number of modules and calls, and the samples placed within them."""

from __future__ import annotations

import contextlib
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from decimal import Decimal
from importlib.metadata import entry_points
from os import PathLike
from typing import Any, Literal, TypeVar

from dynscale_dspy import _ambient, _deprecated
from dynscale_dspy._fields import Count, Fraction, check
from dynscale_dspy._naming import name_of
from dynscale_dspy.allocation.costs import NANO, Cost
from dynscale_dspy.allocation.policies import Policy
from dynscale_dspy.budget.accounts import Accounts, Periods
from dynscale_dspy.budget.admission import Admission
from dynscale_dspy.budget.alerts import BudgetWarning, CapAlerts
from dynscale_dspy.budget.breaker import CircuitBreaker
from dynscale_dspy.budget.clocks import steady
from dynscale_dspy.budget.face import Face
from dynscale_dspy.budget.prices import Price
from dynscale_dspy.budget.shared import Shared
from dynscale_dspy.budget.single_flight import SingleFlight
from dynscale_dspy.budget.stores.base import Store
from dynscale_dspy.budget.stores.forks import ForkGuard, LockGuard, in_child
from dynscale_dspy.budget.stores.memory import MemoryStore
from dynscale_dspy.budget.stores.sqlite import SQLiteStore
from dynscale_dspy.budget.supply import OwnCaps, Supply
from dynscale_dspy.budget.throttle import Throttle
from dynscale_dspy.budget.under_way import UnderWay
from dynscale_dspy.config import DEFAULT_MAX_FAILURES, PoolSettings, ScopeSettings
from dynscale_dspy.reporting import text
from dynscale_dspy.reporting.history import CallRecord, History, Moment, Part, Recorder
from dynscale_dspy.reporting.pool_report import PoolReport
from dynscale_dspy.reporting.statistics import PoolStatistics, limits_in_dollars

__all__ = ["BudgetPool", "BudgetWarning", "PoolStatistics"]

Self = TypeVar("Self", bound="BudgetPool")


_OF_A_SCOPE = {"name": "the scope", "remedy": "raise {unit}= of the scope"}
_OF_A_LEASE = {"name": "what this process has of the published pool", "remedy": "raise {unit}= of the pool"}
"""How messages call what has caps, and what raises one."""


class BudgetPool(Face):
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
        store: Another place to keep it in: any object with the methods of
            :class:`~dynscale_dspy.budget.stores.base.Store`. :class:`dynscale_dspy.testing.StoreLaws` checks it.
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
        store: Store | None = None,
        period: Literal["hour", "day"] | float | None = None,
        clock: Callable[[], float] = time.time,
        warn_at: float | None = None,
        on_warning: Callable[[BudgetWarning], object] | None = None,
        max_failures: int | None = DEFAULT_MAX_FAILURES,
        max_concurrency: int | None = None,
        hedge: float | None = None,
        seed: int = 0,
    ) -> None:
        self._begin(PoolSettings.among(locals()))

    @classmethod
    def made(cls: type[Self], settings: PoolSettings, *, supply: Supply | None = None) -> Self:
        """A pool with these settings, and for one whose caps grow while it runs, where its budget comes from."""
        pool = cls.__new__(cls)
        pool._begin(settings, supply=supply)
        return pool

    def _begin(self, settings: PoolSettings, *, around: BudgetPool | None = None, supply: Supply | None = None) -> None:
        self.settings = settings
        clock = settings.clock
        store = MemoryStore() if around is not None else _store_of(settings)
        if around is not None:
            shared = around.admission.shared
        else:
            shared = Shared(
                supply=supply or OwnCaps(),
                is_durable=store.is_durable and supply is None,
                throttle=_throttle_of(settings),
                clock=steady(clock),
            )
            _locks.add(shared.lock)
        outer = around.admission if around is not None else None
        self.admission = Admission(
            policy=settings.policy,
            accounts=Accounts(
                settings.limits,
                store=store,
                around=outer.accounts if outer is not None else None,
                **(_OF_A_SCOPE if around is not None else _OF_A_LEASE if supply is not None else {}),
            ),
            breaker=CircuitBreaker(settings.max_failures),
            alerts=CapAlerts(self, settings.warn_at, settings.on_warning),
            shared=shared,
            around=outer,
            per_call=settings.per_call,
            min_per_call=settings.min_per_call,
            max_per_call=settings.max_per_call,
            deadline=None if settings.deadline is None else shared.clock() + settings.deadline,
            strict=settings.strict,
            prices=settings.prices,
        )
        """What plans, calls and samples deal with."""
        self.flights = SingleFlight()
        """Its calls under way, by name."""
        self._store = store
        self._recorder = Recorder()
        _recorders.add(self._recorder)
        self._chain: tuple[BudgetPool, ...] = (self, *(around._chain if around is not None else ()))
        self._scopes = UnderWay[BudgetPool]()
        self._tasks: UnderWay[tuple[BudgetPool, Callable[[], object]]] = (
            self._chain[-1]._tasks if around else UnderWay()
        )
        if settings.period_seconds is not None:
            shared.periods = Periods(settings.period_seconds, clock, self.admission.roll)
            self.admission.begin_period()
        self._is_private_to_process = (
            around is None
            and supply is None
            and isinstance(store, MemoryStore)
            and any(limit is not None for limit in settings.limits.values())
        )
        """Whether another process that gets hold of this pool has its caps anew."""
        self._is_from_elsewhere = self._was_pickled = False
        _known.add(self)

    # ---- what users call

    def expect(self, calls: int) -> BudgetPool:
        """Announce how many calls will come, counted from now. Returns the pool.

        The caps are spread over them, and every one is kept its first samples. Without a cap this only tells the
        price how far to look ahead.

        Raises:
            ValueError: If ``calls`` is not positive, or the cap cannot give each call one sample.
        """
        check("calls", calls, Count)
        self.admission.expect(calls)
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
        limits = ScopeSettings.among(locals())
        inner = self.active()
        scope = BudgetPool.__new__(BudgetPool)
        scope._begin(limits.within(self.settings), around=inner)
        with inner._scopes.during(scope), scope:
            yield scope

    def reserve_for(self, module: Any, fraction: float) -> BudgetPool:
        """Let a module spend at most a part of the caps, so that it leaves the rest to others. Returns the pool.

        Args:
            module: The wrapped module, or the program in it.
            fraction: The part, above 0 and at most 1.

        Raises:
            ValueError: If the fraction is out of range, the pool has no cap, or a part would be nothing.

        Example:
            >>> import dspy
            >>> rerank = dspy.Predict("passages -> best")
            >>> pool = BudgetPool(samples=100).reserve_for(rerank, 0.25)
            >>> pool.parts()[0].limits["samples"]
            25
        """
        check("fraction", fraction, Fraction)
        self.admission.reserve_for(module, fraction)
        return self

    def publish(self, name: str) -> Any:
        """Put this budget into a named Ray actor, where every process of the cluster can :meth:`connect` to it.

        From then on this object grants nothing: the client that is returned does. The budget lives until the client's
        ``end()``, also if this process dies.

        Returns:
            A :class:`~dynscale_dspy.distributed.LeasedPool`.

        Raises:
            ValueError: If the name is taken, or the pool has what cannot be published: open calls, a period, a
                warning, a part reserved for a module.
            ImportError: If Ray is not installed.
        """
        return _publishing("publish")(self, name)

    @staticmethod
    def connect(name: str) -> Any:
        """The client of a pool that some process of this Ray cluster published as ``name``; one for each process.

        Raises:
            LookupError: If there is none.
            ImportError: If Ray is not installed.
        """
        return _publishing("connect")(name)

    def pause(self) -> None:
        """Let no further sample begin until :meth:`resume`. Calls wait; samples under way finish.

        May be called from any thread, as may ``resume`` and ``stop``. In a synchronous call inside a running event
        loop, which cannot wait, a paused pool is an empty one.
        """
        self.admission.pause()

    def resume(self) -> None:
        """Go on after :meth:`pause`, after :meth:`stop`, or after the pool stopped itself."""
        self.admission.resume()

    def stop(self, *, cancel: bool = False) -> None:
        """Let no further sample begin. Samples under way finish, and calls answer with what they have.

        Args:
            cancel: Also cut off samples that run as asyncio tasks: their connections are closed at once, and what was
                asked is charged at its bound. Threads cannot be cut off.
        """
        self.admission.stop(self._cancel_tasks if cancel else None)

    @property
    def stopped(self) -> bool:
        """Whether this pool or one around it was stopped."""
        return self.admission.is_stopped

    def available(self, unit: Literal["samples", "requests", "tokens", "dollars"]) -> float:
        """What may still be reserved of a unit, here and in every pool around; infinite without a cap."""
        if unit == "calls":
            _deprecated.warn("the unit 'calls'", "'requests'")
            unit = "requests"
        if unit not in ("samples", "requests", "tokens", "dollars"):
            raise ValueError(f"unit must be 'samples', 'requests', 'tokens' or 'dollars', got {unit!r}")
        if unit == "dollars":
            return self.admission.remaining("nanodollars") / NANO
        return self.admission.remaining(unit)

    def reconcile(self, *, refund: bool = False) -> Cost:
        """Settle what processes that have died had in flight, for a pool with a ``path``. Returns how much that was.

        Until then it stays reserved, and so counts against the caps.

        Args:
            refund: Whether it is known to have cost nothing, from the provider's own records say. By default it is
                spent, as it most likely is.
        """
        settled = self._chain[-1]._store.reconcile(refund=refund)
        self.admission.wake()
        return settled

    def statistics(self) -> PoolStatistics:
        """A consistent snapshot."""
        return self.admission.statistics()

    def parts(self) -> list[Part]:
        """What modules with a part of the caps and the scopes that are open now have spent, and may."""
        parts = [
            Part(f"share of {name_of(module)}", spent, limits_in_dollars(limits), None)
            for module, spent, limits in self.admission.quotas()
        ]
        for scope in self._scopes.now():
            now = scope.statistics()
            parts.append(Part("scope", now.spent, now.limits, now.seconds_left))
        return parts

    @property
    def history(self) -> History:
        """The latest calls, spending and price over time, and what each program has spent."""
        return self._recorder.history()

    def report(self) -> PoolReport:
        """What text, HTML and the live view show of this pool, as one frozen value."""
        return PoolReport(self.statistics(), self.history, tuple(self.parts()))

    def __enter__(self) -> BudgetPool:
        """Make this the pool of wrapped modules without one of their own, also in threads that DSPy starts."""
        _ambient.enter(self)
        return self

    def __exit__(self, *exc: object) -> None:
        _ambient.leave()

    def __repr__(self) -> str:
        return text.one_line(self.statistics())

    # One loaded from disk is a new pool with the same limits, or the same one if it lives in a file.
    def __reduce__(self) -> tuple[Any, ...]:
        if self._is_private_to_process and not self._was_pickled:
            self._was_pickled = True
            warnings.warn(f"a BudgetPool in memory is pickled: {_ANEW}", UserWarning, stacklevel=2)
        return _loaded, (self.settings, _process)

    # ---- what calls need besides the admission

    def active(self) -> BudgetPool:
        """The innermost scope of this pool that this code runs in, or the pool itself."""
        return next((pool for pool in reversed(_ambient.entered()) if self in pool._chain), self)

    def arrive(self) -> None:
        """A call is about to spend from this pool: if it is in memory and came from another process, warn once."""
        outermost = self._chain[-1]
        if outermost._is_from_elsewhere:
            outermost._is_from_elsewhere = False
            warnings.warn(f"a BudgetPool in memory is used in another process: {_ANEW}", UserWarning, stacklevel=2)

    @property
    def store(self) -> Store:
        """Where its sums are kept."""
        return self._store

    @property
    def is_durable(self) -> bool:
        """Whether the budget outlives this process, in a file that others may hold: steps on it may block."""
        return self.admission.is_durable

    @property
    def is_scope(self) -> bool:
        """Whether this is a scope of another pool."""
        return len(self._chain) > 1

    def cancellable(self, cancel: Callable[[], object]) -> AbstractContextManager[object]:
        """While the block runs, ``stop(cancel=True)`` on this pool or one around it calls this function."""
        return self._tasks.during((self, cancel))

    def record(self, call: CallRecord) -> None:
        """A call was answered: remember it, here and in every pool around."""
        for pool in self._chain:
            pool._recorder.add(call, pool._moment())

    def note(self) -> None:
        """A sample of a known set has finished: its calls all end together, and the curves are not to wait for that."""
        for pool in self._chain:
            pool._recorder.note(pool._moment)

    # ---- inside

    def _moment(self) -> Moment:
        now = self.statistics()
        return Moment(self.settings.clock(), now.spent, now.price, now.closed_calls)

    def _cancel_tasks(self) -> None:
        for pool, cancel in self._tasks.now():
            if self in pool._chain:
                cancel()


def _rebuild(samples: int | None, settings: dict[str, Any]) -> BudgetPool:
    """Make the pool that version 0.1 has pickled: its pickles name this function, and say ``calls`` for requests."""
    requests = settings["calls"]
    others = {name: value for name, value in settings.items() if name != "calls"}
    return BudgetPool.made(PoolSettings(samples=samples, requests=requests, **others))


_ANEW = (
    "its caps are per process, each has them anew, and together they may spend so many times as much. Give BudgetPool "
    "a path= to share them on one machine, or publish() it on Ray"
)


def _loaded(settings: PoolSettings, process: str) -> BudgetPool:
    """Make a pool that was pickled.

    Args:
        settings: Its settings.
        process: The process that pickled it.
    """
    pool = BudgetPool.made(settings)
    pool._is_from_elsewhere = pool._is_private_to_process and process != _process
    return pool


def _store_of(settings: PoolSettings) -> Store:
    """Where a pool keeps its sums."""
    if settings.store is not None:
        return settings.store
    return MemoryStore() if settings.path is None else SQLiteStore(settings.path)


def _publishing(name: str) -> Callable[..., Any]:
    """A function of what spreads budgets over processes, which the package declares as an entry point.

    So the pool knows nothing of it, nor of Ray.
    """
    for found in entry_points(group="dynscale_dspy.publishing", name=name):
        return found.load()
    raise ImportError("this installation of dynscale-dspy declares nothing that publishes pools: install it anew")


def _throttle_of(settings: PoolSettings) -> Throttle | None:
    """What the requests of a pool pass on their way out; None for nothing."""
    limited = settings.max_concurrency is not None or settings.hedge is not None
    return Throttle(settings.max_concurrency, settings.hedge) if limited else None


# ---- forks

# Nothing of what is under way in the parent is under way in the child, where no thread brings it to an end. Whoever
# forks takes the lock first, so that what both go on with is not in the middle of a step.
_recorders = LockGuard()
_locks = LockGuard("mutex")  # taken before all others, as in every step

_process = uuid.uuid4().hex
"""Tells this process from all others."""


def _begin_process() -> None:
    global _process
    _process = uuid.uuid4().hex


in_child(_begin_process)


def _before_fork(pool: BudgetPool) -> None:
    """Nothing but the lock is prepared."""


def _after_fork(pool: BudgetPool, in_child: bool) -> None:
    if not in_child:
        return
    if not pool.is_scope:
        pool.admission.shared.begin_anew(_throttle_of(pool.settings))
        pool._tasks.keep(())
    pool.admission.begin_anew()
    pool._scopes.keep(_ambient.entered())
    pool._is_from_elsewhere, pool._was_pickled = pool._is_private_to_process, False


_known = ForkGuard(_before_fork, _after_fork)

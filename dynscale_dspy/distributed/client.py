"""A shared pool as a process of the cluster sees it: a pool whose budget is a lease."""

from __future__ import annotations

import atexit
import logging
import math
import os
import platform
import tempfile
import threading
import time
import uuid
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dynscale_dspy.allocation.costs import METERED, UNITS, Cost
from dynscale_dspy.allocation.pricing import ShadowPrice
from dynscale_dspy.budget.leases import Arm
from dynscale_dspy.budget.pool import BudgetPool, PoolStatistics, _Pacing
from dynscale_dspy.budget.stores.sqlite import SQLiteStore
from dynscale_dspy.distributed.coordinator import Answer, Keeper, LeaseStatistics
from dynscale_dspy.distributed.lease_book import CHUNK, Holder, Report
from dynscale_dspy.distributed.lease_log import LeaseLog, abandoned

logger = logging.getLogger(__name__)

NAMESPACE = "dynscale_dspy"
IDLE = 2.0
"""Seconds after which a holder without open calls gives back what it has in hand."""
HEARTBEAT = 10.0
"""Seconds between the reports of a holder that has something in hand and no other reason to write."""
SWEEP = 3.0
"""Seconds between two looks for dead holders on this machine: what they left unanswered is done again meanwhile."""
PARTING = 5.0
"""Seconds that the end of a budget waits for its holders to close."""
LONGEST_WAIT = 60.0
"""Seconds a first sample waits for what other holders may give back."""
FIRST_RETRY, LONGEST_RETRY = 0.05, 2.0
"""Seconds after which a holder that needs more and got nothing asks again."""

_clients: dict[str, LeasedPool] = {}
_clients_lock = threading.Lock()


def share(pool: BudgetPool, name: str) -> LeasedPool:
    """See :meth:`BudgetPool.share`."""
    ray = _ray()
    if not name or "/" in name:
        raise ValueError(f"the name of a shared pool must be a text without '/', got {name!r}")
    pacing = pool._own_pacing
    problem = (
        "is itself a client of a shared one"
        if isinstance(pool, LeasedPool)
        else "was shared before"
        if pool._shared_as
        else "is a scope: share the pool around it"
        if pool._parent is not None
        else "has open calls"
        if pool._open_calls
        else "has a period, which leases would straddle"
        if pool._period is not None
        else "has warn_at=, which no process could call back: ask the client's statistics()"
        if pool._warn_at is not None
        else "has shares of modules, which are of one process"
        if pool._shares
        else "has a clock of its own"
        if pool._clock is not time.time
        else ""
    )
    if problem:
        raise ValueError(f"this pool cannot be shared as {name!r}: it {problem}")
    _start(ray)
    if _find(ray, name) is not None:
        raise ValueError(f"there is a shared pool {name!r} already: use BudgetPool.connect({name!r}), or another name")
    expected = pacing._expected if pacing is not None else None
    if pool._path is not None:
        path = Path(pool._path).absolute()
    else:
        path = Path(tempfile.gettempdir()) / f"dynscale-{uuid.uuid4().hex}.sqlite"
        store = SQLiteStore(path)
        store.settle(store.reserve(pool.statistics().spent, {}), pool.statistics().spent)
        store.close()
    rebuild, (samples, settings) = pool.__reduce__()[:2]
    moved = rebuild(samples, settings | {"path": str(path)})
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Where its file is. Told apart from the calls of other actors of this name by the name of the file.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(Keeper).options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        max_restarts=-1,
        max_task_retries=-1,
        num_cpus=0,
        scheduling_strategy=here,
    )
    keeper = actor.remote(moved, str(path), expected, temporary=pool._path is None)
    _ask(keeper.settings)
    with pool._locked():
        pool._state, pool._shared_as = "stopped", name
    return connect(name)


def connect(name: str) -> LeasedPool:
    """See :meth:`BudgetPool.connect`."""
    ray = _ray()
    _start(ray)
    actor = _find(ray, name)
    if actor is None:
        raise LookupError(f"no pool is shared as {name!r} in this cluster: BudgetPool(...).share({name!r}) does that")
    with _clients_lock:
        client = _clients.get(name)
        if client is None or client.closed or client._actor._actor_id != actor._actor_id:
            client = _clients[name] = LeasedPool(name, actor)
        return client


class LeasedPool(BudgetPool):
    """A shared pool's client: a pool like any other, whose caps are what it has leased.

    Made by :meth:`BudgetPool.share` and :meth:`BudgetPool.connect`. Calls, samples and prices work as in any pool; a
    thread of its own reports what was spent and fetches more, before the lease runs out where it can. What it spends
    is in a file of this machine before it counts, so that if the process is killed its lease is settled exactly.

    ``statistics``, ``expect``, ``pause``, ``resume``, ``stop`` and ``reconcile`` are about the whole budget; other
    processes hear of a change with their next report, which is :data:`HEARTBEAT` seconds away at most. ``history``,
    scopes and ``max_failures`` are of this process.
    """

    def __init__(self, name: str, actor: Any) -> None:
        settings = _ask(actor.settings)
        capped = settings.pop("capped")
        self.name = name
        self.closed = False
        self._actor = actor
        self._budget = settings.pop("budget")
        self._lease = uuid.uuid4().hex
        self._log = LeaseLog(self._budget, self._lease)
        self._serving = False
        super().__init__(1, path=self._log.path, **settings)
        self._path = None  # nobody else spends from this file
        self._ledger.limits.update({unit: 0 if unit in capped else None for unit in UNITS})
        self._own_pacing: _LeasedPacing = _LeasedPacing(self, self._per_call)
        self._holder = Holder(
            self._lease, self._ledger.limits, self._own_pacing, where=f"{platform.node()}:{os.getpid()}"
        )
        self._own_pacing.holder = self._holder
        self._extra = Cost()
        self._asked_firsts = 0  # for how many calls the latest report asked for a first sample
        self._told: Counter[int] = Counter()
        self._waiting_since: float | None = None
        self._next_try = self._next_beat = self._next_sweep = 0.0
        self._lost: BaseException | None = None
        self._fetching: list[threading.Event] = []
        self._wake = threading.Event()
        self._serving = True
        self._thread = threading.Thread(target=self._serve, name=f"dynscale-lease-{name}", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    # ---- the whole budget

    def statistics(self) -> PoolStatistics:
        """The whole budget, as far as all holders have told. What is leased and not reported counts as reserved."""
        now = _ask(self._actor.statistics)
        return replace(
            now,
            limits=MappingProxyType(now.limits),
            samples_per_call=MappingProxyType(now.samples_per_call),
            distrusted=self._statistics().distrusted,
        )

    def leases(self) -> LeaseStatistics:
        """How leasing goes: messages, leases, holders."""
        return _ask(self._actor.leases)

    def expect(self, calls: int) -> BudgetPool:
        """Announce how many calls will come, to all processes together; best before the first. Returns the pool."""
        _ask(self._actor.expect, calls)
        return self

    def pause(self) -> None:
        """Let no further sample begin anywhere until :meth:`resume`."""
        super().pause()
        _ask(self._actor.control, "pause")

    def resume(self) -> None:
        """Go on everywhere."""
        _ask(self._actor.control, "resume")
        super().resume()

    def stop(self, *, cancel: bool = False) -> None:
        """Let no further sample begin anywhere; ``cancel`` cuts off this process's."""
        super().stop(cancel=cancel)
        _ask(self._actor.control, "stop")

    def reconcile(self, *, refund: bool = False) -> Cost:
        """Settle the leases of dead holders. Returns how much of them was not reported.

        What holders of this machine spent is read from their own records, as is done every :data:`SWEEP` seconds by
        every client. Of others that have been silent for long nobody knows: all that they had is spent, or with
        ``refund`` given back.
        """
        self.sweep()
        return _ask(self._actor.reconcile, refund)

    def share(self, module: Any, fraction: float | None = None) -> Any:
        """Not for a client: what it could share is only a lease.

        Raises:
            ValueError: Always.
        """
        raise ValueError("a client cannot share: shares of modules are of a pool in one process")

    def sweep(self) -> None:
        """Settle the leases of dead holders of this machine."""
        with abandoned(self._budget) as found:
            for lease, used in found.items():
                _ask(self._actor.close_for, lease, used)
                logger.warning("the holder of a lease on %r died: it had spent %d samples", self.name, used.samples)

    def close(self) -> None:
        """Give back what is left of the lease. Nothing more can be spent through this client.

        Samples in flight count at their bound. Happens by itself when the process ends well.
        """
        with self._locked():
            if self.closed:
                return
            self.closed = True
            self._freed()
        atexit.unregister(self.close)
        self._wake.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        if self._lost is None:
            with self._lock:
                report = self._report(give_back=True)
            try:
                _ask(self._actor.close, report)
            except Exception as error:
                # Its log stays, and others read it.
                logger.warning("a lease on %r could not be closed: %s", self.name, type(error).__name__)
                self._log.leave()
                return
        self._log.remove()

    def end(self) -> PoolStatistics:
        """Close this client and end the shared budget: its actor goes, for all processes. Returns what it came to.

        Workers that are just ending have :data:`PARTING` seconds to close; what others still have in hand then counts
        as spent, for whether it was nobody will hear. A budget with a ``path`` stays in its file.
        """
        ray = _ray()
        self.close()
        last = time.monotonic() + PARTING
        while self.leases().open_leases and time.monotonic() < last:
            self._sweep_quietly()
            time.sleep(0.1)
        _ask(self._actor.finish)
        final = self.statistics()
        _ask(self._actor.forget)
        ray.kill(self._actor, no_restart=True)
        return final

    def __reduce__(self) -> tuple[Any, ...]:
        return connect, (self.name,)

    # ---- what plans call

    def open_known(self, count: int, **arguments: Any) -> Any:
        """As in any pool, within a lease for all of the calls: so many times what a call may draw on average."""
        with self._locked():
            allowances = self._own_pacing.allowances
            each = min(allowance.per_call for unit, allowance in allowances.items() if unit not in METERED)
            samples = math.ceil(count * each)
            requests = max(self._next_sample().requests, arguments.get("requests", 1))
            self._extra = Cost(samples=samples, requests=samples * requests)
            answered = threading.Event()
            self._fetching.append(answered)
        self._wake.set()
        answered.wait()
        return super().open_known(count, **arguments)

    def _short(self, *, first: bool = False) -> bool:
        holder = self._holder
        if self._halted() or not holder.more or holder.fits(self._next_sample(), *self._totals()):
            return False
        # What is in other hands is worth waiting for if a call has nothing yet.
        return first or not holder.fruitless

    def _tend(self) -> None:
        if self._serving and not self._wake.is_set() and self._is_low() and time.monotonic() >= self._next_try:
            self._wake.set()

    def _why_empty(self) -> str:
        if self._lost is not None:
            return f"the shared pool {self.name!r} cannot be reached any more ({type(self._lost).__name__})"
        return "this client was closed: connect again" if self.closed else super()._why_empty()

    def _halted(self) -> bool:
        return self.closed or self._lost is not None or super()._halted()

    # ---- inside the lock

    def _totals(self) -> tuple[Cost, Cost]:
        # The same as in the file, and quicker to ask.
        return self._local.store.totals()

    def _next_sample(self) -> Cost:
        """What a sample may need, as far as known."""
        need = Cost(samples=1, requests=1, prompt_tokens=1, nanodollars=1)
        for profile in self._profiles.values():
            if profile.need is not None:
                most = profile.need
                need = need.at_least(
                    Cost(requests=most.requests, prompt_tokens=most.tokens, nanodollars=most.nanodollars)
                )
        return need

    def _is_low(self) -> bool:
        """Whether to ask for more: never for nobody."""
        if not (self._open_calls or self._waiters or self._extra != Cost()):
            return False
        return self._holder.is_low(*self._totals(), self._next_sample().at_least(self._extra))

    def _next_want(self) -> Cost:
        """What to have in hand: a chunk's worth, or more if many calls are open."""
        samples = max(CHUNK, 2 * self._open_calls, self._extra.samples)
        most, record = self._next_sample(), self._record
        amounts: dict[str, int] = {"samples": samples}
        for unit, name in (("requests", "requests"), ("tokens", "prompt_tokens"), ("nanodollars", "nanodollars")):
            # So many samples at their mean, and those that are open at the most one takes.
            usual = samples * record.mean(unit) + 2 * self._open_calls * getattr(most, unit)
            amounts[name] = math.ceil(usual) if record.samples else 2**62
        return Cost(**amounts)

    def _report(self, *, give_back: bool = False) -> Report | None:
        """What there is to tell; None if nothing."""
        (spent, reserved), pacing, holder = self._totals(), self._own_pacing, self._holder
        low = not give_back and self._is_low()
        idle = not self._open_calls and reserved == Cost()
        closed = self._samples_per_call - self._told
        in_hand = holder.in_hand(spent, reserved)
        due = give_back or low or (idle and in_hand) or time.monotonic() >= self._next_beat
        if not due or not (low or give_back or closed or in_hand or not idle):
            return None
        self._told = Counter(self._samples_per_call)
        self._asked_firsts = self._without_first if low else 0
        return holder.report(
            spent,
            reserved,
            committed={unit: pacing._committed(unit) for unit in UNITS},
            want=self._next_want() if low else Cost(),
            need=self._next_sample().at_least(self._extra) if low else Cost(),
            waiting=self._asked_firsts,
            # What is not needed, or not enough, others may need.
            give_back=give_back or (not low and idle) or (low and holder.fruitless > 0),
            open_calls=self._open_calls,
            closed_calls=dict(closed),
        )

    def _apply(self, answer: Answer) -> None:
        now, holder, pacing = time.monotonic(), self._holder, self._own_pacing
        self._next_beat = now + HEARTBEAT
        holder.apply(answer.grant)
        pacing.paced, pacing._expected = answer.paced, answer.expected
        self._deadline = None if answer.seconds_left is None else self._clock() + answer.seconds_left
        if self._cause is None and answer.state != self._state:
            self._state = answer.state  # type: ignore[assignment]
        if holder.fruitless:
            self._waiting_since = self._waiting_since or now
            if now - self._waiting_since > LONGEST_WAIT:
                holder.more = False
            self._next_try = now + min(FIRST_RETRY * 2 ** min(holder.fruitless - 1, 10), LONGEST_RETRY)
        else:
            self._waiting_since, self._next_try = None, 0.0
        if holder.ended:
            self._lost = LookupError("its lease was settled as that of a dead process")
        self._extra, self._promised = Cost(), self._asked_firsts
        self._freed()
        for answered in self._fetching:
            answered.set()
        self._fetching.clear()

    # ---- the thread

    def _serve(self) -> None:
        while True:
            self._wake.wait(self._rest())
            self._wake.clear()
            if self.closed:
                return
            with self._lock:
                report = self._report()
            if report is not None:
                try:
                    answer = _ask(self._actor.renew, report)
                except Exception as error:
                    self._give_up(error)
                    return
                with self._locked():
                    self._apply(answer)
            if self._holder.fruitless or time.monotonic() >= self._next_sweep:
                self._next_sweep = time.monotonic() + SWEEP
                self._sweep_quietly()

    def _rest(self) -> float:
        """Seconds until there may be something to report."""
        with self._lock:
            if not self._holder.more or not self._is_low():
                return IDLE
            return min(max(self._next_try - time.monotonic(), 0.0), IDLE)

    def _sweep_quietly(self) -> None:
        try:
            self.sweep()
        except Exception as error:
            logger.warning("dead holders of %r could not be looked for: %s", self.name, type(error).__name__)

    def _give_up(self, error: BaseException) -> None:
        logger.error("the shared pool %r cannot be reached any more: %s", self.name, type(error).__name__)
        with self._locked():
            self._lost = error
            self._freed()
            for answered in self._fetching:
                answered.set()


class _LeasedPacing(_Pacing):
    """Paces the calls of this process; the price opens where that of all holders is."""

    holder: Holder

    def credit(self, arm: Arm, *, opening: int = 0) -> int:
        """What the pace allows, but not what the lease holds for the first samples of calls that wait for it.

        The pace tells what may be spent of the whole budget, and that is not in this lease: calls under way would take
        all of it, those that wait would ask again, and at last be given what is kept for calls elsewhere.
        """
        credit, limit = super().credit(arm, opening=opening), self._ledger.limits["samples"]
        if opening or limit is None:
            return credit
        client, (spent, reserved) = self._pool._root, self._ledger.store.totals()
        kept = max(client._promised, client._without_first)
        return max(0, min(credit, limit - spent.samples - reserved.samples - kept))

    def price_for(self, arm: Arm) -> ShadowPrice:
        """The price."""
        fresh = self.price is None
        price = super().price_for(arm)
        if fresh:
            self.holder.opened(price)
        return price


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ImportError(
            'a budget for many processes needs Ray: pip install "dynscale-dspy[ray]". On one machine '
            "BudgetPool(path=...) does without"
        ) from None
    return ray


def _ask(method: Any, *arguments: Any) -> Any:
    """The actor's answer; one that is being restarted is waited for."""
    ray = _ray()
    if not ray.is_initialized():  # or Ray would start a new cluster
        raise ConnectionError("this process has left the Ray cluster")
    return ray.get(method.remote(*arguments))


def _start(ray: Any) -> None:
    if not ray.is_initialized():
        ray.init()


def _find(ray: Any, name: str) -> Any:
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None

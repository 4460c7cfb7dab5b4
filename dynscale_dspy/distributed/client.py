"""A published budget as a process of the cluster sees it: a pool whose caps are a lease."""

from __future__ import annotations

import atexit
import logging
import os
import platform
import tempfile
import threading
import time
import uuid
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from dynscale_dspy.allocation.costs import UNITS, Cost
from dynscale_dspy.budget.face import Face
from dynscale_dspy.budget.pool import BudgetPool
from dynscale_dspy.budget.stores.sqlite import SQLiteStore
from dynscale_dspy.distributed.coordinator import Coordinator, LeaseStatistics
from dynscale_dspy.distributed.lease_log import LeaseLog, abandoned
from dynscale_dspy.distributed.lease_supply import LONGEST_WAIT, PARTING, LeaseSupply
from dynscale_dspy.reporting.history import History, Part
from dynscale_dspy.reporting.pool_report import PoolReport
from dynscale_dspy.reporting.statistics import Limits, PoolStatistics

logger = logging.getLogger(__name__)

NAMESPACE = "dynscale_dspy"
_clients: dict[str, LeasedPool] = {}
_clients_lock = threading.Lock()


def publish(pool: BudgetPool, name: str) -> LeasedPool:
    """See :meth:`BudgetPool.publish`."""
    ray = _ray()
    if not isinstance(name, str) or not name or "/" in name:
        kind = ValueError if isinstance(name, str) else TypeError
        raise kind(f"the name of a published pool must be a text without '/', got {name!r}")
    if problem := _problem(pool):
        raise ValueError(f"this pool cannot be published as {name!r}: it {problem}")
    _start(ray)
    if _find(ray, name) is not None:
        raise ValueError(f"a pool is published as {name!r} already: use BudgetPool.connect({name!r}), or another name")
    settings, pacing = pool.settings, pool.admission.own_pacing
    expected = pacing.expected if pacing is not None else None
    if settings.path is not None:
        path = Path(settings.path).absolute()
    else:
        path = Path(tempfile.gettempdir()) / f"dynscale-{uuid.uuid4().hex}.sqlite"
        store, spent = SQLiteStore(path), pool.statistics().spent
        store.settle(store.reserve(spent, {}), spent)
        store.close()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Where its file is. Told apart from the calls of other actors of this name by the name of the file.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(Coordinator).options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        max_restarts=-1,
        max_task_retries=-1,
        num_cpus=0,
        scheduling_strategy=here,
    )
    moved = BudgetPool.made(settings.replace(path=str(path)))
    coordinator = actor.remote(moved, str(path), expected, temporary=settings.path is None)
    _ask(coordinator.settings, forever=True)  # it may take its time to start
    pool.admission.moved(name)
    return connect(name)


def connect(name: str) -> LeasedPool:
    """See :meth:`BudgetPool.connect`."""
    ray = _ray()
    _start(ray)
    actor = _find(ray, name)
    if actor is None:
        raise LookupError(
            f"no pool is published as {name!r} in this cluster: BudgetPool(...).publish({name!r}) does that"
        )
    with _clients_lock:
        client = _clients.get(name)
        if client is None or client.closed or not client.is_of(actor):
            client = _clients[name] = LeasedPool(name, actor)
        return client


class LeasedPool(Face):
    """The client of a published budget: a pool of this process, :attr:`local`, whose caps are what it has leased.

    Made by :meth:`BudgetPool.publish` and :meth:`BudgetPool.connect`. Give it to modules as ``budget=``: calls, samples
    and prices work as in any pool. A thread of its own reports what was spent and fetches more, before the lease runs
    out where it can. What is spent is in a file of this machine before it counts, so that if the process is killed its
    lease is settled exactly.

    ``statistics``, ``expect``, ``pause``, ``resume``, ``stop`` and ``reconcile`` are about the whole budget; other
    processes hear of a change with their next report, which is :data:`HEARTBEAT` seconds away at most. ``history``,
    scopes and ``max_failures`` are of this process.

    Attributes:
        name: The name under which the budget was published.
        local: The pool of this process.
    """

    def __init__(self, name: str, actor: Any) -> None:
        published = _ask(actor.settings)
        self.name = name
        self.settings = published.settings
        self._actor = actor
        self._budget = published.budget
        lease = uuid.uuid4().hex
        self._log = LeaseLog(self._budget, lease)
        self._supply = LeaseSupply(
            name,
            lease,
            renew=lambda report: _ask(actor.renew, report, forever=True),
            sweep=self.sweep,
            where=f"{platform.node()}:{os.getpid()}",
        )
        self.local = BudgetPool.made(published.settings.leased(SQLiteStore(self._log.path)), supply=self._supply)
        limits = {unit: 0 if unit in published.capped else None for unit in UNITS}
        self._supply.begin(self.local.admission, limits)
        atexit.register(self.close)

    # ---- the whole budget

    def statistics(self) -> PoolStatistics:
        """The whole budget, as far as all holders have told. What is leased and not reported counts as reserved."""
        now = _ask(self._actor.statistics)
        return replace(
            now,
            limits=MappingProxyType(Limits(now.limits)),
            samples_per_call=MappingProxyType(now.samples_per_call),
            distrusted=self.local.statistics().distrusted,
        )

    def leases(self) -> LeaseStatistics:
        """How leasing goes: messages, leases, holders."""
        return _ask(self._actor.leases)

    def expect(self, calls: int) -> LeasedPool:
        """Announce how many calls will come, to all processes together; best before the first. Returns the pool."""
        _ask(self._actor.expect, calls)
        return self

    def pause(self) -> None:
        """Let no further sample begin in any process until :meth:`resume`."""
        self.local.pause()
        _ask(self._actor.control, "pause")

    def resume(self) -> None:
        """Let samples begin again, in all processes."""
        _ask(self._actor.control, "resume")
        self.local.resume()

    def stop(self, *, cancel: bool = False) -> None:
        """Let no further sample begin in any process; ``cancel`` cuts off those of this one."""
        self.local.stop(cancel=cancel)
        _ask(self._actor.control, "stop")

    def publish(self, name: str) -> Any:
        """Not for a client: see :meth:`BudgetPool.publish`.

        Raises:
            ValueError: Always.
        """
        return publish(self.local, name)

    def reserve_for(self, module: Any, fraction: float) -> Any:
        """Not for a client: what it could give a part of is only a lease.

        Raises:
            ValueError: Always.
        """
        raise ValueError("a client cannot reserve a part for a module: parts are of a pool in one process")

    def reconcile(self, *, refund: bool = False) -> Cost:
        """Settle the leases of dead holders. Returns how much of them was not reported.

        What holders of this machine spent is read from their own logs, as every client does every few seconds. Of
        others that have been silent for long nobody knows: all that they had is spent, or with ``refund`` given back.
        """
        self.sweep()
        return _ask(self._actor.reconcile, refund)

    def sweep(self) -> None:
        """Settle the leases of dead holders of this machine."""
        with abandoned(self._budget) as found:
            for lease, used in found.items():
                _ask(self._actor.close_for, lease, used)
                logger.warning("the holder of a lease on %r died: it had spent %d samples", self.name, used.samples)

    @property
    def stopped(self) -> bool:
        """Whether the budget was stopped, as far as this process has heard."""
        return self.local.stopped

    @property
    def closed(self) -> bool:
        """Whether nothing more can be spent through this client."""
        return self._supply.closed

    def close(self) -> None:
        """Give back what is left of the lease. Nothing more can be spent through this client.

        Samples in flight count at their bound. Happens by itself when the process ends well. Closing twice does
        nothing.
        """
        if not self._supply.close():
            return
        atexit.unregister(self.close)
        if self._supply.is_connected:
            try:
                _ask(self._actor.close, self._supply.last_report())
            except Exception as error:
                # Its log stays, and is read by others.
                logger.warning("a lease on %r could not be closed: %s", self.name, type(error).__name__)
                self._log.leave()
                return
        self._log.remove()

    def end(self) -> PoolStatistics:
        """Close this client and end the budget: its actor goes, for all processes. Returns what it came to.

        Workers that are just ending have :data:`PARTING` seconds to close; what others still have in hand then counts
        as spent, for whether it was nobody will hear. A budget with a ``path`` stays in its file.
        """
        ray = _ray()
        self.close()
        last = time.monotonic() + PARTING
        while self.leases().open_leases and time.monotonic() < last:
            self._supply.sweep_quietly()
            time.sleep(0.1)
        _ask(self._actor.finish)
        final = self.statistics()
        _ask(self._actor.forget)
        ray.kill(self._actor, no_restart=True)
        return final

    # ---- this process

    def active(self) -> BudgetPool:
        """The pool that pays here: that of this process, or the innermost scope of it that this code runs in."""
        return self.local.active()

    def scope(self, samples: int | None = None, **limits: Any) -> AbstractContextManager[BudgetPool]:
        """A budget within this process's part; see :meth:`BudgetPool.scope`."""
        return self.local.scope(samples, **limits)

    def available(self, unit: Literal["samples", "requests", "tokens", "dollars"]) -> float:
        """What this process has leased of a unit and not reserved, and may fetch more of; infinite without a cap."""
        return self.local.available(unit)

    @property
    def history(self) -> History:
        """The latest calls of this process."""
        return self.local.history

    def parts(self) -> list[Part]:
        """The scopes that are open in this process."""
        return self.local.parts()

    def report(self) -> PoolReport:
        """What text, HTML and the live view show: the whole budget, and the history of this process."""
        return PoolReport(self.statistics(), self.history, tuple(self.parts()))

    def is_of(self, actor: Any) -> bool:
        """Whether this is a client of that actor, and not of an earlier one of its name."""
        return self._actor == actor

    def __enter__(self) -> LeasedPool:
        """Make this the pool of wrapped modules without one of their own."""
        self.local.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.local.__exit__(*exc)

    def __repr__(self) -> str:
        return f"LeasedPool({self.name!r}, {self.local!r})"

    # A program that is sent to another process connects there.
    def __reduce__(self) -> tuple[Any, ...]:
        return connect, (self.name,)


def _problem(pool: BudgetPool) -> str:
    """Why a pool cannot be published; empty if it can."""
    settings, admission = pool.settings, pool.admission
    if isinstance(admission.shared.supply, LeaseSupply):
        return "is itself a client"
    if admission.moved_to:
        return "was published before"
    if pool.is_scope:
        return "is a scope: publish the pool around it"
    if pool.statistics().open_calls:
        return "has open calls"
    if settings.period is not None:
        return "has a period, which leases would straddle"
    if settings.warn_at is not None:
        return "has warn_at=, which no process could call back: ask the client's statistics()"
    if admission.quotas():
        return "has parts reserved for modules, which are of one process"
    if settings.clock is not time.time:
        return "has a clock of its own"
    if settings.store is not None:
        return "has a store of its own: give it path= instead"
    return ""


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ImportError(
            'a budget for many processes needs Ray: pip install "dynscale-dspy[ray]". On one machine '
            "BudgetPool(path=...) does without"
        ) from None
    return ray


def _ask(method: Any, *arguments: Any, forever: bool = False) -> Any:
    """The actor's answer; one that is being restarted is waited for, for :data:`LONGEST_WAIT` seconds or for ever.

    Raises:
        ConnectionError: If this process is in no cluster.
        TimeoutError: If no answer comes.
    """
    ray = _ray()
    if not ray.is_initialized():  # or Ray would start a new cluster
        raise ConnectionError("this process has left the Ray cluster")
    try:
        return ray.get(method.remote(*arguments), timeout=None if forever else LONGEST_WAIT)
    except ray.exceptions.GetTimeoutError as error:
        raise TimeoutError(
            f"the actor that keeps the published pool has not answered for {LONGEST_WAIT:g} s: its machine is down, or "
            "cut off from this one. Look at it, and ask again"
        ) from error


def _start(ray: Any) -> None:
    if not ray.is_initialized():
        ray.init()


def _find(ray: Any, name: str) -> Any:
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None

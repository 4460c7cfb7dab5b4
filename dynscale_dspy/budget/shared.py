"""What a pool and the scopes within it have in common, and what has happened in each."""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dynscale_dspy.budget.accounts import Periods
from dynscale_dspy.budget.arms import Arm
from dynscale_dspy.budget.locking import StepLock
from dynscale_dspy.budget.payer import Program
from dynscale_dspy.budget.supply import Supply
from dynscale_dspy.budget.throttle import Throttle
from dynscale_dspy.budget.waiting import WaitQueue
from dynscale_dspy.errors import StorageError


@dataclass
class Counts:
    """What has happened in a pool."""

    open: set[int] = field(default_factory=set)
    """Numbers of its calls that are being answered. Not the calls: one that is lost closes when nobody has it."""
    open_elsewhere: int = 0
    """Those of other processes that spend the same budget, as far as they have told."""
    closed_calls: int = 0
    unscaled_runs: int = 0
    drawn: int = 0
    samples_per_call: Counter[int] = field(default_factory=Counter)
    distrusted: Counter[str] = field(default_factory=Counter)
    """Usage reports that were not believed, by reason."""

    @property
    def open_calls(self) -> int:
        """How many calls are being answered."""
        return len(self.open) + self.open_elsewhere


class PoolStanding(NamedTuple):
    """How a pool stands.

    Attributes:
        wait: What to wait for while it is paused or fetches more budget; None if it is open.
        halted: Whether no sample may begin.
        unit: What runs out first, ``"tokens"`` or ``"nanodollars"``; None if that is samples or requests.
        holds: Whether samples in flight hold tokens or dollars, so that waiting for them may help.
        known: How many calls of known sets are open.
    """

    wait: Future[None] | None
    halted: bool
    unit: str | None
    holds: bool
    known: int


class Shared:
    """What a pool and the scopes within it have in common.

    Args:
        supply: Where their budget comes from.
        is_durable: Whether the budget outlives this process, in a store that others may share and that may block.
        throttle: What requests pass on their way out; None for nothing.
        clock: Seconds since the epoch.

    Attributes:
        lock: Their lock.
        queue: Who waits for budget.
        promised: First samples that were fetched for calls that wait for one.
        programs: What is kept of each program.
        unbounded: The models, and what bounds were lacking, that were warned of.
        moved_to: The name under which the whole budget was published; empty if it was not.
        open_arms: The calls that are open.
        open_known: Numbers of those that are of a known set.
    """

    def __init__(
        self, *, supply: Supply, is_durable: bool, throttle: Throttle | None, clock: Callable[[], float]
    ) -> None:
        self.supply = supply
        self.is_durable = is_durable
        self.throttle = throttle
        self.clock = clock
        self.periods: Periods | None = None
        self.lock = StepLock(before=self._begin_period, after=supply.tend)
        self.queue = WaitQueue(self.lock, polls=is_durable)
        self.promised = 0
        self.programs: weakref.WeakKeyDictionary[Any, Program] = weakref.WeakKeyDictionary()
        self.unbounded: set[tuple[str, str]] = set()
        self.moved_to = ""
        self.open_arms: weakref.WeakSet[Arm] = weakref.WeakSet()
        self.open_known: set[int] = set()

    def begin_anew(self, throttle: Throttle | None) -> None:
        """In the child of a fork nobody waits or holds a lock, and no call is open: those are the parent's.

        Args:
            throttle: What requests pass from now on; None for nothing.
        """
        self.throttle = throttle
        self.lock.begin_anew()
        self.queue.begin_anew()
        self.promised = 0
        for arm in self.open_arms:
            arm.disown()
        self.open_arms = weakref.WeakSet()
        self.open_known = set()
        for program in self.programs.values():
            program.open_calls.clear()

    def _begin_period(self) -> None:
        if self.periods is not None:
            # A store that fails keeps no step from settling: the period is begun at a later one.
            with contextlib.suppress(StorageError):
                self.periods.look()

"""Where a plan's questions to the pool are answered: the pool, for one call or for a known set of calls."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol

from dynscale_dspy.budget.arms import Arm
from dynscale_dspy.budget.leases import Lease
from dynscale_dspy.budget.locking import running_loop
from dynscale_dspy.budget.pool import BudgetPool
from dynscale_dspy.execution.request_costs import costs_last
from dynscale_dspy.sampling.batch_plan import KnownSet
from dynscale_dspy.sampling.steps import (
    Change,
    Close,
    Empty,
    Fits,
    Gate,
    Granted,
    Insist,
    Look,
    Open,
    PoolStep,
    Record,
    Reserve,
    ReserveFor,
    Standing,
)


class Desk(Protocol):
    """Carries out the steps of a plan that ask the pool."""

    @property
    def may_block(self) -> bool:
        """Whether that may take long, since the pool is kept in a file that others may hold."""
        ...

    def seconds_left(self) -> float:
        """Seconds to the pool's deadline, after which samples are not waited for; infinite without one."""
        ...

    def cut_off(self) -> Exception:
        """The error of a sample that was not waited for."""
        ...

    def carry_out(self, step: PoolStep) -> Any:
        """What is to be sent back to the plan."""
        ...

    def close(self) -> None:
        """Give back whatever is reserved and not begun. Closing twice does nothing."""
        ...


class CallDesk:
    """The pool, for one call. Safe from any thread: it may be closed while a step is still being carried out.

    Args:
        pool: The pool.
        outer: The lease of the sample this call is made in, if any.
        program: Whose samples these are.
        requests: A guess of the requests one makes.
        key: A name of the call that outlives the process, for a pool kept in a file.
        beside: Whether it helps another call that has its answer.
    """

    def __init__(
        self,
        pool: BudgetPool,
        *,
        outer: Lease | None,
        program: object,
        requests: int,
        key: bytes | None,
        beside: bool = False,
    ) -> None:
        self._pool = pool
        self._admission = pool.admission
        self._outer = outer
        self._program = program
        self._requests = requests
        self._key = key
        self._beside = beside
        self._arm: Arm | None = None
        pool.arrive()
        self._loop = running_loop()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def may_block(self) -> bool:
        """Whether the pool is kept in a file."""
        return self._pool.is_durable

    def seconds_left(self) -> float:
        """Seconds to the pool's deadline; infinite without one."""
        return self._admission.seconds_left()

    def cut_off(self) -> Exception:
        """The error of a sample that was not waited for."""
        return self._admission.cut_off()

    def carry_out(self, step: PoolStep) -> Any:
        """What is to be sent back to the plan."""
        with self._lock:
            if self._closed:
                return None  # the call was given up while this step was on its way to its thread
            match step:
                case Open(samplers, together):
                    return self._open(samplers, together)
                case Reserve(evidence, samplers, pending, at_same_price, together):
                    arm = self._arm
                    assert arm is not None
                    count = arm.request(
                        evidence, samplers, pending=pending, at_same_price=at_same_price, together=together
                    )
                    return self._granted(count)
                case Insist(sampler):
                    return self._insist(sampler)
                case Close():
                    self._close_arm()
                case Empty():
                    return self._empty()
                case Record(call):
                    self._pool.record(call)
                case Gate():
                    return self._admission.gate()
                case Change():
                    change = self._admission.change()
                    if not self._admission.may_change() and not change.done():
                        change = Future()  # of its own: nobody is to wait where nothing is held
                        change.set_result(None)
                    return change
                case _:
                    raise TypeError(f"a single call has no step {step!r}")

    def close(self) -> None:
        """The call is over."""
        with self._lock:
            self._closed = True
            self._close_arm()

    def _open(self, samplers: Sequence[str], together: int) -> Granted | Future[None] | None:
        opened = self._admission.open(
            samplers,
            outer=self._outer,
            program=self._program,
            requests=self._requests,
            key=self._key,
            hold=self._hold,
            beside=self._beside,
            together=together,
        )
        if not isinstance(opened, Arm):
            return opened
        return self._granted(opened.waiting)

    def _hold(self, arm: Arm) -> None:
        self._admission.lock.hold(self, arm.close, self._loop)
        self._arm = arm
        arm.learned.costs_last = costs_last()

    def _insist(self, sampler: str) -> Granted:
        arm = self._arm
        assert arm is not None
        return self._granted(int(arm.pull(sampler)))

    def _granted(self, count: int) -> Granted:
        arm, admission = self._arm, self._admission
        assert arm is not None
        metered = admission.is_metered
        return Granted(
            arm.take_all() if count else (),
            unit=admission.binding_unit() if metered else None,
            may_insist=metered and self._outer is None,
        )

    def _empty(self) -> Exception | None:
        if self._beside or self._pool.on_empty == "raise":
            return self._admission.exhausted(self._program, self._requests)
        self._admission.count_unscaled_run()
        return None

    def _close_arm(self) -> None:
        if self._arm is not None:
            self._arm.close()
            self._admission.lock.release(self)


class BatchDesk:
    """The pool, for a known set of calls, which it opens.

    Args:
        pool: The pool.
        count: How many calls there are.
        program: Whose samples these are.
        requests: A guess of the requests one makes.
        keys: Names of the calls that outlive the process, for a pool kept in a file.

    Raises:
        BudgetExhausted: If there is not one sample for each; nothing is opened then.

    Attributes:
        known: What the pool tells of the set.
    """

    def __init__(
        self, pool: BudgetPool, count: int, *, program: object, requests: int, keys: Sequence[bytes | None] | None
    ) -> None:
        self._pool = pool
        self._admission = pool.admission
        pool.arrive()
        self._arms: list[Arm] = []
        self._admission.lock.hold(self, partial(_close_all, self._arms), running_loop())
        left = pool.admission.firmly_left(program)
        _, limit, requests_left = pool.admission.open_known(
            count, program=program, requests=requests, keys=keys, hold=self._arms.append
        )
        self._arms[0].learned.costs_last = costs_last()
        self.known = KnownSet(
            tuple(arm.waiting for arm in self._arms),
            limit=limit,
            requests=requests_left,
            each=self._arms[0].requests_each(),
            measured=self._arms[0].is_measured,
            metered=pool.admission.is_metered,
            left=left,
            shared=self._arms[0].has_shared,
            counts_prompts=self._arms[0].counts_prompts,
        )

    @property
    def may_block(self) -> bool:
        """Whether the pool is kept in a file."""
        return self._pool.is_durable

    def seconds_left(self) -> float:
        """Seconds to the pool's deadline; infinite without one."""
        return self._admission.seconds_left()

    def cut_off(self) -> Exception:
        """The error of a sample that was not waited for."""
        return self._admission.cut_off()

    def carry_out(self, step: PoolStep) -> Any:
        """What is to be sent back to the plan."""
        match step:
            case Look():
                pool, arms = self._admission.standing(), self._arms
                bound = arms[0].bounds(pool.unit)[0] if pool.unit is not None and arms[0].is_measured else 0.0
                others = max(pool.known - len(arms), 0)
                return Standing(pool.wait, pool.halted, pool.unit, pool.holds, bound, others)
            case ReserveFor(call, sampler, requests, further):
                return self._arms[call].obtain(sampler, requests, further=further)
            case Fits(call, sampler):
                return self._admission.may_obtain(self._arms[call], sampler)
            case Change():
                return self._admission.change()
            case _:
                raise TypeError(f"a known set of calls has no step {step!r}")

    def close(self) -> None:
        """All calls are over."""
        _close_all(self._arms)
        self._admission.lock.release(self)


def _close_all(arms: Sequence[Arm]) -> None:
    for arm in arms:
        arm.close()

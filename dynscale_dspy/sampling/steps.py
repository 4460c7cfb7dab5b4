"""What a plan asks of the drivers that carry it out, and the samples it asks for. Plain values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from dynscale_dspy.allocation.evidence import Evidence
from dynscale_dspy.sampling.sample import Draw, Sample


@dataclass(frozen=True)
class Job:
    """One sample for a driver to run.

    Args:
        draw: What to draw.
        lease: What pays for it, as the pool handed it out; None for a run outside the budget.
        call: Position of its call in a known set, 0 for a single call.
        group: Jobs of one call with the same number share a request, and follow each other in whatever they are part
            of. None for a job that makes its own.
    """

    draw: Draw
    lease: Any
    call: int = 0
    group: int | None = None


def grouped(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs by the request they share: each group's run one after another, the groups side by side.

    Example:
        >>> jobs = [Job(Draw(0), None, group=1), Job(Draw(1), None, group=1), Job(Draw(2), None), Job(Draw(3), None)]
        >>> [[job.draw.index for job in group] for group in grouped(jobs)]
        [[0, 1], [2], [3]]
    """
    groups: list[list[Job]] = []
    for (_, group), shared in groupby(jobs, key=lambda job: (job.call, job.group)):
        if group is None:
            groups.extend([job] for job in shared)
        else:
            groups.append(list(shared))
    return groups


# ---- running and waiting


class Round:
    """A step: run these jobs side by side and send back their samples, in the same order.

    Args:
        jobs: The jobs.
        enough: Given the samples finished so far, returns True if the others are not needed. A driver that can then
            calls them off: tasks are cancelled, what has not begun in a thread does not begin.
    """

    def __init__(self, jobs: list[Job], enough: Callable[[Sequence[Sample]], bool] | None = None) -> None:
        self.jobs = jobs
        self.over = False
        """Whether the jobs that are not finished are not needed."""
        self._enough = enough
        self._finished: list[Sample] = []

    @property
    def may_end_early(self) -> bool:
        """Whether some of the jobs may prove needless before they are finished."""
        return self._enough is not None

    def tell(self, samples: Sequence[Sample]) -> None:
        """Some of the jobs are finished."""
        if self._enough is not None:
            self._finished.extend(samples)
            self.over = self.over or self._enough(self._finished)


@dataclass(frozen=True)
class Wait:
    """A step: wait, within bounds, for another call's outcome or a change in the pool.

    Sent back is whether it is there; None if this is no place to wait.

    Args:
        future: What to wait for.
        look: Called now and then while that lasts; it ends a future that nobody will bring about any more.
    """

    future: Future[Any]
    look: Callable[[], object] | None = None


@dataclass(frozen=True)
class Notice:
    """A step: tell whoever watches how the call stands; nothing is sent back.

    Args:
        send: Sends the message from a thread.
        asend: Sends it from a task.
    """

    send: Callable[[], None]
    asend: Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Consult:
    """A step: ask something outside the call's samples, such as a judge. Sent back is what it says.

    Args:
        ask: Asks from a thread.
        aask: Asks from a task.
    """

    ask: Callable[[], Any]
    aask: Callable[[], Awaitable[Any]]


# ---- asking the pool, for one call


@dataclass(frozen=True)
class Granted:
    """What a pool has granted.

    Args:
        leases: One for each of the first samples that were asked for; what they are is the pool's business.
        unit: What runs out first, ``"tokens"`` or ``"nanodollars"``; None if that is samples or requests.
        may_insist: Whether the call may ask for a sample whatever the price; see :class:`Insist`.
    """

    leases: tuple[Any, ...] = ()
    unit: str | None = None
    may_insist: bool = False


@dataclass(frozen=True)
class Open:
    """A step: open the call, with its first samples reserved.

    Sent back is what is :class:`Granted`; a future to wait for before asking again; None if nothing can be.

    Args:
        samplers: The names of the samplers that would draw its samples, as many as it can use now.
        together: How many of these at most, from the first on, may come from one request.
    """

    samplers: tuple[str, ...]
    together: int = 1


@dataclass(frozen=True)
class Reserve:
    """A step: reserve more samples, as many of the first ones as are each worth the price. Sent back: :class:`Granted`.

    Args:
        evidence: The call's votes so far.
        samplers: The names of the samplers that would draw them.
        pending: Samples in flight, or reserved and not drawn yet.
        at_same_price: Whether these are bought together with those just granted, which have raised the price.
        together: How many of these at most, from the first on, may come from one request; from that of those just
            granted if they are bought together.
    """

    evidence: Evidence
    samplers: tuple[str, ...]
    pending: int = 0
    at_same_price: bool = False
    together: int = 1


@dataclass(frozen=True)
class Insist:
    """A step: reserve one more sample whatever the price, if the caps allow it now. Sent back: :class:`Granted`.

    Args:
        sampler: The name of the sampler that would draw it.
    """

    sampler: str


@dataclass(frozen=True)
class Close:
    """A step: the call draws no more; what is reserved for it and not begun is free again. Nothing is sent back."""


@dataclass(frozen=True)
class Empty:
    """A step: not one sample could be had.

    Sent back is the error that the call is to end with; None if it is to be run once, outside the budget.
    """


@dataclass(frozen=True)
class Record:
    """A step: the call has its answer, which the pool is to remember. Nothing is sent back.

    Args:
        call: What there is to remember.
    """

    call: Any


@dataclass(frozen=True)
class Gate:
    """A step: sent back is what to wait for while the pool is paused or fetches more budget; None if it is open."""


@dataclass(frozen=True)
class Change:
    """A step: sent back is a future that is done when something that was held is free again."""


# ---- asking the pool, for a known set of calls


@dataclass(frozen=True)
class Standing:
    """How a pool stands.

    Args:
        wait: What to wait for while it is paused or fetches more budget; None if it is open.
        halted: Whether no sample may begin.
        unit: What runs out first, ``"tokens"`` or ``"nanodollars"``; None if that is samples or requests.
        holds_elsewhere: Whether samples in flight hold tokens or dollars, so that waiting for them may help.
        bound: The most that the first sample of a call may take of what runs out first; 0 if that is not known.
        others: Calls of other known sets that are answered meanwhile, from the same pool.
    """

    wait: Future[None] | None = None
    halted: bool = False
    unit: str | None = None
    holds_elsewhere: bool = False
    bound: float = 0.0
    others: int = 0


@dataclass(frozen=True)
class Look:
    """A step: sent back is the pool's :class:`Standing`."""


@dataclass(frozen=True)
class ReserveFor:
    """A step: sent back is the lease of one more sample of a call, or None if it does not fit now.

    Args:
        call: The position of the call.
        sampler: The name of the sampler that is going to draw it.
        requests: Requests to set aside for it.
        further: Whether it may come as a further choice of the request of the sample before.
    """

    call: int
    sampler: str
    requests: int
    further: bool = False


@dataclass(frozen=True)
class Fits:
    """A step: sent back is whether a sample that was refused may fit once what is in flight has ended.

    Args:
        call: The position of the call.
        sampler: The name of the sampler that would draw it.
    """

    call: int
    sampler: str


PoolStep = Open | Reserve | Insist | Close | Empty | Record | Gate | Change | Look | ReserveFor | Fits
"""What is asked of the pool. Carrying it out may block where the pool is kept in a file."""
Step = Round | Wait | Notice | Consult | PoolStep
"""What a plan may yield."""

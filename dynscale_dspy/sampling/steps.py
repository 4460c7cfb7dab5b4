"""What a plan asks of the drivers that carry it out, and the samples it asks for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from dynscale_dspy.sampling.sample import Draw, Sample

if TYPE_CHECKING:
    from dynscale_dspy.budget.leases import Ticket


@dataclass(frozen=True)
class Job:
    """One sample for a driver to run.

    Args:
        draw: What to draw.
        ticket: What pays for it; None for a run outside the budget.
        call: Position of its call in a known set, 0 for a single call.
        group: Jobs of one call with the same number share a request, and follow each other in whatever they are part
            of. None for a job that makes its own.
    """

    draw: Draw
    ticket: Ticket | None
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
    """

    future: Future[Any]


@dataclass(frozen=True)
class Notice:
    """A step: tell whoever watches how the call stands; nothing is sent back.

    Args:
        send: Sends the message from a thread.
        asend: Sends it from a task.
    """

    send: Callable[[], None]
    asend: Callable[[], Awaitable[None]]


Step = Round | Wait | Notice
"""What a plan may yield."""

"""One call, from its first samples to its winner: what its plan asks of the pool, and in which order."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Future
from typing import Any

from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.sample import Sample
from dynscale_dspy.sampling.samplers import Sampler
from dynscale_dspy.sampling.steps import (
    Change,
    Close,
    Empty,
    Gate,
    Granted,
    Insist,
    Job,
    Open,
    Reserve,
    Round,
    Step,
    Wait,
)

CUTS = 3
"""Times a call tries again whose samples were all cut off because those in flight held the rest of the budget."""
FIRST, FURTHER = 8, 4
"""Samples that are proposed at a time, when a call opens and later on. If all of them are granted, more are."""


def play(plan: Plan) -> Generator[Step, Any, Sample]:
    """One call, from its first samples to its winner.

    Args:
        plan: The call's plan; its samples are there when this ends.

    Returns:
        The winning sample. If every sample failed it is a failed one: its error is not raised here, since a generator
        cannot raise all of them unchanged.

    Raises:
        BudgetExhausted: If there is no budget for a first sample and the pool is to raise.
    """
    jobs, may_insist = yield from _open(plan)
    if not jobs:
        error = yield Empty()
        if error is not None:
            raise error
        for sample in (yield Round([Job(plan.draw(plan.propose_unpaid()), None)])):
            plan.tell(sample)
        return plan.winner()
    cuts = 0
    while jobs:
        for sample in (yield plan.round(jobs)):
            plan.tell(sample)
        if plan.is_hopeless:
            break
        while (gate := (yield Gate())) is not None and (yield Wait(gate)) is not None:
            pass
        jobs = yield from _reserve(plan)
        if not jobs and plan.room > 0 and may_insist and plan.only_cut_off:
            if cuts == CUTS and plan.do_without(plan.samples[-1].draw.sampler.model):
                cuts = 0  # a request of another language model may cost less
            if cuts < CUTS:
                # The samples in flight hold more, at their upper bounds, than they will turn out to cost.
                cuts += 1
                jobs = yield from _insist(plan)
    yield Close()
    return plan.winner()


def _open(plan: Plan) -> Generator[Step, Any, tuple[list[Job], bool]]:
    """The jobs of the first samples, and whether the call may insist on one more; no jobs if not one can be had."""
    while True:
        samplers = plan.propose(FIRST)
        if not samplers:
            raise ValueError(
                f"{plan.strategy!r} wants no first sample, and a call needs one: propose() must return a sampler for "
                "it, and room(0) at least 1"
            )
        granted = yield from _opened(Open(_names(samplers), plan.together(samplers)))
        if granted is not None:
            jobs = yield from _more(plan, samplers, granted)
            return jobs, granted.may_insist
        if not plan.do_without():  # a language model that costs more than all that is left
            return [], False


def _opened(step: Open) -> Generator[Step, Any, Granted | None]:
    """What is granted for the first samples, once there is something to wait for no more; None for nothing."""
    granted = yield step
    while isinstance(granted, Future):
        again = yield Wait(granted)
        granted = yield step
        if isinstance(granted, Future) and (again is None or (not again and (yield Gate()) is None)):
            return None  # it cannot be waited for, or nothing came of it
    return granted


def _reserve(plan: Plan) -> Generator[Step, Any, list[Job]]:
    """The jobs of further samples that are worth the price."""
    samplers = plan.propose(FURTHER)
    if not samplers:
        return []
    together = plan.together(samplers)
    granted = yield Reserve(plan.selection.evidence(), _names(samplers), plan.pending, together=together)
    return (yield from _more(plan, samplers, granted))


def _more(plan: Plan, samplers: list[Sampler], granted: Granted) -> Generator[Step, Any, list[Job]]:
    """The jobs of what was granted; while all that was proposed is, more is proposed."""
    plan.unit = granted.unit
    leases = list(granted.leases)
    while len(leases) == len(samplers):
        further = plan.propose(FIRST, ahead=len(leases))
        if not further:
            break
        pending = plan.pending + len(leases)
        joins = max(plan.together(samplers + further) - len(leases), 0)
        granted = yield Reserve(plan.selection.evidence(), _names(further), pending, at_same_price=True, together=joins)
        samplers = samplers + further
        leases += granted.leases
    return plan.jobs(samplers, leases)


def _insist(plan: Plan) -> Generator[Step, Any, list[Job]]:
    """The job of one more sample, whatever the price, now or after the next change in the pool."""
    samplers = plan.propose()
    if not samplers:
        return []
    granted = yield Insist(samplers[0].name)
    if not granted.leases and (yield Wait((yield Change()))):
        granted = yield Insist(samplers[0].name)
    return plan.jobs(samplers, granted.leases)


def _names(samplers: Sequence[Sampler]) -> tuple[str, ...]:
    return tuple(sampler.name for sampler in samplers)

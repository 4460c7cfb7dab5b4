"""Plans driven without a program."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from dynscale_dspy import BudgetPool, Cost, Parallel
from dynscale_dspy.execution.desk import CallDesk, Desk
from dynscale_dspy.sampling import play as calls
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.sample import Draw, Sample
from dynscale_dspy.sampling.samplers import ALONE, CallView
from dynscale_dspy.sampling.steps import PoolStep, Round
from dynscale_dspy.selection.plurality import Plurality
from tests.support import vote


def make_plan(key=0, strategy=None, max_samples=64):
    return Plan(strategy or Parallel(), seed=0, key=key, max_samples=max_samples)


def voters(*keys) -> list[Sample]:
    """Independent samples of a call, in order, each of which has voted."""
    return [Sample(Draw(i), prediction=key, answer=key, vote=vote(key)) for i, key in enumerate(keys)]


def make_view(samples, index=None, selector=None) -> CallView:
    """What a strategy sees of a call of these samples; by default its next sample follows right on them."""
    selection = (selector or Plurality()).empty()
    for sample in samples:
        selection = selection.add(sample.vote, sample=sample.draw.index, conditioned=sample.draw.conditioned)
    return CallView(len(samples) if index is None else index, samples, selection)


def view_of(selector, *answers) -> CallView:
    """What a strategy sees of a call whose independent samples gave these answers, under a selector."""
    votes = enumerate(map(selector.read, answers))
    return make_view([Sample(Draw(i), prediction=v.answer, answer=v.answer, vote=v) for i, v in votes], None, selector)


def draw_next(plan: Plan) -> Draw:
    """The next sample of a plan, drawn by the sampler that its strategy proposes."""
    [sampler] = plan.propose()
    return plan.draw(sampler)


def desk_of(pool: BudgetPool) -> CallDesk:
    """The pool, for a call of no program in particular."""
    return CallDesk(pool, outer=None, program=None, requests=1, key=None)


def asking(steps: Generator[Any, Any, Any], desk: Desk) -> Generator[Any, Any, Any]:
    """The same steps without the questions to the pool: the desk answers them as they come."""
    reply = None
    try:
        while True:
            step = steps.send(reply)
            reply = desk.carry_out(step) if isinstance(step, PoolStep) else (yield step)
    except StopIteration as stop:
        return stop.value
    finally:
        steps.close()
        desk.close()


def call_steps(pool: BudgetPool, plan: Plan) -> Generator[Any, Any, Sample]:
    """What a driver has to do for one call of a pool."""
    return asking(calls.play(plan), desk_of(pool))


def finish(job, key, error=None):
    """What a driver does with a job, without a program."""
    cost = Cost()
    if job.lease is not None:
        assert job.lease.start()
        job.lease.charge()
        cost = job.lease.settle()
    problem = "failed" if error else "" if key is not None else "no answer"
    prediction = None if error else key
    return Sample(job.draw, prediction=prediction, answer=key, vote=vote(key), problem=problem, error=error, cost=cost)


def play(pool, plan, answer):
    """Drive one call; ``answer(index)`` is the index-th sample's key, or an exception."""
    steps = call_steps(pool, plan)
    try:
        step = next(steps)
        while True:
            assert isinstance(step, Round)
            samples = []
            for job in step.jobs:
                value = answer(job.draw.index)
                failed = isinstance(value, Exception)
                samples.append(finish(job, None if failed else value, value if failed else None))
            step = steps.send(samples)
    except StopIteration as stop:
        return stop.value


class TwoThenAsk(Parallel):
    """Draws two samples, and more of them only once these differ."""

    def propose(self, view, learned, rng):
        return ALONE if view.next_index < 2 or view.evidence.rival else None

"""Plans driven without a program."""

from __future__ import annotations

from dynscale_dspy import Cost, Parallel
from dynscale_dspy.sampling.plan import Plan, conduct
from dynscale_dspy.sampling.sample import Sample
from dynscale_dspy.sampling.steps import Round
from tests.support import vote


def make_plan(key=0, strategy=None, max_samples=64):
    return Plan(strategy or Parallel(), seed=0, key=key, max_samples=max_samples)


def finish(job, key, error=None):
    """What a driver does with a job, without a program."""
    cost = Cost()
    if job.ticket is not None:
        assert job.ticket.start()
        job.ticket.call()
        cost = job.ticket.settle()
    problem = "failed" if error else "" if key is not None else "no answer"
    prediction = None if error else key
    return Sample(job.draw, prediction=prediction, answer=key, vote=vote(key), problem=problem, error=error, cost=cost)


def play(pool, plan, answer, key=None):
    """Drive one call; ``answer(index)`` is the index-th sample's key, or an exception."""
    steps = conduct(pool, plan, key=key)
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
        return stop.value[0]

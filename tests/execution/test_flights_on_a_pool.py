from __future__ import annotations

from dataclasses import replace

import pytest

from dynscale_dspy import BudgetPool, Uniform
from dynscale_dspy.execution.flights import once
from dynscale_dspy.sampling.play import play
from dynscale_dspy.sampling.steps import Round, Wait
from tests.sampling.support import asking, desk_of, finish, make_plan


def steps_of(pool, plan):
    """What a driver has to do for a call that may be in flight already."""
    return asking(once(pool.flights, "same", play(plan), copied=replace), desk_of(pool))


def test_the_same_call_in_flight_twice_is_paid_once():
    pool = BudgetPool(per_call=4, policy=Uniform())
    first = steps_of(pool, make_plan())
    step = next(first)
    second = steps_of(pool, make_plan())
    wait = next(second)
    assert isinstance(wait, Wait) and not wait.future.done()
    with pytest.raises(StopIteration) as stopped:
        first.send([finish(job, "A") for job in step.jobs])
    winner = stopped.value.value
    with pytest.raises(StopIteration) as joined:
        second.send(True)
    assert joined.value.value == winner and joined.value.value is not winner
    assert pool.statistics().spent.samples == 4
    assert next(steps_of(pool, make_plan())).jobs  # afterwards it is a call like any other


def test_a_call_that_cannot_wait_goes_alone():
    pool = BudgetPool(per_call=2, policy=Uniform())
    first = steps_of(pool, make_plan())
    next(first)
    second = steps_of(pool, make_plan())
    next(second)
    assert isinstance(second.send(False), Round)


def test_if_the_first_of_two_is_interrupted_the_second_takes_over():
    pool = BudgetPool(per_call=2, policy=Uniform())
    first = steps_of(pool, make_plan())
    next(first)
    second = steps_of(pool, make_plan())
    next(second)
    first.close()
    assert isinstance(second.send(True), Round)


def test_an_error_of_the_first_reaches_the_second():
    pool = BudgetPool(per_call=1)
    first = steps_of(pool, make_plan())
    step = next(first)
    second = steps_of(pool, make_plan())
    next(second)
    with pytest.raises(StopIteration) as stopped:
        first.send([finish(job, None, ZeroDivisionError()) for job in step.jobs])
    with pytest.raises(StopIteration) as joined:
        second.send(True)
    assert isinstance(stopped.value.value.error, ZeroDivisionError)
    assert joined.value.value == stopped.value.value

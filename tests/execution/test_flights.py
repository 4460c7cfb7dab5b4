"""The same call made again while it runs waits for the first one's winner. tests/transport has it on the wire."""

from __future__ import annotations

import pytest

from dynscale_dspy.budget.single_flight import SingleFlight
from dynscale_dspy.execution.flights import Abandoned, once
from dynscale_dspy.sampling.sample import Draw, Sample
from dynscale_dspy.sampling.steps import Gate, Wait

WINNER = Sample(Draw(0), prediction="A")


def steps(winner=WINNER, error=None):
    """A call of one step."""
    yield Gate()
    if error is not None:
        raise error
    return winner


def outcome(generator, reply=None):
    """What the steps return when they are sent this."""
    with pytest.raises(StopIteration) as stop:
        generator.send(reply)
    return stop.value.value


def test_a_call_alone_draws_its_own_winner_and_is_forgotten():
    flights, told = SingleFlight(), []
    for _ in range(2):
        call = once(flights, "q", steps(), decided=told.append)
        assert next(call) == Gate()
        assert outcome(call) == (WINNER, True)
    assert told == [WINNER, WINNER]
    assert flights.join("q")[1] is True


def test_the_same_call_waits_for_the_first_and_shares_its_winner():
    flights, order = SingleFlight(), []
    first = once(flights, "q", steps(), decided=lambda winner: order.append("told"))
    second, third = (once(flights, "q", steps(Sample(Draw(1)))) for _ in range(2))
    assert next(first) == Gate()
    waits = [next(second), next(third)]
    assert all(isinstance(wait, Wait) for wait in waits) and waits[0].future is waits[1].future
    waits[0].future.add_done_callback(lambda future: order.append("done"))
    assert outcome(first) == (WINNER, True)
    assert order == ["told", "done"]
    assert [outcome(call, True) for call in (second, third)] == [(WINNER, False)] * 2


def test_other_calls_do_not_wait():
    flights = SingleFlight()
    calls = [once(flights, key, steps()) for key in ("q", "p")]
    assert [next(call) for call in calls] == [Gate(), Gate()]


@pytest.mark.parametrize("reply", [None, False], ids=["no place to wait", "it takes too long"])
def test_a_call_that_cannot_wait_goes_alone_and_leaves_the_first_alone(reply):
    flights = SingleFlight()
    first, second = once(flights, "q", steps()), once(flights, "q", steps(Sample(Draw(1))))
    assert next(first) == Gate()
    future = next(second).future
    assert second.send(reply) == Gate()
    assert outcome(second) == (Sample(Draw(1)), True)
    assert not future.done() and flights.join("q")[1] is False
    assert outcome(first) == (WINNER, True)
    assert future.result() is WINNER


@pytest.mark.parametrize("place", ["the steps", "the telling"])
def test_an_error_of_the_first_is_everyones(place):
    flights, error = SingleFlight(), ValueError("bad")

    def tell(winner):
        raise error

    options = {"decided": tell} if place == "the telling" else {}
    first = once(flights, "q", steps(error=error if place == "the steps" else None), **options)
    second = once(flights, "q", steps())
    assert next(first) == Gate()
    assert isinstance(next(second), Wait)
    for call, reply in ((first, None), (second, True)):
        with pytest.raises(ValueError) as raised:
            call.send(reply)
        assert raised.value is error
    assert flights.join("q")[1] is True


@pytest.mark.parametrize("interrupt", ["closed", "interrupted"])
def test_if_the_first_is_interrupted_one_of_the_others_takes_over(interrupt):
    flights = SingleFlight()
    first, second, third = (once(flights, "q", steps()) for _ in range(3))
    assert next(first) == Gate()
    future = next(second).future
    assert isinstance(next(third), Wait)
    if interrupt == "closed":
        first.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            first.throw(KeyboardInterrupt())
    assert isinstance(future.exception(), Abandoned)
    assert second.send(True) == Gate()
    assert isinstance(third.send(True), Wait)  # for the second now
    assert outcome(second) == (WINNER, True)
    assert outcome(third, True) == (WINNER, False)


def test_a_call_that_is_closed_while_it_waits_leaves_the_first_alone():
    flights = SingleFlight()
    first, second = once(flights, "q", steps()), once(flights, "q", steps())
    assert next(first) == Gate()
    assert isinstance(next(second), Wait)
    second.close()
    assert flights.join("q")[1] is False
    assert outcome(first) == (WINNER, True)


def test_a_call_that_never_began_is_in_nobodys_way():
    flights = SingleFlight()
    once(flights, "q", steps()).close()
    assert flights.join("q")[1] is True

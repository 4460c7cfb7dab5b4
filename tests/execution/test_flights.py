"""The same call made again while it runs waits for the first one's outcome. tests/transport has it on the wire."""

from __future__ import annotations

import threading
from dataclasses import replace

import dspy
import pytest

from dynscale_dspy.budget.single_flight import SingleFlight
from dynscale_dspy.execution.flights import Abandoned, once, submitted_item
from dynscale_dspy.sampling.sample import Draw, Sample
from dynscale_dspy.sampling.steps import Gate, Wait

WINNER = Sample(Draw(0), prediction="A")


def steps(winner=WINNER, error=None):
    """A call of one step."""
    yield Gate()
    if error is not None:
        raise error
    return winner


def copied(winner):
    return replace(winner, problem=f"{winner.problem}copy ")


COPY = copied(WINNER)


def outcome(generator, reply=None):
    """What the steps return when they are sent this."""
    with pytest.raises(StopIteration) as stop:
        generator.send(reply)
    return stop.value.value


def test_a_call_alone_draws_its_own_winner_and_is_forgotten():
    flights = SingleFlight()
    for _ in range(2):
        call = once(flights, "q", steps(), copied=copied)
        assert next(call) == Gate()
        assert outcome(call) is WINNER
    assert flights.join("q")[1] is True


def test_the_same_call_waits_for_the_first_and_gets_a_copy_of_its_own():
    flights, order = SingleFlight(), []

    def watched(winner):
        order.append("copied")
        return copied(winner)

    first = once(flights, "q", steps(), copied=watched)
    second, third = (once(flights, "q", steps(Sample(Draw(1))), copied=watched) for _ in range(2))
    assert next(first) == Gate()
    waits = [next(second), next(third)]
    assert all(isinstance(wait, Wait) for wait in waits) and waits[0].future is waits[1].future
    waits[0].future.add_done_callback(lambda future: order.append("done"))
    assert outcome(first) is WINNER
    assert order == ["copied", "done"]  # before the first caller can change it
    mine, yours = (outcome(call, True) for call in (second, third))
    assert mine == yours == copied(COPY) and mine is not yours


def test_other_calls_do_not_wait():
    flights = SingleFlight()
    calls = [once(flights, key, steps(), copied=copied) for key in ("q", "p")]
    assert [next(call) for call in calls] == [Gate(), Gate()]


@pytest.mark.parametrize("reply", [None, False], ids=["no place to wait", "it takes too long"])
def test_a_call_that_cannot_wait_goes_alone_and_leaves_the_first_alone(reply):
    flights = SingleFlight()
    first, second = (
        once(flights, "q", steps(), copied=copied),
        once(flights, "q", steps(Sample(Draw(1))), copied=copied),
    )
    assert next(first) == Gate()
    future = next(second).future
    assert second.send(reply) == Gate()
    assert outcome(second) == Sample(Draw(1))
    assert not future.done() and flights.join("q")[1] is False
    assert outcome(first) == WINNER
    assert future.result() == COPY


@pytest.mark.parametrize("place", ["the steps", "the copying"])
def test_an_error_of_the_first_is_everyones(place):
    flights, error = SingleFlight(), ValueError("bad")

    def refuse(winner):
        raise error

    first = once(
        flights,
        "q",
        steps(error=error if place == "the steps" else None),
        copied=refuse if place == "the copying" else copied,
    )
    second = once(flights, "q", steps(), copied=copied)
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
    first, second, third = (once(flights, "q", steps(), copied=copied) for _ in range(3))
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
    assert outcome(second) == WINNER
    assert outcome(third, True) == copied(COPY)


def test_a_call_that_is_closed_while_it_waits_leaves_the_first_alone():
    flights = SingleFlight()
    first, second = once(flights, "q", steps(), copied=copied), once(flights, "q", steps(), copied=copied)
    assert next(first) == Gate()
    assert isinstance(next(second), Wait)
    second.close()
    assert flights.join("q")[1] is False
    assert outcome(first) == WINNER


def test_a_call_that_never_began_is_in_nobodys_way():
    flights = SingleFlight()
    once(flights, "q", steps(), copied=copied).close()
    assert flights.join("q")[1] is True


@pytest.mark.parametrize("drive", ["Parallel", "Evaluate", "batch"])
def test_items_of_dspys_executor_are_told_apart(drive):
    seen = []

    class Look(dspy.Module):
        def forward(self, question):
            seen.append(submitted_item())
            return dspy.Prediction(answer=question)

    examples = [dspy.Example(question="same").with_inputs("question")] * 4
    if drive == "Parallel":
        dspy.Parallel(num_threads=2, disable_progress_bar=True)([(Look(), example) for example in examples])
    elif drive == "batch":
        Look().batch(examples, num_threads=2, disable_progress_bar=True)
    else:
        dspy.Evaluate(devset=examples, metric=lambda *_: 1.0, num_threads=2, display_progress=False)(Look())
    assert len({executor for executor, _ in seen}) == 1
    assert sorted(item for _, item in seen) == [0, 1, 2, 3]
    assert submitted_item() is None


def test_a_thread_of_the_users_own_is_at_no_item():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(submitted_item()))
    thread.start()
    thread.join()
    assert seen == [None]

from __future__ import annotations

import os
import threading

import pytest

from dynscale_dspy.budget.single_flight import SingleFlight
from tests.support import forked


def test_the_same_call_is_one_flight_until_it_has_left():
    flights = SingleFlight()
    first, mine = flights.join("a")
    again, second = flights.join("a")
    other, third = flights.join("b")
    assert (mine, second, third) == (True, False, True)
    assert first is again and other is not first
    assert flights.leave("a") and not flights.leave("b")
    fresh, mine = flights.join("a")
    assert mine and fresh is not first
    assert not flights.leave("nobody")  # twice, or never joined: no harm


def test_of_many_threads_one_brings_it_about():
    flights, owners, barrier = SingleFlight(), [], threading.Barrier(16)

    def join():
        barrier.wait()
        owners.append(flights.join("call")[1])

    threads = [threading.Thread(target=join) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(owners) == [False] * 15 + [True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_what_is_in_flight_in_the_parent_is_not_in_a_forked_child():
    flights = SingleFlight()
    assert flights.join("call")[1]
    assert forked(lambda: flights.join("call")[1]) == 1
    assert not flights.join("call")[1]
    held, ended = threading.Event(), threading.Event()

    class Slow:
        """A name that takes its time to be looked up, so that the lock is held meanwhile."""

        def __hash__(self):
            if threading.current_thread() is thread:
                held.set()
                ended.wait(20)
            return 1

    thread = threading.Thread(target=lambda: flights.join(Slow()))
    thread.start()
    assert held.wait(10)
    assert forked(lambda: flights.join("call")[1]) == 1
    ended.set()
    thread.join(10)

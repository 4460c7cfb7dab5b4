from __future__ import annotations

import asyncio
import os
import threading

import pytest

from dynscale_dspy.budget.single_flight import Abandoned, SingleFlight
from tests.support import forked


def test_the_same_call_is_one_flight_until_it_has_left():
    flights = SingleFlight()
    first, mine = flights.join("a")
    again, second = flights.join("a")
    other, third = flights.join("b")
    assert (mine, second, third) == (True, False, True)
    assert first is again and other is not first
    assert flights.leave("a", first) and not flights.leave("b", other)
    fresh, mine = flights.join("a")
    assert mine and fresh is not first
    assert not flights.leave("a", first)  # twice, or never joined: no harm to another of this name
    assert not flights.leave("nobody", first)
    assert not flights.join("a")[1] and len(flights) == 1


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


def test_what_a_closed_loop_would_have_brought_about_is_a_new_flight():
    flights = SingleFlight()
    loop = asyncio.new_event_loop()

    async def join():
        return flights.join("call")

    lost, mine = loop.run_until_complete(join())
    assert mine and flights.join("call") == (lost, False)
    loop.close()
    assert len(flights) == 0
    fresh, mine = flights.join("call")
    assert mine and fresh is not lost and len(flights) == 1
    assert isinstance(lost.exception(timeout=0), Abandoned)  # so that one of those who wait takes over

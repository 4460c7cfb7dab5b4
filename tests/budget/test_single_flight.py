from __future__ import annotations

import threading

from dynscale_dspy.budget.single_flight import SingleFlight


def test_the_same_call_is_one_flight_until_it_has_left():
    flights = SingleFlight()
    first, mine = flights.join("a")
    again, second = flights.join("a")
    other, third = flights.join("b")
    assert (mine, second, third) == (True, False, True)
    assert first is again and other is not first
    flights.leave("a")
    fresh, mine = flights.join("a")
    assert mine and fresh is not first
    flights.leave("nobody")  # twice, or never joined: no harm


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

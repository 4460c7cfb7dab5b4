from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.budget.breaker import CircuitBreaker


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5))
def test_it_stops_at_the_first_run_of_so_many_failures(outcomes, most):
    breaker, row, tripped = CircuitBreaker(most), 0, False
    for position, failed in enumerate(outcomes):
        row = row + 1 if failed else 0
        expected = not tripped and row >= most
        assert breaker.record(OSError(str(position)) if failed else None) is expected
        if expected:
            assert str(breaker.cause) == str(position)
        tripped = tripped or expected
        assert breaker.state == ("stopped" if tripped else "open")


def test_without_a_limit_it_never_stops_itself():
    breaker = CircuitBreaker(None)
    assert not any(breaker.record(OSError()) for _ in range(1000))
    assert breaker.state == "open"


def test_resume_counts_anew_and_a_stopped_one_cannot_be_paused():
    breaker = CircuitBreaker(2)
    breaker.record(OSError())
    breaker.record(OSError())
    breaker.pause()
    assert (breaker.state, type(breaker.cause)) == ("stopped", OSError)
    breaker.resume()
    assert (breaker.state, breaker.cause) == ("open", None)
    assert not breaker.record(OSError())
    breaker.pause()
    assert breaker.state == "paused"


def test_it_follows_another_unless_it_stopped_itself():
    breaker = CircuitBreaker(1)
    breaker.follow("paused")
    assert breaker.state == "paused"
    breaker.follow("open")
    breaker.record(OSError())
    breaker.follow("open")
    assert breaker.state == "stopped"

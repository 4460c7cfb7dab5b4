from __future__ import annotations

import pytest

from dynscale_dspy.execution.exchange import Exchange


def asking(log):
    """Asks until something that is no number comes back; what fails is asked for once more."""
    try:
        total = 0
        while True:
            try:
                answer = yield f"after {total}"
            except ValueError as error:
                log.append(error)
                answer = yield "once more"
            if answer is None:
                return total
            total += answer
    finally:
        log.append("closed")


def drive(exchange, *outcomes):
    """Answer each request with one of these; an exception among them is raised. Returns what was asked."""
    asked = []
    for outcome in outcomes:
        asked.append(exchange.asked)
        with exchange:
            if isinstance(outcome, BaseException):
                raise outcome
            exchange.outputs = outcome
    return asked


def test_the_steps_are_sent_what_came_back():
    log = []
    exchange = Exchange(asking(log))
    assert drive(exchange, 1, 2, None) == ["after 0", "after 1", "after 3"]
    assert (exchange.asked, exchange.result, log) == (None, 3, ["closed"])


def test_steps_without_a_request_have_their_result_at_once():
    def known():
        return "known"
        yield

    exchange = Exchange(known())
    assert (exchange.asked, exchange.result) == (None, "known")


def test_an_error_that_the_steps_handle_goes_no_further():
    log, error = [], ValueError("unreadable")
    exchange = Exchange(asking(log))
    assert drive(exchange, error, 5) == ["after 0", "once more"]
    assert exchange.asked == "after 5" and log == [error]


@pytest.mark.parametrize("error", [KeyError("down"), StopIteration("odd"), KeyboardInterrupt(), GeneratorExit()])
def test_any_other_passes_through_unchanged_and_closes_the_steps(error):
    log = []
    exchange = Exchange(asking(log))
    with pytest.raises(type(error)) as raised:
        drive(exchange, error)
    assert raised.value is error and log == ["closed"]


def test_an_error_that_the_steps_make_of_another_is_raised():
    def translating():
        try:
            yield "?"
        except KeyError as error:
            raise RuntimeError("no such answer") from error

    with pytest.raises(RuntimeError, match=r"^no such answer$"):
        drive(Exchange(translating()), KeyError("k"))

from __future__ import annotations

import dspy
import pytest

from dynscale_dspy.execution import lm_errors
from dynscale_dspy.execution.lm_errors import is_permanent
from tests.support import needs_lm_errors


def failure(name: str, module: str = "somewhere", **attributes: object) -> Exception:
    """An error of another library, known by its name alone."""
    error = type(name, (Exception,), {"__module__": module})()
    vars(error).update(attributes)
    return error


@needs_lm_errors
def test_permanent_faults():
    errors = dspy.utils.exceptions
    assert is_permanent(errors.LMAuthError("")) and is_permanent(errors.LMNotConfiguredError(""))
    assert not is_permanent(errors.LMServerError("")) and not is_permanent(errors.LMRateLimitError(""))
    assert not is_permanent(ValueError()) and not is_permanent(None)


@pytest.mark.parametrize("name", ["AuthenticationError", "PermissionDeniedError", "NotFoundError", "LMBillingError"])
def test_permanent_faults_are_known_by_name(name):
    assert is_permanent(failure(name))


def test_a_context_overflow_is_no_reason_to_ask_for_less_choices():
    overflow = failure("ContextWindowExceededError", status_code=400)
    assert lm_errors.is_context_overflow(overflow)
    assert lm_errors.has_unsupported_status(overflow)
    assert not lm_errors.is_unsupported(overflow)
    assert lm_errors.is_unsupported(failure("BadRequestError", status_code=422))
    assert lm_errors.is_unsupported(failure("UnsupportedParamsError"))
    assert not lm_errors.is_unsupported(failure("InternalServerError", status_code=500))


@pytest.mark.parametrize("status", [400, 401, 429, 500, 503])
def test_a_server_that_answers_with_an_error_has_generated_nothing(status):
    assert lm_errors.was_refused(failure("Error", status=status))
    assert lm_errors.status_of(failure("Error", status=status)) == status


@pytest.mark.parametrize("status", [200, 408, 504, 524, None, "429"])
def test_a_time_out_on_the_way_may_have_cost_everything(status):
    assert not lm_errors.was_refused(failure("Error", status=status))


def test_litellm_calls_a_broken_connection_a_500_too():
    broken = failure("InternalServerError", "litellm.exceptions", status_code=500)
    assert not lm_errors.was_refused(broken)
    broken.__cause__ = failure("HTTPStatusError", "httpx")
    assert lm_errors.was_refused(broken)


def test_what_was_never_sent_may_be_known_by_a_cause_alone():
    error = RuntimeError("it did not work")
    assert not lm_errors.was_never_sent(error)
    error.__cause__ = ConnectionRefusedError()
    assert lm_errors.was_never_sent(error)
    assert lm_errors.was_never_sent(failure("LMNotConfiguredError"))
    assert lm_errors.was_never_sent(failure("TransportError", "dspy.lm15.transports._exceptions"))
    assert not lm_errors.was_never_sent(failure("TransportError", "elsewhere"))


def test_causes_that_go_round_end():
    first, second = RuntimeError(), RuntimeError()
    first.__cause__, second.__cause__ = second, first
    assert not lm_errors.was_never_sent(first)


@pytest.mark.parametrize(
    ("asked", "seconds"), [(3, 3.0), (0.5, 0.5), (-1, None), (float("inf"), None), ("soon", None), (None, None)]
)
def test_retry_after_is_a_time_that_can_be_waited(asked, seconds):
    assert lm_errors.retry_after(failure("Error", retry_after=asked)) == seconds


def test_an_unreadable_reply():
    signature = dspy.Signature("question -> answer")
    error = dspy.utils.exceptions.AdapterParseError("ChatAdapter", signature, "no format at all")
    assert lm_errors.is_unreadable(error)
    assert not lm_errors.is_unreadable(ValueError())

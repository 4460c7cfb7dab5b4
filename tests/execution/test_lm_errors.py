from __future__ import annotations

import dspy
import pytest

from dynscale_dspy.execution import lm_errors
from dynscale_dspy.execution.lm_errors import is_permanent
from tests.execution.refused_bodies import OTHERS, REFUSALS, UNEXPLAINED
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


# ---- refused settings

ASKED = {"temperature": 1.0, "seed": 7, "logprobs": True, "top_p": 0.9, "max_tokens": 100}
NAMES = ["temperature", "seed", "logprobs"]


class Turned(Exception):
    """As an SDK has it: the body of the reply, and what it says."""

    def __init__(self, status, body):
        error = body.get("error", body) if isinstance(body, dict) else {}
        self.status_code, self.body, self.message = status, body, f"Error code: {status}"
        self.param, self.code = error.get("param"), error.get("code")
        super().__init__(self.message)


@pytest.mark.parametrize("reply", REFUSALS.values(), ids=REFUSALS)
def test_a_refused_setting_is_known_by_its_name_a_code_or_words(reply):
    status, body, refused = reply
    found = lm_errors.complaint_of(Turned(status, body), NAMES, ASKED)
    assert set(found.refused) == refused and not found.of_value
    beside = {"top_p"} if "top_p" in str(body) else set()
    assert set(found.refused.values()) == {frozenset(beside)}
    assert not lm_errors.complaint_of(Turned(status, body), [n for n in NAMES if n not in refused], ASKED).refused


@pytest.mark.parametrize("reply", UNEXPLAINED.values(), ids=UNEXPLAINED)
def test_a_refusal_that_says_nothing_may_be_of_any_setting(reply):
    found = lm_errors.complaint_of(Turned(*reply), NAMES, ASKED)
    assert found == lm_errors.Complaint({}, unexplained=True, says_nothing=True)


def test_words_that_name_no_known_reason_leave_it_open():
    for words in ("Only one way of sampling may be chosen.", "top_p is the only one of these"):
        found = lm_errors.complaint_of(Turned(400, {"error": {"message": words}}), NAMES, ASKED)
        assert found == lm_errors.Complaint({}, unexplained=True)


@pytest.mark.parametrize("reply", OTHERS.values(), ids=OTHERS)
def test_what_was_turned_away_for_something_else_is_no_refusal_of_a_setting(reply):
    found = lm_errors.complaint_of(Turned(*reply), NAMES, ASKED)
    assert found == lm_errors.OTHER._replace(unexplained=reply is OTHERS["unknown"])


def test_a_context_overflow_and_an_unknown_model_are_none_either():
    for name in ("ContextWindowExceededError", "LMUnsupportedModelError"):
        error = failure(name, status=400, message="temperature")
        assert lm_errors.complaint_of(error, NAMES, ASKED) == lm_errors.OTHER


@pytest.mark.parametrize(
    "message",
    [
        "Expected temperature to be between 0 and 2",
        "`temperature` must be strictly positive",
        "temperature: Input should be less than or equal to 1",
        "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead.",
    ],
)
def test_a_value_out_of_range_is_a_complaint_of_the_value(message):
    found = lm_errors.complaint_of(Turned(400, {"error": {"message": message}}), NAMES, ASKED)
    assert found.of_value and set(found.refused) == {"temperature"}


def test_litellm_knows_of_some_settings_before_it_sends_them():
    text = "anthropic does not support parameters: ['seed', 'logprobs'], for model=claude. To drop these, set ..."
    found = lm_errors.complaint_of(failure("UnsupportedParamsError", message=text), NAMES, ASKED)
    assert set(found.refused) == {"seed", "logprobs"}


def test_a_language_model_of_ones_own_may_have_no_such_argument():
    def forward(prompt=None):
        return prompt

    with pytest.raises(TypeError) as raised:
        forward(**{"temperature": 1.0})
    assert set(lm_errors.complaint_of(raised.value, NAMES, ASKED).refused) == {"temperature"}
    assert lm_errors.complaint_of(raised.value, ["seed"], ASKED) == lm_errors.OTHER
    assert lm_errors.complaint_of(TypeError("temperature"), NAMES, ASKED) == lm_errors.OTHER
    assert lm_errors.was_never_sent(raised.value) and not lm_errors.was_never_sent(TypeError("temperature"))


def test_a_404_that_is_about_settings_is_read_as_such():
    told = "No endpoints found that support the parameter temperature"
    error = failure("NotFoundError", status_code=404, message=told)
    assert set(lm_errors.complaint_of(error, NAMES, ASKED).refused) == {"temperature"}
    error = failure("NotFoundError", status_code=404, message="No endpoints can handle the requested parameters.")
    assert lm_errors.complaint_of(error, NAMES, ASKED).unexplained
    for told in ("The model `temperature` does not exist", "no such model: temperature", "No endpoints found"):
        error = failure("NotFoundError", status_code=404, message=told)
        assert lm_errors.complaint_of(error, NAMES, ASKED) == lm_errors.OTHER


def test_a_server_has_crashed_where_it_says_so_itself():
    assert lm_errors.has_crashed(failure("Error", status=500)) and lm_errors.has_crashed(failure("Error", status=502))
    for status in (400, 429, 503, 504, None):
        assert not lm_errors.has_crashed(failure("Error", status=status))
    assert not lm_errors.has_crashed(failure("APIConnectionError", "litellm.exceptions", status_code=500))

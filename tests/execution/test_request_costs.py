from __future__ import annotations

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import Cost, Price
from dynscale_dspy.execution.request_costs import Bound, request_bound, request_cost
from tests.support import needs_lm_errors

PRICES = {"openai/fake": Price(prompt=1, completion=2)}


def lm(**options):
    return dspy.LM("openai/fake", api_key="local", **options)


def bound(model, messages="hello", tokens=True, dollars=False, retries=0, **kwargs):
    inputs = {"prompt": None, "messages": messages, "kwargs": kwargs}
    if isinstance(messages, str):
        inputs["messages"] = [{"role": "user", "content": messages}]
    return request_bound(model, inputs, tokens=tokens, dollars=dollars, prices=PRICES, retries=retries)


def read(reports, *, outputs=("text",), error=None, max_tokens=50, metered=True, entry=None, most=None):
    model = lm(max_tokens=max_tokens)
    inputs = {"messages": [{"role": "user", "content": "hello"}], "kwargs": {}}
    most = most or request_bound(model, inputs, tokens=True, dollars=True, prices=PRICES)
    return request_cost(
        model,
        inputs,
        bound=most.cost,
        lacking=most.lacking,
        metered=metered,
        reports=reports,
        entry=entry,
        outputs=list(outputs),
        error=error,
        prices=PRICES,
    )


# ---- before


@given(st.text())
def test_a_prompt_has_at_least_as_many_bytes_as_tokens(text):
    text = text.encode("utf-8", "ignore").decode()
    found = bound(lm(max_tokens=7), text)
    assert found.lacking == ""
    assert found.cost.prompt_tokens >= len(text.encode())
    assert found.cost.completion_tokens == 7


def test_a_call_may_set_its_own_limit():
    assert bound(lm(max_tokens=7), max_tokens=9).cost.completion_tokens == 9
    assert bound(lm(), max_completion_tokens=11).cost.completion_tokens == 11


def test_every_choice_and_every_hidden_retry_is_a_request():
    one, three = bound(lm(max_tokens=7)), bound(lm(max_tokens=7), n=3)
    assert three.cost == one.cost + one.cost + one.cost
    assert bound(lm(max_tokens=7), retries=2).cost == three.cost
    assert bound(lm(), tokens=False).cost == Cost(requests=1)


def test_tools_and_schemas_are_part_of_the_prompt():
    plain = bound(lm(max_tokens=7)).cost.prompt_tokens
    tool = {"type": "function", "function": {"name": "look_up", "description": "x" * 500}}
    assert bound(lm(max_tokens=7), tools=[tool]).cost.prompt_tokens > plain + 500


def test_what_is_lacking_is_told():
    assert bound(lm()).lacking == "it has no max_tokens"
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://localhost/a.png"}}]}]
    assert bound(lm(max_tokens=7), picture).lacking == "its prompt holds more than text"
    other = dspy.LM("hosted_vllm/mine", max_tokens=7)
    assert "the price of hosted_vllm/mine is not known" in bound(other, dollars=True).lacking
    assert bound(other).lacking == ""
    assert bound(dspy.LM("openai/gpt-4o-mini", api_key="k")).overshoot == "16384 tokens a request"


def test_dollars_are_bounded_by_the_worst_price():
    found = bound(lm(max_tokens=10), dollars=True).cost
    assert found.nanodollars == 1000 * found.prompt_tokens + 2000 * 10


def test_openais_own_models_are_counted_by_their_tokenizer():
    text = "The quick brown fox jumps over the lazy dog. " * 50
    exact = bound(dspy.LM("openai/gpt-4o-mini", api_key="k", max_tokens=5), text).cost.prompt_tokens
    behind_another_address = dspy.LM("openai/gpt-4o-mini", api_key="k", api_base="http://localhost:1/v1", max_tokens=5)
    assert 500 < exact < 800
    assert bound(behind_another_address, text).cost.prompt_tokens > len(text)


# ---- after

GOOD = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}


def test_a_report_that_can_be_is_believed():
    cost, distrust = read([{**GOOD, "prompt_tokens_details": {"cached_tokens": 15}}])
    assert distrust == ""
    assert cost == Cost(requests=1, prompt_tokens=20, completion_tokens=5, cached_tokens=15, nanodollars=30_000)


def test_reasoning_that_is_only_in_the_total_counts():
    cost, _ = read([{"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 45}])
    assert cost.completion_tokens == 25


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        ({}, "no usage"),
        ({"prompt_tokens": 0, "completion_tokens": 0}, "no usage"),
        ({**GOOD, "completion_tokens": -5}, "an absurd usage"),
        ({**GOOD, "completion_tokens": True}, "an absurd usage"),
        ({**GOOD, "completion_tokens": "5"}, "an absurd usage"),
        ({**GOOD, "prompt_tokens": 2.5}, "an absurd usage"),
        ({**GOOD, "total_tokens": 10**15}, "an absurd usage"),
        ({"prompt_tokens": 20, "completion_tokens": 0}, "no tokens for a text it wrote"),
        ({**GOOD, "completion_tokens": 51}, "more usage than the request allowed"),
        ({**GOOD, "prompt_tokens": 9999}, "more usage than the request allowed"),
    ],
)
def test_a_report_that_cannot_be_is_charged_at_the_bound(report, reason):
    most = bound(lm(max_tokens=50), dollars=True)
    assert read([report], most=most) == (most.cost, reason)


def test_without_a_bound_the_best_guess_is_what_there_is_to_see():
    nothing = Bound(Cost(requests=1), "it has no max_tokens")
    cost, reason = read([{}], outputs=["x" * 300], most=nothing, metered=False)
    assert reason == "no usage"
    assert cost.completion_tokens == 100


def test_an_answer_from_the_cache_costs_nothing():
    assert read(None) == (Cost(requests=1, cached_requests=1), "")


@needs_lm_errors
def test_what_a_failed_request_costs():
    most = bound(lm(max_tokens=50), dollars=True).cost
    errors = dspy.utils.exceptions
    for error in (
        errors.LMRateLimitError("no", status=429),
        errors.LMAuthError("no"),
        errors.LMServerError("", status=500),
    ):
        assert read(None, error=error, outputs=()) == (Cost(requests=1), "")  # refused: nothing was generated
    for error in (errors.LMTransportError("reset"), errors.LMTimeoutError("late"), KeyboardInterrupt(), ValueError()):
        assert read(None, error=error, outputs=()) == (most, "")  # nobody knows
    assert read(None, error=errors.LMServerError("gateway", status=504), outputs=())[0] == most
    assert read(None, error=errors.LMConfigurationError("none was made"), outputs=())[0] == Cost()
    used, _ = read([GOOD], error=ValueError("the reply could not be read"), outputs=())
    assert used.tokens == 25


@given(
    st.dictionaries(
        st.sampled_from(["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "other"]),
        st.none() | st.integers(-(10**13), 10**13) | st.floats() | st.text(max_size=3) | st.booleans(),
    ),
    st.lists(st.text(max_size=30), max_size=3),
)
def test_whatever_is_reported_the_charge_stays_within_the_bound(report, outputs):
    most = bound(lm(max_tokens=50), n=3, dollars=True)
    cost, _ = read([report], outputs=outputs, most=most)
    assert 0 <= cost.prompt_tokens <= most.cost.prompt_tokens
    assert 0 <= cost.completion_tokens <= most.cost.completion_tokens
    assert 0 <= cost.nanodollars <= most.cost.nanodollars
    assert 1 <= cost.requests <= most.cost.requests


def test_what_litellm_knows_that_a_provider_cannot_is_not_sent_and_costs_nothing():
    options = {"api_base": "http://127.0.0.1:9", "api_key": "local", "cache": False, "num_retries": 0}
    if "engine" in dspy.LM.__init__.__code__.co_varnames:
        options["engine"] = "litellm"
    with pytest.raises(Exception, match="does not support parameters") as caught:
        dspy.LM("anthropic/claude-sonnet-4-5", temperature=1.0, **options)("?", n=2)
    assert read((), error=caught.value) == (Cost(), "")

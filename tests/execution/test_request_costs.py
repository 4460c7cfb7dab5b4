from __future__ import annotations

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import Cost, Price
from dynscale_dspy.execution.request_costs import LARGEST, Bound, price_of, request_bound, request_cost, split
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
    assert bound(dspy.LM("openai/gpt-4o-mini", api_key="k")).overshoot == "16384 tokens for each request in flight"


def test_without_a_price_a_cap_in_dollars_is_said_not_to_hold():
    both = bound(dspy.LM("hosted_vllm/mine"), dollars=True)
    assert both.lacking.startswith("it has no max_tokens, and the price of hosted_vllm/mine is not known")
    assert both.overshoot == "any amount, since each request counts as $0 unless its provider reports what it cost"


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
    ],
)
def test_a_report_that_cannot_be_is_charged_at_the_bound(report, reason):
    most = bound(lm(max_tokens=50), dollars=True)
    assert read([report], most=most) == (most.cost, reason)


@pytest.mark.parametrize(
    ("report", "tokens"), [({**GOOD, "completion_tokens": 51}, 71), ({**GOOD, "prompt_tokens": 9999}, 10004)]
)
def test_more_than_the_request_allowed_is_booked_as_reported(report, tokens):
    cost, reason = read([report], most=bound(lm(max_tokens=50), dollars=True))
    assert (cost.tokens, reason) == (tokens, "more usage than the request allowed")


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
def test_whatever_is_reported_the_charge_is_that_or_within_the_bound(report, outputs):
    most = bound(lm(max_tokens=50), n=3, dollars=True)
    cost, odd = read([report], outputs=outputs, most=most)
    assert 1 <= cost.requests <= most.cost.requests
    if odd == "more usage than the request allowed":
        said = report.get("prompt_tokens") or 0, report.get("completion_tokens") or 0
        assert cost.prompt_tokens == said[0]
        assert cost.completion_tokens == max(said[1], (report.get("total_tokens") or 0) - said[0])
        assert max(said) <= LARGEST
        return
    assert 0 <= cost.prompt_tokens <= most.cost.prompt_tokens
    assert 0 <= cost.completion_tokens <= most.cost.completion_tokens
    assert 0 <= cost.nanodollars <= most.cost.nanodollars


def test_what_litellm_knows_that_a_provider_cannot_is_not_sent_and_costs_nothing():
    options = {"api_base": "http://127.0.0.1:9", "api_key": "local", "cache": False, "num_retries": 0}
    if "engine" in dspy.LM.__init__.__code__.co_varnames:
        options["engine"] = "litellm"
    with pytest.raises(Exception, match="does not support parameters") as caught:
        dspy.LM("anthropic/claude-sonnet-4-5", temperature=1.0, **options)("?", n=2)
    assert read((), error=caught.value) == (Cost(), "")


# ---- shared requests

RATES = st.floats(0, 100)
COSTS = st.builds(
    Cost,
    requests=st.integers(0, 5),
    prompt_tokens=st.integers(0, 10**6),
    completion_tokens=st.integers(0, 10**6),
    cached_tokens=st.integers(0, 10**6),
    nanodollars=st.integers(0, 10**13),
    cached_requests=st.integers(0, 5),
)


@given(COSTS, st.lists(COSTS, min_size=1, max_size=9), st.none() | st.builds(Price, RATES, RATES))
def test_shares_sum_to_the_whole_and_pass_their_bounds_only_together(cost, bounds, price):
    shares = split(cost, bounds, price)
    assert len(shares) == len(bounds)
    assert sum(shares, Cost()) == cost
    for unit in ("completion_tokens", "nanodollars"):
        within = getattr(cost, unit) <= sum(getattr(bound, unit) for bound in bounds)
        for share, most in zip(shares, bounds, strict=True):
            assert getattr(share, unit) >= 0
            assert not within or getattr(share, unit) <= getattr(most, unit)


@given(st.integers(0, 500), st.lists(st.integers(0, 2000), min_size=2, max_size=8), RATES, RATES)
def test_usage_that_can_be_true_stays_within_what_each_sample_has_set_aside(prompt, written, read_at, written_at):
    price = Price(read_at, written_at)
    first = Cost(1, 1, 500, 2000, nanodollars=price.nanodollars(500, 2000))
    other = Cost(completion_tokens=2000, nanodollars=price.nanodollars(0, 2000))
    bounds = [first, *[other] * (len(written) - 1)]
    whole = Cost(0, 1, prompt, sum(written), nanodollars=price.nanodollars(prompt, sum(written)))
    for share, most in zip(split(whole, bounds, price), bounds, strict=True):
        assert share.nanodollars <= most.nanodollars
        assert share.completion_tokens <= most.completion_tokens


def test_a_share_is_priced_by_what_it_wrote():
    price = Price(prompt=0.1, completion=10)
    whole = Cost(requests=1, prompt_tokens=1000, completion_tokens=40, nanodollars=price.nanodollars(1000, 40))
    first, second = split(whole, [whole, whole], price)
    assert (first.nanodollars, second.nanodollars) == (300_000, 200_000)


# ---- the provider's own figure


class Reply:
    """A response of DSPy's native engine: what it does not read itself is in ``provider_data``."""

    def __init__(self, cost):
        self.provider_data = {"usage": {**GOOD, "cost": cost}}


def unlisted(reports, *, entry=None, outputs=("text",)):
    model = dspy.LM("hosted_vllm/mine", max_tokens=50, api_key="k")
    inputs = {"messages": [{"role": "user", "content": "hello"}], "kwargs": {}}
    most = request_bound(model, inputs, tokens=False, dollars=True, prices={})
    assert price_of(model, inputs, {}) is None
    options = {"bound": most.cost, "lacking": most.lacking, "metered": True, "error": None, "prices": {}}
    return request_cost(model, inputs, reports=reports, entry=entry, outputs=list(outputs), **options)[0]


def test_without_a_listed_price_the_providers_figure_counts_on_both_engines():
    assert unlisted([{**GOOD, "cost": 0.01}]).nanodollars == 10**7
    assert unlisted([{**GOOD, "cost": {"total_cost": 0.01}}]).nanodollars == 10**7
    assert unlisted([GOOD], entry={"cost": None, "response": Reply(0.01)}).nanodollars == 10**7
    assert unlisted([GOOD, GOOD], entry={"response": (Reply(0.01), Reply(0.02))}).nanodollars == 3 * 10**7
    assert unlisted([GOOD], entry={"cost": 0.02, "response": None}).nanodollars == 2 * 10**7
    for text in ("0.01", "1e-2", "0.0100"):
        assert unlisted([{**GOOD, "cost": text}]).nanodollars == 10**7
        assert unlisted([GOOD], entry={"response": Reply({"total_cost": text})}).nanodollars == 10**7
    assert unlisted([{"cost": 0.01}]).nanodollars == 10**7  # though it does not say how many tokens


@pytest.mark.parametrize(
    "cost", [None, True, "$1", "-1", "nan", "1e99", "1" * 99, -1, float("nan"), float("inf"), 10**400, {}, [1]]
)
def test_a_figure_that_is_no_amount_of_dollars_is_not_taken_for_one(cost):
    assert unlisted([{**GOOD, "cost": cost}]).nanodollars == 0
    assert unlisted([GOOD], entry={"response": Reply(cost)}).nanodollars == 0


def test_more_dollars_than_listed_are_booked_as_reported():
    model = dspy.LM("openai/gpt-4o-mini", api_key="k", max_tokens=5)
    inputs = {"messages": [{"role": "user", "content": "hello"}], "kwargs": {}}
    most = request_bound(model, inputs, tokens=False, dollars=True, prices={})
    options = {"bound": most.cost, "lacking": most.lacking, "metered": True, "error": None, "prices": {}}
    report = {**GOOD, "prompt_tokens": 2, "total_tokens": 7, "cost": 3.0}
    cost, odd = request_cost(model, inputs, reports=[report], entry=None, outputs=["text"], **options)
    assert (cost.nanodollars, odd) == (3 * 10**9, "a price above the listed one")


class Hostile(dict):
    def get(self, *_):
        raise RuntimeError("no")


def test_no_report_makes_it_raise():
    most = bound(lm(max_tokens=50), dollars=True)
    assert read([Hostile()], most=most) == (most.cost, "an absurd usage")
    assert read([None], most=most) == (most.cost, "an absurd usage")

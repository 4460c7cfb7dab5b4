"""Prompts many times longer than replies: requests are as large as makes their prompt worth it."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynscale_dspy import (
    BudgetPool,
    Cost,
    DynScaling,
    Integrated,
    KnowledgeGradient,
    Parallel,
    Price,
    Uniform,
    explain,
)
from dynscale_dspy.allocation.policies import OptimisticKnowledgeGradient
from dynscale_dspy.execution.choices_route import LITELLM
from dynscale_dspy.testing import FakeServer, questions
from tests.support import needs_engines
from tests.transport.ways import BANK, QUICK, TEXTS, WAYS

CALLS = 40
PROGRAM = dspy.ChainOfThought("question -> answer")


@pytest.fixture(scope="module")
def server():
    with FakeServer(questions(CALLS, seed=3), median_latency=0) as server:
        yield server


def spent_by(server, pool, *, online=False, announced=True, max_choices=8):
    """The program's answers under a pool, one request at a time, and what the server counted."""
    server.reset(seed=3)
    qa = DynScaling(PROGRAM, pool, sampling=Parallel(), max_choices=max_choices)
    asked = [{"question": question.text} for question in server.questions]
    with dspy.context(lm=server.lm("litellm", max_tokens=60)):
        if online:
            pool = pool.expect(CALLS) if announced else pool
            found = [qa(**inputs) for inputs in asked]
        else:
            found = qa.batch(asked, num_threads=1, disable_progress_bar=True)
    counted = server.statistics()
    assert pool.statistics().reserved.samples == 0
    return found, counted


def tokens_of(counted):
    return counted.prompt_tokens + counted.completion_tokens


def _batch(qa, asked):
    return qa.batch(asked, num_threads=4, disable_progress_bar=True)


def _one_by_one(qa, asked):
    return [qa(**inputs) for inputs in asked]


def _one_task(qa, asked):
    async def main():
        return [await qa.acall(**inputs) for inputs in asked]

    return asyncio.run(main())


@pytest.fixture(scope="module")
def uniform(server):
    """What uniform voting of eight in one request takes."""
    _, counted = spent_by(server, BudgetPool(per_call=8, policy=Uniform()))
    assert counted.requests == CALLS
    return tokens_of(counted)


@pytest.mark.parametrize("online", [False, True], ids=["batch", "one by one"])
def test_a_cap_on_tokens_buys_most_of_what_uniform_voting_does_for_it(server, uniform, online):
    """Some samples pay for the further requests of contested calls: not most, as where each is drawn alone."""
    found, counted = spent_by(server, BudgetPool(tokens=uniform), online=online)
    assert None not in found
    assert uniform * 0.9 <= tokens_of(counted) <= uniform
    assert counted.samples >= 4.5 * CALLS
    assert counted.requests <= 1.5 * CALLS


def test_dollars_tell_the_prompt_from_the_reply_by_their_prices(server):
    """Where what is read costs next to nothing, requests are small again."""
    drawn = {}
    for read in (0.01, 4):
        prices = {"openai/fake": Price(read, 4)}
        dollars = (169 * read + 8 * 23 * 4) * CALLS / 1e6
        _, counted = spent_by(server, BudgetPool(dollars=dollars, prices=prices))
        drawn[read] = counted.samples / counted.requests
    assert drawn[0.01] < 2.5 < 3.5 < drawn[4]


@pytest.mark.parametrize("policy", [KnowledgeGradient(first=4), Uniform(), Uniform(first=8)], ids=repr)
def test_where_little_is_left_the_last_calls_have_a_sample_too(server, policy):
    """Two samples in one request each is what the cap pays for; not eight for the first calls and none for others."""
    cap = round(CALLS * (169 + 2.4 * 23)) + 1100  # and one request at its upper bound, and eight samples at first
    found, counted = spent_by(server, BudgetPool(tokens=cap, policy=policy))
    assert None not in found
    assert tokens_of(counted) <= cap


@pytest.mark.parametrize("caps", [{"samples": 8 * CALLS}, {"requests": 3 * CALLS}], ids=lambda caps: next(iter(caps)))
def test_where_tokens_are_plenty_requests_are_no_smaller_for_being_capped(server, caps):
    """Samples or requests run out: what a prompt costs is nothing to save at their expense, nor the other way round."""
    _, counted = spent_by(server, BudgetPool(tokens=10**9, **caps))
    assert counted.samples > 1.1 * counted.requests
    assert counted.requests > 1.5 * CALLS


@needs_engines
@pytest.mark.parametrize("tokens", [None, 10**9], ids=["nothing capped", "tokens plenty"])
@pytest.mark.parametrize("online", [False, True], ids=["batch", "one by one"])
def test_calls_that_are_given_samples_do_not_pay_their_prompt_for_each(server, online, tokens):
    """Nor do all of them draw all of theirs at once."""
    _, counted = spent_by(server, BudgetPool(per_call=8, tokens=tokens), online=online, announced=False)
    assert 7 * CALLS < counted.samples <= 8 * CALLS
    assert CALLS < counted.requests < 2 * CALLS
    assert max(counted.per_question.values()) > 12


@pytest.mark.parametrize("online", [False, True], ids=["batch", "one by one"])
def test_where_samples_are_capped_each_of_them_goes_where_it_is_worth_most(server, online):
    _, counted = spent_by(server, BudgetPool(samples=8 * CALLS), online=online)
    assert counted.requests > 2 * CALLS


@needs_engines
@pytest.mark.parametrize("engine", ["auto", "litellm"])
@pytest.mark.parametrize("drive", [_batch, _one_by_one, _one_task], ids=lambda drive: drive.__name__[1:])
def test_a_second_run_that_the_cache_answers_makes_requests_of_the_same_sizes(server, drive, engine):
    assert LITELLM.wait()
    server.reset(seed=3)

    def run():
        qa = DynScaling(PROGRAM, budget=8, sampling=Parallel())
        predictions = drive(qa, [{"question": question.text} for question in server.questions])
        return [[sample.answer for sample in explain(prediction).samples] for prediction in predictions]

    with dspy.context(lm=server.lm(engine, max_tokens=60, cache=True)):
        first = run()
        asked = server.statistics().requests
        assert asked < 2 * CALLS
        assert run() == first
    assert server.statistics().requests == asked


@pytest.mark.parametrize("online", [False, True], ids=["batch", "one by one"])
def test_every_call_has_an_answer_where_the_server_stops_giving_several_choices(online):
    """Further choices have set aside what they write, and now each would have to pay for the prompt."""
    with FakeServer(questions(CALLS, seed=3), median_latency=0) as server:
        lm = server.lm("litellm", max_tokens=60)
        pool = BudgetPool(tokens=CALLS * (169 + 6 * 23))
        qa = DynScaling(PROGRAM, pool, sampling=Parallel())
        asked = [{"question": question.text} for question in server.questions]
        if online:
            pool.expect(CALLS)
        with dspy.context(lm=lm):
            found = [qa(**inputs) for inputs in asked[: CALLS // 2]] if online else []
            server.reset(choices="one")
            found += [qa(**inputs) for inputs in asked[CALLS // 2 :]] if online else []
            if not online:
                found = qa.batch(asked, num_threads=4, disable_progress_bar=True)
        assert len(found) == CALLS and None not in found
        now = pool.statistics()
        assert now.reserved == Cost() and now.spent.tokens <= CALLS * (169 + 6 * 23)


def test_where_tokens_are_plenty_announced_calls_draw_as_they_are_contested(server):
    """Not each as many as it may draw on average, at once."""
    _, counted = spent_by(server, BudgetPool(tokens=CALLS * 1200), online=True)
    assert counted.requests > 2 * CALLS
    assert max(counted.per_question.values()) > 12


def test_without_sharing_each_sample_is_weighed_by_itself(server):
    pool = BudgetPool(tokens=CALLS * 400)
    found, counted = spent_by(server, pool, max_choices=1)
    assert counted.requests == counted.samples
    assert None not in found


CAPS: list[dict[str, Any]] = [
    {"dollars": 0.0012},
    {"dollars": 0.01},
    {"tokens": 2500},
    {"tokens": 12_000, "samples": 20},
    {"dollars": 0.004, "requests": 9},
    {"tokens": 9000, "per_call": 3},
]


@pytest.fixture(scope="module")
def faulty():
    with FakeServer(BANK, median_latency=0) as server:
        yield server


@given(
    act=st.sampled_from(WAYS),
    cancelled=st.sets(st.integers(0, len(TEXTS) - 1), max_size=2),
    caps=st.sampled_from(CAPS),
    is_announced=st.booleans(),
    policy=st.sampled_from([KnowledgeGradient(), KnowledgeGradient(first=3), OptimisticKnowledgeGradient(), Uniform()]),
    sampling=st.sampled_from([Parallel(), Integrated(), Integrated(first="own", when="always")]),
    read=st.sampled_from([0.1, 4.0]),
    rate=st.sampled_from([0, 0, 0.2, 0.5]),
    faults=st.sets(st.sampled_from(QUICK), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
@settings(max_examples=20)
def test_no_cap_is_passed_whatever_the_size_of_requests(
    faulty, act, cancelled, caps, is_announced, policy, sampling, read, rate, faults, seed
):
    faulty.reset(seed=seed, fault_rate=rate, faults=sorted(faults))
    lm = faulty.lm("litellm", max_tokens=60)
    pool = BudgetPool(**caps, policy=policy, strict=True, prices={lm.model: Price(read, 4)}, max_failures=None)
    if is_announced and "per_call" not in caps:
        pool.expect(len(TEXTS))
    qa = DynScaling(PROGRAM, pool, sampling=sampling)
    with dspy.context(lm=lm):
        act(qa, cancelled)
    now, counted = pool.statistics(), faulty.statistics()
    assert (now.reserved, now.open_calls) == (Cost(), 0)
    assert counted.requests <= caps.get("requests", counted.requests)
    assert now.spent.samples <= caps.get("samples", now.spent.samples)
    assert tokens_of(counted) <= now.spent.tokens <= caps.get("tokens", now.spent.tokens)
    if "dollars" in caps:
        paid = (read * counted.prompt_tokens + 4 * counted.completion_tokens) / 1e6
        assert paid <= now.spent.dollars * (1 + 1e-9) <= caps["dollars"] * (1 + 2e-9)

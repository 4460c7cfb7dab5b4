"""What a user is told once of a program whose votes cannot say much."""

from __future__ import annotations

import asyncio
import warnings

import dspy
import pytest

from dynscale_dspy import BudgetPool, DynScaling, KnowledgeGradient, Parallel, Uniform, explain
from dynscale_dspy.execution.listener import LISTENER
from dynscale_dspy.testing import FakeServer, questions
from tests.support import ScriptedModel, needs_engines, one_each


def never_the_same(calls, *, budget=4.0, pool=None):
    """A wrapped program whose samples all differ, after so many calls; and the samples that each has drawn."""
    model = ScriptedModel(lambda prompt, number: {"summary": f"text {number}"})
    program = one_each(dspy.Predict("document -> summary"), pool or budget, sampling=Parallel())
    drawn = []
    with dspy.context(lm=model.lm()):
        for number in range(calls):
            drawn.append(len(explain(program(document=f"d {number}")).samples))
    return program, drawn


def test_a_program_that_never_agrees_with_itself_is_said_once():
    with pytest.warns(
        UserWarning, match=r"no two samples of Predict\(document -> summary\) have agreed, in \d+ calls"
    ) as told:
        never_the_same(40)
    (one,) = [each for each in told if "have agreed" in str(each.message)]
    assert "Pass answer=" in str(one.message) and "selector=" in str(one.message)


def test_it_is_said_of_a_known_set_too_and_the_rest_of_its_budget_is_left():
    model = ScriptedModel(lambda prompt, number: {"summary": f"text {number}"})
    pool = BudgetPool(samples=400)
    program = one_each(dspy.Predict("document -> summary"), pool, sampling=Parallel())
    with dspy.context(lm=model.lm()), pytest.warns(UserWarning, match="have agreed"):
        made = program.batch([{"document": f"d {n}"} for n in range(50)], disable_progress_bar=True)
    assert all(made) and pool.statistics().spent.samples < 120


def test_a_few_calls_or_one_agreement_say_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        never_the_same(4)
        model = ScriptedModel(lambda prompt, number: {"summary": f"text {max(number, 2)}"})
        program = one_each(dspy.Predict("document -> summary"), 4, sampling=Parallel())
        with dspy.context(lm=model.lm()):
            for number in range(30):
                program(document=f"d {number}")


def test_a_filter_that_makes_it_an_error_loses_no_answer():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, drawn = never_the_same(40)
    assert len(drawn) == 40


def test_samples_that_buy_nothing_are_not_drawn_online():
    with pytest.warns(UserWarning, match="have agreed"):
        _, drawn = never_the_same(60, budget=8)
    assert sum(drawn[:5]) > 10
    # The sixteenth and each sixteenth after it look whether that is still so.
    assert [count for number, count in enumerate(drawn[24:], 25) if number % 16] == [1] * 34
    assert [drawn[number - 1] for number in (32, 48)] == [3, 3]


def test_a_policy_that_was_asked_for_the_same_for_all_gives_it():
    from dynscale_dspy import Uniform

    with pytest.warns(UserWarning, match="have agreed"):
        _, drawn = never_the_same(20, pool=BudgetPool(per_call=4, policy=Uniform()))
    assert drawn == [4] * 20


def test_where_answers_repeat_the_pool_learns_nothing_against_them():
    model = ScriptedModel(lambda prompt, number: {"label": "ab"[number % 3 == 0]})
    program = DynScaling(
        dspy.Predict("q -> label"), BudgetPool(per_call=4, policy=KnowledgeGradient()), sampling=Parallel()
    )
    with dspy.context(lm=model.lm()):
        drawn = [len(explain(program(q=str(number))).samples) for number in range(40)]
    assert sum(drawn[20:]) >= 60


def slow_server():
    return FakeServer(questions(1), median_latency=600.0, sigma=0.0)


async def asked_at_once(lm, until):
    """Asks for 104 samples, each by itself, until the condition holds or all are under way; nobody is answered."""
    qa = one_each(dspy.Predict("question -> answer"), BudgetPool(per_call=8, policy=Uniform()), sampling=Parallel())
    with dspy.context(lm=lm):
        calls = [asyncio.ensure_future(qa.acall(question=f"q {number}")) for number in range(13)]
    while not until():
        await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


@needs_engines
def test_more_requests_than_connections_are_said_once():
    with slow_server() as server, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")

        def told():
            return [each for each in said if "connections" in str(each.message)]

        asyncio.run(asked_at_once(server.lm("auto"), told))
        asyncio.run(asked_at_once(server.lm("auto"), lambda: LISTENER.under_way == 104))
    (one,) = told()
    assert "RouterConfig(max_connections=1000)" in str(one.message) and "max_choices" in str(one.message)


@needs_engines
def test_a_client_with_more_connections_is_left_alone():
    from dspy.clients.engines.lm15_engine import AsyncLM15Engine, LM15Engine
    from dspy.lm15 import RouterConfig

    with slow_server() as server, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        config = RouterConfig(
            base_urls={"openai-chat": server.url}, api_keys={"openai-chat": "local"}, max_connections=1000
        )
        lm = dspy.LM("openai-chat:fake", engine=LM15Engine(config), async_engine=AsyncLM15Engine(config), cache=False)
        asyncio.run(asked_at_once(lm, lambda: server.statistics().peak_in_flight == 104))
    assert not [each for each in said if "connections" in str(each.message)]

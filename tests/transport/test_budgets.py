"""Caps in tokens and dollars: the server's own count never passes them, and the books agree with it to the last one."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest

from dynscale_dspy import (
    BudgetExhausted,
    BudgetPool,
    Cost,
    DynScaling,
    Parallel,
    Price,
    UnboundedCost,
    Uniform,
    explain,
)
from dynscale_dspy.testing import FakeQuestion, questions
from tests.support import ENGINES, one_each

BANK = questions(20)
EXAMPLES = [dspy.Example(question=q.text, answer=q.answer).with_inputs("question") for q in BANK]
NO_FALLBACK = dspy.ChatAdapter(use_json_adapter_fallback=False)
PRICES = {"openai/fake": Price(prompt=0.3, completion=1.7, cached=0.05)}


def batch(qa: DynScaling) -> list[Any]:
    return qa.batch(EXAMPLES, num_threads=16, disable_progress_bar=True)


def evaluate(qa: DynScaling) -> list[Any]:
    evaluation = dspy.Evaluate(devset=EXAMPLES, metric=lambda *_: 1.0, num_threads=16)
    return [prediction for _, prediction, _ in evaluation(qa).results]


def gather(qa: DynScaling) -> list[Any]:
    async def main() -> list[Any]:
        return await asyncio.gather(*(qa.acall(**example.inputs()) for example in EXAMPLES))

    return asyncio.run(main())


MODES: dict[str, Callable[[DynScaling], list[Any]]] = {"batch": batch, "Evaluate": evaluate, "gather": gather}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", MODES)
def test_a_cap_on_tokens_is_exact(mode: str, engine: str, server: Any) -> None:
    fake = server(BANK)
    pool = BudgetPool(tokens=9_000, strict=True).expect(len(BANK))
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)
    with dspy.context(lm=fake.lm(engine, max_tokens=40)):
        predictions = MODES[mode](qa)
    assert all(prediction.answer in q.answers for prediction, q in zip(predictions, BANK, strict=True))
    now, counted = pool.statistics(), fake.statistics()
    assert now.spent.tokens == counted.prompt_tokens + counted.completion_tokens <= 9_000
    assert now.spent.completion_tokens == counted.completion_tokens
    assert now.spent.requests == counted.requests > len(BANK)  # a cap that is never reached is no use
    assert now.spent.tokens > 6_000
    assert now.reserved == Cost()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", MODES)
def test_a_cap_on_dollars_holds_whatever_fails(mode: str, engine: str, server: Any) -> None:
    fake = server(BANK, fault_rate=0.25, hang=0.5, faults=["500", "hang", "no_usage", "absurd_usage", "prose", "reset"])
    pool = BudgetPool(dollars=0.01, strict=True, prices=PRICES)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)
    with dspy.context(lm=fake.lm(engine, max_tokens=40), adapter=NO_FALLBACK):
        predictions = MODES[mode](qa)
    assert all(prediction.answer in q.answers for prediction, q in zip(predictions, BANK, strict=True))
    now, counted = pool.statistics(), fake.statistics()
    bill = PRICES["openai/fake"].nanodollars(counted.prompt_tokens, counted.completion_tokens)
    assert bill <= now.spent.nanodollars <= 10_000_000
    assert now.spent.requests == counted.requests
    assert now.reserved == Cost()
    assert now.distrusted["no usage"] == counted.faults["no_usage"] > 0
    assert now.distrusted["an absurd usage"] == counted.faults["absurd_usage"] > 0


@pytest.mark.parametrize("mode", MODES)
def test_a_budget_too_small_for_all_ends_and_is_not_passed(mode: str, server: Any) -> None:
    fake = server(BANK)
    pool = BudgetPool(tokens=1_500, strict=True)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)

    async def gather_some() -> list[Any]:
        calls = (qa.acall(**example.inputs()) for example in EXAMPLES)
        return await asyncio.gather(*calls, return_exceptions=True)

    with dspy.context(lm=fake.lm(max_tokens=40)):
        if mode == "gather":
            predictions = asyncio.run(gather_some())
        elif mode == "Evaluate":
            evaluation = dspy.Evaluate(devset=EXAMPLES, metric=lambda *_: 1.0, num_threads=16, max_errors=100)
            predictions = [prediction for _, prediction, _ in evaluation(qa).results]
        else:
            predictions = batch(qa)
    now, counted = pool.statistics(), fake.statistics()
    assert 0 < counted.prompt_tokens + counted.completion_tokens == now.spent.tokens <= 1_500
    answered = [prediction for prediction in predictions if getattr(prediction, "answer", None)]
    assert 0 < len(answered) < 20
    assert all(isinstance(p, BudgetExhausted) for p in predictions if isinstance(p, BaseException))
    assert now.reserved == Cost()


def test_what_has_no_bound_is_refused_by_a_strict_pool(server: Any) -> None:
    fake = server(BANK)
    qa = one_each(dspy.Predict("question -> answer"), budget=BudgetPool(tokens=10_000, strict=True))
    with dspy.context(lm=fake.lm()), pytest.raises(UnboundedCost, match="openai/fake .*: it has no max_tokens"):
        qa(question=BANK[0].text)
    qa = one_each(dspy.Predict("question -> answer"), budget=BudgetPool(dollars=1, strict=True))
    with (
        dspy.context(lm=fake.lm(max_tokens=40)),
        pytest.raises(UnboundedCost, match="price of openai/fake is not"),
    ):
        qa(question=BANK[0].text)
    assert fake.statistics().requests == 0
    assert qa.pool.statistics().spent.tokens == 0
    assert qa.pool.statistics().reserved == Cost()


def test_what_has_no_bound_is_told_once_otherwise(server: Any, caplog: Any) -> None:
    fake = server(BANK)
    pool = BudgetPool(tokens=3_000)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)
    with caplog.at_level(logging.WARNING, "dynscale_dspy"), dspy.context(lm=fake.lm()):
        batch(qa)
    [record] = [record for record in caplog.records if record.name.startswith("dynscale_dspy.budget")]
    assert "may be passed by whatever the model writes for each request in flight" in record.message
    now, counted = pool.statistics(), fake.statistics()
    assert now.spent.tokens == counted.prompt_tokens + counted.completion_tokens
    assert now.reserved == Cost()


def test_a_language_models_own_price_counts(server: Any) -> None:
    fake = server(BANK)
    pool = BudgetPool(dollars=0.005, strict=True)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)
    own = {"input_cost_per_token": 3e-7, "output_cost_per_token": 1.7e-6}
    with dspy.context(lm=fake.lm("litellm", max_tokens=40, **own)):
        batch(qa)
    counted = fake.statistics()
    bill = PRICES["openai/fake"].nanodollars(counted.prompt_tokens, counted.completion_tokens)
    # A nanodollar a request may be lost to the rounding of LiteLLM's floats.
    assert bill <= pool.statistics().spent.nanodollars <= min(bill + counted.requests, 5_000_000)


def test_answers_from_the_cache_cost_nothing_and_say_so(server: Any) -> None:
    fake = server(BANK)
    for turn in range(2):
        pool = BudgetPool(tokens=9_000, dollars=1, strict=True, prices=PRICES)
        qa = one_each(dspy.Predict("question -> answer"), budget=pool, max_samples=1)
        with dspy.context(lm=fake.lm(max_tokens=40, cache=True)):
            prediction = qa(question=BANK[0].text)
        now = pool.statistics()
        assert now.spent.samples == now.spent.requests == 1
        assert (now.spent.tokens > 0) == (now.spent.nanodollars > 0) == (turn == 0)
        assert now.spent.cached_requests == turn
        assert ("(from the cache), 0 tokens" in str(explain(prediction))) == (turn == 1)
    assert fake.statistics().requests == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_several_choices_in_one_request_are_all_paid(engine: str, server: Any) -> None:
    fake = server([FakeQuestion("Say much?", {"word " * 60: 1.0}, "word")])
    pool = BudgetPool(samples=3)
    qa = one_each(dspy.Predict("question -> answer", n=3, temperature=1.0), budget=pool, max_samples=1)
    with dspy.context(lm=fake.lm(engine)):
        qa(question="Say much?")
    now, counted = pool.statistics(), fake.statistics()
    assert counted.samples == 3
    assert now.spent.requests == counted.requests == (3 if engine == "auto" else 1)
    assert now.spent.completion_tokens == counted.completion_tokens
    assert not now.distrusted


@pytest.mark.parametrize("cap", [{"samples": 3}, {"tokens": 20_000, "strict": True}])
def test_the_usage_of_one_choice_for_several_is_not_believed(cap: dict[str, Any], server: Any) -> None:
    fake = server([FakeQuestion("Say much?", {"word " * 60: 1.0}, "word")], fault_rate=1, faults=["usage_of_one"])
    pool = BudgetPool(**cap)
    qa = one_each(dspy.Predict("question -> answer", n=3, temperature=1.0), budget=pool, max_samples=1)
    with dspy.context(lm=fake.lm("litellm", max_tokens=400)):
        qa(question="Say much?")
    now, counted = pool.statistics(), fake.statistics()
    assert now.distrusted == {"the usage of one choice for several": 1}
    assert now.spent.completion_tokens >= counted.completion_tokens
    assert now.spent.prompt_tokens >= counted.prompt_tokens
    if "tokens" not in cap:  # nothing to keep to: as near as one can tell
        assert now.spent.prompt_tokens == counted.prompt_tokens
        assert now.spent.completion_tokens < 1.5 * counted.completion_tokens


def test_requests_of_threads_inside_a_sample_count(server: Any) -> None:
    class Wide(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict("question -> answer")

        def forward(self, question: str) -> dspy.Prediction:
            parallel = dspy.Parallel(num_threads=4, disable_progress_bar=True)
            return parallel([(self.predict, {"question": f"{question} {i}"}) for i in range(4)])[0]

    fake = server([FakeQuestion("Wide?", {"a": 1.0}, "a")])
    pool = BudgetPool(tokens=4_000, strict=True)
    qa = one_each(Wide(), budget=pool)
    with dspy.context(lm=fake.lm(max_tokens=40)):
        qa(question="Wide?")
    now, counted = pool.statistics(), fake.statistics()
    assert now.spent.requests == counted.requests >= 4
    assert now.spent.tokens == counted.prompt_tokens + counted.completion_tokens <= 4_000


def test_a_tracker_of_the_programs_own_hides_nothing(server: Any) -> None:
    class Tracking(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict("question -> answer")

        def forward(self, question: str) -> Any:
            with dspy.track_usage():
                return self.predict(question=question)

    fake = server(BANK)
    pool = BudgetPool(tokens=4_000, strict=True)
    qa = one_each(Tracking(), budget=pool)
    with dspy.context(lm=fake.lm(max_tokens=40)):
        qa(question=BANK[0].text)
    counted = fake.statistics()
    assert pool.statistics().spent.tokens == counted.prompt_tokens + counted.completion_tokens


def test_samples_that_cost_more_are_worth_less_under_a_cap_on_tokens(server: Any) -> None:
    short = [FakeQuestion(f"Short {n}?", {"yes": 0.5, "no": 0.5}, "yes") for n in range(5)]
    long = [FakeQuestion(f"Long {n}? " + "x" * 4_000, {"yes": 0.5, "no": 0.5}, "yes") for n in range(5)]
    fake = server([*short, *long])
    qa = one_each(
        dspy.Predict("question -> answer"), budget=BudgetPool(tokens=25_000, strict=True), sampling=Parallel()
    )
    examples = [{"question": question.text} for question in (*short, *long)]
    with dspy.context(lm=fake.lm(max_tokens=40)):
        qa.batch(examples, num_threads=1, disable_progress_bar=True)
    drawn = fake.statistics().per_question
    assert sum(drawn[q.text] for q in short) > 1.5 * sum(drawn[q.text] for q in long)


@pytest.mark.parametrize("mode", ["threads", "tasks"])
def test_every_request_handler_has_a_ceiling_of_its_own(mode: str, server: Any) -> None:
    fake = server(BANK)
    pool = BudgetPool(samples=45, policy=Uniform(first=4), per_call=4)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)
    scopes: list[BudgetPool] = []

    def handle(question: str) -> Any:
        with pool.scope(samples=3) as scope:
            scopes.append(scope)
            return qa(question=question)

    async def ahandle(question: str) -> Any:
        with pool.scope(samples=3) as scope:
            scopes.append(scope)
            return await qa.acall(question=question)

    async def main() -> list[Any]:
        return await asyncio.gather(*(ahandle(q.text) for q in BANK), return_exceptions=True)

    lm = fake.lm()
    if mode == "tasks":
        with dspy.context(lm=lm):
            results = asyncio.run(main())
    else:
        with ThreadPoolExecutor(16) as threads:

            def work(question: FakeQuestion) -> Any:
                with dspy.context(lm=lm):
                    return handle(question.text)

            futures = [threads.submit(work, question) for question in BANK]
            results = [future.exception() or future.result() for future in futures]
    answered = [result for result in results if not isinstance(result, BaseException)]
    assert len(answered) == 15  # of 20: then the pool is empty
    assert all(isinstance(result, BudgetExhausted) for result in results if isinstance(result, BaseException))
    assert sorted(scope.statistics().spent.samples for scope in scopes) == [0] * 5 + [3] * 15
    assert pool.statistics().spent.samples == fake.statistics().requests == 45


def test_a_scope_reaches_the_threads_that_dspy_starts(server: Any) -> None:
    fake = server(BANK)
    pool = BudgetPool(samples=500)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)
    unbudgeted = one_each(dspy.Predict("question -> answer"))
    with dspy.context(lm=fake.lm()), pool.scope(samples=80) as scope:
        scope.expect(2 * len(BANK))
        evaluate(qa)
        evaluate(unbudgeted)
    assert scope.statistics().spent.samples == pool.statistics().spent.samples == fake.statistics().requests <= 80

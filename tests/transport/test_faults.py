"""Whatever goes wrong on the wire: what was answered counts, what was asked is paid, and errors come out unchanged."""

import asyncio
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from dspy.utils.callback import BaseCallback

from dynscale_dspy import BudgetExhausted, BudgetPool, Cost, DynScaling, explain
from dynscale_dspy.testing import FAULTS, questions

BANK = questions(20)
EXAMPLES = [dspy.Example(question=q.text, answer=q.answer).with_inputs("question") for q in BANK]
ENGINES = ["auto", "litellm"]
NO_FALLBACK = dspy.ChatAdapter(use_json_adapter_fallback=False)


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
@pytest.mark.parametrize("fault", FAULTS)
def test_one_kind_of_fault(fault: str, engine: str, server: Any, assert_exact: Any) -> None:
    fake = server(BANK, fault_rate=0.05, faults=[fault], hang=0.5)
    pool = BudgetPool(samples=60)
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool)
    with dspy.context(lm=fake.lm(engine), adapter=NO_FALLBACK):
        predictions = batch(qa)
    assert fake.statistics().faults[fault] > 0
    for question, prediction in zip(BANK, predictions, strict=True):
        assert prediction.answer in question.answers
    assert_exact(pool, fake, predictions)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", MODES)
def test_all_kinds_of_fault_together(mode: str, engine: str, server: Any, assert_exact: Any) -> None:
    fake = server(BANK, fault_rate=0.3, hang=0.5)
    pool = BudgetPool(samples=120).expect(len(BANK))
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool)
    with dspy.context(lm=fake.lm(engine), adapter=NO_FALLBACK):
        predictions = MODES[mode](qa)
    assert len(fake.statistics().faults) > 5
    for question, prediction in zip(BANK, predictions, strict=True):
        assert prediction.answer in question.answers
    assert_exact(pool, fake, predictions)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_client_that_gives_up_is_charged(engine: str, server: Any, assert_exact: Any) -> None:
    fake = server(BANK, fault_rate=0.05, faults=["hang"], hang=60)
    pool = BudgetPool(samples=60)
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool)
    with dspy.context(lm=fake.lm(engine, timeout=1), adapter=NO_FALLBACK):
        predictions = batch(qa)
    assert all(prediction.answer in q.answers for prediction, q in zip(predictions, BANK, strict=True))
    counted = fake.wait_until(lambda now: now.in_flight == 0, timeout=5)
    assert counted.aborted == counted.faults["hang"] > 0
    assert_exact(pool, fake, predictions)


class CallCounter(BaseCallback):
    """Language-model calls as DSPy makes them, whatever the transport retries within one."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self.ended.append(call_id)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", MODES)
def test_with_retries_and_fallback_the_cap_on_calls_holds(mode: str, engine: str, server: Any) -> None:
    fake = server(BANK, fault_rate=0.2, faults=["429_retry_after", "prose", "null_content"])
    pool = BudgetPool(calls=80).expect(len(BANK))
    counter = CallCounter()
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool)
    with dspy.context(lm=fake.lm(engine, num_retries=3), callbacks=[counter]):
        predictions = MODES[mode](qa)
    for question, prediction in zip(BANK, predictions, strict=True):
        assert prediction.answer in question.answers
    now, counted = pool.statistics(), fake.statistics()
    assert len(counter.ended) == now.spent.calls <= 80
    assert counted.requests == now.spent.calls + counted.faults["429_retry_after"]
    assert now.spent.samples < now.spent.calls  # a fallback is a second call of the same sample
    assert now.reserved == Cost()
    assert now.open_calls == 0


# Before DSPy 3.4 the errors are LiteLLM's own.
FAILURES = {
    "401": getattr(dspy.utils.exceptions, "LMAuthError", Exception),
    "500": getattr(dspy.utils.exceptions, "LMServerError", Exception),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("failure", FAILURES)
def test_if_all_fail_the_first_error_comes_out_unchanged(failure: str, engine: str, server: Any) -> None:
    options = {"api_key": "another"} if failure == "401" else {"fault_rate": 1.0, "faults": ["500"]}
    fake = server(BANK, **options)
    program = dspy.Predict("question -> answer")
    with dspy.context(lm=fake.lm(engine)):
        with pytest.raises(FAILURES[failure]) as plain:
            program(question=BANK[0].text)
        for budget in (1, 3):
            qa = DynScaling(program, budget=BudgetPool(samples=budget))
            with pytest.raises(FAILURES[failure]) as wrapped:
                qa(question=BANK[0].text)
            assert type(wrapped.value) is type(plain.value)
            assert str(wrapped.value) == str(plain.value)
            assert qa.pool.statistics().reserved == Cost()
            assert qa.pool.statistics().open_calls == 0
        qa = DynScaling(program, budget=BudgetPool(samples=60))
        with pytest.raises(FAILURES[failure]):
            asyncio.run(qa.acall(question=BANK[0].text))
        with pytest.raises(FAILURES[failure]):
            batch(qa)
        assert qa.pool.statistics().reserved == Cost()
        assert qa.pool.statistics().open_calls == 0


def test_even_a_stop_iteration_comes_out_unchanged() -> None:
    class Careless(dspy.Module):
        def forward(self, question: str) -> dspy.Prediction:
            return dspy.Prediction(answer=next(answer for answer in () if answer == question))

    pool = BudgetPool(samples=3)
    with pytest.raises(StopIteration):
        DynScaling(Careless(), budget=pool)(question="?")
    assert pool.statistics().reserved == Cost()


def test_batch_reports_the_calls_that_failed_and_keeps_the_rest(server: Any) -> None:
    class Picky(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict("question -> answer")

        def forward(self, question: str) -> Any:
            if question == BANK[3].text:
                raise LookupError("not this one")
            return self.predict(question=question)

    fake = server(BANK)
    qa = DynScaling(Picky(), budget=BudgetPool(samples=60))
    with dspy.context(lm=fake.lm()):
        predictions, failed, errors = qa.batch(
            EXAMPLES, num_threads=8, disable_progress_bar=True, return_failed_examples=True
        )
    assert [number for number, prediction in enumerate(predictions) if prediction is None] == [3]
    assert failed == [EXAMPLES[3]]
    assert [type(error) for error in errors] == [LookupError]
    now = qa.pool.statistics()
    assert now.spent.calls == fake.statistics().requests
    assert now.reserved == Cost()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_reply_without_choices_spoils_only_its_own_sample(engine: str, server: Any, assert_exact: Any) -> None:
    # LiteLLM lets it through, and DSPy makes a prediction without fields of it.
    fake = server(BANK, fault_rate=0.2, faults=["empty_choices"])
    pool = BudgetPool(samples=90)
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool, answer="answer")
    with dspy.context(lm=fake.lm(engine), adapter=NO_FALLBACK):
        predictions = batch(qa)
    assert fake.statistics().faults["empty_choices"] > 5
    assert_exact(pool, fake, predictions)


def test_an_empty_pool_refuses_before_any_request(server: Any) -> None:
    fake = server(BANK)
    pool = BudgetPool(samples=2)
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool)
    with dspy.context(lm=fake.lm()):
        while pool.statistics().spent.samples < 2:
            qa(question=BANK[0].text)
        before = fake.statistics().requests
        with pytest.raises(BudgetExhausted):
            qa(question=BANK[1].text)
    assert fake.statistics().requests == before == 2


def test_a_truncated_answer_casts_no_vote(server: Any) -> None:
    # A reply cut off in its answer still parses: into another answer.
    fake = server(BANK, fault_rate=0.5, faults=["length"])
    qa = DynScaling(dspy.Predict("question -> answer"), budget=BudgetPool(samples=90))
    with dspy.context(lm=fake.lm()):
        predictions = batch(qa)
    problems = [sample.problem for prediction in predictions for sample in explain(prediction).samples]
    assert problems.count("truncated") == fake.statistics().faults["length"] > 20
    assert problems.count("") == fake.statistics().delivered

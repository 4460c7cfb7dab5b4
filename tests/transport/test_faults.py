"""Whatever goes wrong on the wire: what was answered counts, what was asked is paid, and errors come out unchanged."""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from dspy.utils.callback import BaseCallback

from dynscale_dspy import (
    BudgetExhausted,
    BudgetPool,
    Cost,
    DynScaling,
    Integrated,
    Parallel,
    Sequential,
    Uniform,
    explain,
)
from dynscale_dspy.testing import FAULTS, PERMANENT_FAULTS, FakeQuestion, questions
from tests.support import needs_lm_errors, one_each

BANK = questions(20)
EXAMPLES = [dspy.Example(question=q.text, answer=q.answer).with_inputs("question") for q in BANK]
ENGINES = ["auto", "litellm"]
# Whether a reply with one choice too many is an answer is up to the engine: DSPy's native one refuses it.
COUNTED = [fault for fault in FAULTS if fault != "extra_choice"]
NO_FALLBACK = dspy.ChatAdapter(use_json_adapter_fallback=False)


def batch(qa: DynScaling) -> list[Any]:
    return qa.batch(EXAMPLES, num_threads=16, disable_progress_bar=True)


def evaluate(qa: DynScaling) -> list[Any]:
    evaluation = dspy.Evaluate(devset=EXAMPLES, metric=lambda *_: 1.0, num_threads=16)
    return [prediction for _, prediction, _ in evaluation(qa).results]


def gather(qa: DynScaling) -> list[Any]:
    async def main() -> list[Any]:
        calls = (qa.acall(**example.inputs()) for example in EXAMPLES)
        return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(main())


MODES: dict[str, Callable[[DynScaling], list[Any]]] = {"batch": batch, "Evaluate": evaluate, "gather": gather}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fault", COUNTED)
def test_one_kind_of_fault(fault: str, engine: str, server: Any, assert_exact: Any) -> None:
    fake = server(BANK, fault_rate=0.05, faults=[fault], hang=0.5)
    pool = BudgetPool(samples=60, tokens=10**6, strict=True)
    # Independent samples: one with a chain would ask again with a shorter one, and cost two requests.
    qa = one_each(dspy.Predict("question -> answer"), budget=pool, sampling=Parallel())
    with dspy.context(lm=fake.lm(engine, max_tokens=40), adapter=NO_FALLBACK):
        predictions = batch(qa)
    counted = fake.statistics()
    assert counted.faults[fault] > 0
    assert pool.statistics().spent.tokens >= counted.prompt_tokens + counted.completion_tokens
    for question, prediction in zip(BANK, predictions, strict=True):
        assert prediction.answer in question.answers
    assert_exact(pool, fake, predictions)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", MODES)
def test_all_kinds_of_fault_together(mode: str, engine: str, server: Any, assert_exact: Any) -> None:
    fake = server(BANK, fault_rate=0.3, hang=0.5, faults=COUNTED)
    pool = BudgetPool(samples=120).expect(len(BANK))
    # A sample that sees earlier ones is asked for again, with fewer of them, where its prompt is too long.
    qa = one_each(dspy.Predict("question -> answer"), budget=pool, sampling=Parallel())
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
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)
    with dspy.context(lm=fake.lm(engine, timeout=1), adapter=NO_FALLBACK):
        predictions = batch(qa)
    assert all(prediction.answer in q.answers for prediction, q in zip(predictions, BANK, strict=True))
    counted = fake.wait_until(lambda now: now.in_flight == 0, timeout=5)
    assert counted.aborted == counted.faults["hang"] > 0
    assert_exact(pool, fake, predictions)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_choice_too_many_costs_what_it_costs(engine: str, server: Any) -> None:
    fake = server(BANK, fault_rate=0.05, faults=["extra_choice"])
    pool = BudgetPool(samples=60)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)
    with dspy.context(lm=fake.lm(engine), adapter=NO_FALLBACK):
        predictions = batch(qa)
    assert all(prediction.answer in q.answers for prediction, q in zip(predictions, BANK, strict=True))
    assert fake.statistics().faults["extra_choice"] > 0
    assert pool.statistics().spent.requests == fake.statistics().requests == 60
    assert pool.statistics().reserved == Cost()


@needs_lm_errors
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", ["call", "acall"])
def test_a_request_that_found_no_connection_costs_nothing(mode: str, engine: str, server: Any) -> None:
    fake = server(BANK)
    lm = fake.lm(engine, max_tokens=40)
    fake.stop()
    pool = BudgetPool(tokens=9_000, samples=3)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool, max_samples=1)
    with dspy.context(lm=lm), pytest.raises(dspy.utils.exceptions.LMError):
        qa(question=BANK[0].text) if mode == "call" else asyncio.run(qa.acall(question=BANK[0].text))
    assert pool.statistics().spent == Cost(samples=1)
    assert pool.statistics().reserved == Cost()


class CallCounter(BaseCallback):
    """Language-model calls as DSPy makes them, whatever the transport retries within one."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self.ended.append(call_id)


@needs_lm_errors
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", MODES)
def test_with_retries_and_fallback_the_cap_on_calls_holds(mode: str, engine: str, server: Any) -> None:
    fake = server(BANK, fault_rate=0.2, faults=["429_retry_after", "prose", "null_content"])
    pool = BudgetPool(requests=80).expect(len(BANK))
    counter = CallCounter()
    qa = one_each(dspy.Predict("question -> answer"), budget=pool, sampling=Parallel())
    with dspy.context(lm=fake.lm(engine, num_retries=3), callbacks=[counter]):
        predictions = MODES[mode](qa)
    for question, prediction in zip(BANK, predictions, strict=True):
        assert prediction.answer in question.answers
    now, counted = pool.statistics(), fake.statistics()
    assert len(counter.ended) == now.spent.requests <= 80
    assert counted.faults["429_retry_after"] > 0
    assert counted.requests == now.spent.requests  # retries too
    assert now.spent.samples < now.spent.requests  # a fallback is a second call of the same sample
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
            qa = one_each(program, budget=BudgetPool(samples=budget))
            with pytest.raises(FAILURES[failure]) as wrapped:
                qa(question=BANK[0].text)
            assert type(wrapped.value) is type(plain.value)
            assert str(wrapped.value) == str(plain.value)
            assert qa.pool.statistics().reserved == Cost()
            assert qa.pool.statistics().open_calls == 0
        qa = one_each(program, budget=BudgetPool(samples=60))
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
        one_each(Careless(), budget=pool)(question="?")
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
    qa = one_each(Picky(), budget=BudgetPool(samples=60))
    with dspy.context(lm=fake.lm()):
        predictions, failed, errors = qa.batch(
            EXAMPLES, num_threads=8, disable_progress_bar=True, return_failed_examples=True
        )
    assert [number for number, prediction in enumerate(predictions) if prediction is None] == [3]
    assert failed == [EXAMPLES[3]]
    assert [type(error) for error in errors] == [LookupError]
    now = qa.pool.statistics()
    assert now.spent.requests == fake.statistics().requests
    assert now.reserved == Cost()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_reply_without_choices_spoils_only_its_own_sample(engine: str, server: Any, assert_exact: Any) -> None:
    # LiteLLM lets it through, and DSPy makes a prediction without fields of it.
    fake = server(BANK, fault_rate=0.2, faults=["empty_choices"])
    pool = BudgetPool(samples=90)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool, answer="answer")
    with dspy.context(lm=fake.lm(engine), adapter=NO_FALLBACK):
        predictions = batch(qa)
    assert fake.statistics().faults["empty_choices"] > 5
    assert_exact(pool, fake, predictions)


def test_an_empty_pool_refuses_before_any_request(server: Any) -> None:
    fake = server(BANK)
    pool = BudgetPool(samples=2)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)
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
    qa = one_each(dspy.Predict("question -> answer"), budget=BudgetPool(samples=90))
    with dspy.context(lm=fake.lm()):
        predictions = batch(qa)
    problems = [sample.problem for prediction in predictions for sample in explain(prediction).samples]
    assert problems.count("truncated") == fake.statistics().faults["length"] > 20
    assert problems.count("") == fake.statistics().delivered


# ---- faults that trying again does not help


@needs_lm_errors
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fault", PERMANENT_FAULTS)
def test_a_permanent_fault_stops_the_call_at_once(fault: str, engine: str, server: Any) -> None:
    fake = server(BANK, fault_rate=1.0, faults=[fault])
    pool = BudgetPool(samples=500, policy=Uniform(first=1)).expect(2)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool, max_samples=250)
    with dspy.context(lm=fake.lm(engine, num_retries=3)), pytest.raises(Exception, match="API key|does not exist"):
        qa(question=BANK[0].text)
    # All 250 were granted together; only those on the wire before the first reply are lost.
    begun = fake.statistics().requests
    assert begun == pool.statistics().spent.requests == pool.statistics().spent.samples < 100
    with dspy.context(lm=fake.lm(engine, num_retries=3)), pytest.raises(Exception, match="API key|does not exist"):
        qa.batch(EXAMPLES, num_threads=4, max_errors=3, disable_progress_bar=True)
    assert fake.statistics().requests <= begun + 3 + 8
    assert pool.statistics().reserved == Cost()


@needs_lm_errors
@pytest.mark.parametrize("mode", MODES)
def test_a_pool_whose_samples_all_fail_stops_itself(mode: str, server: Any) -> None:
    fake = server(BANK, fault_rate=1.0, faults=["500"])
    pool = BudgetPool(samples=10_000, max_failures=6)
    # Gathered, every call is under way before the first fails: one sample at a time says what may come after that.
    sampling = Sequential() if mode == "gather" else None
    qa = one_each(dspy.Predict("question -> answer"), budget=pool, sampling=sampling)

    async def gather_all() -> list[Any]:
        return await asyncio.gather(*(qa.acall(**e.inputs()) for e in EXAMPLES), return_exceptions=True)

    with dspy.context(lm=fake.lm()):
        if mode == "batch":
            *_, errors = qa.batch(
                EXAMPLES, num_threads=4, max_errors=100, return_failed_examples=True, disable_progress_bar=True
            )
        elif mode == "gather":
            errors = asyncio.run(gather_all())
        else:
            dspy.Evaluate(devset=EXAMPLES, metric=lambda *_: 1.0, num_threads=4, max_errors=100)(qa)
            errors = []
        with pytest.raises(BudgetExhausted, match="6 samples in a row failed, the last with LMServerError") as stopped:
            qa(question=BANK[0].text)
    assert isinstance(stopped.value.__cause__, dspy.utils.exceptions.LMServerError)
    assert errors == [] or len(errors) == 20
    # Those in flight when it stopped were begun before: gathered, one for each call, and one more for each of the
    # five that failed before the sixth.
    assert 6 <= fake.statistics().requests <= (25 if mode == "gather" else 14)
    assert pool.statistics().spent.requests == fake.statistics().requests
    assert pool.statistics().reserved == Cost()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", ["call", "acall"])
def test_a_chain_that_is_too_long_is_shortened(mode: str, engine: str, server: Any) -> None:
    question = FakeQuestion("Which?", {f"answer {'long ' * 40}{n}": 1 for n in range(9)}, "answer")
    fake = server([question], context=330)
    pool = BudgetPool(per_call=6, policy=Uniform(first=6))
    qa = one_each(
        dspy.Predict("question -> answer"),
        budget=pool,
        sampling=Integrated(independent=4, width=4, repeats=True, when="always"),
        max_samples=6,
    )
    with dspy.context(lm=fake.lm(engine)):
        prediction = qa(question="Which?") if mode == "call" else asyncio.run(qa.acall(question="Which?"))
    samples = explain(prediction).samples
    assert [sample.problem for sample in samples] == [""] * 6
    assert [len(sample.shown) for sample in samples] == [0, 0, 0, 0, 4, 4]
    refused = fake.statistics().faults.get("context_length", 0) or fake.statistics().requests - 6
    assert refused >= 2
    assert [body for body in fake.bodies if "Attempt 2" in str(body) and "Attempt 3" not in str(body)]
    assert pool.statistics().spent.requests == fake.statistics().requests
    assert pool.statistics().reserved == Cost()


# ---- stopping


def test_a_stopped_pool_hangs_up_on_what_runs_in_tasks_and_answers_with_what_there_is(server: Any) -> None:
    fake = server(BANK[:1])
    pool = BudgetPool(per_call=4, policy=Uniform(first=1))
    qa = one_each(dspy.Predict("question -> answer"), budget=pool, sampling=Sequential())

    async def main() -> Any:
        call = asyncio.create_task(qa.acall(question=BANK[0].text))
        waiting = asyncio.get_running_loop().run_in_executor
        await waiting(None, fake.wait_until, lambda now: now.delivered == 1)
        with fake.held():
            await waiting(None, fake.wait_until, lambda now: now.in_flight == 1)
            await asyncio.get_running_loop().run_in_executor(None, lambda: pool.stop(cancel=True))
            prediction = await asyncio.wait_for(call, 10)
            await waiting(None, fake.wait_until, lambda now: now.in_flight == 0)
        return prediction

    with dspy.context(lm=fake.lm()):
        prediction = asyncio.run(main())
    assert prediction.answer in BANK[0].answers
    assert fake.statistics().aborted == 1
    assert [sample.problem for sample in explain(prediction).samples].count("failed") == 1
    assert pool.statistics().spent.requests == fake.statistics().requests
    assert pool.statistics().reserved == Cost()


@pytest.mark.parametrize("mode", MODES)
def test_a_paused_pool_lets_calls_wait(mode: str, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = server(BANK)
    pool = BudgetPool(samples=60)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)
    pool.pause()
    results: list[Any] = []

    def work() -> None:
        with dspy.context(lm=fake.lm()):
            results.extend(MODES[mode](qa))

    parked = threading.Event()
    queue = pool.admission.shared.queue
    join = queue.join
    monkeypatch.setattr(queue, "join", lambda: (parked.set(), join())[1])
    thread = threading.Thread(target=work)
    thread.start()
    assert parked.wait(20)
    assert fake.statistics().requests == 0
    pool.resume()
    thread.join(30)
    assert len(results) == 20
    assert pool.statistics().spent.requests == fake.statistics().requests > 0


# ---- secrets


@pytest.mark.parametrize("engine", ENGINES)
def test_no_key_and_no_prompt_is_told_anywhere(engine: str, server: Any, caplog: Any, tmp_path: Any) -> None:
    bank = [FakeQuestion(f"CONFIDENTIAL {n}?", {"yes": 1.0}, "yes") for n in range(20)]
    fake = server(bank, fault_rate=0.5, hang=0.2, faults=[*FAULTS, *PERMANENT_FAULTS])
    pool = BudgetPool(
        samples=60, tokens=50_000, path=tmp_path / "budget.sqlite", warn_at=0.1, max_failures=4, strict=False
    )
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)
    with dspy.context(lm=fake.lm(engine, api_key="sk-CONFIDENTIAL")), caplog.at_level(logging.DEBUG, "dynscale_dspy"):
        predictions, _, errors = qa.batch(
            [{"question": q.text} for q in bank],
            num_threads=8,
            max_errors=100,
            return_failed_examples=True,
            disable_progress_bar=True,
        )
    told = [record.getMessage() for record in caplog.records if record.name.startswith("dynscale_dspy")]
    assert told
    told += [repr(pool), repr(pool.statistics()), repr(qa.pool.admission.exhausted())]
    told += [str(error) for error in errors if isinstance(error, BudgetExhausted)]
    told += [str(explain(prediction)) for prediction in predictions if prediction]
    told.append(b"".join(file.read_bytes() for file in tmp_path.iterdir()).decode("latin-1"))
    assert "CONFIDENTIAL" not in "".join(told)

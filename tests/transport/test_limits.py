"""Hard caps on language-model calls with programs that make several a sample, and budgets that last to the end."""

import threading
from typing import Any

import dspy
import pytest

from dynscale_dspy import BudgetExhausted, BudgetPool, Cost, DynScaling, explain
from dynscale_dspy.sampling.sample import ON_TRIAL
from dynscale_dspy.testing import FakeQuestion, questions
from tests.support import one_each

BANK = questions(10)


def examples_of(bank: list[FakeQuestion]) -> list[dspy.Example]:
    return [dspy.Example(question=q.text, answer=q.answer).with_inputs("question") for q in bank]


def evaluate(qa: DynScaling, bank: list[FakeQuestion], num_threads: int) -> list[Any]:
    """Predictions, without those of calls that failed."""
    evaluation = dspy.Evaluate(
        devset=examples_of(bank), metric=lambda *_: 1.0, num_threads=num_threads, failure_score=0.0, max_errors=1000
    )
    return [prediction for _, prediction, score in evaluation(qa).results if score]


class Chain(dspy.Module):
    """Three language-model calls a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = dspy.Predict("question -> plan")
        self.work = dspy.Predict("question, plan -> work")
        self.final = dspy.Predict("question, work -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        plan = self.plan(question=question).plan
        return self.final(question=question, work=self.work(question=question, plan=plan).work)


def look_up(key: str) -> str:
    """Looks something up."""
    return f"{key} it is"


def agent() -> dspy.Module:
    """One tool call, the end, and the extraction of the answer: three calls a sample too."""
    return dspy.ReAct("question -> answer", tools=[look_up])  # type: ignore[arg-type]


def assert_whole_samples_vote(predictions: list[Any]) -> None:
    for prediction in predictions:
        for sample in explain(prediction).samples:
            if sample.problem not in ("", ON_TRIAL):
                assert sample.problem == "failed"
                assert isinstance(sample.error, BudgetExhausted)
                assert sample.cost.requests < 3
            else:
                assert sample.cost.requests == 3


@pytest.mark.parametrize("num_threads", [1, 4, 64])
@pytest.mark.parametrize("make", [Chain, agent])
def test_the_cap_on_calls_is_exact_online(make: Any, num_threads: int, server: Any) -> None:
    cap = 76  # 25 samples of three, and one call over
    fake = server(BANK)
    pool = BudgetPool(requests=cap).expect(len(BANK))
    qa = one_each(make(), budget=pool)
    with dspy.context(lm=fake.lm()):
        predictions = evaluate(qa, BANK, num_threads)
    now, counted = pool.statistics(), fake.statistics()
    assert counted.requests == now.spent.requests <= cap
    assert now.reserved == Cost()
    assert now.open_calls == 0
    assert_whole_samples_vote(predictions)
    # There is enough for two whole samples each: nobody goes without one.
    assert len(predictions) == len(BANK)


@pytest.mark.parametrize("num_threads", [1, 64])
@pytest.mark.parametrize("make", [Chain, agent])
def test_the_cap_on_calls_is_exact_in_batch(make: Any, num_threads: int, server: Any) -> None:
    cap = 76
    fake = server(BANK)
    pool = BudgetPool(requests=cap)
    qa = one_each(make(), budget=pool)
    with dspy.context(lm=fake.lm()):
        predictions = qa.batch(examples_of(BANK), num_threads=num_threads, disable_progress_bar=True)
    now, counted = pool.statistics(), fake.statistics()
    assert counted.requests == now.spent.requests <= cap
    assert now.reserved == Cost()
    assert now.open_calls == 0
    assert None not in predictions
    assert_whole_samples_vote(predictions)


def test_a_sample_that_could_not_finish_is_not_begun(server: Any) -> None:
    fake = server(BANK)
    pool = BudgetPool(requests=8)
    qa = one_each(Chain(), budget=pool, max_samples=3)
    with dspy.context(lm=fake.lm()):
        prediction = qa.batch([{"question": BANK[0].text}], num_threads=1, disable_progress_bar=True)[0]
    assert [sample.cost.requests for sample in explain(prediction).samples] == [3, 3]
    assert fake.statistics().requests == pool.statistics().spent.requests == 6
    assert pool.statistics().reserved == Cost()


def test_a_cut_passes_through_a_program_that_catches_errors(server: Any) -> None:
    class Stubborn(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict("question -> answer")
            self.finished = threading.Event()

        def forward(self, question: str) -> dspy.Prediction:
            for _ in range(100):
                try:
                    self.predict(question=question)
                except Exception:
                    continue
            self.finished.set()
            return dspy.Prediction(answer="never")

    fake = server(BANK)
    pool = BudgetPool(requests=5)
    program = Stubborn()
    with dspy.context(lm=fake.lm()), pytest.raises(BudgetExhausted):
        one_each(program, budget=pool)(question=BANK[0].text)
    assert not program.finished.is_set()
    assert fake.statistics().requests == pool.statistics().spent.requests == 5
    assert pool.statistics().reserved == Cost()


@pytest.mark.parametrize("order", ["mixed", "hard first"])
@pytest.mark.parametrize("num_threads", [1, 4])
def test_early_queries_do_not_drain_the_pool(num_threads: int, order: str, server: Any, assert_exact: Any) -> None:
    bank = questions(60)
    if order == "hard first":
        bank.sort(key=lambda question: max(question.answers.values()))
    fake = server(bank, median_latency=0.001)
    pool = BudgetPool(samples=240).expect(60)
    qa = one_each(dspy.Predict("question -> answer"), budget=pool)
    with dspy.context(lm=fake.lm()):
        predictions = evaluate(qa, bank, num_threads)
    assert len(predictions) == 60
    assert_exact(pool, fake, predictions)
    drawn = [fake.statistics().per_question[question.text] for question in bank]
    assert min(drawn) >= 1
    assert sum(drawn[:10]) <= 120
    assert sum(drawn) >= 180  # a careful pool is no use if it keeps the budget

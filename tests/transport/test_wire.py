"""What goes over the wire, and what does not: seeds, temperatures, rollout ids, and cached samples."""

import asyncio
import json
from collections import Counter
from typing import Any

import dspy
import pytest

from dynscale_dspy import BudgetPool, DynScaling, Integrated, Parallel, Sequential, explain
from dynscale_dspy.testing import FakeQuestion, questions
from tests.support import one_each

ENGINES = ["auto", "litellm"]
OPEN = FakeQuestion("Heads or tails?", {"heads": 0.5, "tails": 0.5}, "heads")
BANK = questions(12)
EXAMPLES = [dspy.Example(question=q.text, answer=q.answer).with_inputs("question") for q in BANK]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_sample_sends_its_own_seed(engine: str, server: Any) -> None:
    fake = server([OPEN])
    qa = one_each(dspy.Predict("question -> answer"), budget=BudgetPool(samples=6), max_samples=6)
    with dspy.context(lm=fake.lm(engine, seed=7)):
        qa.batch([{"question": OPEN.text}], num_threads=2, disable_progress_bar=True)
        asyncio.run(qa_of(BudgetPool(samples=4)).acall(question=OPEN.text))
    batched, online = fake.bodies[:6], fake.bodies[6:]
    assert sorted(body["seed"] for body in batched) == [7, 8, 9, 10, 11, 12]
    assert sorted(body["seed"] for body in online) == list(range(7, 7 + len(online)))
    assert len(online) >= 2


def qa_of(budget: Any, **options: Any) -> DynScaling:
    return one_each(dspy.Predict("question -> answer"), budget=budget, **options)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("of_lm", "of_wrapper", "sent"),
    [(None, None, 1.0), (0.6, None, 0.6), (0.6, 0.3, 0.3), (None, 0.3, 0.3), (0.0, 0.7, 0.7)],
)
def test_temperature(of_lm: float | None, of_wrapper: float | None, sent: float, engine: str, server: Any) -> None:
    fake = server([OPEN])
    with dspy.context(lm=fake.lm(engine, temperature=of_lm)):
        qa_of(3, temperature=of_wrapper)(question=OPEN.text)
    assert Counter(body["temperature"] for body in fake.bodies) == {0.0: 1, sent: 2}  # the first sample is greedy


def test_one_sample_a_call_is_the_plain_program(server: Any) -> None:
    fake = server([OPEN])
    with dspy.context(lm=fake.lm(temperature=None, seed=7)):
        dspy.Predict("question -> answer")(question=OPEN.text)
        qa_of(1)(question=OPEN.text)
    plain, wrapped = fake.bodies
    assert wrapped == plain


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("sampling", [None, Sequential(), Integrated()], ids=["Parallel", "Sequential", "Integrated"])
def test_nothing_of_ours_goes_over_the_wire(sampling: Any, engine: str, server: Any) -> None:
    fake = server([OPEN])
    lm = fake.lm(engine)
    with dspy.context(lm=lm):
        dspy.Predict("question -> answer")(question=OPEN.text)
        qa_of(6, sampling=sampling)(question=OPEN.text)
    plain, *sampled = fake.bodies
    assert len(sampled) >= 2
    for body in sampled:
        assert body.keys() == plain.keys()
        assert "rollout" not in json.dumps(body)
    # They did have rollout ids, though.
    rollouts = [entry["kwargs"].get("rollout_id") for entry in lm.history[1:]]
    assert sorted(rollout or 0 for rollout in rollouts) == list(range(len(rollouts)))


def test_earlier_attempts_are_shown_only_where_asked_for(server: Any) -> None:
    fake = server([OPEN])
    with dspy.context(lm=fake.lm()):
        independent = qa_of(6, sampling=Parallel())(question=OPEN.text)
        assert fake.statistics().conditioned == 0
        prediction = qa_of(6, sampling=Sequential())(question=OPEN.text)
    assert len(explain(independent).samples) >= 2
    conditioned = [sample for sample in explain(prediction).samples if sample.shown]
    assert len(conditioned) == len(explain(prediction).samples) - 1 == fake.statistics().conditioned
    last = fake.bodies[-1]["messages"][-1]["content"]
    assert f"Attempt 1:\nanswer: {explain(prediction).samples[-2].answer}" in last


def run_batch(qa: DynScaling) -> list[Any]:
    return qa.batch(EXAMPLES, num_threads=8, disable_progress_bar=True)


def run_evaluate(qa: DynScaling) -> list[Any]:
    evaluation = dspy.Evaluate(devset=EXAMPLES, metric=lambda *_: 1.0, num_threads=1)
    return [prediction for _, prediction, _ in evaluation(qa).results]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("sampling", [None, Integrated()], ids=["Parallel", "Integrated"])
@pytest.mark.parametrize("run", [run_batch, run_evaluate])
def test_a_warm_cache_repeats_everything_without_a_request(run: Any, sampling: Any, engine: str, server: Any) -> None:
    fake = server(BANK)
    program = dspy.ChainOfThought("question -> answer")
    seen = []
    with dspy.context(lm=fake.lm(engine, cache=True)):
        for _ in range(2):
            pool = BudgetPool(samples=48).expect(len(BANK))
            predictions = run(one_each(program, budget=pool, sampling=sampling))
            told = [explain(prediction) for prediction in predictions]
            seen.append([[(s.answer, s.shown, s.round) for s in explanation.samples] for explanation in told])
            # Each sample was a request of its own the first time, and none was the second.
            assert fake.statistics().requests == pool.statistics().spent.samples == sum(map(len, seen[-1]))
            assert [prediction.answer for prediction in predictions] == [e.votes[0].answer for e in told]
    assert seen[0] == seen[1]
    assert len(seen[0]) == len(BANK)
    assert sum(map(len, seen[0])) > len(BANK)


def test_cached_samples_differ_from_each_other(server: Any) -> None:
    fake = server([OPEN])
    pool = BudgetPool(samples=16)
    with dspy.context(lm=fake.lm(cache=True)):
        prediction = qa_of(pool, max_samples=16).batch([{"question": OPEN.text}], disable_progress_bar=True)[0]
    assert fake.statistics().requests == pool.statistics().spent.samples > 4
    answers = Counter(sample.answer for sample in explain(prediction).samples)
    assert answers.keys() == {"heads", "tails"}


def test_the_first_sample_shares_the_cache_entry_of_the_plain_program(server: Any) -> None:
    fake = server([OPEN])
    program = dspy.Predict("question -> answer")
    with dspy.context(lm=fake.lm(cache=True, temperature=0.0)):
        plain = program(question=OPEN.text)
        prediction = one_each(program, budget=6)(question=OPEN.text)
    samples = explain(prediction).samples
    assert samples[0].answer == plain.answer
    assert fake.statistics().requests == len(samples)

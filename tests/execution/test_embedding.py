"""Texts that a call has embedded: in one request a round, which its pool pays."""

from __future__ import annotations

import asyncio
import logging
import threading

import dspy
import pytest

from dynscale_dspy import BudgetPool, DynScaling, Parallel, Uniform, explain
from dynscale_dspy.selection import Embeddings, Medoid, Plurality
from tests.support import ScriptedModel

SAID = ("q", "x y", "y x", "abab", "baba", "aabb")
"""The second and third have the same words, the last three the same letters."""
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Embedder:
    """Counts letters, notes what it is asked, and fails if it is told to, from some request on."""

    def __init__(self, fails_from=None, error=OSError):
        self.asked, self.fails_from, self.error = [], fails_from, error
        self.waits = threading.Event()

    def __call__(self, texts):
        self.asked.append(list(texts))
        if self.fails_from is not None and len(self.asked) >= self.fails_from:
            raise self.error("the text was: secret")
        return [[1e-9 + text.count(letter) for letter in LETTERS] for text in texts]


def writer(pool, embedder, said=SAID, **options):
    model = ScriptedModel(lambda prompt, number: {"text": said[number % len(said)]})
    scaled = DynScaling(
        dspy.Predict("topic -> text"),
        pool,
        selector=options.pop("selector", None) or Medoid(Embeddings(embedder)),
        sampling=Parallel(first="own"),
        max_choices=1,
        **{"max_samples": len(said), **options},
    )
    return scaled, model


def fresh(**caps):
    return BudgetPool(**{"samples": 100, "policy": Uniform(), "min_per_call": len(SAID), **caps})


def in_thread(scaled):
    return scaled(topic="rain")


def in_task(scaled):
    return asyncio.run(scaled.acall(topic="rain"))


def in_batch(scaled):
    return scaled.batch([{"topic": "rain"}], num_threads=1, disable_progress_bar=True)[0]


WAYS = pytest.mark.parametrize("ask", [in_thread, in_task, in_batch])


@WAYS
@pytest.mark.parametrize("wrapped", [False, True], ids=["function", "dspy.Embedder"])
def test_the_sample_wins_whose_vector_is_nearest_to_the_others(ask, wrapped):
    embedder, pool = Embedder(), fresh()
    scaled, model = writer(pool, dspy.Embedder(embedder, caching=False) if wrapped else embedder)
    with dspy.context(lm=model.lm()):
        prediction = ask(scaled)
    assert prediction.text in SAID[3:]
    assert sorted(text for texts in embedder.asked for text in texts) == sorted(SAID)  # each once
    spent = pool.statistics().spent
    assert spent.samples == len(SAID) and spent.requests == len(SAID) + len(embedder.asked)
    assert "words" not in explain(prediction).selector_reason


@pytest.mark.parametrize("ask", [in_thread, in_task])
def test_a_round_is_one_request(ask):
    embedder = Embedder()
    scaled, model = writer(fresh(), embedder)
    with dspy.context(lm=model.lm()):
        ask(scaled)
    assert len(embedder.asked) == 1


@WAYS
def test_a_text_is_embedded_once_a_call(ask):
    embedder = Embedder()
    scaled, model = writer(fresh(), embedder, said=("rain", "snow", "rain", "rain"))
    with dspy.context(lm=model.lm()):
        assert ask(scaled).text == "rain"
    assert sorted(text for texts in embedder.asked for text in texts) == ["rain", "snow"]


@WAYS
def test_an_embedder_that_fails_loses_no_answer_and_the_words_decide(ask, caplog):
    embedder, pool = Embedder(fails_from=1), fresh()
    scaled, model = writer(pool, embedder)
    with dspy.context(lm=model.lm()), caplog.at_level(logging.WARNING):
        prediction = ask(scaled)
    made = explain(prediction)
    assert prediction.text in SAID[1:3] and len(made.samples) == len(SAID)
    assert not any(sample.problem for sample in made.samples)
    assert "compared by their words" in made.selector_reason and "OSError" in made.selector_reason
    assert "compared by their words: OSError" in caplog.text and "secret" not in caplog.text + made.selector_reason
    assert pool.statistics().spent.requests == len(SAID) + len(embedder.asked)  # asked for, whatever came of it


@WAYS
@pytest.mark.parametrize("junk", [None, [], [[1.0]], "vectors"], ids=repr)
def test_an_embedder_that_returns_anything_else_fails(ask, junk):
    scaled, model = writer(fresh(), lambda texts: junk)
    with dspy.context(lm=model.lm()):
        prediction = ask(scaled)
    if junk != [[1.0]] or ask is not in_batch:  # for one text that is a vector
        assert prediction.text in SAID[1:3] and "could not be embedded" in explain(prediction).selector_reason


@WAYS
def test_the_pool_never_pays_more_requests_than_its_cap(ask):
    embedder, pool = Embedder(), fresh(requests=len(SAID))
    scaled, model = writer(pool, embedder)
    with dspy.context(lm=model.lm()):
        prediction = ask(scaled)
    assert prediction.text in SAID and "(Unpaid)" in explain(prediction).selector_reason
    spent = pool.statistics().spent
    assert spent.requests == spent.samples + len(embedder.asked) == len(SAID)


@WAYS
def test_a_pool_in_a_file_pays_too(ask, tmp_path):
    embedder, pool = Embedder(), fresh(path=tmp_path / "pool.db")
    scaled, model = writer(pool, embedder)
    with dspy.context(lm=model.lm()):
        assert ask(scaled).text in SAID[3:]
    assert pool.statistics().spent.requests == len(SAID) + len(embedder.asked)


def test_a_call_of_one_sample_asks_for_nothing():
    embedder = Embedder()
    scaled, model = writer(fresh(min_per_call=1), embedder, max_samples=1)
    with dspy.context(lm=model.lm()):
        assert scaled(topic="rain").text == SAID[0]
    assert embedder.asked == []


def test_outside_the_budget_nothing_is_asked_for():
    embedder, pool = Embedder(), BudgetPool(samples=1, min_per_call=1, on_empty="run_once")
    scaled, model = writer(pool, embedder, said=("rain", "snow"))
    with dspy.context(lm=model.lm()):
        assert scaled(topic="a").text == "rain"
        assert scaled(topic="b").text == "snow"
    assert len(embedder.asked) <= 1 and pool.statistics().spent.requests <= 2


def test_an_embedder_that_hangs_is_not_waited_for_beyond_the_deadline():
    embedder = Embedder()

    def hangs(texts):
        embedder.waits.wait(30)
        return embedder(texts)

    scaled, model = writer(fresh(deadline=0.2), hangs)
    try:
        with dspy.context(lm=model.lm()):
            prediction = scaled(topic="rain")
    finally:
        embedder.waits.set()
    assert prediction.text in SAID and "TimeoutError" in explain(prediction).selector_reason


def test_a_pool_around_pays_too():
    embedder, around = Embedder(), fresh(min_per_call=1)
    scaled, model = writer(fresh(), embedder)

    class Outer(dspy.Module):
        def __init__(self):
            super().__init__()
            self.inner = scaled

        def forward(self, topic):
            return self.inner(topic=topic)

    outer = DynScaling(Outer(), around, selector=Plurality(), max_samples=1)
    with dspy.context(lm=model.lm()):
        outer(topic="rain")
    assert around.statistics().spent.requests == len(SAID) + len(embedder.asked)


@WAYS
def test_a_field_may_be_compared_by_embeddings_beside_others(ask):
    embedder = Embedder()
    model = ScriptedModel(lambda prompt, number: {"text": SAID[number % len(SAID)], "label": "4"})
    scaled = DynScaling(
        dspy.Predict("topic -> text, label: int"),
        fresh(),
        selector={"text": Embeddings(embedder)},
        sampling=Parallel(first="own"),
        max_samples=len(SAID),
    )
    with dspy.context(lm=model.lm()):
        prediction = ask(scaled)
    assert prediction.text in SAID[3:] and sorted(text for texts in embedder.asked for text in texts) == sorted(SAID)


def test_no_announced_call_loses_its_first_sample_to_an_embedder():
    pool = BudgetPool(requests=30).expect(20)
    scaled, _ = writer(pool, Embedder(), max_samples=8)
    model = ScriptedModel(lambda prompt, number: {"text": f"text {number} of {number + 7}"})
    with dspy.context(lm=model.lm()):
        for place in range(20):
            assert scaled(topic=f"rain {place}").text.startswith("text")
    assert pool.statistics().spent.requests <= 30

"""Where samples see earlier ones, learned from the votes, on models that gain and lose by it."""

import dspy
import pytest

from dynscale_dspy import BudgetPool, DynScaling, Integrated, explain, lab
from dynscale_dspy.testing import questions

BANK = questions(150, seed=3)


def play(server, when: str, sharpen: float):
    """A batch, six samples a question on average: how many are right, which samples were conditioned, the answers."""
    examples = [dspy.Example(question=question.text).with_inputs("question") for question in BANK]
    running = server(BANK, sharpen=sharpen)
    pool = BudgetPool(samples=6 * len(BANK), seed=0)
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), pool, sampling=Integrated(when=when))
    with dspy.context(lm=running.lm("auto")):
        predictions = qa.batch(examples, num_threads=8, disable_progress_bar=True)
    right = sum(made.answer == question.answer for made, question in zip(predictions, BANK, strict=True))
    seen = [bool(sample.shown) for made in predictions for sample in explain(made).samples]
    return right, seen, [made.answer for made in predictions]


@pytest.mark.timeout(120)
def test_on_a_model_that_loses_by_it_samples_stop_seeing_earlier_ones(server):
    """Shown attempts it takes any answer at random, however rare: always asked so where votes are close, it fails."""
    close, seen_if_close, _ = play(server, "close", -1.0)
    learned, seen_if_learned, _ = play(server, "learned", -1.0)
    assert sum(seen_if_learned) < sum(seen_if_close) / 2
    assert learned > close + len(BANK) / 10


@pytest.mark.timeout(120)
def test_on_a_model_that_gains_by_it_they_go_on_seeing_them(server):
    close, *_ = play(server, "close", 2.0)
    learned, seen, _ = play(server, "learned", 2.0)
    assert sum(seen) > len(seen) / 4
    assert learned > close - len(BANK) / 20


@pytest.mark.timeout(120)
def test_the_same_batch_learns_the_same():
    """On the model in the box, whose replies depend on a seed alone."""

    def run(lm):
        pool = BudgetPool(samples=4 * 30, seed=0)
        qa = DynScaling(dspy.ChainOfThought("question -> answer"), pool, sampling=Integrated(when="learned"))
        with dspy.context(lm=lm):
            predictions = qa.batch(lab.questions(30, seed=5), num_threads=8, disable_progress_bar=True)
        return [[(sample.answer, sample.shown) for sample in explain(made).samples] for made in predictions]

    with lab.serve(seed=1, cache=False) as lm:
        first = run(lm)
        assert first == run(lm)
    assert any(shown for call in first for _, shown in call)

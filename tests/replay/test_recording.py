import dspy
import pytest

from dynscale_dspy import BudgetPool, DynScaling, Sequential, Uniform
from dynscale_dspy.replay import Pool, PoolError, load_pool, replay
from tests.support import ScriptedModel, cycle


def is_right(example, prediction):
    return prediction.answer == example.answer


def run(model, questions, **options):
    program = DynScaling(
        dspy.ChainOfThought("question -> answer"), budget=BudgetPool(per_call=8, policy=Uniform()), **options
    )
    with dspy.context(lm=model.lm(), num_threads=1):
        return [program(question=question) for question in questions]


def test_a_live_run_becomes_a_pool(tmp_path):
    predictions = run(ScriptedModel(cycle("A", "A", "A", "B")), ["one", "two"])
    examples = [dspy.Example(answer="A"), dspy.Example(answer="B")]
    pool = Pool.from_predictions(predictions, examples, is_right, name="mine")
    assert [sorted(question.answers, key=str) for question in pool.questions] == [["A"] * 6 + ["B"] * 2] * 2
    assert [question.right for question in pool.questions] == [{"A"}, {"B"}]
    assert pool.questions[0].tokens == (10,) * 8
    result = replay(pool, ["knowledge_gradient"], budgets=[1, 2, 4], replicates=4)
    assert result.accuracy("uniform", 1) == pytest.approx(0.5, abs=0.4)
    pool.save(tmp_path / "mine.jsonl.gz")
    assert load_pool(tmp_path / "mine.jsonl.gz") == pool


def test_failed_samples_cast_no_vote():
    predictions = run(ScriptedModel(cycle("A", ValueError("down"))), ["one"])
    pool = Pool.from_predictions(predictions, [dspy.Example(answer="A")], is_right)
    assert sorted(pool.questions[0].answers, key=str) == ["A"] * 4 + [None] * 4


def test_samples_that_saw_others_are_left_out_and_counted():
    predictions = run(ScriptedModel(cycle("A")), ["one"], sampling=Sequential())
    pool = Pool.from_predictions(predictions, [dspy.Example(answer="A")], is_right)
    assert len(pool.questions[0].answers) + int(pool.skipped[0].split()[2]) == 8
    assert pool.skipped[0].endswith("samples saw earlier ones")


def test_a_call_that_failed_is_named():
    predictions = [*run(ScriptedModel(cycle("A")), ["one"]), None]
    pool = Pool.from_predictions(predictions, [dspy.Example(answer="A")] * 2, is_right)
    assert pool.skipped == ("call 1 failed and has no samples",)


def test_nothing_recorded_is_an_error():
    with pytest.raises(PoolError, match=r"^pool 'live' has no questions$"):
        Pool.from_predictions([None], [dspy.Example(answer="A")], is_right)


def test_as_many_examples_as_predictions():
    with pytest.raises(ValueError, match=r"^got 1 predictions but 2 examples$"):
        Pool.from_predictions([None], [1, 2], is_right)

import gzip
import json

import dspy
import pytest

from dynscale_dspy import BudgetPool, DynScaling, Parallel, Sequential, Uniform
from dynscale_dspy.replay import Pool, PoolError, Question, load_pool, replay
from tests.support import ASKS_ONCE, ScriptedModel, cycle


def write(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


GOOD = {"id": "q", "gold": "A", "answers": ["A", "B", None], "correct": [True, False, False], "tokens": [3, 4, 5]}


class TestLoading:
    def test_plain_and_compressed_files_read_alike(self, tmp_path):
        plain = write(tmp_path / "mine__model__aime2024.jsonl", GOOD)
        packed = tmp_path / "mine__model__aime2024.jsonl.gz"
        packed.write_bytes(gzip.compress(plain.read_bytes()))
        assert load_pool(plain) == load_pool(packed)
        question = load_pool(plain).questions[0]
        assert question == Question("q", ("A", "B", None), frozenset("A"), (3, 4, 5))

    def test_name_tells_source_model_and_dataset(self, tmp_path):
        pool = load_pool(write(tmp_path / "lab__tiny-7b__aime2025.jsonl", GOOD))
        assert (pool.source, pool.model, pool.dataset) == ("lab", "tiny-7b", "aime")

    def test_blank_lines_are_nothing(self, tmp_path):
        assert len(load_pool(write(tmp_path / "p.jsonl", GOOD, "", {**GOOD, "id": "r"})).questions) == 2

    def test_verdicts_stand_in_for_gold(self, tmp_path):
        row = {"id": "q", "gold": None, "answers": ["1+2", "2+1", "3"], "correct": [True, True, False]}
        assert load_pool(write(tmp_path / "p.jsonl", row)).questions[0].right == {"1+2", "2+1"}

    def test_question_without_samples_is_skipped_and_named(self, tmp_path):
        path = write(tmp_path / "p.jsonl", {**GOOD, "id": "empty", "answers": []}, GOOD)
        assert load_pool(path).skipped == (f"{path}:1: no samples",)

    def test_missing_token_counts_are_no_counts(self, tmp_path):
        pool = load_pool(write(tmp_path / "p.jsonl", {**GOOD, "tokens": [3, None, 5]}))
        assert not pool.has_tokens
        with pytest.raises(PoolError, match=r"^pool 'p': question 'q' has no token counts$"):
            pool.tokens_per_sample

    def test_saved_pool_reads_back(self, tmp_path):
        pool = load_pool(write(tmp_path / "p.jsonl", GOOD))
        (tmp_path / "copy").mkdir()
        pool.save(tmp_path / "copy" / "p.jsonl.gz")
        assert load_pool(tmp_path / "copy" / "p.jsonl.gz") == pool


class TestBadInput:
    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("{", r"not JSON: Expecting property name enclosed in double quotes.*"),
            ("[1]", "expected an object, got list"),
            ({"gold": "A", "answers": ["A"]}, "no 'id'"),
            ({"id": "q", "gold": "A"}, "no 'answers'"),
            ({"id": ["q"], "gold": "A", "answers": ["A"]}, r"'id' must be a string, got \['q'\]"),
            ({"id": "q", "answers": ["A"]}, "no 'gold', and no 'correct' in its place"),
            ({"id": "q", "gold": 3, "answers": ["A"]}, "'gold' must be a string, got 3"),
            ({**GOOD, "answers": "ABC"}, "'answers' must be a list, got str"),
            ({**GOOD, "answers": ["A", 2, None]}, "'answers' must hold strings or null, got 2"),
            ({**GOOD, "correct": [True]}, "3 answers but 1 'correct'"),
            ({**GOOD, "tokens": [1, 2]}, "3 answers but 2 'tokens'"),
            ({**GOOD, "tokens": [1, -2, 3]}, "'tokens' must hold numbers or null, got -2"),
            ({**GOOD, "correct": [False, False, False]}, "'correct' and 'gold' disagree about answer 'A'"),
            ({**GOOD, "answers": ["A", "A", None]}, "answer 'A' is both correct and not"),
        ],
    )
    def test_error_names_file_and_line(self, tmp_path, row, message):
        path = write(tmp_path / "p.jsonl", {**GOOD, "id": "first"}, row)
        with pytest.raises(PoolError, match=rf"p\.jsonl:2: {message}$"):
            load_pool(path)

    def test_same_question_twice(self, tmp_path):
        with pytest.raises(PoolError, match=r"p\.jsonl:2: question 'q' is on line 1 already$"):
            load_pool(write(tmp_path / "p.jsonl", GOOD, GOOD))

    def test_nothing_to_replay(self, tmp_path):
        with pytest.raises(PoolError, match=r"p\.jsonl: no question with samples$"):
            load_pool(write(tmp_path / "p.jsonl", ""))

    def test_truncated_archive(self, tmp_path):
        path = tmp_path / "p.jsonl.gz"
        path.write_bytes(gzip.compress(json.dumps(GOOD).encode())[:-9])
        with pytest.raises(PoolError, match=r"p\.jsonl\.gz: cannot be read after line 0: "):
            load_pool(path)

    def test_no_such_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            load_pool(tmp_path / "none.jsonl")

    def test_questions_are_checked_in_python_too(self):
        with pytest.raises(PoolError, match=r"^question 'q' has 2 answers but 1 token counts$"):
            Question("q", ("A", "B"), frozenset("A"), (1,))
        with pytest.raises(PoolError, match=r"^pool 'p' has no questions$"):
            Pool("p", ())


# ---- recorded from live runs


def is_right(example, prediction):
    return prediction.answer == example.answer


def record_run(model, questions, **options):
    program = DynScaling(
        dspy.ChainOfThought("question -> answer"), budget=BudgetPool(per_call=8, policy=Uniform()), **options
    )
    with dspy.context(lm=model.lm(), num_threads=1):
        return [program(question=question) for question in questions]


def test_a_live_run_becomes_a_pool(tmp_path):
    predictions = record_run(ScriptedModel(cycle("A", "A", "A", "B")), ["one", "two"])
    examples = [dspy.Example(answer="A"), dspy.Example(answer="B")]
    pool = Pool.from_predictions(predictions, examples, is_right, name="mine")
    assert [sorted(question.answers, key=str) for question in pool.questions] == [["A"] * 6 + ["B"] * 2] * 2
    assert [question.right for question in pool.questions] == [{"A"}, {"B"}]
    assert pool.questions[0].tokens == (10,) * 8
    result = replay(pool, ["knowledge_gradient"], budgets=[1, 2, 4], replicates=4)
    assert result.accuracy("uniform", 1) == pytest.approx(0.5, abs=0.4)
    pool.save(tmp_path / "mine.jsonl.gz")
    assert load_pool(tmp_path / "mine.jsonl.gz") == pool


def test_an_answer_without_text_is_named_by_its_type_and_number(tmp_path):
    large = {"A": 10**5000, "B": 10**5001}
    predictions = record_run(ScriptedModel(cycle("A", "B")), ["one"], answer=lambda p: large[p.answer])
    pool = Pool.from_predictions(predictions, [dspy.Example(answer="A")], is_right, name="mine")
    names = ["(int 0 without text)"] * 4 + ["(int 1 without text)"] * 4
    assert sorted(pool.questions[0].answers) == names and len(pool.questions[0].right) == 1
    pool.save(tmp_path / "mine.jsonl")
    assert load_pool(tmp_path / "mine.jsonl") == pool


def test_failed_samples_cast_no_vote():
    with dspy.context(adapter=ASKS_ONCE):
        predictions = record_run(ScriptedModel(cycle("A", ValueError("down"))), ["one"])
    pool = Pool.from_predictions(predictions, [dspy.Example(answer="A")], is_right)
    assert sorted(pool.questions[0].answers, key=str) == ["A"] * 4 + [None] * 4


def test_samples_of_one_sampler_alone():
    predictions = record_run(ScriptedModel(cycle("A", "B")), ["one"], sampling=Parallel(first="greedy"))
    whole, alone = (
        Pool.from_predictions(predictions, [dspy.Example(answer="A")], is_right, sampler=sampler)
        for sampler in (None, "independent")
    )
    assert len(alone.questions[0].answers) == len(whole.questions[0].answers) - 1
    with pytest.raises(PoolError):
        Pool.from_predictions(predictions, [dspy.Example(answer="A")], is_right, sampler="none of them")


def test_samples_that_saw_others_are_left_out_and_counted():
    predictions = record_run(ScriptedModel(cycle("A")), ["one"], sampling=Sequential())
    pool = Pool.from_predictions(predictions, [dspy.Example(answer="A")], is_right)
    assert len(pool.questions[0].answers) + int(pool.skipped[0].split()[2]) == 8
    assert pool.skipped[0].endswith("samples saw earlier ones")


def test_a_call_that_failed_is_named():
    predictions = [*record_run(ScriptedModel(cycle("A")), ["one"]), None]
    pool = Pool.from_predictions(predictions, [dspy.Example(answer="A")] * 2, is_right)
    assert pool.skipped == ("call 1 failed and has no samples",)


def test_nothing_recorded_is_an_error():
    with pytest.raises(PoolError, match=r"^pool 'live' has no questions$"):
        Pool.from_predictions([None], [dspy.Example(answer="A")], is_right)


def test_as_many_examples_as_predictions():
    with pytest.raises(ValueError, match=r"^got 1 predictions but 2 examples$"):
        Pool.from_predictions([None], [1, 2], is_right)

import json
import math
from typing import Literal

import dspy
import pytest

from dynscale_dspy.tuning.examples import Judge, SameAnswer, as_examples, checked_metric, read_examples


class Topic(dspy.Signature):
    """The topic of a title."""

    title: str = dspy.InputField()
    topic: Literal["World", "Sports"] = dspy.OutputField()
    stars: int = dspy.OutputField()


# ---- files


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"title": "x, y", "topic": "World"}\n\n{"title": "z"}\n'),
        ("a.json", '[{"title": "x, y", "topic": "World"}, {"title": "z"}]'),
        ("a.csv", '\ufefftitle,topic\n"x, y",World\nz,\n'),
    ],
)
def test_each_kind_of_file_says_the_same(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_examples(tmp_path / name) == [{"title": "x, y", "topic": "World"}, {"title": "z"}]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "x", r"a\.txt: examples are read from \.jsonl, \.json or \.csv, not from \.txt"),
        ("a.jsonl", '{"a": 1}\n{"a": ', r"a\.jsonl:2: not JSON: "),
        ("a.jsonl", "[1]\n", r"a\.jsonl: example 1 must be an object, got list"),
        ("a.json", '{"a": 1}', r"a\.json: expected a list of objects, got dict"),
        ("a.json", "[]", r"a\.json: no examples in it"),
        ("a.csv", "a,b\n1,2,3\n", r"a\.csv: example 1 has more cells than the first line names columns"),
        ("a.csv", 'a,b\n"1,2\n', r"a\.csv: not CSV: "),
    ],
)
def test_a_file_that_cannot_be_read_says_where(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_examples(tmp_path / name)


def test_a_file_in_another_encoding(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"title\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"a\.csv: not UTF-8: "):
        read_examples(tmp_path / "a.csv")


# ---- inputs


def test_a_signature_tells_the_inputs():
    rows = [{"title": "x", "topic": "World", "id": 1}, dspy.Example(title="y")]
    for program in (dspy.Predict(Topic), dspy.ChainOfThought(Topic)):
        first, second = as_examples(program, rows)
        assert dict(first.inputs()) == {"title": "x"} and dict(first.labels()) == {"topic": "World", "id": 1}
        assert dict(second.inputs()) == {"title": "y"}


def test_the_arguments_of_forward_tell_them_where_there_is_no_signature():
    class Pipeline(dspy.Module):
        def forward(self, title, hint=None, *others, style="plain", **more):
            return dspy.Prediction(topic=title)

    first, second = as_examples(Pipeline(), [{"title": "x", "style": "b", "topic": "a"}, {"title": "y", "hint": "h"}])
    assert dict(first.inputs()) == {"title": "x", "style": "b"}
    assert dict(second.inputs()) == {"title": "y", "hint": "h"}


def test_inputs_that_were_set_stay():
    example = dspy.Example(other="x", topic="World").with_inputs("other")
    assert as_examples(dspy.Predict(Topic), [example]) == [example]


def test_what_cannot_be_called_is_refused():
    with pytest.raises(
        ValueError, match=r"example 1 has no 'title', which is an input of the program: it has \['name'\]"
    ):
        as_examples(dspy.Predict(Topic), [{"title": "x"}, {"name": "y"}])
    with pytest.raises(TypeError, match="examples must be dspy.Example objects or dicts, got str"):
        as_examples(dspy.Predict(Topic), ["x"])

    class Opaque(dspy.Module):
        def forward(self, **inputs):
            return dspy.Prediction(**inputs)

    with pytest.raises(ValueError, match=r"neither a signature nor the arguments of forward\(\) tell the inputs"):
        as_examples(Opaque(), [{"title": "x"}])


# ---- scores


def same(labels, answers, program=None, answer=None):
    example = dspy.Example(title="t", **labels).with_inputs("title")
    return SameAnswer(program or dspy.Predict(Topic), answer)(example, dspy.Prediction(**answers))


def test_answers_are_compared_as_votes_are():
    said = {"topic": "World", "stars": 1000}
    assert same({"topic": "World", "stars": "1,000"}, said) == 1.0  # a cell of CSV is text
    assert same({"topic": "World", "stars": 999}, said) == 0.0
    assert same({"topic": "World"}, said) == 1.0 and same({"stars": "1000.0"}, said) == 1.0  # as far as labelled
    assert same({"topic": "Sports"}, said) == 0.0
    assert same({"topic": "World"}, {"topic": None, "stars": 3}) == 0.0


def test_what_has_no_label_is_not_judged():
    assert same({}, {"topic": "World", "stars": 3}) is None
    assert same({"id": 4}, {"topic": "World", "stars": 3}) is None
    assert SameAnswer(dspy.Predict(Topic))(dspy.Example(title="t").with_inputs("title"), "text") is None


def test_the_answer_that_the_module_names_is_compared():
    said = {"topic": "World", "stars": 3}
    assert same({"topic": "World", "stars": 4}, said, answer="topic") == 1.0
    assert same({"topic": "World", "stars": 4}, said, answer=["topic", "stars"]) == 0.0
    assert same({"topic": "x", "stars": 5}, said, answer=lambda prediction: prediction.stars % 2) == 1.0
    assert same({"topic": "World"}, said, answer=lambda prediction: prediction.stars) is None


def test_reasoning_and_asides_are_no_answer():
    program = dspy.ChainOfThought("title -> topic, confidence: float")
    said = {"reasoning": "b", "topic": "World", "confidence": 0.3}
    assert same({"reasoning": "a", "topic": "World", "confidence": 0.9}, said, program) == 1.0
    assert same({"reasoning": "b"}, said, program) is None


def test_a_judge_gives_numbers():
    judge = Judge(lambda example, prediction: prediction.good)
    assert judge(dspy.Example(), dspy.Prediction(good=True)) == 1.0
    assert judge(dspy.Example(), dspy.Prediction(good=dspy.Prediction(score=0.5))) == 0.5
    assert math.isnan(judge(dspy.Example(), dspy.Prediction(good=None)))
    assert judge(dspy.Example(), None) == 0.0  # the program failed
    assert judge(dspy.Example(), dspy.Prediction(bad=1)) == 0.0  # the metric failed
    judge.raise_if_useless()


def test_a_run_that_failed_is_wrong_where_there_is_a_label():
    judge = Judge(SameAnswer(dspy.Predict(Topic)))
    assert judge(dspy.Example(title="t", topic="World").with_inputs("title"), None) == 0.0
    for labels in ({}, {"id": 3}, {"topic": ""}):
        assert math.isnan(judge(dspy.Example(title="t", **labels).with_inputs("title"), None))
    judge = Judge(SameAnswer(dspy.Predict(Topic), lambda prediction: prediction.stars))
    assert judge(dspy.Example(title="t", stars=3).with_inputs("title"), None) == 0.0
    assert math.isnan(judge(dspy.Example(title="t", topic="World").with_inputs("title"), None))


def test_scores_are_finite():
    judge = Judge(lambda example, prediction: float("inf"))
    assert judge(dspy.Example(), dspy.Prediction(answer="x")) == 0.0
    with pytest.raises(ValueError, match=r"^metric must give a finite number, got inf$"):
        judge.raise_if_useless()
    assert math.isnan(Judge(lambda example, prediction: float("nan"))(dspy.Example(), dspy.Prediction(answer="x")))


def test_a_metric_that_always_fails_is_raised():
    judge = Judge(lambda example, prediction: prediction.nothing)
    judge.raise_if_useless()
    judge(dspy.Example(), dspy.Prediction(answer="x"))
    with pytest.raises(AttributeError, match="nothing"):
        judge.raise_if_useless()


def test_a_metric_is_looked_at_before_it_is_used():
    def full(gold, pred, trace=None, pred_name=None, pred_trace=None):
        return True

    assert checked_metric(full) is full and checked_metric(max) is max
    with pytest.raises(TypeError, match="metric must be a function of an example and a prediction, got 'exact'"):
        checked_metric("exact")
    with pytest.raises(TypeError, match="metric must take an example and a prediction: too many positional arguments"):
        checked_metric(lambda prediction: True)


def test_examples_of_files_are_plain_values(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"title": "t", "topic": "World", "stars": 3}), encoding="utf-8")
    (example,) = as_examples(dspy.Predict(Topic), read_examples(path))
    assert example.inputs().keys() == ["title"]

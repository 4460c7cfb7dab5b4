"""Samples with scores: from a program to a file, to a replay."""

from __future__ import annotations

import datetime
import json
import logging
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import dspy
import pydantic
import pytest

from dynscale_dspy import DynScaling
from dynscale_dspy.cli import main
from dynscale_dspy.replay.lines import PoolError
from dynscale_dspy.replay.outputs import load_scored_pool
from dynscale_dspy.replay.scored import replay_scores, selectors_for
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.tuning import record
from dynscale_dspy.tuning.recording import as_json
from tests.support import ScriptedModel

EXAMPLES = [{"text": f"text {number}"} for number in range(6)]
SUMMARIES = ["the bridge is new {n}", "the bridge is new and red {n}", "the red bridge is new {n}", "rain {n}"]


def model(name: str, values: list[Any]) -> ScriptedModel:
    def reply(prompt: str, number: int) -> dict[str, Any]:
        value = values[number % len(values)]
        return {name: value.format(n=number) if isinstance(value, str) else json.dumps(value)}

    return ScriptedModel(reply)


def about_bridges(example: Any, prediction: Any) -> float:
    return ("bridge" in prediction.summary) / 2 + ("red" in prediction.summary) / 2


def test_from_a_program_to_a_table(tmp_path: Any, capsys: Any) -> None:
    path = tmp_path / "mine.jsonl.gz"
    with dspy.context(lm=model("summary", SUMMARIES).lm()):
        pool = record(dspy.Predict("text -> summary"), EXAMPLES, about_bridges, path, num_threads=1)
    assert load_scored_pool(path) == pool and pool.name == "mine"
    assert [len(question.samples) for question in pool.questions] == [8] * 6
    for question in pool.questions:
        for said, score in zip(question.samples, question.scores, strict=True):
            assert score == ("bridge" in said) / 2 + ("red" in said) / 2
    assert main(["replay", str(path)]) == 0
    table = capsys.readouterr().out
    assert table.startswith("mine: score in % by average samples a question") and "medoid, words; uniform" in table
    assert table.splitlines()[1].split() == ["2", "4", "8"] and max(map(len, table.splitlines())) < 140
    rows = {row.selector: row.score for row in replay_scores(pool, {"m": Medoid()}, policies=["uniform"], budgets=[8])}
    assert rows["m"] > rows["random"] + 0.1


class City(pydantic.BaseModel):
    name: str
    founded: datetime.date
    kind: Literal["town", "city"] = "town"


CITY = {"name": "Bern", "founded": "1191-01-01", "kind": "city"}
SIGNATURE: Any = dspy.Signature
TYPES = [
    ("text -> answer: list[str]", [["a", "b"], ["a"]], [["a", "b"], ["a"]], "medoid, elements"),
    ("text -> answer: int", [1, 2], [1, 2], "numbers"),
    ("text -> answer: dict[str, int]", [{"a": 1}], [{"a": 1}], "field by field"),
    ("text -> answer: Literal['x', 'y']", ["x", "y"], ["x", "y"], "plurality"),
    (
        SIGNATURE({"text": (str, dspy.InputField()), "answer": (City, dspy.OutputField())}),
        [CITY],
        [CITY],
        "field by field",
    ),
    (
        SIGNATURE({"text": (str, dspy.InputField()), "answer": (dspy.Code["python"], dspy.OutputField())}),
        ["x = 1", "x = 2"],
        ["x = 1", "x = 2"],
        "medoid, characters",
    ),
]


@pytest.mark.parametrize(("signature", "values", "kept", "rule"), TYPES)
def test_outputs_of_any_type_come_back_from_the_file(
    signature: Any, values: Any, kept: Any, rule: str, tmp_path: Any
) -> None:
    path = tmp_path / "mine.jsonl"
    program = DynScaling(dspy.Predict(signature), 3, min_confidence=1.0)  # what is drawn is not for its votes
    with dspy.context(lm=model("answer", values).lm()):
        record(program, EXAMPLES[:2], lambda example, prediction: 1.0, path, samples=4)
    pool = load_scored_pool(path)
    assert all(said in kept for question in pool.questions for said in question.samples)
    assert rule in selectors_for(pool)
    assert len(replay_scores(pool, selectors_for(pool), budgets=[2], replicates=2)) > 2


def test_several_outputs_are_one_record_and_none_is_no_output() -> None:
    replies = [{"label": "a", "gist": "b"}, "prose", {"label": "a", "gist": "c"}]
    scripted = ScriptedModel(lambda prompt, number: {})
    scripted.reply = lambda prompt, number: replies[number % 3]  # type: ignore[method-assign]
    bare = dspy.ChatAdapter(use_json_adapter_fallback=False)
    with dspy.context(lm=scripted.lm(), adapter=bare):
        pool = record(dspy.Predict("text -> label, gist"), EXAMPLES[:2], lambda e, p: p.label == "a", samples=3)
    said = [sample for question in pool.questions for sample in question.samples]
    assert {"label": "a", "gist": "b"} in said and None in said
    scores = [score for question in pool.questions for score in question.scores]
    assert [score for each, score in zip(said, scores, strict=True) if each is None] == [0.0] * said.count(None)


def test_by_default_the_label_is_right() -> None:
    examples = [{"text": "t", "answer": "red"}, {"text": "u"}]
    with dspy.context(lm=model("answer", ["Red", "blue"]).lm()):
        pool = record(dspy.Predict("text -> answer"), examples, samples=4, num_threads=1)
    (question,) = pool.questions
    assert question.scores == tuple(float(said == "Red") for said in question.samples)
    assert pool.skipped == ("example 1: the metric cannot judge it",)
    with dspy.context(lm=model("answer", ["Red"]).lm()), pytest.raises(PoolError, match="has no questions"):
        record(dspy.Predict("text -> answer"), [{"text": "t"}])


def test_scores_of_another_range_become_shares_of_it(caplog: Any) -> None:
    stars = {"a": 5, "b": 1, "c": -1}
    with dspy.context(lm=model("answer", list(stars)).lm()), caplog.at_level(logging.WARNING, "dynscale_dspy"):
        pool = record(dspy.Predict("text -> answer"), EXAMPLES[:3], lambda e, p: stars[p.answer], samples=3)
    found = {score for question in pool.questions for score in question.scores}
    assert found <= {1.0, 2 / 6, 0.0} and "scores from -1 to 5: recorded are shares of that range" in caplog.text


def test_errors_are_the_programs_and_the_metrics() -> None:
    failing = ScriptedModel(lambda prompt, number: ConnectionError("line is down"))
    with dspy.context(lm=failing.lm()), pytest.raises(Exception, match="line is down"):
        record(dspy.Predict("text -> answer"), EXAMPLES[:2], lambda e, p: 1.0)
    with dspy.context(lm=model("answer", ["a"]).lm()), pytest.raises(KeyError):
        record(dspy.Predict("text -> answer"), EXAMPLES[:2], lambda e, p: {}["nothing"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"path": "mine.json"}, ValueError, r"^path must end in .jsonl or .jsonl.gz, got 'mine.json'$"),
        ({"path": "nowhere/mine.jsonl"}, ValueError, "there is no folder .*nowhere to write mine.jsonl to"),
        ({"samples": 1}, ValueError, "samples must be at least 2"),
        ({"metric": 3}, TypeError, "metric must be a function"),
        ({"examples": []}, ValueError, "examples is empty"),
        ({"examples": [{"question": "q"}]}, ValueError, "has no 'text'"),
        ({"program": len}, TypeError, "program must be a dspy.Module"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_spent(options: Any, error: Any, message: str) -> None:
    scripted = model("answer", ["a"])
    arguments = {"program": dspy.Predict("text -> answer"), "examples": EXAMPLES, **options}
    with dspy.context(lm=scripted.lm()), pytest.raises(error, match=message):
        record(**arguments)
    assert not scripted.requests


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: float
    colour: Colour


def test_values_of_any_kind_are_json() -> None:
    told = as_json([Point(1.5, Colour.RED), (1, None), frozenset({2, 1}), datetime.date(2020, 1, 2), b"x", {3: True}])
    assert told == [{"x": 1.5, "colour": "red"}, [1, None], [1, 2], "2020-01-02", "b'x'", {"3": True}]
    assert json.loads(json.dumps(told)) == told

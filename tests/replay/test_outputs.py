"""Files of recorded outputs with scores."""

from __future__ import annotations

import gzip
import json

import pytest

from dynscale_dspy.replay.lines import PoolError
from dynscale_dspy.replay.outputs import Outputs, ScoredPool, is_scored, load_scored_pool


def outputs(name, samples, good):
    """Outputs of which those that are in ``good`` score 1."""
    return Outputs(name, tuple(samples), tuple(float(sample in good) for sample in samples))


def test_a_file_holds_outputs_of_any_type(tmp_path):
    path = tmp_path / "mine.jsonl.gz"
    rows = [
        {"id": 1, "samples": ["x", None, ["y"], {"z": 1}], "scores": [1, 0, 0.5, 0.25], "kind": "mixed"},
        {"id": 2, "samples": [], "scores": []},
    ]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    pool = load_scored_pool(path)
    assert pool.name == "mine" and pool.questions[0].scores == (1, 0, 0.5, 0.25)
    assert pool.questions[0].samples == ("x", None, ["y"], {"z": 1}) and len(pool.skipped) == 1
    assert is_scored(path)
    path.with_name("votes.jsonl").write_text('{"id": 1, "answers": ["x"], "gold": "x"}', encoding="utf-8")
    assert not is_scored(path.with_name("votes.jsonl"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "1: not JSON"),
        ("[]", "1: expected an object, got list"),
        ('{"id": 1, "samples": []}', "1: no 'scores'"),
        ('{"id": [], "samples": [], "scores": []}', "1: 'id' must be a string"),
        ('{"id": 1, "samples": "x", "scores": []}', "1: 'samples' must be a list, got str"),
        ('{"id": 1, "samples": ["x"], "scores": [2]}', "1: 'scores' must hold numbers from 0 to 1, got 2"),
        ('{"id": 1, "samples": ["x"], "scores": []}', "1: 1 samples but 0 'scores'"),
        ('{"id": 1, "samples": [], "scores": []}', "no question with samples"),
        (
            '{"id": 1, "samples": [1], "scores": [1]}\n{"id": "1", "samples": [1], "scores": [1]}',
            "2: question '1' is on line 1",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_by_line(tmp_path, line, words):
    path = tmp_path / "bad.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(PoolError, match=words):
        load_scored_pool(path)


def test_outputs_without_a_score_each_and_questions_twice_are_refused():
    with pytest.raises(PoolError, match="has 2 samples but 1 scores"):
        Outputs("q", ("a", "b"), (1.0,))
    with pytest.raises(PoolError, match="no samples"):
        Outputs("q", (), ())
    with pytest.raises(PoolError, match="twice"):
        ScoredPool("p", (outputs("q", "ab", "a"), outputs("q", "ab", "a")))
    with pytest.raises(PoolError, match="no questions"):
        ScoredPool("p", ())

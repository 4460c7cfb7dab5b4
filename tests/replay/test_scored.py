"""Recorded outputs with scores: rules of winning and policies replayed over them."""

from __future__ import annotations

import gzip
import itertools
import json
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynscale_dspy import UCB
from dynscale_dspy.replay.lines import PoolError
from dynscale_dspy.replay.scored import BOUNDS, Outputs, ScoredPool, is_scored, load_scored_pool, replay_scores
from dynscale_dspy.selection.plurality import Plurality

RULE = {"plurality": Plurality()}


def outputs(name, samples, good):
    """Outputs of which those that are in ``good`` score 1."""
    return Outputs(name, tuple(samples), tuple(float(sample in good) for sample in samples))


QUESTION = st.lists(st.sampled_from("abc"), min_size=4, max_size=8)


@given(
    st.lists(QUESTION, min_size=1, max_size=6),
    st.integers(1, 4),
    st.sampled_from(["uniform", "knowledge_gradient", "ucb"]),
)
@settings(max_examples=40)
def test_no_rule_is_above_the_best_sample_and_a_single_sample_is_a_random_one(questions, budget, policy):
    pool = ScoredPool("p", tuple(outputs(str(i), samples, "a") for i, samples in enumerate(questions)))
    rows = {row.selector: row for row in replay_scores(pool, RULE, policies=[policy], budgets=[budget], replicates=3)}
    assert rows["random"].gain == 0 <= rows["best of all"].gain
    if "plurality" in rows and policy == "uniform":
        assert rows["plurality"].score <= max(map(max, (q.scores for q in pool.questions)))
    for row in rows.values():
        assert row.low - 1e-9 <= row.gain <= row.high + 1e-9 and 0 <= row.score <= 1


@given(QUESTION, st.integers(1, 4))
@settings(max_examples=30)
def test_over_all_draws_the_best_and_the_vote_are_as_counted_by_hand(samples, budget):
    pool = ScoredPool("p", (outputs("q", samples, "ab"),))
    rows = {row.selector: row.score for row in replay_scores(pool, RULE, policies=["uniform"], budgets=[budget])}
    draws = list(itertools.combinations(samples, budget))
    assert rows["best of all"] == pytest.approx(statistics.fmean(any(s in "ab" for s in draw) for draw in draws))
    assert rows["random"] == pytest.approx(statistics.fmean(s in "ab" for s in samples))
    if budget == 1:
        assert 0 <= rows["plurality"] <= 1
    if budget == len(samples) and samples.count("a") > len(samples) / 2:
        assert rows["plurality"] == 1


def test_a_bandit_gains_where_some_questions_are_contested_and_others_are_not():
    easy = [outputs(f"easy {i}", "a" * 20, "a") for i in range(12)]
    hard = [outputs(f"hard {i}", "aab" * 7, "a") for i in range(12)]
    rows = replay_scores(ScoredPool("p", (*easy, *hard)), RULE, budgets=[4, 9], replicates=30)
    score = {(row.policy, row.budget): row.score for row in rows}
    assert score["knowledge_gradient", 4] > score["uniform", 4] + 0.02
    assert score["knowledge_gradient", 9] > score["uniform", 9] + 0.02


def test_budgets_beyond_what_was_recorded_are_left_out():
    pool = ScoredPool("p", (outputs("q", "aabb", "a"), outputs("r", "aaaaaa", "a")))
    rows = replay_scores(pool, RULE, budgets=[2, 3, 4, 5])
    assert {row.budget for row in rows if row.policy == "uniform"} == {2, 3, 4}
    assert {row.budget for row in rows if row.policy == "knowledge_gradient"} == {2}  # half of what the first has
    assert {row.budget for row in rows if row.selector in BOUNDS} == {2, 3, 4}


def test_a_policy_that_explores_and_samples_without_an_output_are_replayed_too():
    pool = ScoredPool(
        "p", (Outputs("q", (None, "a", None, "a", "b", None), (0, 1, 0, 1, 0, 0)), outputs("r", "ab" * 3, "a"))
    )
    found = replay_scores(pool, RULE, policies=[UCB()], budgets=[2, 3], replicates=5)
    assert [row.budget for row in found if row.selector == "plurality"] == [2, 3]


def test_several_fields_vote_together():
    pool = ScoredPool("p", (Outputs("q", ({"x": 1}, {"x": 1}, {"x": 2}, {"x": 1}), (1, 1, 0, 1)),))
    assert {row.score for row in replay_scores(pool, RULE, budgets=[4]) if row.selector == "plurality"} == {1.0}


def test_a_seed_makes_it_repeat_itself():
    pool = ScoredPool("p", tuple(outputs(str(i), "aabcab", "a") for i in range(5)))
    assert replay_scores(pool, RULE, seed=3) == replay_scores(pool, RULE, seed=3)
    assert replay_scores(pool, RULE, seed=3, replicates=2) != replay_scores(pool, RULE, seed=4, replicates=2)


@pytest.mark.parametrize(
    ("options", "words"), [({"budgets": [0]}, "budgets must be at least 1"), ({"replicates": 0}, "replicates must be")]
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        replay_scores(ScoredPool("p", (outputs("q", "ab", "a"),)), RULE, **options)


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
